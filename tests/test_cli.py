"""The command line: what it prints, its exit status, and what it leaves behind."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from games import discrete_toy, duopoly
from stackelberg import cli, registry

SCRIPT = Path(sys.executable).with_name("stackelberg")
ONE_LINE = r"^stackelberg: expected [^\n]+; got [^\n]+; [^\n]+\n$"
QUICK = ["--iterations", "6", "--evaluation-episodes", "5", "--quiet"]
MINE = """
from __future__ import annotations
import numpy as np
from games.tabular import TabularGame
def game(reward: list[list[float]] = [[1, 0], [0, 2]], **settings):
    return TabularGame(np.ones((1, 2, 2, 1)), [reward], np.eye(2)[None], **settings)

def broken():
    raise RuntimeError("several\\nlines")

def nothing():
    pass

def unlikely():
    return TabularGame(np.full((1, 2, 2, 1), 0.9), 0.0, 0.0)

def unreal():
    return TabularGame(np.ones((1, 2, 2, 1)), np.full((1, 2, 2), np.nan), 0.0)

class Other:
    pass
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """An empty current directory."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def everything() -> dict:
    return {p: p.read_bytes() if p.is_file() else None for p in Path().rglob("*")}


def rows(path: str) -> list[dict]:
    lines = (Path(path) / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def summary(path: str) -> dict:
    found = json.loads((Path(path) / "summary.json").read_text())
    return {key: value for key, value in found.items() if key != "wall_seconds"}


def refused(capsys, *arguments: str) -> str:
    """The message of a call that must fail with status 2, one line, and nothing written."""
    before = everything()
    assert cli.main(list(arguments)) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert re.match(ONE_LINE, said.err), said.err
    assert everything() == before
    return said.err


# ---------------------------------------------------------------- help


@pytest.mark.parametrize(
    "command", [[], ["games"], ["train"], ["solve"], ["study"], ["report"], ["play"], ["check"]]
)
def test_help_answers_at_once(command):
    """Without torch, whose import alone takes longer; the fastest of three, on a busy machine."""
    took = []
    for _ in range(3):
        began = time.perf_counter()
        done = subprocess.run(
            [SCRIPT, *command, "--help"], capture_output=True, text=True, check=False
        )
        took.append(time.perf_counter() - began)
        if took[-1] < 1:
            break
    assert done.returncode == 0
    assert done.stdout.startswith("usage: stackelberg")
    assert done.stderr == ""
    assert min(took) < 1


def test_help_of_train_names_what_there_is_to_choose_from(capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    shown = capsys.readouterr().out
    assert "--optimiser {trust-region,natural-gradient,ppo}" in shown
    assert "--gae-lambda" in shown
    words = re.findall(r"[\w-]+", shown)
    for kind in ("leaders", "followers"):
        assert set(registry.names(kind)) <= set(words)


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["train"], ["nonsense"]])
def test_usage_needs_no_torch(arguments):
    program = (
        "import sys\nfrom stackelberg import cli\n"
        "try:\n    cli.main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "slow = {'torch', 'numpy', 'scipy', 'tianshou', 'gymnasium'} & sys.modules.keys()\n"
        "assert not slow, slow\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


# ---------------------------------------------------------------- wrong usage and input


@pytest.mark.parametrize(
    "line",
    [
        "",
        "nonsense",
        "--nonsense",
        "train",
        "train discrete_toy --nonsense --out x",
        "train discrete_toy extra --out x",
        "train discrete_toy --seed",
        "train discrete_toy --seed abc --out x",
        "train discrete_toy --seed -1 --out x",
        "train discrete_toy --iterations 0 --out x",
        "train discrete_toy --iterations -1 --out x",
        "train discrete_toy --iterations abc --out x",
        "train discrete_toy --streams 0 --out x",
        "train discrete_toy --radius nan --out x",
        "train discrete_toy --radius 7 --out x",
        "train discrete_toy --access everything --out x",
        "train discrete_toy --optimiser adam --out x",
        "train discrete_toy --gae-lambda 2 --out x",
        "train nonsense --out x",
        "train discrete_toy --estimator nonsense --out x",
        "train discrete_toy --follower nonsense --out x",
        "train discrete_toy --leader nonsense --out x",
        "train four_rooms --leader mlp --out x",
        "train discrete_toy --follower-option sweeps=0 --out x",
        "train discrete_toy --follower-option sweeps --out x",
        "train discrete_toy --follower soft-q --follower-option copies=0 --out x",
        "train discrete_toy --resume --out x",
        "train discrete_toy --resume",
        "train discrete_toy --leader-agent leader --out x",
        "train discrete_toy --game-option bonus=1e308 --out x",
        "train discrete_toy --game-option temperature=1e308 --out x",
        "solve nonsense",
        "solve discrete_toy --restarts 0",
        "solve discrete_toy --steps -1",
        "solve discrete_toy --seed -1",
        "solve discrete_toy --game-option temperature=0",
        "solve discrete_toy --game-option bonus=1e308",
        "games extra",
    ],
)
def test_wrong_usage_is_one_line_and_nothing_is_written(capsys, line):
    refused(capsys, *line.split())


@pytest.mark.parametrize(
    ("line", "wrong", "right"),
    [
        ("trian discrete_toy", "'trian'", "train"),
        ("--trian", "'--trian'", "train"),
        ("train discrete_toi --out x", "'discrete_toi'", "discrete_toy"),
        ("train discrete_toy --itertions 5", "'--itertions'", "--iterations"),
        ("train discrete_toy --Iterations=5", "'--Iterations'", "--iterations"),
        ("train discrete_toy --game_optoin bonus=2", "'--game-optoin'", "--game-option"),
        ("train discrete_toy --game-option bonsu=2", "'bonsu'", "bonus"),
        ("train discrete_toy --leader mpl", "'mpl'", "mlp"),
        ("train discrete_toy --estimator nave", "'nave'", "naive"),
        ("train discrete_toy --access=polcy", "'polcy'", "policy"),
        ("train discrete_toy --follower exat", "'exat'", "exact"),
        ("train discrete_toy --follower-option sweps=1", "'sweps'", "sweeps"),
        ("train mine.py:gme", "these: game, broken, nothing, unlikely, unreal, Other", "game"),
        ("solve discrete_toy --seeds 3", "'--seeds'", "--seed"),
        ("study discrete_toy --restart cary", "'cary'", "carry"),
        ("games --jsn", "'--jsn'", "--json"),
    ],
)
def test_a_misspelt_name_is_told_the_nearest_right_one(
    capsys, monkeypatch, folder, line, wrong, right
):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (folder / "mine.py").write_text(MINE)
    assert refused(capsys, *line.split()).endswith(f"; got {wrong}; did you mean {right}?\n")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "a command: games, train, "),
        ("train", "`stackelberg train GAME`; got no GAME; see `stackelberg train --help`"),
        (
            "train discrete_toy extra more",
            "what `stackelberg train` takes, no more; got 'extra more'",
        ),
        ("train discrete_toy --seed", "a value after --seed; got none"),
        ("train discrete_toy --seed abc --quiet", "--seed: an integer; got 'abc'; see"),
        (
            "train discrete_toy --evaluation_episodes=1.5",
            "--evaluation-episodes: an integer; got '1.5'",
        ),
        ("train discrete_toy --radius x", "--radius: a number; got 'x'"),
        ("study discrete_toy --sweeps 1 x --quiet", "--sweeps: an integer; got '1 x'"),
        ("study discrete_toy --steps x", "--steps: an integer; got 'x'"),
        ("train discrete_toy --estimator zzz", "exact, model-based; got 'zzz'; choose one of them"),
        ("train discrete_toy -i 5", "an option of `stackelberg train`; got '-i'; see"),
        ("train mine.py", "got 'mine.py'; name what it holds: mine.py:factory"),
    ],
)
def test_what_was_expected_is_told_in_plain_words(capsys, line, said):
    assert said in refused(capsys, *line.split())


@pytest.mark.parametrize(
    "option",
    [
        *("nonsense=1", "bonus", "bonus=abc", "bonus=", "bonus=NaN", "temperature=-1"),
        *("temperature=0", "temperature=nan", "temperature=NaN", "temperature=Infinity"),
        *("leader_discount=1", "leader_discount=1.5", "follower_discount=-0.1", "horizon=0"),
        *("horizon=1.5", "follower_observes_action=maybe"),
    ],
)
def test_wrong_game_options_are_one_line_and_nothing_is_written(capsys, option):
    assert "__tyro" not in refused(
        capsys, "train", "discrete_toy", "--game-option", option, "--out", "x"
    )


@pytest.mark.parametrize(
    "reference",
    [
        *("absent.py:game", "mine.py:absent", "mine.py:broken", "mine.py:nothing", "mine.py"),
        *("mine.py:Other", "mine.py:unlikely", "mine.py:unreal"),
        *("syntax.py:game", "absent_module:game"),
    ],
)
@pytest.mark.parametrize("command", ["train", "solve"])
def test_a_users_game_that_fails_is_one_line_and_nothing_is_written(
    capsys, monkeypatch, folder, command, reference
):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (folder / "mine.py").write_text(MINE)
    (folder / "syntax.py").write_text("def game(:\n")
    refused(capsys, command, reference)


def test_settings_are_told_by_their_own_error(capsys):
    said = refused(capsys, "train", "discrete_toy", "--iterations", "0")
    assert said == ("stackelberg: expected iterations: an integer >= 1; got 0; give a count\n")


@pytest.mark.parametrize("content", ["run", "files", "file", "below a file"])
def test_an_output_folder_in_use_is_one_line_and_stays_as_it_is(capsys, folder, content):
    out = "x"
    if content == "run":
        assert cli.main(["train", "discrete_toy", *QUICK, "--out", "x"]) == 0
    elif content == "files":
        (folder / "x").mkdir()
        (folder / "x" / "thesis.tex").write_text("precious")
    else:
        (folder / "x").write_text("precious")
        out = "x" if content == "file" else "x/y"
    refused(capsys, "train", "discrete_toy", "--out", out)


def test_a_traceback_is_left_to_slips_in_a_users_own_code(folder):
    (folder / "mine.py").write_text(
        "import numpy as np\nfrom stackelberg import Budget\nfrom games.tabular import "
        "TabularDesign\ncalls = []\n\ndef reward(x):\n    calls.append(1)\n"
        "    return x.sum(-1)[:, None, None].expand(-1, 1, 2) / (1 if len(calls) < 2 else 0 // 0)"
        "\n\ndef game():\n    return TabularDesign(Budget(2, 1.0), np.ones((1, 2, 1)), reward, "
        "np.zeros((1, 2)))\n"
    )
    with pytest.raises(ZeroDivisionError):
        cli.main(["train", "mine.py:game", "--out", "x"])
    assert not (folder / "x").exists()


# ---------------------------------------------------------------- games, solve, train


def test_games_in_words_and_in_json(capsys):
    assert cli.main(["games"]) == 0
    words = capsys.readouterr().out
    assert cli.main(["games", "--json"]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert said.err == ""
    optima = {game["name"]: game["optimum"] for game in found["games"]}
    assert list(optima) == registry.names("games")
    assert optima["discrete_toy"] == discrete_toy.OPTIMA[1.0]
    assert optima["duopoly"] == duopoly.game().optimum
    for name in [*(g["name"] for g in found["games"]), *found["followers"], *found["estimators"]]:
        assert name in words


def test_solve_in_json(capsys):
    arguments = ["solve", "discrete_toy", "--json", "--restarts", "4", "--steps", "60"]
    assert cli.main([*arguments, "--game-option", "bonus=2"]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert said.err == ""
    assert found.keys() >= {
        *("value", "parameters", "restarts", "reached_by", "discounted", "horizon")
    }
    assert found["value"] == pytest.approx(discrete_toy.OPTIMA[2.0], abs=1e-4)
    assert len(found["parameters"]) == 3
    assert (found["restarts"], found["discounted"], found["horizon"]) == (4, True, None)
    assert 1 <= found["reached_by"] <= 4


def test_a_design_is_listed_by_what_is_in_it():
    assert cli._listed([0.2, 1e-9, 0.05, 0.0]) == ["[0] 0.2", "[2] 0.05", "2 others below 0.0002"]
    assert cli._listed([0.0, 0.0]) == ["[0] 0", "[1] 0"]
    assert cli._listed([[0.25, 0.75]]) == ["0.25 0.75"]


def test_solve_in_words_keeps_its_progress_off_stdout(capsys):
    assert cli.main(["solve", "matrix", "--restarts", "4", "--steps", "20"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("value 3.2668")
    assert "matrix" in said.err


def test_train_quietly_says_nothing(capsys):
    assert cli.main(["train", "discrete_toy", *QUICK, "--out", "x"]) == 0
    assert capsys.readouterr().out == ""
    assert summary("x")["outer_iterations"] == 6


def test_train_says_where_it_wrote(capsys, folder):
    assert cli.main(["train", "discrete_toy", *QUICK[:2], "--evaluation-episodes", "1"]) == 0
    said = capsys.readouterr()
    assert re.match(r"^leader return \S+ \(exact .+\); written to runs/discrete_toy\n$", said.out)
    assert "discrete_toy" in said.err
    assert summary("runs/discrete_toy")["leader_return"]["ci95"] is None


def test_a_users_own_game_with_options(capsys, folder):
    (folder / "mine.py").write_text(MINE)
    option = ["--game-option", "reward=[[2, 4], [1, 3]]", "--game-option", "horizon=5"]
    assert cli.main(["train", "mine.py:game", *option, *QUICK, "--out", "x"]) == 0
    found = summary("x")
    assert found["game"] == "mine.py:game"
    assert found["game_options"] == {"reward": "[[2, 4], [1, 3]]", "horizon": "5"}
    assert found["env_steps"]["leader"] == 6 * 3 * 5
    assert (found["optimum"], found["regret"]) == (None, None)


def test_the_console_script_finds_a_module_of_the_current_directory(folder):
    (folder / "mine.py").write_text(MINE)
    done = subprocess.run(
        [SCRIPT, "solve", "mine:game", "--json", "--restarts", "2", "--steps", "5"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["game"] == "mine:game"


def test_resume_by_command(capsys):
    train = ["train", "discrete_toy", "--evaluation-episodes", "5", "--quiet"]
    assert cli.main([*train, "--iterations", "3", "--out", "x"]) == 0
    refused(capsys, *train, "--iterations", "6", "--out", "x")
    refused(capsys, *train, "--iterations", "2", "--out", "x", "--resume")
    for other in (["--seed", "1"], ["--streams", "4"], ["--game-option", "bonus=2"]):
        refused(capsys, *train, "--iterations", "6", "--out", "x", "--resume", *other)
    assert cli.main([*train, "--iterations", "6", "--out", "x", "--resume"]) == 0
    assert cli.main([*train, "--iterations", "6", "--out", "y"]) == 0
    assert rows("x") == rows("y")
    assert summary("x") == summary("y")
    before = everything()
    assert cli.main([*train, "--iterations", "6", "--out", "x", "--resume"]) == 0
    after = everything()
    assert {p for p in after if after[p] != before.get(p)} <= {Path("x/summary.json")}


def test_resuming_keeps_the_options_that_are_not_given(capsys, folder):
    own = ["--game-option", "bonus=2", "--follower-option", "sweeps=3", "--estimator", "naive"]
    own += ["--leader", "mlp", "--seed", "5", "--evaluation-episodes", "5"]
    assert cli.main(["train", "discrete_toy", *own, "--iterations", "3", "--quiet"]) == 0
    before = everything()
    assert cli.main(["train", "discrete_toy", "--resume"]) == 0
    after = everything()
    assert {p for p in after if after[p] != before.get(p)} <= {
        Path("runs/discrete_toy/summary.json")
    }
    assert "written to runs/discrete_toy" in capsys.readouterr().out
    for other in (
        ["--estimator", "expected-trace"],  # a default, but asked for
        ["--game-option", "bonus=1"],
        ["--follower-option", "backups=2"],
        ["--seed", "0"],
        ["--leader", "default"],
    ):
        refused(capsys, "train", "discrete_toy", "--resume", "--quiet", *other)
    assert cli.main(["train", "discrete_toy", "--resume", "--iterations", "5", "--quiet"]) == 0
    assert summary("runs/discrete_toy")["outer_iterations"] == 5


def test_a_users_game_that_was_changed_is_not_resumed(capsys, monkeypatch, folder):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (folder / "mine.py").write_text(MINE)
    assert cli.main(["train", "mine.py:game", *QUICK, "--out", "x"]) == 0
    (folder / "mine.py").write_text(MINE.replace("[0, 2]", "[0, 3]"))
    said = refused(capsys, "train", "mine.py:game", "--out", "x", "--resume")
    assert "the run's own game_model.leader_reward = " in said


# ---------------------------------------------------------------- Ctrl-C


def started(*arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [SCRIPT, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for_rows(path: str, count: int, limit: float = 60) -> None:
    file, end = Path(path) / "metrics.jsonl", time.monotonic() + limit
    while not (file.exists() and len(file.read_text().splitlines()) >= count):
        assert time.monotonic() < end
        time.sleep(0.01)


SMALL_SOFT_Q = [
    word
    for option in ("first_steps=1024", "later_steps=256", "copies=16", "updates=20")
    for word in ("--follower-option", option)
]


@pytest.mark.parametrize(
    ("follower", "rows_before", "options", "stop"),
    [
        ("exact", 5, ["--iterations", "600"], signal.SIGTERM),
        ("soft-q", 1, ["--iterations", "120", *SMALL_SOFT_Q], signal.SIGINT),
    ],
)
def test_ctrl_c_leaves_a_checkpoint_from_which_resuming_ends_as_if_nothing_was(
    follower, rows_before, options, stop
):
    """So does the signal by which schedulers stop a process."""
    common = ["--follower", follower, "--evaluation-episodes", "5", *options[2:]]
    process = started("train", "discrete_toy", *common, *options[:2], "--out", "x")
    wait_for_rows("x", rows_before)
    process.send_signal(stop)
    out, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    done = len(rows("x"))
    last = said.splitlines()[-1]
    assert last == f"stackelberg: interrupted after {done} outer iterations; --resume goes on"
    assert "Traceback" not in said
    assert sorted(Path("x/checkpoints").iterdir())[-1].name == f"iteration_{done:08d}.safetensors"
    assert not Path("x/summary.json").exists()
    config = json.loads(Path("x/config.json").read_text())
    total = done + 3
    Path("x/config.json").write_text(json.dumps(config | {"iterations": total}))  # no need for all
    end = ["--iterations", str(total), "--quiet"]
    assert cli.main(["train", "discrete_toy", *common, *end, "--out", "x", "--resume"]) == 0
    assert cli.main(["train", "discrete_toy", *common, *end, "--out", "y"]) == 0
    assert rows("x") == rows("y")
    assert len(rows("x")) == total
    assert summary("x") == summary("y")


@pytest.mark.parametrize("delay", [0.15, 0.4, 0.8])
def test_ctrl_c_while_it_starts_is_no_traceback(delay):
    process = started("train", "discrete_toy", "--iterations", "100000", "--quiet", "--out", "x")
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said == "" or (said.startswith("stackelberg: interrupted") and said.count("\n") == 1)
    assert os.path.exists("x") == ("outer iterations" in said)


def test_a_reader_that_has_had_enough_is_no_fault():
    script = f"{sys.executable} -m stackelberg games | head -1"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("building")
    assert done.stderr == ""
