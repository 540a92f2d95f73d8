"""What a run's metrics are drawn as: curves with intervals over seeds, for page and file alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from stackelberg.summary import half_widths

# Readable on white and on black.
COLOURS = ("#3b82d6", "#e0793a", "#2fa37c", "#c2569f", "#8f7be8", "#b58b1f", "#d65a5a", "#6b8e9e")
NO_GAP = 1e-9  # gaps below it are rounding


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seeds alone."""

    label: str
    metrics: Sequence[Sequence[Mapping[str, Any]]]  # rows of each run, equally many
    optimum: float | None = None

    def column(self, name: str) -> np.ndarray | None:
        """A metric by iteration and seed [T, N], NaN where it was not finite; None if unknown."""
        runs = [
            [np.atleast_1d(np.array(r.get(name), float)) for r in rows] for rows in self.metrics
        ]
        values = np.concatenate([np.stack(rows) for rows in runs], 1)
        return None if np.isnan(values).all() else values


@dataclass(frozen=True)
class Curve:
    """A mean over seeds by outer iteration, and the half-width of its 95 % interval."""

    name: str
    mean: np.ndarray  # [T]
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


def charts(groups: Sequence[Group]) -> list[Chart]:
    """The charts of all groups; of what no run has measured there is none."""
    found = [_learning(groups), *_gradients(groups), _gap(groups)]
    plain = {"temperature": "Follower's temperature, as estimated", "radius": "Trust region"}
    units = {"temperature": "temperature", "radius": "KL of a step, nats"}
    for name, title in plain.items():
        curves = _curves(groups, {name: ""}, log=True)
        found.append(Chart(name, title, units[name], curves, log=True))
    return [chart for chart in found if any(curve.shown for curve in chart.curves)]


def _learning(groups: Sequence[Group]) -> Chart:
    """The exact objective where every group has it, else the sampled return."""
    exact = all(group.column("leader_objective") is not None for group in groups)
    name = "leader_objective" if exact else "leader_return"
    beside = {"leader_estimate": "leader's own estimate"}
    beside |= {"leader_return": "sampled"} if exact else {}
    curves = _curves(groups, {name: ""}) + _curves(groups, beside, dash="dot", shown=False)
    optima = {group.label: group.optimum for group in groups if group.optimum is not None}
    one = len(set(optima.values())) == 1
    lines = {"best known" if one else f"best known, {who}": v for who, v in optima.items()}
    axis = "discounted return" + (", exact" if exact else " of sampled episodes")
    return Chart("learning_curves", "Leader's return", axis, curves, lines)


def _gradients(groups: Sequence[Group]) -> list[Chart]:
    terms = {"direct_norm": "direct term", "indirect_norm": "indirect term"}
    title = "Direct and indirect term of the hypergradient"
    norms = _curves(groups, terms, log=True)
    cosine = _curves(groups, {"cosine": ""})
    return [
        Chart("gradient_norms", title, "norm", norms, log=True),
        Chart("gradient_cosine", "Do the two terms agree?", "cosine between them", cosine),
    ]


def _gap(groups: Sequence[Group]) -> Chart:
    title, axis = "Follower's gap to its best response", "gap"
    columns = [group.column("follower_gap") for group in groups]
    if all(c is None or np.nanmax(c) < NO_GAP for c in columns):
        return Chart("follower_gap", title, axis, [])
    return Chart("follower_gap", title, axis, _curves(groups, {"follower_gap": ""}, True), log=True)


def _curves(
    groups: Sequence[Group],
    names: Mapping[str, str],
    log: bool = False,
    dash: str = "solid",
    shown: bool = True,
) -> list[Curve]:
    """A curve for every group and metric: colours tell groups apart, or metrics if there is one."""
    found = []
    for i, group in enumerate(groups):
        for k, (name, what) in enumerate(names.items()):
            values = group.column(name)
            if values is None:
                continue
            mean, half = values.mean(1), None
            if values.shape[1] > 1:
                half = np.array(half_widths(torch.from_numpy(values)))
            if log:
                mean = np.where(mean > 0, mean, np.nan)
            alone = len(groups) == 1
            colour = COLOURS[(k if alone else i) % len(COLOURS)]
            style = dash if alone or not k else ("dash", "dot")[(k - 1) % 2]
            label = what if alone and what else ", ".join(filter(None, (group.label, what)))
            found.append(Curve(label, mean, half, colour, style, shown))
    return found


# ---------------------------------------------------------------- for Plotly


def plotly(chart: Chart) -> dict[str, Any]:
    """Data and layout in JSON; what belongs to the page's colours is left to the page."""
    data: list[dict[str, Any]] = []
    for curve in chart.curves:
        x, visible = list(range(len(curve.mean))), True if curve.shown else "legendonly"
        common = {"x": x, "legendgroup": curve.name, "visible": visible, "mode": "lines"}
        error = ""
        if curve.half is not None:
            low, high = curve.band(chart.log)
            edge = {"line": {"width": 0}, "showlegend": False, "hoverinfo": "skip"}
            fill = {"fill": "tonexty", "fillcolor": curve.colour + "33"}
            data += [
                common | edge | {"y": _numbers(low)},
                common | edge | fill | {"y": _numbers(high)},
            ]
            error = " ± %{customdata:.2g}"
        line = {"color": curve.colour, "width": 2, "dash": curve.dash}
        one = {"name": curve.name, "y": _numbers(curve.mean), "line": line}
        one["hovertemplate"] = "%{y:.5g}" + error
        if curve.half is not None:
            one["customdata"] = _numbers(curve.half)
        data.append(common | one)
    longest = max(len(curve.mean) for curve in chart.curves)
    for name, value in chart.lines.items():
        line = {"color": "#8a919e", "width": 1.5, "dash": "dash"}
        ends = {"x": [0, max(longest - 1, 1)], "y": _numbers(np.array([value, value]))}
        label = {"name": name, "hovertemplate": "%{y:.5g}", "mode": "lines", "line": line}
        data.append(ends | label)
    named = sum(one.get("showlegend", True) for one in data)
    layout = {
        "xaxis": {"title": {"text": "outer iteration"}},
        "yaxis": {"title": {"text": chart.axis}, "type": "log" if chart.log else "linear"},
        "showlegend": named > 1,
    }
    return {"data": data, "layout": layout}


def _numbers(values: np.ndarray) -> list[float | None]:
    return [float(f"{v:.7g}") if np.isfinite(v) else None for v in values]
