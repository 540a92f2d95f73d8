"""Zeroth-order estimators: differences of sampled returns of displaced leaders.

They need nothing of the game or the follower but returns, and much more play: every displaced
leader meets a follower that has best-responded to it. What part of a difference is direct is not
defined: all of it stands as direct, the indirect term is 0.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from stackelberg.estimators.evidence import Evidence
from stackelberg.types import Commitment

SPSA_STEP = 0.1  # of each parameter
ES_STEP = 0.1  # standard deviation of each parameter's displacement
ES_DIRECTIONS = 8


def spsa(evidence: Evidence, commitment: Commitment) -> tuple[Tensor, Tensor]:
    """Simultaneous perturbation: [J(x + c u) - J(x - c u)] u / (2 c), u of independent signs.

    Two follower trainings a step. J is a sampled return, with the same random numbers on both
    sides; c = 0.1.

    Exact when: J is quadratic along u; unbiased up to O(c^2) otherwise.
    Source: Spall, IEEE Transactions on Automatic Control 37 (1992); for HPGD's comparison,
    arXiv:2406.01575.

    Raises:
        InputError: without a probe.
    """
    return _differences(evidence, 1, SPSA_STEP, lambda g, shape: g.choice([-1.0, 1.0], shape))


def es(evidence: Evidence, commitment: Commitment) -> tuple[Tensor, Tensor]:
    """Evolution strategies: the mean of [J(x + c u) - J(x - c u)] u / (2 c) over 8 normal u.

    Sixteen follower trainings a step, both sides of a pair with the same random numbers; c = 0.1.

    Exact when: J is quadratic; otherwise unbiased for J smoothed by N(0, c^2).
    Source: Salimans et al., arXiv:1703.03864.

    Raises:
        InputError: without a probe.
    """
    return _differences(evidence, ES_DIRECTIONS, ES_STEP, lambda g, shape: g.normal(size=shape))


def _differences(
    evidence: Evidence,
    directions: int,
    step: float,
    draw: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray],
) -> tuple[Tensor, Tensor]:
    """Two-sided differences along random directions, as a surrogate linear in the parameters."""
    probe = evidence.probe_for("an estimator of zeroth order", "expected-trace")
    parameters = list(evidence.leader.parameters())
    total = torch.zeros(evidence.leader.count, dtype=torch.float64)
    for k in range(directions):
        along = [
            torch.from_numpy(np.stack([draw(g, p.shape[1:]) for g in evidence.noise])).to(p)
            for p in parameters
        ]
        ahead, behind = (
            probe.returns([sign * step * u for u in along], draw=k) for sign in (1, -1)
        )
        slope = (ahead - behind) / (2 * step * directions)
        moved = sum(
            (u * p).double().flatten(1).sum(1) for u, p in zip(along, parameters, strict=True)
        )
        total = total + slope * moved
    return total, torch.zeros_like(total)
