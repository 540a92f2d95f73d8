"""How near a hypergradient estimator is: bias, noise and direction at equal samples.

Run: python tests/benchmarks/estimator_accuracy.py [--quick]

The sampled trace has the true critics; the expected trace has only the model that it learned from
the same 3 streams of 150 steps, or from those and the play of 9 iterations before.
"""

import sys
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from random_games import accuracy_case, batches_of_play, toy_case, with_true_critics

from stackelberg import estimators
from stackelberg.game import Game

STREAMS, STEPS = 3, 150
CLOSES = (0.05, 0.1, 0.1665, 0.25)
KINDS = ("observing", "blind", "design", "moving design", "ending")


def measured(game: Game, point: Tensor, batches: int, seed: int = 0) -> tuple[np.ndarray, dict]:
    """(exact hypergradient, gradients of independent batches [batches, coordinates] by name)."""
    game.horizon = STEPS
    found = {}
    for name, iterations in (("sampled", 1), ("expected", 1), ("expected, 10 iterations", 10)):
        seen = batches_of_play(
            game, point, batches=batches, streams=STREAMS * iterations, steps=STEPS, seed=seed
        )
        sample = with_true_critics(game, point, seen)
        if name == "sampled":
            parts = estimators.sampled_trace(sample.evidence, sample.commitment)
        else:
            parts = estimators.expected_trace(sample.learned(), sample.commitment)
        found[name] = sample.gradients(*parts)
    return sample.exact, found


def summary(exact: np.ndarray, gradients: np.ndarray) -> tuple[float, float, float, float]:
    """(relative bias, relative noise, median cosine, total variance)."""
    size = np.linalg.norm(exact)
    variance = gradients.var(0, ddof=1).sum()
    cosine = gradients @ exact / (np.linalg.norm(gradients, axis=1) * size + 1e-300)
    bias = np.linalg.norm(gradients.mean(0) - exact) / size
    return bias, variance**0.5 / size, float(np.median(cosine)), variance


def row(label: str, exact: np.ndarray, found: dict) -> list[float]:
    """Print one line of the table; the ratios of variances to the sampled trace's."""
    results = [summary(exact, gradients) for gradients in found.values()]
    cells = [f"{bias:.3f} / {noise:.3f} / {cos:.3f}" for bias, noise, cos, _ in results]
    ratios = [result[3] / results[0][3] for result in results[1:]]
    shares = [f"1/{1 / ratio:,.0f}" if ratio > 1e-12 else "0" for ratio in ratios]
    print(f"| {label} | {np.linalg.norm(exact):.3g} | " + " | ".join(cells + shares) + " |")
    return ratios


def main() -> None:
    torch.set_num_threads(1)
    batches, seeds = (100, 6) if "--quick" in sys.argv else (400, 30)
    print(f"relative bias / relative noise / median cosine, {batches} batches, 3 x {STEPS} steps")
    print(
        "| game | exact norm | sampled trace, true critics | expected trace | expected trace, "
        "10 iterations | variance ratio | variance ratio, 10 iterations |"
    )
    print("|---|---|---|---|---|---|---|")
    for close in CLOSES:
        row(f"discrete_toy, P(close) {close}", *measured(*toy_case(close), batches))
    for kind in KINDS:
        ratios = [
            row(f"{kind} {seed}", *measured(*accuracy_case(kind, seed), batches, seed))
            for seed in range(seeds)
        ]
        once, often = zip(*ratios, strict=True)
        for label, values in (("1 iteration", once), ("10 iterations", often)):
            print(
                f"| {kind}, {label}: median {median(values):.4f}, largest {max(values):.4f}, "
                f"at most 1/100 in {np.mean(np.array(values) <= 0.01):.0%} |"
            )


if __name__ == "__main__":
    main()
