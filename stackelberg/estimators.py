"""Hypergradient estimators behind one signature.

An estimator takes the evidence of one outer iteration and the leader's attached commitment, and
returns two surrogates [M], direct and indirect, whose gradients add up to the hypergradient.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from stackelberg import exact, hypergradient
from stackelberg.critics import TabularMemory, believed_response
from stackelberg.errors import InputError
from stackelberg.exact import expected_next
from stackelberg.game import Game
from stackelberg.hypergradient import Critics
from stackelberg.model import TabularModel
from stackelberg.rollout import Trajectories
from stackelberg.types import Commitment, Response


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the leader has in hand after one round of play; everything in it is constant."""

    game: Game
    commitment: Commitment  # the one that was played
    response: Response
    trajectories: Trajectories
    memory: TabularMemory

    @cached_property
    def critics(self) -> Critics:
        """Values, visitation and expected trace on the learned model."""
        model = self.memory.model(self.commitment)
        believed = believed_response(self.memory, model, self.commitment.policy, self.response)
        return hypergradient.tabular_critics(model, self.commitment.policy, believed)

    @cached_property
    def true_critics(self) -> Critics:
        """The same on the true model, against the exact best response: the oracle."""
        model, policy = self.game.model(self.commitment.design), self.commitment.policy
        best = exact.best_response(model, policy)
        return hypergradient.tabular_critics(model, policy, best)


Estimator = Callable[[Evidence, Commitment], tuple[Tensor, Tensor]]


def expected_trace(evidence: Evidence, commitment: Commitment) -> tuple[Tensor, Tensor]:
    """Expected benefit trace by the adjoint solve on the learned model; the default.

    Exact when: every (s,a,b) that matters has been seen often enough for its frequencies to be
    its probabilities. Source: this project, `hypergradient.tabular_critics`.
    """
    model = evidence.memory.model(commitment)
    return _expected(evidence.critics, model, commitment)


def exact_oracle(evidence: Evidence, commitment: Commitment) -> tuple[Tensor, Tensor]:
    """The exact hypergradient from the true model: what the others are judged by."""
    model = evidence.game.model(commitment.design)
    return _expected(evidence.true_critics, model, commitment)


def naive(evidence: Evidence, commitment: Commitment) -> tuple[Tensor, Tensor]:
    """The leader's own policy gradient: the follower is taken as fixed, the indirect term is 0."""
    direct, indirect = expected_trace(evidence, commitment)
    return direct, torch.zeros_like(indirect)


def sampled_trace(evidence: Evidence, commitment: Commitment) -> tuple[Tensor, Tensor]:
    """Benefit trace summed up along the sampled episodes, learned values.

    grad J = E sum_k grad log f(a_k|s_k) [gamma_L^k A_L + e_k A_F / beta], designs by
    `hypergradient.design_surrogate`. Unbiased with true critics and long episodes, but noisy.
    Source: BC-HG, arXiv:2603.14867, in one scan over time.
    """
    if commitment.design is None:
        return _sampled_policy(evidence, commitment)
    return _sampled_design(evidence, commitment)


ESTIMATORS: dict[str, Estimator] = {
    "expected-trace": expected_trace,
    "sampled-trace": sampled_trace,
    "naive": naive,
    "exact": exact_oracle,
}


def estimator(name: str) -> Estimator:
    """The estimator of that name. Raises InputError if there is none."""
    if name not in ESTIMATORS:
        raise InputError(f"an estimator out of {', '.join(ESTIMATORS)}", f"'{name}'", "use one")
    return ESTIMATORS[name]


def _expected(
    critics: Critics, model: TabularModel, commitment: Commitment
) -> tuple[Tensor, Tensor]:
    return (
        hypergradient.direct_surrogate(critics, model, commitment.policy),
        hypergradient.indirect_surrogate(critics, model, commitment.policy),
    )


def _sampled_policy(evidence: Evidence, commitment: Commitment) -> tuple[Tensor, Tensor]:
    game, critics, seen = evidence.game, evidence.critics, evidence.trajectories
    m = torch.arange(len(critics.policy))[:, None, None]
    s, a, b = seen.state, seen.leader_action, seen.follower_action
    old = critics.policy[m, s, a]
    ratio = commitment.policy[m, s, a] / old  # its gradient at the played policy is the score
    weight = game.leader_discount ** seen.time.double()
    leader_state_value = (critics.policy * critics.leader_value).sum(-1)
    leader_advantage = (critics.leader_value - leader_state_value.unsqueeze(-1))[m, s, a]
    discounts = game.leader_discount, game.follower_discount
    benefit = critics.benefit[m, s, a, b]
    if game.follower_observes_action:
        trace = hypergradient.benefit_trace(benefit, seen.time, *discounts)
        average = (critics.policy * critics.follower_value).sum(-1, keepdim=True)
        follower_advantage = (critics.follower_value - average)[m, s, a]
    else:
        trace = hypergradient.inclusive_benefit_trace(benefit, seen.time, *discounts)
        action_value = critics.follower_action_value
        average = (critics.policy.unsqueeze(-1) * action_value).sum(-2, keepdim=True)
        follower_advantage = (action_value - average)[m, s, a, b]
    advantage = hypergradient.stackelberg_advantage(
        leader_advantage, follower_advantage, trace, weight, game.temperature
    )
    direct = hypergradient.policy_surrogate(ratio, weight * leader_advantage, seen.episodes)
    return direct, hypergradient.policy_surrogate(ratio, advantage, seen.episodes) - direct


def _sampled_design(evidence: Evidence, commitment: Commitment) -> tuple[Tensor, Tensor]:
    game, critics, seen = evidence.game, evidence.critics, evidence.trajectories
    model = game.model(commitment.design)
    m = torch.arange(len(critics.policy))[:, None, None]
    index = (m, seen.state, seen.leader_action, seen.follower_action)
    benefit = critics.benefit[index]
    trace = hypergradient.inclusive_benefit_trace(
        benefit, seen.time, game.leader_discount, game.follower_discount
    )
    log_transition = torch.zeros_like(benefit)
    if model.transition.requires_grad:
        outcome = (*index, seen.next_state)
        reached = model.transition[outcome]
        if model.ending is not None:
            reached = torch.where(seen.terminated, model.ending[outcome], reached)
        log_transition = reached.log()
    surrogates = []
    for reward, value, weight, discount in (
        (
            model.leader_reward,
            critics.leader_state_value,
            game.leader_discount ** seen.time.double(),
            game.leader_discount,
        ),
        (
            model.follower_reward,
            critics.follower_state_value,
            trace / game.temperature,
            game.follower_discount,
        ),
    ):
        paid = reward.expand(critics.response.shape)[index]
        arrived = torch.where(seen.terminated, 0.0, value[m, seen.next_state])
        if model.transition.requires_grad:  # no bias, less noise
            arrived = arrived - expected_next(model.detach(), value)[index]
        surrogates.append(
            hypergradient.design_surrogate(
                paid, log_transition, arrived, weight, discount, seen.episodes
            )
        )
    return surrogates[0], surrogates[1]
