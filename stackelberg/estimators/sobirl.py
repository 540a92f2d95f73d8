"""SoBiRL, Yang, Gao and Yuan, arXiv:2405.19697: rewards met, weighted by leader returns."""

from torch import Tensor

from stackelberg.errors import InputError
from stackelberg.estimators.evidence import Evidence
from stackelberg.estimators.signals import Signals
from stackelberg.estimators.visits import Visits
from stackelberg.hypergradient import remaining_sum, restarting_sum
from stackelberg.model import spread
from stackelberg.types import Commitment


def sobirl(evidence: Evidence, commitment: Commitment) -> tuple[Tensor, Tensor]:
    """SoBiRL: the first step's return times all rewards met, for designs of follower rewards.

        indirect = (1 / (beta N)) sum_episodes qhat_L(s_0,b_0) sum_{k>=0} x_k,
        x_k      = grad r_F(s_k,b_k) - sum_b g(b|s_k) grad r_F(s_k,b)

    qhat_L(s,b) is the mean of the leader's returns over all visits of (s,b); the sum over k is
    undiscounted.

    Exact when: at no game in general; it counts what a design does to the choice that meets the
    reward, and where rewards move alike for all b, as tolls on states do, it is 0 whatever the true
    value. Source: arXiv:2405.19697, as compared in arXiv:2603.14867.

    Raises:
        InputError: unless a design moves follower rewards, and no transitions.
    """
    signals = _of_rewards(evidence, commitment)
    time = signals.seen.time
    summed = restarting_sum((time == 0) * _action_value(signals), time, 1.0)
    return signals.direct(signals.discounts), _met(signals, summed)


def sobirl_modified(evidence: Evidence, commitment: Commitment) -> tuple[Tensor, Tensor]:
    """SoBiRL with each step's own discounted return: (1 / (beta N)) sum_k gamma_L^k qhat_L x_k.

    Symbols as in `sobirl`: it counts what a reward does to the choice that it meets, and not to
    those before.

    Exact when: the follower's discount is 0, in the limit of many visits and long episodes.
    Source: arXiv:2603.14867, where it is compared.

    Raises:
        InputError: as `sobirl`.
    """
    signals = _of_rewards(evidence, commitment)
    weight = signals.discounts
    return signals.direct(weight), _met(signals, weight * _action_value(signals))


def _of_rewards(evidence: Evidence, commitment: Commitment) -> Signals:
    """The signals of a design of follower rewards, and of no transitions."""
    signals = Signals(evidence, commitment)
    model = signals.model if commitment.design is not None else None
    if model is None or model.transition.requires_grad or not model.follower_reward.requires_grad:
        raise InputError(
            "a design of follower rewards, and of no transitions, for SoBiRL",
            f"'{evidence.game.name}'",
            "use another estimator, for example expected-trace",
        )
    return signals


def _action_value(signals: Signals) -> Tensor:
    """qhat_L(s_k,b_k) [M, N, T]: the mean return over all visits of (s_k,b_k)."""
    seen = signals.seen
    returns = remaining_sum(seen.leader_reward, seen.time, signals.game.leader_discount)
    return Visits(signals).choice_mean(returns)


def _met(signals: Signals, weight: Tensor) -> Tensor:
    """[M] (1 / (beta N)) sum_k weight_k x_k."""
    reward = signals.model.follower_reward
    mean = (signals.critics.response * reward).sum(-1, keepdim=True)
    return signals.paid(reward - mean, weight / spread(signals.evidence.temperature, 2))
