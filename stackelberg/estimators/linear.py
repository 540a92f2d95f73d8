"""Estimators of linear-quadratic games.

    expected-trace    on the learned model, by its oracles: no noise but that of the regressions
    gradient-critic   forward form, without a model:
        H        = E[psi + gamma_F H(s')]                               by least-squares TD
        indirect = (1/beta) E sum_t gamma_L^t Cov_b(Q_L, grad Q_F)      closed, b is Gaussian
    sampled-trace     (1 / (beta N)) sum_k e_k psi_k,  e_k the trace of sampled benefits
    bc-hg             the same with scores in place of pathwise signals, as published

`estimators.quadratic` has the signals psi and the closed forms. A leader that is paid by a bump has
values that are no quadratic forms: only `expected-trace` and `naive` know those.
"""

from typing import cast

import torch
from torch import Tensor

from stackelberg import linear
from stackelberg.config import EstimatorName
from stackelberg.errors import InputError
from stackelberg.estimators.evidence import Estimator, Evidence
from stackelberg.estimators.expected import exact_oracle
from stackelberg.estimators.quadratic import (
    Forms,
    LinearSignals,
    TemporalDifferences,
    learned_forms,
    model_forms,
)
from stackelberg.estimators.zeroth_order import es, spsa
from stackelberg.linear_model import LinearModel, LinearPolicy, linear_policy
from stackelberg.regression import LinearCritics, LinearMemory, forms_of
from stackelberg.types import Commitment


def expected_trace(evidence: Evidence, commitment: Commitment) -> tuple[Tensor, Tensor]:
    """Expected benefit trace on the learned model, `linear.surrogates`; the default.

    The follower is where it was observed to be; how it would move is that of its soft best
    response to the learned model. The backward form: it counts all play so far, where the forward
    form (`gradient_critic`) counts the last; of one batch either may err more.

    Exact when: the learned matrices are, and the follower best-responds. Source: this project.
    """
    critics, model, policy = _learned(evidence, commitment)
    return linear.surrogates(model, policy, critics.answer)


def naive(evidence: Evidence, commitment: Commitment) -> tuple[Tensor, Tensor]:
    """The leader's own policy gradient: the follower is taken as fixed, the indirect term is 0."""
    critics, model, policy = _learned(evidence, commitment)
    direct = linear.leader_return(model, policy, critics.answer)
    return direct, torch.zeros_like(direct)


def _learned(
    evidence: Evidence, commitment: Commitment
) -> tuple[LinearCritics, LinearModel, LinearPolicy]:
    """The critics, and the learned model and the leaders, attached to the commitment."""
    critics, memory = cast(LinearCritics, evidence.critics), evidence.memory
    assert isinstance(memory, LinearMemory)
    policy = linear_policy(len(critics.answer.gain), memory.states, commitment.box)
    return critics, memory.model(commitment), policy


def gradient_critic(evidence: Evidence, commitment: Commitment) -> tuple[Tensor, Tensor]:
    """The forward form, every critic learned from the iteration's play by least-squares TD.

    Exact when: in the limit of much play that spreads in every direction of (s, a, b); then with
    an error that falls as n^-1/2. Source: this project.

    Raises:
        InputError: if the leader is paid by a bump.
    """
    signals = _quadratic(evidence, commitment, "gradient-critic")
    differences = TemporalDifferences(signals)
    return forward(signals, differences, learned_forms(signals, differences))


def forward(
    signals: LinearSignals, differences: TemporalDifferences, forms: Forms
) -> tuple[Tensor, Tensor]:
    """The forward form with the given Q_L and q_F.

        H(s) = E[psi_F + gamma_F H(s')],   grad Q_F = [psi_F +] gamma_F E H(s')

    with psi_F where it is the choice of b that meets it, not the leader's move before. The direct
    term and the covariances are added up by one more critic each, and taken at the second moments
    of all starts ever seen.
    """
    game = signals.game
    leader, follower = signals.pathwise(forms)
    sensitivity = differences.weights(follower, game.follower_discount)
    if not signals.inclusive:
        later = game.follower_discount * differences.after @ sensitivity
        sensitivity = differences.fitted(later)
    moved = signals.covariance(forms.leader, forms_of(sensitivity.mT)) / signals.temperature
    total = differences.weights(torch.cat([leader, moved], -1), game.leader_discount)
    start = signals.critics.model.start
    met = signals.loop.span @ start @ signals.loop.span.mT
    i, j = torch.triu_indices(met.shape[-1], met.shape[-1])
    begun = (met[:, i, j] + differences.scatter).unsqueeze(-1)
    direct, indirect = (total * begun).sum(1).chunk(2, -1)
    return signals.surrogate(direct), signals.surrogate(indirect)


def sampled_trace(evidence: Evidence, commitment: Commitment) -> tuple[Tensor, Tensor]:
    """Benefit trace summed up along the sampled episodes, times pathwise signals; learned values.

    Exact when: critics are true and episodes long; then unbiased, but noisy.
    Source: BC-HG, Kudo et al., arXiv:2603.14867; in one scan over time, pathwise, this project.

    Raises:
        InputError: if the leader is paid by a bump.
    """
    signals = _quadratic(evidence, commitment, "sampled-trace")
    forms = model_forms(signals.critics)
    leader, follower = signals.pathwise(forms)
    return _traced(signals, forms, leader, follower)


def bc_hg(evidence: Evidence, commitment: Commitment) -> tuple[Tensor, Tensor]:
    """BC-HG as published: scores of the transition, or of the leader's action, times V_F.

        psi_k = gamma_F grad log P(s_{k+1}|s_k,b_k) V_F(s_{k+1})

    Published with the leader's own scores clipped to norm 1 and Q_L a network; here neither. Scores
    carry the noise's inverse: with little noise, hardly anything but noise.

    Exact when: critics are true and episodes long; then unbiased. Source: arXiv:2603.14867.

    Raises:
        InputError: if the leader is paid by a bump, or a design's transitions have no density.
    """
    signals = _quadratic(evidence, commitment, "bc-hg")
    forms = model_forms(signals.critics)
    return _traced(signals, forms, *signals.scores(forms))


def _traced(
    signals: LinearSignals, forms: Forms, leader: Tensor, follower: Tensor
) -> tuple[Tensor, Tensor]:
    """(1/N) sum_k gamma_L^k psi_L and (1 / (beta N)) sum_k e_k psi_F."""
    benefits = signals.discounts * signals.benefits(forms.leader)
    share = torch.as_tensor(signals.temperature, dtype=benefits.dtype).view(-1, 1)
    trace = signals.trace(benefits) / share
    return signals.summed(signals.discounts, leader), signals.summed(trace, follower)


def _quadratic(evidence: Evidence, commitment: Commitment, name: str) -> LinearSignals:
    """The signals, where the leader's values are quadratic forms."""
    signals = LinearSignals(evidence, commitment)
    if signals.critics.model.bump is not None:
        raise InputError(
            f"a leader paid by a quadratic form for {name}",
            f"a bump in '{evidence.game.name}'",
            "use the estimator expected-trace",
        )
    return signals


LINEAR: dict[EstimatorName, Estimator] = {
    "expected-trace": expected_trace,
    "gradient-critic": gradient_critic,
    "sampled-trace": sampled_trace,
    "bc-hg": bc_hg,
    "spsa": spsa,
    "es": es,
    "naive": naive,
    "exact": exact_oracle,
}
