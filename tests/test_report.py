"""Reports: what the page says and draws, by hand and in a browser, and what is refused."""

import json
import re
import shlex
import shutil
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy import stats
from strategies import Recipe, random_game, random_policies
from written_runs import FILMED, write_run

from agents import ExactFollower, LinearGaussian, TabularSoftmax
from games import cart_pole, discrete_toy, duopoly, four_rooms, matrix
from stackelberg import (
    Coordinator,
    InputError,
    TrainConfig,
    cli,
    exact,
    figures,
    registry,
    report,
)
from stackelberg.charts import Group, charts, plotly
from stackelberg.episode import record
from stackelberg.evaluation_result import EvaluationResult
from stackelberg.grid import Grid
from stackelberg.types import Commitment, commit

ONE_LINE = r"^stackelberg: expected [^\n]+; got [^\n]+; [^\n]+\n$"
QUICK = ["--iterations", "5", "--evaluation-episodes", "5", "--quiet"]
RUNS = {
    "toy0": ["discrete_toy", "--seed", "0"],
    "toy1": ["discrete_toy", "--seed", "1"],
    "toy2": ["discrete_toy", "--seed", "2"],
    "naive": ["discrete_toy", "--estimator", "naive"],
    "long": ["discrete_toy", "--iterations", "6"],
    "rooms": ["four_rooms", "--steps", "30", "--streams", "1", "--game-option", "goals=2"],
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Short runs; not to be written to."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STACKELBERG_DATA", str(folder / "data"))
        for name, arguments in RUNS.items():
            given = ["train", arguments[0], *QUICK, *arguments[1:], "--out", str(folder / name)]
            assert cli.main(given) == 0
    return folder


@pytest.fixture
def undrawn(monkeypatch):
    """Figures are made, and written as files of nothing."""
    monkeypatch.setattr(figures, "drawn", lambda figure, kind: kind.encode())


@pytest.fixture
def runs(trained, tmp_path, monkeypatch, undrawn):
    """Copies of the short runs, in the current directory."""
    for name in RUNS:
        shutil.copytree(trained / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Page(HTMLParser):
    """The text of a page, cell by cell, and what it refers to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.references, self.cells, self.tags, self._open = [], [], [], [""]
        self.source = path.read_text()
        self.feed(self.source)
        self.words = " ".join(" ".join(self.cells).split())

    def handle_starttag(self, tag, attributes):
        self._open.append(tag)
        self.tags.append(tag)
        asked = ("src", "href", "srcset", "action", "data", "poster")
        self.references += [value for name, value in attributes if name in asked]

    def handle_data(self, data):
        if self._open[-1] not in ("script", "style") and data.strip():
            self.cells.append(data.strip())

    def charts(self) -> dict:
        (found,) = re.findall(r"^const charts = (.*);$", self.source, re.MULTILINE)
        return {one["name"]: one for one in json.loads(found)}


def page_of(*names: str) -> Page:
    return Page(report.report(names))


def metrics(run: str, name: str) -> list:
    lines = (Path(run) / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)[name] for line in lines]


def tree() -> dict:
    return {p: p.read_bytes() if p.is_file() else None for p in Path().rglob("*")}


# ---------------------------------------------------------------- the page


def test_one_file_that_refers_to_nothing_else(runs):
    page = page_of("toy0")
    assert page.references
    assert all(one.startswith("data:") for one in page.references)
    assert page.tags.count("script") == 2
    assert "default-src 'none'" in page.source
    assert not re.search(r"@import|url\(", page.source.split("</style>")[0])


def test_it_says_what_was_run_and_what_came_out(runs):
    page = page_of("toy0")
    summary = json.loads(Path("toy0/summary.json").read_text())
    for value in (summary["leader_return"]["exact"], summary["optimum"]):
        assert f"{value:.5g}" in page.cells
    told = summary["leader_return"]
    assert f"{told['mean']:.5g} ± {told['ci95']:.2g}" in page.cells
    assert "Optimum, by the game" in page.cells
    assert "trained by expected-trace at access value against the follower exact" in page.words
    assert "5 outer iterations, seed 0" in page.words
    assert all(f"{name} {version}" in page.words for name, version in summary["versions"].items())
    assert "unfinished" not in page.words
    assert "The follower's gap is nil throughout" in page.words


def test_figures_are_written_as_png_and_svg(trained, tmp_path, monkeypatch):
    shutil.copytree(trained / "toy0", tmp_path / "toy0")
    monkeypatch.chdir(tmp_path)
    page_of("toy0")
    made = {p.name for p in Path("toy0/figures").iterdir()}
    names = {"learning_curves", "gradient_norms", "gradient_cosine", "game"}
    assert made == {f"{name}.{kind}" for name in names for kind in ("png", "svg")}
    for path in Path("toy0/figures").iterdir():
        head = {".png": b"\x89PNG", ".svg": b"<?xml"}[path.suffix]
        assert path.read_bytes().startswith(head)


def test_the_same_run_makes_the_same_page_and_figures(runs):
    page_of("toy0")
    first = tree()
    page_of("toy0")
    assert tree() == first


def test_the_same_panel_makes_the_same_bytes():
    even = Commitment(torch.full((1, 3, 2), 0.5, dtype=torch.float64))
    panel = figures.game_panels(discrete_toy.game(), even)[0]
    light = figures.draw_panel(panel)
    assert light == figures.draw_panel(panel)
    assert light != figures.draw_panel(panel, dark=True)


@pytest.mark.parametrize("name", FILMED)
def test_every_shipped_game_has_its_page(name, tmp_path, undrawn):
    page = page_of(write_run(tmp_path / "run", name))
    assert "unfinished: 3 of 100 outer iterations" in page.words
    titles = {
        "discrete_toy": ["Leader's policy", "Follower's best response", "Visits", "Exchange rate"],
        "matrix": ["Leader's policy", "Follower's best response", "Exchange rate"],
        "four_rooms": ["Leader's design", "Follower's best response", "Visits", "Exchange rate"],
        "building": ["Leader's design", "Follower's best response", "An episode", "The game"],
        "lqr": ["Leader's gains", "Follower's best response", "An episode", "The game"],
        "cart_pole": ["Leader's rule", "The game"],
    }
    alike = {
        "warehouse": "four_rooms",
        "duopoly": "lqr",
        "pendulum": "cart_pole",
    }
    shown = titles[alike.get(name, name)]
    assert page.tags.count("img") == len(shown)
    assert set(shown) <= set(page.cells)
    assert "direct term" in page.source
    assert "No pictures" not in page.words


def test_what_a_game_without_tables_shows_is_true():
    """A duopoly: what the bars weigh is what the follower does; the episode is one of the two."""
    game, leader = duopoly.game(), LinearGaussian(1, 1, std=0.3)
    with torch.no_grad():
        commitment = commit(game, leader)
    response = ExactFollower().best_respond(game, commitment, [0])
    drawn = panels_of(game, commitment)
    ours, theirs = drawn["Leader's gains"], drawn["Follower's best response"]
    assert heights(ours) == pytest.approx(leader.gain()[0, 0].tolist())
    assert heights(theirs) == pytest.approx(response.answer.gain[0, 0].tolist())
    named = [[tick.get_text() for tick in axes.get_xticklabels()] for axes in (ours, theirs)]
    assert named == [["constant", "demand"], ["constant", "demand", "leader's quantity"]]
    rows = drawn["An episode"].child_axes
    assert [axes.get_ylabel() for axes in rows] == [
        *("demand", "leader's\nquantity", "follower's\nquantity")
    ]
    state, order, answer = (axes.lines[0].get_ydata() for axes in rows)
    seen = torch.from_numpy(np.stack([state[:-1], order[1:]], 1))
    missed = (
        answer[1:]
        - response.answer.gain[0, 0, 0].item()
        - (seen @ response.answer.gain[0, 0, 1:]).numpy()
    )
    spread = response.answer.covariance[0, 0, 0].sqrt().item()
    assert missed.std() == pytest.approx(spread, rel=0.4)
    assert abs(missed.mean()) < spread


def test_a_networks_rule_is_drawn_as_it_acts():
    game = cart_pole.game(horizon=20)
    leader = registry.load("leaders", "mlp")(game, (3,))
    with torch.no_grad():
        commitment = commit(game, leader)
    axes = panels_of(game, commitment)["Leader's rule"]
    anything = figures._Anything(game.follower_space)
    start = torch.from_numpy(record(game, commitment, anything, [0])[0].observation)
    labels = [line.get_label() for line in axes.lines]
    assert [label.partition(",")[0] for label in labels] == list(game.names["state"])
    for i, (line, label) in enumerate(zip(axes.lines, labels, strict=True)):
        low, high = (float(end) for end in label.partition(", ")[2].split(" to "))
        moved = start.repeat(figures.POINTS, 1)
        moved[:, i] = torch.linspace(low, high, figures.POINTS)
        with torch.no_grad():
            done = leader.act(moved, torch.zeros(1, figures.POINTS, 1).double())[0, :, 0]
        assert line.get_ydata() == pytest.approx(done.numpy(), abs=0.02 * np.ptp(done.numpy()))


def test_a_film_of_the_run_is_shown(runs):
    assert "image/gif" not in page_of("toy0").source
    Path("toy0/figures/play.gif").write_bytes(b"GIF89a")
    assert "data:image/gif;base64,R0lGODlh" in page_of("toy0").source


# ---------------------------------------------------------------- curves


def test_runs_that_differ_in_seeds_are_one_curve_with_its_interval(runs):
    page = page_of("toy0", "toy1", "toy2")
    values = np.array([metrics(f"toy{i}", "leader_objective") for i in range(3)])
    half = stats.t.ppf(0.975, 2) * stats.sem(values, 0)
    band, mean = page.charts()["learning_curves"]["data"][:2]
    assert mean["name"] == "mean of 3 seeds"
    assert mean["y"] == pytest.approx(values.mean(0))
    assert mean["customdata"] == pytest.approx(half)
    assert band["y"][:5] == pytest.approx(values.mean(0) - half)
    assert band["y"][:4:-1] == pytest.approx(values.mean(0) + half)
    assert band["x"] == [0, 1, 2, 3, 4, 4, 3, 2, 1, 0]
    assert (band["fill"], band["steps"][:5]) == ("toself", mean["steps"])
    assert mean["steps"] == metrics("toy0", "leader_steps")
    drawn = {one.get("name"): one for one in page.charts()["learning_curves"]["data"]}
    line = drawn["optimum, by the game"]
    assert line["y"] == pytest.approx([discrete_toy.OPTIMA[1.0]] * 2)


def test_all_metrics_that_are_asked_for_have_their_chart(runs):
    drawn = page_of("toy0").charts()
    names = {"direct term": "direct_norm", "indirect term": "indirect_norm", "seed 0": "cosine"}
    for one in drawn["gradient_norms"]["data"] + drawn["gradient_cosine"]["data"]:
        values = metrics("toy0", names[one["name"]])
        there = metrics("toy0", "indirect_norm") if one["name"] == "seed 0" else values
        true = [v if known > 0 else None for v, known in zip(values, there, strict=True)]
        assert one["y"] == pytest.approx(true)
    shown = {one["name"]: one.get("visible") for one in drawn["learning_curves"]["data"]}
    assert shown["seed 0"] is True
    assert shown["leader's own estimate"] == shown["sampled"] == "legendonly"


def test_where_a_term_is_nil_there_is_no_cosine(runs):
    file = Path("toy0/metrics.jsonl")
    norms = [0.5, 0.0, 0.25, 0.0, 0.125]
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    known = {"direct_norm": 1.0, "cosine": 0.5}
    lines = [row | known | {"indirect_norm": n} for row, n in zip(lines, norms, strict=True)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (curve,) = page_of("toy0").charts()["gradient_cosine"]["data"]
    assert curve["y"] == [0.5, None, 0.5, None, 0.5]
    assert "gradient_cosine" not in page_of("naive").charts()


def test_a_band_has_a_hole_where_a_curve_has(runs):
    names = "toy0", "toy1"
    for name in names:
        file = Path(name) / "metrics.jsonl"
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        for i, row in enumerate(lines):
            row |= {"direct_norm": 1.0, "indirect_norm": float(i != 2)}
            row |= {"cosine": 0.5 if name == "toy0" else 0.25}
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = page_of(*names)
    band, mean = page.charts()["gradient_cosine"]["data"]
    assert mean["y"] == [0.375, 0.375, None, 0.375, 0.375]
    assert band["x"] == [0, 1, 1, 0, None, 3, 4, 4, 3]
    low, high = band["y"][0], band["y"][2]
    assert low < 0.375 < high
    assert band["y"] == [low, low, high, high, None, low, low, high, high]
    assert "A hole in a curve" in page.words
    assert "way to a scout" not in page.words
    config = json.loads(Path("toy0/config.json").read_text()) | {"estimator": "model-based"}
    Path("toy0/config.json").write_text(json.dumps(config))
    assert "way to a scout" in page_of(*names).words


def test_a_followers_gap_is_drawn_where_there_is_one(runs):
    file = Path("toy0/metrics.jsonl")
    gaps = [0.5, 0.0, None, 0.25, 0.125]
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines = [line | {"follower_gap": gap} for line, gap in zip(lines, gaps, strict=True)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (curve,) = page_of("toy0").charts()["follower_gap"]["data"]
    assert curve["y"] == [0.5, None, None, 0.25, 0.125]


def test_what_tells_runs_apart_names_their_curves(runs):
    grouped = report.grouped([report.read_run(name) for name in ("toy0", "naive", "toy1", "long")])
    names = ["iterations 5, expected-trace", "iterations 5, naive", "iterations 6, expected-trace"]
    assert [group.label for group, _ in grouped] == names
    assert [[run.path.name for run in members] for _, members in grouped] == [
        ["toy0", "toy1"],
        ["naive"],
        ["long"],
    ]
    (chart,) = (one for one in charts([group for group, _ in grouped]) if "curves" in one.name)
    assert [len(curve.mean) for curve in chart.curves] == [5, 5, 6]
    page = page_of("toy0", "naive")
    assert {"expected-trace", "naive"} <= set(page.cells)
    assert "2 runs at access value against exact: expected-trace; naive." in page.cells
    leaders = [said for said in page.cells if said.startswith("The leader of ")]
    assert leaders == ["The leader of toy0, seed 0.", "The leader of naive, seed 0"]
    assert page.tags.count("img") == 8
    assert {"game.svg", "game_2.svg"} <= {p.name for p in Path("toy0/figures").iterdir()}
    assert page.charts()["gradient_cosine"]["layout"]["showlegend"]


def test_runs_of_one_game_are_measured_by_one_optimum(runs):
    """Whatever was known when each of them ended: the first of a game knew of none."""
    worth, told = {}, {"toy0": (None, None), "toy1": (41.0, 0.5), "naive": (40.0, 0.1)}
    for name, (optimum, regret) in told.items():
        file = Path(name, "summary.json")
        summary = json.loads(file.read_text())
        worth[name] = summary["leader_return"]["exact"]
        summary |= {"optimum": optimum, "optimum_source": "best known", "regret": regret}
        file.write_text(json.dumps(summary | {"new_best": optimum is not None}))
    cells = page_of("toy0", "toy1", "naive").cells
    assert cells.count("41 (best known)") == 2
    mean = (worth["toy0"] + worth["toy1"]) / 2
    assert {f"{41 - mean:.2g}", f"{41 - worth['naive']:.2g}"} <= set(cells)


def _changed(name: str, **settings) -> None:
    file = Path(name) / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


def test_runs_that_differ_in_much_are_named_by_their_folders(runs):
    def labels(*names):
        return [g.label for g, _ in report.grouped([report.read_run(name) for name in names])]

    _changed("naive", radius=0.5, follower="soft-q")
    assert labels("toy0", "naive") == [
        "exact, expected-trace, radius 0.001",
        "soft-q, naive, radius 0.5",
    ]
    _changed("naive", steps=7)
    assert labels("toy0", "toy1", "naive", "toy2") == ["toy0 and 2 more", "naive"]


def test_an_option_is_said_of_followers_that_take_it(runs):
    for name, steps in (("toy0", {"first_steps": 64}), ("toy1", {})):
        _changed(name, follower="soft-q", follower_options=steps)
    grouped = report.grouped([report.read_run(name) for name in ("toy0", "toy1", "toy2")])
    labels = [group.label for group, _ in grouped]
    assert labels == ["soft-q, first steps 64", "soft-q, first steps default", "exact"]


def test_missing_pictures_are_said_on_the_terminal(runs, capsys):
    file = Path("mine.py")
    file.write_text("from games.discrete_toy import game\n")
    assert cli.main(["train", "mine.py:game", *QUICK, "--out", "run"]) == 0
    assert cli.main(["report", "run", "--quiet"]) == 0
    assert capsys.readouterr().err == ""
    file.unlink()
    assert cli.main(["report", "run", "--quiet"]) == 0
    out, errors = capsys.readouterr()
    assert out == ""
    assert re.match(r"^no pictures of the leader of run: [^\n]*mine\.py[^\n]*\n$", errors)
    assert "No pictures of the leader" in page_of("run").words


def test_an_evaluation_names_runs_by_the_ends_of_their_folders(runs, capsys):
    leaders = [str(runs / name) for name in ("toy0", "naive")]
    given = ["--followers", "exact", "--seeds", "2", "--quiet"]
    assert cli.main(["evaluate", *leaders, *given]) == 0
    page = page_of("toy0", "naive")
    assert {"toy0", "naive"} <= set(page.cells)
    assert "Evaluation against fresh followers, toy0, naive" in page.cells
    shown = page.source.split("<h2>Evaluation")[1].split("<h2>Runs")[0]
    assert str(runs) not in shown
    named = [{"name": "/a/run #0", "run": "/a/run"}, {"name": "/a/run #1", "run": "/a/run"}]
    assert report._short(named) == {"/a/run": "run", "/a/run #0": "run #0", "/a/run #1": "run #1"}
    assert report._short([*named, {"name": "run #1"}]) == {}  # there is one of that name
    assert report._short([{"name": "my/own", "run": "/a/run"}]) == {"my/own": "my/own"}
    twice = [{"name": name, "run": name} for name in ("/a/run", "/a/../a/run")]
    assert report._short(twice)["/a/../a/run"] != "run"


def test_leaders_side_by_side_from_python(tmp_path, undrawn):
    game, config = discrete_toy.game(), TrainConfig(iterations=4, evaluation_episodes=3)
    leader = TabularSoftmax(3, 2, range(3))
    Coordinator(game, leader, ExactFollower(), config, seeds=range(3), out=tmp_path / "run").run()
    page = page_of(tmp_path / "run")
    assert page.charts()["learning_curves"]["data"][1]["name"] == "mean of 3 seeds"
    assert "over 3 seeds" in page.words
    assert "Started from Python" in page.words
    assert "No pictures of the leader: the run was started from Python" in page.words
    assert page.tags.count("img") == 0
    page = Page(report.report([tmp_path / "run"], game=game, leader=TabularSoftmax(3, 2, range(3))))
    assert "No pictures" not in page.words
    assert page.tags.count("img") == 4


def test_runs_of_one_name_are_told_apart_by_their_folders(runs):
    for folder in ("here", "there"):
        shutil.copytree("toy0", f"{folder}/run")
    shutil.copytree("naive", "there/other")
    page = page_of("here/run", "there/run", "there/other")
    assert {"here/run", "there/run", "there/other"} <= set(page.cells)
    assert "toy0" not in page.cells
    assert {"run", "other"} <= set(page_of("here/run", "there/other").cells)


# ---------------------------------------------------------------- unfinished runs


def test_an_unfinished_run_is_reported_as_far_as_it_goes(runs):
    Path("toy0/summary.json").unlink()
    file = Path("toy0/metrics.jsonl")
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:3]) + lines[3][:40])  # it is being written
    page = page_of("toy0")
    assert "toy0: unfinished: 3 of 5 outer iterations" in page.words
    assert "Optimum, by the game" in page.cells
    last = json.loads(lines[2])["leader_objective"]
    assert f"{discrete_toy.OPTIMA[1.0] - last:.2g}" in page.cells
    assert len(page.charts()["learning_curves"]["data"][0]["y"]) == 3


def test_a_run_that_has_gone_on_is_not_what_its_summary_says(runs):
    settings = json.loads(Path("toy0/config.json").read_text()) | {"iterations": 9}
    Path("toy0/config.json").write_text(json.dumps(settings))
    assert "toy0: unfinished: 5 of 9 outer iterations" in page_of("toy0").words
    lines = Path("long/metrics.jsonl").read_text()
    Path("toy0/metrics.jsonl").write_text(lines)
    assert report.read_run("toy0").summary is None


# ---------------------------------------------------------------- how to reproduce


@pytest.mark.parametrize(
    "arguments",
    [
        ["discrete_toy"],
        ["four_rooms", "--game-option", "goals=2", "--game-option", "penalty=1", "--seed", "3"],
        ["discrete_toy", "--follower", "soft-q", "--follower-option", "later_steps=64", "--access",
         "trajectories", "--estimate-temperature", "--leader", "spread", "--radius", "0.01",
         "--steps", "20", "--estimator", "naive", "--optimiser", "ppo", "--streams", "4"],
    ],
)  # fmt: skip
def test_the_command_makes_the_same_run(tmp_path, arguments):
    out = ["--out", str(tmp_path / "it's a run")]
    asked = cli._parse(["train", *arguments, *out])
    settings = vars(asked.config) | {"seeds": [asked.seed], "leader": asked.leader}
    settings |= {"game": asked.game, "game_options": cli._pairs(asked.game_option)}
    settings |= {"follower": asked.follower, "leader_agent": asked.leader_agent}
    settings |= {"follower_options": cli._pairs(asked.follower_option)}
    run = report.Run(asked.out, json.loads(json.dumps(settings)), [], None, None)
    said = shlex.split(run.command)
    assert said[0] == "stackelberg"
    assert cli._parse(said[1:]) == asked


# ---------------------------------------------------------------- evaluation


def evaluated(folder: Path) -> EvaluationResult:
    rows = []
    for leader in ("a", "b"):
        for against in ("a", "b"):
            for seed in range(2):
                row = {
                    "trained_against": leader,
                    "leader": against,
                    "follower": "exact",
                    "seed": seed,
                }
                row |= {"temperature": 0.05, "follower_gap": 0.25, "leader_exact": None}
                row |= {"episodes": 5, "discounted_horizon": 459, "discounted_rest": 1e-4}
                row["gap_source"] = "exact"
                value = {"aa": 10, "ab": 20, "ba": 30, "bb": 40}[leader + against] + seed
                names = "leader_discounted", "leader_undiscounted"
                names += "follower_discounted", "follower_undiscounted"
                row |= dict.fromkeys(names, value) | {f"{name}_ci95": 1.0 for name in names}
                rows.append(row)
    standing = {"temperature": 0.05, "objective": 1.25, "optimum": 2.0, "regret": 0.75}
    standing |= {"optimum_source": "best known", "optimum_is_own": False, "diverges": False}
    result = EvaluationResult(
        about={"game": "discrete_toy"},
        leaders=[
            {"name": "a", "estimator": "naive", "prediction": {"mean": 33.5}},
            {"name": "b", "estimator": "es"},
        ],
        standings=[standing | {"leader": "a"}, standing | {"leader": "b"}],
        rows=rows,
    )
    result.write(folder)
    return result


def test_an_evaluation_is_shown_with_its_cross_play(runs):
    assert "Evaluation" not in page_of("toy0").words
    evaluated(Path("toy0"))
    page = page_of("toy0")
    assert "Evaluation against fresh followers" in page.words
    half = stats.t.ppf(0.975, 1) * 0.5
    heads = ["leader", "temperature", "predicted", "exact", "optimum", "regret"]
    at = page.cells.index("predicted") - 2
    assert page.cells[at : at + 6] == heads
    worth = ["a", "0.05", "33.5", "1.25", "2 (best known)", "0.75"]
    assert page.cells[at + 6 : at + 12] == worth
    met = page.cells.index("its gap")
    told = f"10.5 ± {half:.2g}"
    assert page.cells[met + 1 : met + 9] == ["a", "exact", "0.05", "2", told, told, told, "0.25"]
    start = page.cells.index("exact at temperature 0.05")
    shown = page.cells[start + 1 : start + 9]
    assert shown == ["a", "b", "a", "10.5", "20.5", "b", "30.5", "40.5"]
    drawn = {p.name for p in Path("toy0/figures").iterdir()}
    names = "cross_play", "performance_profile"
    assert drawn >= {f"{name}.{kind}" for name in names for kind in ("png", "svg")}


def test_an_evaluation_before_the_run_went_on_says_so(runs):
    evaluated(Path("toy0"))
    file = Path("toy0/evaluation.json")
    found, done = json.loads(file.read_text()), len(metrics_of("toy0"))
    for trained, said in ((done - 1, True), (done, False)):
        found["leaders"][0] |= {"run": str(Path("toy0")), "outer_iterations": trained}
        file.write_text(json.dumps(found))
        assert ("has trained on since" in page_of("toy0").words) == said


def metrics_of(run: str) -> list[str]:
    return Path(run, "metrics.jsonl").read_text().splitlines()


def test_too_few_runs_have_no_interval(runs):
    evaluated(Path("toy0"))
    file = Path("toy0/evaluation.json")
    found = json.loads(file.read_text())
    for one in found["groups"] + found["comparisons"]:
        several = "over" in one
        one |= {"interval": None, "runs": [3, 2] if several else [3]}
        one |= {"run": ["training run", "follower"] if several else "training run"}
    file.write_text(json.dumps(found))
    page = page_of("toy0")
    few = "3 training runs: too few for an interval"
    assert f"naive: interquartile mean of the leader's return 10.5 ({few})" in page.cells
    few = "3 training runs against 2 followers of one leader: too few for an interval"
    assert f"P(naive does better than es) = 0 ({few})" in page.cells
    found["groups"][0]["interval"] = [9.5, 11.5]
    file.write_text(json.dumps(found))
    assert "return 10.5 [9.5, 11.5] (3 training runs)" in page_of("toy0").words
    found["standings"][0] |= {"diverges": True, "objective": None, "regret": None}
    file.write_text(json.dumps(found))
    assert "-inf" in page_of("toy0").cells


# ---------------------------------------------------------------- pictures of games


def axes_of(draw) -> object:
    figure = Figure()
    axes = figure.add_subplot()
    draw(axes)
    FigureCanvasAgg(figure).draw()
    return axes


def panels_of(game, commitment) -> dict:
    return {panel.title: axes_of(panel.draw) for panel in figures.game_panels(game, commitment)}


def heights(axes) -> list[float]:
    return [patch.get_height() for patch in axes.patches]


def test_the_exchange_rate_is_the_expected_trace_over_visits_and_temperature():
    """rho(s) = E[sum_k e_k 1(s_k = s)] / (beta d(s)), summed step by step."""
    game, generator = discrete_toy.game(), np.random.default_rng(3)
    f = torch.from_numpy(generator.dirichlet([1, 1], (1, 3)))
    model = game.model()
    best = exact.best_response(model, f)
    g, kernel = best.policy[0].numpy(), model.transition.reshape(3, 2, 3, 3).numpy()
    pay = model.leader_reward.reshape(3, 2, 3).numpy()
    joint = f[0].numpy()[:, :, None] * g  # [S, A, B]
    value = np.zeros(3)
    for _ in range(4000):
        action_value = pay + 0.99 * np.einsum("sabt,t->sab", kernel, value)
        value = (joint * action_value).sum((1, 2))
    benefit = action_value - (g * action_value).sum(-1, keepdims=True)
    here, trace = np.eye(3)[0], np.zeros(3)  # P(s_k = s), E[e_k 1(s_k = s)]
    visits, traces, weight = np.zeros(3), np.zeros(3), 1.0
    for _ in range(4000):
        visits, traces = visits + weight * here, traces + trace
        carried = trace[:, None, None] + weight * here[:, None, None] * benefit
        trace = 0.99 * np.einsum("sab,sabt->t", joint * carried, kernel)
        here = np.einsum("s,sab,sabt->t", here, joint, kernel)
        weight *= 0.99
    drawn = panels_of(game, Commitment(f))
    assert heights(drawn["Exchange rate"]) == pytest.approx(traces / visits / 0.05, rel=1e-6)
    written = [float(text.get_text().split()[1]) for text in drawn["Visits"].texts]
    assert written == pytest.approx(visits, rel=5e-3)
    assert heights(drawn["Leader's policy"]) == pytest.approx(f[0].T.flatten().tolist())
    mean = joint.sum(1)
    assert heights(drawn["Follower's best response"]) == pytest.approx(mean.T.flatten())


def test_four_rooms_draws_penalties_visits_and_moves():
    game = four_rooms.game(goals=2, temperature=0.05)
    design = torch.zeros(1, 104).double()
    design[0, 7] = 0.1
    drawn = panels_of(game, Commitment(torch.ones(1, 208, 1).double(), design))
    cells = tuple(np.array(four_rooms.CELLS).T)
    images = {title: axes.images[0].get_array().filled(np.nan) for title, axes in drawn.items()}
    assert all(np.isnan(image[0]).all() for image in images.values())  # the wall
    assert images["Leader's design"][cells] == pytest.approx(design[0])
    model = game.model(design)
    best = exact.best_response(model, torch.ones(1, 208, 1).double())
    visits = exact.visitation(model, torch.ones(1, 208, 1).double(), best.policy)[0]
    assert images["Visits"][cells] == pytest.approx(visits.view(2, 104).sum(0))
    (arrows,) = drawn["Follower's best response"].collections
    share = visits.view(2, 104) / visits.view(2, 104).sum(0)
    mean = (share[..., None] * best.policy[0, :, 0].view(2, 104, 4)).sum(0)
    mean = mean[[cell not in game.grid.marks for cell in game.grid.cells]]
    assert len(mean) == 100
    assert pytest.approx(0.85 * (mean[:, 1] - mean[:, 3])) == arrows.U  # right less left
    assert pytest.approx(0.85 * (mean[:, 2] - mean[:, 0])) == arrows.V  # down less up, y is down
    assert drawn["Follower's best response"].yaxis_inverted()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((["###", "# "], [(0, 1)]), "rows of a map: a sequence of strings of one length"),
        (("# #", [(0, 1)]), "rows of a map"),
        (([], [(0, 1)]), "rows of a map"),
        ((None, [(0, 1)]), "rows of a map"),
        (([[1, 0]], [(0, 1)]), "rows of a map"),
        ((["##", "##"], [(0, 1)]), "a map with floor cells"),
        (([" "], []), "moves: pairs of integers"),
        (([" "], None), "moves: pairs of integers"),
        (([" "], [(0, 1, 2)]), "moves: pairs of integers"),
        (([" "], ["up"]), "moves: pairs of integers"),
        (([" "], [(0.5, 1)]), "moves: pairs of integers"),
        (([" "], [1, 2]), "moves: pairs of integers"),
        (([" "], [(0, 1)], {(0, 1): "G"}), r"of the 1 x 1 map; got 'G' for \(0, 1\)"),
        (([" "], [(0, 1)], {(0, 0): 7}), "marks: a letter"),
        (([" "], [(0, 1)], "G"), "marks: letters by"),
    ],
)
def test_a_grid_says_what_is_wrong_with_it(given, said):
    with pytest.raises(InputError, match=said):
        Grid(*given)


def test_transitions_from_a_grids_cells_as_its_docstring_builds_them():
    example = [line[8:] for line in Grid.__doc__.splitlines() if line.startswith(" " * 8)]
    known = {"Grid": Grid, "np": np}
    exec(
        "\n".join(example[: next(i for i, x in enumerate(example) if "[S, B, S]" in x) + 1]), known
    )
    assert known["transition"].tolist() == [[[0, 1], [1, 0]], [[0, 1], [1, 0]]]


@pytest.fixture
def ill_fitting(tmp_path, monkeypatch):
    """A run of a file's game whose map is changed to one that does not fit."""
    monkeypatch.chdir(tmp_path)
    text = (
        "from games import discrete_toy\nfrom stackelberg import Grid\n"
        "def game():\n    made = discrete_toy.game(horizon=3)\n    made.grid = Grid({}, {})\n"
        "    return made\n"
    )
    file = Path("ways.py")
    file.write_text(text.format('["   "]', "[(0, 0), (0, 1), (0, -1)]"))
    assert cli.main(["train", "ways.py:game", *QUICK, "--out", "run"]) == 0
    assert cli.main(["check", "ways.py:game"]) == 0
    page_of("run")
    return lambda rows, moves: file.write_text(text.format(rows, moves))


@pytest.mark.parametrize(
    ("rows", "moves", "said"),
    [
        ('["  "]', "[(0, 0), (0, 1), (0, -1)]", "the 2 cells of the game's grid.*got 3 states"),
        (
            '["   "]',
            "[(0, 1)]",
            "as many moves in the game's grid as the follower has actions; got 1 for 3",
        ),
    ],
)
def test_a_grid_that_does_not_fit_its_game_is_refused(
    ill_fitting, undrawn, capsys, rows, moves, said
):
    ill_fitting(rows, moves)
    for command in (["report", "run"], ["play", "run"]):
        capsys.readouterr()
        assert cli.main([*command, "--quiet"]) == 2
        errors = capsys.readouterr().err
        assert re.match(ONE_LINE, errors)
        assert re.search(said, errors)
    assert cli.main(["check", "ways.py:game"]) == 2
    assert "game's grid" in capsys.readouterr().out
    toy = discrete_toy.game()
    toy.grid = ["   "]
    with pytest.raises(InputError, match=r"a stackelberg\.Grid"):
        toy.check_grid()


def test_a_grid_shows_the_design_over_the_place():
    game = four_rooms.game()
    spent = np.zeros(104)
    spent[[3, 7]] = 0.1 * 0.2 * np.array([0.5, 4]) * 10 / 10.4
    axes = axes_of(lambda axes: game.picture_moves(axes, np.eye(104)[0], spent, 1))
    (image,) = axes.images
    assert image.get_array()[game.grid.cells[3]] == 1  # red
    assert image.get_alpha()[game.grid.cells[3]] == pytest.approx(0.5)
    assert image.get_alpha()[game.grid.cells[7]] == 1  # as full as can be
    assert image.get_alpha().sum() == pytest.approx(1.5)
    floor = registry.make_game("warehouse")
    axes = axes_of(lambda axes: floor.picture_moves(axes, np.eye(37)[0], np.full(37, 0.2), 1))
    assert axes.images[0].get_alpha()[1, 1] == pytest.approx(0.25)


def test_cells_hardly_visited_do_not_scale_the_exchange_rate():
    game = four_rooms.game()
    rate, visits = np.full(104, 0.5), np.ones(104)
    rate[[3, 7]], visits[3], visits[7] = [90, -2], 0.009, 0.011
    axes = axes_of(figures._rate_map(game, rate, visits))
    assert axes.images[0].get_clim() == (-2, 2)


def test_few_bars_of_a_design_carry_their_numbers():
    def texts(count):
        values = 0.5 + np.arange(count)
        draw = partial(figures._draw_design, places=[*map(str, range(count))], values=values)
        return [text.get_text() for text in axes_of(draw).texts]

    assert texts(3) == ["0.5", "1.5", "2.5"]
    assert len(texts(12)) == 12
    assert texts(13) == []


def test_a_users_own_grid_draws_itself():
    grid = Grid(["###", "# #", "# #"], [(1, 0), (-1, 0)], {(1, 1): "X"})
    assert grid.cells == [(1, 1), (2, 1)]
    axes = axes_of(lambda axes: grid.draw(axes, np.array([1.0, 2.0, 3.0, 5.0]), ""))
    assert axes.images[0].get_array().compressed().tolist() == [4.0, 7.0]
    assert [text.get_text() for text in axes.texts] == ["X"]
    axes = axes_of(lambda axes: grid.draw_place(axes, 3, ""))
    assert [line.get_xydata().tolist() for line in axes.lines] == [[[1, 2]]]


# ---------------------------------------------------------------- what is refused


def _damage(path: str, text: str):
    return lambda: Path(path).write_text(text)


@pytest.mark.parametrize(
    ("change", "arguments", "said"),
    [
        (None, ["nowhere"], "the folder of a run.*got nowhere, which is not there"),
        (None, ["."], "the folder of a run"),
        (None, ["toy0", "rooms"], "runs of one game, 'discrete_toy' as in toy0; got 'four_rooms'"),
        (None, ["toy0", "toy1", "toy0"], "run directories, each named once"),
        (None, ["toy0", "./toy0/"], "run directories, each named once"),
        (None, ["toy0", "--out", "toy1/config.json"], "a folder that can be written"),
        (None, ["toy0", "--out", "toy1/config.json/x"], "a folder that can be written"),
        (_damage("toy0/config.json", "[]"), ["toy0"], "a config.json as a run writes it"),
        (_damage("toy0/config.json", "{"), ["toy0"], "the folder of a run"),
        (_damage("toy0/config.json", '{"seeds": [0]}'), ["toy0"], "a run as `stackelberg train`"),
        (_damage("toy0/metrics.jsonl", ""), ["toy0"], "at least one outer iteration; got toy0"),
        (_damage("toy0/metrics.jsonl", "no\n"), ["toy0"], "the metrics of a run"),
        (_damage("toy0/metrics.jsonl", '{"iteration": 0}\n'), ["toy0"], "a run as `stackelberg"),
        (_damage("toy0/summary.json", "{"), ["toy0"], r"a whole summary\.json"),
        (_damage("toy0/evaluation.json", "[]"), ["toy0"], r"evaluation\.json as Stackelberg"),
        (_damage("toy0/evaluation.json", "{}"), ["toy0"], "as `stackelberg evaluate` writes it"),
        (_damage("toy0/figures", ""), ["toy0"], "a folder that can be written"),
    ],
)
def test_what_is_refused(runs, capsys, change, arguments, said):
    if change is not None:
        change()
    before = tree()
    assert cli.main(["report", *arguments]) == 2
    errors = capsys.readouterr().err
    assert re.match(ONE_LINE, errors)
    assert re.search(said, errors)
    assert tree() == before


def test_a_page_that_cannot_be_finished_leaves_the_last_one(runs, monkeypatch):
    page_of("toy0")
    before, write = tree(), report.write_atomically

    def fail(path, data):
        if path.name == "report.html":
            raise OSError("disk full")
        write(path, data)

    monkeypatch.setattr(report, "write_atomically", fail)
    with pytest.raises(InputError, match=r"a folder that can be written.*disk full"):
        report.report(["toy0", "naive"])
    assert Path("toy0/report.html").read_bytes() == before[Path("toy0/report.html")]


def test_what_runs_are_called_is_text_and_never_code(runs):
    evil = "</script><script>alert(1)</script>"
    for name in ("toy0", "naive"):
        config = json.loads(Path(f"{name}/config.json").read_text())
        config |= {"game": evil, "game_options": {evil: evil + name}}
        Path(f"{name}/config.json").write_text(json.dumps(config))
    page = page_of("toy0", "naive")
    assert "<script>alert" not in page.source
    assert page.tags.count("script") == 2
    assert evil in page.words


def test_names_are_drawn_as_they_are():
    """Neither mathematics, nor HTML, nor left out of the legend."""
    name = "_a $x_{$ <b>"
    rows = [{"leader_objective": 1.0, "leader_steps": 1, "follower_steps": 0}]
    made = charts([Group(name, [rows], 2.0), Group("other", [rows], 2.0)])[0]
    assert figures.drawn(figures.draw_chart(made), "svg")
    assert plotly(made)["data"][0]["name"] == "_a $x_{$ &lt;b&gt;"
    game = random_game(Recipe(leader_actions=2))
    game.names = {"leader": [name, "b"]}
    commitment = Commitment(torch.full((1, 3, 2), 0.5).double(), None)
    panel = figures.game_panels(game, commitment)[0]
    assert b"_a $x_{$ &lt;b" in figures.draw_panel(panel)


def test_tables_are_bars_or_if_they_are_large_a_map():
    for states, actions, bars in ((1, 30, 30), (3, 4, 12), (21, 4, 0), (3, 17, 0)):
        game = random_game(Recipe(states=states, leader_actions=actions))
        policy = random_policies(1, states, actions)
        axes = axes_of(figures.game_panels(game, Commitment(policy, None))[0].draw)
        assert len(axes.patches) == bars
        if not bars:
            np.testing.assert_array_equal(axes.images[0].get_array(), policy[0].T)


def test_out_takes_the_page(runs):
    before = tree()
    assert cli.main(["report", "toy0", "toy1", "--out", "new/er", "--quiet"]) == 0
    new = {p for p in tree() if p not in before}
    assert all(p.parts[0] == "new" for p in new)
    assert Path("new/er/report.html") in new


# ---------------------------------------------------------------- in a browser

SWITCHES = [
    *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync"),
    *("disable-background-networking", "disable-component-update"),
]


class Browser:
    """A page in headless Chromium, at a width and in a colour scheme."""

    def __init__(self, driver) -> None:
        self.driver = driver

    def open(self, page: Path, width: int = 1280, scheme: str = "light") -> None:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.colours(scheme)
        self.driver.get(page.resolve().as_uri())

    def colours(self, scheme: str) -> None:
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    def ask(self, script: str):
        return self.driver.execute_script(f"return {script}")


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    from selenium.webdriver.common.selenium_manager import SeleniumManager

    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    chromium = next(filter(None, map(shutil.which, names)), None)
    chromedriver = shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        pytest.skip("chromium (or chrome) and chromedriver are not both on the PATH")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for switch in SWITCHES:
        options.add_argument(f"--{switch}")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('chromium')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with pytest.MonkeyPatch.context() as patch:  # both are there: nothing is to be looked for
        patch.setattr(SeleniumManager, "binary_paths", _not_downloaded)
        made = webdriver.Chrome(options=options, service=webdriver.ChromeService(chromedriver))
    yield made
    made.quit()


def _not_downloaded(*_):
    raise AssertionError("selenium looks for a browser on the network")


@pytest.fixture
def browser(driver):
    yield Browser(driver)
    assert driver.get_log("browser") == []  # no error, no warning


@pytest.fixture(scope="module")
def pages(trained, tmp_path_factory):
    """A run's page and a comparison, with evaluations."""
    folder = tmp_path_factory.mktemp("pages")
    for name in ("toy0", "toy1", "naive", "rooms"):
        shutil.copytree(trained / name, folder / name)
    evaluated(folder / "toy0")
    runs = [folder / name for name in ("toy0", "toy1", "naive")]
    return {
        "one": report.report([folder / "rooms"]),
        "several": report.report(runs, folder / "out"),
    }


def _numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?[0-9.]+", text)]


def _curves(browser: Browser, chart: str) -> list[list[float]]:
    """The numbers in the paths of a chart's lines."""
    paths = f"[...document.querySelectorAll('#{chart} path.js-line')]"
    return [_numbers(d) for d in browser.ask(f"{paths}.map(p => p.getAttribute('d'))") if d]


@pytest.mark.parametrize("name", ["one", "several"])
@pytest.mark.parametrize("width", [1280, 768, 380])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser(browser, pages, name, width, scheme):
    browser.open(pages[name], width, scheme)
    assert browser.ask("document.documentElement.scrollWidth") <= width
    tables = "[...document.querySelectorAll('.stack')].map(t => t.parentNode)"
    assert browser.ask(f"{tables}.every(t => t.scrollWidth <= t.clientWidth)")
    style = "getComputedStyle(document.body)"
    ink, paper = (_numbers(browser.ask(f"{style}.{x}")) for x in ("color", "backgroundColor"))
    dark, bright = (paper, ink) if scheme == "dark" else (ink, paper)
    assert max(dark) < 60
    assert min(bright) > 200
    assert _numbers(browser.ask("document.querySelector('.xtick text').style.fill"))[:3] == ink
    for chart, one in Page(pages[name]).charts().items():
        named = [t for t in one["data"] if "name" in t and t.get("visible") is not False]
        full = [t for t in named if sum(y is not None for y in t["y"]) > 1]
        shown = [t for t in full if t.get("visible") != "legendonly"]
        assert sum(len(curve) > 2 for curve in _curves(browser, chart)) >= len(shown) > 0
    assert browser.ask("[...document.images].every(i => i.complete && i.naturalWidth > 50)")
    asked = browser.ask("performance.getEntriesByType('resource').map(r => r.name)")
    assert all(name.startswith(("data:", "blob:")) for name in asked)


def test_colours_and_curves_change_on_the_open_page(browser, pages):
    from selenium.webdriver.support.wait import WebDriverWait

    browser.open(pages["several"])
    ink = "document.querySelector('.xtick text').style.fill"
    image = "document.querySelector('picture img').currentSrc"
    before = browser.ask(ink), browser.ask(image)
    browser.colours("dark")
    wait = WebDriverWait(browser.driver, 10, 0.05)
    wait.until(lambda _: browser.ask(ink) != before[0])
    wait.until(lambda _: browser.ask(image) != before[1])
    traces = "document.getElementById('learning_curves').data"
    iterations = browser.ask(f"{traces}[0].x")
    browser.driver.find_element("css selector", "option[value=steps]").click()
    assert browser.ask(f"{traces}[0].x") == browser.ask(f"{traces}[0].steps") != iterations


# ---------------------------------------------------------------- pictures of small games


def test_a_matrix_game_shows_its_payoffs_and_the_cell_that_was_played():
    game = matrix.game(name="chicken")

    def draw(axes):
        game.picture(axes, np.ones(1), "")
        game.picture_moves(axes, np.ones(1), 0, 1)

    axes = axes_of(draw)
    assert [text.get_text() for text in axes.texts] == ["3", "1", "4", "0", "3", "4", "1", "0"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["swerve", "go straight"]
    (cell,) = axes.patches
    assert (round(cell.get_x()), round(cell.get_y())) == (1, 0)  # goes straight at one who swerves


def test_a_large_matrix_game_shows_what_the_leader_is_paid():
    paid = np.arange(90.0).reshape(9, 10)
    game = matrix.game(leader_payoff=paid, follower_payoff=-paid)
    axes = axes_of(lambda axes: game.picture(axes, np.ones(1), ""))
    assert not axes.texts
    np.testing.assert_array_equal(axes.images[0].get_array(), paid)


def test_discrete_toy_shows_where_the_follower_is_and_what_both_chose():
    game = discrete_toy.game()

    def draw(axes):
        game.picture(axes, np.eye(3)[1], "")
        game.picture_moves(axes, np.eye(3)[1], 1, 2)

    axes = axes_of(draw)
    assert [text.get_text() for text in axes.texts] == ["S", "A", "B"]
    circles = [patch for patch in axes.patches if patch.get_zorder() == 2]
    filled = [circle.get_facecolor()[0] < 0.5 for circle in circles]
    assert filled == [False, True, False]
    assert axes.get_xlabel() == "leader: close A, follower: to B"
