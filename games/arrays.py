"""Numbers and functions of the design that games are given as, validated."""

from collections.abc import Callable

import torch
from gymnasium import spaces
from numpy.typing import ArrayLike
from torch import Tensor

from stackelberg.errors import InputError
from stackelberg.game import Budget

Array = ArrayLike | Tensor
ArrayOrFunction = Array | Callable[[Tensor], Tensor]


def array(name: str, given: Array) -> Tensor:
    """In float64."""
    try:
        return torch.as_tensor(given, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{name}: an array of numbers", type(given).__name__, f"mend it ({error})"
        ) from error


def checked_design_space(space: spaces.Box) -> spaces.Box:
    if not isinstance(space, spaces.Box) or len(space.shape) != 1 or not space.is_bounded():
        raise InputError(
            "design_space: a bounded Box (or Budget) of shape (d,)",
            f"{space!r}",
            "flatten the design into one vector and give finite low and high",
        )
    return space


def trial_designs(space: spaces.Box) -> Tensor:
    """Three designs [3, d] at which functions of the design are tried."""
    low, high = (torch.as_tensor(x, dtype=torch.float64) for x in (space.low, space.high))
    if isinstance(space, Budget):
        high = high / len(high)
    return torch.stack([low, (low + high) / 2, high])


def evaluated(name: str, function: Callable[[Tensor], Tensor], trial: Tensor) -> Tensor:
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
