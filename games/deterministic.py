"""Games without chance, written as one differentiable function of state and actions."""

from abc import abstractmethod

import torch
from torch import Tensor

from stackelberg.game import Game, Reenacted, Step


class DeterministicGame(Game):
    """A game whose steps are a function in torch, so that it knows its pathwise derivatives."""

    @abstractmethod
    def move(self, state: Tensor, leader_action: Tensor, follower_action: Tensor) -> Step:
        """One step of n copies, attached to the leader's action; all in float64."""

    @abstractmethod
    def place(self, observation: Tensor) -> Tensor:
        """The states [n, ...] of observations [n, d]: one that is observed so."""

    @torch.no_grad()
    def step(
        self,
        state: Tensor,
        leader_action: Tensor,
        follower_action: Tensor,
        generator: torch.Generator,
    ) -> Step:
        return self.move(state, leader_action.double(), follower_action.double())

    def reenact(
        self,
        observation: Tensor,
        leader_action: Tensor,
        follower_action: Tensor,
        next_observation: Tensor,
    ) -> Reenacted:
        place = self.place(observation.double())
        moved = self.move(place, leader_action.double(), follower_action.double())
        seen = self.observe(moved.state)
        following = next_observation + (seen - seen.detach())
        return Reenacted(following, moved.leader_reward, moved.follower_reward)
