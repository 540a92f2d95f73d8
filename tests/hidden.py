"""Tabular games whose tables are hidden, so that what networks learn meets the truth."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from wrapped import Wrapped

from games.tabular import TabularDesign, TabularGame
from stackelberg import exact
from stackelberg.rollout import Points, Trajectories
from stackelberg.types import Commitment, TabularResponse


class Hidden(Wrapped):
    """A tabular game that shows of its states a few features alone.

    Args:
        inner: the game. features: [S, d], a row for each state; random ones in 4 dimensions unless
            given.
    """

    def __init__(self, inner: TabularGame | TabularDesign, features: Tensor | None = None) -> None:
        super().__init__(inner)
        self.name = f"hidden {inner.name}"
        if features is None:
            features = torch.from_numpy(np.random.default_rng(5).normal(size=(inner.states, 4)))
        self.features = features.float()
        low, high = self.features.aminmax(dim=0)
        self.observation_space = spaces.Box(low.numpy(), high.numpy(), dtype=np.float32)

    def observe(self, state: Tensor) -> Tensor:
        return self.features[state]

    def states(self, observation: Tensor) -> Tensor:
        """Which states [...] are observed [..., d]."""
        away = observation.unsqueeze(-2) - self.features
        return away.square().sum(-1).argmin(-1)

    def hide_play(self, seen: Trajectories) -> Trajectories:
        """The same play as it is seen here: points in place of states."""
        shown = self.observe(torch.cat([seen.state.flatten(1), seen.next_state.flatten(1)], 1))
        never = torch.zeros(shown.shape[:2], dtype=torch.bool)
        index = torch.arange(seen.state[0].numel()).view_as(seen.state[0]).expand_as(seen.state)
        points = Points(shown, shown, never, never)
        return replace(seen, state=index, next_state=index + index[0].numel(), points=points)

    def unit(self, observation: Tensor) -> Tensor:
        return self.inner.observe(self.states(observation))

    def policy(self, commitment: Commitment) -> Tensor:
        """f in every state [M, S, A]."""
        return commitment.rule(self.features).detach().exp()

    def hide(self, commitment: Commitment) -> Commitment:
        """The same leaders [M], given by a rule on what is observed."""
        if commitment.design is not None:
            return commitment
        policy = commitment.policy

        def rule(observation: Tensor) -> Tensor:
            state = self.states(observation)
            leader = torch.arange(len(policy)).unsqueeze(-1)
            return policy.log()[leader, state.expand(len(policy), -1)]

        return Commitment(policy[:, :0], None, rule)

    def tables(self, commitment: Commitment, response) -> tuple[Tensor, Tensor]:
        """g(b|s,a) [M, S, A, B] and V_F(s,a) [M, S, A] of a response to M leaders."""
        leaders, states, actions = commitment.policy.shape
        seen = self.features.expand(leaders, -1, -1)
        moves = [torch.full((leaders, states), a) for a in range(actions)]
        policy = torch.stack([response.log_prob(seen, a) for a in moves], 2).exp()
        return policy, torch.stack([response.value(seen, a) for a in moves], 2)

    def shortfall(self, commitment: Commitment, response) -> Tensor:
        """The response's exact best-response gap, in temperatures per discounted step: [M]."""
        model, policy = self.inner.model(commitment.design), self.tables(commitment, response)[0]
        gap = exact.follower_gap(model, commitment.policy, policy)
        own = replace(model, leader_discount=model.follower_discount)
        time = exact.visitation(own, commitment.policy, policy).sum(-1)
        return gap / self.temperature / time

    def policy_error(self, commitment: Commitment, response) -> float:
        """Mean absolute error of g(b|s,a)."""
        best = exact.best_response(self.inner.model(commitment.design), commitment.policy)
        return (self.tables(commitment, response)[0] - best.policy).abs().mean().item()


def coded(inner: TabularGame | TabularDesign) -> Hidden:
    """The game behind four numbers from -1 to 1."""
    draw = torch.Generator().manual_seed(0)
    return Hidden(inner, 2 * torch.rand(inner.states, 4, generator=draw) - 1)


class Shown:
    """A follower's tables, by what is observed of hidden states."""

    def __init__(self, game: Hidden, tables: TabularResponse) -> None:
        self.game, self.tables = game, tables

    def sample(
        self, observation: Tensor, leader_action: Tensor, generator: torch.Generator
    ) -> Tensor:
        return self.tables.sample(self.game.unit(observation), leader_action, generator)

    def log_prob(self, observation: Tensor, leader_action: Tensor) -> Tensor:
        return self.tables.log_prob(self.game.unit(observation), leader_action)

    def value(self, observation: Tensor, leader_action: Tensor) -> Tensor:
        return self.tables.value(self.game.unit(observation), leader_action)


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
