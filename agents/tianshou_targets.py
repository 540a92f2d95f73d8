"""Soft targets, as all algorithms with networks have them.

Networks work in units of their own: Q = level + scale q, where the level, common to all (x, b), is
found in closed form and the scale is that of returns. Importing Tianshou takes seconds.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from tianshou.algorithm.modelfree.sac import FixedAlpha
from tianshou.data import Batch
from torch import Tensor, nn

from stackelberg.game import Game
from stackelberg.induced import induced_observation_space


class SoftTargets:
    """Stands before an algorithm of Tianshou's: one-step soft targets in units of their own.

    What is met enters the networks standardised by the first play, and `seen` below is so.

    With Q = level + scale q and V = level + scale v, the target of q(x, b) is
    (r + gamma V(x') - level) / scale, where nothing follows an ending.
    """

    fewest = 1  # updates in a round, unless a quarter of its transitions is less
    policy: Any
    alpha: Any
    scale: Tensor
    level: Tensor
    centre: Tensor
    spread: Tensor

    def take_units(self, game: Game) -> None:
        module = cast(nn.Module, self)
        module.register_buffer("scale", torch.ones((), dtype=torch.float64))
        module.register_buffer("level", torch.zeros((), dtype=torch.float64))
        inputs = induced_observation_space(game).shape
        module.register_buffer("centre", torch.zeros(inputs))
        module.register_buffer("spread", torch.ones(inputs))
        self.temperature, self.discount = game.temperature, game.follower_discount
        self.rescale(1.0)

    def rescale(self, scale: float) -> None:
        """Take this unit of returns."""
        self.scale.fill_(scale)
        self.alpha = FixedAlpha(self.temperature / scale)

    def standardise(self, seen: Tensor) -> None:
        """Take the units of what is met from this [n, d], where they matter."""

    def standard(self, seen: Tensor) -> Tensor:
        """What is met [..., d] in those units."""
        return (seen - self.centre) / self.spread

    def survey(self, seen: Tensor, action: Tensor) -> None:
        """Take note of what the response meets [n, d] and does [n] or [n, e]."""

    def stray(self, action: Tensor, free: Tensor) -> Tensor:
        """What a copy does that strays: it acts freely, or does something near the response's."""
        return free

    def slow(self, share: float) -> None:
        """Take smaller steps as a round of updates goes on, where the last digits matter."""

    def value(self, seen: Tensor) -> Tensor:
        """v [n] of what the follower met [n, d], standard."""
        raise NotImplementedError

    def action_value(self, seen: Tensor, action: Tensor) -> Tensor:
        """q [n]."""
        raise NotImplementedError

    def best_value(self, seen: Tensor) -> Tensor:
        """v [n] of softmax(q / alpha), where the policy may be another: at least `value`."""
        return self.value(seen)

    def lagged_value(self, seen: Tensor) -> Tensor:
        """v [n] by the target networks."""
        batch = Batch(obs=seen)
        found = self._target_q_compute_value(batch, self.policy(batch))  # type: ignore[attr-defined]
        return cast(Tensor, found).flatten()

    @torch.no_grad()
    def _preprocess_batch(self, batch: Any, buffer: Any, indices: Any) -> Any:
        batch.returns = self._target(batch, self.lagged_value).float()
        return batch

    def _target(self, batch: Any, value_of: Callable[[Tensor], Tensor]) -> Tensor:
        value = value_of(batch.obs_next.flatten(0, 1)).view_as(batch.odds)
        value = (batch.odds * value).sum(-1)
        future = (self.level + self.scale * value).masked_fill(batch.terminated, 0.0)
        return (batch.rew + self.discount * future - self.level) / self.scale

    @torch.no_grad()
    def errors(self, batch: Any) -> Tensor:
        """Soft TD errors of transitions [n], in units of the return."""
        target = self._target(batch, self.value)
        return self.scale * (target - self.action_value(batch.obs, batch.act))

    @torch.no_grad()
    def slack(self, seen: Tensor) -> Tensor:
        """By how much V falls short of that of softmax(Q / beta), [n]."""
        return self.scale * (self.best_value(seen) - self.value(seen))

    @torch.no_grad()
    def find_level(self, batch: Any) -> None:
        """Set the level to where TD errors are 0 on average."""
        error = self.errors(batch)
        self.level += error.mean() / (1 - self.discount * (~batch.terminated).double().mean())


def units_of(algorithms: list[Any]) -> tuple[Tensor, Tensor, Tensor]:
    """alpha [M, 1, 1], level and scale [M, 1], as they are now."""
    level = torch.stack([one.level for one in algorithms]).unsqueeze(-1)
    scale = torch.stack([one.scale for one in algorithms]).unsqueeze(-1)
    return algorithms[0].temperature / scale.unsqueeze(-1), level, scale


def standards(algorithms: list[Any]) -> Callable[[Tensor], Tensor]:
    """What the followers meet [M, n, d] in the units of each, as they are now."""
    centre = torch.stack([one.centre for one in algorithms]).unsqueeze(1)
    spread = torch.stack([one.spread for one in algorithms]).unsqueeze(1)
    return lambda seen: (seen - centre) / spread
