"""The model-based leader in the published cells of FourRooms, one setting for all of them.

Run: python tests/benchmarks/four_rooms.py [--quick] [--goals 1 2] [--kernels model sim] [--out CSV]

A cell is a temperature and, with two goals, a penalty. 10 seeds each, exact follower, published
start N(0, 0.01^2), 60 outer iterations of one episode, beside 16 x 32 scouts of one episode each; a
run's environment steps count them all. Published runs took 10,000 outer iterations of 100 to 10,000
steps, and the best setting of a grid for every method and cell; the budget is half of the smallest.

`best published` is the best method of the cell, on the kernel "model", by which its follower
planned while play followed "sim". Here play and planning share a kernel: "model" to compare, "sim"
for the game as it was played. `success` is the share of seeds above the best published value, in
kernel "model". One-goal runs of all published lengths are judged by the same run: the shortest.
"""

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from agents import ExactFollower, SoftmaxBudget
from games import four_rooms
from stackelberg import Coordinator, TrainConfig

ONE_GOAL = {  # by temperature; with 100 and with 1000 steps per outer iteration
    0.001: (0.692, 0.699),
    0.003: (0.545, 0.531),
    0.005: (1.338, 1.212),
}
TWO_GOALS = {  # by temperature and penalty
    (0.001, 1.0): 0.91,
    (0.001, 3.0): 0.51,
    (0.001, 5.0): 0.46,
    (0.003, 1.0): 1.00,
    (0.003, 3.0): 0.73,
    (0.003, 5.0): 0.32,
    (0.005, 1.0): 1.28,
    (0.005, 3.0): 1.13,
    (0.005, 5.0): 0.97,
}
BUDGET = 500_000  # environment steps: half of 10,000 x 100


def cells() -> Iterator[tuple[int, float, float, float]]:
    """Goals, temperature, penalty, best published."""
    for temperature, published in ONE_GOAL.items():
        yield 1, temperature, 5.0, max(published)
    for (temperature, penalty), best in TWO_GOALS.items():
        yield 2, temperature, penalty, best


def trained(options: dict[str, Any], seeds: range) -> tuple[np.ndarray, dict[str, Any]]:
    """Final exact objectives [seeds], and the run's summary."""
    game = four_rooms.game(**options)
    leader = SoftmaxBudget(game.leader_space, seeds)
    config = TrainConfig(estimator="model-based", iterations=60, streams=1)
    summary = Coordinator(game, leader, ExactFollower(), config, seeds=seeds).run().summary
    return np.array(summary["leader_return"]["exact"]), summary


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="one goal, three seeds")
    parser.add_argument("--goals", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--kernels", nargs="+", default=["model", "sim"])
    parser.add_argument("--out", type=Path, help="CSV file of every seed's value")
    chosen = parser.parse_args(arguments)
    seeds = range(3 if chosen.quick else 10)
    rows = []
    print(
        "| goals, temperature, penalty | kernel | mean +- s.e. | worst | best | best published ",
        end="",
    )
    print("| success | steps, of half the published | s per seed |")
    print("|---|---|---|---|---|---|---|---|---|")
    for goals, temperature, penalty, published in cells():
        if goals not in ([1] if chosen.quick else chosen.goals):
            continue
        for kernel in chosen.kernels:
            options = {"goals": goals, "temperature": temperature, "penalty": penalty}
            options["kernel"] = kernel
            values, summary = trained(options, seeds)
            error = values.std(ddof=1) / len(values) ** 0.5
            steps, seconds = summary["env_steps"]["leader"], summary["wall_seconds"] / len(seeds)
            compared = kernel == "model"
            cells_ = [
                f"{goals}, {temperature}, {penalty:g}",
                kernel,
                f"{values.mean():.3f} +- {error:.3f}",
                f"{values.min():.3f}",
                f"{values.max():.3f}",
                f"{published:.3f}" if compared else "",
                f"{(values > published).mean():.0%}" if compared else "",
                f"{steps:,}, {steps / BUDGET:.0%}",
                f"{seconds:.0f}",
            ]
            print(f"| {' | '.join(cells_)} |", flush=True)
            rows += [
                options | {"seed": seed, "value": value, "steps": steps}
                for seed, value in zip(seeds, values, strict=True)
            ]
    if chosen.out:
        with chosen.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
