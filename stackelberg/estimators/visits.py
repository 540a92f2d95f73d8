"""Averages over all visits of the same follower choice, or of the situation it was made in."""

import torch
from torch import Tensor

from stackelberg.estimators.evidence import Evidence
from stackelberg.estimators.signals import sees_action
from stackelberg.rollout import Trajectories


class Visits:
    """Which follower choices were made in some play [M, N, T], and in which situations.

    A situation is s, or (s,a) where the follower sees a; a choice is a situation and b. Averages
    are linear, so that averages of gradients need never be formed: sum_t w_t mean(G)_t is
    sum_t mean(w)_t G_t.
    """

    def __init__(self, evidence: Evidence, seen: Trajectories) -> None:
        _, states, leader_actions, follower_actions = evidence.critics.benefit.shape
        self.situation, self.situations = seen.state, states
        if sees_action(evidence):
            self.situation = seen.state * leader_actions + seen.leader_action
            self.situations = states * leader_actions
        self.choice = self.situation * follower_actions + seen.follower_action
        self.choices = self.situations * follower_actions

    def choice_mean(self, values: Tensor) -> Tensor:
        """The mean of the values [M, N, T] over all visits of each step's choice."""
        return _mean(values, self.choice, self.choice, self.choice, self.choices)

    def situation_mean(self, values: Tensor) -> Tensor:
        """The mean of the values [M, N, T] over all visits of each step's situation."""
        return _mean(values, self.situation, self.situation, self.situation, self.situations)

    def centred(self, values: Tensor) -> Tensor:
        """The choice's mean less the situation's: what the choice adds."""
        return self.choice_mean(values) - self.situation_mean(values)


def centred_between(values: Tensor, source: Visits, target: Visits, over: Visits) -> Tensor:
    """`Visits.centred` of values at the steps of `source`, read at those of `target`.

    Sums over the visits of `source`, divided by the number of visits in `over`. Reading what was
    averaged over other play has over = source; its transpose has over = target.
    """
    return _mean(values, source.choice, target.choice, over.choice, over.choices) - _mean(
        values, source.situation, target.situation, over.situation, over.situations
    )


def sums(values: Tensor, cell: Tensor, cells: int) -> Tensor:
    """[M, cells]: the sum of the values [M, N, T] over the steps in each cell."""
    table = torch.zeros(len(values), cells, dtype=values.dtype)
    return table.scatter_add_(1, cell.flatten(1), values.flatten(1))


def _mean(values: Tensor, source: Tensor, target: Tensor, over: Tensor, cells: int) -> Tensor:
    visits = sums(torch.ones(over.shape, dtype=values.dtype), over, cells)
    table = sums(values, source, cells) / visits.clamp(min=1)
    return table.gather(1, target.flatten(1)).view(target.shape)
