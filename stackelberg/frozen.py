"""Leaders that learn no more: of a run, of a program, or given as functions and tables."""

import copy
import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from stackelberg import registry
from stackelberg.access import blamed
from stackelberg.errors import InputError
from stackelberg.game import Game
from stackelberg.identity import game_identity
from stackelberg.linear_model import is_linear
from stackelberg.model import check_distribution
from stackelberg.oracle import rows_of
from stackelberg.run_directory import (
    newest_checkpoint,
    read_checkpoint,
    read_json,
    read_metrics,
    require_run,
    to_json,
)
from stackelberg.search import replicate
from stackelberg.types import Commitment, Leader, check_inside, commit, everywhere

SINGLE = 1e-5  # by how much a sum of probabilities in single precision may miss 1
_ASKED = 8  # times that a function is asked in a state where its answer is kept

# What an observation [d] of the leader is answered by: an action, or in a Discrete space the
# probabilities [A] of all.
Rule = Callable[[np.ndarray], Any]


class SavedLeader(NamedTuple):
    """The leader of a run as its newest checkpoint has it."""

    path: Path  # the run directory
    game: Game
    leader: Leader  # M of them
    config: dict[str, Any]  # what the run was started with
    iteration: int  # outer iterations that it has trained


def load_leader(
    path: str | Path, game: Game | None = None, leader: Leader | None = None
) -> SavedLeader:
    """The trained leader of a run directory, from `config.json` and the newest checkpoint.

    The checkpoint holds tensors and nothing that could be executed. Game and leader are made anew
    as `config.json` names them, as `stackelberg train` did. A run that was started from Python,
    `Coordinator(game, leader, ..., out=path)`, names neither: make them again as it did and pass
    them, to evaluate it as in `evaluate(load_leader(path, game, leader), followers=["exact"])`.

    Args:
        path: the run directory.
        game: where the run was started from Python, its game. In another game a trained leader is
            one like any other: `evaluate(load_leader(path, game, leader).leader, other_game)`.
        leader: where the run was started from Python, a leader of the same kind and size; a copy
            of it takes the numbers.

    Raises:
        InputError: if the folder is no run or has no checkpoint, if the checkpoint is damaged, if
            the game is not what it was, or does not fit the leader.
    """
    folder = Path(path)
    require_run(folder)
    config = read_json(folder / "config.json", "the folder of a run")
    newest = newest_checkpoint(folder)
    if newest is None:
        raise InputError(
            "a run with a checkpoint",
            f"{folder}, which has none yet",
            "let `stackelberg train` go on until it has written one",
        )
    tensors, notes = read_checkpoint(newest)
    try:
        if game is None:
            game = _named_game(folder, config)
        else:
            _require_same(folder, config, game, _ELSEWHERE.format(folder=folder))
        made = _named_leader(folder, config, game) if leader is None else copy.deepcopy(leader)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            "a config.json as a run writes it", f"{folder}: {error!r}", "put the file back"
        ) from error
    _take(made, tensors, newest)
    with torch.no_grad():
        commit(game, made)  # it fits, or this says why not
    return SavedLeader(folder, game, made, config, int(notes["iteration"]))


def _named_game(folder: Path, config: dict[str, Any]) -> Game:
    _require_named(folder, config)
    options = [f"{key}={value}" for key, value in config["game_options"].items()]
    game: Game = registry.make_game(config["game"], options, config.get("leader_agent"))
    _require_same(folder, config, game, "put the game back as it was, or train on the present one")
    return game


_ELSEWHERE = (
    "pass the game of the run; its leader in another game is "
    "evaluate(load_leader('{folder}', game, leader).leader, other_game, ...)"
)


def _require_same(folder: Path, config: dict[str, Any], game: Game, fix: str) -> None:
    """Raise InputError unless the game is the one that the run was trained on."""
    there, now = config["game_model"], json.loads(to_json(game_identity(game)))
    for name in {**there, **now}:
        if there.get(name) != now.get(name):
            raise InputError(
                f"the game that the run in {folder} was trained on, with {name} = "
                f"{there.get(name)!r}",
                f"{now.get(name)!r}",
                fix,
            )


def _named_leader(folder: Path, config: dict[str, Any], game: Game) -> Leader:
    _require_named(folder, config)
    made: Leader = registry.load("leaders", config["leader"])(game, config["seeds"])
    return made


def _require_named(folder: Path, config: dict[str, Any]) -> None:
    """Raise InputError unless the run says how its game and leader were made."""
    if config.get("leader") is None or config.get("game_options") is None:
        raise InputError(
            "a run started by `stackelberg train`, or its game and leader beside it",
            f"{folder}, started from Python",
            "make both again in Python as the run did and use stackelberg.load_leader"
            f"('{folder}', game, leader), which evaluate(...) takes in place of the folder",
        )


def _take(leader: Leader, tensors: Mapping[str, Tensor], file: Path) -> None:
    """Copy a checkpoint's numbers into the leader."""
    with torch.no_grad():
        for name, own in leader.state_dict().items():
            there = tensors.get(f"leader.{name}")
            if there is None or there.shape != own.shape:
                raise InputError(
                    f"a leader that fits the game, with {name} of shape {list(own.shape)}",
                    f"{file} with " + ("none" if there is None else f"shape {list(there.shape)}"),
                    "give the game and the leader that the run was started with",
                )
            own.copy_(there)


# ---------------------------------------------------------------- one leader at a time


@dataclass(frozen=True)
class Frozen:
    """One leader to be evaluated.

    Where it comes from a run, another process reads it from there, and is not sent the game.
    """

    name: str
    game: Game
    commitment: Commitment  # of M = 1 leader, detached
    key: str | None = None  # what tells it from others; None where that is unknown
    about: dict[str, Any] = field(default_factory=dict)  # JSON
    origin: tuple[str, str, int] | None = None  # name, run directory and number in it

    def __reduce__(self) -> Any:
        if self.origin is None:
            return Frozen, (self.name, self.game, self.commitment, self.key, self.about)
        return _reread, self.origin


def _reread(name: str, path: str, index: int) -> Frozen:
    return of_run(name, path)[index]


def frozen(name: str, leader: Any, game: Game | None) -> list[Frozen]:
    """The leaders, one by one, that something stands for.

    Args:
        leader: a run directory, or what `load_leader` has made of one; a leader object, for M
            leaders; a function of one observation, see `Rule`; a table f(a|s) [S, A]; in a
            linear-quadratic game gains [k, 1 + n]; or where the leader moves once, a design [d].
        game: may be left out with a run.

    Raises:
        InputError: if it is none of these, or does not fit the game.
    """
    if isinstance(leader, (str, Path)):
        return of_run(name, leader, game)
    if isinstance(leader, SavedLeader):
        return _of_saved(name, leader, reread=False)
    if not isinstance(game, Game):
        raise InputError("a game beside the leader", f"{game!r}", "pass game, as in evaluate(...)")
    if hasattr(leader, "state_dict"):
        return _singled(name, leader, game)
    made = _of_function(game, leader) if callable(leader) else _of_array(game, leader)
    whole = made.rule is None and (made.box is None or is_linear(made.box))
    return [Frozen(name, game, made, _key({"": rows_of(made)}) if whole else None)]


def of_run(name: str, path: str | Path, game: Game | None = None) -> list[Frozen]:
    """The M leaders of a run directory, with what the run says of them."""
    return _of_saved(name, load_leader(path, game), reread=game is None)


def _of_saved(name: str, saved: SavedLeader, reread: bool) -> list[Frozen]:
    """As `of_run`.

    Args:
        reread: can another process make them anew from the run directory alone?
    """
    path, config = saved.path, saved.config
    metrics = read_metrics(path, saved.iteration)
    keys = "estimator", "access", "follower", "iterations", "game_options"
    told = {key: config.get(key) for key in keys}
    told |= {"run": str(path), "outer_iterations": saved.iteration}
    told["setting"] = _digest(to_json(config | {"seeds": None}, sort_keys=True).encode())
    leaders = []
    for i, one in enumerate(_singled(name, saved.leader, saved.game)):
        about = told | {"seed": config["seeds"][i]}
        about["prediction"] = _prediction(path, metrics, saved.iteration, i)
        origin = (name, str(path), i) if reread else None
        leaders.append(dataclasses.replace(one, about=about, origin=origin))
    return leaders


def _key(tensors: Mapping[str, Tensor]) -> str:
    whole = [(name, list(t.shape), t.detach().double().numpy().tobytes())
             for name, t in tensors.items()]  # fmt: skip
    return _digest(repr(whole).encode())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _singled(name: str, leader: Leader, game: Game) -> list[Frozen]:
    """M leaders apart."""
    with torch.no_grad():
        commit(game, leader)  # it fits, or this says why not
        rows = list(leader.parameters())
        alone = [replicate(leader, [p[i : i + 1] for p in rows]) for i in range(leader.count)]
        names = [name] if len(alone) == 1 else [f"{name} #{i}" for i in range(len(alone))]
        alike = {} if len(alone) == 1 else {"setting": name}
        return [
            Frozen(name, game, commit(game, one).detach(), _key(one.state_dict()), alike)
            for name, one in zip(names, alone, strict=True)
        ]


def _prediction(
    folder: Path, metrics: Sequence[Mapping[str, Any]], iteration: int, index: int
) -> dict[str, Any]:
    """The leader's discounted return against the follower that it was trained with.

    From the summary, or where training has gone on or was cut short, the last row of metrics;
    `exact` where there are tables.
    """

    def one(value: Any) -> Any:
        return value[index] if isinstance(value, list) else value

    file = folder / "summary.json"
    if file.exists():
        summary = read_json(file, "the summary of a run")
        if summary.get("outer_iterations") == iteration:
            told = summary["leader_return"]
            exact = one(told["against_response"])
            found = {"mean": one(told["mean"]), "ci95": one(told["ci95"]), "exact": exact}
            return found | {"source": "summary.json"}
    if not metrics:
        return {"mean": None, "ci95": None, "exact": None, "source": None}
    last = metrics[-1]
    exact = one(last["leader_objective"])
    mean = one(last["leader_return"])
    return {"mean": mean, "ci95": None, "exact": exact, "source": "metrics.jsonl"}


# ---------------------------------------------------------------- functions, tables, designs


def _of_array(game: Game, given: Any) -> Commitment:
    """The commitment to a table f(a|s) [S, A], gains [k, 1 + n] or a design [d]."""
    once = game.leader_moves == "once"
    what, shape, fix = _asked(game)
    try:
        rows = torch.as_tensor(given, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"a leader: a run directory, a leader object, or for '{game.name}' {what}",
            f"{type(given).__name__}",
            "pass one of these",
        ) from error
    if shape is None or rows.shape != shape:
        raise InputError(f"{what} for '{game.name}'", f"shape {list(rows.shape)}", fix)
    if once:
        check_inside(game, "the leader", rows[None])
        states = game.observation_space.shape[0] if game.tabular else 0
        return Commitment(torch.ones(1, states, 1, dtype=torch.float64), rows[None])
    if game.tabular:
        return Commitment(_probabilities(rows)[None])
    if not rows.isfinite().all():
        raise InputError("finite gains", f"{rows.tolist()}", "give numbers")
    own: Any = _Gains(rows[None], float(getattr(game, "leader_std", 0.0)))
    return Commitment(torch.ones(1, 0, 1, dtype=torch.float64), None, None, own)


def _asked(game: Game) -> tuple[str, tuple[int, ...] | None, str]:
    """What the leader of a game is in numbers, in words; its shape; and what to do about it."""
    states = game.observation_space.shape[0]
    if game.leader_moves == "once":
        shape = game.leader_space.shape or ()
        return f"a design of shape {list(shape)}", shape, "give one entry for each dimension"
    if game.tabular:
        shape = states, int(getattr(game.leader_space, "n", 0))
        return f"a table f(a|s) of shape {list(shape)}", shape, "give a row for each state"
    if game.linear:
        shape = game.matrices().leader_actions, 1 + states
        fix = "give a row for each action: a constant, then a gain for each state"
        return f"gains of shape {list(shape)}, or a function of an observation,", shape, fix
    return "a function of an observation", None, "without tables or matrices pass a function"


def _of_function(game: Game, function: Rule) -> Commitment:
    """The commitment to what a function says of an observation."""
    if game.leader_moves == "once":
        raise InputError(
            f"a design {list(game.leader_space.shape or ())} for '{game.name}', where the leader "
            "moves once",
            "a function",
            "pass the design itself",
        )
    if isinstance(game.leader_space, spaces.Box):
        states = game.observation_space.shape[0] if game.tabular else 0
        own: Any = _BoxFunction(game.leader_space, function)
        return Commitment(torch.ones(1, states, 1, dtype=torch.float64), None, None, own)
    actions = int(game.leader_space.n)  # type: ignore[attr-defined]
    if not game.tabular:
        return Commitment(
            torch.ones(1, 0, actions, dtype=torch.float64),
            None,
            lambda observation: _odds(function, observation, actions).log(),
        )
    seen = everywhere(game)[None]
    policy = _odds(function, seen, actions)
    if any(not torch.equal(policy, _odds(function, seen, actions)) for _ in range(_ASKED - 1)):
        raise InputError(
            "a function that says the same of an observation whenever it is asked",
            "one that draws its action",
            f"return the probabilities [{actions}] of the actions instead",
        )
    return Commitment(policy)


def _odds(function: Rule, observation: Tensor, actions: int) -> Tensor:
    """f(a|s) [1, n, A] that a function gives at observations [n, d] or [1, n, d]."""
    rows = []
    for seen in observation.reshape(-1, observation.shape[-1]).numpy():
        with blamed("a function of one observation that returns the leader's action"):
            said = np.asarray(function(seen))
        rows.append(_as_odds(said, actions))
    made = torch.from_numpy(np.stack(rows)) if rows else torch.ones(0, actions).double()
    return made[None]


def _as_odds(said: np.ndarray, actions: int) -> np.ndarray:
    if said.shape == () and said.dtype.kind in "iu" and 0 <= said < actions:
        return np.eye(actions)[int(said)]
    if said.shape == (actions,) and said.dtype.kind == "f":
        return _probabilities(torch.from_numpy(said.astype(np.float64))).numpy()
    raise InputError(
        f"a function that returns an action from 0 to {actions - 1}, or the probabilities "
        f"[{actions}] of all",
        f"{said.tolist()!r}",
        "mend what it returns",
    )


def _probabilities(given: Tensor) -> Tensor:
    """f(a|s) [..., A], which may have been normalised in single precision."""
    check_distribution("the leader's f(a|s)", given, SINGLE)
    return given / given.sum(-1, keepdim=True)


class _Unlearned(nn.Module):
    """What is asked of leaders that learn."""

    def log_density(self, observation: Tensor, action: Tensor) -> Tensor:
        raise InputError("a leader that learns", "one that is given", "evaluate it alone")

    def position(self, observation: Tensor) -> Tensor:
        raise InputError("a leader that learns", "one that is given", "evaluate it alone")


class _Gains(_Unlearned):
    """a ~ N(K (1, s), std^2) of given gains K [1, k, 1 + n]."""

    count, rows = 1, 1

    def __init__(self, gains: Tensor, std: float) -> None:
        super().__init__()
        self.gains, self.spread = gains, torch.full(gains.shape[:2], std, dtype=gains.dtype)
        self.actions = gains.shape[1]

    def gain(self) -> Tensor:
        return self.gains

    def std(self) -> Tensor:
        return self.spread

    def act(self, observation: Tensor, noise: Tensor) -> Tensor:
        """Actions [1, n, k]."""
        mean = observation.to(self.gains) @ self.gains[..., 1:].mT + self.gains[..., :1].mT
        return mean + noise * self.spread.unsqueeze(1)


class _BoxFunction(_Unlearned):
    """A function of one observation as a leader in a Box."""

    count, rows = 1, 1

    def __init__(self, space: spaces.Box, function: Rule) -> None:
        super().__init__()
        self.space, self.function = space, function
        self.actions = space.shape[0]

    def act(self, observation: Tensor, noise: Tensor) -> Tensor:
        """Actions [1, n, k]; nothing about them is random but what the function draws."""
        rows = []
        for seen in observation.reshape(-1, observation.shape[-1]).numpy():
            with blamed("a function of one observation that returns the leader's action"):
                said = np.asarray(self.function(seen), dtype=np.float64)
            if said.shape == () and self.space.shape == (1,):
                said = said[None]
            if said.shape != self.space.shape or not np.isfinite(said).all():
                raise InputError(
                    f"a function that returns an action in {self.space}",
                    f"{said.tolist()!r}",
                    "mend what it returns",
                )
            rows.append(said)
        return torch.from_numpy(np.stack(rows))[None]
