"""SoBiRL, Yang, Gao and Yuan, arXiv:2405.19697: rewards met, weighted by leader returns."""

from torch import Tensor

from stackelberg.errors import InputError
from stackelberg.estimators.evidence import Evidence
from stackelberg.estimators.signals import direct_term, discounts, index_of
from stackelberg.estimators.visits import Visits
from stackelberg.hypergradient import policy_surrogate, remaining_sum, restarting_sum
from stackelberg.types import Commitment


def sobirl(evidence: Evidence, commitment: Commitment) -> tuple[Tensor, Tensor]:
    """SoBiRL: the first step's return times all rewards met, for designs of follower rewards.

        indirect = (1 / (beta N)) sum_episodes qhat_L(s_0,b_0) sum_{k>=0} x_k,
        x_k      = grad r_F(s_k,b_k) - sum_b g(b|s_k) grad r_F(s_k,b)

    qhat_L(s,b) is the mean of the leader's returns over all visits of (s,b); the sum over k is
    undiscounted.

    Exact when: follower rewards move alike for all b; then it is 0. Biased otherwise. Source:
    arXiv:2405.19697, as compared in arXiv:2603.14867.

    Raises:
        InputError: unless a design moves follower rewards, and no transitions.
    """
    seen = evidence.trajectories
    first = (seen.time == 0).double() * _action_value(evidence)
    summed = restarting_sum(first, seen.time, 1.0)
    direct = direct_term(evidence, commitment, discounts(evidence))
    return direct, _met(evidence, commitment, summed)


def sobirl_modified(evidence: Evidence, commitment: Commitment) -> tuple[Tensor, Tensor]:
    """SoBiRL with each step's own discounted return: (1 / (beta N)) sum_k gamma_L^k qhat_L x_k.

    Symbols as in `sobirl`: it counts what a reward does to the choice that it meets, and not to
    those before.

    Exact when: the follower's discount is 0, in the limit of many visits and long episodes.
    Source: arXiv:2603.14867, where it is compared.

    Raises:
        InputError: as `sobirl`.
    """
    weight = discounts(evidence)
    direct = direct_term(evidence, commitment, weight)
    return direct, _met(evidence, commitment, weight * _action_value(evidence))


def _action_value(evidence: Evidence) -> Tensor:
    """qhat_L(s_k,b_k) [M, N, T]: the mean return over all visits of (s_k,b_k)."""
    seen = evidence.trajectories
    returns = remaining_sum(seen.leader_reward, seen.time, evidence.game.leader_discount)
    return Visits(evidence, seen).choice_mean(returns)


def _met(evidence: Evidence, commitment: Commitment, weight: Tensor) -> Tensor:
    """[M] (1 / (beta N)) sum_k weight_k x_k."""
    game, seen = evidence.game, evidence.trajectories
    model = game.model(commitment.design) if commitment.design is not None else None
    if model is None or model.transition.requires_grad or not model.follower_reward.requires_grad:
        raise InputError(
            "a design of follower rewards, and of no transitions, for SoBiRL",
            f"'{game.name}'",
            "use another estimator, for example expected-trace",
        )
    g = evidence.critics.response
    reward = model.follower_reward.expand(g.shape)
    met = (reward - (g * reward).sum(-1, keepdim=True))[index_of(seen)]
    return policy_surrogate(met, weight / game.temperature, seen.episodes)
