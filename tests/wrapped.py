"""A game around a game."""

import torch
from torch import Tensor

from stackelberg.game import Game, Step


class Wrapped(Game):
    """Plays as the inner game does; how its states are observed is for others to say."""

    def __init__(self, inner: Game) -> None:
        super().__init__(
            leader_discount=inner.leader_discount,
            follower_discount=inner.follower_discount,
            temperature=inner.temperature,
            horizon=inner.horizon,
            follower_observes_action=inner.follower_observes_action,
            optimum=inner.optimum,
        )
        self.inner, self.name, self.leader_moves = inner, inner.name, inner.leader_moves
        self.leader_space, self.follower_space = inner.leader_space, inner.follower_space

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
