"""Numbers and functions of the design that games are given as, validated."""

from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

import torch
from gymnasium import spaces
from numpy.typing import ArrayLike
from torch import Tensor

from stackelberg.errors import InputError
from stackelberg.game import Budget

Array = ArrayLike | Tensor
ArrayOrFunction = Array | Callable[[Tensor], Tensor]
Made = TypeVar("Made")


def array(name: str, given: Array) -> Tensor:
    """In float64."""
    try:
        return torch.as_tensor(given, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{name}: an array of numbers", type(given).__name__, f"mend it ({error})"
        ) from error


def is_standard(settings: Mapping[str, object], standard: Mapping[str, object]) -> bool:
    """Are a game's settings those that its optimum is known for, horizon and optimum aside?"""
    changed = {key: value for key, value in settings.items() if key not in ("horizon", "optimum")}
    return changed.items() <= standard.items()


class Parts:
    """What a game under a design is made of: arrays as they are, and functions of the designs.

    A function takes the designs of M leaders [M, d] to [M, ...], written in torch.

    Args:
        space: of designs. given: the parts by name; None where there is none.

    Attributes:
        functions: those parts that the design moves.
        tried: every part in float64; functions at both ends of the space and in its middle,
            [3, ...].

    Raises:
        InputError: for a space that is no bounded Box [d], or a part that is not as above.
    """

    def __init__(self, space: spaces.Box, **given: ArrayOrFunction | None) -> None:
        trial = _trial_designs(_checked_space(space))
        self.functions: dict[str, Callable[[Tensor], Tensor]] = {}
        self.tried: dict[str, Tensor] = {}
        for name, part in given.items():
            if callable(part):
                self.functions[name] = part
                self.tried[name] = _evaluated(name, part, trial)
            elif part is not None:
                self.tried[name] = array(name, part)

    def middle(self, name: str) -> Tensor:
        """A part in the middle of the space."""
        return self.tried[name][1] if name in self.functions else self.tried[name]

    def under(self, design: Tensor | None) -> dict[str, Tensor]:
        """The parts that designs [M, d] move, [M, ...] in float64, attached to them.

        Raises:
            InputError: without a design.
        """
        if design is None:
            raise InputError("the designs [M, d]", "none", "pass what the leader commits to")
        return {name: part(design).to(torch.float64) for name, part in self.functions.items()}


class Latest(Generic[Made]):
    """What was made of the designs that play last stepped under: it keeps them for long."""

    def __init__(self) -> None:
        self._last: tuple[Tensor, Made] | None = None

    def of(self, designs: Tensor, make: Callable[[Tensor, Tensor], Made]) -> Made:
        """What `make` makes of designs [n, d]: of the distinct ones [U, d], and which each is."""
        if self._last is None or not torch.equal(self._last[0], designs):
            distinct, which = designs.unique(dim=0, return_inverse=True)
            self._last = designs.clone(), make(distinct.to(torch.float64), which)
        return self._last[1]


def _checked_space(space: spaces.Box) -> spaces.Box:
    if not isinstance(space, spaces.Box) or len(space.shape) != 1 or not space.is_bounded():
        raise InputError(
            "design_space: a bounded Box (or Budget) of shape (d,)",
            f"{space!r}",
            "flatten the design into one vector and give finite low and high",
        )
    return space


def _trial_designs(space: spaces.Box) -> Tensor:
    """Three designs [3, d] at which functions of the design are tried."""
    low, high = (torch.as_tensor(x, dtype=torch.float64) for x in (space.low, space.high))
    if isinstance(space, Budget):
        high = high / len(high)
    return torch.stack([low, (low + high) / 2, high])


def _evaluated(name: str, function: Callable[[Tensor], Tensor], trial: Tensor) -> Tensor:
    """What a function of the design makes of the trial designs [3, d]: [3, ...]."""
    value = function(trial)
    if not isinstance(value, Tensor) or value.shape[:1] != trial.shape[:1]:
        raise InputError(
            f"{name}: a function from designs [M, d] to a tensor [M, ...]",
            f"{type(value).__name__} of shape {list(getattr(value, 'shape', []))} for M = 3",
            "keep the leading dimension and compute in torch",
        )
    return value.detach().to(torch.float64)


def listed(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))
