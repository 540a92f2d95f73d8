"""Films of runs: what is recorded, that every shipped game can be filmed, and what is refused."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from written_runs import FILMED, moved, write_run

from agents import ExactFollower, LinearGaussian
from games import discrete_toy
from games.linear import LinearGame
from stackelberg import Coordinator, InputError, TrainConfig, cli, film, registry
from stackelberg.episode import cut, draw_numbers, numbers, wrapped
from stackelberg.types import Commitment, TabularResponse, commit

ONE_LINE = r"^stackelberg: expected [^\n]+; got [^\n]+; [^\n]+\n$"


@pytest.fixture
def blank(monkeypatch) -> list:
    """Pictures of nothing, at no cost; what was to be drawn."""
    asked, drawn = [], []

    def scene(game, pair, episode=None, places=()):
        asked.append((pair, episode))
        return Figure()

    def pixels(figure):
        drawn.append(figure)
        bits = np.unpackbits(np.array([len(drawn) % 256], np.uint8)).reshape(2, 4, 1)
        return np.repeat(255 * bits, 3, 2)

    monkeypatch.setattr(film, "scene", scene)
    monkeypatch.setattr(film, "_drawn", pixels)
    monkeypatch.setattr(film, "_curves", lambda game, sides: (lambda *_: [], film.SIDES))
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


class Stock(LinearGame):
    """A user's own: s' = s + a + b, of which nothing is drawn but numbers."""


def stock() -> Stock:
    cost = np.diag([0.0, 1.0, 1.0, 1.0])
    step = np.array([[0.0, 1.0, 1.0, 1.0]])
    game = Stock(step, cost, cost, initial_mean=[5.0], horizon=12, name="stock", temperature=0.1)
    game.names = {"state": ["stock"], "leader": ["order"]}
    return game


def _played(game, std=0.1) -> list:
    leader = LinearGaussian(1, 1, std=std)
    with torch.no_grad():
        commitment = commit(game, leader)
    response = ExactFollower().best_respond(game, commitment, [0])
    return film.record(game, commitment, response, [0])


def test_an_episode_in_numbers_state_and_actions_by_their_names():
    game = stock()
    moments = _played(game)
    state, order, answer = numbers(game, moments)
    assert (state.names, order.names) == (["stock"], ["order"])
    assert answer.names == ["follower's action"]
    assert state.values[:, 0].tolist() == [m.observation[0] for m in moments]
    assert order.values[1:, 0].tolist() == [m.moves[0][0] for m in moments[1:]]
    assert answer.values[1:, 0].tolist() == [m.moves[1][0] for m in moments[1:]]
    toy = discrete_toy.game(horizon=2)
    even = Commitment(torch.full((1, 3, 2), 0.5).double())
    moments = film.record(toy, even, ExactFollower().best_respond(toy, even, [0]), [0])
    told = numbers(toy, moments)
    assert [one.names for one in told] == [[*"SAB"], ["open", "close"], [*"SAB"]]
    assert told[0].values.shape == (3, 1)
    assert told[0].values[0] == 0
    for who, one in enumerate(told[1:]):  # what is done in a step is drawn at its end
        assert np.isnan(one.values[0, 0])
        assert one.values[1:, 0].tolist() == [m.moves[who] for m in moments[1:]]


def test_both_sides_are_drawn_on_common_scales():
    game = stock()
    sides = [_played(game, std) for std in (0.1, 2.0)]
    figure = Figure()
    rows = figure.subplots(3, 2)
    grown = draw_numbers(rows, [numbers(game, moments) for moments in sides])
    assert len(grown) == 6
    for row in rows:
        assert row[0].get_ylim() == row[1].get_ylim()
        assert row[0].get_xlim() == row[1].get_xlim() == (0, 12)
        low, high = row[0].get_ylim()
        every = np.concatenate([axes.lines[0].get_ydata() for axes in row])
        assert low < every.min() < every.max() < high
        assert high - low < 1.5 * np.ptp(every)
    assert [row[0].get_ylabel() for row in rows] == ["stock", "order", "follower's\naction"]


def test_long_names_are_wrapped_and_cut():
    assert [cut(name, 5) for name in ("abcde", "abcdef", r"abc\$def")] == [
        *("abcde", "abcd…", "abc…")
    ]
    assert wrapped("cash in the first till") == "cash in the\nfirst till"
    assert wrapped("cash in the very first till of the shop") == "cash in the very\nfirst till of…"
    assert wrapped("x" * 30) == "x" * 15 + "…"
    game = stock()
    game.names = {"state": ["how much is in the stock of the whole warehouse"]}
    figure = Figure(figsize=(film.WIDTH, 3 * film.ROW), dpi=film.DOTS, layout="constrained")
    rows = figure.subplots(3, 2)
    draw_numbers(rows, [numbers(game, _played(game))] * 2)
    film._drawn(figure)
    boxes = [row[0].yaxis.label.get_window_extent() for row in rows]
    assert boxes[0].y0 > boxes[1].y1 > boxes[1].y0 > boxes[2].y1


def test_curves_grow_with_the_film():
    game = stock()
    sides = [[_played(game)], [_played(game, 2.0)]]
    curves, places = film._curves(game, sides)
    shots = [curves(0, [side[0][t] for side in sides])[0] for t in (0, 6, 12)]
    width = shots[0].shape[1]
    for left, right in places:
        middle = round((left + right) / 2 * width)
        first, half, whole = (
            shot[:, round(left * width) + 4 : middle - 4].astype(int) for shot in shots
        )
        assert not np.array_equal(first, half)
        assert np.array_equal(half, whole)  # until then
        rest = slice(middle + 4, round(right * width) - 4)
        assert np.array_equal(shots[0][:, rest], shots[1][:, rest])  # nothing yet
        assert not np.array_equal(shots[1][:, rest], shots[2][:, rest])


def test_scales_that_pictures_take_from_data_are_common():
    game = registry.make_game("lqr")
    far = film.Moment(1, np.array([3.0, 0.0]), (np.zeros(1), np.zeros(1)), (0.0, 0.0), False)
    near = far._replace(observation=np.zeros(2))
    figures = [film.scene(game, pair) for pair in ((near, near), (near, far))]
    every = [axes for figure in figures for axes in figure.axes]
    assert len({axes.get_xlim() for axes in every}) == 2
    film.common_scales(every)
    assert all(axes.get_xlim() == pytest.approx((-3.6, 3.6)) for axes in every)


def test_rows_that_are_always_blank_are_left_out():
    frames = [(np.full((100, 3, 3), 255, np.uint8), 1) for _ in range(2)]
    frames[0][0][40, 1] = frames[1][0][90, 2] = 0
    one, two = (picture for picture, _ in film._closed(frames))
    assert len(one) == len(two) == film.BLANK + 1 + film.BLANK + 1 + 9
    assert not one[film.BLANK, 1].any()
    assert not two[-10, 2].any()


def test_every_picture_of_a_film_has_the_same_scales(tmp_path, monkeypatch):
    figures, drawn = [], film._drawn
    monkeypatch.setattr(film, "_drawn", lambda figure: figures.append(figure) or drawn(figure))
    film.film(write_run(tmp_path, "duopoly"), tmp_path / "a.gif")
    markets = [axes for figure in figures[2:] for axes in figure.axes]
    assert len(markets) == 6
    assert len({axes.get_xlim() for axes in markets}) == 1
    assert len({axes.get_ylim() for axes in markets}) == 1
    assert markets[0].get_xlim()[1] > markets[0].lines[0].get_xdata().max()


def test_a_run_from_python_is_filmed_with_its_game_and_leader(tmp_path, capsys):
    game, config = stock(), TrainConfig(iterations=2, evaluation_episodes=2)
    run, gif = tmp_path / "run", tmp_path / "out.gif"
    leader, met = LinearGaussian(1, 1), []
    Coordinator(game, leader, ExactFollower(), config, out=run).run()
    assert cli.main(["play", str(run)]) == 2
    assert "film(run, gif, game=game, leader=leader)" in capsys.readouterr().err
    begun = LinearGaussian(1, 1)
    with pytest.MonkeyPatch.context() as patch:
        record = film.record
        patch.setattr(film, "record", lambda g, c, *a: met.append(c.box.gain()) or record(g, c, *a))
        assert film.film(run, gif, game=game, leader=begun, follower=ExactFollower()) == gif
    assert torch.equal(met[0], begun.gain())
    assert torch.equal(met[1], leader.gain())
    assert not torch.equal(*met)
    with Image.open(gif) as made:
        assert made.n_frames == 13


def test_what_cannot_be_written_is_said_before_anything_is_drawn(tmp_path, blank):
    run = write_run(tmp_path / "run", "matrix")
    with pytest.raises(InputError, match="a folder that can be written"):
        film.film(run, Path("/proc/nowhere/out.gif"))
    with pytest.raises(InputError, match="a folder that can be written"):
        film.film(run, tmp_path / ("x" * 300) / "out.gif")
    assert not blank


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

    monkeypatch.setattr(film, "scene", stop)
    assert cli.main(["play", str(run), "--gif", str(tmp_path / "out.gif")]) == 130
    assert (tmp_path / "out.gif").read_bytes() == b"the last one"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.gif", "run"]
