"""Copies of a game side by side: what play and followers step through."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple

import torch
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
    """

    def __init__(
        self, game: Game, copies: int, generator: torch.Generator, limit: int | None = None
    ) -> None:
        self.game, self.copies, self.generator = game, copies, generator
        self.limit = game.horizon if limit is None else limit
        self.leader_out = self.follower_out = torch.zeros(copies, dtype=torch.bool)
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
        self._observe()

    def step(self, leader_action: Tensor, follower_action: Tensor) -> Outcome:
        moved = self.game.step(self._state, leader_action, follower_action, self.generator)
        self._state, self._time = moved.state, self._time + 1
        check_rewards(leader=moved.leader_reward, follower=moved.follower_reward, time=self._time)
        self._observe()
        late = (self._time >= self.limit) & ~moved.terminated
        return Outcome(moved.leader_reward, moved.follower_reward, moved.terminated, late)

    def _observe(self) -> None:
        self.leader_observation = self.game.observe(self._state)
        self.follower_observation = self.leader_observation
        if self.game.observes_apart:
            self.follower_observation = self.game.follower_observe(self._state)


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
