"""Copies of a game side by side: what play and followers step through."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from gymnasium import spaces
from torch import Tensor

from stackelberg.errors import InputError

if TYPE_CHECKING:
    from stackelberg.game import Game


class Outcome(NamedTuple):
    """What one step of n copies brings."""

    leader_reward: Tensor  # [n]
    follower_reward: Tensor  # [n]
    terminated: Tensor  # [n] bool: over for both by the rules
    truncated: Tensor  # [n] bool: cut off by a time limit


class VectorGame(ABC):
    """n copies of a game under way. One that is over must be `reset`: until then what its steps
    bring means nothing.

    Where one player may leave before the other, `leader_out` and `follower_out` say who has: it
    earns nothing more, and what it does has no effect. A copy is over when both have left.

    Attributes:
        copies: n.
        leader_observation: [n, d] float32. follower_observation: [n, d'] float32. After a step they
            are of where it led, also at an episode's end.
        leader_out, follower_out: [n] bool.
        generator: all randomness.
    """

    copies: int
    generator: torch.Generator
    leader_observation: Tensor
    follower_observation: Tensor
    leader_out: Tensor
    follower_out: Tensor

    @abstractmethod
    def reset(self, which: Tensor | None = None) -> None:
        """Start new episodes in the copies `which` (a mask [n] bool), or in all of them."""

    @abstractmethod
    def step(self, leader_action: Tensor, follower_action: Tensor) -> Outcome:
        """One step of all copies, by actions [n] (or [n, d]) of both players.

        Raises:
            InputError: if a reward is not finite, naming the player.
        """


class VectorSteps(VectorGame):
    """Copies of a game that steps many at once.

    Args:
        game: the game. copies: n. generator: all randomness.
        limit: the time limit; the game's horizon unless given.

    Raises:
        InputError: if the first states, what is observed of them, or what the first step brings has
            not the shape or type that it should, naming it.
    """

    def __init__(
        self, game: Game, copies: int, generator: torch.Generator, limit: int | None = None
    ) -> None:
        self.game, self.copies, self.generator = game, copies, generator
        self.limit = game.horizon if limit is None else limit
        self.leader_out = self.follower_out = torch.zeros(copies, dtype=torch.bool)
        self._known = False  # are what the game returns and its spaces of the right form?
        self.reset()

    def reset(self, which: Tensor | None = None) -> None:
        if which is None:
            self._state = self.game.initial(self.copies, self.generator)
            self._time = torch.zeros(self.copies, dtype=torch.long)
        else:
            count = int(which.sum())
            if not count:
                return
            self._state, self._time = self._state.clone(), self._time.clone()
            self._state[which] = self.game.initial(count, self.generator).to(self._state)
            self._time[which] = 0
        self._observe("initial")

    def step(self, leader_action: Tensor, follower_action: Tensor) -> Outcome:
        moved = self.game.step(self._state, leader_action, follower_action, self.generator)
        if not self._known:
            _check_step(self.game, moved, self._state)
        self._state, self._time = moved.state, self._time + 1
        check_rewards(leader=moved.leader_reward, follower=moved.follower_reward, time=self._time)
        self._observe("step")
        self._known = True
        late = (self._time >= self.limit) & ~moved.terminated
        return Outcome(moved.leader_reward, moved.follower_reward, moved.terminated, late)

    def _observe(self, source: str) -> None:
        """Args: source: the method that the states come from."""
        game, state = self.game, self._state
        if not self._known and source == "initial":
            rest = state.shape[1:] if isinstance(state, Tensor) else ()
            check_rows(game, "initial", "the state", state, (self.copies, *rest), "")
        ours = game.observe(state)
        theirs = game.follower_observe(state) if game.observes_apart else ours
        if not self._known:
            _check_seen(game, "observe", ours, game.observation_space, self.copies)
            of = "follower_observe" if game.observes_apart else "observe"
            _check_seen(game, of, theirs, game.follower_observation_space, self.copies)
        self.leader_observation, self.follower_observation = ours.float(), theirs.float()


def check_rows(
    game: Game,
    method: str,
    part: str,
    given: Any,
    shape: tuple[int, ...],
    kind: str = "real numbers",
) -> None:
    """Raise InputError unless a part of what a game's method returns is a tensor of that shape.

    Args:
        kind: "real numbers", "booleans", or "" for either.
    """
    what = type(given).__name__
    if isinstance(given, Tensor):
        own = "booleans" if given.dtype is torch.bool else "real numbers"
        if given.shape == shape and not given.is_complex() and kind in ("", own):
            return
        what = f"a tensor of shape {list(given.shape)} of {given.dtype}"
    raise InputError(
        f"{part} of {method}() to be a tensor of shape {list(shape)}{kind and f' of {kind}'}",
        what,
        f"mend {method}() of {type(game).__name__}: the first dimension is of the copies",
    )


def _check_seen(game: Game, method: str, seen: Any, space: spaces.Space, copies: int) -> None:
    if not isinstance(space, spaces.Box) or len(space.shape) != 1:
        raise InputError(
            f"a Box (d,) as space of what {method}() returns",
            f"{space!r}",
            f"mend {type(game).__name__}: observations are vectors of numbers",
        )
    check_rows(game, method, "the result", seen, (copies, *space.shape))


def _check_step(game: Game, moved: Any, state: Tensor) -> None:
    """Raise InputError unless what a step brings from states [n, ...] is of the right form."""
    missing = [name for name in ("state", *Outcome._fields[:3]) if not hasattr(moved, name)]
    if missing:
        raise InputError(
            "step() to return stackelberg.game.Step(state, leader_reward, follower_reward, "
            "terminated)",
            type(moved).__name__,
            f"mend step() of {type(game).__name__}",
        )
    check_rows(game, "step", "state", moved.state, tuple(state.shape), "")
    count = state.shape[:1]
    check_rows(game, "step", "leader_reward", moved.leader_reward, count)
    check_rows(game, "step", "follower_reward", moved.follower_reward, count)
    check_rows(game, "step", "terminated", moved.terminated, count, "booleans")


def check_rewards(*, leader: Tensor, follower: Tensor, time: Tensor) -> None:
    """Raise InputError unless the rewards [n] of the steps number `time` [n] are finite."""
    if torch.isfinite(leader + follower).all():
        return
    for who, reward in (("leader", leader), ("follower", follower)):
        bad = ~torch.isfinite(reward)
        if bad.any():
            raise InputError(
                f"a finite reward of the {who} at every step",
                f"{reward[bad][0].item()} at step {int(time[bad][0])} of an episode",
                "mend the game's step: pay a number; to forbid an action, a large finite penalty",
            )
