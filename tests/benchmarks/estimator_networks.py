"""How near the expected trace comes to the exact hypergradient by networks, and in tables.

The same play of the same games: networks see of every state a few random features, tables the state
itself. Each is trained on the one sample from the start, in one call.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from benchmarks import estimator_accuracy as accuracy
from hidden import Hidden, Lookup, Shown
from random_games import Sample, gradient

from stackelberg.access import restrict
from stackelberg.critics import TabularMemory
from stackelberg.estimators import ESTIMATORS, Evidence
from stackelberg.neural import ReplayMemory
from stackelberg.types import commit

ACCESS = ("value", "policy", "trajectories")
KINDS = ("observing", "blind", "ending")  # of those in which the leader moves at every step
TOY = "discrete_toy R1, P(close) 0.25"
COLUMNS = (
    "game",
    "seed",
    "access",
    "critics",
    "steps",
    "batches",
    "exact_norm",
    "bias",
    "bias_se",
    "noise",
    "error",
    "cosine",
    "cosine_low",
    "cosine_high",
    "uphill",
)


def cases(seeds: int) -> list[accuracy.Case]:
    """DiscreteToy R1 at P(close) = 0.25, `seeds` random games of each kind."""
    known = accuracy.cases(seeds)
    return [case for case in known if case.label in KINDS or case.label == TOY]


def by_networks(sample: Sample, access: str) -> Evidence:
    """The same play, seen in a game without tables."""
    evidence = sample.evidence
    game = Hidden(evidence.game)
    leader = Lookup(game, sample.leaf.detach())
    seen = game.hide_play(evidence.trajectories)
    memory = ReplayMemory(game, range(leader.count))
    memory.update(seen)
    return replace(
        evidence,
        game=game,
        leader=leader,
        commitment=commit(game, leader, seen.points.leader).detach(),
        follower=restrict(Shown(game, evidence.follower._response), access),
        trajectories=seen,
        memory=memory,
    )


def in_tables(sample: Sample, access: str) -> Evidence:
    evidence = sample.evidence
    memory = TabularMemory(evidence.game, len(sample.leaf))
    memory.update(evidence.trajectories)
    return replace(evidence, memory=memory, follower=restrict(evidence.follower._response, access))


def measured(case: accuracy.Case, size: int, batches: int) -> list[dict[str, Any]]:
    """A row for every access level and kind of critics; see `estimator_accuracy.judged`."""
    sample, rows = accuracy.played(case, batches, size), []
    for access in ACCESS:
        for critics, made in (("neural", by_networks), ("tabular", in_tables)):
            found = _estimates(made(sample, access))
            row = {"game": case.label, "seed": case.seed, "access": access, "critics": critics}
            row |= {"steps": size, "batches": batches}
            rows.append(row | accuracy.judged(found, sample.exact))
    return rows


def _estimates(evidence: Evidence) -> np.ndarray:
    """[batches, coordinates] of the expected trace."""
    points = evidence.trajectories.points
    observed = None if points is None else points.leader
    attached = commit(evidence.game, evidence.leader, observed)
    (leaf,) = evidence.leader.parameters()
    surrogates = ESTIMATORS["expected-trace"](evidence, attached)
    return gradient(sum(surrogates), leaf).flatten(1).numpy()
