"""Actions as numbers, quadratic features of them, and the nodes that stand for Gaussians."""

from collections.abc import Sequence

import torch
from gymnasium import spaces
from torch import Tensor

from stackelberg.squash import Squash


class Code:
    """A player's actions as numbers: one-hot, in standard units, or none at all.

    Args:
        space: Discrete or Box, or None for a design, which is the same in all steps.

    Raises:
        InputError: for another space.
    """

    def __init__(self, space: spaces.Space | None) -> None:
        self.squash: Squash | None = None
        self.discrete = isinstance(space, spaces.Discrete)
        if isinstance(space, spaces.Discrete):
            self.width = self.outputs = int(space.n)
        elif space is None:
            self.width = self.outputs = 0
        else:
            self.squash = Squash(space)
            self.width = self.squash.size
            self.outputs = 2 * self.width
        self._mean = self._std = torch.zeros(1)

    def measure(self, actions: Tensor) -> None:
        """Take the units from actions [M, n, k]."""
        if self.squash is None:
            return
        self._mean = actions.double().mean(1)
        std = actions.double().std(1, correction=0)
        self._std = torch.where(std > 1e-6 * self._mean.abs(), std, 1.0)

    def __call__(self, action: Tensor) -> Tensor:
        """[.., k] of actions [M, .., k], or of indices [M, ..]."""
        if self.discrete:
            return torch.nn.functional.one_hot(action, self.width).double()
        if not self.width:
            return torch.zeros(*_design_shape(action), 0, dtype=torch.float64)
        shape = len(self._mean), *[1] * (action.dim() - 2), self.width
        return (action.double() - self._mean.view(shape)) / self._std.view(shape)


def _design_shape(action: Tensor) -> Sequence[int]:
    """[M, n, J] of designs [M, n, J, d], and [M, n] of the zeros that stand for them in play."""
    return action.shape[:-1] if action.is_floating_point() else action.shape


def quadratic(z: Tensor) -> Tensor:
    """1, z and all products of two of z, [.., (d + 1)(d + 2) / 2]."""
    z = torch.cat([torch.ones_like(z[..., :1]), z], -1)
    first, second = torch.triu_indices(z.shape[-1], z.shape[-1]).unbind()
    return z[..., first] * z[..., second]


def nodes(size: int) -> tuple[Tensor, Tensor]:
    """Points [L, size] and odds [L] of a quadrature of N(0, I).

    Gauss-Hermite with 3 nodes in each of up to 3 dimensions, exact to degree 5; of more, the 2 size
    points +- sqrt(size) e_i, exact to degree 3.
    """
    if size > 3:
        points = torch.eye(size, dtype=torch.float64) * size**0.5
        return torch.cat([points, -points]), torch.full((2 * size,), 0.5 / size).double()
    line = torch.tensor([-(3**0.5), 0.0, 3**0.5], dtype=torch.float64)
    odds = torch.tensor([1 / 6, 2 / 3, 1 / 6], dtype=torch.float64)
    points = torch.cartesian_prod(*[line] * size).view(-1, size)
    weights = torch.cartesian_prod(*[odds] * size).view(-1, size)
    return points, weights.prod(-1)
