"""What an outer iteration costs, and where the time goes.

Run: python tests/benchmarks/speed.py

One thread, one run; medians over outer iterations. "Beyond play" leaves out the environment steps.
"""

import time
from statistics import median

import torch

from agents import ExactFollower, SoftmaxBudget, TabularSoftmax
from games import discrete_toy, four_rooms
from stackelberg import Coordinator, TrainConfig, coordinator


def timed(train: Coordinator) -> tuple[float, float]:
    """Median milliseconds of an outer iteration, and of what is not play."""
    played = []

    def play(*arguments, **settings):
        began = time.perf_counter()
        seen = original(*arguments, **settings)
        played.append(time.perf_counter() - began)
        return seen

    original, coordinator.play = coordinator.play, play
    try:
        whole = [row["seconds"] for row in train.run().metrics]
    finally:
        coordinator.play = original
    rest = [a - b for a, b in zip(whole, played, strict=False)]
    return 1e3 * median(whole), 1e3 * median(rest)


def main() -> None:
    torch.set_num_threads(1)
    print("| setting | outer iteration, ms | beyond play, ms | beyond play per seed, ms |")
    print("|---|---|---|---|")
    for bonus in (1.0, 2.0):
        game = discrete_toy.game(bonus=bonus)
        config = TrainConfig(iterations=200)
        whole, rest = timed(Coordinator(game, TabularSoftmax(3, 2), ExactFollower(), config))
        print(
            f"| discrete_toy R{bonus:.0f}, 3 x 150 steps | {whole:.2f} | {rest:.2f} | {rest:.2f} |"
        )
    for steps in (100, 1000):
        game, seeds = four_rooms.game(), range(10)
        config = TrainConfig(iterations=100, streams=1, steps=steps)
        leader = SoftmaxBudget(game.leader_space, seeds)
        whole, rest = timed(Coordinator(game, leader, ExactFollower(), config, seeds=seeds))
        print(
            f"| four_rooms, 10 seeds, 1 x {steps} steps | {whole:.2f} | {rest:.2f} "
            f"| {rest / len(seeds):.2f} |"
        )


if __name__ == "__main__":
    main()
