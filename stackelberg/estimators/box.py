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
from functools import cached_property
from typing import cast

import torch
from torch import Tensor

from stackelberg.config import EstimatorName
from stackelberg.continuous import SETTINGS, BoxCritics, Grid
from stackelberg.estimators.evidence import Estimator, Evidence
from stackelberg.estimators.zeroth_order import es, spsa
from stackelberg.game import log_transitions, reenacted
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
        InputError: for a design in a game that tells neither `reenact` nor `log_transition`, or
            one of them in a wrong form.
    """
    signals = BoxSignals(evidence, commitment)
    indirect = signals.indirect(signals.critics.trace[:, : signals.taken])
    halves = indirect.unflatten(1, evidence.trajectories.time.shape[1:]).sum(-1)
    share = agreement(halves, list(evidence.leader.parameters()))
    return signals.direct().sum(-1), share * indirect.sum(-1)


def gradient_critic(evidence: Evidence, commitment: Commitment) -> tuple[Tensor, Tensor]:
    """Forward form: c_k = phi(s_k)' A'^-1 drive, A = sum_k phi(s_k) (phi(s_k) - gamma_F phi(s'))'.

    Exact when: as `expected_trace`, on any play of the present leader. Source: this project.

    Raises:
        InputError: as `expected_trace`.
    """
    signals = BoxSignals(evidence, commitment)
    critics, taken = signals.critics, signals.taken
    here, there = critics.features[:, :taken], critics.features[:, taken : 2 * taken]
    going = ~evidence.trajectories.terminated.flatten(1).unsqueeze(-1)
    system = here.mT @ (here - evidence.game.follower_discount * going * there)
    size = SETTINGS.ridge * here.square().mean((1, 2)) * taken
    system.diagonal(dim1=1, dim2=2).add_(size.unsqueeze(-1))
    trace = here @ torch.linalg.solve(system.mT, critics.drive.unsqueeze(-1))
    trace = trace.squeeze(-1) * critics.here.active[0]
    return signals.direct().sum(-1), signals.indirect(trace).sum(-1)


def sampled_trace(evidence: Evidence, commitment: Commitment) -> tuple[Tensor, Tensor]:
    """c_k = (1/N) sum_{t<k} gamma_F^{k-t} gamma_L^t delta_t along the sampled episodes.

    Exact when: critics are true and episodes long; then unbiased, but noisy.
    Source: BC-HG, Kudo et al., arXiv:2603.14867; in one scan over time, this project.

    Raises:
        InputError: as `expected_trace`.
    """
    signals = BoxSignals(evidence, commitment)
    critics, seen, game = signals.critics, evidence.trajectories, evidence.game
    with torch.no_grad():
        benefit = critics.benefits()
        weight = game.leader_discount ** seen.time.double() * benefit.view_as(seen.time)
        total = restarting_sum(weight, seen.time, game.follower_discount) - weight
    share = critics.here.active[0] / seen.episodes.unsqueeze(-1)
    indirect = signals.indirect(share * total.flatten(1), benefit)
    return signals.direct().sum(-1), indirect.sum(-1)


def naive(evidence: Evidence, commitment: Commitment) -> tuple[Tensor, Tensor]:
    """The leader's own policy gradient: the follower is taken as fixed, the indirect term is 0."""
    direct = BoxSignals(evidence, commitment).direct().sum(-1)
    return direct, torch.zeros_like(direct)


# ---------------------------------------------------------------- surrogates


class BoxSignals:
    """What every step k of the play tells of the leader's moves, for all n = N T steps met."""

    def __init__(self, evidence: Evidence, commitment: Commitment) -> None:
        self.evidence, self.commitment = evidence, commitment
        self.critics = cast(BoxCritics, evidence.critics)
        self.taken = self.critics.here.inputs.shape[1]  # n
        self.visits = self.critics.visitation[:, : self.taken]  # d_k

    def direct(self) -> Tensor:
        """Surrogates [M, n] of the direct term, the follower held fixed."""
        if self.commitment.design is not None:
            return self.visits * self._led[0]
        chance, found = self._moves
        return self.visits * (chance * found.value[0]).sum(-1)

    def indirect(self, trace: Tensor, benefit: Tensor | None = None) -> Tensor:
        """Surrogates [M, n] of the indirect term, with the trace c_k [M, n].

        Args:
            benefit: of a design, delta_k [M, n] as sampled, in place of the expected worth.
        """
        beta, memory = self.evidence.temperature, self.critics.memory
        if self.commitment.design is not None:
            worth = self.critics.worth if benefit is None else self.visits * benefit
            return (trace + worth) * self._led[1] / beta
        chance, found = self._moves
        if memory.sees:
            return trace * (chance * found.value[1]).sum(-1) / beta
        worth = (self.visits[..., None, None] * memory.benefit(found, chance)).detach()
        weight = found.odds.detach() * (trace[..., None, None] + worth)
        moved = (weight * chance.unsqueeze(-1) * found.action_value[1]).sum((-2, -1))
        return moved / beta

    @cached_property
    def _moves(self) -> tuple[Tensor, Grid]:
        """The odds [M, n, J] of the leader's J moves at every step, and their values."""
        action, chance = self.critics.memory.moves(self.commitment, self.critics.here)
        return chance, self.critics.grid(action)

    @cached_property
    def _led(self) -> Tensor:
        """r + gamma V(s') of every step, leader and follower [2, M, n], attached to the design.

        Raises:
            InputError: if the game tells neither how a design moves its steps, nor their density,
                or in a wrong form.
        """
        evidence, critics, design = self.evidence, self.critics, self.commitment.design
        assert design is not None
        game, seen, replay = evidence.game, evidence.trajectories, critics.memory.replay
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
            again = reenacted(game, *flat)
            moved = again.observation.unflatten(0, (len(design), -1))
            if game.observes_apart:
                moved = torch.cat([moved.to(led), replay.seen_by(led)[1]], -1)
            reward = torch.stack([again.leader_reward, again.follower_reward])
            return reward.unflatten(1, (len(design), -1)) + goes_on * critics.next_value(moved)
        log_chance = log_transitions(game, *flat).unflatten(0, (len(design), -1))
        with torch.no_grad():
            reward = torch.stack([seen.leader_reward, seen.follower_reward]).flatten(2)
            gained = reward + goes_on * critics.next_value(led) - critics.recorded_value()
        return gained * log_chance


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


BOX: dict[EstimatorName, Estimator] = {
    "expected-trace": expected_trace,
    "gradient-critic": gradient_critic,
    "sampled-trace": sampled_trace,
    "naive": naive,
    "spsa": spsa,
    "es": es,
}
