"""Leader steps of a given length, measured as the KL by which the leader moves."""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from stackelberg.errors import InputError

GROW, SHRINK = 2.0, 0.25  # of the radius: on while the gradient agrees with the last step, or not
SMALLEST = 1e-6  # radius: where noise alone turns the gradient, still a step that leads on
SLACK = 0.01  # how far from the radius, relative to it, a step may end
CORRECTIONS = 4  # guesses of the length; after them any length that stays inside will do
ATTEMPTS = 40  # to find one
LONGEST = 3.0  # by which a parameter may change, where no length would reach the radius


class Geometry(Protocol):
    """What a leader's position [.., K] says of it: distances, and how they begin."""

    def divergence(self, old: Tensor, new: Tensor) -> Tensor:
        """KL(old || new) [..] of positions [.., K]."""
        ...

    def weights(self, position: Tensor) -> Tensor:
        """w [.., K] with KL = sum_k w_k dp_k^2 / 2 for small moves dp: the Fisher information."""
        ...


class Categorical:
    """Log-probabilities: KL = sum_k p_k log(p_k / q_k)."""

    @staticmethod
    def divergence(old: Tensor, new: Tensor) -> Tensor:
        return (old.exp() * (old - new)).sum(-1)

    @staticmethod
    def weights(position: Tensor) -> Tensor:
        return position.exp()


class Gaussian:
    """Means, then log standard deviations: KL of independent Gaussians."""

    @staticmethod
    def divergence(old: Tensor, new: Tensor) -> Tensor:
        (mean, log_std), (other, other_std) = old.chunk(2, -1), new.chunk(2, -1)
        apart = ((2 * (log_std - other_std)).exp() - 1) / 2 - (log_std - other_std)
        return (apart + ((mean - other) / other_std.exp()) ** 2 / 2).sum(-1)

    @staticmethod
    def weights(position: Tensor) -> Tensor:
        log_std = position.chunk(2, -1)[1]
        return torch.cat([(-2 * log_std).exp(), torch.full_like(log_std, 2.0)], -1)


CATEGORICAL, GAUSSIAN = Categorical(), Gaussian()


def geometry_of(leader: object) -> Geometry:
    """The leader's own `geometry`, or that of log-probabilities."""
    found: Geometry = getattr(leader, "geometry", CATEGORICAL)
    return found


class TrustRegion:
    """Steps along the gradient, as long as the radius allows, for M leaders at once.

    A hypergradient's direction can be trusted more than its size: where the follower's response is
    flat the objective is nearly flat, then falls off a cliff. So each step goes along the gradient
    until KL(old || new) = radius, never beyond; the radius doubles while the next gradient still
    points along the step just made and is quartered when it points back.

    Where a leader's parameters fall into rows that act apart (the states of a table), every row has
    a radius of its own, as every parameter has a step of its own in Rprop (Riedmiller and Braun,
    1993): a cliff in one state does not hold the others back.

    Args:
        parameters: of the leader, each with leading dimension M.
        radius: first radius in nats. limit: largest.
        rows: R, how many independent rows each parameter [M, R, ...] has; 1 if it has none.
        geometry: how far apart the leader's positions are.
        smallest: radius.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        radius: float,
        limit: float,
        rows: int = 1,
        geometry: Geometry = CATEGORICAL,
        smallest: float = SMALLEST,
    ) -> None:
        self.rows, self.limit, self.smallest, self.geometry = rows, limit, smallest, geometry
        units = len(parameters[0]) * rows
        self.leaves = list(parameters)
        self.parameters = [p.detach().view(units, -1) for p in parameters]  # shares their memory
        self.radius = torch.full((units,), radius, dtype=torch.float64)
        self.last = [torch.zeros_like(p, dtype=torch.float64) for p in self.parameters]

    @property
    def largest(self) -> Tensor:
        """Every leader's largest radius, [M]."""
        return self.radius.view(-1, self.rows).amax(1)

    def by_unit(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """A tensor for each parameter [M, R, ...] as [M R, ...]: a row for all that acts apart."""
        return [x.reshape(len(x) * self.rows, -1) for x in tensors]

    def step(
        self,
        gradient: Sequence[Tensor],
        position: Callable[[], Tensor],
        floor: Tensor | float = 0.0,
    ) -> None:
        """Move the parameters along the gradient.

        Args:
            gradient, floor: see `judge`. position: see `advance`.
        """
        self.advance(self.judge(gradient, floor), position)

    @torch.no_grad()
    def judge(self, gradient: Sequence[Tensor], floor: Tensor | float = 0.0) -> list[Tensor]:
        """Let the radius grow or shrink, as the gradient agrees with the last step or not.

        Args:
            gradient: of the objective, one tensor a parameter.
            floor: a gradient no longer than this, [M] or one for all, is rounding error: stay.

        Returns: the gradient by unit [M R, ...], 0 where it is rounding error.

        Raises:
            InputError: if the gradient is not finite; no radius has changed then.
        """
        gradient = self.by_unit([g.to(torch.float64) for g in gradient])
        if isinstance(floor, Tensor):
            floor = floor.repeat_interleave(self.rows)
        size = norm(gradient)
        if not torch.isfinite(size).all():
            raise InputError(
                "a finite gradient",
                f"one of length {size.tolist()}",
                "check the scale of rewards against the temperature",
            )
        agreement = inner(gradient, self.last)
        factor = torch.where(agreement > 0, GROW, torch.where(agreement < 0, SHRINK, 1.0))
        self.radius = (self.radius * factor).clamp(self.smallest, self.limit)
        return [torch.where((size > floor).unsqueeze(-1), g, 0.0) for g in gradient]

    @torch.no_grad()
    def advance(
        self,
        direction: Sequence[Tensor],
        position: Callable[[], Tensor],
        furthest: Tensor | float = torch.inf,
    ) -> None:
        """Move the parameters along a direction until the radius is reached.

        Args:
            direction: by unit [M R, ...], of any length; stay where it is 0.
            position: function of no arguments giving the leader's position [M, n, K], where n is
                a multiple of R.
            furthest: Euclidean length [M R] beyond which not to go in any case.
        """
        size = norm(direction)
        moving = size > 0
        inverse = torch.where(moving, 1 / torch.where(moving, size, 1.0), 0.0)
        direction = [scale(d, inverse) for d in direction]
        start = self.snapshot()

        def place(length: Tensor) -> None:
            self.place([p + scale(d, length) for p, d in zip(start, direction, strict=True)])

        def placed() -> Tensor:
            found = position()
            return found.reshape(len(size), -1, found.shape[-1])

        before = placed()

        def moved(length: Tensor) -> Tensor:
            place(length)
            return divergence(before, placed(), self.geometry)

        largest = torch.stack([d.abs().flatten(1).amax(1) for d in direction]).amax(0)
        longest = (LONGEST / torch.where(moving, largest, 1.0)).clamp(max=furthest)
        length = _length(moved, self.radius, longest, ~moving)
        place(length)
        self.last = [scale(d, length) for d in direction]

    def snapshot(self) -> list[Tensor]:
        """The parameters by unit, copied."""
        return [p.clone() for p in self.parameters]

    @torch.no_grad()
    def place(self, values: Sequence[Tensor]) -> None:
        """Set the parameters, given by unit."""
        for p, value in zip(self.parameters, values, strict=True):
            p.copy_(value)

    @torch.no_grad()
    def retreat(self, origin: Sequence[Tensor], which: Tensor, share: float = SHRINK) -> None:
        """Go back on the last step, all but a share of it; the radius shrinks as much.

        Args:
            origin: the parameters by unit before the step. which: leaders [M] bool.
        """
        kept = torch.where(which.repeat_interleave(self.rows), share, 1.0)
        self.place(
            [q + scale(p - q, kept.to(p)) for p, q in zip(self.parameters, origin, strict=True)]
        )
        self.last = [scale(step, kept) for step in self.last]
        self.radius = (self.radius * kept).clamp(min=self.smallest)

    def state(self) -> dict[str, Tensor]:
        return {"radius": self.radius} | {f"last.{i}": step for i, step in enumerate(self.last)}

    def load(self, state: dict[str, Tensor]) -> None:
        self.radius = state["radius"]
        self.last = [state[f"last.{i}"] for i in range(len(self.last))]


def _length(
    moved: Callable[[Tensor], Tensor], radius: Tensor, longest: Tensor, settled: Tensor
) -> Tensor:
    """The length [M] at which `moved` is `radius`, or one below; 0 if there is none.

    KL grows with the square of a short length: every guess is corrected by that, inside the
    bracket that the guesses before it have left. One leader's search does not touch another's.
    """
    length = (2 * radius).sqrt().minimum(longest)
    inside, outside = torch.zeros_like(length), torch.full_like(length, torch.inf)
    for attempt in range(ATTEMPTS):
        divergence = moved(length)
        fits = divergence <= (1 + SLACK) * radius
        inside = torch.where(fits, length, inside)
        outside = torch.where(fits, outside, length)
        done = (divergence >= (1 - SLACK) * radius) | (length >= longest)
        settled = settled | (fits & done)
        if attempt >= CORRECTIONS:
            settled = settled | (inside > 0)
        if settled.all():
            break
        ratio = (radius / divergence.clamp(min=1e-300)).sqrt().clamp(0.05, 20.0)
        guess = length * ratio
        middle = torch.where(inside > 0, (inside * outside).sqrt(), outside / 20)
        guess = torch.where((guess > inside) & (guess < outside), guess, middle)
        length = torch.where(settled, inside, guess.minimum(longest))
    return inside


def divergence(old: Tensor, new: Tensor, geometry: Geometry = CATEGORICAL) -> Tensor:
    """max over n of KL(old || new), [M], of positions [M, n, K]."""
    return geometry.divergence(old, new).amax(-1)


def inner(left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
    """Inner products [M] of two lists of tensors [M, ...]."""
    products = [(x * y).flatten(1).sum(1) for x, y in zip(left, right, strict=True)]
    return torch.stack(products).sum(0)


def norm(tensors: Sequence[Tensor]) -> Tensor:
    """Euclidean norms [M] of a list of tensors [M, ...]."""
    return inner(tensors, tensors).sqrt()


def scale(tensor: Tensor, factor: Tensor) -> Tensor:
    """tensor [M, ...] times factor [M]."""
    return tensor * factor.view(-1, *[1] * (tensor.dim() - 1))
