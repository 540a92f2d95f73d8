"""Averages over all visits of the same follower choice, or of the situation it was made in."""

from functools import cached_property

import torch
from torch import Tensor

from stackelberg.estimators.signals import Signals, sums


class Visits:
    """Which follower choices were made in some play [M, N, T], and in which situations.

    A situation is s, or (s,a) where the follower sees a; a choice is a situation and b. Averages
    are linear, so that averages of gradients need never be formed: sum_t w_t mean(G)_t is
    sum_t mean(w)_t G_t.
    """

    def __init__(self, signals: Signals) -> None:
        signals.game.require_tables()  # elsewhere nothing is visited twice
        leaders, states, leader_actions, follower_actions = signals.critics.benefit.shape
        self.situation, self.situations = signals.state, leaders * states
        if signals.sees_action:
            self.situation, self.situations = signals.pair, self.situations * leader_actions
        self.choice = self.situation * follower_actions + signals.seen.follower_action
        self.choices = self.situations * follower_actions

    @cached_property
    def of_choice(self) -> Tensor:
        """How many visits each step's choice has [M, N, T]."""
        return _visits(self.choice, self.choice, self.choices)

    @cached_property
    def of_situation(self) -> Tensor:
        """How many visits each step's situation has [M, N, T]."""
        return _visits(self.situation, self.situation, self.situations)

    def choice_mean(self, values: Tensor) -> Tensor:
        """The mean of the values [M, N, T] over all visits of each step's choice."""
        return _total(values, self.choice, self.choice, self.choices) / self.of_choice

    def situation_mean(self, values: Tensor) -> Tensor:
        """The mean of the values [M, N, T] over all visits of each step's situation."""
        total = _total(values, self.situation, self.situation, self.situations)
        return total / self.of_situation

    def centred(self, values: Tensor) -> Tensor:
        """The choice's mean less the situation's: what the choice adds."""
        return self.choice_mean(values) - self.situation_mean(values)


def centred_between(values: Tensor, source: Visits, target: Visits, over: Visits) -> Tensor:
    """`Visits.centred` of values at the steps of `source`, read at those of `target`.

    Sums over the visits of `source`, divided by the number of visits in `over`. Reading what was
    averaged over other play has over = source; its transpose has over = target.
    """
    choice = _total(values, source.choice, target.choice, source.choices)
    situation = _total(values, source.situation, target.situation, source.situations)
    choices = _visits(over.choice, target.choice, over.choices)
    situations = _visits(over.situation, target.situation, over.situations)
    return choice / choices.clamp(min=1) - situation / situations.clamp(min=1)


def _total(values: Tensor, source: Tensor, target: Tensor, cells: int) -> Tensor:
    return sums(values, source, (cells,)).take(target)


def _visits(source: Tensor, target: Tensor, cells: int) -> Tensor:
    return torch.bincount(source.flatten(), minlength=cells).take(target)
