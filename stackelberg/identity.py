"""What a run was made of: enough to tell another game, leader or follower from its own."""

import dataclasses
import functools
import hashlib
import inspect
import json
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from stackelberg.game import Budget, Game
from stackelberg.types import Follower, Leader


def identity(game: Game, leader: Leader, follower: Follower) -> dict[str, Any]:
    """The three parts in JSON: numbers as they are, arrays as fingerprints.

    A leader is told by its class and the shapes of its tensors, a follower by its class and its
    settings, which are its public attributes of plain types or dataclasses. So is a game without
    tables, by its spaces as well: two environments that differ only inside (a reward, a map, what
    `make_env` closes over) are the same to it.
    """
    return {
        "game_model": game_identity(game),
        "leader_model": {"class": type(leader).__name__}
        | {name: list(tensor.shape) for name, tensor in leader.state_dict().items()},
        "follower_settings": {"class": type(follower).__name__} | settings_of(follower),
    }


def game_key(game: Game) -> str:
    """What the leader's objective depends on, as a fingerprint: not the game's name or time limit.

    The functions of a design are compared at three designs, arrays and matrices by their numbers.
    """
    beside = ("horizon", "simulated_transition", "simulated_ending")
    own = {name: value for name, value in game_identity(game).items() if name not in beside}
    return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()[:16]


@torch.no_grad()
def game_identity(game: Game) -> dict[str, Any]:
    """The game in JSON, as `identity` has it."""
    if not (game.tabular or game.linear):
        return {"class": type(game).__name__} | settings_of(game) | _spaces(game)
    designs = _some_designs(game)
    model = game.model(designs) if game.tabular else game.matrices(designs)
    values = {field.name: getattr(model, field.name) for field in dataclasses.fields(model)}
    values |= {"horizon": game.horizon, "designs": designs}
    if game.tabular:
        simulated = game.simulated_model(designs)
        values |= {"simulated_transition": simulated.transition}
        values |= {"simulated_ending": simulated.ending}
    return {k: _fingerprint(v) if isinstance(v, Tensor) else v for k, v in values.items()}


def _some_designs(game: Game) -> Tensor | None:
    """Three designs [3, d], the same in every process, at which a game's functions are compared."""
    space = game.leader_space
    if game.leader_moves != "once" or not isinstance(space, spaces.Box):
        return None
    share = np.random.default_rng(0).uniform(size=(3, *space.shape))
    share /= share.shape[-1] if isinstance(space, Budget) else 1
    return torch.from_numpy(space.low + share * (space.high - space.low))


def _fingerprint(array: Tensor) -> str:
    """Of shape and numbers, in single precision: machines may differ in the last digits."""
    numbers = array.detach().to(torch.float32).contiguous() + 0.0  # -0 is 0
    digest = hashlib.sha256(str(list(array.shape)).encode() + numbers.numpy().tobytes())
    return digest.hexdigest()[:16]


def _spaces(game: Game) -> dict[str, str]:
    names = "leader_space", "follower_space", "observation_space", "follower_observation_space"
    return {name: repr(getattr(game, name)) for name in names}


def settings_of(part: Any) -> dict[str, Any]:
    """The public attributes of plain types, and of dataclasses theirs in turn."""
    found: dict[str, Any] = {}
    for name, value in getattr(part, "__dict__", {}).items():
        if name.startswith("_"):
            continue
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            found[name] = settings_of(value)
        elif value is None or isinstance(value, (bool, int, float, str)):
            found[name] = value
    return found


# ---------------------------------------------------------------- by all that can be seen


def content_key(part: Any) -> str | None:
    """A fingerprint of all that can be seen of what a game or follower does.

    That is the source files of its class, and its attributes: plain values, arrays, containers,
    dataclasses and spaces by what they hold, functions by their source, what they close over and
    the globals that they name, other objects by their class. None where a source cannot be read, as
    of what is typed in at a prompt.
    """
    own = getattr(part, "__dict__", {})
    made = {name for name in own if _is_cached(type(part), name)}  # from what else there is
    held = {name: value for name, value in own.items() if name not in made}
    try:
        return _digest(repr([_content(type(part)), _content(held)]).encode())
    except (OSError, TypeError, ValueError, RecursionError):
        return None


def _is_cached(kind: type, name: str) -> bool:
    return isinstance(inspect.getattr_static(kind, name, None), functools.cached_property)


def _content(part: Any) -> Any:
    """Of one thing, in plain types. Raises OSError where a source cannot be read."""
    if part is None or isinstance(part, (bool, int, float, str, bytes)):
        return part
    if isinstance(part, Tensor):
        part = part.detach().cpu().numpy()
    if isinstance(part, (np.ndarray, np.generic)):
        return str(part.dtype), part.shape, _digest(part.tobytes())
    if isinstance(part, Mapping):
        return [(str(key), _content(value)) for key, value in part.items()]
    if isinstance(part, (list, tuple)):
        return [_content(one) for one in part]
    if isinstance(part, functools.partial):
        return _content([part.func, part.args, part.keywords])
    if isinstance(part, types.FunctionType):
        seen, code = inspect.getclosurevars(part), part.__code__
        named = [_source(v) if callable(v) else _content(v) for v in seen.globals.values()]
        given = _content([part.__defaults__, part.__kwdefaults__, seen.nonlocals])
        return _source(part), code.co_firstlineno, code.co_linetable, named, given
    if isinstance(part, type):
        return [_source(kind) for kind in part.__mro__]
    if isinstance(part, spaces.Space):
        return _content([repr(part), *(getattr(part, end, None) for end in ("low", "high"))])
    if dataclasses.is_dataclass(part):
        return _content([type(part), vars(part)])
    return _source(type(part))


def _source(thing: Any) -> tuple[str, str]:
    """The name of a class or function, and the file that it is written in."""
    kind = thing if inspect.isroutine(thing) or isinstance(thing, type) else type(thing)
    try:
        file = inspect.getfile(kind)
    except (TypeError, OSError):
        if kind.__module__ == "__main__":
            raise OSError(f"no source of {kind}") from None
        return kind.__qualname__, ""  # built in
    return kind.__qualname__, _digest(Path(file).read_bytes())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
