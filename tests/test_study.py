"""The study of followers that stop short: its measures by hand, its files, its command."""

import csv
import json
import math
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from agents import ExactFollower, default_leader
from games import discrete_toy
from games.tabular import TabularGame
from stackelberg import Coordinator, TrainConfig, cli, figures
from stackelberg.estimators import model_based
from stackelberg.study import Kind, Measured, findings, study, write

pytestmark = pytest.mark.filterwarnings("ignore:the leader's ")
LN2 = math.log(2)
SETTINGS = {"leader_discount": 0.5, "follower_discount": 0.5, "temperature": 1.0, "horizon": 20}
SCRIPT = Path(sys.executable).with_name("stackelberg")
QUICK = ["--sweeps", "1", "5", "--seeds", "3", "--iterations", "4"]


def crossing() -> TabularGame:
    """The follower stays at 0 (paid 1) or goes to 1 for good (2 a step); the leader moves nothing.

    The leader is paid 1 for every step at 1.
    """
    transition = np.zeros((2, 2, 2, 2))
    transition[0, :, 0, 0] = transition[0, :, 1, 1] = transition[1, :, :, 1] = 1.0
    leader, follower = np.zeros((2, 2, 2)), np.zeros((2, 2, 2))
    leader[1] = 1.0
    follower[0, :, 0], follower[1] = 1.0, 2.0
    return TabularGame(transition, leader, follower, optimum=1.0, **SETTINGS)


def by_hand(sweeps: int | None) -> tuple[float, float, float]:
    """V(0) of the follower, V*(0), and the leader's return, where both start at 0.

    In state 1 a step is worth 2 and the entropy log 2. `sweeps` of soft value iteration from 0.
    """
    one = (2 + LN2) / (1 - 0.5)
    best = 0.0
    for _ in range(200):
        best = math.log(math.exp(1 + 0.5 * best) + math.exp(0.5 * one))
    v0, v1 = (best, one) if sweeps is None else (0.0, 0.0)
    for _ in range(sweeps or 0):
        v0, v1 = math.log(math.exp(1 + 0.5 * v0) + math.exp(0.5 * v1)), 2 + LN2 + 0.5 * v1
    stay = 1 / (1 + math.exp(0.5 * v1 - 1 - 0.5 * v0))
    go = 1 - stay
    own = (stay * (1 - math.log(stay)) + go * (0.5 * one - math.log(go))) / (1 - 0.5 * stay)
    return own, best, go * 0.5 * 2 / (1 - 0.5 * stay)


def run(followers, iterations=3, seeds=(0, 1), game=None, **options):
    config = TrainConfig(iterations=iterations, streams=1)
    game = game or crossing()
    return study(game, lambda s: default_leader(game, s), followers, config, seeds, **options)


@pytest.mark.parametrize("sweeps", [1, 2, 5])
def test_measures_by_hand(sweeps):
    found = run({Kind("reset", sweeps): ExactFollower(sweeps, restart="reset")})
    own, best, met = by_hand(sweeps)
    expected = {"gap": best - own, "relative_gap": (best - own) / best, "against_response": met}
    expected["exact"] = by_hand(None)[2]
    measures = found[Kind("reset", sweeps)]
    assert measures.keys() == expected.keys()
    for name, value in expected.items():
        assert measures[name] == pytest.approx([value] * 2, rel=1e-9), name
    assert best - own > 1e-7


def test_carrying_adds_the_sweeps_of_all_commitments_up():
    """Of 3 iterations and the final leader, the last tenth is the fourth answer: 4 x 2 sweeps."""
    found = run({Kind("carry", 2): ExactFollower(2)})
    own, best, _ = by_hand(8)
    assert found[Kind("carry", 2)]["gap"] == pytest.approx([best - own] * 2, rel=1e-6)


def test_more_sweeps_come_closer_and_carrying_beats_resetting():
    sweeps = (1, 2, 4, 8, 50)
    modes = ("carry", "reset")
    kinds = {Kind(m, k): ExactFollower(k, restart=m) for m in modes for k in sweeps}
    found = {kind: measures["gap"].max() for kind, measures in run(kinds).items()}
    reset = [found[Kind("reset", k)] for k in sweeps]
    assert reset == sorted(reset, reverse=True)
    assert reset[0] > 1e-3
    for k in (1, 2, 4):
        assert found[Kind("carry", k)] < 0.1 * found[Kind("reset", k)]
    assert max(found[Kind(m, 50)] for m in modes) < 1e-12


def test_results_are_medians_over_the_last_tenth():
    """20 iterations and the final leader: of 21 answers the last three, here of 1, 5, 2 sweeps."""

    class Unsteady(ExactFollower):
        plan = iter([9] * 18 + [1, 5, 2])

        def best_respond(self, game, commitment, seeds):
            self.sweeps, self.restart = next(self.plan), "reset"
            return super().best_respond(game, commitment, seeds)

    found = run({Kind("exact"): Unsteady()}, iterations=20, seeds=(0,))
    own, best, _ = by_hand(2)
    assert found[Kind("exact")]["gap"] == pytest.approx([best - own], rel=1e-6)


def test_a_sloppy_follower_can_make_the_leader_look_better_than_it_is():
    game = discrete_toy.game()
    kinds = {Kind("exact"): ExactFollower(), Kind("reset", 1): ExactFollower(1, restart="reset")}
    found = run(kinds, 60, (0, 1, 2), game)
    exact, sloppy = found.values()
    assert (exact["gap"] < 1e-9).all()
    assert exact["against_response"] == pytest.approx(exact["exact"], abs=1e-6)
    assert (sloppy["relative_gap"] > 0.01).all()
    assert (sloppy["against_response"] > game.optimum + 1).all()
    assert (sloppy["exact"] < game.optimum - 0.5).all()


@pytest.mark.parametrize("estimator", ["spsa", "model-based"])
def test_probes_and_scouts_are_not_measured(estimator, monkeypatch):
    """Their followers answer other leaders."""
    for name in ("SCOUTS", "EXPLORING", "SEARCHING", "CLIMB"):
        monkeypatch.setattr(model_based, name, 2)
    config = TrainConfig(iterations=3, streams=1, steps=5, estimator=estimator)
    game, seeds = discrete_toy.game(), (0, 1, 2)
    measured = Measured(ExactFollower(2, restart="reset"))
    Coordinator(game, default_leader(game, seeds), measured, config, seeds=seeds).run()
    assert [row["gap"].shape for row in measured.rows] == [(3,)] * 4


def test_findings_have_mean_interval_and_regret():
    measures = {name: np.array([1.0, 2.0, 6.0]) for name in ("gap", "exact")}
    row = findings({Kind("carry", 5): measures}, 7.0)["followers"][0]
    half = stats.t.ppf(0.975, 2) * np.std([1, 2, 6], ddof=1) / math.sqrt(3)
    assert (row["restart"], row["sweeps"]) == ("carry", 5)
    assert row["gap"] == {"mean": 3.0, "ci95": pytest.approx(half), "seeds": [1.0, 2.0, 6.0]}
    assert row["regret"] == {"mean": 4.0, "ci95": pytest.approx(half), "seeds": [6.0, 5.0, 1.0]}
    alone = findings({Kind("exact"): {"exact": np.array([1.0])}}, None)
    assert alone["followers"][0]["exact"] == {"mean": 1.0, "ci95": None, "seeds": [1.0]}
    assert "regret" not in alone["followers"][0]
    assert alone["optimum"] is None


# ---------------------------------------------------------------- Ctrl-C


@pytest.mark.parametrize("when", [1, 3, 4])  # early, in the last iteration of one follower, later
def test_ctrl_c_ends_the_study(when):
    calls: list[int] = []

    def press(done: int, total: int, kind: str) -> None:
        calls.append(done)
        if done == when:
            signal.raise_signal(signal.SIGINT)

    kinds = {Kind("exact"): ExactFollower(), Kind("carry", 1): ExactFollower(1)}
    with pytest.raises(KeyboardInterrupt):
        run(kinds, report=press)
    assert calls == list(range(1, when + 1))


def test_ctrl_c_while_files_are_written_waits(tmp_path, monkeypatch):
    save = figures.save

    def press(figure, path):
        if path.suffix == ".png":
            signal.raise_signal(signal.SIGINT)
        save(figure, path)

    monkeypatch.setattr(figures, "save", press)
    label = {"game": "x", "seeds": [0, 1]}
    write(tmp_path / "out", label | findings(run({Kind("exact"): ExactFollower()}), 1.0))
    assert len(list((tmp_path / "out").iterdir())) == 4


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_ctrl_c_by_command_leaves_nothing(folder):
    process = subprocess.Popen(
        [SCRIPT, "study", "discrete_toy", "--iterations", "100000", "--out", "x"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(3)
    process.send_signal(signal.SIGINT)
    out, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert said.splitlines()[-1].startswith("stackelberg: interrupted")
    assert "Traceback" not in said
    assert "--resume" not in said
    assert not list(folder.iterdir())


# ---------------------------------------------------------------- the command


def test_the_command_writes_four_files_that_agree(folder, capsys):
    assert cli.main(["study", "discrete_toy", *QUICK, "--out", "x"]) == 0
    said = capsys.readouterr()
    assert sorted(p.name for p in Path("x").iterdir()) == [
        *("study.csv", "study.json", "study.png", "study.svg")
    ]
    assert Path("x/study.png").read_bytes()[1:4] == b"PNG"
    assert "<svg" in Path("x/study.svg").read_text()
    found = json.loads(Path("x/study.json").read_text())
    kinds = [(row["restart"], row["sweeps"]) for row in found["followers"]]
    assert kinds == [("exact", None), *((m, k) for m in ("carry", "reset") for k in (1, 5))]
    assert (found["game"], found["seeds"], found["iterations"]) == ("discrete_toy", [0, 1, 2], 4)
    assert found["optimum"] == discrete_toy.OPTIMA[1.0]
    with open("x/study.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5 * 3
    for i, row in enumerate(rows):
        there = found["followers"][i // 3]
        assert row["restart"] == there["restart"]
        assert row["sweeps"] == str(there["sweeps"] or "")
        assert int(row["seed"]) == i % 3
        for name in ("gap", "relative_gap", "against_response", "exact", "regret"):
            assert float(row[name]) == there[name]["seeds"][i % 3]
        assert float(row["regret"]) == found["optimum"] - float(row["exact"])
    assert said.out.splitlines()[-1] == "written to x"
    assert len(re.findall(r"^\| (exact|carry|reset) ", said.out, re.MULTILINE)) == 5
    assert "discrete_toy" in said.err


def test_the_command_in_json_and_quietly(folder, capsys):
    options = ["--restart", "carry", "--sweeps", "2", "--game-option", "bonus=2", "--backups", "3"]
    options += ["--seeds", "1", "--iterations", "2"]
    assert cli.main(["study", "discrete_toy", *options, "--json", "--out", "x"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out) == json.loads(Path("x/study.json").read_text())
    assert said.err == ""
    found = json.loads(said.out)
    assert [row["restart"] for row in found["followers"]] == ["exact", "carry"]
    assert found["followers"][0]["exact"]["ci95"] is None
    assert (found["game_options"], found["backups"]) == ({"bonus": "2"}, 3)
    assert cli.main(["study", "discrete_toy", *options, "--quiet", "--out", "y"]) == 0
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "")
    assert Path("x/study.csv").read_text() == Path("y/study.csv").read_text()


def test_the_command_makes_the_followers_that_it_names():
    made = cli.Study("discrete_toy", sweeps=(2, 7), backups=3).followers()
    settings = {kind: (f.sweeps, f.backups, f.restart) for kind, f in made.items()}
    assert settings.pop(Kind("exact")) == (None, 1, "carry")
    assert settings == {Kind(m, k): (k, 3, m) for m in ("carry", "reset") for k in (2, 7)}


@pytest.mark.parametrize(
    "line",
    [
        *(
            "study",
            "study nonsense",
            "study discrete_toy --sweeps 0",
            "study discrete_toy --seeds 0",
        ),
        *("study discrete_toy --iterations 0", "study discrete_toy --restart sometimes"),
        *("study discrete_toy --backups 0", "study discrete_toy --estimator nonsense"),
        *("study discrete_toy --leader nonsense", "study four_rooms --leader mlp"),
        *("study discrete_toy --restart", "study discrete_toy --out used"),
        "study discrete_toy --out used/file",
    ],
)
def test_wrong_usage_is_one_line_and_nothing_is_written(folder, capsys, line):
    (folder / "used").mkdir()
    (folder / "used" / "file").write_text("precious")
    assert cli.main(line.split()) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert re.match(r"^stackelberg: expected [^\n]+; got [^\n]+; [^\n]+\n$", said.err), said.err
    assert [p.name for p in folder.rglob("*")] == ["used", "file"]
