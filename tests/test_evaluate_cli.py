"""`stackelberg evaluate`: what it prints and writes, what it refuses, Ctrl-C."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stackelberg import cli, load_leader

ONE_LINE = r"^stackelberg: expected [^\n]+; got [^\n]+; [^\n]+\n$"
TRAIN = ["--iterations", "6", "--evaluation-episodes", "5", "--quiet"]
QUICK = ["--followers", "exact", "--seeds", "2", "--episodes", "20"]
MINE = """
import numpy as np
from games.tabular import TabularGame
def game(pay: float = 2.0, **settings):
    return TabularGame(np.ones((1, 2, 2, 1)), [[[1, 0], [0, pay]]], np.eye(2)[None], **settings)
"""
SLOW = """
import pathlib, time
from agents import ExactFollower
class Slow(ExactFollower):
    name = "slow"
    def best_respond(self, game, commitment, seeds):
        if pathlib.Path("slow").exists():
            time.sleep(0.3)
        return super().best_respond(game, commitment, seeds)
"""
PARKING = """
from small_envs import Parking
def parallel_env(length: int = 3):
    return Parking(length=length)
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Runs of 6 iterations: `a` and `b` by two estimators, `other` of another game."""
    folder = tmp_path_factory.mktemp("runs")
    for name, options in {
        "a": ["discrete_toy"],
        "b": ["discrete_toy", "--estimator", "exact", "--seed", "1"],
        "other": ["discrete_toy", "--game-option", "bonus=2"],
    }.items():
        assert cli.main(["train", *options, *TRAIN, "--out", str(folder / name)]) == 0
    return folder


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch, runs) -> Path:
    """A current directory with copies of the runs."""
    shutil.copytree(runs, tmp_path / "runs")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.chdir(tmp_path / "runs")
    return tmp_path / "runs"


def everything() -> dict:
    return {p: p.read_bytes() if p.is_file() else None for p in Path().rglob("*")}


def refused(capsys, *arguments: str) -> str:
    """The message of a call that must fail with status 2, one line, and nothing written."""
    before = everything()
    assert cli.main(["evaluate", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert re.match(ONE_LINE, said.err), said.err
    assert everything() == before
    return said.err


def found(run: str) -> dict:
    return json.loads((Path(run) / "evaluation.json").read_text())


# ---------------------------------------------------------------- what it does


def test_a_table_and_two_files_that_agree(capsys):
    assert cli.main(["evaluate", "a", *QUICK]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[-1] == "written to a/evaluation.json and evaluation.csv"
    assert "evaluate" in said.err
    worth, earned, answered = re.findall(r"^\| a .*$", said.out, re.MULTILINE)
    summary = json.loads(Path("a/summary.json").read_text())
    whole = found("a")
    assert f"{summary['leader_return']['exact']:.5g}" in worth
    assert f"{summary['regret']:.2g}" in worth
    assert "| the game's |" in worth
    (row,) = whole["summary"]
    assert f"{row['leader_discounted']:.5g} +- {row['leader_discounted_ci95']:.2g}" in earned
    assert f"{row['follower_undiscounted']:.5g} +- " in answered
    assert "return " in said.out
    assert re.search(r"\(2 followers of one leader: too few for an interval\)$", said.out, re.M)
    assert max(len(line.rstrip()) for line in said.out.splitlines()) <= 120
    (leader,) = whole["leaders"]
    assert leader["prediction"]["mean"] == summary["leader_return"]["mean"]
    assert (leader["estimator"], leader["seed"]) == ("expected-trace", 0)
    assert whole["standings"][0]["optimum"] == summary["optimum"]
    with open("a/evaluation.csv") as file:
        read = list(csv.DictReader(file))
    assert read == [{k: str(v) for k, v in row.items()} for row in whole["rows"]]
    assert [row["seed"] for row in whole["rows"]] == [0, 1]
    assert len(list(Path("a/evaluations").iterdir())) == 2


def test_in_json_and_quietly(capsys):
    assert cli.main(["evaluate", "a", *QUICK, "--temperatures", "0.05,0.1", "--json"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert json.loads(said.out) == found("a")
    assert [row["temperature"] for row in found("a")["rows"]] == [0.05, 0.05, 0.1, 0.1]
    before = Path("a/evaluation.json").read_bytes()
    again = ["evaluate", "a", *QUICK, "--temperatures", "0.05,0.1", "--quiet", "--fresh"]
    assert cli.main(again) == 0
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "")
    assert Path("a/evaluation.json").read_bytes() == before


def test_cross_play_of_runs(capsys):
    assert cli.main(["evaluate", "a", "b", *QUICK, "--cross-play"]) == 0
    said = capsys.readouterr().out
    for name in ("cross_play", "performance_profile"):
        assert Path(f"a/figures/{name}.png").read_bytes()[1:4] == b"PNG"
    assert not Path("b/evaluation.json").exists()
    whole = found("a")
    assert [(row["trained_against"], row["leader"]) for row in whole["rows"]][::2] == [
        *(("a", "a"), ("a", "b"), ("a", "a"), ("a", "b")),
        *(("b", "a"), ("b", "b"), ("b", "a"), ("b", "b")),
    ][::2]
    assert len(whole["cross_play"][0]["leader_discounted"]) == 2
    assert "P(expected-trace does better than exact) = " in said
    assert "(2 followers of one leader each: too few" in said
    (matrix,) = re.findall(
        r"^returns of the leader that a follower is met by .*(?:\n[ |].*)+", said, re.M
    )
    assert len(re.findall(r"^\| (?:a|b) +\|", matrix, re.M)) == 2


def test_a_users_game_is_made_again(capsys):
    Path("mine.py").write_text(MINE)
    options = ["--game-option", "pay=3", "--game-option", "horizon=5"]
    assert cli.main(["train", "mine.py:game", *options, *TRAIN, "--out", "x"]) == 0
    saved = load_leader("x")
    assert saved.game.horizon == 5
    assert saved.game.model().leader_reward.max() == 3.0
    assert cli.main(["evaluate", "x", *QUICK, "--quiet"]) == 0
    assert found("x")["undiscounted_horizon"] == 5
    Path("mine.py").write_text(MINE.replace("[0, pay]", "[1, pay]"))
    assert "with leader_reward = " in refused(capsys, "x", *QUICK)
    Path("mine.py").unlink()
    refused(capsys, "x", *QUICK)


def test_an_environment_with_a_leader_agent_is_made_again(capsys):
    Path("parking.py").write_text(PARKING)
    Path("first.py").write_text(
        "import torch\nclass First:\n    name = 'first'\n"
        "    def best_respond(self, game, commitment, seeds):\n        return self\n"
        "    def sample(self, observation, leader_action, generator):\n"
        "        return torch.zeros(observation.shape[:2], dtype=torch.long)\n"
    )
    parts = ["--leader-agent", "city", "--follower", "first.py:First", "--access", "trajectories"]
    parts += [*TRAIN[2:], "--iterations", "1", "--game-option", "temperature=0.3"]
    assert cli.main(["train", "parking.py:parallel_env", *parts, "--out", "x"]) == 0
    refused(capsys, "x", *QUICK)  # no tables for the exact follower
    quick = ["--followers", "first.py:First", "--seeds", "1", "--episodes", "5", "--quiet"]
    assert cli.main(["evaluate", "x", *quick, "--temperatures", "0.3,0.5"]) == 0
    rows = found("x")["rows"]
    assert [row["temperature"] for row in rows] == [0.3, 0.5]
    assert rows[0]["leader_exact"] is rows[0]["follower_gap"] is None
    parts += ["--game-option", "length=4"]
    assert cli.main(["train", "parking.py:parallel_env", *parts, "--out", "longer"]) == 0
    capsys.readouterr()
    assert "with another game_options" in refused(capsys, "x", "longer", *quick)
    shutil.copytree("x", "again")
    assert cli.main(["evaluate", "x", "again", *quick]) == 0


def test_options_of_followers():
    Path("mine.py").write_text(
        "from agents import ExactFollower\n"
        "class Mine(ExactFollower):\n"
        "    name = 'mine'\n"
        "    def __init__(self, sweeps: int = 2):\n"
        "        super().__init__(sweeps)\n"
    )
    line = ["evaluate", "a", "--seeds", "1", "--episodes", "5", "--quiet"]
    alone = [*line, "--followers", "exact"]
    for options in ([], ["sweeps=1"], ["exact.sweeps=1"], ["sweeps=3", "restart=reset"]):
        given = [part for one in options for part in ("--follower-option", one)]
        assert cli.main([*alone, *given]) == 0
        (told,) = found("a")["followers"]
        assert (told["name"], told["class"]) == ("exact", "ExactFollower")
        assert told["sweeps"] == (int(options[0][-1]) if options else None)
    assert told["restart"] == "reset"
    several = [*line, "--followers", "exact,mine.py:Mine,soft-q"]
    for option in ("mine.py:Mine.sweeps=7", "soft-q.first_steps=2048"):
        several += ["--follower-option", option]
    assert cli.main(several) == 0
    exact, mine, soft_q = found("a")["followers"]
    assert (exact["sweeps"], mine["sweeps"]) == (None, 7)
    assert soft_q["config"]["first_steps"] == 2048
    assert [row["follower"] for row in found("a")["rows"]] == ["exact", "mine.py:Mine", "soft-q"]


def test_best_known_by_this_very_leader(capsys):
    """A regret of 0 against what the run itself has found is said to be that."""
    Path("mine.py").write_text(MINE)
    assert cli.main(["train", "mine.py:game", *TRAIN, "--out", "x"]) == 0
    assert cli.main(["evaluate", "x", *QUICK]) == 0
    assert "| best known: this leader | 0 " in capsys.readouterr().out
    (standing,) = found("x")["standings"]
    assert (standing["optimum_source"], standing["optimum_is_own"]) == ("best known", True)
    assert cli.main(["solve", "mine.py:game", "--restarts", "2"]) == 0
    assert cli.main(["evaluate", "x", *QUICK]) == 0
    assert re.search(r"\| best known +\| [1-9]", capsys.readouterr().out)
    assert found("x")["standings"][0]["optimum_is_own"] is False


def test_episodes_until_an_interval_is_narrow():
    assert cli.main(["evaluate", "a", *QUICK, "--half-width", "0.1", "--quiet"]) == 0
    assert found("a")["half_width"] == 0.1
    for row in found("a")["rows"]:
        assert row["episodes"] > 20
        assert row["leader_discounted_ci95"] <= 0.1


def test_an_unfinished_run_is_evaluated_as_it_is_and_said_to_be_unfinished(capsys):
    config = json.loads(Path("a/config.json").read_text())
    Path("a/config.json").write_text(json.dumps(config | {"iterations": 9}))
    assert cli.main(["evaluate", "a", *QUICK]) == 0
    said = capsys.readouterr().out
    assert "\na: unfinished; this is its leader after 6 of 9 iterations\n" in said
    (leader,) = found("a")["leaders"]
    assert (leader["outer_iterations"], leader["iterations"]) == (6, 9)
    assert cli.main(["evaluate", "b", *QUICK]) == 0
    assert "unfinished" not in capsys.readouterr().out


# ---------------------------------------------------------------- what it refuses


@pytest.mark.parametrize(
    "line",
    [
        *("", "absent", ". ", "a a", "a other", "a absent", "a --nonsense", "a --cross-play"),
        *("a --seeds 0", "a --seeds -1", "a --seeds two", "a --episodes 0", "a --jobs 0"),
        *("a --followers nonsense", "a --followers exact,", "a --followers exact,exact"),
        *("a --followers sac", "a --followers absent.py:Follower", "a --followers exact,sac"),
        *("a --temperatures 0", "a --temperatures nan", "a --temperatures 0.1,x"),
        *("a --temperatures inf", "a --temperatures -1", "a --temperatures 0.1,0.1"),
    ],
)
def test_wrong_usage_is_one_line_and_nothing_is_written(capsys, line):
    assert "three" not in refused(capsys, *line.split())


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (".", "., a folder without config.json; name a run inside: a, b, other"),
        ("absent", "absent, which is not there; check the name"),
        ("a/config.json", "a/config.json, a file; check the name"),
        ("a/checkpoints", "a folder without config.json; check the name"),
        ("a --followers exact,discret-sac", "one of the followers discrete-sac, exact"),
        ("a --followers exact --follower-option sweps=1", "got 'sweps'"),
        ("a --followers exact --follower-option sweeps=x", "got 'x'"),
        ("a --followers exact --follower-option sweeps", "an option KEY=VALUE"),
        ("a --followers exact,soft-q --follower-option sweeps=1", "soft-q.sweeps=1"),
        ("a --follower-option sweeps=1", "got options alone"),
        ("a --half-width 0", "a half-width > 0"),
        ("a --half-width 1 --episodes 1", "episodes >= 2"),
    ],
)
def test_what_is_wrong_is_said(capsys, line, words):
    said = refused(capsys, *line.split())
    assert words in said
    assert "Errno" not in said


def test_a_run_started_from_python_is_refused_with_what_to_do(capsys):
    config = json.loads(Path("a/config.json").read_text())
    Path("a/config.json").write_text(
        json.dumps(
            {key: None if key in ("leader", "game_options") else config[key] for key in config}
        )
    )
    said = refused(capsys, "a", *QUICK)
    assert "stackelberg.load_leader('a', game, leader), which evaluate(...) takes" in said


def test_a_run_without_a_checkpoint(capsys):
    shutil.rmtree("a/checkpoints")
    assert "a run with a checkpoint" in refused(capsys, "a", *QUICK)
    Path("a/checkpoints").mkdir()
    assert "a run with a checkpoint" in refused(capsys, "a", *QUICK)


def test_a_run_that_cannot_be_written(capsys):
    Path("a/evaluations").write_text("precious")
    assert "a folder that can be written" in refused(capsys, "a", *QUICK)


@pytest.mark.parametrize("name", ["figures", "evaluation.csv"])
def test_results_that_cannot_be_written(capsys, name):
    shutil.rmtree(Path("a", name), ignore_errors=True)
    if name == "figures":
        Path("a", name).write_text("precious")
    else:
        Path("a", name).mkdir()
    assert cli.main(["evaluate", "a", "b", *QUICK, "--quiet"]) == 2
    said = capsys.readouterr().err
    assert re.match(ONE_LINE, said), said
    assert "a folder that can be written" in said
    assert not Path("a/evaluation.json").exists()


@pytest.mark.parametrize("damaged", ["{", "{}", "[]", "[{}]", '[{"leader": "a"}]'])
def test_damaged_trainings_are_made_again(capsys, damaged):
    assert cli.main(["evaluate", "a", *QUICK, "--quiet"]) == 0
    before = Path("a/evaluation.json").read_bytes()
    for file in Path("a/evaluations").iterdir():
        file.write_text(damaged)
    assert cli.main(["evaluate", "a", *QUICK, "--quiet"]) == 0
    assert Path("a/evaluation.json").read_bytes() == before


def test_a_row_of_the_table_is_a_line(capsys):
    name = "a_run_of_a_name_that_is_too_long_for_any_terminal_of_the_usual_width_" * 2
    Path("a").rename(name)
    assert cli.main(["evaluate", name, "b", *QUICK]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(rows) == 3 * 4
    assert sum(name in row for row in rows) == 3
    for table in range(0, 12, 4):
        assert len({row.count("|") for row in rows[table : table + 4]}) == 1


def test_a_damaged_run(capsys):
    (newest,) = sorted(Path("a/checkpoints").iterdir())[-1:]
    whole, config = newest.read_bytes(), json.loads(Path("a/config.json").read_text())
    newest.write_bytes(whole[:100])
    assert "a whole checkpoint" in refused(capsys, "a", *QUICK)
    newest.write_bytes(whole)
    for damaged in (
        *("{", "[]", "3", "{}", json.dumps(config | {"game": 3})),
        json.dumps(config | {"seeds": [0, 1]}),
        json.dumps(config | {"seeds": None}),
        json.dumps(config | {"leader": "mlp"}),
        json.dumps(config | {"leader": "nonsense"}),
        json.dumps(config | {"game": "matrix"}),
        json.dumps(config | {"game_options": []}),
        json.dumps(config | {"game_model": {}}),
        json.dumps({k: v for k, v in config.items() if k != "game_model"}),
    ):
        Path("a/config.json").write_text(damaged)
        refused(capsys, "a", *QUICK)
    Path("a/config.json").write_text(json.dumps(config))
    Path("a/metrics.jsonl").write_text("")
    assert "one row of metrics" in refused(capsys, "a", *QUICK)


def test_help_answers_without_torch():
    program = (
        "import sys\nfrom stackelberg import cli\n"
        "try:\n    cli.main(['evaluate', '--help'])\nexcept SystemExit:\n    pass\n"
        "slow = {'torch', 'numpy', 'scipy', 'joblib', 'gymnasium'} & sys.modules.keys()\n"
        "assert not slow, slow\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--cross-play" in done.stdout


# ---------------------------------------------------------------- Ctrl-C


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_keeps_what_is_finished_and_the_same_command_goes_on(folder, stop):
    Path("slow.py").write_text(SLOW)
    Path("slow").touch()
    shutil.copytree("a", "whole/a")
    shutil.copy("slow.py", "whole")
    line = ["evaluate", "a", "--followers", "slow.py:Slow", "--seeds", "8", "--episodes", "5"]
    process = subprocess.Popen(
        [sys.executable, "-m", "stackelberg", *line],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    kept, end = Path("a/evaluations"), time.monotonic() + 60
    while not (kept.exists() and len(list(kept.iterdir())) >= 2):
        assert time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(stop)
    out, said = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in said
    done = re.search(r"stackelberg: interrupted after (\d) of 8 trainings; the same command", said)
    assert int(done[1]) == len([p for p in kept.iterdir() if p.suffix == ".json"]) < 8
    assert not Path("a/evaluation.json").exists()
    before = {p: p.stat().st_mtime_ns for p in kept.iterdir()}
    Path("slow").unlink()
    assert cli.main([*line, "--quiet"]) == 0
    assert before.items() <= {p: p.stat().st_mtime_ns for p in kept.iterdir()}.items()
    resumed = [Path("a", f"evaluation.{kind}").read_bytes() for kind in ("json", "csv")]
    os.chdir("whole")
    assert cli.main([*line, "--quiet"]) == 0
    assert resumed == [Path("a", f"evaluation.{kind}").read_bytes() for kind in ("json", "csv")]


@pytest.mark.slow
def test_ctrl_c_ends_all_processes():
    """A terminal sends it to every one of them."""
    Path("slow.py").write_text(SLOW.replace("0.3", "1000"))
    Path("slow").touch()
    line = ["evaluate", "a", "--followers", "slow.py:Slow", "--seeds", "4", "--jobs", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "stackelberg", *line],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    time.sleep(15)
    os.killpg(process.pid, signal.SIGINT)
    out, said = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert said.endswith("\nstackelberg: interrupted\n")
    time.sleep(10)  # until the system has done with them
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def test_a_run_started_from_python_goes_on_from_python(capsys):
    config = json.loads(Path("a/config.json").read_text()) | {"leader": None}
    Path("a/config.json").write_text(json.dumps(config))
    assert cli.main(["train", config["game"], "--out", "a", "--resume"]) == 2
    assert "Coordinator(..., out='a', resume=True)" in capsys.readouterr().err
