"""What a hypergradient costs: against a plain policy gradient, and in milliseconds.

Run: python tests/benchmarks/hypergradient_cost.py [--quick]

Every pair is timed by turns in one run, on one thread; medians are reported.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch
from torch import Tensor

from agents.leaders import MLPCategorical, TabularSoftmax
from games import discrete_toy
from stackelberg import exact, hypergradient
from stackelberg.critics import TabularMemory
from stackelberg.estimators import Evidence, expected_trace
from stackelberg.rollout import Trajectories, play
from stackelberg.types import Commitment, Response, commit

HIDDEN = {"1e2": (8,), "1e3": (24, 24), "1e4": (96, 96), "1e5": (312, 312), "1e6": (1000, 1000)}
LENGTHS = (10, 100, 1000, 10_000)
STREAMS = 3
INPUTS, ACTIONS = 8, 4
DISCOUNTS = (0.99, 0.95)
TEMPERATURE = 0.05


@dataclass(frozen=True)
class Batch:
    """Sampled episodes with the critics' values at every step, for one leader."""

    observation: Tensor  # [N T, d]
    action: Tensor  # [1, N T, 1]
    time: Tensor  # [1, N, T]
    leader_advantage: Tensor  # [1, N, T]
    follower_advantage: Tensor  # [1, N, T]
    benefit: Tensor  # [1, N, T]
    weight: Tensor  # [1, N, T] gamma_L^k
    episodes: Tensor  # [1]


def random_batch(length: int, streams: int = STREAMS) -> Batch:
    generator = torch.Generator().manual_seed(0)
    steps = streams * length
    clock = torch.arange(length).expand(1, streams, length)
    values = torch.randn(3, 1, streams, length, generator=generator, dtype=torch.float64)
    return Batch(
        torch.randn(steps, INPUTS, generator=generator),
        torch.randint(ACTIONS, (1, steps, 1), generator=generator),
        clock,
        *values,
        DISCOUNTS[0] ** clock.double(),
        torch.tensor([streams]),
    )


def log_probability(leader: MLPCategorical, batch: Batch) -> Tensor:
    table = leader.log_policy(batch.observation)
    return table.gather(-1, batch.action).view(batch.time.shape)


def policy_gradient(leader: MLPCategorical, batch: Batch) -> None:
    """The leader's own policy gradient, its advantages given."""
    leader.zero_grad()
    advantage = batch.weight * batch.leader_advantage
    log_prob = log_probability(leader, batch)
    hypergradient.policy_surrogate(log_prob, advantage, batch.episodes).sum().backward()


def sampled_hypergradient(leader: MLPCategorical, batch: Batch) -> None:
    """The same with the benefit trace and the follower's advantages."""
    leader.zero_grad()
    trace = hypergradient.benefit_trace(batch.benefit, batch.time, *DISCOUNTS)
    advantage = hypergradient.stackelberg_advantage(
        batch.leader_advantage, batch.follower_advantage, trace, batch.weight, TEMPERATURE
    )
    log_prob = log_probability(leader, batch)
    hypergradient.policy_surrogate(log_prob, advantage, batch.episodes).sum().backward()


def medians(*steps: Callable[[], object], seconds: float, least: int = 5) -> list[float]:
    """Median seconds of each step, taken by turns for about `seconds` in all."""
    for step in steps:
        step()
    taken: list[list[float]] = [[] for _ in steps]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(taken[0]) < least:
        for step, times in zip(steps, taken, strict=True):
            start = time.perf_counter()
            step()
            times.append(time.perf_counter() - start)
    return [median(times) for times in taken]


def cost(hidden: tuple[int, ...], length: int, seconds: float) -> tuple[float, float]:
    """Seconds of (a policy-gradient step, a hypergradient step) on one batch."""
    leader, batch = MLPCategorical(INPUTS, ACTIONS, hidden), random_batch(length)
    plain, ours = medians(
        lambda: policy_gradient(leader, batch),
        lambda: sampled_hypergradient(leader, batch),
        seconds=seconds,
    )
    return plain, ours


def print_ratios(seconds: float) -> None:
    print(f"hypergradient step / policy-gradient step, {STREAMS} episodes, one thread")
    print("| parameters | steps | policy gradient, ms | hypergradient, ms | ratio |")
    print("|---|---|---|---|---|")
    ratios = []
    for name, hidden in HIDDEN.items():
        for length in LENGTHS:
            plain, ours = cost(hidden, length, seconds)
            ratios.append(ours / plain)
            print(
                f"| {name} | {length} | {1e3 * plain:.3f} | {1e3 * ours:.3f} | {ratios[-1]:.2f} |"
            )
    print(f"median ratio {median(ratios):.2f}, largest {max(ratios):.2f}\n")


def outer_iteration(leader: torch.nn.Module, seconds: float) -> list[float]:
    """Seconds of each of `PIECES` on discrete_toy."""
    game = discrete_toy.game()
    model, generators = game.model(), [np.random.default_rng(0)]
    policy = commit(game, leader).policy.detach()
    moved = (policy + 0.01) / 1.02  # as far as a leader step goes
    best = exact.best_response(model, policy)
    commitment, response = Commitment(policy, None), Response(best.policy, best)
    memory = TabularMemory(game, 1)

    def sample() -> Trajectories:
        return play(
            game,
            commitment,
            response,
            streams=STREAMS,
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
            response=response,
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
    print(f"one outer iteration on discrete_toy, {STREAMS} streams x 150 steps, one thread")
    print("| piece | tabular leader, ms | 64-64 network, ms |")
    print("|---|---|---|")
    columns = [
        outer_iteration(leader, seconds) for leader in (TabularSoftmax(3, 2), MLPCategorical(3, 2))
    ]
    for name, *times in zip(PIECES, *columns, strict=True):
        print(f"| {name} | " + " | ".join(f"{1e3 * t:.3f}" for t in times) + " |")


def main() -> None:
    torch.set_num_threads(1)
    seconds = 0.2 if "--quick" in sys.argv else 2.0
    print_ratios(seconds)
    print_discrete_toy(5 * seconds)


if __name__ == "__main__":
    main()
