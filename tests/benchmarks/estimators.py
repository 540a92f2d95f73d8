"""Which hypergradient estimator to trust: accuracy, cost and where training by each one ends.

Run: python tests/benchmarks/estimators.py [--quick] [--out DIR]

Prints Markdown tables and writes estimators.csv, estimators_cost.csv, estimators_training.csv,
estimators_networks.csv and the figure estimators.png and .svg to DIR, `runs/estimators` unless
given.
"""

import argparse
import csv
import io
import itertools
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import estimator_accuracy as accuracy
from benchmarks import estimator_cost as cost
from benchmarks import estimator_networks as networks
from benchmarks import estimator_training as training

from stackelberg.estimators import ESTIMATORS
from stackelberg.figures import save
from stackelberg.run_directory import write_atomically

Row = dict[str, Any]
LONG = 2  # ms of a plain step, beside which the overhead of a call is small


@dataclass(frozen=True, kw_only=True)
class Extent:
    """How much is measured."""

    seeds: int  # random games of each kind
    sizes: Sequence[int]  # steps of a sample
    batches: int  # at most; fewer of large samples
    few: int  # batches of the estimators that play more, and at least of the others
    parameters: Sequence[int]  # of leaders
    lengths: Sequence[int]  # of episodes
    seconds: float  # by which a group of steps is timed
    training_seeds: int
    iterations: int
    network_seeds: int  # random games of each kind for critics by networks
    network_batches: int
    network_sizes: Sequence[int]


FULL = Extent(
    seeds=8,
    sizes=accuracy.SIZES,
    batches=100,
    few=12,
    parameters=tuple(cost.HIDDEN),
    lengths=cost.LENGTHS,
    seconds=0.5,
    training_seeds=10,
    iterations=100,
    network_seeds=3,
    network_batches=6,
    network_sizes=(450, 1500, 4500),
)
QUICK = Extent(
    seeds=1,
    sizes=(450, 4500),
    batches=16,
    few=5,
    parameters=(100, 10_000),
    lengths=(10, 1000),
    seconds=0.1,
    training_seeds=2,
    iterations=10,
    network_seeds=1,
    network_batches=2,
    network_sizes=(450,),
)

# ---------------------------------------------------------------- measuring


def accuracy_rows(extent: Extent) -> list[Row]:
    rows = []
    for case in accuracy.cases(extent.seeds):
        print(f"accuracy: {case.label}, seed {case.seed}", file=sys.stderr)
        for size in extent.sizes:
            batches = max(extent.few, min(extent.batches, 180_000 // size))
            rows += accuracy.measured(case, size, batches, extent.few, timed=case.seed == 0)
    return rows


def cost_rows(extent: Extent) -> list[Row]:
    rows = []
    for parameters in extent.parameters:
        print(f"cost: {parameters} parameters", file=sys.stderr)
        for length in extent.lengths:
            rows += cost.policy_rows(parameters, length, extent.seconds)
        for kind in ("local", "dense"):
            rows += cost.design_rows(kind, parameters, accuracy.STEPS, extent.seconds)
    for length in extent.lengths:
        rows += cost.design_rows("local", 1000, length, extent.seconds)
    return rows


def training_rows(extent: Extent) -> list[Row]:
    rows, seeds = [], range(extent.training_seeds)
    for bonus in (1.0, 2.0):
        for name in training.TRAINED:
            print(f"training: R{bonus:.0f}, {name}", file=sys.stderr)
            rows.append(training.trained(bonus, name, seeds, extent.iterations))
        rows.append(training.trained(bonus, "bc-hg", seeds, extent.iterations, draws=640))
    return rows


def network_rows(extent: Extent) -> list[Row]:
    rows = []
    for case in networks.cases(extent.network_seeds):
        print(f"networks: {case.label}, seed {case.seed}", file=sys.stderr)
        for size in extent.network_sizes:
            rows += networks.measured(case, size, extent.network_batches)
    return rows


# ---------------------------------------------------------------- tables


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def number(value: float, digits: int = 3) -> str:
    return "-" if np.isnan(value) else f"{value:.{digits}g}"


class Measures:
    """Medians over the random games of a kind."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.groups: dict[tuple, list[Row]] = {}
        for row in rows:
            key = (row["game"], row["estimator"], row["critics"], row["steps"])
            self.groups.setdefault(key, []).append(row)
        self.games = list(dict.fromkeys(key[0] for key in self.groups))
        self.sizes = sorted({key[3] for key in self.groups})

    def nearest(self, size: int) -> int:
        return min(self.sizes, key=lambda known: abs(known - size))

    def value(self, column: str, games: Sequence[str], name: str, critics: str, size: int) -> float:
        """The median over the games in which the estimator is defined; NaN if there are none."""
        critics = "none" if name in accuracy.CRITICLESS else critics
        found = [row[column] for game in games for row in self.groups[game, name, critics, size]]
        found = [x for x in found if not np.isnan(x)]
        return median(found) if found else float("nan")


def direction_table(measures: Measures, critics: str, size: int) -> str:
    """Median cosine, and the share of samples that point uphill, for every game."""
    lines = []
    for name in ESTIMATORS:
        line = [name]
        for game in measures.games:
            cosine, uphill = (
                measures.value(column, [game], name, critics, size)
                for column in ("cosine", "uphill")
            )
            line.append("-" if np.isnan(cosine) else f"{cosine:.2f}, {uphill:.0%}")
        lines.append(line)
    return table(["estimator", *measures.games], lines)


def game_table(measures: Measures, game: str, critics: str) -> str:
    """Bias +- its standard error / noise / cosine [interval], for every size of the sample."""
    columns = ("bias", "bias_se", "noise", "cosine", "cosine_low", "cosine_high", "ms")
    lines = []
    for name in ESTIMATORS:
        line = [name]
        for size in measures.sizes:
            bias, error, noise, cosine, low, high, ms = (
                measures.value(column, [game], name, critics, size) for column in columns
            )
            of_error = f"{bias:.2g} +- {error:.2g} / {noise:.2g}"
            of_direction = f"{cosine:.2f} [{low:.2f}, {high:.2f}]"
            line.append("-" if np.isnan(bias) else f"{of_error} / {of_direction}")
        lines.append([*line, number(ms)])
    sizes = [f"{size:,} steps" for size in measures.sizes]
    return table(["estimator", *sizes, f"ms, {measures.sizes[-1]:,} steps"], lines)


def variance_table(measures: Measures) -> str:
    """Variance of the learned expected trace over that of the sampled trace with true critics."""
    size, more = measures.nearest(450), measures.nearest(4500)
    lines = []
    for game in measures.games:
        line = [game]
        for ours in (size, more):
            pairs = zip(
                measures.groups[game, "expected-trace", "learned", ours],
                measures.groups[game, "sampled-trace", "true", size],
                strict=True,
            )
            line.append(number(median((one["noise"] / two["noise"]) ** 2 for one, two in pairs), 2))
        lines.append(line)
    return table(["game", f"{size:,} steps", f"{more:,} steps over {size:,}"], lines)


def policy_cost_table(rows: Sequence[Row]) -> str:
    """Over all sizes of network and lengths of episode; the plain step is the baseline."""
    of_policies = [row for row in rows if row["leader"] == "policy"]
    lines = []
    for name in cost.OF_POLICIES:
        mine = [row for row in of_policies if row["estimator"] == name]
        base = [row["ms"] / row["ratio"] for row in mine]
        long = [row["ratio"] for row, ms in zip(mine, base, strict=True) if ms > LONG]
        added = [row["ms"] - ms for row, ms in zip(mine, base, strict=True) if ms <= LONG]
        ratios = [row["ratio"] for row in mine]
        numbers = [median(ratios), max(ratios), max(long, default=np.nan)]
        lines.append([name, *map(number, numbers), number(max(added, default=np.nan), 2)])
    head = ["estimator", "median ratio", "largest", f"largest, plain step over {LONG} ms"]
    return table([*head, f"most ms added, plain step up to {LONG} ms"], lines)


def design_cost_table(rows: Sequence[Row], leader: str, by: str) -> str:
    """Ratio to a plain policy-gradient step, by parameters or by steps of an episode."""
    fixed, at = ("steps", accuracy.STEPS) if by == "parameters" else ("parameters", 1000)
    mine = [row for row in rows if row["leader"] == leader and row[fixed] == at]
    sizes = sorted({row[by] for row in mine})
    found = {(row["estimator"], row[by]): row for row in mine}
    lines = []
    for name in dict.fromkeys(row["estimator"] for row in mine):
        line = [name]
        for size in sizes:
            row = found.get((name, size))
            line.append(f"{row['ratio']:.3g} ({row['ms']:.3g} ms)" if row else "out of memory")
        lines.append(line)
    return table([f"{leader}, {by}", *(f"{size:,}" for size in sizes)], lines)


def training_table(rows: Sequence[Row]) -> str:
    head = ["game", "estimator", "final objective", "share of optimum", "lowest seed"]
    head += ["episode return", "published after 100", "published after 500"]
    return table(
        head,
        [
            [
                f"R{row['bonus']:.0f}",
                row["estimator"],
                f"{row['objective']:.2f} +- {row['ci95']:.2f}",
                f"{row['share']:.1%}",
                f"{row['lowest_share']:.1%}",
                f"{row['episode_return']:.2f}",
                number(row["published_100"]),
                number(row["published_500"]),
            ]
            for row in rows
        ],
    )


def network_table(rows: Sequence[Row]) -> str:
    """Expected trace by networks / in tables: median cosine, error and bias over the games."""
    sizes = sorted({row["steps"] for row in rows})
    lines = []
    for access in networks.ACCESS:
        line = [access]
        for size, column in itertools.product(sizes, ("cosine", "error", "bias")):
            both = [
                median(
                    row[column]
                    for row in rows
                    if (row["access"], row["steps"], row["critics"]) == (access, size, critics)
                )
                for critics in ("neural", "tabular")
            ]
            line.append(" / ".join(number(value, 2 + (value > 0.9)) for value in both))
        lines.append(line)
    head = [f"{what}, {size:,}" for size in sizes for what in ("cosine", "error", "bias")]
    return table(["access", *head], lines)


# ---------------------------------------------------------------- files


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Row]) -> None:
    """Empty where there is no number."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        missing = [k for k, v in row.items() if isinstance(v, float) and np.isnan(v)]
        writer.writerow(row | dict.fromkeys(missing, ""))
    write_atomically(path, text.getvalue())


COLOURS = {
    "expected-trace": "C0",
    "sampled-trace": "C1",
    "bc-hg": "C8",
    "hpgd-sarsa": "C2",
    "hpgd-mc": "C4",
    "hpgd-td": "C5",
    "es": "C6",
    "naive": "0.3",
    cost.FORWARD: "C9",
    cost.PUBLISHED: "C3",
}
RANDOM = ("observing", "blind", "design", "moving design")
ROOMS = ("four_rooms, published start", "four_rooms, scattered")


def draw(path: Path, measures: Measures, costs: Sequence[Row]) -> None:
    """Direction and error against the size of the sample, time against parameters."""
    figure = Figure(figsize=(9.0, 6.6), layout="constrained")
    grid = figure.subplots(2, 2)
    for axes, games, title in (
        (grid[0, 0], RANDOM, "random games: direction"),
        (grid[0, 1], ROOMS, "FourRooms: direction"),
    ):
        _lines(axes, measures, games, "cosine")
        axes.set(title=title, ylabel="cosine to the exact hypergradient", ylim=(-0.05, 1.04))
    _lines(grid[1, 0], measures, RANDOM, "error")
    grid[1, 0].set(title="random games: error, bias and noise", yscale="log")
    grid[1, 0].set(ylabel="root mean square / exact norm")
    _times(grid[1, 1], costs)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    save(figure, path)


def _lines(axes: Any, measures: Measures, games: Sequence[str], column: str) -> None:
    for name, colour in COLOURS.items():
        if name not in ESTIMATORS or name == cost.FORWARD:
            continue
        values = [measures.value(column, games, name, "learned", n) for n in measures.sizes]
        ours = name == "expected-trace"
        label = f"{name} (= {cost.FORWARD})" if ours else name
        style = {"naive": "--", "bc-hg": ":"}.get(name, "-")  # bc-hg covers sampled-trace
        axes.plot(measures.sizes, values, style, color=colour, lw=3.5 if ours else 1.5, label=label)
    axes.set(xlabel="steps of play in the sample", xscale="log")
    axes.set_xticks(measures.sizes, [f"{size:,}" for size in measures.sizes])
    axes.minorticks_off()
    axes.grid(alpha=0.3)


def _times(axes: Any, costs: Sequence[Row]) -> None:
    for name in (cost.PUBLISHED, cost.FORWARD, "hpgd-sarsa", "sampled-trace", "expected-trace"):
        mine = [
            row
            for row in costs
            if row["leader"] == "local design"
            and row["steps"] == accuracy.STEPS
            and row["estimator"] == name
        ]
        sizes, times = [row["parameters"] for row in mine], [row["ms"] for row in mine]
        label = "hpgd-sarsa as published" if name == cost.PUBLISHED else name
        axes.plot(sizes, times, "o-", ms=3, color=COLOURS[name], label=label)
    axes.set(title="time of one step, 450 steps of play", xlabel="parameters of the leader")
    axes.set(ylabel="ms", xscale="log", yscale="log")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)


# ---------------------------------------------------------------- all of it


def run(extent: Extent, out: Path) -> str:
    """Measure, write the files to `out`, return the tables in Markdown."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        measures = (accuracy_rows, cost_rows, training_rows, network_rows)
        found = [measure(extent) for measure in measures]
    finally:
        torch.set_num_threads(threads)
    out.mkdir(parents=True, exist_ok=True)
    for name, part, rows in zip(
        ("", "_cost", "_training", "_networks"),
        (accuracy, cost, training, networks),
        found,
        strict=True,
    ):
        write_csv(out / f"estimators{name}.csv", part.COLUMNS, rows)
    measures = Measures(found[0])
    for suffix in ("png", "svg"):
        draw(out / f"estimators.{suffix}", measures, found[1])
    return "\n".join(report(measures, *found[1:]))


def report(
    measures: Measures, costs: Sequence[Row], ends: Sequence[Row], fitted: Sequence[Row]
) -> Iterable[str]:
    for critics in ("learned", "true"):
        for size in sorted({measures.nearest(450), measures.sizes[-1]}):
            yield f"### Direction, {size:,} steps, {critics} critics: median cosine, share uphill\n"
            yield direction_table(measures, critics, size)
    for critics in ("learned", "true"):
        for game in measures.games:
            yield f"### {game}, {critics} critics: bias +- error / noise / cosine [95 %]\n"
            yield game_table(measures, game, critics)
    yield "### Variance: expected trace, learned, over sampled trace, true critics\n"
    yield variance_table(measures)
    yield "### Cost over a plain policy-gradient step: networks, every length of episode\n"
    yield policy_cost_table(costs)
    for leader, by in (
        ("local design", "parameters"),
        ("dense design", "parameters"),
        ("local design", "steps"),
    ):
        yield f"### Cost over a plain policy-gradient step: {leader}, by {by}\n"
        yield design_cost_table(costs, leader, by)
    yield "### Training on DiscreteToy\n"
    yield training_table(ends)
    yield "### Expected trace, critics by networks / in tables\n"
    yield network_table(fitted)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="half a minute, noisier")
    parser.add_argument("--out", type=Path, default=Path("runs/estimators"), help="folder")
    options = parser.parse_args()
    print(run(QUICK if options.quick else FULL, options.out))
    print(f"CSV and figure are in {options.out}")


if __name__ == "__main__":
    main()
