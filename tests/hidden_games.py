"""Tabular games whose tables nobody is told, so what is learned in them can be judged exactly."""

from dataclasses import replace

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from games.tabular import TabularDesign, TabularGame
from stackelberg import exact
from stackelberg.game import Game, Step
from stackelberg.types import Commitment


class Hidden(Game):
    """Steps as the inner game does, but has no tables.

    Args:
        inner: the game. dense: observe a state as a few random numbers instead of one-hot.
    """

    def __init__(self, inner: TabularGame | TabularDesign, dense: bool = True) -> None:
        super().__init__(
            leader_discount=inner.leader_discount,
            follower_discount=inner.follower_discount,
            temperature=inner.temperature,
            horizon=inner.horizon,
            follower_observes_action=inner.follower_observes_action,
        )
        self.inner, self.leader_moves = inner, inner.leader_moves
        self.leader_space, self.follower_space = inner.leader_space, inner.follower_space
        self.observation_space, self.code = inner.observation_space, torch.eye(inner.states)
        if dense:
            draw = torch.Generator().manual_seed(0)
            self.code = 2 * torch.rand(inner.states, 4, generator=draw) - 1
            self.observation_space = spaces.Box(-1, 1, (4,), np.float32)

    def initial(self, n: int, generator: torch.Generator) -> Tensor:
        return self.inner.initial(n, generator)

    def step(self, *arguments) -> Step:
        return self.inner.step(*arguments)

    def observe(self, state: Tensor) -> Tensor:
        return self.code[state]

    def hide(self, commitment: Commitment) -> Commitment:
        """The same leaders [M], given by a rule on what is observed."""
        if commitment.design is not None:
            return commitment
        policy = commitment.policy

        def rule(observation: Tensor) -> Tensor:
            state = torch.cdist(observation, self.code).argmin(-1)
            leader = torch.arange(len(policy)).unsqueeze(-1)
            return policy.log()[leader, state.expand(len(policy), -1)]

        return Commitment(policy[:, :0], None, rule)

    def tables(self, commitment: Commitment, response) -> tuple[Tensor, Tensor]:
        """g(b|s,a) [M, S, A, B] and V_F(s,a) [M, S, A] of a response to M leaders."""
        leaders, states, actions = commitment.policy.shape
        seen = self.code.expand(leaders, -1, -1)
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
