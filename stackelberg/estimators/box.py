"""Estimators where an action lies in a Box and the game is of no known form.

Values are learned, differentiable in what the leader does (`stackelberg.continuous`). Of a leader
that moves at every step, a = act(s, xi) by reparametrisation, xi at the nodes of a quadrature:

    direct   = grad sum_k d_k E_xi V_L(s_k, a)
    indirect = grad (1/beta) sum_k c_k E_xi V_F(s_k, a)                        follower sees a
    indirect = grad (1/beta) sum_k E_xi,b (c_k + d_k delta(s_k,b)) q_F(s_k,a,b)        it does not

d_k = gamma_L^k / N, N the episodes begun; c_k is a trace. A leader that chooses has its sum over a
in place of E_xi. Of a design x, with steps as the game re-enacts them,

    direct   = grad sum_k d_k [ r_L + gamma_L V_L(s_{k+1}(x)) ]
    indirect = grad (1/beta) sum_k (c_k + u_k) [ r_F + gamma_F V_F(s_{k+1}(x)) ],

u_k the worth of the step's b; where the game tells the density of transitions alone, grad log P
times what the step brought beyond its expectation takes the place of the brackets' gradient:
[ r + gamma V(s_{k+1}) - Q(s_k,b_k) ]. What a design does to rewards is not seen then.

The trace differs: c_k = d_k e-bar(s_k), expected, by least-squares TD backward in time; the
sampled sum; or that of the forward form. There the critic H(s) = grad V_F(s) is least-squares TD
on the same features, H = phi' W, and the covariance of Q_L and gamma_F H(s') at the same state is
linear in W, and so in the signals: the trace is what they weigh, and no vector is ever formed. Both
forms cost the same here, whatever the dimension.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from stackelberg.config import EstimatorName
from stackelberg.continuous import SETTINGS, BoxCritics
from stackelberg.estimators.evidence import Estimator, Evidence
from stackelberg.estimators.zeroth_order import es, spsa
from stackelberg.hypergradient import restarting_sum
from stackelberg.trust_region import inner, norm
from stackelberg.types import Commitment


def expected_trace(evidence: Evidence, commitment: Commitment) -> tuple[Tensor, Tensor]:
    """Backward form, c_k = d_k e-bar(s_k); the default.

    The indirect term, divided by beta, is the noisier one by far where followers learn. It counts
    by the share that two halves of the streams agree on, see `agreement`.

    Exact when: critics are true and features tell states apart. Source: this project,
    `stackelberg.backward`.

    Raises:
        InputError: for a design in a game that tells neither `reenact` nor `log_transition`.
    """
    critics = _critics(evidence)
    trace, streams = critics.trace[:, : critics.here.inputs.shape[1]], evidence.trajectories.time
    direct, indirect = _surrogates(evidence, commitment, trace)
    halves = indirect.unflatten(1, streams.shape[1:]).sum(-1)
    share = agreement(halves, list(evidence.leader.parameters()))
    return direct.sum(-1), share * indirect.sum(-1)


def gradient_critic(evidence: Evidence, commitment: Commitment) -> tuple[Tensor, Tensor]:
    """Forward form: c_k = phi(s_k)' A'^-1 drive, A = sum_k phi(s_k) (phi(s_k) - gamma_F phi(s'))'.

    Exact when: as `expected_trace`, on any play of the present leader. Source: this project.

    Raises:
        InputError: as `expected_trace`.
    """
    critics, seen = _critics(evidence), evidence.trajectories
    taken = critics.here.inputs.shape[1]
    here, there = critics.features[:, :taken], critics.features[:, taken : 2 * taken]
    going = ~seen.terminated.flatten(1).unsqueeze(-1)
    system = here.mT @ (here - evidence.game.follower_discount * going * there)
    size = SETTINGS.ridge * here.square().mean((1, 2)) * taken
    system.diagonal(dim1=1, dim2=2).add_(size.unsqueeze(-1))
    trace = here @ torch.linalg.solve(system.mT, critics.drive.unsqueeze(-1))
    trace = trace.squeeze(-1) * critics.here.active[0]
    return _summed(_surrogates(evidence, commitment, trace))


def sampled_trace(evidence: Evidence, commitment: Commitment) -> tuple[Tensor, Tensor]:
    """c_k = (1/N) sum_{t<k} gamma_F^{k-t} gamma_L^t delta_t along the sampled episodes.

    Exact when: critics are true and episodes long; then unbiased, but noisy.
    Source: BC-HG, Kudo et al., arXiv:2603.14867; in one scan over time, this project.

    Raises:
        InputError: as `expected_trace`.
    """
    critics, seen, game = _critics(evidence), evidence.trajectories, evidence.game
    with torch.no_grad():
        benefit = critics.benefits()
        weight = game.leader_discount ** seen.time.double() * benefit.view_as(seen.time)
        total = restarting_sum(weight, seen.time, game.follower_discount) - weight
    share = critics.here.active[0] / seen.episodes.unsqueeze(-1)
    return _summed(_surrogates(evidence, commitment, share * total.flatten(1), benefit))


def naive(evidence: Evidence, commitment: Commitment) -> tuple[Tensor, Tensor]:
    """The leader's own policy gradient: the follower is taken as fixed, the indirect term is 0."""
    critics = _critics(evidence)
    trace = critics.trace[:, : critics.here.inputs.shape[1]]
    direct, indirect = _summed(_surrogates(evidence, commitment, trace))
    return direct, torch.zeros_like(indirect)


# ---------------------------------------------------------------- surrogates


def _summed(steps: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """[M] each, of surrogates of every step."""
    return steps[0].sum(-1), steps[1].sum(-1)


def agreement(surrogates: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """The share [M] of a gradient that two halves of the streams agree on, in [0, 1].

        max(0, <g_1, g_2>) / (|g_1 + g_2| / 2)^2

    with g_1 and g_2 of every other stream: of independent ones the product is, in the mean, the
    square of what both estimate. It is 1 where there is a single stream. An error that all streams
    have in common, as of the critics, is not told from signal.

    Args:
        surrogates: [M, N], attached to the parameters [M, ...].
    """
    if surrogates.shape[1] < 2 or not surrogates.requires_grad:
        return torch.ones(len(surrogates), dtype=surrogates.dtype)
    found = []
    for half in (surrogates[:, ::2], surrogates[:, 1::2]):
        gradient = torch.autograd.grad(
            half.mean(1).sum(), parameters, retain_graph=True, materialize_grads=True
        )
        found.append([g.to(torch.float64) for g in gradient])
    common = inner(*found)
    whole = norm([(a + b) / 2 for a, b in zip(*found, strict=True)]).square()
    return (common / torch.where(whole > 0, whole, 1.0)).clamp(0.0, 1.0)


def _critics(evidence: Evidence) -> BoxCritics:
    return cast(BoxCritics, evidence.critics)


def _surrogates(
    evidence: Evidence, commitment: Commitment, trace: Tensor, benefit: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Direct and indirect of every step [M, N T], with the trace c_k [M, N T].

    Args:
        benefit: of a design, delta_k [M, N T] as sampled, in place of the expected worth.
    """
    critics, beta = _critics(evidence), evidence.temperature
    visits = critics.visitation[:, : trace.shape[1]]
    if commitment.design is not None:
        worth = critics.worth if benefit is None else visits * benefit
        leader, follower = _signals(evidence, commitment.design)
        return visits * leader, (trace + worth) * follower / beta
    memory = critics.memory
    action, chance = memory.moves(commitment, critics.here)
    found = critics.grid(action)
    direct = visits * (chance * found.value[0]).sum(-1)
    if memory.sees:
        return direct, trace * (chance * found.value[1]).sum(-1) / beta
    worth = (visits[..., None, None] * memory.benefit(found, chance)).detach()
    weight = found.odds.detach() * (trace[..., None, None] + worth)
    moved = (weight * chance.unsqueeze(-1) * found.action_value[1]).sum((-2, -1))
    return direct, moved / beta


def _signals(evidence: Evidence, design: Tensor) -> Tensor:
    """r + gamma V(s') of every step, leader and follower [2, M, N T], attached to the design.

    Raises:
        InputError: if the game tells neither how a design moves its steps, nor their density.
    """
    game, critics, seen = evidence.game, _critics(evidence), evidence.trajectories
    replay, count = critics.memory.replay, len(design)
    met, led = critics.here.rows["observation"], critics.there.rows["observation"]
    rows = design.unsqueeze(1).expand(-1, met.shape[1], -1)
    steps = [
        replay.seen_by(met)[0],
        rows,
        seen.follower_action.flatten(1, 2),
        replay.seen_by(led)[0],
    ]
    flat = [part.flatten(0, 1) for part in steps]
    discounts = torch.tensor([game.leader_discount, game.follower_discount]).double()
    goes_on = discounts.view(2, 1, 1) * ~seen.terminated.flatten(1)
    if game.reenacts:
        again = game.reenact(*flat)
        moved = again.observation.unflatten(0, (count, -1))
        if game.observes_apart:
            moved = torch.cat([moved.to(led), replay.seen_by(led)[1]], -1)
        reward = torch.stack([again.leader_reward, again.follower_reward])
        return reward.unflatten(1, (count, -1)) + goes_on * critics.next_value(moved)
    log_chance = game.log_transition(*flat).unflatten(0, (count, -1))
    with torch.no_grad():
        reward = torch.stack([seen.leader_reward, seen.follower_reward]).flatten(2)
        gained = reward + goes_on * critics.next_value(led) - critics.recorded_value()
    return gained * log_chance


BOX: dict[EstimatorName, Estimator] = {
    "expected-trace": expected_trace,
    "gradient-critic": gradient_critic,
    "sampled-trace": sampled_trace,
    "naive": naive,
    "spsa": spsa,
    "es": es,
}
