"""Tutorials and the main job run unchanged."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
KINDS = "full", "short"  # of the fifth tutorial's leaders


def run(program: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(program), *arguments], capture_output=True, text=True, timeout=170
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def drawn(name: str, folder: Path) -> str:
    """What the tutorial says, having ended in a picture."""
    said = run(ROOT / "tutorials" / f"{name}.py", str(folder))
    assert (folder / f"{name}.png").stat().st_size > 5000
    return said


def test_the_first_tutorial_shows_what_it_says(tmp_path):
    said = drawn("01_your_first_game", tmp_path)
    optimum = float(re.search(r"optimum ([\d.]+)", said)[1])
    ours = float(re.search(r"expected-trace .*regret ([\d.]+)", said)[1])
    naive = float(re.search(r"naive .*regret ([\d.]+)", said)[1])
    assert ours < 0.01 * optimum
    assert naive > 0.9 * optimum


def test_the_second_tutorial_runs(tmp_path):
    assert "optimum" in drawn("02_designing_incentives", tmp_path)


def test_the_fourth_tutorial_shows_what_it_says(tmp_path):
    said = drawn("04_continuous_games", tmp_path)
    ours = float(re.search(r"expected-trace +regret ([\d.]+)", said)[1])
    naive = float(re.search(r"naive +regret ([\d.]+)", said)[1])
    learned = [float(x) for x in re.search(r"SAC +regret ([\d.]+), at .* ([\d.]+)", said).groups()]
    assert ours < 0.1 * naive
    assert learned[0] < 0.5 * learned[1]


def test_the_fifth_tutorial_shows_what_it_says(tmp_path):
    said = run(ROOT / "tutorials" / "05_is_the_leader_any_good.py", str(tmp_path))
    full, short = (
        float(re.search(rf"{n} +interquartile mean ([\d.]+) \[", said)[1]) for n in KINDS
    )
    assert float(re.search(r"short +was promised ([\d.]+)", said)[1]) > full + 1 > short + 2
    assert float(re.search(r"full leaders falls ([\d.e-]+) short", said)[1]) < 0.01
    assert (tmp_path / "figures" / "cross_play.png").stat().st_size > 5000


def test_the_third_tutorial_runs():
    assert "optimum 4.75" in run(ROOT / "tutorials" / "03_somebody_elses_game.py", "--quick")


@pytest.mark.slow
def test_the_third_tutorial_shows_what_it_says():
    said = run(ROOT / "tutorials" / "03_somebody_elses_game.py")
    start, end = map(float, re.findall(r"(?:start|trained) (-?[\d.]+)", said))
    assert start < 4.0
    assert end > 4.2


@pytest.mark.slow
def test_main_job(tmp_path):
    said = run(ROOT / "tutorials" / "main_job.py", str(tmp_path / "out"))
    assert "optimum" in said
    for name in ("learning_curves", "four_rooms"):
        assert (tmp_path / "out" / "figures" / f"{name}.png").stat().st_size > 5000


def test_tutorials_are_short():
    for path in (ROOT / "tutorials").glob("*.py"):
        assert len(path.read_text().splitlines()) < 120, path.name
