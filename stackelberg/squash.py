"""Boxes as images of unbounded space: where Gaussians are drawn, and their densities inside."""

import math

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from stackelberg.errors import InputError

EDGE = 1e-6  # of the half-width: an action nearer to a bound than this counts as so near


class Squash:
    """a = centre + half tanh(u) where the Box is bounded, a = u where it is not.

    Args:
        space: a Box [k], each dimension with two finite bounds or with none.

    Raises:
        InputError: for another space.
    """

    def __init__(self, space: spaces.Space) -> None:
        if not isinstance(space, spaces.Box) or len(space.shape) != 1 or not _fits(space):
            raise InputError(
                "a Box [k], each dimension with two finite bounds or with none",
                f"{space!r}",
                "give it both bounds, or neither",
            )
        low, high = (torch.from_numpy(bound).double() for bound in (space.low, space.high))
        self.bounded = torch.isfinite(low)
        self.centre = torch.where(self.bounded, (low + high) / 2, 0.0)
        self.half = torch.where(self.bounded, (high - low) / 2, 1.0)
        self.size = space.shape[0]

    def outward(self, inner: Tensor) -> Tensor:
        """a [..., k] in float64 from u [..., k]."""
        inner = inner.double()
        return self.centre + self.half * torch.where(self.bounded, torch.tanh(inner), inner)

    def inward(self, action: Tensor) -> Tensor:
        """u [..., k] from a [..., k]."""
        unit = (action.double() - self.centre) / self.half
        inside = torch.atanh(unit.clamp(EDGE - 1, 1 - EDGE))
        return torch.where(self.bounded, inside, unit)

    def log_slope(self, inner: Tensor) -> Tensor:
        """log |da/du| [...], which a density of u is less by to be one of a."""
        flat = 2 * (math.log(2) - inner - torch.nn.functional.softplus(-2 * inner))
        return (torch.where(self.bounded, flat, 0.0) + self.half.log()).sum(-1)

    def log_density(self, action: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
        """log f(a) [...] of a = outward(u), u ~ N(mean, std^2), in the units of a."""
        inner = self.inward(action)
        return gaussian(inner, mean, log_std) - self.log_slope(inner)


def gaussian(inner: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """log N(inner; mean, diag(std^2)) [...] of [..., k]."""
    miss = (inner - mean) / log_std.exp()
    return (-0.5 * miss**2 - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)


def _fits(space: spaces.Box) -> bool:
    below, above = np.isfinite(space.low), np.isfinite(space.high)
    return bool((below == above).all() and (~below | (space.low < space.high)).all())
