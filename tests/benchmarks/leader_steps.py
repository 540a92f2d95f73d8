"""Which leader step and which estimator: an ablation with confidence intervals.

Run: python tests/benchmarks/leader_steps.py [--quick]

Exact follower, all other settings the defaults; mean and 95 % t-interval over seeds, in random
games over games (the mean of their seeds). `difference` is to the default optimiser with the same
estimator, paired by seeds or games, at the last column's iteration. Values are exact objectives:

- DiscreteToy: share of the optimum, from a uniform leader, 20 seeds;
- random games: share of the gap between the uniform leader and `stackelberg.solve` that is closed,
  10 games of 4 states with 3 actions each, half of them with a follower that does not see the
  leader's, 5 seeds each;
- FourRooms, kernel "model", temperature 0.005: from scattered starts N(0, 2^2), 10 seeds. Its
  design moves rewards alone, so gae at any lambda is the sampled trace.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from strategies import Recipe, random_game

from agents import ExactFollower, SoftmaxBudget, TabularSoftmax
from games import discrete_toy, four_rooms
from stackelberg import Coordinator, TrainConfig, exact, solve
from stackelberg.config import Optimiser
from stackelberg.game import Game
from stackelberg.types import Leader

ESTIMATORS = {
    "expected-trace": {"estimator": "expected-trace"},
    "sampled-trace": {"estimator": "sampled-trace"},
    **{f"gae {lam:g}": {"estimator": "gae", "gae_lambda": lam} for lam in (0.0, 0.5, 0.95, 1.0)},
}


def objectives(
    game: Game, leader: Leader, seeds: range, at: tuple[int, ...], **settings
) -> np.ndarray:
    """Exact objectives [len(at), seeds] before those outer iterations."""
    config = TrainConfig(iterations=at[-1] + 1, evaluation_episodes=1, **settings)
    result = Coordinator(game, leader, ExactFollower(), config, seeds=seeds).run()
    return np.array([result.metrics[i]["leader_objective"] for i in at]).reshape(len(at), -1)


def toy(bonus: float, seeds: range, at: tuple[int, ...]) -> Callable[..., np.ndarray]:
    game = discrete_toy.game(bonus=bonus)

    def shares(**settings) -> np.ndarray:
        leader = TabularSoftmax(3, 2, seeds)
        return objectives(game, leader, seeds, at, **settings) / game.optimum

    return shares


def rooms(seeds: range, at: tuple[int, ...]) -> Callable[..., np.ndarray]:
    game = four_rooms.game(kernel="model", temperature=0.005)

    def values(**settings) -> np.ndarray:
        leader = SoftmaxBudget(game.leader_space, seeds, std=2.0)
        return objectives(game, leader, seeds, at, **settings)

    return values


def random_games(count: int, seeds: range, at: tuple[int, ...]) -> Callable[..., np.ndarray]:
    cases = []
    for seed in range(count):
        recipe = Recipe(
            seed=seed, states=4, leader_actions=3, follower_actions=3, observes=seed % 2 == 0
        )
        game = random_game(recipe)
        game.horizon = 50
        best = solve(game, TabularSoftmax(4, 3, range(16), std=1.0), steps=100, polish=50).value
        uniform = torch.full((1, 4, 3), 1 / 3, dtype=torch.float64)
        cases.append((game, best, exact.objective(game.model(), uniform).item()))

    def closed(**settings) -> np.ndarray:
        rows = []
        for game, best, start in cases:
            values = objectives(game, TabularSoftmax(4, 3, seeds), seeds, at, **settings)
            rows.append((values.mean(1) - start) / (best - start))
        return np.array(rows).T

    return closed


@dataclass(frozen=True)
class Setting:
    """One block of the table."""

    name: str
    at: tuple[int, ...]  # outer iterations
    values: Callable[..., np.ndarray]  # by settings of the run: [len(at), replications]
    estimators: tuple[str, ...] = tuple(ESTIMATORS)


def interval(values: np.ndarray) -> str:
    """Mean and half the width of its 95 % t-interval over the last dimension."""
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return f"{values.mean():.4f} +- {half:.4f}"


def print_block(setting: Setting) -> None:
    columns = " | ".join(f"at {i}" for i in setting.at)
    print(f"\n| {setting.name} | optimiser | {columns} | difference |")
    print("|" + "---|" * (len(setting.at) + 3))
    for estimator in setting.estimators:
        found = {
            optimiser: setting.values(optimiser=optimiser, **ESTIMATORS[estimator])
            for optimiser in get_args(Optimiser)
        }
        base = found[TrainConfig.optimiser][-1]
        for optimiser, values in found.items():
            cells = [interval(row) for row in values]
            own = optimiser == TrainConfig.optimiser
            cells.append("" if own else interval(values[-1] - base))
            print(f"| {estimator} | {optimiser} | " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    torch.set_num_threads(1)
    quick = "--quick" in sys.argv
    seeds, few, games = (range(5), range(3), 3) if quick else (range(20), range(10), 10)
    for setting in (
        Setting("DiscreteToy R=1", (10, 50, 100), toy(1.0, seeds, (10, 50, 100))),
        Setting("DiscreteToy R=2", (10, 50, 100), toy(2.0, seeds, (10, 50, 100))),
        Setting("random games", (10, 30, 60), random_games(games, range(5), (10, 30, 60))),
        Setting(
            "FourRooms",
            (10, 50, 150),
            rooms(few, (10, 50, 150)),
            ("expected-trace", "sampled-trace"),
        ),
    ):
        print_block(setting)


if __name__ == "__main__":
    main()
