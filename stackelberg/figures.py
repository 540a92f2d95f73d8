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
from stackelberg.types import Commitment, TabularResponse

NO_GAP = 1e-9  # relative gaps below it are drawn as none


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


def draw_study(path: str | Path, findings: Mapping[str, Any]) -> None:
    """The leader's return against the follower's relative gap, one colour per restart mode.

    Left the return against the response that the leader met, right its objective against the best
    response. A point for every number of sweeps k, with 95 % intervals over seeds, each seed faint.

    Args:
        path: of the PNG or SVG file.
        findings: with `game`, `optimum` and `followers`, as study.json has them.
    """
    panels = _panels(2, 4.8, 3.8)
    titles = {"against_response": "against the response met", "exact": "against the best response"}
    for axes, (name, title) in zip(panels, titles.items(), strict=True):
        modes: dict[str, list[Any]] = {}
        for row in findings["followers"]:
            modes.setdefault(row["restart"], []).append(row)
        for number, (mode, rows) in enumerate(modes.items()):
            if rows[0]["sweeps"] is None:
                label = f"{mode} follower"
                axes.axhline(rows[0][name]["mean"], color=f"C{number}", label=label)
            else:
                _draw_points(axes, rows, name, f"C{number}", mode)
        if findings["optimum"] is not None:
            axes.axhline(findings["optimum"], color="black", linestyle="--", label="best known")
        axes.set(
            title=f"{findings['game']}, {title}",
            xlabel="follower's gap (V* - V) / |V*|",
            ylabel="leader's discounted return",
        )
        axes.margins(0.08)
        axes.set_xscale("symlog", linthresh=NO_GAP)
        axes.set_xlim(left=-NO_GAP / 2)
        for number, (mode, rows) in enumerate(modes.items()):
            if rows[0]["sweeps"] is not None:
                _label_points(axes, rows, name, f"C{number}", 4 if mode == "carry" else -11)
    panels[0].legend()
    save(panels[0].figure, path)


def draw_cross_play(path: str | Path, matrices: Sequence[Mapping[str, Any]]) -> None:
    """The leader's return of every pair, a heat map for each follower and temperature.

    Args:
        path: of the PNG or SVG file. matrices: as `EvaluationResult.cross_play` has them.
    """
    size = 2.4 + 0.9 * len(matrices[0]["leaders"])
    panels = _panels(len(matrices), size + 0.8, size)
    for axes, one in zip(panels, matrices, strict=True):
        values = np.array(one["leader_discounted"])
        image = axes.imshow(values, cmap="viridis")
        middle = (values.min() + values.max()) / 2
        for (row, column), value in np.ndenumerate(values):
            colour = "black" if value > middle else "white"
            axes.text(column, row, f"{value:.4g}", ha="center", va="center", color=colour)
        places = range(len(one["leaders"]))
        axes.set_xticks(places, one["leaders"], rotation=30, ha="right")
        axes.set_yticks(places, one["leaders"])
        axes.set(
            title=f"{one['follower']}, temperature {one['temperature']:g}",
            xlabel="played against",
            ylabel="trained against",
        )
        axes.figure.colorbar(image, ax=axes, label="leader's discounted return")
    save(panels[0].figure, path)


def _draw_points(
    axes: Any, rows: Sequence[Mapping[str, Any]], name: str, colour: str, label: str
) -> None:
    gaps, returns = ([row[which] for row in rows] for which in ("relative_gap", name))
    x, y = ([one["mean"] for one in many] for many in (gaps, returns))
    dx, dy = ([one["ci95"] or 0.0 for one in many] for many in (gaps, returns))
    axes.errorbar(x, y, dy, dx, color=colour, label=label, marker="o", capsize=2, linewidth=1)
    for gap, value in zip(gaps, returns, strict=True):
        axes.scatter(gap["seeds"], value["seeds"], color=colour, alpha=0.25, s=6)


def _label_points(
    axes: Any, rows: Sequence[Mapping[str, Any]], name: str, colour: str, height: int
) -> None:
    """Each point's number of sweeps, points that lie on each other under one label."""
    places: dict[tuple[int, int], tuple[tuple[float, float], list[str]]] = {}
    for row in rows:
        point = row["relative_gap"]["mean"], row[name]["mean"]
        across, up = axes.transData.transform(point) // 10
        places.setdefault((across, up), (point, []))[1].append(str(row["sweeps"]))
    for point, sweeps in places.values():
        offset = {"xytext": (3, height), "textcoords": "offset points", "fontsize": 8}
        axes.annotate(", ".join(sweeps), point, color=colour, **offset)


def _panels(count: int, width: float, height: float) -> list[Any]:
    """The axes of a new figure, two to a row."""
    columns = min(count, 2)
    rows = -(-count // columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    return [figure.add_subplot(rows, columns, i + 1) for i in range(count)]


@torch.no_grad()
def visits(
    game: Game, commitment: Commitment, response: TabularResponse, leader: int = 0
) -> np.ndarray:
    """The exact discounted visitation [S] of one leader and its follower."""
    model = game.model(commitment.design)
    found = exact.visitation(model, commitment.policy, response.policy)
    return found[leader].numpy()


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure to a PNG or SVG file, whole or not at all."""
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    path = Path(path)
    figure.savefig(buffer, format=path.suffix.lstrip("."), dpi=110)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, buffer.getvalue())
