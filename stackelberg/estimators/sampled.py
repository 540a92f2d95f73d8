"""BC-HG: the benefit that a follower's choice brought, times what made it choose so."""

import torch
from torch import Tensor

from stackelberg.estimators.evidence import Evidence
from stackelberg.estimators.signals import Signals
from stackelberg.estimators.visits import Visits
from stackelberg.hypergradient import restarting_sum
from stackelberg.types import Commitment

BATCH = 64  # steps that `bc_hg` draws


def sampled_trace(evidence: Evidence, commitment: Commitment) -> tuple[Tensor, Tensor]:
    """Benefit trace summed up along the sampled episodes, learned values.

    indirect = (1 / (beta N)) sum_k e_k psi_k,   e_k = sum_t gamma_F^{k-t} gamma_L^t delta_t.

    Exact when: critics are true and episodes long; then unbiased, but noisy.
    Source: BC-HG, Kudo et al., arXiv:2603.14867; in one scan over time, this project.
    """
    signals = Signals(evidence, commitment)
    summed = signals.trace(signals.discounts * signals.benefits)
    return signals.direct(signals.discounts), signals.indirect(summed)


def bc_hg(evidence: Evidence, commitment: Commitment) -> tuple[Tensor, Tensor]:
    """BC-HG as published.

    Policies: 64 steps t drawn with probability gamma_L^t / W, W = sum_t gamma_L^t, each with its
    recorded tail, the drawn step included even where its term has mean zero:

        (W/N) mean { score_t A_L(s_t,a_t) + (delta_t / beta) sum_{k>=t} gamma_F^{k-t} psi_k }.

    Published without the factor W/N, which both terms share, and with sum_a f(a|s) Q_L(s,a,b_t) as
    the baseline of the direct term, which is biased where b_t depends on a_t: here it is V_L(s_t).
    Designs: with qhat_F(s,b) the mean, over all visits of (s,b), of sum_{k>=t} gamma_F^{k-t} psi_k,

        (1 / (beta N)) sum_t gamma_L^t delta_t qhat_F(s_t,b_t),

    and every step in the direct term. Q_L is fitted by certainty equivalence on the learned model,
    the fixed point of SARSA on the same data.

    Exact when: critics are true and episodes long; then policies have it unbiased, designs as every
    (s,b) has been visited often. Source: Kudo et al., arXiv:2603.14867.
    """
    signals = Signals(evidence, commitment)
    weight = signals.discounts
    if commitment.design is None:
        weight = weight.sum((1, 2), keepdim=True) * _drawn_shares(evidence, weight)
        worth = weight * signals.benefits
    else:
        worth = Visits(signals).choice_mean(weight * signals.benefits)
    summed = restarting_sum(worth, signals.seen.time, evidence.game.follower_discount)
    return signals.direct(weight), signals.indirect(summed)


def _drawn_shares(evidence: Evidence, weight: Tensor) -> Tensor:
    """How often each step is among `BATCH` draws of chance ~ weight, over BATCH: [M, N, T]."""
    cumulative = weight.flatten(1).cumsum(-1)
    noise = torch.stack([torch.from_numpy(g.random(BATCH)) for g in evidence.noise])
    drawn = torch.searchsorted(cumulative, noise * cumulative[:, -1:], right=True)
    drawn = drawn.clamp(max=cumulative.shape[-1] - 1)
    shares = torch.zeros_like(cumulative)
    return shares.scatter_add_(1, drawn, torch.full_like(noise, 1 / BATCH)).view_as(weight)
