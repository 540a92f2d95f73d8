"""What a run was made of: enough to tell another game, leader or follower from its own."""

import dataclasses
import hashlib
import json
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
