"""Spaces as leaders and followers take them: flat observations, numbered or flat actions."""

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces

from stackelberg.errors import InputError
from stackelberg.game import ROUNDING

LARGEST = 4096  # combinations of a MultiDiscrete or MultiBinary action that are numbered

Decoder = Callable[[Any], Any]  # an action as players give it into one of the original space


def flat_observation_space(agent: Any, space: spaces.Space) -> spaces.Box:
    """The observations of an agent as vectors of float32.

    Raises:
        InputError: if the space has no such form, or comes with an action mask.
    """
    if isinstance(space, spaces.Dict) and "action_mask" in space.spaces:
        raise InputError(
            f"observations of agent '{agent}' without an action mask",
            "a Dict with 'action_mask', which is not supported",
            "let the environment give a meaning to every action, for example a penalty",
        )
    flat = spaces.flatten_space(space) if isinstance(space, spaces.Space) else None
    if not isinstance(flat, spaces.Box):
        raise InputError(
            f"observations of agent '{agent}' that can be flattened: Box, Discrete, MultiBinary, "
            "MultiDiscrete, Tuple or Dict",
            f"{space!r}",
            "change its observation_space()",
        )
    with np.errstate(over="ignore"):  # a bound beyond single precision is none
        low, high = flat.low.astype(np.float32), flat.high.astype(np.float32)
    return spaces.Box(low, high, dtype=np.float32)


def flatten(space: spaces.Space, observation: Any) -> np.ndarray | None:
    """The observation as a vector of float32, None if it is of another kind or shape.

    Values of a Box are not compared with its bounds here; see `outside`.
    """
    if isinstance(space, spaces.Box):
        array = np.asarray(observation)
        fits = array.shape == space.shape and array.dtype.kind in "biuf"
        return array.astype(np.float32).ravel() if fits else None
    if not space.contains(observation):
        return None
    return np.asarray(spaces.flatten(space, observation), np.float32)


def outside(space: spaces.Box, rows: np.ndarray) -> np.ndarray:
    """Which vectors [n, d] are not finite, or beyond the bounds by more than rounding: [n]."""
    width = space.high - space.low
    slack = np.where(np.isfinite(width), ROUNDING * width, 0.0)
    inside = (space.low - slack <= rows) & (rows <= space.high + slack) & np.isfinite(rows)
    return np.asarray(~inside.all(-1))


def flat_action_space(agent: Any, space: spaces.Space) -> tuple[spaces.Space, Decoder]:
    """The actions of an agent, numbered from 0 or as vectors in a Box, and the way back.

    Raises:
        InputError: if the space has no such form.
    """
    if isinstance(space, spaces.Discrete):
        start, kind = int(space.start), space.dtype.type
        return spaces.Discrete(int(space.n)), lambda index: kind(start + int(index))
    if isinstance(space, spaces.MultiDiscrete | spaces.MultiBinary):
        table = _combinations(agent, space)
        return spaces.Discrete(len(table)), lambda index: table[int(index)].copy()
    if isinstance(space, spaces.Box) and space.dtype.kind == "f":
        flat = spaces.Box(space.low.ravel(), space.high.ravel(), dtype=space.dtype.type)

        def within(action: Any) -> np.ndarray:
            vector = np.clip(np.asarray(action, space.dtype), flat.low, flat.high)
            return vector.reshape(space.shape)

        return flat, within
    raise InputError(
        f"actions of agent '{agent}' in a Discrete, MultiDiscrete, MultiBinary or floating Box",
        f"{space!r}",
        "change its action_space()",
    )


def _combinations(agent: Any, space: spaces.MultiDiscrete | spaces.MultiBinary) -> np.ndarray:
    """All actions of the space, [number, ...]."""
    if isinstance(space, spaces.MultiBinary):
        counts, start = np.full(space.shape, 2), np.zeros(space.shape, int)
    else:
        counts, start = np.asarray(space.nvec), np.asarray(space.start)
    number = float(np.prod(counts.astype(float)))
    if number > LARGEST:
        raise InputError(
            f"at most {LARGEST} combinations of actions of agent '{agent}'",
            f"{number:.6g} in {space!r}",
            "offer fewer, or spread the choices over several steps",
        )
    index = np.unravel_index(np.arange(int(number)), counts.ravel())
    table = np.stack(index, -1).reshape(-1, *counts.shape) + start
    return table.astype(space.dtype)
