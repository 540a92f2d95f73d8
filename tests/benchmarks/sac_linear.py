"""SAC against the exact soft best response of linear-quadratic games.

Run: python tests/benchmarks/sac_linear.py [--seeds K] [--jobs J]

Relative errors after the default training: of the mean actions over the states that the response
visits (root mean square), and of the covariance; every seed, none left out.
"""

import argparse
import sys
import time
from pathlib import Path

import torch
from joblib import Parallel, delayed

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from agents import SACFollower
from games import duopoly, lqr
from tests.test_sac_linear import errors, leaders, random_game, regulator


def missed(name: str, seed: int) -> tuple[float, float, int, float]:
    """Errors of gain and covariance, environment steps, seconds."""
    torch.set_num_threads(1)
    make, gain = {
        "regulator": (regulator, [0.0, 0.0]),
        "random": (random_game, [0.0, 0.3, -0.2]),
        "duopoly": (duopoly.game, [4.0, 0.5]),
        "lqr": (lqr.game, [0.0, -3.0, 2.0]),
    }[name]
    game = make()
    commitment, began = leaders(game, gain), time.perf_counter()
    response = SACFollower().best_respond(game, commitment, [seed])
    return *errors(game, commitment, response), response.steps, time.perf_counter() - began


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1)
    asked = parser.parse_args(arguments)
    for name in ("random", "regulator", "duopoly", "lqr"):
        found = Parallel(n_jobs=asked.jobs)(delayed(missed)(name, s) for s in range(asked.seeds))
        gains, covariances, steps, seconds = zip(*found, strict=True)
        print(
            f"{name}: gain {' '.join(f'{g:.3f}' for g in sorted(gains))}; "
            f"covariance {' '.join(f'{c:.3f}' for c in sorted(covariances))}; "
            f"{max(steps):,} steps, {max(seconds):.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
