"""DiscreteToy against a follower that learns from play, of which the leader sees actions alone.

Run: python tests/benchmarks/black_box.py [--quick] [--out CSV]

Soft-Q follower, access trajectories, 60 outer iterations of 3 x 150 steps, 10 seeds in one run,
none left out; temperature known, and estimated. Shares are exact objectives of the final leaders,
against the exact best response, over the exact optimum: 34.993 (R=1) and 39.940 (R=2). Steps and
seconds are per leader; the follower's are those of the leader whose follower took most.
"""

import argparse
import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agents import SoftQFollower, TabularSoftmax
from games import discrete_toy
from stackelberg import Coordinator, TrainConfig
from stackelberg.process import single_thread

AIM = 0.95  # of the optimum


def trained(bonus: float, estimate: bool, seeds: Sequence[int], iterations: int) -> dict[str, Any]:
    """One run of all seeds; shares of the optimum [seeds]."""
    game = discrete_toy.game(bonus)
    config = TrainConfig(
        iterations=iterations,
        access="trajectories",
        estimate_temperature=estimate,
        evaluation_episodes=2,
    )
    leader = TabularSoftmax(3, 2, seeds)
    with single_thread():
        result = Coordinator(game, leader, SoftQFollower(), config, seeds=seeds).run()
    rows, summary = result.metrics, result.summary
    temperature = np.array(rows[-1].get("temperature", [math.nan] * len(seeds)))
    return {
        "shares": np.array(summary["leader_return"]["exact"]) / game.optimum,
        "temperature": temperature / game.temperature,
        "leader_steps": summary["env_steps"]["leader"],
        "follower_steps": summary["env_steps"]["follower"],
        "seconds": summary["wall_seconds"] / len(seeds),
        "when": _when(rows, game.optimum),
    }


def _when(rows: Sequence[dict[str, Any]], optimum: float) -> dict[str, Any]:
    """After how many steps, at the last, every seed is above `AIM` and stays there; NaN if never.

    Values are those against the follower that the leader met.
    """
    values = np.array([row["leader_objective"] for row in rows]) / optimum
    below = np.flatnonzero((values < AIM).any(1))
    first = below[-1] + 1 if len(below) else 0
    names = ("iteration", "leader_steps", "follower_steps")
    if first == len(rows):
        return dict.fromkeys(names, math.nan)
    return {name: rows[first][name] for name in names}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="three seeds")
    parser.add_argument("--out", type=Path, help="CSV file of every seed's share")
    chosen = parser.parse_args(arguments)
    seeds = range(3 if chosen.quick else 10)
    table: list[dict[str, Any]] = []
    print(
        "| R | temperature | mean share | worst | seeds above 95 % | estimate / true "
        "| leader steps | follower steps | all above 95 % from: leader, follower steps | s |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for bonus in (1.0, 2.0):
        for estimate in (False, True):
            found = trained(bonus, estimate, seeds, 60)
            shares, ratios = found["shares"], found["temperature"]
            cells = [
                f"{bonus:g}",
                "estimated" if estimate else "known",
                f"{shares.mean():.2%}",
                f"{shares.min():.2%}",
                f"{(shares >= AIM).sum()} of {len(shares)}",
                f"{ratios.min():.2f} to {ratios.max():.2f}" if estimate else "",
                f"{found['leader_steps']:,}",
                f"{found['follower_steps']:,}",
                f"{found['when']['leader_steps']:,}, {found['when']['follower_steps']:,}",
                f"{found['seconds']:.1f}",
            ]
            print(f"| {' | '.join(cells)} |", flush=True)
            table += [
                {"bonus": bonus, "estimated": estimate, "seed": seed, "share": share}
                for seed, share in zip(seeds, shares, strict=True)
            ]
    if chosen.out:
        with chosen.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, table[0])
            writer.writeheader()
            writer.writerows(table)


if __name__ == "__main__":
    main()
