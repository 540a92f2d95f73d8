"""Pictures of runs and games, drawn without pyplot's global state and written whole."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from stackelberg import exact
from stackelberg.game import Game
from stackelberg.run_directory import write_atomically
from stackelberg.types import Commitment, Response


def draw_learning_curves(
    path: str | Path,
    runs: Mapping[str, Sequence[Mapping[str, Any]]],
    optima: Mapping[str, float | None],
) -> None:
    """One panel per run: the leader's objective per outer iteration, the optimum as a line.

    Args:
        path: of the PNG or SVG file.
        runs: metrics rows by title; with many leaders the mean, their range shaded.
        optima: by the same titles; None where unknown.
    """
    panels = _panels(len(runs), 4.2, 3.0)
    for axes, (title, rows) in zip(panels, runs.items(), strict=True):
        values = np.array([np.atleast_1d(row["leader_objective"]) for row in rows])
        iterations = [row["iteration"] for row in rows]
        axes.plot(iterations, values.mean(1), label="leader")
        if values.shape[1] > 1:
            axes.fill_between(iterations, values.min(1), values.max(1), alpha=0.25, label="range")
        if optima[title] is not None:
            axes.axhline(optima[title], color="black", linestyle="--", label="optimum")
        axes.set(title=title, xlabel="outer iteration", ylabel="leader's discounted return")
        axes.legend()
    save(panels[0].figure, path)


def draw_states(path: str | Path, game: Game, panels: Sequence[tuple[str, np.ndarray]]) -> None:
    """One number per state in each panel, drawn as the game draws itself.

    Args:
        panels: titles and values [S].
    """
    grid = _panels(len(panels), 4.2, 3.6)
    for axes, (title, values) in zip(grid, panels, strict=True):
        game.picture(axes, values, title)
    save(grid[0].figure, path)


def _panels(count: int, width: float, height: float) -> list[Any]:
    """The axes of a new figure, two to a row."""
    columns = min(count, 2)
    rows = -(-count // columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    return [figure.add_subplot(rows, columns, i + 1) for i in range(count)]


@torch.no_grad()
def visits(game: Game, commitment: Commitment, response: Response, leader: int = 0) -> np.ndarray:
    """The exact discounted visitation [S] of one leader and its follower."""
    model = game.model(commitment.design)
    found = exact.visitation(model, commitment.policy, response.behaviour)
    return found[leader].numpy()


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure to a PNG or SVG file, whole or not at all."""
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    path = Path(path)
    figure.savefig(buffer, format=path.suffix.lstrip("."), dpi=110)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, buffer.getvalue())
