"""What a run's metrics are drawn as: curves with intervals over seeds, for page and file alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from typing import Any

import numpy as np
import torch

from stackelberg.summary import half_widths

# Readable on white and on black.
COLOURS = ("#3b82d6", "#e0793a", "#2fa37c", "#c2569f", "#8f7be8", "#b58b1f", "#d65a5a", "#6b8e9e")
FEW = 20  # iterations; up to here every one is marked
CLOSE = 1000  # ratio of the ends of a logarithmic axis up to which there are labels in between
NO_GAP = 1e-9  # gaps below it are rounding


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seeds alone."""

    label: str
    metrics: Sequence[Sequence[Mapping[str, Any]]]  # rows of each run, equally many
    optimum: float | None = None
    known_as: str = "best known"  # or optimum, where it is the game's own

    def column(self, name: str) -> np.ndarray | None:
        """A metric by iteration and seed [T, N], None if unknown.

        NaN where it was not finite, the cosine also where a term is nil.
        """
        runs = [
            [np.atleast_1d(np.array(r.get(name), float)) for r in rows] for rows in self.metrics
        ]
        values = np.concatenate([np.stack(rows) for rows in runs], 1)
        if name == "cosine":
            for norm in (self.column("direct_norm"), self.column("indirect_norm")):
                values = np.where(False if norm is None else norm > 0, values, np.nan)
        return None if np.isnan(values).all() else values

    @property
    def steps(self) -> np.ndarray:
        """Environment steps of leader and follower by the end of an iteration, per seed [T]."""
        each = [[row["leader_steps"] + row["follower_steps"] for row in m] for m in self.metrics]
        return np.mean(each, 0)


@dataclass(frozen=True)
class Curve:
    """A mean over seeds by outer iteration, and the half-width of its 95 % interval."""

    name: str
    mean: np.ndarray  # [T]
    steps: np.ndarray  # [T] of the environment, so far
    half: np.ndarray | None  # [T]; None for a single seed
    colour: str
    dash: str = "solid"  # or dash, dot
    shown: bool = True  # from the start, and in files

    def band(self, log: bool) -> tuple[np.ndarray, np.ndarray]:
        """Where the interval ends; on a logarithmic axis no lower than what is drawn there."""
        assert self.half is not None
        low, high = self.mean - self.half, self.mean + self.half
        if log:
            seen = self.mean[np.isfinite(self.mean)]
            low = np.maximum(low, seen.min() / 3 if len(seen) else 0.0)
        return low, high


@dataclass(frozen=True)
class Chart:
    """Curves over outer iterations."""

    name: str  # of the file
    title: str
    axis: str
    curves: Sequence[Curve]
    lines: Mapping[str, float] = field(default_factory=dict)  # horizontal ones by name
    log: bool = False
    range: tuple[float, float] | None = None  # of the vertical axis; what the curves need
    named: bool = False  # is a lone curve named, too?


def charts(groups: Sequence[Group]) -> list[Chart]:
    """The charts of all groups; of what no run has measured there is none."""
    temperature = _curves(groups, {"temperature": ""}, log=True)
    title = "Follower's temperature, as estimated"
    found = [_learning(groups), *_gradients(groups), _gap(groups)]
    found.append(Chart("temperature", title, "temperature", temperature, log=True))
    found = [replace(chart, named=chart.named or len(groups) > 1) for chart in found]
    return [chart for chart in found if any(curve.shown for curve in chart.curves)]


def _learning(groups: Sequence[Group]) -> Chart:
    """The exact objective where every group has it, else the sampled return."""
    exact = all(group.column("leader_objective") is not None for group in groups)
    name = "leader_objective" if exact else "leader_return"
    beside = {"leader_estimate": "leader's own estimate"}
    beside |= {"leader_return": "sampled"} if exact else {}
    curves = _curves(groups, {name: ""})
    if len(groups) == 1:
        curves += _curves(groups, beside, first=1, shown=False)
    known = [(group, group.optimum) for group in groups if group.optimum is not None]
    if len({value for _, value in known}) == 1:
        lines = {known[0][0].known_as: known[0][1]}
    else:
        lines = {f"{group.known_as}, {group.label}": value for group, value in known}
    axis = "discounted return" + (", exact" if exact else " of sampled episodes")
    return Chart("learning_curves", "Leader's return", axis, curves, lines)


def _gradients(groups: Sequence[Group]) -> list[Chart]:
    terms = {"direct_norm": "direct term", "indirect_norm": "indirect term"}
    title = "Direct and indirect term of the hypergradient"
    norms = _curves(groups, terms, log=True)
    cosine = _curves(groups, {"cosine": ""})
    return [
        Chart("gradient_norms", title, "norm", norms, log=True, named=True),
        Chart(
            "gradient_cosine",
            "Do the two terms agree?",
            "cosine between them",
            cosine,
            range=(-1.05, 1.05),
        ),
    ]


def _gap(groups: Sequence[Group]) -> Chart:
    title, axis = "Follower's gap to its best response", "gap"
    curves = _curves(groups, {"follower_gap": ""}, log=True, least=NO_GAP)
    return Chart("follower_gap", title, axis, curves, log=True)


def _curves(
    groups: Sequence[Group],
    names: Mapping[str, str],
    *,
    log: bool = False,
    least: float = 0.0,
    first: int = 0,
    shown: bool = True,
) -> list[Curve]:
    """A curve for every group and metric: colours tell groups apart, or metrics if there is one.

    Args:
        least: on a logarithmic axis, means up to it are not drawn. first: colour of a lone group.
    """
    found = []
    for i, group in enumerate(groups):
        for k, (name, what) in enumerate(names.items()):
            values = group.column(name)
            if values is None or (log and np.nanmax(values) <= least):
                continue
            mean, half = values.mean(1), None
            if values.shape[1] > 1:
                half = np.array(half_widths(torch.from_numpy(values)))
            if log:
                mean = np.where(mean > least, mean, np.nan)
            alone = len(groups) == 1
            colour = COLOURS[(k + first if alone else i) % len(COLOURS)]
            dash = "solid" if alone or not k else "dash"
            label = what if alone and what else ", ".join(filter(None, (group.label, what)))
            found.append(Curve(label, mean, group.steps, half, colour, dash, shown))
    return found


# ---------------------------------------------------------------- for Plotly


def plotly(chart: Chart) -> dict[str, Any]:
    """Data and layout in JSON; what belongs to the page's colours is left to the page."""
    data: list[dict[str, Any]] = []
    for curve in chart.curves:
        x, visible = list(range(len(curve.mean))), True if curve.shown else "legendonly"
        common: dict[str, Any] = {"x": x, "legendgroup": curve.name, "visible": visible}
        common |= {"mode": "lines" if len(x) > FEW else "lines+markers"}
        common |= {"steps": _numbers(curve.steps)}  # in the place of x, if asked
        error = ""
        if curve.half is not None:
            edge = {"mode": "lines", "line": {"width": 0}, "showlegend": False, "hoverinfo": "skip"}
            fill = {"fill": "toself", "fillcolor": curve.colour + "33"}
            data.append(common | edge | fill | _outline(*curve.band(chart.log), curve.steps))
            error = " ± %{customdata:.2g}"
        line = {"color": curve.colour, "width": 2, "dash": curve.dash}
        one = {"name": escape(curve.name, quote=False), "y": _numbers(curve.mean), "line": line}
        one["hovertemplate"] = "%{y:.5g}" + error
        if curve.half is not None:
            one["customdata"] = _numbers(curve.half)
        data.append(common | one)
    longest = max(len(curve.mean) for curve in chart.curves)
    most = max(curve.steps[-1] for curve in chart.curves)
    for name, value in chart.lines.items():
        line = {"color": "#8a919e", "width": 1.5, "dash": "dash"}
        ends = {
            "x": [0, max(longest - 1, 1)],
            "steps": [0, float(most)],
            "y": _numbers(np.array([value, value])),
        }
        label = {"name": escape(name, quote=False), "hovertemplate": "%{y:.5g}"}
        data.append(ends | label | {"mode": "lines", "line": line})
    named = sum(one.get("showlegend", True) for one in data)
    layout: dict[str, Any] = {
        "yaxis": {"title": {"text": chart.axis}, "type": "log" if chart.log else "linear"},
        "showlegend": named > 1 or chart.named,
    }
    if chart.range is not None:
        layout["yaxis"] |= {"range": list(chart.range)}
    if chart.log:
        seen = np.concatenate([curve.mean[np.isfinite(curve.mean)] for curve in chart.curves])
        if 5 <= seen.max() / seen.min() < CLOSE:
            layout["yaxis"] |= {"dtick": "D2"}  # labels at 1, 2 and 5
    return {"data": data, "layout": layout}


def _outline(low: np.ndarray, high: np.ndarray, steps: np.ndarray) -> dict[str, Any]:
    """Around every stretch of a band, there and back, with a hole where it is not known."""
    known = np.flatnonzero(np.isfinite(low) & np.isfinite(high))
    found: dict[str, list[Any]] = {"x": [], "steps": [], "y": []}
    for stretch in np.split(known, np.flatnonzero(np.diff(known) > 1) + 1):
        around = np.concatenate([stretch, stretch[::-1]])
        ends = np.concatenate([low[stretch], high[stretch[::-1]]])
        for name, part in (("x", around.tolist()), ("steps", steps[around]), ("y", ends)):
            hole = [None] if found[name] else []
            found[name] += hole + (part if name == "x" else _numbers(part))
    return found


def _numbers(values: np.ndarray) -> list[float | None]:
    return [float(f"{v:.7g}") if np.isfinite(v) else None for v in values]
