"""Hypergradient estimators behind one signature.

An estimator takes the evidence of one outer iteration and the leader's attached commitment, and
returns two surrogates [M], direct and indirect, whose gradients add up to the hypergradient. One
that does not apply to the game, or needs a probe and has none, raises InputError.
"""

from collections.abc import Callable
from typing import Any, cast

from stackelberg.config import EstimatorName
from stackelberg.errors import InputError, nearest
from stackelberg.estimators.bi_ac import bi_ac
from stackelberg.estimators.box import BOX
from stackelberg.estimators.evidence import Estimator, Evidence
from stackelberg.estimators.expected import exact_oracle, expected_trace, naive
from stackelberg.estimators.gae import gae
from stackelberg.estimators.gradient_critic import gradient_critic
from stackelberg.estimators.hpgd import hpgd_mc, hpgd_oracle, hpgd_sarsa, hpgd_td
from stackelberg.estimators.linear import LINEAR
from stackelberg.estimators.linear_search import LinearModelBased
from stackelberg.estimators.model_based import ModelBased
from stackelberg.estimators.sampled import bc_hg, sampled_trace
from stackelberg.estimators.sobirl import sobirl, sobirl_modified
from stackelberg.estimators.zeroth_order import es, spsa
from stackelberg.game import Game

ESTIMATORS: dict[EstimatorName, Estimator] = {
    "expected-trace": expected_trace,
    "gradient-critic": gradient_critic,
    "sampled-trace": sampled_trace,
    "gae": gae,
    "bc-hg": bc_hg,
    "hpgd-mc": hpgd_mc,
    "hpgd-td": hpgd_td,
    "hpgd-sarsa": hpgd_sarsa,
    "hpgd-oracle": hpgd_oracle,
    "sobirl": sobirl,
    "sobirl-modified": sobirl_modified,
    "bi-ac": bi_ac,
    "spsa": spsa,
    "es": es,
    "naive": naive,
    "exact": exact_oracle,
}
REMEMBERING: dict[EstimatorName, type[ModelBased]] = {"model-based": ModelBased}  # a new one a run
SEARCHING: dict[EstimatorName, type[ModelBased]] = {"model-based": LinearModelBased}  # likewise


def estimator(name: str, game: Game) -> Estimator:
    """The estimator of that name in that game, for one run. Raises InputError if there is none."""
    if game.tabular or (game.finite and not game.linear):
        known: dict[EstimatorName, Callable[..., Any]] = ESTIMATORS | REMEMBERING
    elif game.linear:
        known = LINEAR | SEARCHING
    else:
        known = BOX
    if name not in known:
        fix = nearest(name, known, "use one of them")
        what = f"an estimator out of {', '.join(known)} for '{game.name}'"
        raise InputError(what, f"'{name}'", fix)
    found = known[cast(EstimatorName, name)]
    return found() if isinstance(found, type) else found


__all__ = [
    "ESTIMATORS",
    "REMEMBERING",
    "Estimator",
    "Evidence",
    "LinearModelBased",
    "ModelBased",
    "bc_hg",
    "bi_ac",
    "es",
    "estimator",
    "exact_oracle",
    "expected_trace",
    "gae",
    "gradient_critic",
    "hpgd_mc",
    "hpgd_oracle",
    "hpgd_sarsa",
    "hpgd_td",
    "naive",
    "sampled_trace",
    "sobirl",
    "sobirl_modified",
    "spsa",
]
