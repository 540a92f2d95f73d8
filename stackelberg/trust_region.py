"""Leader steps of a given length, measured as the KL by which the leader moves."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

GROW, SHRINK = 2.0, 0.25  # of the radius: on while the gradient agrees with the last step, or not
SMALLEST = 1e-10
CORRECTIONS = 4


class TrustRegion:
    """Steps along the gradient, as long as the radius allows, for M leaders at once.

    A hypergradient's direction can be trusted more than its size: where the follower's response is
    flat the objective is nearly flat, then falls off a cliff. So each step goes along the gradient
    until KL(old || new) = radius; the radius doubles while the next gradient still points along the
    step just made and is quartered when it points back.

    Args:
        parameters: of the leader, each with leading dimension M.
        radius: first radius in nats. limit: largest.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], radius: float, limit: float) -> None:
        self.parameters = list(parameters)
        leaders = len(self.parameters[0])
        self.radius = torch.full((leaders,), radius, dtype=torch.float64)
        self.limit = limit
        self.last = [torch.zeros_like(p, dtype=torch.float64) for p in self.parameters]

    @torch.no_grad()
    def step(
        self,
        gradient: Sequence[Tensor],
        position: Callable[[], Tensor],
        floor: Tensor | float = 0.0,
    ) -> None:
        """Move the parameters.

        Args:
            gradient: of the objective, one tensor a parameter.
            position: function of no arguments giving the leader's log-probabilities [M, n, K].
            floor: a gradient no longer than this, [M] or one for all, is rounding error: stay.
        """
        gradient = [g.to(torch.float64) for g in gradient]
        agreement = inner(gradient, self.last)
        factor = torch.where(agreement > 0, GROW, torch.where(agreement < 0, SHRINK, 1.0))
        self.radius = (self.radius * factor).clamp(SMALLEST, self.limit)
        norm = inner(gradient, gradient).sqrt()
        moving = norm > floor
        inverse = torch.where(moving, 1 / torch.where(moving, norm, 1.0), 0.0)
        direction = [scale(g, inverse) for g in gradient]
        start = [p.detach().clone() for p in self.parameters]
        before = position()
        length = (2 * self.radius).sqrt()
        for correction in range(CORRECTIONS + 1):
            for p, origin, d in zip(self.parameters, start, direction, strict=True):
                p.copy_(origin + scale(d, length))
            if correction < CORRECTIONS:
                moved = divergence(before, position())
                ratio = (self.radius / moved.clamp(min=1e-300)).sqrt().clamp(0.05, 20.0)
                length = length * torch.where(moving, ratio, 1.0)
        self.last = [scale(d, length) for d in direction]

    def state(self) -> dict[str, Tensor]:
        return {"radius": self.radius} | {f"last.{i}": step for i, step in enumerate(self.last)}

    def load(self, state: dict[str, Tensor]) -> None:
        self.radius = state["radius"]
        self.last = [state[f"last.{i}"] for i in range(len(self.last))]


def divergence(old: Tensor, new: Tensor) -> Tensor:
    """max over n of KL(old || new), [M], of log-probabilities [M, n, K]."""
    return (old.exp() * (old - new)).sum(-1).amax(-1)


def inner(left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
    """Inner products [M] of two lists of tensors [M, ...]."""
    products = [(x * y).flatten(1).sum(1) for x, y in zip(left, right, strict=True)]
    return torch.stack(products).sum(0)


def scale(tensor: Tensor, factor: Tensor) -> Tensor:
    """tensor [M, ...] times factor [M]."""
    return tensor * factor.view(-1, *[1] * (tensor.dim() - 1))
