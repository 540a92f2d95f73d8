"""What an evaluation has found: rows, what they come to, and the files they are written to."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stackelberg import statistics
from stackelberg.errors import InputError
from stackelberg.process import interrupts
from stackelberg.run_directory import to_json, unwritable, write_atomically
from stackelberg.summary import half_widths, versions

Row = dict[str, Any]
RETURNS = "leader_discounted", "leader_undiscounted", "follower_discounted", "follower_undiscounted"
COLUMNS = (  # of a row
    *("leader", "follower", "temperature", "seed", "against", "episodes"),
    *("discounted_horizon", "discounted_rest"),
    *(column for name in RETURNS for column in (name, f"{name}_ci95")),
    *("leader_exact", "follower_gap", "gap_source", "follower_steps"),
)
PROFILE = 101  # thresholds of a performance profile


@dataclass(frozen=True, repr=False)
class EvaluationResult:
    """All trainings of an evaluation, and what they come to; print() shows it in tables.

    A row tells of a follower that was trained against `leader` and met by `against`, which is
    another one in cross-play alone:

    - `follower`, `temperature`, `seed`: its kind, and what it was trained at and by;
    - `leader_discounted`, `follower_discounted`: mean returns over `discounted_horizon` steps, when
      at most the share `discounted_rest` of them is left, 1 where one diverges (see
      `stackelberg.summary.evaluation_cut`); `leader_undiscounted`, `follower_undiscounted`: up to
      the game's time limit. All of rewards alone, in `episodes` fresh episodes in which both
      players are sampled, `..._ci95` the half-width of their 95 % interval (Student's t);
    - `leader_exact`: what `leader_discounted` estimates, against this very follower, read from
      tables or matrices (these know nothing of a `limit` that a linear game is played in);
      `follower_gap`: what the follower falls short of its best response to `against`, in units of
      its entropy-regularised return, "exact" from tables or as the "follower" itself measures it
      (`gap_source`). None where unknown, as the exact return is against a follower whose answer is
      no table and not linear, or where it diverges;
    - `follower_steps`: environment steps of its training.

    Attributes:
        about: `game`, `game_temperature`, discounts, `undiscounted_horizon`; `followers`, the
            `name` of each kind, its `class` and settings; `half_width`, if it was asked for.
        leaders: `name` and, of a run, what it was, the `outer_iterations` that it has trained, of
            `iterations`, and the return that it predicts (`prediction`).
        standings: of every leader and temperature: `objective`, its exact discounted return against
            the exact best response; `diverges`, whether that is -inf (then the objective is None);
            `optimum`, `optimum_source` ("game" or "best known") and `optimum_is_own`, whether the
            best known is this very leader; `regret`, optimum less objective. None where unknown.
        rows: as above.
    """

    about: dict[str, Any]
    leaders: list[dict[str, Any]]
    standings: list[dict[str, Any]]
    rows: list[Row]

    def __str__(self) -> str:
        """What was found in Markdown tables, as the command line prints it."""
        return tables(self)

    def __repr__(self) -> str:
        what = f"{len(self.leaders)} leaders, {len(self.rows)} rows"
        return f"<{type(self).__name__} of {self.about['game']}: {what}>"

    # ------------------------------------------------------------ what rows come to

    def summary(self) -> list[dict[str, Any]]:
        """For every leader, follower and temperature the means over the followers' seeds.

        Of returns with 95 % intervals: Student's t over seeds, and of a single one over its
        episodes. `iqm` is the interquartile mean over seeds of the leader's discounted return, with
        its bootstrap interval (None of fewer than `statistics.FEWEST` seeds); `follower_gap` the
        mean, `worst_gap` the largest, `gap_source` as of rows; `episodes` of all seeds together,
        `discounted_horizon` and `discounted_rest` the largest. `regret` is that of the leader's
        standing, or without tables the optimum less the sampled return (`regret_source`).
        """
        own = [row for row in self.rows if row["leader"] == row["against"]]
        found = []
        for (leader, follower, temperature), rows in _grouped(own, *_KIND):
            one: dict[str, Any] = dict(zip(_KIND, (leader, follower, temperature), strict=True))
            one |= {"seeds": len(rows), "episodes": sum(row["episodes"] for row in rows)}
            for name in ("discounted_horizon", "discounted_rest"):
                one[name] = max(row[name] for row in rows)
            for name in RETURNS:
                one |= _over_seeds(name, rows)
            column = np.array([row["leader_discounted"] for row in rows])
            one["iqm"] = statistics.interquartile_mean([column])
            one["iqm_interval"] = statistics.interquartile_interval([column])
            one["leader_exact"] = _mean([row["leader_exact"] for row in rows])
            gaps = [row["follower_gap"] for row in rows]
            one["follower_gap"] = _mean(gaps)
            one["worst_gap"] = None if None in gaps else max(gaps)
            one["gap_source"] = rows[0]["gap_source"]
            found.append(one | self._regret(one))
        return found

    def _regret(self, one: Mapping[str, Any]) -> dict[str, Any]:
        (standing,) = (
            s for s in self.standings if all(s[k] == one[k] for k in ("leader", "temperature"))
        )
        if standing["regret"] is not None or standing["diverges"]:
            return {"regret": standing["regret"], "regret_source": "exact"}
        if standing["optimum"] is None:
            return {"regret": None, "regret_source": None}
        lost = standing["optimum"] - one["leader_discounted"]
        return {"regret": lost, "regret_source": "sampled"}

    def groups(self) -> list[dict[str, Any]]:
        """The interquartile mean of the leader's discounted return in every group.

        A group is of runs that were trained alike but for the seed, or of the M leaders of one
        object; any other leader is one by itself. It is named by its estimator, or where that does
        not tell it from the others, or there is one leader alone, by its first one. Every
        follower and temperature is a task, and `runs` counts the runs of each. They are its leaders
        (`run` = "training run", each its mean over the followers' seeds), or of a single
        leader the followers (`run` = "follower": these tell nothing of what
        other training runs would come to). `interval` is None where a task has
        fewer than `statistics.FEWEST` runs. `profile` tells the share of runs above each
        of `thresholds`.
        """
        columns = self._columns()
        every = np.concatenate([c for tasks in columns.values() for c in tasks])
        thresholds = np.linspace(every.min(), every.max(), PROFILE)
        return [
            {
                "group": name,
                "run": self._run(name),
                "runs": [len(column) for column in tasks],
                "iqm": statistics.interquartile_mean(tasks),
                "interval": statistics.interquartile_interval(tasks),
                "thresholds": thresholds.tolist(),
                "profile": statistics.performance_profile(tasks, thresholds).tolist(),
            }
            for name, tasks in columns.items()
        ]

    def comparisons(self) -> list[dict[str, Any]]:
        """The probability that a run of one group does better than one of another.

        `runs` counts the runs of both in a task; `interval` is None as in `groups`, and where all
        runs of one are above all of the other.
        """
        return [
            {
                "group": a,
                "over": b,
                "run": [self._run(a), self._run(b)],
                "runs": [min(map(len, x)), min(map(len, y))],
                "probability": statistics.probability_of_improvement(x, y),
                "interval": statistics.improvement_interval(x, y),
            }
            for (a, x), (b, y) in combinations(self._columns().items(), 2)
        ]

    def _run(self, group: str) -> str:
        return "follower" if len(self._members()[group]) == 1 else "training run"

    def _columns(self) -> dict[str, list[np.ndarray]]:
        """The scores of every group, one column [runs] for each task."""
        members = self._members()
        found: dict[str, list[np.ndarray]] = {group: [] for group in members}
        own = [row for row in self.rows if row["leader"] == row["against"]]
        for _, rows in _grouped(own, "follower", "temperature"):
            for group, names in members.items():
                scores = [
                    [r["leader_discounted"] for r in rows if r["leader"] == name] for name in names
                ]
                runs = scores[0] if len(names) == 1 else [float(np.mean(s)) for s in scores]
                found[group].append(np.array(runs))
        return found

    def _members(self) -> dict[str, list[str]]:
        """The leaders of every group."""
        alike: dict[str, list[dict[str, Any]]] = {}
        for one in self.leaders:
            key = one.get("setting", one["name"])
            alike.setdefault(key, []).append(one)
        by = [group[0].get("estimator") for group in alike.values()]
        names = [
            group[0]["name"].partition(" #")[0] if group[1:] else group[0]["name"]
            for group in alike.values()
        ]
        told = None not in by and len(set(by)) == len(by)
        told = told and len(self.leaders) > 1
        groups = zip(by if told else names, alike.values(), strict=True)
        return {str(head): [one["name"] for one in group] for head, group in groups}

    def cross_play(self) -> list[dict[str, Any]]:
        """For every follower and temperature the leader's discounted return [trained, against].

        Means over seeds: of followers trained against the leader of a row, met by that of a column.
        Empty unless followers have met leaders that they were not trained against.
        """
        if all(row["leader"] == row["against"] for row in self.rows):
            return []
        names = [one["name"] for one in self.leaders]
        found = []
        for (follower, temperature), rows in _grouped(self.rows, "follower", "temperature"):
            cells = {
                where: _mean([row["leader_discounted"] for row in inside])
                for where, inside in _grouped(rows, "leader", "against")
            }
            matrix = [[cells[a, b] for b in names] for a in names]
            found.append(
                {"follower": follower, "temperature": temperature, "leaders": names}
                | {"leader_discounted": matrix}
            )
        return found

    # ------------------------------------------------------------ what it is written to

    def findings(self) -> dict[str, Any]:
        """All of it in JSON."""
        return self.about | {
            "leaders": self.leaders,
            "standings": self.standings,
            "summary": self.summary(),
            "groups": self.groups(),
            "comparisons": self.comparisons(),
            "cross_play": self.cross_play(),
            "rows": self.rows,
            "versions": versions(),
        }

    def to_json(self) -> str:
        """What evaluation.json holds."""
        return to_json(self.findings(), indent=2) + "\n"

    def to_csv(self) -> str:
        """The rows."""
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return text.getvalue()

    def to_dataframe(self) -> Any:
        """The rows as a pandas DataFrame.

        Raises:
            InputError: if pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise InputError(
                "pandas, of which data frames are", "none installed", "pip install pandas"
            ) from error
        return pandas.DataFrame(self.rows)

    def write(self, folder: str | Path) -> None:
        """evaluation.json and evaluation.csv, and in figures/ what there is to draw.

        That is cross_play.png of cross-play, and performance_profile.png where there are several
        groups. Each whole or not at all; Ctrl-C waits until they are there.

        Raises:
            InputError: if the folder cannot be written.
        """
        from stackelberg.figures import draw_cross_play, draw_profiles

        folder = Path(folder)
        try:
            with interrupts():
                folder.mkdir(parents=True, exist_ok=True)
                if matrices := self.cross_play():
                    draw_cross_play(folder / "figures" / "cross_play.png", matrices)
                if len(groups := self.groups()) > 1:
                    draw_profiles(folder / "figures" / "performance_profile.png", groups)
                write_atomically(folder / "evaluation.csv", self.to_csv())
                write_atomically(folder / "evaluation.json", self.to_json())
        except OSError as error:
            raise unwritable(folder, error) from error


TOLD = 1e-3  # share of a discounted return that goes unmentioned when it is left
WIDEST = 10_000  # characters of a table's line: a cell on two lines is no Markdown
_KIND = "leader", "follower", "temperature"


def _grouped(rows: Sequence[Row], *names: str) -> list[tuple[Any, list[Row]]]:
    """Rows that are alike in these, in the order in which they come first."""
    order: dict[Any, list[Row]] = {}
    for row in rows:
        order.setdefault(tuple(row[name] for name in names), []).append(row)
    return list(order.items())


def _over_seeds(name: str, rows: Sequence[Row]) -> dict[str, Any]:
    """Mean and 95 % interval over seeds; of a single one over its episodes."""
    values = [row[name] for row in rows]
    half = half_widths(torch.tensor([values], dtype=torch.float64))[0]
    half = rows[0][f"{name}_ci95"] if len(rows) == 1 else half
    return {name: _mean(values), f"{name}_ci95": half}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if values and len(known) == len(values) else None


# ---------------------------------------------------------------- on the terminal


def tables(result: EvaluationResult) -> str:
    """What was found, in Markdown tables.

    What every leader is worth, what leaders and what followers earn when they meet, and of
    cross-play a matrix for each follower; interquartile means and comparisons; and what there is to
    be warned of.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    text = io.StringIO()
    console = Console(file=text, width=WIDEST, highlight=False, color_system=None)

    def show(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        table = Table(*heads, box=box.MARKDOWN)
        for row in rows:
            table.add_row(*row)
        console.print(f"{title}:", markup=False)
        console.print(table)

    summary = result.summary()
    show(_WORTH, *_worths(result))
    show(_EARNED, *_earned(summary))
    show(_ANSWERED, *_answered(summary))
    for cross in result.cross_play():
        said = f"{cross['follower']}, temperature {cross['temperature']:g}"
        rows = zip(cross["leaders"], cross["leader_discounted"], strict=True)
        cells = [[name, *map(_short, row)] for name, row in rows]
        heads = ["trained against", *cross["leaders"]]
        show(f"leader's returns against followers of others ({said})", heads, cells)
    for line in (*_statistics(result), *_warnings(result)):
        console.print(line, markup=False)
    return text.getvalue().rstrip("\n")


_WORTH = "what leaders are worth (exact: against the exact best response)"
_EARNED = (
    "leader's returns against fresh followers (exact: against these very ones; gap, own: by the "
    "follower's own estimate)"
)
_ANSWERED = "followers' returns"
_Table = tuple[list[str], list[list[str]]]


def _worths(result: EvaluationResult) -> _Table:
    promised = {one["name"]: predicted(one) for one in result.leaders}
    rows = []
    for one in result.standings:
        exact, regret = _short(one["objective"]), _short(one["regret"], ".2g")
        if one["diverges"]:
            exact, regret = "-inf", "inf"
        cells = [one["leader"], f"{one['temperature']:g}", _short(promised[one["leader"]])]
        rows.append([*cells, exact, _short(one["optimum"]), _source(one), regret])
    return ["leader", "beta", "predicted", "exact", "optimum", "which is", "regret"], rows


def _source(standing: Mapping[str, Any]) -> str:
    """Where an optimum comes from, in words."""
    if standing["optimum_source"] == "game":
        return "the game's"
    if standing["optimum_source"] is None:
        return "unknown"
    return "best known: this leader" if standing["optimum_is_own"] else "best known"


def _earned(summary: Sequence[Mapping[str, Any]]) -> _Table:
    sampled = any(one["regret_source"] == "sampled" for one in summary)
    rows = []
    for one in summary:
        own = " (own)" if one["gap_source"] == "follower" else ""
        cells = [*_named(one), _short(one["follower_gap"], ".2g") + own]
        cells += [_with(one, "leader_discounted"), _with(one, "leader_undiscounted")]
        cells += [_short(one["leader_exact"]) or "sampled only"]
        rows.append(cells + [_short(one["regret"], ".2g")] * sampled)
    heads = ["leader", "follower", "beta", "gap", "discounted", "undiscounted", "exact"]
    return heads + ["regret, sampled"] * sampled, rows


def _answered(summary: Sequence[Mapping[str, Any]]) -> _Table:
    rows = [
        [
            *_named(one),
            str(one["seeds"]),
            _with(one, "follower_discounted"),
            _with(one, "follower_undiscounted"),
        ]
        for one in summary
    ]
    return ["leader", "follower", "beta", "seeds", "discounted", "undiscounted"], rows


def _named(one: Mapping[str, Any]) -> list[str]:
    return [one["leader"], one["follower"], f"{one['temperature']:g}"]


def _statistics(result: EvaluationResult) -> Iterator[str]:
    for one in result.groups():
        tasks = len(one["runs"])
        each = f" of each of {tasks} kinds" if len(result.about["followers"]) == tasks else ""
        each = each or f" in each of {tasks} tasks (kind and temperature)"
        of = _runs(min(one["runs"]), one["run"]) + each * (tasks > 1)
        said = _between(one["iqm"], one["interval"])
        over = " over all followers" * (tasks > 1)
        what = f"interquartile mean of the leader's return{over}"
        yield f"{one['group']}: {what} {said}{_few(one, of)}"
    for one in result.comparisons():
        said = _between(one["probability"], one["interval"], ".2f")
        x, y = map(_runs, one["runs"], one["run"])
        of = f"{x} each" if x == y else f"{x} against {y}"
        yield f"P({one['group']} does better than {one['over']}) = {said}{_few(one, of)}"


def _runs(count: int, run: str) -> str:
    plural = "s" if count != 1 else ""
    return f"{count} {run}{plural}" + (" of one leader" if run == "follower" else "")


def _few(one: Mapping[str, Any], of: str) -> str:
    few = min(one["runs"]) < statistics.FEWEST
    why = "too few for an interval" if few else "all on one side, so no interval"
    return f" ({of}{'' if one['interval'] else f': {why}'})"


def _warnings(result: EvaluationResult) -> Iterator[str]:
    for leader in result.leaders:
        done, of = leader.get("outer_iterations"), leader.get("iterations")
        if done is not None and of is not None and done < of:
            said = f"this is its leader after {done} of {of} iterations"
            yield f"{leader['name']}: unfinished; {said}"
    for one in result.summary():
        of = f"{one['leader']}, {one['follower']}, temperature {one['temperature']:g}"
        after = f"after {one['discounted_horizon']:,} steps"
        if one["discounted_rest"] >= 1:
            yield f"{of}: a discounted return diverges, and is cut {after}"
        elif one["discounted_rest"] > TOLD:
            yield f"{of}: discounted returns are cut {after}, {one['discounted_rest']:.0%} is left"
    asked = result.about.get("half_width")
    wide = [row for row in result.rows if asked and row["leader_discounted_ci95"] > asked]
    if wide:
        count = f"{len(wide)} of {len(result.rows)} trainings"
        yield f"half-width {asked:g} not reached in {count}, in {wide[0]['episodes']:,} episodes"


def predicted(leader: Mapping[str, Any]) -> float | None:
    """The return that training has promised the leader of a run."""
    told = leader.get("prediction") or {}
    value: float | None = told.get("exact")
    return told.get("mean") if value is None else value


def _with(one: Mapping[str, Any], name: str) -> str:
    half = one[f"{name}_ci95"]
    return _short(one[name]) + ("" if half is None else f" +- {half:.2g}")


def _between(value: float, interval: statistics.Interval, form: str = ".5g") -> str:
    ends = "" if interval is None else " [" + ", ".join(f"{end:{form}}" for end in interval) + "]"
    return f"{value:{form}}{ends}"


def _short(value: float | None, form: str = ".5g") -> str:
    return "" if value is None else f"{value:{form}}"
