"""Tabular games whose tables are hidden, so that what networks learn meets the truth."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from games.tabular import TabularGame
from stackelberg import exact
from stackelberg.game import Game, Step
from stackelberg.rollout import Points, Trajectories
from stackelberg.types import Commitment, TabularResponse


class Hidden(Game):
    """A tabular game that shows of its states a few features alone.

    Args:
        inner: the game. features: [S, d], a row for each state; random ones in 4 dimensions unless
            given.
    """

    def __init__(self, inner: TabularGame, features: Tensor | None = None) -> None:
        super().__init__(
            leader_discount=inner.leader_discount,
            follower_discount=inner.follower_discount,
            temperature=inner.temperature,
            horizon=inner.horizon,
            follower_observes_action=inner.follower_observes_action,
            optimum=inner.optimum,
        )
        self.inner, self.name = inner, f"hidden {inner.name}"
        self.leader_space, self.follower_space = inner.leader_space, inner.follower_space
        if features is None:
            features = torch.from_numpy(np.random.default_rng(5).normal(size=(inner.states, 4)))
        self.features = features.float()
        self.observation_space = spaces.Box(-np.inf, np.inf, (features.shape[1],), np.float32)

    def initial(self, n: int, generator: torch.Generator) -> Tensor:
        return self.inner.initial(n, generator)

    def step(
        self,
        state: Tensor,
        leader_action: Tensor,
        follower_action: Tensor,
        generator: torch.Generator,
    ) -> Step:
        return self.inner.step(state, leader_action, follower_action, generator)

    def observe(self, state: Tensor) -> Tensor:
        return self.features[state]

    def states(self, observation: Tensor) -> Tensor:
        """Which states [...] are observed [..., d]."""
        away = observation.unsqueeze(-2) - self.features
        return away.square().sum(-1).argmin(-1)

    def hide(self, seen: Trajectories) -> Trajectories:
        """The same play as it is seen here: points in place of states."""
        shown = self.observe(torch.cat([seen.state.flatten(1), seen.next_state.flatten(1)], 1))
        never = torch.zeros(shown.shape[:2], dtype=torch.bool)
        index = torch.arange(seen.state[0].numel()).view_as(seen.state[0]).expand_as(seen.state)
        points = Points(shown, shown, never, never)
        return replace(seen, state=index, next_state=index + index[0].numel(), points=points)

    def one_hot(self, observation: Tensor) -> Tensor:
        return self.inner.observe(self.states(observation))

    def policy(self, commitment: Commitment) -> Tensor:
        """f in every state [M, S, A]."""
        return commitment.rule(self.features).detach().exp()


class Shown:
    """A follower's tables, by what is observed of hidden states."""

    def __init__(self, game: Hidden, tables: TabularResponse) -> None:
        self.game, self.tables = game, tables

    def sample(
        self, observation: Tensor, leader_action: Tensor, generator: torch.Generator
    ) -> Tensor:
        return self.tables.sample(self.game.one_hot(observation), leader_action, generator)

    def log_prob(self, observation: Tensor, leader_action: Tensor) -> Tensor:
        return self.tables.log_prob(self.game.one_hot(observation), leader_action)

    def value(self, observation: Tensor, leader_action: Tensor) -> Tensor:
        return self.tables.value(self.game.one_hot(observation), leader_action)


class Acting:
    """A response that shows nothing but what it does."""

    def __init__(self, response: Shown) -> None:
        self.sample = response.sample


class HidingFollower:
    """The exact best response, of which actions alone are to be had."""

    name = "hiding"

    def best_respond(self, game: Hidden, commitment: Commitment, seeds: Sequence[int]) -> Acting:
        return Acting(best_response(game, commitment))


def best_response(game: Hidden, commitment: Commitment) -> Shown:
    best = exact.best_response(game.inner.model(), game.policy(commitment))
    return Shown(game, TabularResponse(best.policy, best))


class Lookup(nn.Module):
    """A tabular softmax in a hidden game: one logit for each state and action, [M, S, A]."""

    rows = 1

    def __init__(self, game: Hidden, logits: Tensor) -> None:
        super().__init__()
        self.game, self.count = game, len(logits)
        self.logits = nn.Parameter(logits.clone())

    def log_policy(self, observation: Tensor) -> Tensor:
        state = self.game.states(observation).expand(self.count, -1)
        m = torch.arange(self.count).unsqueeze(-1)
        return torch.log_softmax(self.logits, -1)[m, state]

    def position(self, observation: Tensor) -> Tensor:
        return self.log_policy(observation)
