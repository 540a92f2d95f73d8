"""Hyper policy gradient descent (HPGD), Thoma et al., NeurIPS 2024, arXiv:2406.01575.

    indirect = (1 / (beta N)) sum_t gamma_L^t A_t [ qhat_F(c_t) - vhat_F(x_t) ]

Here x_t is the situation that the follower chose in and c_t its choice (`Visits`); qhat_F is the
gradient of Q_F, vhat_F that of V_F, and the baseline sits on the follower's gradient. The forms
differ in where A_t, the worth of the choice to the leader, and the two gradients come from. Means
over visits are published for designs in tables; for policies they are the same with the signals of
`signals`. N counts episodes begun, published are those finished.
"""

import torch
from torch import Tensor

from stackelberg.estimators.evidence import Evidence
from stackelberg.estimators.signals import Signals, sums
from stackelberg.estimators.visits import Visits, centred_between
from stackelberg.hypergradient import remaining_sum, restarting_sum
from stackelberg.types import Commitment

ORACLE_STEPS = 10_000  # that `hpgd_oracle` takes from uniformly drawn states


def hpgd_mc(evidence: Evidence, commitment: Commitment) -> tuple[Tensor, Tensor]:
    """HPGD, Monte Carlo: A_t = qhat_L(c_t) - vhat_L(x_t), all four means over visits of tails.

    qhat_L and vhat_L average the leader's returns sum_{k>=t} gamma_L^{k-t} r_L, qhat_F and vhat_F
    the follower's signals sum_{k>=t} gamma_F^{k-t} psi_k, both cut where the sample ends.

    Exact when: in the limit of many visits of every choice and of long episodes; it is biased in a
    finite sample, 0 where no situation was met twice. Source: arXiv:2406.01575.
    """
    signals = Signals(evidence, commitment)
    visits, weight = Visits(signals), signals.discounts
    worth = weight * visits.centred(_returns(signals))
    return signals.direct(weight), signals.indirect(signals.trace(visits.centred(worth)))


def hpgd_sarsa(evidence: Evidence, commitment: Commitment) -> tuple[Tensor, Tensor]:
    """HPGD, SARSA: A_t = delta_t from a fitted Q_L; qhat_F and vhat_F as in `hpgd_mc`.

    Published Q_L is a table after one pass of SARSA over the sample; here it is the fixed point of
    TD on all that has been seen, which is certainty equivalence on the learned model.

    Exact when: as `hpgd_mc`. Source: arXiv:2406.01575, as compared in arXiv:2603.14867.
    """
    signals = Signals(evidence, commitment)
    weight = signals.discounts
    worth = Visits(signals).centred(weight * signals.benefits)
    return signals.direct(weight), signals.indirect(signals.trace(worth))


def hpgd_oracle(evidence: Evidence, commitment: Commitment) -> tuple[Tensor, Tensor]:
    """HPGD with an oracle: `hpgd_mc` whose four means come from other play, from every state.

    The sum over t runs over the iteration's play, the means over 10,000 more steps of the present
    leader and follower, whose episodes start in states drawn uniformly. What those have not visited
    counts 0.

    Exact when: as `hpgd_mc`. The bias is that of the published form: both players' means share
    their noise, times 1/beta (in FourRooms 9 gradients; 0.2 with 1,000,000 steps).
    Source: arXiv:2406.01575.

    Raises:
        InputError: without a probe.
    """
    probe = evidence.probe_for("the estimator hpgd-oracle", "hpgd-mc")
    uniform = torch.full_like(
        evidence.commitment.policy[0, :, 0], 1 / len(evidence.critics.policy[0])
    )
    signals = Signals(evidence, commitment)
    far = Signals(evidence, commitment, probe.play(ORACLE_STEPS, uniform))
    near, there, weight = Visits(signals), Visits(far), signals.discounts
    worth = weight * centred_between(_returns(far), there, near, over=there)
    summed = far.trace(centred_between(worth, near, there, over=there))
    return signals.direct(weight), far.indirect(summed)


def hpgd_td(evidence: Evidence, commitment: Commitment) -> tuple[Tensor, Tensor]:
    """HPGD, temporal differences: A_t = Q_L(c_t), each tail for itself, vhat_F a vector critic.

        indirect = (1 / (beta N)) sum_t gamma_L^t Q_L(c_t) [ G_t - vhat_F(x_t) ],
        G_t      = sum_{k=t}^{T-1} gamma_F^{k-t} psi_k + gamma_F^{T-t} H(s_T)

    H is the fixed point of TD on the sample: with P and psi the sample's own frequencies and means
    by state, H = psi + gamma_F P H, and vhat_F(s) = H(s), or gamma_F E[H(s') | s,a] if the follower
    saw a. T is the step at which the episode ends, by the rules with H(s_T) = 0, or is cut; where
    it is cut, the published tail has no H(s_T) though its critic does, which is a bias as large as
    Q_L. The adjoint of the system gives each psi_k its weight. Q_L as in `hpgd_sarsa`, averaged
    over leader actions that the follower did not see.

    Exact when: critics are true, in the limit of many visits. What remains in a finite sample: H is
    fitted to the tails that it is taken off from; and Q_L has no baseline, which makes this the
    noisiest of the forms. Source: arXiv:2406.01575.
    """
    evidence.game.require_tables()
    signals = Signals(evidence, commitment)
    critics, seen, weight = signals.critics, signals.seen, signals.discounts
    shape, discount = critics.policy.shape[:2], evidence.game.follower_discount
    value = critics.leader_value.take(signals.pair)
    if not signals.sees_action:
        value = (critics.policy * critics.leader_value).sum(-1).take(signals.state)
    worth = weight * (signals.benefits + value)
    reached = restarting_sum(worth, seen.time, discount) * seen.cut  # by H(s_T)
    if signals.sees_action:
        reached = reached - Visits(signals).situation_mean(worth) * ~seen.terminated
    enters = discount * sums(reached, signals.arrival, shape)
    if not signals.sees_action:
        enters = enters - sums(worth, signals.state, shape)
    visits = sums(torch.ones_like(worth), signals.state, shape).clamp(min=1)
    passage = signals.state * shape[1] + seen.next_state
    kernel = sums((~seen.terminated).double(), passage, (*shape, shape[1])) / visits.unsqueeze(-1)
    system = torch.eye(shape[1], dtype=kernel.dtype) - discount * kernel.mT
    share = torch.linalg.solve(system, enters.unsqueeze(-1)).squeeze(-1) / visits
    summed = signals.trace(worth) + share.take(signals.state)
    return signals.direct(weight), signals.indirect(summed)


def _returns(signals: Signals) -> Tensor:
    """The leader's return from each step on [M, N, T], to the end of episode or sample."""
    seen = signals.seen
    return remaining_sum(seen.leader_reward, seen.time, signals.game.leader_discount)
