"""What an outer iteration costs, and where the time goes.

Run: python tests/benchmarks/speed.py

One thread, one run; medians over outer iterations. "Beyond play" leaves out the environment steps.
"""

import sys
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.estimator_cost import medians

from agents import ExactFollower, SoftmaxBudget, TabularSoftmax
from agents.leaders import MLPCategorical
from games import discrete_toy, four_rooms
from stackelberg import Coordinator, TrainConfig, coordinator, exact
from stackelberg.access import ValueAccess
from stackelberg.critics import TabularMemory
from stackelberg.estimators import Evidence, expected_trace
from stackelberg.rollout import Trajectories, play
from stackelberg.types import Commitment, TabularResponse, commit


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


def outer_iteration(leader: torch.nn.Module, seconds: float) -> list[float]:
    """Seconds of each of `PIECES` on discrete_toy."""
    game = discrete_toy.game()
    model, generators = game.model(), [np.random.default_rng(0)]
    policy = commit(game, leader).policy.detach()
    moved = (policy + 0.01) / 1.02  # as far as a leader step goes
    best = exact.best_response(model, policy)
    commitment, response = Commitment(policy, None), TabularResponse(best.policy, best)
    memory = TabularMemory(game, 1)

    def sample() -> Trajectories:
        return play(
            game,
            commitment,
            response,
            streams=3,
            steps=game.horizon,
            generators=generators,
        )

    seen = sample()
    memory.update(seen)

    def step() -> None:
        evidence = Evidence(
            game=game,
            leader=leader,
            commitment=commitment,
            follower=ValueAccess(response),
            trajectories=seen,
            memory=memory,
        )
        leader.zero_grad()
        direct, indirect = expected_trace(evidence, commit(game, leader))
        (direct + indirect).sum().backward()

    return medians(
        lambda: exact.best_response(model, policy),
        lambda: exact.best_response(model, moved, best.state_value),
        sample,
        lambda: memory.update(seen),
        step,
        seconds=seconds,
    )


PIECES = (
    "exact follower solve, cold",
    "exact follower solve, warm",
    "play",
    "memory update",
    "leader update: learned model, critics, surrogates, backward",
)


def print_discrete_toy(seconds: float) -> None:
    print("one outer iteration on discrete_toy, 3 streams x 150 steps, one thread")
    print("| piece | tabular leader, ms | 64-64 network, ms |")
    print("|---|---|---|")
    columns = [
        outer_iteration(leader, seconds) for leader in (TabularSoftmax(3, 2), MLPCategorical(3, 2))
    ]
    for name, *times in zip(PIECES, *columns, strict=True):
        print(f"| {name} | " + " | ".join(f"{1e3 * t:.3f}" for t in times) + " |")


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
    print_discrete_toy(10.0)


if __name__ == "__main__":
    main()
