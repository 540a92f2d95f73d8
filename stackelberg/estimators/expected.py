"""Estimators without sampling noise: expectations on a model, learned or true."""

import torch
from torch import Tensor

from stackelberg import hypergradient
from stackelberg.estimators.evidence import Evidence
from stackelberg.hypergradient import Critics
from stackelberg.model import TabularModel
from stackelberg.types import Commitment


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


def _expected(
    critics: Critics, model: TabularModel, commitment: Commitment
) -> tuple[Tensor, Tensor]:
    return (
        hypergradient.direct_surrogate(critics, model, commitment.policy),
        hypergradient.indirect_surrogate(critics, model, commitment.policy),
    )
