"""What the README says can be copied: programs, games, commands and links."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from stackelberg import cli
from stackelberg.check import check_game
from stackelberg.registry import make_game

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", "tutorials/details.md", "tests/benchmarks/README.md"]


def program(mark: str, page: str = "README.md") -> str:
    """The one that holds a mark."""
    blocks = re.findall(r"```python\n(.*?)```", text(page), re.DOTALL)
    (found,) = (block for block in blocks if mark in block)
    return found


def test_the_first_program_is_short_and_right(tmp_path):
    text = program("def inspections")
    assert len(text.splitlines()) < 40
    path = tmp_path / "inspections.py"
    path.write_text(text)
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr
    optimum, trained = map(float, re.findall(r"(?:optimum|trained) ([\d.]+)", done.stdout))
    assert 0.99 * optimum < trained <= optimum + 1e-9


def test_a_run_from_python_is_trained_evaluated_and_shown(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(program("runs/own", "tutorials/details.md"))
    ask = {"capture_output": True, "text": True, "timeout": 170, "cwd": tmp_path}
    done = subprocess.run([sys.executable, path], **ask)
    assert done.returncode == 0, done.stderr
    assert "what leaders are worth" in done.stdout
    page = (tmp_path / "runs" / "own" / "report.html").read_text()
    for title in ("Evaluation against fresh followers", "Before and after training", "Visits"):
        assert title in page


@pytest.mark.parametrize("name", ["congestion", "Drain"])
def test_games_are_short_and_have_nothing_to_mend(name, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    text = program(f" {name}(")
    assert len(text.splitlines()) < 40
    (tmp_path / "own.py").write_text(text)
    game = make_game(f"{tmp_path / 'own.py'}:{name}")
    assert {one.status for one in check_game(game)} == {"ok"}


def test_the_drain_reenacts_its_steps(tmp_path, monkeypatch):
    """Values as recorded; gradients as differences of steps with the same chance."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "own.py").write_text(program(" Drain("))
    game = make_game(f"{tmp_path / 'own.py'}:Drain")
    level, water = torch.tensor([[0.3], [2.0]]), torch.tensor([1, 2])

    def stepped(drain):
        return game.step(level, drain, water, torch.Generator().manual_seed(0))

    drain = torch.full((2, 1), 0.4, dtype=torch.float64, requires_grad=True)
    there = stepped(drain.detach())
    again = game.reenact(level, drain, water, there.state)
    torch.testing.assert_close(again.observation, there.state)
    torch.testing.assert_close(again[1:], there[1:3])
    further = stepped(drain.detach() + 1e-6)
    for ours, here, beyond in zip(again, there[:3], further[:3], strict=True):
        slope = torch.zeros(2)
        if ours.requires_grad:
            (slope,) = torch.autograd.grad(ours.sum(), drain, retain_graph=True)
        difference = ((beyond - here) / 1e-6).flatten()
        torch.testing.assert_close(
            slope.flatten().double(), difference.double(), rtol=1e-4, atol=1e-4
        )


def test_a_state_of_single_precision_becomes_double_and_starts_anew(tmp_path, monkeypatch):
    """As designs are double."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "own.py").write_text(program(" Drain("))
    vector = make_game(f"{tmp_path / 'own.py'}:Drain").vector(3, torch.Generator().manual_seed(0))
    vector.step(torch.full((3, 1), 0.4, dtype=torch.float64), torch.tensor([1, 2, 0]))
    before = vector.leader_observation.clone()
    vector.reset(torch.tensor([True, False, True]))
    kept = vector.leader_observation == before
    assert kept.flatten().tolist() == [False, True, False]


def text(page: str) -> str:
    return (ROOT / page).read_text()


def anchors(page: Path) -> set[str]:
    """Of the headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.*)", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)]*)\)", text(page))
    assert links
    for link in links:
        place, _, anchor = link.partition("#")
        target = ((ROOT / page).parent / place) if place else ROOT / page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_commands_are_understood():
    """As the parser takes them; what they run is tested elsewhere."""
    pattern = re.compile(r"^\.venv/bin/stackelberg .*", re.MULTILINE)
    found = [line for page in PAGES for line in pattern.findall(text(page))]
    assert len(found) > 20
    for line in found:
        words = shlex.split(line, comments=True)[1:]
        command = cli._parse([word for word in words if word != "--resume"])
        assert type(command).__name__.lower() == words[0]
