"""How near every hypergradient estimator comes to the exact one: bias, noise, direction, time.

Streams of 150 steps, cut there as in the published settings: what lies beyond is lost to every
estimator that sums up samples, however many streams there are. The follower is at its exact best
response, and its values are known (access "value"). Critics are true, or learned from the very
sample. All is relative to the norm of the exact hypergradient of the leader's parameters.
"""

import time
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np
import torch
from random_games import Sample, accuracy_case, batches_of_play, sample_of, toy_case
from scipy import stats
from torch import Tensor

from agents import ExactFollower, default_leader
from games import four_rooms
from stackelberg.errors import InputError
from stackelberg.estimators import ESTIMATORS, Evidence
from stackelberg.game import Game
from stackelberg.probe import Probe
from stackelberg.types import Leader, commit

STEPS = 150  # of a stream of play
SIZES = (150, 450, 1500, 4500, 15_000)
KINDS = ("observing", "blind", "design", "moving design", "ending")
CLOSES = (0.05, 0.25, 0.5)  # the last is where a uniform leader starts
PROBING = ("hpgd-oracle", "spsa", "es")  # these play more than the sample
CRITICLESS = ("spsa", "es")
SIDE_BY_SIDE = 10  # leaders that are timed together
COLUMNS = (
    "game",
    "seed",
    "estimator",
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
    "ms",
    "ms_side_by_side",
)


@dataclass(frozen=True)
class Case:
    """A game and the parameters of the default leader where the hypergradient is estimated."""

    label: str
    seed: int
    game: Game
    point: Tensor

    def leader(self, count: int) -> Leader:
        """`count` leaders that are all the same."""
        made = default_leader(self.game, range(count))
        with torch.no_grad():
            next(made.parameters()).copy_(self.point)
        return made


def cases(seeds: int) -> list[Case]:
    """discrete_toy, `seeds` random games of each kind, four_rooms."""
    found = []
    for bonus in (1.0, 2.0):
        for close in CLOSES:
            game, point = toy_case(close, bonus)
            found.append(Case(f"discrete_toy R{bonus:.0f}, P(close) {close}", 0, game, point))
    for kind in KINDS:
        for seed in range(seeds):
            game, _ = accuracy_case(kind, seed)
            game.horizon = STEPS
            found.append(_start(kind, game, seed, 1.0))
    for start, std in (("published start", 0.01), ("scattered", 2.0)):
        game = four_rooms.game(temperature=0.005)
        found.append(_start(f"four_rooms, {start}", game, 0, std))
    return found


def _start(label: str, game: Game, seed: int, std: float) -> Case:
    (point,) = default_leader(game, (seed,), std).parameters()
    return Case(label, seed, game, point[0].detach())


# ---------------------------------------------------------------- many estimates of one gradient


def played(case: Case, batches: int, size: int) -> Sample:
    """Independent batches of `size` steps each, of leaders that are all the same."""
    alone = commit(case.game, case.leader(1)).detach()
    point = alone.policy[0].log() if alone.design is None else alone.design[0]
    seen = batches_of_play(
        case.game, point, batches=batches, streams=size // STEPS, steps=STEPS, seed=case.seed
    )
    return sample_of(case.game, case.leader(batches), seen)


def first(case: Case, sample: Sample, count: int) -> Sample:
    """The first few of the batches."""
    seen = sample.evidence.trajectories
    return sample_of(case.game, case.leader(count), seen.map(lambda rows: rows[:count]))


def evidence_of(sample: Sample, critics: str) -> Evidence:
    """True critics, or those learned from the very sample; with a probe."""
    evidence = sample.evidence if critics != "learned" else sample.learned()
    batches, streams, length = evidence.trajectories.state.shape
    probe = Probe(
        game=evidence.game,
        leader=evidence.leader,
        follower=ExactFollower(),
        response=evidence.follower._response,
        access="value",
        streams=streams,
        length=length,
        generators=lambda draw: [np.random.default_rng([m, 9, draw]) for m in range(batches)],
    )
    probing = replace(evidence, probe=probe)
    if critics != "learned":
        probing.__dict__["critics"] = evidence.critics
    return probing


def estimates(sample: Sample, name: str, evidence: Evidence) -> np.ndarray:
    """[batches, coordinates] of one estimator."""
    commitment = commit(evidence.game, evidence.leader)
    return sample.gradients(*ESTIMATORS[name](evidence, commitment))


def milliseconds(sample: Sample, name: str, critics: str) -> float:
    """Per leader, from play to gradient, learning of critics included; median of three."""
    taken = []
    for _ in range(1 if name in PROBING else 3):
        began = time.perf_counter()
        estimates(sample, name, evidence_of(sample, critics))
        taken.append(time.perf_counter() - began)
    return 1e3 * median(taken) / len(sample.leaf)


def judged(found: np.ndarray, exact: np.ndarray) -> dict[str, float]:
    """Estimates [batches, coordinates] against the exact hypergradient, relative to its norm.

    bias: norm of the mean error; bias_se: what it would be on average by chance alone. noise: root
    of the total variance. error: of bias and noise, root mean square. cosine: median over batches
    with a 95 % interval. uphill: share of the batches along which a small step improves the
    objective.
    """
    size, count = np.linalg.norm(exact), len(found)
    noise = found.var(0, ddof=1).sum() ** 0.5 / size
    product = found @ exact
    norms = np.linalg.norm(found, axis=1) * size
    cosine = np.sort(product / np.where(norms > 0, norms, 1.0))
    low, high = stats.binom.interval(0.95, count, 0.5)
    return {
        "exact_norm": size,
        "bias": np.linalg.norm(found.mean(0) - exact) / size,
        "bias_se": noise / count**0.5,
        "noise": noise,
        "error": ((found - exact) ** 2).sum(-1).mean() ** 0.5 / size,
        "cosine": np.median(cosine),
        "cosine_low": cosine[max(int(low) - 1, 0)],
        "cosine_high": cosine[min(int(high), count - 1)],
        "uphill": (product > 0).mean(),
    }


def measured(case: Case, size: int, batches: int, few: int, timed: bool) -> list[dict[str, Any]]:
    """A row for every estimator and kind of critics; without numbers where it is undefined.

    Args:
        few: batches of the estimators that play more.
        timed: also measure the time of one leader, and of several side by side.
    """
    whole = played(case, batches, size)
    part, one, several = (
        first(case, whole, min(count, batches)) for count in (few, 1, SIDE_BY_SIDE)
    )
    rows = []
    for critics in ("true", "learned", "none"):
        for sample, probing in ((whole, False), (part, True)):
            evidence = evidence_of(sample, critics)
            for name in ESTIMATORS:
                if (name in PROBING) != probing or (name in CRITICLESS) != (critics == "none"):
                    continue
                row = {"game": case.label, "seed": case.seed, "estimator": name}
                row |= {"critics": critics, "steps": size, "batches": len(sample.leaf)}
                try:
                    row |= judged(estimates(sample, name, evidence), sample.exact)
                except InputError:
                    pass
                else:
                    if timed:
                        row["ms"] = milliseconds(one, name, critics)
                        if not probing:
                            row["ms_side_by_side"] = milliseconds(several, name, critics)
                rows.append(dict.fromkeys(COLUMNS, float("nan")) | row)
    return rows
