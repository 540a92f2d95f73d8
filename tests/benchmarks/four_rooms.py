"""What one setting reaches in the published cells of FourRooms, kernel "model".

Run: python tests/benchmarks/four_rooms.py

Single goal; temperature x steps per outer iteration in as many parallel streams as published; 10
seeds; the published start N(0, 0.01^2) and, for comparison, a scattered one N(0, 2^2). 300 outer
iterations (published: 10,000). Mean, standard error and best of the seeds' final exact objectives.
"""

import numpy as np

from agents import ExactFollower, SoftmaxBudget
from games import four_rooms
from stackelberg import Coordinator, TrainConfig

STREAMS = {100: 1, 200: 1, 400: 2, 1000: 5}
PUBLISHED = {  # the best method of each cell, where a number is published
    (0.001, 100): 0.692,
    (0.001, 1000): 0.699,
    (0.003, 100): 0.545,
    (0.003, 1000): 0.531,
    (0.005, 100): 1.338,
    (0.005, 1000): 1.212,
}
SEEDS = range(10)


def final(temperature: float, steps: int, std: float) -> np.ndarray:
    """Final exact objectives [seeds]."""
    game = four_rooms.game(kernel="model", temperature=temperature)
    streams = STREAMS[steps]
    config = TrainConfig(iterations=300, streams=streams, steps=steps // streams)
    leader = SoftmaxBudget(game.leader_space, SEEDS, std=std)
    result = Coordinator(game, leader, ExactFollower(), config, seeds=SEEDS).run()
    return np.array(result.summary["leader_return"]["exact"])


def main() -> None:
    print(
        "| temperature / steps | best published | published start | best | scattered start | best |"
    )
    print("|---|---|---|---|---|---|")
    for temperature in (0.001, 0.003, 0.005):
        for steps in STREAMS:
            cells = [f"{PUBLISHED.get((temperature, steps), float('nan')):.3f}"]
            for std in (0.01, 2.0):
                values = final(temperature, steps, std)
                error = values.std(ddof=1) / len(values) ** 0.5
                cells += [f"{values.mean():.3f} +- {error:.3f}", f"{values.max():.3f}"]
            print(f"| {temperature} / {steps} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
