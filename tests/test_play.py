"""Films of runs: what is recorded, that every shipped game can be filmed, and what is refused."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from written_runs import FILMED, moved, write_run

from games import discrete_toy
from stackelberg import cli, film, registry
from stackelberg.types import Commitment, TabularResponse

ONE_LINE = r"^stackelberg: expected [^\n]+; got [^\n]+; [^\n]+\n$"


@pytest.fixture
def blank(monkeypatch) -> list:
    """Pictures of nothing, at no cost; what was to be drawn."""
    asked = []

    def draw(game, pair, episode=None):
        asked.append((pair, episode))
        return np.full((2, 4, 3), len(asked) % 256, np.uint8)

    monkeypatch.setattr(film, "draw", draw)
    return asked


@pytest.mark.parametrize("name", FILMED)
def test_every_shipped_game_can_be_filmed(name, tmp_path):
    run = write_run(tmp_path / "run", name)
    assert cli.main(["play", str(run), "--gif", str(tmp_path / "out.gif"), "--quiet"]) == 0
    with Image.open(tmp_path / "out.gif") as gif:
        assert gif.n_frames >= 2
        first = np.asarray(gif.convert("RGB"))
        gif.seek(gif.n_frames - 1)
        last = np.asarray(gif.convert("RGB"))
    assert first.shape == last.shape
    for a, b in zip(np.split(first, 2, 1), np.split(last, 2, 1), strict=True):
        assert len(np.unique(a.reshape(-1, 3), axis=0)) > 3  # something is drawn
        assert not np.array_equal(a, b)
    assert (tmp_path / "out.gif").stat().st_size < 300_000


def test_an_episode_by_hand():
    """S, A, B in turn, A left open: the leader is paid at S, the follower at S and A."""
    game = discrete_toy.game(horizon=6)
    policy = torch.tensor([[[1.0, 0.0]] * 3]).double()
    response = TabularResponse(torch.eye(3)[[1, 2, 0]].double()[None, :, None].expand(1, 3, 2, 3))
    moments = film.record(game, Commitment(policy), response, [0])
    assert [m.observation.argmax() for m in moments] == [0, 1, 2, 0, 1, 2, 0]
    assert [m.time for m in moments] == [*range(7)]
    assert [m.over for m in moments] == [False] * 6 + [True]
    assert [m.moves for m in moments[:3]] == [None, (0, 1), (0, 2)]
    paid = 1 + 0.99**3
    assert moments[-1].returns == pytest.approx((paid, paid + 0.99 + 0.99**4))
    assert moments[3].returns == pytest.approx((1, 1.99))


def test_left_is_the_first_leader_and_right_the_trained_one(tmp_path, monkeypatch, blank):
    run, met = write_run(tmp_path, "four_rooms"), []
    record = film.record
    monkeypatch.setattr(film, "record", lambda g, c, *a: met.append(c.design) or record(g, c, *a))
    film.film(run, tmp_path / "a.gif")
    game = registry.make_game("four_rooms")
    leader = registry.load("leaders", "default")(game, (0,))
    with torch.no_grad():
        assert torch.equal(met[0], leader.design())
        leader.x += moved(leader.x)
        assert torch.equal(met[1], leader.design())
    assert not torch.equal(*met)


def test_both_sides_start_alike_and_episodes_differ(tmp_path, blank):
    film.film(write_run(tmp_path, "pendulum"), tmp_path / "a.gif", episodes=2)
    starts = {episode: pair for pair, episode in blank if pair[0].time == 0}
    assert set(starts) == {0, 1}
    for before, after in starts.values():
        assert np.array_equal(before.observation, after.observation)
    assert not np.array_equal(starts[0][0].observation, starts[1][0].observation)


def test_the_same_seed_makes_the_same_film(tmp_path):
    run = write_run(tmp_path, "four_rooms")
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        film.film(run, tmp_path / f"{name}.gif", seed=seed)
    a, b, c = ((tmp_path / f"{name}.gif").read_bytes() for name in "abc")
    assert a == b
    assert a != c


@pytest.mark.parametrize(("episodes", "horizon"), [(1, 3000), (3, 110), (1, 7)])
def test_long_films_leave_steps_out_but_show_every_end(tmp_path, blank, episodes, horizon):
    run = write_run(tmp_path, "discrete_toy", horizon=str(horizon))
    film.film(run, tmp_path / "a.gif", episodes=episodes)
    assert len(blank) <= film.LONGEST + 2 * episodes
    ends = [pair for pair, _ in blank if pair[0].over]
    assert [pair[0].time for pair in ends] == [horizon] * episodes
    if horizon == 7:
        assert [pair[0].time for pair, _ in blank] == [*range(8)]
    with Image.open(tmp_path / "a.gif") as gif:
        gif.seek(gif.n_frames - 1)
        assert gif.info["duration"] == 1000


def _without_checkpoint(run: Path) -> None:
    for file in (run / "checkpoints").iterdir():
        file.unlink()


def _from_python(run: Path) -> None:
    text = (run / "config.json").read_text()
    (run / "config.json").write_text(
        re.sub(r'"game_options": \{[^}]*\}', '"game_options": null', text)
    )


@pytest.mark.parametrize(
    ("change", "arguments", "said"),
    [
        (None, ["--gif", "out.png"], r"a file name that ends in \.gif; got out\.png"),
        (None, ["--gif", "file/out.gif"], r"a folder that can be written; got file"),
        (None, ["--episodes", "0"], "episodes >= 1; got 0"),
        (None, ["--seed", "-1"], "seed >= 0; got -1"),
        (_without_checkpoint, [], "a run with a checkpoint"),
        (_from_python, [], "a run started by `stackelberg train`"),
        (lambda run: (run / "config.json").unlink(), [], "the folder of a run"),
    ],
)
def test_what_is_refused(tmp_path, monkeypatch, capsys, change, arguments, said):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    run = write_run(tmp_path / "run", "matrix")
    if change is not None:
        change(run)
    before = sorted(tmp_path.rglob("*"))
    assert cli.main(["play", "run", *arguments]) == 2
    errors = capsys.readouterr().err
    assert re.match(ONE_LINE, errors)
    assert re.search(said, errors)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_interrupted_film_is_not_written(tmp_path, monkeypatch, capsys):
    run = write_run(tmp_path / "run", "matrix")
    (tmp_path / "out.gif").write_bytes(b"the last one")

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(film, "draw", stop)
    assert cli.main(["play", str(run), "--gif", str(tmp_path / "out.gif")]) == 130
    assert (tmp_path / "out.gif").read_bytes() == b"the last one"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.gif", "run"]
