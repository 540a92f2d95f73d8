"""How far leaders come in linear-quadratic games, and after how many steps.

Run: python tests/benchmarks/linear_training.py [building] [lqr] [model-based]

From the published starts, against the exact follower; 10 seeds, none left out. Building: the share
of the gap from the start to the exact optimum. BilevelLQR: the leader's undiscounted return of 100
steps, as it was published (BC-HG: 0.147 after 200,000 steps, the mean of 20 seeds).
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from agents import ExactFollower
from agents.leaders import default_leader
from games import building, lqr
from stackelberg import Coordinator, TrainConfig, linear
from stackelberg.config import EstimatorName
from stackelberg.oracle import in_matrices
from stackelberg.types import commit

SEEDS = 10
OPTIMUM = -162.503452  # of Building: 23 of 24 restarts of `stackelberg.solve` end here
HIGHEST = 16.4577  # of BilevelLQR: undiscounted return of the best commitment `solve` has found
PUBLISHED = 0.147  # of BilevelLQR
GAP = 0.9
SETTINGS = {
    "building": {"streams": 100, "steps": 10, "iterations": 100},
    "lqr": {"streams": 4, "steps": 50, "iterations": 1000, "radius": 1e-2},
}
LOOKS = {"building": (10_000, 20_000, 50_000, 100_000), "lqr": (10_000, 20_000, 50_000, 200_000)}


def trained(
    label: str, name: EstimatorName, seeds: Sequence[int], iterations: int | None = None
) -> dict[str, Any]:
    """Steps [T], and what every seed's leader was worth after so many of them [T, seeds]."""
    game = building.game() if label == "building" else lqr.game()
    leader = default_leader(game, seeds, 0.01 if label == "building" else 1.0)
    settings = SETTINGS[label] | ({} if iterations is None else {"iterations": iterations})
    config = TrainConfig(estimator=name, evaluation_episodes=2, **settings)
    steps, values = [0], [worth(label, game, leader)]

    def look(row: dict[str, Any]) -> None:
        steps.append(row["leader_steps"])
        values.append(worth(label, game, leader))

    result = Coordinator(game, leader, ExactFollower(), config, seeds=seeds).run(look)
    return {
        "steps": np.array(steps),
        "values": np.array(values),
        "seconds": result.summary["wall_seconds"],
    }


@torch.no_grad()
def worth(label: str, game: Any, leader: Any) -> np.ndarray:
    """Of each leader: its exact objective, or in BilevelLQR what was published, [seeds]."""
    model, policy = in_matrices(game, commit(game, leader))
    if label == "building":
        return linear.objective(model, policy).numpy()
    return linear.objective(model, policy, horizon=100, discount=1.0).numpy()


def reached(found: dict[str, Any], aim: np.ndarray | float) -> np.ndarray:
    """Steps [seeds] after which a leader was first worth as much as `aim`; inf if never."""
    there = found["values"] >= aim
    return np.where(there.any(0), found["steps"][there.argmax(0)], np.inf)


def said(label: str, name: EstimatorName, found: dict[str, Any]) -> str:
    """One estimator's results, all seeds."""
    values, steps = found["values"], found["steps"]
    lines = [f"{label}, {name} ({found['seconds']:.0f} s):"]
    for look in [*(x for x in LOOKS[label] if x < steps[-1]), int(steps[-1])]:
        now = values[np.searchsorted(steps, look, side="right") - 1]
        lines.append(f"  after {look:,} steps: {' '.join(f'{v:.4g}' for v in sorted(now))}")
    if label == "building":
        share = (values[-1] - values[0]) / (OPTIMUM - values[0])
        aim = values[0] + GAP * (OPTIMUM - values[0])
        lines.append(f"  share of the gap at the end: lowest {share.min():.4f}")
        lines.append(f"  90 % of the gap: {_sorted(reached(found, aim))} steps")
    else:
        for times in (1, 10):
            there = reached(found, times * PUBLISHED)
            lines.append(f"  {times} x published: {_sorted(there)} steps")
        lines.append(f"  90 % of the optimum: {_sorted(reached(found, GAP * HIGHEST))} steps")
    return "\n".join(lines)


def _sorted(steps: np.ndarray) -> str:
    return " ".join(f"{s:,.0f}" if np.isfinite(s) else "never" for s in sorted(steps))


def main(arguments: list[str] | None = None) -> None:
    torch.set_num_threads(1)
    chosen = sys.argv[1:] if arguments is None else arguments
    names: dict[str, tuple[EstimatorName, ...]] = {
        "building": ("expected-trace", "gradient-critic", "naive"),
        "lqr": ("expected-trace",),
    }
    for label, estimators in names.items():
        for name in estimators:
            if not chosen or label in chosen:
                print(said(label, name, trained(label, name, range(SEEDS))), flush=True)
    if not chosen or "model-based" in chosen:
        for label, iterations in (("building", 100), ("lqr", 100)):
            found = trained(label, "model-based", range(SEEDS), iterations)
            print(said(label, "model-based", found), flush=True)


if __name__ == "__main__":
    main()
