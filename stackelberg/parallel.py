"""Any two-agent PettingZoo environment as a leader-follower game.

The environment is a user's own, so that nothing it returns is trusted: what is missing, not finite,
of another shape or out of its space is an InputError that names agent and step.
"""

import contextlib
import copy
import inspect
import math
import re
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch
from gymnasium import spaces
from pettingzoo import AECEnv, ParallelEnv
from pettingzoo.utils.conversions import aec_to_parallel
from torch import Tensor

from stackelberg.environment import AGENTS, SETTINGS, Environment
from stackelberg.errors import InputError, nearest, told
from stackelberg.flat_spaces import (
    Decoder,
    flat_action_space,
    flat_observation_space,
    flatten,
    outside,
)
from stackelberg.game import Game, Step
from stackelberg.vector import Outcome, VectorGame

KEPT = 256  # idle environments of a game at most
KNOWN = tuple(name for name in inspect.signature(Game.__init__).parameters if name != "self")


def from_parallel_env(
    make_env: Callable[[], Any], leader: Any | None = None, **settings: Any
) -> Game:
    """A PettingZoo environment between two agents as a game.

    One of this project's own environments gives the game it is made of, tables and all. Any other
    is stepped, one copy after the other, and `ParallelGame` says how it is read.

    Args:
        make_env: makes a fresh ParallelEnv, or an AECEnv that can be converted to one.
        leader: the agent that leads; by default the environment's `metadata["leader_agent"]`, or
            else the agent "leader".
        settings: of `stackelberg.Game`; they go before the environment's own
            `metadata["stackelberg"]`, a dict of the same. In neither, the horizon is the
            environment's `max_cycles` if it has one, and the follower does not observe the leader's
            action: agents of PettingZoo move at once.

    Raises:
        InputError: for anything but two agents, a leader that is none of them, spaces or settings
            that cannot be used.
    """
    env = made(make_env)
    if type(env) is Environment and leader in (None, AGENTS[0]):
        return _own(env, settings)
    return ParallelGame(env, make_env, leader, **settings)


def is_environment(thing: Any) -> bool:
    """Is it an environment of PettingZoo?"""
    return isinstance(thing, ParallelEnv | AECEnv)


def made(make_env: Callable[[], Any]) -> Any:
    """A ParallelEnv. Raises InputError if the function makes none."""
    what = "a function that makes a PettingZoo ParallelEnv (or AECEnv)"
    if not callable(make_env):
        raise InputError(what, type(make_env).__name__, "pass the function, not what it returns")
    try:
        env = make_env()
        if isinstance(env, AECEnv):
            env = aec_to_parallel(env)
    except InputError:
        raise
    except Exception as error:
        raise InputError(what, told(error), "call it alone to see where it fails") from error
    if not isinstance(env, ParallelEnv):
        raise InputError(what, f"one that returns {type(env).__name__}", "return the environment")
    return env


def _own(env: Environment, settings: Mapping[str, Any]) -> Game:
    """The game of one of our own environments; of the settings, only its time limit may differ."""
    other = settings.keys() - {"horizon"}
    if other:
        raise InputError(
            f"no settings but horizon for the environment of the game '{env.game.name}'",
            ", ".join(sorted(other)),
            "give them to the game that the environment is made of",
        )
    game, horizon = env.game, settings.get("horizon", env.max_cycles)
    if horizon != game.horizon:
        game = copy.copy(game)
        game.horizon = int(horizon)
    return game


class Player(NamedTuple):
    """One of the two agents, and how it is read."""

    agent: Any
    observation_space: spaces.Space  # the agent's own; a copy, which nobody changes
    action_space: spaces.Space
    flat: spaces.Box  # the same observations as vectors
    decode: Decoder  # of actions


class ParallelGame(Game):
    """A PettingZoo environment between two agents as a game without tables.

    Observations are flattened to float32 (`gymnasium.spaces.flatten`), each agent's its own.
    Discrete, MultiDiscrete and MultiBinary actions are numbered; a follower may act in a Box.

    An agent that terminates has left: it earns nothing more and is asked for no action, and play
    goes on for the other one. An agent that is truncated cuts the episode off for both. Where
    `agents` becomes empty the episode is over.

    Every episode starts with `env.reset(seed=...)`, and all its seeds come from the generator of
    `vector`. Environments are kept for later vectors (256 idle ones at most); the first one has
    been made already. What is kept no more is closed.

    Args:
        env, make_env, leader, settings: see `from_parallel_env`.
    """

    one_by_one = True

    def __init__(
        self, env: Any, make_env: Callable[[], Any], leader: Any | None, **settings: Any
    ) -> None:
        super().__init__(**_settings(env, settings))
        self.name = str(env).replace("/", "_")
        self.longest = _max_cycles(env)
        self.leader_agent, self.follower_agent = _agents(env, leader)
        self.make_env = make_env
        made_of = [_player(env, agent) for agent in (self.leader_agent, self.follower_agent)]
        self.players: tuple[Player, ...] = tuple(player for player, _ in made_of)
        self.leader_space, self.follower_space = (space for _, space in made_of)
        if not isinstance(self.leader_space, spaces.Discrete):
            raise InputError(
                f"finitely many actions of '{self.leader_agent}', who leads",
                f"{self.leader_space!r}",
                "leaders choose among finitely many actions at present: offer some of the Box",
            )
        self.observation_space = self.players[0].flat
        self.one_hot = isinstance(self.players[0].observation_space, spaces.Discrete)
        self.follower_observation_space = self.players[1].flat
        self._pool = _Pool(_Copy(env, self.players))

    def vector(
        self, copies: int, generator: torch.Generator, limit: int | None = None
    ) -> VectorGame:
        """Copies of the environment side by side, stepped one after the other.

        Raises:
            InputError: if `make_env` returns the same environment twice, or one of another kind.
        """
        taken: list[_Copy] = []
        try:
            while len(taken) < copies:
                taken.append(self._pool.take() or self._another())
            vector = _Copies(self, taken, generator, self.horizon if limit is None else limit)
        except BaseException:
            self._pool.give(taken)
            raise
        weakref.finalize(vector, self._pool.give, taken).atexit = False
        return vector

    def _another(self) -> "_Copy":
        env = made(self.make_env)
        if self._pool.knows(env):
            raise InputError(
                "a fresh environment whenever make_env is called",
                "the same one again",
                "make it inside the function",
            )
        try:
            copy_ = _Copy(env, self.players)
        except InputError:
            _close(env)
            raise
        self._pool.add(copy_)
        return copy_

    def initial(self, n: int, generator: torch.Generator) -> Tensor:
        self._refuse()

    def step(
        self,
        state: Tensor,
        leader_action: Tensor,
        follower_action: Tensor,
        generator: torch.Generator,
    ) -> Step:
        self._refuse()

    def observe(self, state: Tensor) -> Tensor:
        self._refuse()

    def follower_observe(self, state: Tensor) -> Tensor:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise InputError(
            "a game that steps from a state that it is given",
            f"'{self.name}', a PettingZoo environment, which keeps its state to itself",
            "step it by vector()",
        )


class _Copy:
    """One environment under way.

    Attributes:
        seen: each player's observation, flat. out: has it left? time: steps of the episode.
        terminated, truncated: how the episode has ended, if it has.
    """

    seen: list[np.ndarray]

    def __init__(self, env: Any, players: tuple[Player, ...]) -> None:
        self.env, self.players = env, players
        self.time, self.out = 0, [False, False]
        self.terminated = self.truncated = False
        self._compare_spaces()

    def reset(self, seed: int) -> None:
        self.time, self.out = 0, [False, False]
        self.terminated = self.truncated = False
        try:
            observations, _ = self.env.reset(seed=seed)
        except InputError:
            raise
        except Exception as error:
            raise InputError(
                "an environment whose reset(seed=...) starts an episode",
                told(error),
                "mend its reset()",
            ) from error
        self._compare_spaces()
        self.seen, there = [], self._live()
        for player in self.players:
            if player.agent not in there:
                raise self._fault(
                    player, "an entry in agents", f"{there}", "let both agents begin every episode"
                )
            self.seen.append(self._observed(player, observations))

    def step(self, actions: Sequence[Any], limit: int) -> tuple[float, float]:
        """The rewards of one step of both players; nothing, in an episode that is over."""
        earned = [0.0, 0.0]
        if self.terminated or self.truncated:
            return earned[0], earned[1]
        self.time += 1
        playing = [i for i in (0, 1) if not self.out[i]]
        observations, rewards, terminations, truncations = self._stepped(playing, actions)
        agents = self._live()
        left, cut = [False, False], [False, False]
        for i in playing:
            player = self.players[i]
            earned[i] = self._reward(player, self._told(player, "rewards", rewards))
            left[i] = self._flag(player, "terminations", terminations)
            cut[i] = self._flag(player, "truncations", truncations) and not left[i]
        ended = not agents and (any(left) or any(cut))
        for i in playing:
            player = self.players[i]
            done = left[i] or cut[i]
            if not (done or ended or player.agent in agents):
                raise self._fault(
                    player,
                    "a termination or truncation before it leaves agents",
                    f"agents = {agents} and neither",
                    "say so in what step() returns",
                )
            if player.agent in observations or cut[i] or not (done or ended):
                self.seen[i] = self._observed(player, observations)
            self._compare_objects(i)
        if ended and not any(cut):
            left = [True, True]
        self.out = [was or now for was, now in zip(self.out, left, strict=True)]
        self.terminated = all(self.out)
        self.truncated = not self.terminated and (any(cut) or self.time >= limit)
        return earned[0], earned[1]

    def _stepped(self, playing: list[int], actions: Sequence[Any]) -> tuple[Any, ...]:
        chosen = {self.players[i].agent: self.players[i].decode(actions[i]) for i in playing}
        try:
            found = self.env.step(chosen)
        except Exception as error:
            raise InputError(
                f"an environment that can be stepped by {_in_words(chosen)}",
                f"{told(error)} {self._when}",
                "mend its step()",
            ) from error
        parts = found[:4] if isinstance(found, tuple) and len(found) == 5 else ()
        if not parts or not all(isinstance(part, Mapping) for part in parts):
            raise InputError(
                "step() to return observations, rewards, terminations, truncations and infos, "
                "each a dict by agent",
                f"{type(found).__name__} {self._when}",
                "see PettingZoo's ParallelEnv",
            )
        return parts

    def _live(self) -> list[Any]:
        """The agents that go on."""
        try:
            return list(self.env.agents)
        except Exception as error:
            raise InputError(
                "agents: a list of those that go on",
                f"{told(error)} {self._when}",
                "set it in reset() and step()",
            ) from error

    def _observed(self, player: Player, observations: Any) -> np.ndarray:
        """The agent's observation, flat."""
        found = self._told(player, "observations", observations)
        try:
            flat = flatten(player.observation_space, found)
        except (TypeError, ValueError, IndexError, KeyError):
            flat = None
        if flat is None:
            raise self._fault(
                player,
                f"an observation in {player.observation_space}",
                _in_words(found),
                "mend it, or its observation_space()",
            )
        return flat

    def out_of_bounds(self, which: int) -> InputError:
        """What there is to say of a player's observation that is outside its space."""
        player, values = self.players[which], self.seen[which]
        return self._fault(
            player,
            f"a finite observation in {player.observation_space}",
            f"values from {values.min():.6g} to {values.max():.6g}",
            "mend it, or its observation_space()",
        )

    def _told(self, player: Player, what: str, given: Any) -> Any:
        if not isinstance(given, Mapping) or player.agent not in given:
            there = list(given) if isinstance(given, Mapping) else type(given).__name__
            raise self._fault(
                player, f"an entry in {what}", f"{there}", "return one for every live agent"
            )
        return given[player.agent]

    def _reward(self, player: Player, given: Any) -> float:
        if type(given) is not float:
            array = np.asarray(given)
            if array.size != 1 or array.dtype.kind not in "biuf":
                fix = "return a number for every live agent"
                raise self._fault(player, "a reward that is a number", _in_words(given), fix)
            given = float(array.reshape(()))
        if not math.isfinite(given):
            fix = "pay a number; to forbid an action, a large finite penalty"
            raise self._fault(player, "a finite reward", f"{given}", fix)
        number: float = given
        return number

    def _flag(self, player: Player, what: str, given: Any) -> bool:
        flag = self._told(player, what, given)
        if not isinstance(flag, bool | np.bool_) and flag not in (0, 1):
            raise self._fault(player, f"True or False in {what}", _in_words(flag), "return a bool")
        return bool(flag)

    def _compare_objects(self, which: int) -> None:
        """Raise InputError if an agent's spaces have become others since the episode's start."""
        known = self._spaces[which]
        now = _spaces_of(self.env, self.players[which].agent, self._when)
        if now[0] is not known[0] or now[1] is not known[1]:
            self._compare_space(which, now)

    def _compare_spaces(self) -> None:
        """Raise InputError unless the spaces are equal to those of the game's first environment."""
        self._spaces = [_spaces_of(self.env, p.agent, self._when) for p in self.players]
        for i, now in enumerate(self._spaces):
            self._compare_space(i, now)

    def _compare_space(self, which: int, now: tuple[spaces.Space, spaces.Space]) -> None:
        player = self.players[which]
        for known, found in zip((player.observation_space, player.action_space), now, strict=True):
            if found != known:
                raise self._fault(
                    player,
                    f"the space {known}, as at first,",
                    f"{found}",
                    "keep the spaces of an agent the same in all episodes and copies",
                )

    def _fault(self, player: Player, expected: str, got: str, fix: str) -> InputError:
        return InputError(f"{expected} of agent '{player.agent}'", f"{got} {self._when}", fix)

    @property
    def _when(self) -> str:
        return f"{f'at step {self.time}' if self.time else 'at the start'} of an episode"


class _Pool:
    """A game's environments, idle or lent to vectors.

    At most `KEPT` idle ones are kept; the others are closed, all when neither the game nor a vector
    is there any more.

    Args:
        first: the first one, idle.
    """

    def __init__(self, first: _Copy) -> None:
        self.idle, self.all = [first], [first]
        weakref.finalize(self, _close_all, self.idle)

    def knows(self, env: Any) -> bool:
        """Is it one of these, perhaps wrapped anew? Environments may not be hashable."""
        return any(one.env.unwrapped is env.unwrapped for one in self.all)

    def add(self, one: _Copy) -> None:
        self.all.append(one)

    def take(self) -> _Copy | None:
        return self.idle.pop() if self.idle else None

    def give(self, back: list[_Copy]) -> None:
        """Take back what a vector has used."""
        self.idle.extend(back)
        surplus = self.idle[KEPT:]
        del self.idle[KEPT:]
        self.all = [one for one in self.all if all(one is not other for other in surplus)]
        _close_all(surplus)


def _close_all(copies: list[_Copy]) -> None:
    for one in copies:
        _close(one.env)


def _close(env: Any) -> None:
    """Close an environment that is needed no more; nobody can be told if that fails."""
    with contextlib.suppress(Exception):
        env.close()


class _Copies(VectorGame):
    """Environments side by side.

    Args:
        game: the game. taken: its environments. generator: all randomness. limit: of time.
    """

    def __init__(
        self, game: ParallelGame, taken: list[_Copy], generator: torch.Generator, limit: int
    ) -> None:
        self.copies, self.generator, self.limit = len(taken), generator, limit
        self._spaces, self._taken = [player.flat for player in game.players], taken
        self.reset()

    def reset(self, which: Tensor | None = None) -> None:
        chosen = range(self.copies) if which is None else which.nonzero().flatten().tolist()
        seeds = torch.randint(2**31, (len(chosen),), generator=self.generator).tolist()
        for i, seed in zip(chosen, seeds, strict=True):
            self._taken[i].reset(seed)
        self._observe()

    def step(self, leader_action: Tensor, follower_action: Tensor) -> Outcome:
        pairs = zip(leader_action.cpu().numpy(), follower_action.cpu().numpy(), strict=True)
        earned = [one.step(pair, self.limit) for one, pair in zip(self._taken, pairs, strict=True)]
        self._observe()
        rewards = torch.tensor(earned, dtype=torch.float64)
        terminated = torch.tensor([one.terminated for one in self._taken])
        truncated = torch.tensor([one.truncated for one in self._taken])
        return Outcome(rewards[:, 0], rewards[:, 1], terminated, truncated)

    def _observe(self) -> None:
        seen = []
        for i, space in enumerate(self._spaces):
            rows = np.stack([one.seen[i] for one in self._taken])
            bad = outside(space, rows)
            if bad.any():
                raise self._taken[int(bad.argmax())].out_of_bounds(i)
            seen.append(torch.from_numpy(rows))
        self.leader_observation, self.follower_observation = seen
        out = torch.tensor([one.out for one in self._taken])
        self.leader_out, self.follower_out = out[:, 0], out[:, 1]


# ---------------------------------------------------------------- what is said of an environment


def _agents(env: Any, leader: Any | None) -> tuple[Any, Any]:
    """The agent that leads and the one that follows."""
    agents = list(getattr(env, "possible_agents", None) or ())
    if len(agents) != 2:
        raise InputError(
            "an environment of two agents, listed in possible_agents",
            f"{len(agents)}: {', '.join(map(str, agents)) or 'none'}",
            "a game has one leader and one follower: let the environment play the others",
        )
    named = leader if leader is not None else _metadata(env).get("leader_agent")
    chosen = AGENTS[0] if named is None else named
    found = [agent for agent in agents if str(agent) == str(chosen)]
    if not found:
        raise InputError(
            f"a leader that is one of the agents {', '.join(map(str, agents))}",
            "no word of who leads" if named is None else f"'{named}'",
            nearest(
                str(chosen),
                map(str, agents),
                'name it by leader (--leader-agent), or in metadata["leader_agent"]',
            ),
        )
    return found[0], agents[1 - agents.index(found[0])]


def _settings(env: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the game: those given, the environment's own, or defaults."""
    own = _metadata(env).get(SETTINGS, {})
    if not isinstance(own, Mapping):
        raise InputError(
            f'metadata["{SETTINGS}"]: a dict', f"{own!r}", f"use any of {', '.join(KNOWN)}"
        )
    for name in [*own, *given]:
        if name not in KNOWN:
            fix = nearest(name, KNOWN, "leave it out")
            raise InputError(f"a setting out of {', '.join(KNOWN)}", f"'{name}'", fix)
    found: dict[str, Any] = {"follower_observes_action": False}
    longest = _max_cycles(env)
    if longest is not None:
        found["horizon"] = longest
    return found | dict(own) | dict(given)


def _metadata(env: Any) -> Mapping[str, Any]:
    found = getattr(env, "metadata", None)
    return found if isinstance(found, Mapping) else {}


def _max_cycles(env: Any) -> int | None:
    """The environment's own time limit, if it says so."""
    for one in (env, env.unwrapped):
        found = getattr(one, "max_cycles", None)
        if isinstance(found, Integral) and int(found) >= 1:
            return int(found)
    return None


def _player(env: Any, agent: Any) -> tuple[Player, spaces.Space]:
    """The agent, and its actions as the game has them."""
    with warnings.catch_warnings():  # PettingZoo's, before the error
        warnings.simplefilter("ignore")
        own = copy.deepcopy(_spaces_of(env, agent, "before any episode"))
    actions, decode = flat_action_space(agent, own[1])
    return Player(agent, *own, flat_observation_space(agent, own[0]), decode), actions


def _spaces_of(env: Any, agent: Any, when: str) -> tuple[spaces.Space, spaces.Space]:
    """The agent's observations and actions, as the environment tells them now."""
    try:
        return env.observation_space(agent), env.action_space(agent)
    except Exception as error:
        raise InputError(
            f"observation_space() and action_space() of agent '{agent}'",
            f"{told(error)} {when}",
            "define both methods, for an agent that has left as well",
        ) from error


def _in_words(given: Any) -> str:
    if isinstance(given, np.ndarray):
        return f"an array of shape {list(given.shape)} and type {given.dtype}"
    said = re.sub(r"np\.\w+\(([^()]*)\)", r"\1", repr(given))
    return said if len(said) < 80 else f"{said[:77]}..."
