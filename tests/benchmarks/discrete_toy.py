"""How fast and how surely the leader reaches the optimum of DiscreteToy.

Run: python tests/benchmarks/discrete_toy.py

Exact follower: 20 seeds, 200 outer iterations of 3 x 150 steps, both bonuses. Soft-Q follower: 5
seeds, bonus 1. Values are the exact objective as a share of the exact optimum; no seed is left out.
"""

import numpy as np

from agents import ExactFollower, SoftQFollower, TabularSoftmax
from games import discrete_toy
from stackelberg import Coordinator, TrainConfig


def shares(bonus: float, follower, seeds: range, iterations: int) -> tuple[np.ndarray, float]:
    """Share of the optimum [iterations, seeds], and seconds per outer iteration and seed."""
    game = discrete_toy.game(bonus=bonus)
    leader = TabularSoftmax(3, 2, seeds)
    config = TrainConfig(iterations=iterations)
    result = Coordinator(game, leader, follower, config, seeds=seeds).run()
    values = np.array([row["leader_objective"] for row in result.metrics]) / game.optimum
    return values, result.summary["wall_seconds"] / iterations / len(seeds)


def main() -> None:
    print(
        "| game, follower | seeds | lowest ever | lowest at 10 | lowest from 50 | lowest at end |"
    )
    print("|---|---|---|---|---|---|")
    for bonus in (1.0, 2.0):
        values, _ = shares(bonus, ExactFollower(), range(20), 201)
        print(
            f"| R{bonus:.0f}, exact | 20 | {values.min():.5f} | {values[10].min():.5f} "
            f"| {values[50:].min():.7f} | {values[-1].min():.7f} |"
        )
    values, seconds = shares(1.0, SoftQFollower(), range(5), 30)
    lowest = values.min(1)
    print(f"| R1, soft-Q | 5 | {lowest.min():.5f} | {lowest[10]:.5f} | | {lowest[-1]:.5f} |")
    print(f"\nsoft-Q: {seconds:.2f} s per outer iteration")


if __name__ == "__main__":
    main()
