"""Pictures of runs and games, drawn without pyplot's global state and written whole."""

import copy
import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from stackelberg import exact
from stackelberg.charts import COLOURS, FEW, Chart
from stackelberg.episode import (
    LABELLED,
    NAMED,
    draw_bars,
    draw_numbers,
    names_of,
    numbers,
    record,
    verbatim,
)
from stackelberg.game import Game
from stackelberg.hypergradient import exchange_rate, tabular_critics
from stackelberg.oracle import LinearOracle, oracle
from stackelberg.run_directory import write_atomically
from stackelberg.types import Commitment, LinearLeader, LinearResponse, TabularResponse

NO_GAP = 1e-9  # relative gaps below it are drawn as none
INK, DARK_INK = "#1c2330", "#e4e8ef"  # of what is drawn on a light and on a dark page
DASHES = {"solid": "-", "dash": "--", "dot": ":"}
EPISODES, POINTS, OUTPUTS = 4, 60, 4  # of a leader's rule: ranges from, points on a curve, panels
OFTEN = 0.01  # of the visits to the cell visited most: less often, rates are left out of scale


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
            title=f"{verbatim(findings['game'])}, {title}",
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
    save(cross_play(matrices), path)


def cross_play(matrices: Sequence[Mapping[str, Any]]) -> Figure:
    """What `draw_cross_play` writes."""
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
        names = [verbatim(name) for name in one["leaders"]]
        axes.set_xticks(places, names, rotation=30, ha="right")
        axes.set_yticks(places, names)
        axes.set(
            title=f"{verbatim(one['follower'])}, temperature {one['temperature']:g}",
            xlabel="met by",
            ylabel="trained against",
        )
        axes.figure.colorbar(image, ax=axes, label="leader's discounted return")
    figure: Figure = panels[0].figure
    return figure


def draw_profiles(path: str | Path, groups: Sequence[Mapping[str, Any]]) -> None:
    """Performance profiles: for every group the share of runs above each return.

    Args:
        path: of the PNG or SVG file. groups: as `EvaluationResult.groups` has them.
    """
    save(profiles(groups), path)


def profiles(groups: Sequence[Mapping[str, Any]]) -> Figure:
    """What `draw_profiles` writes."""
    (axes,) = _panels(1, 5.6, 3.6)
    for one, colour in zip(groups, cycle(COLOURS), strict=False):
        style = {"where": "post", "color": colour, "label": verbatim(one["group"])}
        axes.step(one["thresholds"], one["profile"], **style)
    axes.set(xlabel="leader's discounted return", ylabel="share of runs above", ylim=(-0.02, 1.02))
    axes.legend()
    figure: Figure = axes.figure
    return figure


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
        axes.plot(iterations, curve.mean, label=verbatim(curve.name), **line)
        if curve.half is not None:
            band = curve.band(chart.log)
            axes.fill_between(iterations, *band, color=curve.colour, alpha=0.2, linewidth=0)
    for name, value in chart.lines.items():
        axes.axhline(value, color="0.5", linestyle="--", linewidth=1.2, label=verbatim(name))
    axes.set(title=chart.title, xlabel="outer iteration", ylabel=chart.axis)
    if chart.log:
        axes.set_yscale("log")
    if chart.range is not None:
        axes.set_ylim(chart.range)
    if len(axes.get_legend_handles_labels()[0]) > 1 or chart.named:
        axes.legend(fontsize="small")
    return axes.figure


class Panel(NamedTuple):
    """One picture of a game and its players."""

    title: str
    about: str  # what it shows, in a sentence
    draw: Callable[[Any], None]  # on axes
    paper: bool = False  # is it drawn on white, on a dark page, too?


@torch.no_grad()
def game_panels(game: Game, commitment: Commitment) -> list[Panel]:
    """What a leader commits to and, as far as it is known exactly, what comes of it.

    In tabular games the follower's exact soft best response, the discounted visitation d(s) and the
    exchange rate rho(s) of `stackelberg.hypergradient.exchange_rate`, as maps of a grid or else as
    bars. In linear-quadratic ones the gains of the best response and an episode against it. In
    others where an episode starts, as the game draws itself.

    Args:
        commitment: of one leader.

    Raises:
        InputError: if the game's grid is not of its states and follower.
    """
    game.check_grid()
    leader = _leader_panels(game, commitment)
    return leader + (_tabular_panels if game.tabular else _other_panels)(game, commitment)


def _tabular_panels(game: Game, commitment: Commitment) -> list[Panel]:
    model, policy = game.model(commitment.design), commitment.policy
    response = exact.best_response(model, policy)
    critics = tabular_critics(model, policy, response)
    rate = exchange_rate(critics, model.temperature)[0].numpy()
    visits = critics.visitation[0].numpy()
    follower = (policy.unsqueeze(-1) * response.policy).sum(-2)[0].numpy()  # [S, B]
    if game.grid is None:
        draw = _odds(game, "follower", follower)
        about = "How likely the follower is to do what in every state, best-responding exactly."
    else:
        draw = _arrows(game, follower, visits)
        about = "The follower's mean move in every cell, best-responding exactly."
    price = (
        "The leader's price of a unit of the follower's value, rho(s): where it is positive "
        "(red) it pays the leader to please the follower, where negative (blue) to displease it."
    )
    if game.grid is not None:
        price += (
            f" Colours are scaled to cells with at least {OFTEN:.0%} of the visits of the cell "
            "visited most; where others exceed that, their colour is the fullest."
        )
    panels = [Panel("Follower's best response", about, draw)]
    if len(visits) > 1:
        said = "Expected discounted visits of every state."
        panels.append(Panel("Visits", said, _map_of(game, visits)))
    return [*panels, Panel("Exchange rate", price, _rate_map(game, rate, visits))]


def _leader_panels(game: Game, commitment: Commitment) -> list[Panel]:
    """The leader's design, its gains, its table, or else its rule along what it observes."""
    if commitment.design is not None:
        design, grid = commitment.design[0].numpy(), game.grid
        if grid is not None and len(design) == len(grid.cells):
            about = "What the leader puts on every cell."
            return [
                Panel("Leader's design", about, lambda axes: grid.draw(axes, design, "") and None)
            ]
        places = names_of(game, "leader", len(design))
        about = "The numbers of the leader's design, which stands for the whole episode."
        return [
            Panel("Leader's design", about, partial(_draw_design, places=places, values=design))
        ]
    if isinstance(commitment.box, LinearLeader):
        gain = commitment.box.gain()[0].numpy()  # [k, 1 + n]
        std = commitment.box.std()[0].numpy()
        about = (
            "What a constant and the numbers of the state weigh in the leader's mean action; "
            f"it explores around it with standard deviation {_listed(std)}."
        )
        return [Panel("Leader's gains", about, _gains(game, "leader", gain))]
    if game.tabular and commitment.box is None:
        about = "How likely the leader is to do what in every state."
        return [
            Panel("Leader's policy", about, _odds(game, "leader", commitment.policy[0].numpy()))
        ]
    return _rule_panels(game, commitment)


def _other_panels(game: Game, commitment: Commitment) -> list[Panel]:
    """Of games without tables."""
    known = oracle(game, commitment)
    best = known.best if isinstance(known, LinearOracle) else None
    if best is None or not best.solved.all():
        seen = game.vector(1, torch.Generator().manual_seed(0)).leader_observation[0].numpy()
        return _own_picture(game, "The game", "An episode's start.", seen)
    gain, covariance = best.answer.gain[0].numpy(), best.answer.covariance[0]
    about = (
        "What a constant and all that it sees weigh in the follower's mean action, best-responding "
        "exactly; it draws around it with standard deviation "
        f"{_listed(covariance.diagonal().sqrt().numpy())}."
    )
    answer = Panel("Follower's best response", about, _gains(game, "follower", gain))
    moments = record(game, commitment, LinearResponse(best), [0])
    told = [one for one in numbers(game, moments) if one.values.ndim == 2]

    def draw(axes: Any) -> None:
        axes.set_axis_off()
        height = 1 / len(told)
        places = [(0, 1 - (r + 0.9) * height, 1, 0.8 * height) for r in range(len(told))]
        draw_numbers([[axes.inset_axes(place)] for place in places], [told])

    episode = Panel("An episode", "Against the exact best response.", draw)
    about, first = "After the first step of the same episode.", moments[1]
    scene = _own_picture(game, "The game", about, first.observation, first.moves)
    return [answer, episode, *scene]


def _own_picture(
    game: Game, title: str, about: str, seen: np.ndarray, moves: Sequence[Any] | None = None
) -> list[Panel]:
    """The game as it draws itself, if it does."""

    def draw(axes: Any) -> None:
        game.picture(axes, seen, "")
        if moves is not None:
            game.picture_moves(axes, seen, *moves)

    return [Panel(title, about, draw, paper=True)] if game.drawn else []


def _rule_panels(game: Game, commitment: Commitment) -> list[Panel]:
    """What the leader does along every number that it observes, the others as at a start."""
    anything = _Anything(copy.deepcopy(game.follower_space))
    anything.space.seed(0)
    episodes = [record(game, commitment, anything, [e]) for e in range(EPISODES)]
    met = np.stack([moment.observation for moments in episodes for moment in moments])
    start, low, high = met[0], met.min(0), met.max(0)
    names = names_of(game, "state", len(start))
    moved = [i for i in range(len(start)) if high[i] > low[i]][:NAMED]
    share = np.linspace(0, 1, POINTS)
    seen = np.tile(start, (len(moved), POINTS, 1))
    for row, i in enumerate(moved):
        seen[row, :, i] = low[i] + share * (high[i] - low[i])
    done = _usual(commitment, torch.from_numpy(seen).flatten(0, 1))  # [points, k]
    values = done.reshape(len(moved), POINTS, -1)
    actions = names_of(game, "leader", values.shape[-1])
    finite = commitment.box is None
    kept = range(values.shape[-1]) if values.shape[-1] != 2 or not finite else [1]

    def draw(axes: Any, action: int) -> None:
        for row, i in enumerate(moved):
            name = f"{names[i]}, {low[i]:.2g} to {high[i]:.2g}"
            axes.plot(share, values[row, :, action], color=COLOURS[row % len(COLOURS)], label=name)
        axes.set(xlabel="from the lowest to the highest value met", xticks=[])
        axes.set_ylabel(f"probability of action {actions[action]}" if finite else actions[action])
        axes.legend(fontsize="small")

    what = "How likely it is to choose so" if finite else "What it does, exploration left out,"
    about = (
        f"{what} where one number that it observes goes through the range met in {EPISODES} "
        "episodes against random moves, while the others stay as at a start."
    )
    return [Panel("Leader's rule", about, partial(draw, action=a)) for a in list(kept)[:OUTPUTS]]


class _Anything(NamedTuple):
    """A follower that moves at random."""

    space: Any

    def sample(self, observation: Any, leader_action: Any, generator: Any) -> torch.Tensor:
        return torch.as_tensor(self.space.sample())[None, None]


def _usual(commitment: Commitment, observation: torch.Tensor) -> np.ndarray:
    """Odds [n, A], or actions [n, k] without noise, of what is observed [n, d]."""
    if commitment.box is None:
        assert commitment.rule is not None
        return commitment.rule(observation)[0].exp().numpy()
    noise = torch.zeros(1, len(observation), commitment.box.actions, dtype=torch.float64)
    return commitment.box.act(observation, noise)[0].numpy()


def _gains(game: Game, who: str, gain: np.ndarray) -> Callable[[Any], None]:
    """Bars of a linear rule [k, weights], each weight at its name."""
    count = game.observation_space.shape[0]
    weights = ["constant", *names_of(game, "state", count)]
    if len(weights) < gain.shape[1]:
        weights += names_of(game, "leader", gain.shape[1] - len(weights))
    names = names_of(game, who, len(gain))

    def draw(axes: Any) -> None:
        draw_bars(axes, weights, gain.T, names)
        axes.axhline(0, color=matplotlib.rcParams["axes.edgecolor"], linewidth=0.8)
        axes.set_ylabel(f"gain of {names[0]}" if len(names) == 1 else "gain")

    return draw


def _draw_design(axes: Any, places: Sequence[str], values: np.ndarray) -> None:
    draw_bars(axes, places, values[:, None], written=True)
    if len(places) > LABELLED:
        axes.set_xlabel("number of the design")


def _listed(values: np.ndarray) -> str:
    return ", ".join(f"{value:.2g}" for value in values)


def _map_of(game: Game, values: np.ndarray) -> Callable[[Any], None]:
    def draw(axes: Any) -> None:
        if game.drawn:
            game.picture(axes, values, "")
            return
        draw_bars(axes, names_of(game, "state", len(values)), values[:, None])
        axes.set(xlabel="state", ylabel="visits")

    return draw


def _rate_map(game: Game, rate: np.ndarray, visits: np.ndarray) -> Callable[[Any], None]:
    """Over several layers of a grid the mean by visits. Cells seldom visited may be off scale."""

    def draw(axes: Any) -> None:
        if game.grid is None:
            draw_bars(axes, names_of(game, "state", len(rate)), rate[:, None])
            for bar, value in zip(axes.patches, rate, strict=True):
                bar.set_color("tab:red" if value > 0 else "tab:blue")
            axes.axhline(0, color=matplotlib.rcParams["axes.edgecolor"], linewidth=0.8)
            axes.set(xlabel="state", ylabel="rho(s)")
            return
        mean, times = _by_cell(game, rate, visits), game.grid.layered(visits).sum(0)
        most = float(np.abs(mean[times >= OFTEN * times.max()]).max()) or 1.0
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


def _odds(game: Game, who: str, policy: np.ndarray) -> Callable[[Any], None]:
    """Bars of a player's probabilities [S, A], or a map where they would be too many to read."""
    states, actions = (
        names_of(game, kind, n) for kind, n in zip(("state", who), policy.shape, strict=True)
    )

    def draw(axes: Any) -> None:
        if len(states) == 1:
            axes.set(xlabel="action", ylabel="probability", ylim=(0, 1))
            draw_bars(axes, actions, policy.T)
        elif len(states) <= LABELLED and len(actions) <= NAMED:
            axes.set(xlabel="state", ylabel="probability", ylim=(0, 1))
            draw_bars(axes, states, policy, actions, title="action")
        else:
            image = axes.imshow(policy.T, vmin=0, aspect="auto", interpolation="nearest")
            axes.figure.colorbar(image, ax=axes, label="probability")
            axes.set(xlabel="state", ylabel="action")
            if len(actions) <= LABELLED:
                axes.set_yticks(range(len(actions)), actions, fontsize="small")

    return draw


def draw_panels(panels: Sequence[Panel]) -> Figure:
    """All panels in one figure, two to a row."""
    grid = _panels(len(panels), 4.2, 3.6)
    for axes, panel in zip(grid, panels, strict=True):
        panel.draw(axes)
        axes.set_title(panel.title)
    figure: Figure = grid[0].figure
    return figure


def draw_panel(panel: Panel, dark: bool = False) -> bytes:
    """One panel as SVG, as a rule without a background, for a light or a dark page."""
    ink = DARK_INK if dark and not panel.paper else INK
    names = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    style: dict[Any, Any] = dict.fromkeys(names, ink)
    face = "white" if panel.paper else "none"
    style |= dict.fromkeys(("figure.facecolor", "axes.facecolor"), face)
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
