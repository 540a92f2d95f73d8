"""Hypergradient estimators behind one signature.

An estimator takes the evidence of one outer iteration and the leader's attached commitment, and
returns two surrogates [M], direct and indirect, whose gradients add up to the hypergradient.
"""

from stackelberg.errors import InputError
from stackelberg.estimators.evidence import Estimator, Evidence
from stackelberg.estimators.expected import exact_oracle, expected_trace, naive
from stackelberg.estimators.sampled import sampled_trace

ESTIMATORS: dict[str, Estimator] = {
    "expected-trace": expected_trace,
    "sampled-trace": sampled_trace,
    "naive": naive,
    "exact": exact_oracle,
}


def estimator(name: str) -> Estimator:
    """The estimator of that name. Raises InputError if there is none."""
    if name not in ESTIMATORS:
        raise InputError(f"an estimator out of {', '.join(ESTIMATORS)}", f"'{name}'", "use one")
    return ESTIMATORS[name]


__all__ = [
    "ESTIMATORS",
    "Estimator",
    "Evidence",
    "estimator",
    "exact_oracle",
    "expected_trace",
    "naive",
    "sampled_trace",
]
