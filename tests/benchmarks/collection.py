"""How fast followers collect experience, and against Tianshou's own collector.

Run: python tests/benchmarks/collection.py

One thread, 64 copies, one run; medians over rounds of 100 vector steps. Ours counts environment,
policy and storing; theirs is Collector, VectorReplayBuffer and a DummyVectorEnv of InducedEnv, with
a 64-64 network in every row.
"""

import sys
import time
import warnings
from pathlib import Path
from statistics import median

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from agents import SoftQFollower
from agents.experience import flat
from agents.learning import collect
from games import discrete_toy
from stackelberg.game import Game, Step
from stackelberg.induced import FrozenLeader, InducedEnv, InducedMDP, freeze
from stackelberg.types import Commitment

COPIES = 64


class Track(Game):
    """A point on a plane that both push; without tables, stepped in batches."""

    name = "track"

    def __init__(self) -> None:
        super().__init__()
        self.leader_space, self.follower_space = spaces.Discrete(2), spaces.Discrete(4)
        self.observation_space = spaces.Box(-10, 10, (2,), np.float32)
        self.pushes = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]])

    def initial(self, n: int, generator: torch.Generator) -> Tensor:
        return 2 * torch.rand(n, 2, generator=generator) - 1

    def observe(self, state: Tensor) -> Tensor:
        return state

    def step(
        self,
        state: Tensor,
        leader_action: Tensor,
        follower_action: Tensor,
        generator: torch.Generator,
    ) -> Step:
        push = self.pushes[follower_action] + self.pushes[leader_action]
        state = (0.9 * state + 0.1 * push).clamp(-10, 10)
        away = state.square().sum(-1)
        return Step(state, away, -away, torch.zeros(len(state), dtype=torch.bool))


def toy() -> tuple[Game, Commitment]:
    return discrete_toy.game(), Commitment(torch.full((1, 3, 2), 0.5, dtype=torch.float64))


def track() -> tuple[Game, Commitment]:
    def rule(observation: Tensor) -> Tensor:
        return torch.full((1, *observation.shape[-2:-1], 2), 0.5).log()

    return Track(), Commitment(torch.ones(1, 0, 2), None, rule)


def ours(game: Game, commitment: Commitment, rounds: int, length: int) -> float:
    """Steps per second of collecting and storing."""
    follower = SoftQFollower()
    learner = follower.learner(game, torch.Generator().manual_seed(0))
    learner.face(commitment, 0, torch.Generator().manual_seed(1))
    play = InducedMDP(game, learner.leader, COPIES, learner.generator)
    strays = learner.strays(COPIES)

    def once() -> None:
        learner.keep(flat(collect(play, learner, strays, length)))

    return COPIES * length / median(timed(once, rounds))


def theirs(game: Game, leader: FrozenLeader, rounds: int, length: int) -> float:
    """Steps per second of Tianshou's collector with its own networks, buffer and vector env."""
    from tianshou.algorithm.modelfree.dqn import DiscreteQLearningPolicy
    from tianshou.data import Collector, VectorReplayBuffer
    from tianshou.env import DummyVectorEnv
    from tianshou.utils.net.common import Net

    envs = DummyVectorEnv([lambda: InducedEnv(game, leader) for _ in range(COPIES)])
    envs.seed(0)
    inputs = InducedEnv(game, leader).observation_space.shape
    actions = int(game.follower_space.n)
    model = Net(state_shape=inputs, action_shape=actions, hidden_sizes=(64, 64))
    policy = DiscreteQLearningPolicy(model=model, action_space=game.follower_space)
    collector = Collector(policy, envs, VectorReplayBuffer(COPIES * 1000, COPIES))
    collector.reset()
    return (
        COPIES * length / median(timed(lambda: collector.collect(n_step=COPIES * length), rounds))
    )


def timed(run, rounds: int) -> list[float]:
    run()
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return seconds


def rates(rounds: int, length: int) -> list[tuple[str, float, float]]:
    """Name, steps per second of ours and of theirs, for each game."""
    found = []
    for name, (game, commitment) in (
        ("discrete_toy, table", toy()),
        ("a game without tables, 64-64 network", track()),
    ):
        mine = ours(game, commitment, rounds, length)
        found.append((name, mine, theirs(game, freeze(commitment), rounds, length)))
    return found


def main(rounds: int = 20, length: int = 100) -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="tianshou")
    print("| game and policy | ours, steps/s | Tianshou's Collector, steps/s | ratio |")
    print("|---|---|---|---|")
    for name, mine, other in rates(rounds, length):
        print(f"| {name} | {mine:,.0f} | {other:,.0f} | {mine / other:.1f} |")


if __name__ == "__main__":
    main()
