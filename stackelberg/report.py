"""A report of runs: figures, and one page that needs no network."""

import base64
import inspect
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stackelberg import figures, registry
from stackelberg.charts import NO_GAP, Group, charts, plotly
from stackelberg.config import TrainConfig
from stackelberg.errors import InputError
from stackelberg.evaluation_result import predicted
from stackelberg.frozen import of_run
from stackelberg.run_directory import (
    check_writable,
    flat,
    read_json,
    read_metrics,
    unwritable,
    write_atomically,
)
from stackelberg.summary import half_widths

PAGE = "report.html"
PLOTLY = "plotly-basic.min.js"  # npm's plotly.js-basic-dist-min 4.1.1 as it is, under its licence
FILM = "Before and after training"
PLAY = "play.gif"  # below figures/, where a run's episodes are shown from
DERIVED = ("game_model", "leader_model", "follower_settings")  # what settings come to
SPEAKING = ("estimator", "access", "follower", "leader", "optimiser")  # values that need no key
MEASURES = ("leader", "follower", "regret", "gap")


@dataclass(frozen=True)
class Run:
    """A run directory, finished or not."""

    path: Path
    config: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]
    summary: Mapping[str, Any] | None  # of the run as it is now, else None
    evaluation: Mapping[str, Any] | None

    @property
    def seeds(self) -> list[int]:
        return list(self.config["seeds"])

    @property
    def status(self) -> str:
        """In words; empty if the run is finished."""
        done, of = len(self.metrics), self.config.get("iterations", "?")
        if self.summary is not None and done == of:
            return ""
        return f"unfinished: {done} of {of} outer iterations"

    @property
    def settings(self) -> dict[str, Any]:
        """What was asked for, but the seeds."""
        own = {k: v for k, v in self.config.items() if k not in DERIVED and k != "seeds"}
        return flat(own)

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """What came out for every seed, from the summary or else from the last iteration."""
        return [self._row(i, seed) for i, seed in enumerate(self.seeds)]

    def _row(self, index: int, seed: int) -> dict[str, Any]:
        def one(value: Any) -> Any:
            return value[index] if isinstance(value, list) else value

        last = self.metrics[-1]
        steps = {f"{who}_steps": last[f"{who}_steps"] for who in ("leader", "follower")}
        row = {"run": self.path.name or str(self.path), "seed": seed, "status": self.status} | steps
        row |= {"seconds": sum(r["seconds"] for r in self.metrics)}
        if self.summary is None:
            row |= {"sampled": one(last["leader_return"]), "ci95": None, "regret": None}
            row |= {"exact": one(last["leader_objective"]), "gap": one(last["follower_gap"])}
            return row | {"follower": one(last["follower_return"])}
        ours, theirs = self.summary["leader_return"], self.summary["follower_return"]
        row |= {
            "sampled": one(ours["mean"]),
            "ci95": one(ours["ci95"]),
            "exact": one(ours["exact"]),
        }
        row |= {"regret": one(self.summary["regret"]), "gap": one(self.summary["follower_gap"])}
        return row | {"follower": one(theirs["mean"])}

    @property
    def command(self) -> str | None:
        """The command that makes the same run again; None of one started from Python."""
        c = self.config
        if c.get("leader") is None or c.get("game_options") is None:
            return None
        parts = ["stackelberg", "train", c["game"]]
        parts += _options("--game-option", c["game_options"])
        for name, default in (("leader_agent", None), ("leader", "default"), ("follower", "exact")):
            parts += [] if c.get(name) == default else [_flag(name), str(c[name])]
        parts += _options("--follower-option", c.get("follower_options"))
        parts += ["--seed", str(self.seeds[0])]
        defaults = TrainConfig()
        for field in fields(TrainConfig):
            value = c.get(field.name, getattr(defaults, field.name))
            if value != getattr(defaults, field.name):
                parts += [_flag(field.name)] + ([] if value is True else [str(value)])
        return shlex.join([*parts, "--out", str(self.path)])


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _options(flag: str, options: Mapping[str, Any] | None) -> list[str]:
    return [part for key, value in (options or {}).items() for part in (flag, f"{key}={value}")]


def read_run(path: str | Path) -> Run:
    """What a run directory holds; a run may be unfinished.

    Raises:
        InputError: if the folder is no run, has no outer iteration yet, or is damaged.
    """
    folder = Path(path)
    config = read_json(folder / "config.json", "the folder of a run")
    if not isinstance(config, dict) or not isinstance(config.get("seeds"), list):
        raise InputError(
            "a config.json as a run writes it", f"{folder / 'config.json'}", "put the file back"
        )
    metrics = read_metrics(folder, _whole_lines(folder / "metrics.jsonl"))
    if not metrics:
        raise InputError(
            "a run with at least one outer iteration",
            f"{folder}, which has none yet",
            "let `stackelberg train` go on",
        )
    summary = _if_there(folder / "summary.json")
    if summary is not None and summary.get("outer_iterations") != len(metrics):
        summary = None  # of an earlier end, which the run has gone on from
    run = Run(folder, config, metrics, summary, _if_there(folder / "evaluation.json"))
    try:
        run.rows, run.command, config["game"]
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise InputError(
            "a run as `stackelberg train` writes it", f"{folder}: {error!r}", "put its files back"
        ) from error
    return run


def _whole_lines(file: Path) -> int:
    """How many lines are there to their ends; a run under way may be writing another."""
    try:
        return file.read_bytes().count(b"\n")
    except OSError:
        return 0


def _if_there(file: Path) -> dict[str, Any] | None:
    if not file.exists():
        return None
    found = read_json(file, f"a whole {file.name}, or none")
    if not isinstance(found, dict):
        raise InputError(f"a {file.name} as Stackelberg writes it", f"{file}", "remove it")
    return found


def report(runs: Sequence[str | Path], out: str | Path | None = None) -> Path:
    """Write figures and one self-contained page of a run, or of several runs of one game.

    Runs that differ in nothing but their seeds are drawn as one curve, with 95 % intervals.

    Args:
        runs: run directories. out: the folder that takes report.html and figures/, the first run's
            unless given.
    Returns: the page.
    Raises:
        InputError: if a folder is no run or has no iteration yet, if runs are of different games,
            or if `out` cannot be written. Nothing is written then.
    """
    names = [Path(run).resolve() for run in runs]
    if not names or len(set(names)) < len(names):
        got = ", ".join(map(str, runs)) or "none"
        raise InputError("run directories, each named once", got, "name what train has written")
    found = [read_run(run) for run in runs]
    for one in found[1:]:
        if one.config["game"] != found[0].config["game"]:
            raise InputError(
                f"runs of one game, '{found[0].config['game']}' as in {found[0].path}",
                f"'{one.config['game']}' in {one.path}",
                "report on them apart; their returns do not compare",
            )
    folder = found[0].path if out is None else Path(out)
    check_writable(folder)
    groups = grouped(found)
    drawn = charts([group for group, _ in groups])
    sketches, panels, missing = _pictures(found[0])
    files: dict[str, bytes] = {}
    for name, figure in [(chart.name, figures.draw_chart(chart)) for chart in drawn] + sketches:
        for kind in ("png", "svg"):
            files[f"figures/{name}.{kind}"] = figures.drawn(figure, kind)
    said = _story(found, groups) | {"panels": panels, "missing": missing}
    said["filmed"] = any(panel["title"] == FILM for panel in panels)
    said |= {"charts": [{"name": c.name, "title": c.title} | plotly(c) for c in drawn]}
    files[PAGE] = _page(said).encode()
    try:
        (folder / "figures").mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            write_atomically(folder / name, data)
    except OSError as error:
        raise unwritable(folder, error) from error
    return folder / PAGE


def grouped(runs: Sequence[Run]) -> list[tuple[Group, list[Run]]]:
    """Runs that are alike but for their seeds, and equally long, by what tells them apart."""
    members: dict[str, list[Run]] = {}
    for run in runs:
        key = [run.settings, {name: run.config.get(name) for name in DERIVED}, len(run.metrics)]
        members.setdefault(json.dumps(key, sort_keys=True), []).append(run)
    many = list(members.values())
    differ = _differing([group[0].settings for group in many])
    labels = [_label(group[0], differ) if len(many) > 1 else _seeds(group) for group in many]
    if len(set(labels)) < len(labels):
        labels = [
            f"{name} ({group[0].path.name})" for name, group in zip(labels, many, strict=True)
        ]
    return [
        (Group(label, [run.metrics for run in group], *_best_known(group)), group)
        for label, group in zip(labels, many, strict=True)
    ]


def _differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    keys = dict.fromkeys(key for one in settings for key in one)
    return [k for k in keys if any(one.get(k) != settings[0].get(k) for one in settings)]


def _label(run: Run, differ: Sequence[str]) -> str:
    parts = []
    for key in differ:
        value, name = run.settings.get(key), key.rpartition(".")[2].replace("_", " ")
        value = "default" if value is None else value
        parts.append(f"{value}" if key in SPEAKING else f"{name} {value}")
    return ", ".join(parts) or run.path.name


def _seeds(runs: Sequence[Run]) -> str:
    seeds = [seed for run in runs for seed in run.seeds]
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"mean of {len(seeds)} seeds"


def _best_known(runs: Sequence[Run]) -> tuple[float | None, str]:
    """The highest optimum that the runs have been measured by, and what it is called."""
    known = [run.summary for run in runs if run.summary and run.summary["optimum"] is not None]
    best = max(known, key=lambda summary: summary["optimum"], default=None)
    if best is None:
        return None, "best known"
    return best["optimum"], "optimum" if best["optimum_source"] == "game" else "best known"


# ---------------------------------------------------------------- pictures


def _pictures(run: Run) -> tuple[list[tuple[str, Any]], list[dict[str, str]], str | None]:
    """Figures by name, pictures of the page, and what keeps them away."""
    shown, sketches, missing = [], [], None
    try:
        leader = of_run("leader", run.path)[0]
        panels = figures.game_panels(leader.game, leader.commitment)
    except InputError as error:
        panels, missing = [], str(error)
    if panels:
        sketches.append(("game", figures.draw_panels(panels)))
    for panel in panels:
        image = {"title": panel.title, "about": panel.about}
        image |= {"light": _uri(figures.draw_panel(panel), "image/svg+xml")}
        image |= {"dark": _uri(figures.draw_panel(panel, dark=True), "image/svg+xml")}
        shown.append(image)
    film = run.path / "figures" / PLAY
    if film.exists():
        moving = _uri(film.read_bytes(), "image/gif")
        about = "As stackelberg play has recorded it."
        shown.append({"title": FILM, "about": about, "light": moving, "dark": moving})
    return sketches, shown, missing


def _uri(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


# ---------------------------------------------------------------- words and tables


def _story(runs: Sequence[Run], groups: Sequence[tuple[Group, list[Run]]]) -> dict[str, Any]:
    """All that the page says, in JSON."""
    first, differ = runs[0], _differing([group[0].settings for _, group in groups])
    keys = dict.fromkeys(key for _, group in groups for key in group[0].settings)
    return {
        "title": first.config["game"],
        "sentence": _sentence(first, [group.label for group, _ in groups], len(runs)),
        "about": _about(first.config["game"]),
        "picture_of": f"{first.path.name}, seed {first.seeds[0]}",
        "play": None
        if first.command is None
        else f"stackelberg play {shlex.quote(str(first.path))}",
        "unfinished": [f"{run.path.name}: {run.status}" for run in runs if run.status],
        "groups": [_outcome(group, members) for group, members in groups],
        "runs": [row for run in runs for row in run.rows],
        "settings": [
            {
                "key": key,
                "values": [_shown(group[0].settings.get(key)) for _, group in groups],
                "differs": key in differ,
            }
            for key in keys
        ],
        "evaluations": [found for run in runs for found in _evaluations(run)],
        "commands": [run.command for run in runs if run.command is not None],
        "from_python": any(run.command is None for run in runs),
        "versions": next((run.summary["versions"] for run in runs if run.summary), None),
        "script": resources.files("stackelberg").joinpath("assets", PLOTLY).read_text(),
    }


def _sentence(run: Run, labels: Sequence[str], count: int) -> str:
    if len(labels) > 1:
        return f"{count} runs: {'; '.join(labels)}."
    c = run.config
    leader = "" if c.get("leader") in (None, "default") else f" {c['leader']}"
    who = f"A{leader} leader" if count * len(run.seeds) == 1 else f"{leader} leaders".strip()
    return (
        f"{who[0].upper()}{who[1:]} trained by {c.get('estimator')} at access {c.get('access')} "
        f"against the follower {c.get('follower')}, {len(run.metrics)} outer iterations, "
        f"{labels[0]}."
    )


def _about(game: str) -> dict[str, str] | None:
    """The first line and the rest of a shipped game's description."""
    if game not in registry.names("games"):
        return None
    head, _, rest = (inspect.getdoc(registry.load("games", game)) or "").partition("\n")
    return {"line": head, "rest": rest.strip()}


def _outcome(group: Group, runs: Sequence[Run]) -> dict[str, Any]:
    """Means over seeds, with 95 % intervals; of a single seed that over its episodes."""
    rows = [row for run in runs for row in run.rows]
    exact = all(row["exact"] is not None for row in rows)
    columns = {"leader": [row["exact" if exact else "sampled"] for row in rows]}
    columns |= {name: [row[name] for row in rows] for name in MEASURES[1:]}
    said: dict[str, Any] = {name: _mean(column) for name, column in columns.items()}
    known = len(rows) > 1 and None not in columns["leader"]
    half = half_widths(torch.tensor([columns["leader"]]).double())[0] if known else None
    said["half"] = rows[0]["ci95"] if len(rows) == 1 and not exact else half
    said |= {name: rows[0][name] for name in ("leader_steps", "follower_steps")}
    return said | {
        "label": group.label,
        "seeds": len(rows),
        "exact": exact,
        "optimum": group.optimum,
        "known_as": group.known_as,
        "status": ", ".join(dict.fromkeys(run.status for run in runs if run.status)),
        "seconds": float(np.mean([row["seconds"] for row in rows])),
    }


def _mean(column: Sequence[float | None]) -> float | None:
    known = [value for value in column if value is not None]
    return float(np.mean(known)) if len(known) == len(column) else None


def _evaluations(run: Run) -> Iterator[dict[str, Any]]:
    """The tables of the run's evaluation.json."""
    found = run.evaluation
    if found is None:
        return
    try:
        several = len(found["leaders"]) > 1
        promised = {one["name"]: predicted(one) for one in found["leaders"]}
        exact = {(s["leader"], s["temperature"]): s["objective"] for s in found["standings"]}
        yield {
            "run": run.path.name,
            "several": several,
            "rows": [
                {k: one[k] for k in _EVALUATED}
                | {"predicted": promised[one["leader"]]}
                | {"exact": exact[one["leader"], one["temperature"]]}
                for one in found["summary"]
            ],
            "groups": found["groups"] if several else [],
            "comparisons": found["comparisons"],
            "matrices": [_matrix(one) for one in found["cross_play"]],
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            "an evaluation.json as `stackelberg evaluate` writes it",
            f"{run.path / 'evaluation.json'}: {error!r}",
            "evaluate again, or remove it",
        ) from error


_EVALUATED = (
    "leader",
    "follower",
    "temperature",
    "seeds",
    "leader_discounted",
    "leader_discounted_ci95",
    "leader_undiscounted",
    "follower_discounted",
    "follower_discounted_ci95",
    "follower_gap",
    "regret",
)


def _matrix(one: Mapping[str, Any]) -> dict[str, Any]:
    """Cross-play with, for every cell, where it lies between the lowest and the highest: 0 to 1."""
    values = np.array(one["leader_discounted"], float)
    span = float(np.ptp(values)) or 1.0
    names = [str(name) for name in one["leaders"]]
    cells = [
        {"name": name, "cells": [{"value": v, "share": (v - values.min()) / span} for v in row]}
        for name, row in zip(names, values.tolist(), strict=True)
    ]
    return {"follower": one["follower"], "temperature": one["temperature"], "rows": cells}


def _shown(value: Any) -> str:
    return "" if value is None else str(value)


def _page(said: Mapping[str, Any]) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    engine = Environment(
        loader=PackageLoader("stackelberg", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    engine.filters |= {"number": _number, "gap": _gap}
    engine.filters["count"] = lambda value: f"{value:,}"
    page: str = engine.get_template(PAGE).render(said)
    return page


def _number(value: Any, digits: int = 5) -> str:
    return "-" if value is None else f"{value:.{digits}g}"


def _gap(value: float | None) -> str:
    """A gap in words; rounding errors are none."""
    return _number(value if value is None or abs(value) > NO_GAP else 0, 2)
