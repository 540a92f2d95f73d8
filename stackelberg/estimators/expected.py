"""Estimators without sampling noise: expectations on a model, learned or true."""

import torch
from torch import Tensor

from stackelberg import hypergradient
from stackelberg.estimators.evidence import Evidence
from stackelberg.oracle import in_matrices, require_oracle
from stackelberg.types import Commitment


def expected_trace(evidence: Evidence, commitment: Commitment) -> tuple[Tensor, Tensor]:
    """Expected benefit trace by the adjoint solve on the learned model; the default.

    Exact when: every (s,a,b) that matters has been seen often enough for its frequencies to be
    its probabilities. Source: this project, `hypergradient.tabular_critics`.
    """
    critics, game = evidence.critics, evidence.game
    if commitment.design is not None:
        model = evidence.tables.model(commitment)
        return hypergradient.surrogates(critics, model, commitment.policy)
    direct = hypergradient.direct_surrogate(critics, commitment.policy, critics.leader_action_value)
    indirect = hypergradient.indirect_surrogate(
        critics,
        commitment.policy,
        critics.follower_action_value,
        evidence.temperature,
        game.follower_observes_action,
    )
    return direct, indirect


def exact_oracle(evidence: Evidence, commitment: Commitment) -> tuple[Tensor, Tensor]:
    """The exact hypergradient from the true model: what the others are judged by.

    Raises:
        InputError: if nothing tells the truth: no tables, nor a linear-quadratic game with
            linear-Gaussian leaders.
    """
    if evidence.oracle is None:
        require_oracle(evidence.game)
        in_matrices(evidence.game, commitment)
    assert evidence.oracle is not None
    return evidence.oracle.surrogates(commitment)


def naive(evidence: Evidence, commitment: Commitment) -> tuple[Tensor, Tensor]:
    """The leader's own policy gradient: the follower is taken as fixed, the indirect term is 0."""
    direct, indirect = expected_trace(evidence, commitment)
    return direct, torch.zeros_like(indirect)
