"""What the estimators that sum along sampled episodes share.

Every one of them is (1/N) sum_t w_t Q_t for some weights w: Q_t is a sampled gradient of Q_F at
(s_t, a_t, b_t), a discounted sum of the per-step signals psi_k over the rest of the episode, and N
the number of episodes begun. Summing over t first leaves one scan over time and one surrogate,
sum_k psi_k e_k with e_k = sum_{t<=k} gamma_F^{k-t} w_t, whatever the number of parameters.

    psi_k = grad log f(a_k|s_k) A_F(s_k,a_k)                  follower sees a_k; sums over k > t
    psi_k = grad log f(a_k|s_k) [q_F(s_k,a_k,b_k) - Q_F]      it does not; k >= t
    psi_k = grad r_F + gamma_F grad log P V_F(s_{k+1})        a design; k >= t
"""

import math
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from stackelberg.estimators.evidence import Evidence
from stackelberg.exact import expected_next
from stackelberg.hypergradient import restarting_sum
from stackelberg.model import TabularModel, spread
from stackelberg.rollout import Trajectories
from stackelberg.types import Commitment


class Signals:
    """One estimate's signals along some play [M, N, T]: the iteration's own, or other play.

    What steps weigh is summed up by the entry of the policy, or of the rewards, that they met; only
    then does anything have a gradient.
    """

    def __init__(
        self, evidence: Evidence, commitment: Commitment, seen: Trajectories | None = None
    ) -> None:
        self.evidence, self.commitment = evidence, commitment
        self.game, self.critics = evidence.game, evidence.critics
        self.seen = evidence.trajectories if seen is None else seen
        leaders, states, leader_actions, follower_actions = self.critics.benefit.shape
        first = torch.arange(0, leaders * states, states)[:, None, None]
        self.state = first + self.seen.state  # index of (m,s) in a table [M, S], and so on
        self.pair = self.state * leader_actions + self.seen.leader_action
        self.cell = self.pair * follower_actions + self.seen.follower_action

    @cached_property
    def model(self) -> TabularModel:
        """The true model under the design, attached to it."""
        return self.game.model(self.commitment.design)

    @cached_property
    def arrival(self) -> Tensor:
        """Index of (m,s_{k+1}) [M, N, T]."""
        return self.state - self.seen.state + self.seen.next_state

    @cached_property
    def share(self) -> Tensor:
        """1/N [M, 1, 1], N the episodes begun in the iteration's own play."""
        return 1 / self.evidence.trajectories.episodes.double()[:, None, None]

    @cached_property
    def scale(self) -> Tensor:
        """1 / (N f(a_k|s_k)) [M, N, T], with which grad f(a_k|s_k) is a share of scores."""
        return self.share / self.evidence.commitment.policy.take(self.pair)

    @cached_property
    def playing(self) -> tuple[Tensor, Tensor]:
        """1 where the leader, the follower still plays, else 0: [M, N, T] each."""
        seen, points = self.seen, self.seen.points
        if points is None:
            return torch.ones(()), torch.ones(())
        steps = seen.state[0].numel()
        leader, follower = (
            (~out[:, :steps]).double().view_as(seen.time)
            for out in (points.leader_out, points.follower_out)
        )
        return leader, follower

    @cached_property
    def discounts(self) -> Tensor:
        """gamma_L^k [M, N, T], k from the episode's start."""
        return self.game.leader_discount ** self.seen.time.double()

    @property
    def benefits(self) -> Tensor:
        """delta_k [M, N, T]."""
        return self.critics.benefit.take(self.cell)

    @property
    def sees_action(self) -> bool:
        """Does the follower choose after a leader's action that it has seen?"""
        return self.commitment.design is None and self.game.follower_observes_action

    def trace(self, weight: Tensor) -> Tensor:
        """e_k [M, N, T]: the weights w_t of the Q_t in which the signal of step k occurs.

        sum_{t<=k} gamma_F^{k-t} w_t; for a follower that sees a_k, over t < k.
        """
        total = restarting_sum(weight, self.seen.time, self.game.follower_discount)
        return total - weight if self.sees_action else total

    def direct(self, weight: Tensor) -> Tensor:
        """[M] (1/N) sum_k weight_k times the leader's own signal, the follower held fixed.

        grad log f(a_k|s_k) A_L(s_k,a_k); of a design grad r_L + gamma_L grad log P V_L(s_{k+1}).
        The same for all sampling estimators, so that they differ in the indirect term alone.
        """
        if self.commitment.design is not None:
            return self.design("leader", weight)
        value, state_value = self.critics.leader_value, self.critics.leader_state_value
        return self.score(weight * (value.take(self.pair) - state_value.take(self.state)))

    def indirect(self, weight: Tensor) -> Tensor:
        """[M] (1 / (beta N)) sum_k psi_k weight_k, the weight mostly a `trace`."""
        weight = weight / spread(self.evidence.temperature, 2)
        if self.commitment.design is not None:
            return self.design("follower", weight)
        if self.sees_action:
            value, state_value = self.critics.follower_value, self.critics.follower_state_value
            return self.score(weight * (value.take(self.pair) - state_value.take(self.state)))
        value = self.critics.follower_action_value
        mean = (self.critics.policy.unsqueeze(-1) * value).sum(-2, keepdim=True)
        return self.score(weight * (value - mean).take(self.cell))

    def score(self, weight: Tensor) -> Tensor:
        """[M] (1/N) sum_k weight_k grad log f(a_k|s_k) while the leader plays, weight [M, N, T]."""
        policy, (plays, _) = self.commitment.policy, self.playing
        total = sums(plays * weight * self.scale, self.pair, policy.shape)
        return (policy * total).sum((-2, -1))

    def design(self, who: str, weight: Tensor, tail: Tensor | float = 0.0) -> Tensor:
        """[M] (1/N) sum_k weight_k [ grad r + gamma grad log P V(s_{k+1}) ] of the one or other.

        From V(s_{k+1}) its expectation is taken off: no bias, less noise.

        Args:
            who: "leader" or "follower". weight: [M, N, T].
            tail: what the sample adds to the value of s_{k+1} [M, N, T], 0 after an ending.
        """
        model, seen = self.model, self.seen
        total = self.paid(getattr(model, f"{who}_reward"), weight)
        if not model.transition.requires_grad:
            return total
        value = getattr(self.critics, f"{who}_state_value")
        arrived = torch.where(seen.terminated, 0.0, value.take(self.arrival)) + tail
        arrived = arrived - expected_next(model.detach(), value).take(self.cell)
        outcome = self.cell * model.states + seen.next_state
        chance = model.transition.take(outcome)
        if model.ending is not None:
            chance = torch.where(seen.terminated, model.ending.take(outcome), chance)
        gained = getattr(model, f"{who}_discount") * weight * arrived * chance.log()
        return total + (gained * self.share).sum((-2, -1))

    def paid(self, reward: Tensor, weight: Tensor) -> Tensor:
        """[M] (1/N) sum_k weight_k grad reward(s_k,a_k,b_k), reward [M, S, A, B]."""
        total = sums(weight * self.share, self.cell, self.critics.benefit.shape)
        return (reward * total).sum((-3, -2, -1))


def sums(values: Tensor, index: Tensor, shape: Sequence[int]) -> Tensor:
    """A table of that shape: at each index [M, N, T] into it, the sum of the values there."""
    table = torch.zeros(math.prod(shape), dtype=values.dtype)
    return table.index_add_(0, index.flatten(), values.flatten()).view(*shape)
