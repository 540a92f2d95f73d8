"""Guided cart-pole and pendulum against followers that learn: hypergradient and naive leaders.

Run: python tests/benchmarks/guided.py [--iterations N] [--seeds K] [--jobs J] [--out DIR] [GAME]

Each leader is an MLP Gaussian that moves the wind at every step; its follower is Tianshou's SAC, a
black box at access `trajectories`. Reported is what the last leader is paid by its follower's last
answer, discounted: the mean of the seeds with a 95 % interval, none left out. There is no exact
value to compare with.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from joblib import Parallel, delayed
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from agents import SACFollower
from agents.config import LearningConfig, NetworkConfig
from agents.leaders import default_leader
from games import cart_pole, pendulum
from stackelberg import Coordinator, TrainConfig

GAMES = {"cart_pole": cart_pole.game, "pendulum": pendulum.game}
KINDS = "expected-trace", "naive"
TEMPERATURE = (
    0.1  # cart_pole was published with 0.005, of which SAC's errors are many times as much
)
NETWORK = NetworkConfig(step_size=1e-3, batch=256, replays=8.0, lag=0.02, tolerance=1e-3)
PLAY = LearningConfig(first_steps=49_152, later_steps=8_192)


def trained(game: str, estimator: Any, seed: int, iterations: int, out: str | None) -> list[Any]:
    """Rows of metrics, the last one of the final evaluation."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    made = GAMES[game](temperature=TEMPERATURE)
    leader, follower = default_leader(made, (seed,)), SACFollower(PLAY, NETWORK)
    config = TrainConfig(
        iterations=iterations,
        streams=8,
        estimator=estimator,
        access="trajectories",
        radius=0.01,
        min_radius=0.003,
        max_radius=0.03,
    )
    where = None if out is None else Path(out) / f"{game}-{estimator}-{seed}"
    label = {"game": game, "game_options": {"temperature": TEMPERATURE}, "follower": "sac"}
    run = Coordinator(made, leader, follower, config, seeds=(seed,), out=where, label=label)
    result = run.run()
    paid = result.summary["leader_return"]["mean"], result.summary["follower_return"]["mean"]
    return [(r["leader_return"], r["follower_return"]) for r in result.metrics] + [paid]


def interval(values: np.ndarray) -> str:
    """Mean and half of the 95 % interval."""
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return f"{values.mean():.2f} +- {half:.2f}"


def draw(curves: dict[tuple[str, str, int], np.ndarray], games: list[str], path: Path) -> None:
    """The leader's return in every outer iteration, mean and 95 % interval of the seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5 * len(games), 3.2), layout="constrained")
    for axes, game in zip(figure.subplots(1, len(games), squeeze=False)[0], games, strict=True):
        for kind in KINDS:
            own = np.stack([rows[:, 0] for c, rows in curves.items() if c[:2] == (game, kind)])
            half = stats.t.ppf(0.975, len(own) - 1) * own.std(0, ddof=1) / len(own) ** 0.5
            mean, time = own.mean(0), range(own.shape[1])
            axes.plot(time, mean, label=kind)
            axes.fill_between(time, mean - half, mean + half, alpha=0.2)
        axes.set(title=game, xlabel="outer iteration", ylabel="leader's discounted return")
        axes.legend()
    figure.savefig(path, dpi=110)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("games", nargs="*", default=[*GAMES])
    parser.add_argument("--iterations", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out")
    asked = parser.parse_args(arguments)
    cells = [(g, e, s) for g in asked.games for s in range(asked.seeds) for e in KINDS]
    task = delayed(trained)
    found = Parallel(n_jobs=asked.jobs)(task(*c, asked.iterations, asked.out) for c in cells)
    curves = {c: np.array(rows) for c, rows in zip(cells, found, strict=True)}
    for game in asked.games:
        for kind in KINDS:
            own = np.stack([curves[game, kind, s] for s in range(asked.seeds)])  # [seeds, T, 2]
            first, last = own[:, 0], own[:, -1]
            print(
                f"{game}, {kind}: leader {interval(last[:, 0])} (start {first[:, 0].mean():.2f}),"
            )
            print(
                f"  follower {interval(last[:, 1])}; seeds {np.sort(last[:, 0]).round(2).tolist()}"
            )
    if asked.out is not None:
        draw(curves, asked.games, Path(asked.out) / "guided.png")


if __name__ == "__main__":
    main()
