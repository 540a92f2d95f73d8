"""A report of runs: figures, and one page that needs no network."""

import base64
import html
import inspect
import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stackelberg import figures, registry
from stackelberg.best_known import BestKnown
from stackelberg.charts import COLOURS, NO_GAP, Group, charts, plotly
from stackelberg.config import TrainConfig
from stackelberg.errors import InputError
from stackelberg.evaluation_result import predicted
from stackelberg.frozen import frozen, load_leader
from stackelberg.game import Game
from stackelberg.run_directory import (
    check_writable,
    flat,
    from_python,
    read_json,
    read_metrics,
    require_run,
    unwritable,
    write_atomically,
)
from stackelberg.summary import half_widths
from stackelberg.types import Leader

PAGE = "report.html"
PLOTLY = "plotly-basic.min.js"  # npm's plotly.js-basic-dist-min 4.1.1 as it is, under its licence
PLAY = "play.gif"  # below figures/, where a run's episodes are shown from
PICTURED = 4  # groups of runs at most whose leaders are drawn
DERIVED = ("game_model", "leader_model", "follower_settings")  # what settings come to
TOLD = 3  # settings at most that runs are told apart by; beyond, their folders do
SPEAKING = ("estimator", "access", "follower", "leader", "optimiser")  # values that need no key
MEASURES = ("leader", "follower", "regret", "gap")

_Table = tuple[list[str], list[list[str]]]  # heads and rows


@dataclass(frozen=True)
class Run:
    """A run directory, finished or not."""

    path: Path
    config: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]
    summary: Mapping[str, Any] | None  # of the run as it is now, else None
    evaluation: Mapping[str, Any] | None
    name: str = ""  # among those that are reported on

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
        row = {"run": self.name, "seed": seed, "status": self.status} | steps
        row |= {"seconds": sum(r["seconds"] for r in self.metrics)}
        if self.summary is None:
            exact, best = one(last["leader_objective"]), self.optimum[0]
            row |= {"sampled": one(last["leader_return"]), "ci95": None, "exact": exact}
            row |= {"regret": None if exact is None or best is None else best - exact}
            row |= {"gap": one(last["follower_gap"])}
            return row | {"follower": one(last["follower_return"])}
        ours, theirs = self.summary["leader_return"], self.summary["follower_return"]
        row |= {
            "sampled": one(ours["mean"]),
            "ci95": one(ours["ci95"]),
            "exact": one(ours["exact"]),
        }
        row |= {"regret": one(self.summary["regret"]), "gap": one(self.summary["follower_gap"])}
        return row | {"follower": one(theirs["mean"])}

    @cached_property
    def optimum(self) -> tuple[float | None, str]:
        """What the run is measured by, as its summary has it or else as known by now, in words."""
        if self.summary is not None:
            value, source = self.summary["optimum"], self.summary["optimum_source"]
        else:
            try:
                value, source = BestKnown().optimum(load_leader(self.path).game)
            except InputError:
                value, source = None, None
        if value is None:
            return None, "optimum"
        if source == "game":
            return value, "optimum, by the game"
        own = self.summary is not None and self.summary["new_best"]
        return value, "best known, by this run" if own else "best known"

    @property
    def command(self) -> str | None:
        """The command that makes the same run again; None of one started from Python."""
        c = self.config
        if from_python(c):
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


def read_run(path: str | Path, name: str | None = None) -> Run:
    """What a run directory holds; a run may be unfinished.

    Args:
        name: what to call it, as its folder unless given.

    Raises:
        InputError: if the folder is no run, has no outer iteration yet, or is damaged.
    """
    folder = Path(path)
    require_run(folder)
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
    evaluation = _if_there(folder / "evaluation.json")
    run = Run(folder, config, metrics, summary, evaluation, name or folder.resolve().name)
    try:
        run.rows, run.command, config["game"]
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise InputError(
            "a run as `stackelberg train` writes it", f"{folder}: {error!r}", "put its files back"
        ) from error
    return run


def distinct(paths: Sequence[Path]) -> list[str]:
    """The last parts of every path, as many as tell them apart."""
    parts = [path.parts for path in paths]
    count = 1
    while len({one[-count:] for one in parts}) < len(parts):
        count += 1
    return [str(Path(*one[-count:])) for one in parts]


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


def report(
    runs: Sequence[str | Path],
    out: str | Path | None = None,
    *,
    game: Game | None = None,
    leader: Leader | None = None,
    tell: Callable[[str], None] = lambda said: None,
) -> Path:
    """Write figures and one self-contained page of a run, or of several runs of one game.

    Runs that differ in nothing but their seeds are drawn as one curve, with 95 % intervals.

    Args:
        runs: run directories. out: the folder that takes report.html and figures/, the first run's
            unless given.
        game, leader: for pictures of the first run, where that was started from Python: its game
            and a leader of the same kind and size.
        tell: called with a line for every leader that cannot be drawn, and why.

    Returns: the page.
    Raises:
        InputError: if a folder is no run or has no iteration yet, if runs are of different games,
            if a game's grid does not fit it, or if `out` cannot be written. Nothing is written
            then.
    """
    names = [Path(run).resolve() for run in runs]
    if not names or len(set(names)) < len(names):
        got = ", ".join(map(str, runs)) or "none"
        raise InputError("run directories, each named once", got, "name what train has written")
    found = [read_run(run, name) for run, name in zip(runs, distinct(names), strict=True)]
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
    evaluations = [made for run in found if (made := _evaluation(run)) is not None]
    leaders = [members[0] for _, members in groups[:PICTURED]]
    pictured = [_panels(found[0], game, leader), *map(_panels, leaders[1:])]
    files: dict[str, bytes] = {}
    for name, figure in [
        *((chart.name, figures.draw_chart(chart)) for chart in drawn),
        *((f"game{_tail(i)}", figures.draw_panels(p)) for i, (p, _) in enumerate(pictured) if p),
        *_figures(evaluations),
    ]:
        for kind in ("png", "svg"):
            files[f"figures/{name}.{kind}"] = figures.drawn(figure, kind)
    said = _story(found, groups) | {"evaluations": evaluations}
    said["players"] = [
        {"of": f"{run.name}, seed {run.seeds[0]}", "panels": _images(panels), "missing": missing}
        | {"film": _film(run), "play": _play(run)}
        for run, (panels, missing) in zip(leaders, pictured, strict=True)
    ]
    said |= {"charts": [{"name": c.name, "title": c.title} | plotly(c) for c in drawn]}
    files[PAGE] = _page(said).encode()
    try:
        (folder / "figures").mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            write_atomically(folder / name, data)
    except OSError as error:
        raise unwritable(folder, error) from error
    for run, (_, missing) in zip(leaders, pictured, strict=True):
        if missing is not None:
            tell(f"no pictures of the leader of {run.name}: {missing}")
    return folder / PAGE


def grouped(runs: Sequence[Run]) -> list[tuple[Group, list[Run]]]:
    """Runs that are alike but for their seeds, and equally long, by what tells them apart."""
    members: dict[str, list[Run]] = {}
    for run in runs:
        key = [run.settings, {name: run.config.get(name) for name in DERIVED}, len(run.metrics)]
        members.setdefault(json.dumps(key, sort_keys=True), []).append(run)
    many = list(members.values())
    differ = _differing([group[0].settings for group in many])
    if len(many) == 1:
        labels = [_seeds(many[0])]
    elif len(differ) > TOLD:
        labels = [_named(group) for group in many]
    else:
        labels = [_label(group[0], differ, runs) for group in many]
    if len(set(labels)) < len(labels) or "" in labels:
        labels = [f"{name} ({group[0].name})" for name, group in zip(labels, many, strict=True)]
    return [
        (Group(label, [run.metrics for run in group], *_best_known(group, runs)), group)
        for label, group in zip(labels, many, strict=True)
    ]


def _differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    keys = dict.fromkeys(key for one in settings for key in one)
    return [k for k in keys if any(one.get(k) != settings[0].get(k) for one in settings)]


def _named(group: Sequence[Run]) -> str:
    more = len(group) - 1
    return group[0].name + (f" and {more} more" if more else "")


def _label(run: Run, differ: Sequence[str], runs: Sequence[Run]) -> str:
    """What it has where runs differ; not an option that only another follower is known to take."""
    parts = []
    alike = [one.settings for one in runs if one.config.get("follower") == run.config["follower"]]
    for key in differ:
        if key.startswith("follower_options.") and not any(key in one for one in alike):
            continue
        value, name = run.settings.get(key), key.rpartition(".")[2].replace("_", " ")
        value = "default" if value is None else value
        parts.append(f"{value}" if key in SPEAKING else f"{name} {value}")
    return ", ".join(parts) or run.name


def _seeds(runs: Sequence[Run]) -> str:
    seeds = [seed for run in runs for seed in run.seeds]
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"mean of {len(seeds)} seeds"


def _best_known(group: Sequence[Run], runs: Sequence[Run]) -> tuple[float | None, str]:
    """The highest optimum that runs of the group's very game know, and what it is called."""
    model = group[0].config.get("game_model")
    alike = [run for run in runs if run.config.get("game_model") == model]
    known = [run.optimum for run in alike if run.optimum[0] is not None]
    value, name = max(known, key=lambda one: one[0] or 0.0, default=(None, "optimum"))
    return value, name if len(alike) == 1 else name.removesuffix(", by this run")


# ---------------------------------------------------------------- pictures


def _panels(
    run: Run, game: Game | None = None, leader: Leader | None = None
) -> tuple[list[figures.Panel], str | None]:
    """Pictures of the run's first leader, and what keeps them away."""
    if run.command is None and (game is None or leader is None):
        return [], (
            "the run was started from Python. There, stackelberg.report.report(runs, game=game, "
            "leader=leader) draws them"
        )
    try:
        saved = load_leader(run.path, game, leader)
        first = frozen("leader", saved, saved.game)[0]
    except InputError as error:
        return [], str(error)
    first.game.check_grid()
    try:
        return figures.game_panels(first.game, first.commitment), None
    except InputError as error:
        return [], str(error)


def _images(panels: Sequence[figures.Panel]) -> list[dict[str, str]]:
    return [
        {"title": panel.title, "about": panel.about}
        | {"light": _uri(figures.draw_panel(panel), "image/svg+xml")}
        | {"dark": _uri(figures.draw_panel(panel, dark=True), "image/svg+xml")}
        for panel in panels
    ]


def _film(run: Run) -> str | None:
    file = run.path / "figures" / PLAY
    return _uri(file.read_bytes(), "image/gif") if file.exists() else None


def _figures(evaluations: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Of evaluations, by name; of several runs' each with a number."""
    for i, one in enumerate(evaluations):
        if one["cross_play"]:
            yield f"cross_play{_tail(i)}", figures.cross_play(one["cross_play"])
        if one["profile"]:
            yield f"performance_profile{_tail(i)}", figures.profiles(one["groups"])


def _tail(number: int) -> str:
    """What tells figures of one kind apart."""
    return f"_{number + 1}" if number else ""


def _play(run: Run) -> str | None:
    """The command that records a film of the run."""
    return None if run.command is None else f"stackelberg play {shlex.quote(str(run.path))}"


def _uri(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


# ---------------------------------------------------------------- words and tables


def _story(runs: Sequence[Run], groups: Sequence[tuple[Group, list[Run]]]) -> dict[str, Any]:
    """All that the page says, in JSON."""
    first, differ = runs[0], _differing([group[0].settings for _, group in groups])
    keys = dict.fromkeys(key for _, group in groups for key in group[0].settings)
    outcomes = [_outcome(group, members) for group, members in groups]
    return {
        "title": first.config["game"],
        "sentence": _sentence(first, [group.label for group, _ in groups], differ, len(runs)),
        "about": _about(first.config["game"]),
        "unfinished": [f"{run.name}: {run.status}" for run in runs if run.status],
        "groups": outcomes,
        "comparison": _compared(outcomes) if len(outcomes) > 1 else None,
        "runs": _listed([row for run in runs for row in run.rows]),
        "settings": [
            {
                "key": key,
                "values": [_shown(group[0].settings.get(key)) for _, group in groups],
                "differs": key in differ,
            }
            for key in keys
        ],
        "commands": [run.command for run in runs if run.command is not None],
        "several": len(runs) > 1,
        "searched": any(run.config.get("estimator") == "model-based" for run in runs),
        "from_python": any(run.command is None for run in runs),
        "versions": next((run.summary["versions"] for run in runs if run.summary), None),
        "script": resources.files("stackelberg").joinpath("assets", PLOTLY).read_text(),
    }


def _sentence(run: Run, labels: Sequence[str], differ: Sequence[str], count: int) -> str:
    c = run.config
    if len(labels) > 1:
        names = {"estimator": "trained by", "access": "at access", "follower": "against"}
        alike = [f"{said} {c.get(key)}" for key, said in names.items() if key not in differ]
        return f"{count} runs {' '.join(alike)}: {'; '.join(labels)}.".replace(" :", ":")
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
    if exact and group.optimum is not None:  # the same for all; at their time runs knew others
        columns["regret"] = [max(group.optimum - value, 0.0) for value in columns["leader"]]
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


def _compared(outcomes: Sequence[Mapping[str, Any]]) -> _Table:
    heads = ["", "seeds", "leader's return", "optimum", "regret", "follower's gap"]
    heads += ["leader steps", "follower steps", "seconds"]
    return heads, [
        [
            one["label"] + (" (unfinished)" if one["status"] else ""),
            str(one["seeds"]),
            _with(one["leader"], one["half"]),
            _number(one["optimum"])
            + ("" if one["optimum"] is None else f" ({one['known_as'].removeprefix('optimum, ')})"),
            _number(one["regret"], 2),
            _gap(one["gap"]),
            f"{one['leader_steps']:,}",
            f"{one['follower_steps']:,}",
            _number(one["seconds"], 3),
        ]
        for one in outcomes
    ]


def _listed(rows: Sequence[Mapping[str, Any]]) -> _Table:
    heads = ["run", "seed", "sampled return", "exact", "regret", "follower's return"]
    return [*heads, "follower's gap"], [
        [
            row["run"] + (" (unfinished)" if row["status"] else ""),
            str(row["seed"]),
            _with(row["sampled"], row["ci95"]),
            _number(row["exact"]),
            _number(row["regret"], 2),
            _number(row["follower"]),
            _gap(row["gap"]),
        ]
        for row in rows
    ]


def _mean(column: Sequence[float | None]) -> float | None:
    known = [value for value in column if value is not None]
    return float(np.mean(known)) if len(known) == len(column) else None


def _evaluation(run: Run) -> dict[str, Any] | None:
    """What the run's evaluation.json has for the page."""
    found = run.evaluation
    if found is None:
        return None
    try:
        found = _renamed(found, _short(found["leaders"]))
        names = list(dict.fromkeys(one["name"].partition(" #")[0] for one in found["leaders"]))
        promised = {one["name"]: predicted(one) for one in found["leaders"]}
        groups = found["groups"]
        return {
            "run": run.name,
            "of": ", ".join(names) if len(names) <= TOLD else f"{len(names)} runs",
            "worth": _worth(found["standings"], promised),
            "met": _met(found["summary"]),
            "sampled": any(one["regret_source"] == "sampled" for one in found["summary"]),
            "groups": groups,
            "lines": [
                *_overtaken(run),
                *map(_of_group, groups),
                *map(_of_comparison, found["comparisons"]),
            ],
            "cross_play": found["cross_play"],
            "matrices": [_matrix(one) for one in found["cross_play"]],
            "profile": _profile(run.name, groups) if len(groups) > 1 else None,
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            "an evaluation.json as `stackelberg evaluate` writes it",
            f"{run.path / 'evaluation.json'}: {error!r}",
            "evaluate again, or remove it",
        ) from error


def _overtaken(run: Run) -> Iterator[str]:
    """Says so where the run has trained on since it was evaluated."""
    assert run.evaluation is not None
    own = [one for one in run.evaluation["leaders"] if one.get("run")]
    own = [one for one in own if Path(one["run"]).resolve() == run.path.resolve()]
    for then in {one.get("outer_iterations", len(run.metrics)) for one in own}:
        if then != len(run.metrics):
            yield (
                f"{run.name} has trained on since: this is of its leader after {then} of now "
                f"{len(run.metrics)} outer iterations; evaluate again"
            )


def _short(leaders: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Of leaders that are named by their runs' paths, the ends of these that tell them apart."""
    heads = {one["name"]: one["name"].partition(" #") for one in leaders}
    runs = {one["run"] for one in leaders if one.get("run") == heads[one["name"]][0]}
    paths = {Path(run).resolve(): run for run in sorted(runs)}
    ends = {paths[path]: end for path, end in zip(paths, distinct(list(paths)), strict=True)}
    told = {name: ends.get(head, head) + mark + i for name, (head, mark, i) in heads.items()}
    return ends | told if len(set(told.values())) == len(told) else {}


def _renamed(found: Any, names: Mapping[str, str]) -> Any:
    """The same with other names for what has one."""
    if isinstance(found, dict):
        return {key: _renamed(value, names) for key, value in found.items()}
    if isinstance(found, list):
        return [_renamed(value, names) for value in found]
    return names.get(found, found) if isinstance(found, str) else found


def _worth(standings: Sequence[Mapping[str, Any]], promised: Mapping[str, float | None]) -> _Table:
    heads = ["leader", "temperature", "predicted", "exact", "optimum", "regret"]
    return heads, [
        [
            one["leader"],
            _number(one["temperature"], 3),
            _number(promised[one["leader"]]),
            "-inf" if one.get("diverges") else _number(one["objective"]),
            _known(one),
            "inf" if one.get("diverges") else _number(one["regret"], 2),
        ]
        for one in standings
    ]


def _met(summary: Sequence[Mapping[str, Any]]) -> _Table:
    sampled = any(one["regret_source"] == "sampled" for one in summary)
    heads = ["leader", "follower", "temperature", "seeds", "leader's return", "undiscounted"]
    heads += ["follower's return", "its gap"] + ["regret, sampled"] * sampled
    names = "leader_discounted", "leader_undiscounted", "follower_discounted"
    return heads, [
        [one["leader"], one["follower"], _number(one["temperature"], 3), str(one["seeds"])]
        + [_with(one[name], one[f"{name}_ci95"]) for name in names]
        + [_gap(one["follower_gap"])]
        + [_number(one["regret"], 2)] * sampled
        for one in summary
    ]


def _of_group(one: Mapping[str, Any]) -> str:
    runs = _runs(min(one["runs"]), one.get("run", "run"))
    runs += f" in each of {len(one['runs'])} tasks" if len(one["runs"]) > 1 else ""
    value = f"{one['group']}: interquartile mean of the leader's return {_number(one['iqm'])}"
    return value + _interval(one["interval"], runs)


def _of_comparison(one: Mapping[str, Any]) -> str:
    runs = " against ".join(map(_runs, one.get("runs", ()), one.get("run", ())))
    value = f"P({one['group']} does better than {one['over']}) = {one['probability']:.2g}"
    return value + _interval(one["interval"], runs or "runs")


def _runs(count: int, run: str) -> str:
    return f"{count} {run}{'s' if count > 1 else ''}" + " of one leader" * (run == "follower")


def _interval(ends: Sequence[float] | None, runs: str) -> str:
    if ends is None:
        return f" ({runs}: too few for an interval)"
    return f" [{', '.join(map(_number, ends))}] ({runs})"


def _profile(run: str, groups: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Performance profiles for Plotly."""
    data: list[dict[str, Any]] = [
        {"x": one["thresholds"], "steps": one["thresholds"], "y": one["profile"]}
        | {
            "name": html.escape(one["group"], quote=False),
            "mode": "lines",
            "hovertemplate": "%{y:.0%}",
        }
        | {"line": {"shape": "hv", "width": 2, "color": COLOURS[i % len(COLOURS)]}}
        for i, one in enumerate(groups)
    ]
    title = "leader's discounted return"
    layout: dict[str, Any] = {
        "xaxis": {"title": {"text": title}, "unifiedhovertitle": {"text": "above %{x:.5g}"}},
        "yaxis": {"title": {"text": "share of runs above"}, "range": [-0.03, 1.03]},
        "showlegend": True,
    }
    return {"name": f"profile {run}", "data": data, "layout": layout}


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


def _with(value: float | None, half: float | None) -> str:
    return _number(value) + ("" if half is None else f" ± {_number(half, 2)}")


def _known(standing: Mapping[str, Any]) -> str:
    """An optimum and where it comes from."""
    if standing["optimum"] is None:
        return "unknown"
    source = "by the game" if standing.get("optimum_source") == "game" else "best known"
    source += ", this leader" if standing.get("optimum_is_own") else ""
    return f"{_number(standing['optimum'])} ({source})"


def _gap(value: float | None) -> str:
    """A gap in words; rounding errors are none."""
    return _number(value if value is None or abs(value) > NO_GAP else 0, 2)
