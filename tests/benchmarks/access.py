"""What it costs the leader to see less of the follower: hypergradients at the access levels.

Run: python tests/benchmarks/access.py [--quick] [--out CSV]

Expected trace in random games (those of `estimator_accuracy`, 12 of a kind), everything learned
from one sample of 450 to 45,000 steps in streams of 150, the follower at its exact best response.
Medians over games of the cosine to the exact hypergradient (median over 8 samples) and of the error
(root mean square over samples, relative to the exact norm); bias is the norm of the mean error, and
of the temperature |log(estimate / true)|.
"""

import argparse
import csv
import itertools
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.estimator_accuracy import Case, cases, judged, played
from random_games import Sample

from stackelberg.access import restrict
from stackelberg.critics import TabularMemory
from stackelberg.estimators import expected_trace
from stackelberg.process import single_thread
from stackelberg.types import commit

GAMES = ("observing", "blind", "design", "moving design")
SIZES = (450, 4500, 45_000)
LEVELS = tuple(itertools.product(("value", "policy", "trajectories"), (False, True)))
SAMPLES = 8
COLUMNS = ("game", "seed", "access", "estimated", "steps", "cosine", "error", "bias", "temperature")


def measured(case: Case, size: int, samples: int = SAMPLES) -> list[dict[str, Any]]:
    """A row for every access level, with the temperature known and estimated."""
    sample, rows = played(case, samples, size), []
    for access, estimated in LEVELS:
        found, ratio = _estimates(sample, access, estimated)
        own = {"game": case.label, "seed": case.seed, "access": access, "estimated": estimated}
        rows.append(own | {"steps": size, "temperature": ratio} | judged(found, sample.exact))
    return [{name: row[name] for name in COLUMNS} for row in rows]


def _estimates(sample: Sample, access: Any, estimated: bool) -> tuple[np.ndarray, float]:
    """[samples, coordinates], and the median |log(estimate / true)| of the temperature."""
    game, seen = sample.evidence.game, sample.evidence.trajectories
    memory = TabularMemory(game, len(sample.leaf), estimated)
    memory.update(seen)
    follower = restrict(sample.evidence.follower._response, access)
    evidence = replace(sample.evidence, memory=memory, follower=follower)
    found = sample.gradients(*expected_trace(evidence, commit(game, evidence.leader)))
    ratio = torch.as_tensor(evidence.temperature) / game.temperature
    return found, ratio.log().abs().median().item()


def line(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Medians over games, of one size and access level after the other."""
    cells = []
    for size in dict.fromkeys(row["steps"] for row in rows):
        mine = [row for row in rows if row["steps"] == size]
        cosine, error, bias, ratio = (
            float(np.median([row[name] for row in mine]))
            for name in ("cosine", "error", "bias", "temperature")
        )
        known = f" ({ratio:.1%})" if mine[0]["estimated"] else ""
        cells.append(f"{cosine:.3f}, {error:.3f}, {bias:.3f}{known}")
    return cells


def run(
    count: int, sizes: Sequence[int], samples: int = SAMPLES, games: Sequence[str] = GAMES
) -> tuple[str, list[dict[str, Any]]]:
    """The table in Markdown, and its rows."""
    rows = []
    with single_thread():
        for case in cases(count):
            if case.label in games:
                rows += [row for size in sizes for row in measured(case, size, samples)]
    said = ["| game | access | temperature |" + "".join(f" {size:,} steps |" for size in sizes)]
    said.append("|---|---|---|" + "---|" * len(sizes))
    for game, (access, estimated) in itertools.product(games, LEVELS):
        of_both = (game, access, estimated)
        mine = [r for r in rows if (r["game"], r["access"], r["estimated"]) == of_both]
        head = [game, access, "estimated" if estimated else "known"]
        said.append(f"| {' | '.join(head + line(mine))} |")
    return "\n".join(said), rows


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="three games of a kind, two sizes")
    parser.add_argument("--out", type=Path, help="CSV file of every game")
    chosen = parser.parse_args(arguments)
    said, rows = run(*((3, SIZES[:2]) if chosen.quick else (12, SIZES)))
    print("Cosine, error, bias (error of the temperature):\n")
    print(said)
    if chosen.out:
        with chosen.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
