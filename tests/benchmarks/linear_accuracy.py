"""How near every estimator of linear-quadratic games comes to the exact hypergradient.

Run: python tests/benchmarks/linear_accuracy.py [--quick] [--out FILE]

Building at the start that was published, and a random game with a policy leader. The follower is at
its exact best response and shows its policy. Critics are learned from the very sample, or true.
Streams are 10 steps long: what decides between equal numbers of steps is how many starts they show,
and Building forgets its start within that time; the second table is of other lengths.
"""

import argparse
import csv
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.estimator_accuracy import judged
from linear_games import Sample, policy_game, same_leaders, sampled

from agents import ExactFollower
from games import building
from stackelberg.estimators.linear import LINEAR, forward
from stackelberg.estimators.quadratic import LinearSignals, TemporalDifferences, model_forms
from stackelberg.game import Game
from stackelberg.probe import Probe
from stackelberg.process import single_thread
from stackelberg.types import Leader

STEPS = 10  # of a stream
SIZES = (200, 1000, 10_000)
LENGTHS = (2, 5, 10, 20, 50, 100)
BATCHES, FEW = 100, 20  # of estimators that learn from play, of those that play more
AT_ONCE = 20_000  # steps of play held at a time
GAMES = ("building", "policy")
LEARNED = ("expected-trace", "gradient-critic", "sampled-trace", "bc-hg", "naive")
TRUE = ("gradient-critic", "sampled-trace", "bc-hg")
PROBING = ("spsa", "es")
COLUMNS = (
    "game",
    "estimator",
    "critics",
    "steps",
    "length",
    "batches",
    "exact_norm",
    "bias",
    "bias_se",
    "noise",
    "error",
    "cosine",
    "cosine_low",
    "cosine_high",
    "mean_cosine",
    "uphill",
)


def game_of(label: str) -> Game:
    if label == "building":
        return building.game()
    return policy_game(3, 2, 2, seed=20, leader_discount=0.9, follower_discount=0.9)


def leader_of(label: str, count: int) -> Leader:
    """Leaders that all stand at one point: w = 0 in Building, small gains elsewhere."""
    return same_leaders(game_of(label), count, size=0.0 if label == "building" else 0.2)


@cache
def exact_gradient(label: str) -> np.ndarray:
    return sampled(game_of(label), 1, 1, 2, leader=leader_of(label, 1)).exact()


def estimate(sample: Sample, name: str, critics: str, seed: int) -> np.ndarray:
    """[batches, coordinates] of one estimator."""
    evidence = sample.evidence(true=critics == "true")
    if name == "gradient-critic" and critics == "true":
        signals = LinearSignals(evidence, sample.commitment)
        forms = model_forms(signals.critics)
        return sample.gradients(*forward(signals, TemporalDifferences(signals), forms))
    _, streams, length = sample.seen.time.shape
    probe = Probe(
        game=sample.game,
        leader=sample.leader,
        follower=ExactFollower(),
        response=sample.response,
        access="value",
        streams=streams,
        length=length,
        generators=lambda draw: [
            np.random.default_rng([seed, m, streams, draw]) for m in range(sample.leader.count)
        ],
    )
    probing = replace(evidence, probe=probe, noise=probe.generators(99))
    if critics == "true":
        probing.__dict__["critics"] = evidence.critics
    surrogates = LINEAR[name](probing, sample.commitment)
    return sample.gradients(*(s for s in surrogates if s.requires_grad))


def measured(
    label: str, size: int, batches: int, wanted: Sequence[tuple[str, str]], length: int = STEPS
) -> list[dict[str, Any]]:
    """A row for every wanted pair of an estimator and its critics."""
    parts: dict[tuple[str, str], list[np.ndarray]] = {pair: [] for pair in wanted}
    share = max(1, min(batches, AT_ONCE // size))
    for first in range(0, batches, share):
        count = min(share, batches - first)
        leader = leader_of(label, count)
        sample = sampled(game_of(label), count, size // length, length, seed=first, leader=leader)
        for name, critics in wanted:
            parts[name, critics].append(estimate(sample, name, critics, first))
    rows, exact = [], exact_gradient(label)
    for (name, critics), found in parts.items():
        each = np.concatenate(found)
        norms = np.linalg.norm(each, axis=1) * np.linalg.norm(exact)
        row = {"game": label, "estimator": name, "critics": critics, "steps": size}
        row |= {"length": length, "batches": len(each)} | judged(each, exact)
        rows.append(row | {"mean_cosine": (each @ exact / np.where(norms > 0, norms, 1.0)).mean()})
    return rows


def run(
    sizes: Sequence[int], batches: int, few: int, lengths: Sequence[int], games: Sequence[str]
) -> tuple[str, list[dict[str, Any]]]:
    """Two tables in Markdown, and their rows."""
    usual = [(name, "learned") for name in LEARNED] + [(name, "true") for name in TRUE]
    probing = [(name, "none") for name in PROBING]
    rows, others = [], []
    with single_thread():
        for label in games:
            for size in sizes:
                rows += measured(label, size, batches, usual)
                rows += measured(label, size, few, probing)
            for length in lengths:
                wanted = [(name, "learned") for name in LEARNED[:2]]
                others += measured(label, 1000, batches, wanted, length)
    said = ["Mean cosine; bias and noise relative to the gradient's norm:\n"]
    said += [*table(rows, "steps"), "\nMean cosine of 1,000 steps, by the length of streams:\n"]
    said += table(others, "length")
    return "\n".join(said), rows + others


def table(rows: Sequence[dict[str, Any]], across: str) -> list[str]:
    columns = list(dict.fromkeys(row[across] for row in rows))
    said = [f"| game | estimator | critics |{''.join(f' {c:,} {across} |' for c in columns)}"]
    said.append("|---|---|---|" + "---|" * len(columns))
    for head in dict.fromkeys((r["game"], r["estimator"], r["critics"]) for r in rows):
        mine = [r for r in rows if (r["game"], r["estimator"], r["critics"]) == head]
        cells = [
            f"{r['mean_cosine']:.3f}"
            + (f"; {r['bias']:.2g}, {r['noise']:.2g}" if across == "steps" else "")
            for r in mine
        ]
        said.append(f"| {' | '.join([*head, *cells])} |")
    return said


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="fewer batches, no largest size")
    parser.add_argument("--out", type=Path, help="CSV file of all rows")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    extent = (SIZES[:2], 20, 4, LENGTHS[1:3]) if chosen.quick else (SIZES, BATCHES, FEW, LENGTHS)
    said, rows = run(*extent, GAMES)
    print(said)
    if chosen.out:
        with chosen.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
