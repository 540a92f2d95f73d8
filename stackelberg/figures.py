"""Pictures of runs and games, drawn without pyplot's global state and written whole."""

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from stackelberg import exact
from stackelberg.charts import FEW, Chart
from stackelberg.game import Game
from stackelberg.hypergradient import exchange_rate, tabular_critics
from stackelberg.run_directory import write_atomically
from stackelberg.types import Commitment, LinearLeader, TabularResponse

NO_GAP = 1e-9  # relative gaps below it are drawn as none
INK, DARK_INK = "#1c2330", "#e4e8ef"  # of what is drawn on a light and on a dark page
DASHES = {"solid": "-", "dash": "--", "dot": ":"}
OFTEN = 1e-3  # of the visits to the state visited most: less often, rates are left out of scale


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


def draw_profiles(path: str | Path, groups: Sequence[Mapping[str, Any]]) -> None:
    """Performance profiles: for every group the share of runs above each return.

    Args:
        path: of the PNG or SVG file. groups: as `EvaluationResult.groups` has them.
    """
    (axes,) = _panels(1, 5.6, 3.6)
    for one in groups:
        axes.step(one["thresholds"], one["profile"], where="post", label=one["group"])
    axes.set(xlabel="leader's discounted return", ylabel="share of runs above", ylim=(-0.02, 1.02))
    axes.legend()
    save(axes.figure, path)


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


# ---------------------------------------------------------------- of a report


def draw_chart(chart: Chart) -> Figure:
    """The chart's curves that are shown, with their intervals."""
    (axes,) = _panels(1, 5.6, 3.6)
    for curve in chart.curves:
        if not curve.shown:
            continue
        iterations = np.arange(len(curve.mean))
        line = {"color": curve.colour, "linestyle": DASHES[curve.dash]}
        line["marker"] = "" if len(iterations) > FEW else "."
        axes.plot(iterations, curve.mean, label=curve.name, **line)
        if curve.half is not None:
            band = curve.band(chart.log)
            axes.fill_between(iterations, *band, color=curve.colour, alpha=0.2, linewidth=0)
    for name, value in chart.lines.items():
        axes.axhline(value, color="0.5", linestyle="--", linewidth=1.2, label=name)
    axes.set(title=chart.title, xlabel="outer iteration", ylabel=chart.axis)
    if chart.log:
        axes.set_yscale("log")
    if chart.range is not None:
        axes.set_ylim(chart.range)
    if len(axes.get_legend_handles_labels()[0]) > 1:
        axes.legend(fontsize="small")
    return axes.figure


class Panel(NamedTuple):
    """One picture of a game and its players."""

    title: str
    about: str  # what it shows, in a sentence
    draw: Callable[[Any], None]  # on axes


@torch.no_grad()
def game_panels(game: Game, commitment: Commitment) -> list[Panel]:
    """What a leader commits to and, in tabular games, what comes of it.

    There the follower's exact soft best response, the discounted visitation d(s) and the exchange
    rate rho(s) of `stackelberg.hypergradient.exchange_rate`, as maps of a grid or else as bars.

    Args:
        commitment: of one leader.
    """
    if not game.tabular:
        return _commitment_panels(commitment)
    model, policy = game.model(commitment.design), commitment.policy
    response = exact.best_response(model, policy)
    critics = tabular_critics(model, policy, response)
    rate = exchange_rate(critics, model.temperature)[0].numpy()
    visits = critics.visitation[0].numpy()
    follower = (policy.unsqueeze(-1) * response.policy).sum(-2)[0].numpy()  # [S, B]
    panels = [Panel("Visits", "Discounted visits of every state.", _map_of(game, visits))]
    about = (
        "The leader's price of a unit of the follower's value, rho(s): where it is positive "
        "(red) it pays the leader to please the follower, where negative (blue) to displease it."
    )
    panels.append(Panel("Exchange rate", about, _rate_map(game, rate, visits)))
    if game.grid is None:
        draw, about = (
            _bars(follower),
            "How likely the follower is to do what in every state, best-responding exactly.",
        )
    else:
        draw, about = (
            _arrows(game, follower, visits),
            "The follower's mean move in every cell, best-responding exactly.",
        )
    panels.insert(0, Panel("Follower's best response", about, draw))
    return _leader_panels(game, commitment) + panels


def _leader_panels(game: Game, commitment: Commitment) -> list[Panel]:
    if commitment.design is None:
        about = "How likely the leader is to do what in every state."
        return [Panel("Leader's policy", about, _bars(commitment.policy[0].numpy()))]
    design, grid = commitment.design[0].numpy(), game.grid
    if grid is None or len(design) != len(grid.cells):
        return _commitment_panels(commitment)

    def draw(axes: Any) -> None:
        grid.draw(axes, design, "")

    return [Panel("Leader's design", "What the leader puts on every cell.", draw)]


def _commitment_panels(commitment: Commitment) -> list[Panel]:
    """A design's numbers, or the gains of a leader that is linear in the state."""
    if commitment.design is not None:
        design = commitment.design[0].numpy()

        def draw(axes: Any) -> None:
            axes.bar(range(len(design)), design)
            axes.set(xlabel="number of the design")

        return [Panel("Leader's design", "The numbers of the leader's design.", draw)]
    if not isinstance(commitment.box, LinearLeader):
        return []
    gain = commitment.box.gain()[0].numpy()  # [k, 1 + n]

    def draw_gain(axes: Any) -> None:
        _draw_bars(axes, gain.T, "action")
        axes.set(xlabel="0: constant, then the state's numbers")

    return [
        Panel(
            "Leader's gains",
            "What the constant and the state's numbers weigh in the leader's mean action.",
            draw_gain,
        )
    ]


def _map_of(game: Game, values: np.ndarray) -> Callable[[Any], None]:
    def draw(axes: Any) -> None:
        game.picture(axes, values, "")

    return draw


def _rate_map(game: Game, rate: np.ndarray, visits: np.ndarray) -> Callable[[Any], None]:
    """Over several layers of a grid the mean by visits. States seldom visited may be off scale."""
    often = visits > OFTEN * visits.max()
    most = float(np.abs(rate[often]).max()) or 1.0

    def draw(axes: Any) -> None:
        if game.grid is None:
            colours = np.where(rate > 0, "tab:red", "tab:blue")
            axes.bar(range(len(rate)), rate, color=colours)
            axes.axhline(0, color=matplotlib.rcParams["axes.edgecolor"], linewidth=0.8)
            axes.locator_params(axis="x", integer=True)
            axes.set(xlabel="state")
            return
        mean = _by_cell(game, rate, visits)
        game.grid.draw(axes, mean, "", cmap="coolwarm", vmin=-most, vmax=most)

    return draw


def _arrows(game: Game, policy: np.ndarray, visits: np.ndarray) -> Callable[[Any], None]:
    mean = _by_cell(game, policy, visits)

    def draw(axes: Any) -> None:
        assert game.grid is not None
        cells = np.ones(len(game.grid.cells))
        game.grid.draw(axes, cells, "", bar=False, cmap="Greys", vmin=1, vmax=2)
        game.grid.draw_moves(axes, mean)

    return draw


def _by_cell(game: Game, values: np.ndarray, visits: np.ndarray) -> np.ndarray:
    """The mean over layers of values [S, ...], by visits [S]; where there are none, a plain one."""
    assert game.grid is not None
    layers, weight = game.grid.layered(values), game.grid.layered(visits)
    weight = np.where(weight.sum(0) > 0, weight, 1.0)
    weight = weight / weight.sum(0)
    return (weight.reshape(*weight.shape, *[1] * (layers.ndim - 2)) * layers).sum(0)


def _bars(policy: np.ndarray) -> Callable[[Any], None]:
    """Of probabilities [S, A]."""

    def draw(axes: Any) -> None:
        _draw_bars(axes, policy, "action")
        axes.set(xlabel="state", ylim=(0, 1.15))  # room for the legend

    return draw


def _draw_bars(axes: Any, values: np.ndarray, what: str) -> None:
    """values [S, A] side by side."""
    states, actions = values.shape
    width = 0.8 / actions
    for a in range(actions):
        places = np.arange(states) + (a - (actions - 1) / 2) * width
        axes.bar(places, values[:, a], width, label=f"{what} {a}")
    if states <= 20:
        axes.set_xticks(range(states))
    if 1 < actions <= 8:
        axes.legend(fontsize="small", loc="upper center", ncols=min(actions, 4))


def draw_panels(panels: Sequence[Panel]) -> Figure:
    """All panels in one figure, two to a row."""
    grid = _panels(len(panels), 4.2, 3.6)
    for axes, panel in zip(grid, panels, strict=True):
        panel.draw(axes)
        axes.set_title(panel.title)
    figure: Figure = grid[0].figure
    return figure


def draw_panel(panel: Panel, dark: bool = False) -> bytes:
    """One panel as SVG, without a background, for a light or a dark page."""
    ink = DARK_INK if dark else INK
    names = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    style: dict[Any, Any] = dict.fromkeys(names, ink)
    style |= dict.fromkeys(("figure.facecolor", "axes.facecolor"), "none")
    style["legend.framealpha"] = 0.0
    with matplotlib.rc_context(style):
        (axes,) = _panels(1, 4.2, 3.6)
        panel.draw(axes)
        return drawn(axes.figure, "svg")


def drawn(figure: Figure, kind: str) -> bytes:
    """The figure as a file of the kind, png or svg; the same figure gives the same bytes."""
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else None
    with matplotlib.rc_context({"svg.hashsalt": "stackelberg"}):
        figure.savefig(buffer, format=kind, dpi=110, metadata=metadata)
    return buffer.getvalue()


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure to a PNG or SVG file, whole or not at all."""
    path = Path(path)
    data = drawn(figure, path.suffix.lstrip("."))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, data)
