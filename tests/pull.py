"""A linear-quadratic game given without its matrices, and what is known of it.

s' = drift s + force b + push a + noise; the follower is paid -s^2 - cost b^2, the leader
-(s - goal)^2 - price a^2. The leader's gains are [M, 1, 2] of (1, s).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from agents import FreeDesign
from agents.parameters import normal
from stackelberg.game import Game, Reenacted, Step
from stackelberg.types import Commitment

SWEEPS = 120


class Solution(NamedTuple):
    """Of M leaders: b ~ N(answer (1, s, a), variance), V_F and the leader's objective."""

    answer: Tensor  # [M, 3]
    variance: Tensor  # [M]
    value: Tensor  # [M, 3, 3], V_F = (1, s, a) value (1, s, a)'
    leader_value: Tensor  # [M, 2, 2], V_L(s) alike
    objective: Tensor  # [M]


class Pull(Game):
    name = "pull"
    drift, force, push, noise, cost, goal, price, start = 0.8, 0.5, 0.4, 0.1, 0.5, 1.0, 0.1, 0.5

    def __init__(self, **settings) -> None:
        fixed = {"temperature": 0.2, "horizon": 50, "follower_discount": 0.9}
        super().__init__(**fixed | {"leader_discount": 0.9} | settings)
        self.leader_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
        self.follower_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
        self.observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)

    def initial(self, n: int, generator: torch.Generator) -> Tensor:
        return self.start * torch.randn(n, 1, generator=generator)

    def observe(self, state: Tensor) -> Tensor:
        return state.float()

    def step(
        self,
        state: Tensor,
        leader_action: Tensor,
        follower_action: Tensor,
        generator: torch.Generator,
    ) -> Step:
        theirs = -(state**2) - self.cost * follower_action**2
        ours = -((state - self.goal) ** 2) - self.price * leader_action**2
        following = self.drift * state + self.force * follower_action + self.push * leader_action
        following = following + self.noise * torch.randn(len(state), 1, generator=generator)
        never = torch.zeros(len(state), dtype=torch.bool)
        return Step(following, ours.squeeze(-1), theirs.squeeze(-1), never)

    def solution(self, gains: Tensor, std: Tensor, fixed: bool = False) -> Solution:
        """Attached to the gains [M, 1, 2] and std [M, 1]; a need not be Gaussian.

        Args:
            fixed: is the follower's answer held where it is?
        """
        count, beta = len(gains), self.temperature
        arrive = torch.tensor([[1.0, 0, 0, 0], [0, self.drift, self.push, self.force]]).double()
        theirs = torch.diag(torch.tensor([0.0, -1.0, 0.0, -self.cost])).double()
        ours = torch.diag(torch.tensor([-(self.goal**2), -1.0, -self.price, 0.0])).double()
        ours[0, 1] = ours[1, 0] = self.goal
        moves = torch.cat([torch.eye(2).double().expand(count, -1, -1), gains], 1)  # (1, s, a)

        def averaged(value: Tensor) -> Tensor:
            """E_a of a quadratic in (1, s, a), in (1, s) [M, 2, 2]."""
            mean = moves.mT @ value @ moves
            return mean + torch.nn.functional.pad(
                (value[:, 2, 2] * std[:, 0] ** 2)[:, None, None], (0, 1, 0, 1)
            )

        def later(value: Tensor) -> Tensor:
            """E of a quadratic in (1, s') as one in (1, s, a, b)."""
            shock = torch.nn.functional.pad(
                (value[:, 1, 1] * self.noise**2)[:, None, None], (0, 3, 0, 3)
            )
            return arrive.mT @ value @ arrive + shock

        def constant(number: Tensor, size: int) -> Tensor:
            return torch.nn.functional.pad(number[:, None, None], (0, size - 1, 0, size - 1))

        blind = torch.zeros(count, 4, 3, dtype=torch.float64)  # (1, s, a, b) from (1, s, b)
        blind[:, 0, 0] = blind[:, 1, 1] = blind[:, 3, 2] = 1.0
        blind = torch.cat([blind[:, :2], torch.nn.functional.pad(gains, (0, 1)), blind[:, 3:]], 1)
        value = torch.zeros(count, 3, 3, dtype=torch.float64)
        for _ in range(SWEEPS):
            q = theirs + self.follower_discount * later(averaged(value))
            curve = q[:, 3, 3]
            answer = -q[:, 3, :3] / curve.unsqueeze(-1)
            if not self.follower_observes_action:
                met = -(blind.mT @ q @ blind)[:, 2, :2] / curve.unsqueeze(-1)
                answer = torch.nn.functional.pad(met, (0, 1))
            acts = torch.cat([torch.eye(3).double().expand(count, -1, -1), answer.unsqueeze(1)], 1)
            entropy = beta / 2 * torch.log(math.pi * beta / -curve)
            value = acts.mT @ q @ acts + constant(entropy, 3)
        variance = beta / (-2 * curve)
        if fixed:
            if self.leader_moves == "once":  # what it answers states with
                answer = answer[:, :2] + answer[:, 2:] * gains[:, 0]
                answer = torch.nn.functional.pad(answer, (0, 1)).unsqueeze(1)
                acts = torch.cat([acts[:, :3], answer], 1)
            acts, variance = acts.detach(), variance.detach()
        leader = torch.zeros(count, 2, 2, dtype=torch.float64)
        for _ in range(SWEEPS):
            q = ours + self.leader_discount * later(leader)
            leader = averaged(acts.mT @ q @ acts + constant(q[:, 3, 3] * variance, 3))
        objective = leader[:, 0, 0] + leader[:, 1, 1] * self.start**2
        return Solution(answer, variance, value, leader, objective)


class PullChoice(Pull):
    """The leader chooses between a = -1 and a = 1."""

    name = "pull-choice"

    def __init__(self, **settings) -> None:
        super().__init__(**settings)
        self.leader_space = spaces.Discrete(2)

    def step(self, state, leader_action, follower_action, generator) -> Step:
        return super().step(state, 2.0 * leader_action[:, None] - 1, follower_action, generator)


class Odds(nn.Module):
    """f(a) = softmax of two logits, in whatever state."""

    rows = 1

    def __init__(self, seeds: Sequence[int]) -> None:
        super().__init__()
        self.count = len(seeds)
        self.logits = nn.Parameter(normal(seeds, 1, 2, std=0.5))

    def log_policy(self, observation: Tensor) -> Tensor:
        return torch.log_softmax(self.logits, -1).expand(-1, observation.shape[-2], -1)

    def position(self, observation: Tensor) -> Tensor:
        return self.log_policy(observation)


class PullDesign(Pull):
    """a = x_0 + x_1 s by a design x, which is told how it moves steps."""

    name = "pull-design"
    leader_moves = "once"
    moves_transition = True

    def __init__(self, **settings) -> None:
        super().__init__(**settings)
        self.leader_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)

    def action(self, state: Tensor, design: Tensor) -> Tensor:
        return design[..., :1] + design[..., 1:] * state

    def step(self, state, leader_action, follower_action, generator) -> Step:
        action = self.action(state, leader_action)
        return super().step(state, action, follower_action, generator)

    def reenact(self, observation, leader_action, follower_action, next_observation) -> Reenacted:
        action = self.action(observation, leader_action)
        reward = -((observation - self.goal) ** 2) - self.price * action**2
        theirs = -(observation**2) - self.cost * follower_action**2
        moved = next_observation + self.push * (action - action.detach())
        return Reenacted(moved, reward.squeeze(-1), theirs.squeeze(-1))


class PullScored(PullDesign):
    """The density of its transitions is all that is told."""

    name = "pull-scored"
    price = 0.0
    reenact = Game.reenact

    def log_transition(
        self, observation, leader_action, follower_action, next_observation
    ) -> Tensor:
        action = self.action(observation, leader_action)
        mean = self.drift * observation + self.force * follower_action + self.push * action
        return torch.distributions.Normal(mean, self.noise).log_prob(next_observation).squeeze(-1)


def moments(leader: nn.Module) -> tuple[Tensor, Tensor]:
    """Gains [M, 1, 2] and standard deviations [M, 1] of what any of these leaders does."""
    if isinstance(leader, Odds):
        mean = leader.log_policy(torch.zeros(1, 1)).exp() @ torch.tensor([[-1.0], [1.0]]).double()
        return torch.nn.functional.pad(mean, (0, 1)), (1 - mean.squeeze(1) ** 2).sqrt()
    if isinstance(leader, FreeDesign):
        return leader.design().unsqueeze(1), torch.zeros(leader.count, 1, dtype=torch.float64)
    return leader.gain(), leader.std()


class PullFollower:
    """The known answer to a leader, which it knows."""

    name = "known"

    def __init__(self, leader: nn.Module) -> None:
        self.leader = leader

    def best_respond(self, game: Pull, commitment: Commitment, seeds) -> "PullResponse":
        with torch.no_grad():
            return PullResponse(game, game.solution(*moments(self.leader)))


class PullResponse:
    gap, steps = None, 0

    def __init__(self, game: Pull, known: Solution) -> None:
        self.game, self.known = game, known

    def _row(self, observation: Tensor, leader_action: Tensor) -> Tensor:
        observation = observation.double()
        if isinstance(self.game, PullChoice):
            leader_action = 2.0 * leader_action.unsqueeze(-1) - 1
        if isinstance(self.game, PullDesign):
            leader_action = self.game.action(observation, leader_action)
        return torch.cat([torch.ones_like(observation), observation, leader_action], -1)

    def _mean(self, observation: Tensor, leader_action: Tensor) -> Tensor:
        return self._row(observation, leader_action) @ self.known.answer.unsqueeze(-1)

    def sample(self, observation, leader_action, generator) -> Tensor:
        mean = self._mean(observation, leader_action)
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype)
        return mean + self.known.variance.sqrt()[:, None, None] * noise

    def log_density(self, observation, leader_action, action) -> Tensor:
        mean = self._mean(observation, leader_action)
        std = self.known.variance.sqrt()[:, None, None]
        return torch.distributions.Normal(mean, std).log_prob(action.to(mean)).squeeze(-1)

    def value(self, observation, leader_action) -> Tensor:
        row = self._row(observation, leader_action)
        return ((row @ self.known.value) * row).sum(-1)
