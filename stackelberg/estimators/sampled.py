"""Estimators that sum along the sampled episodes."""

import torch
from torch import Tensor

from stackelberg import hypergradient
from stackelberg.estimators.evidence import Evidence
from stackelberg.exact import expected_next
from stackelberg.types import Commitment


def sampled_trace(evidence: Evidence, commitment: Commitment) -> tuple[Tensor, Tensor]:
    """Benefit trace summed up along the sampled episodes, learned values.

    grad J = E sum_k grad log f(a_k|s_k) [gamma_L^k A_L + e_k A_F / beta], designs by
    `hypergradient.design_surrogate`. Unbiased with true critics and long episodes, but noisy.
    Source: BC-HG, arXiv:2603.14867, in one scan over time.
    """
    if commitment.design is None:
        return _sampled_policy(evidence, commitment)
    return _sampled_design(evidence, commitment)


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
