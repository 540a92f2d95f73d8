"""What the estimators that sum along sampled episodes share.

Every one of them is (1/N) sum_t w_t Q_t for some weights w: Q_t is a sampled gradient of Q_F at
(s_t, a_t, b_t), a discounted sum of the per-step signals psi_k over the rest of the episode, and N
the number of episodes begun. Summing over t first leaves one scan over time and one surrogate,
sum_k psi_k e_k with e_k = sum_{t<=k} gamma_F^{k-t} w_t, whatever the number of parameters.

    psi_k = grad log f(a_k|s_k) A_F(s_k,a_k)                  follower sees a_k; sums over k > t
    psi_k = grad log f(a_k|s_k) [q_F(s_k,a_k,b_k) - Q_F]      it does not; k >= t
    psi_k = grad r_F + gamma_F grad log P V_F(s_{k+1})        a design; k >= t
"""

import torch
from torch import Tensor

from stackelberg import hypergradient
from stackelberg.estimators.evidence import Evidence
from stackelberg.exact import expected_next
from stackelberg.rollout import Trajectories
from stackelberg.types import Commitment

Index = tuple[Tensor, Tensor, Tensor, Tensor]  # leader [M, 1, 1]; s, a, b [M, N, T]


def index_of(seen: Trajectories) -> Index:
    """Where in a table [M, S, A, B] the steps of play are."""
    m = torch.arange(len(seen.state))[:, None, None]
    return m, seen.state, seen.leader_action, seen.follower_action


def discounts(evidence: Evidence) -> Tensor:
    """gamma_L^k [M, N, T], k from the episode's start."""
    return evidence.game.leader_discount ** evidence.trajectories.time.double()


def benefits(evidence: Evidence) -> Tensor:
    """delta_k [M, N, T]."""
    return evidence.critics.benefit[index_of(evidence.trajectories)]


def sees_action(evidence: Evidence) -> bool:
    """Does the follower choose after a leader's action that it has seen?"""
    return evidence.commitment.design is None and evidence.game.follower_observes_action


def trace(evidence: Evidence, weight: Tensor, seen: Trajectories) -> Tensor:
    """e_k [M, N, T]: the weights w_t of the Q_t in which the signal of step k occurs.

    sum_{t<=k} gamma_F^{k-t} w_t; for a follower that sees a_k, over t < k.
    """
    total = hypergradient.restarting_sum(weight, seen.time, evidence.game.follower_discount)
    return total - weight if sees_action(evidence) else total


def direct_term(evidence: Evidence, commitment: Commitment, weight: Tensor) -> Tensor:
    """[M] (1/N) sum_k weight_k times the leader's own signal, the follower held fixed.

    grad log f(a_k|s_k) A_L(s_k,a_k); of a design grad r_L + gamma_L grad log P V_L(s_{k+1}). The
    same for all sampling estimators, so that they differ in the indirect term alone.
    """
    critics, seen = evidence.critics, evidence.trajectories
    if commitment.design is None:
        worth = critics.leader_value.unsqueeze(-1)
        return policy_term(evidence, commitment, worth, weight, seen)
    return design_term(evidence, commitment, "leader", weight, seen)


def indirect_term(
    evidence: Evidence, commitment: Commitment, weight: Tensor, seen: Trajectories | None = None
) -> Tensor:
    """[M] (1 / (beta N)) sum_k psi_k weight_k over the steps of `seen`, by default the play.

    Args:
        weight: [M, N, T], mostly a `trace`.
        seen: other play than the iteration's; N is the latter's all the same.
    """
    game, critics = evidence.game, evidence.critics
    seen = evidence.trajectories if seen is None else seen
    weight = weight / game.temperature
    if commitment.design is not None:
        return design_term(evidence, commitment, "follower", weight, seen)
    if game.follower_observes_action:
        worth = critics.follower_value.unsqueeze(-1)  # V_F(s,a), whatever b
    else:
        worth = critics.follower_action_value
    return policy_term(evidence, commitment, worth, weight, seen)


def policy_term(
    evidence: Evidence,
    commitment: Commitment,
    worth: Tensor,
    weight: Tensor,
    seen: Trajectories,
) -> Tensor:
    """[M] (1/N) sum_k weight_k grad log f(a_k|s_k) [worth(s_k,a_k,b_k) - sum_a f worth(s_k,a,b_k)].

    Args:
        worth: [M, S, A, B], or [M, S, A, 1] where b does not matter.
    """
    played = evidence.commitment.policy
    advantage = worth - (played.unsqueeze(-1) * worth).sum(-2, keepdim=True)
    advantage = advantage.expand(evidence.critics.benefit.shape)[index_of(seen)]
    return score_term(evidence, commitment, weight * advantage, seen)


def score_term(
    evidence: Evidence, commitment: Commitment, weight: Tensor, seen: Trajectories
) -> Tensor:
    """[M] (1/N) sum_k weight_k grad log f(a_k|s_k), weight [M, N, T]."""
    m, s, a, _ = index_of(seen)
    ratio = commitment.policy[m, s, a] / evidence.commitment.policy[m, s, a]  # gradient: the score
    return hypergradient.policy_surrogate(ratio, weight, evidence.trajectories.episodes)


def design_term(
    evidence: Evidence,
    commitment: Commitment,
    who: str,
    weight: Tensor,
    seen: Trajectories,
    tail: Tensor | float = 0.0,
) -> Tensor:
    """[M] (1/N) sum_k weight_k [ grad r + gamma grad log P V(s_{k+1}) ] of the one or the other.

    From V(s_{k+1}) its expectation is taken off: no bias, less noise.

    Args:
        who: "leader" or "follower". weight: [M, N, T].
        tail: what the sample adds to the value of s_{k+1} [M, N, T], 0 after an ending.
    """
    model = evidence.game.model(commitment.design)
    reward, discount = getattr(model, f"{who}_reward"), getattr(model, f"{who}_discount")
    value = getattr(evidence.critics, f"{who}_state_value")
    index = index_of(seen)
    paid = reward.expand(evidence.critics.benefit.shape)[index]
    arrived = torch.where(seen.terminated, 0.0, value[index[0], seen.next_state]) + tail
    log_transition = torch.zeros_like(paid)
    if model.transition.requires_grad:
        outcome = (*index, seen.next_state)
        reached = model.transition[outcome]
        if model.ending is not None:
            reached = torch.where(seen.terminated, model.ending[outcome], reached)
        log_transition = reached.log()
        arrived = arrived - expected_next(model.detach(), value)[index]
    episodes = evidence.trajectories.episodes
    return hypergradient.design_surrogate(paid, log_transition, arrived, weight, discount, episodes)
