"""The store of best-known commitments: what it keeps, whom it believes, how it fails."""

import json
import os
import re
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from strategies import Recipe, random_design_game, random_game

from agents import ExactFollower, default_leader
from agents.leaders import spread_leader
from games import discrete_toy, four_rooms, matrix
from games.tabular import TabularDesign
from stackelberg import Budget, Coordinator, TrainConfig, cli, exact, solve
from stackelberg.best_known import BestKnown
from stackelberg.identity import game_key
from stackelberg.types import commit

pytestmark = pytest.mark.filterwarnings("ignore:the leader's ")
TOY = discrete_toy.game()
HALF, BETTER = [[0.5, 0.5]] * 3, [[0.5, 0.5], [0.9, 0.1], [0.5, 0.5]]  # better: A mostly open


def worth(game, policy) -> float:
    return exact.objective(game.model(), torch.tensor([policy], dtype=torch.float64)).item()


def paid(rate: float = 1.0, total: float = 1.0) -> TabularDesign:
    """A one-shot design that pays the follower to take its first action."""
    return TabularDesign(
        Budget(2, total),
        np.ones((1, 2, 1)),
        lambda x: torch.stack([2 - rate * x.sum(-1), -x.sum(-1)], -1)[:, None, :],
        lambda x: torch.stack([x[:, 0], 0.5 + x[:, 1]], -1)[:, None, :],
        termination=1.0,
    )


def two_hills() -> dict[str, str]:
    """Options of a matrix game: from the middle one climbs to 1.5, but 5 can be had near (1, 0)."""
    leader = [[5, 0, 1], [5, 0, 1.5]]
    follower = [[1, 0.6, 0], [-3, 0.6, 1.2]]
    options = {"leader_payoff": leader, "follower_payoff": follower, "temperature": 0.02}
    return {key: json.dumps(value) for key, value in options.items()}


@pytest.fixture
def store(tmp_path) -> BestKnown:
    return BestKnown(tmp_path / "deep" / "best_known.json")


# ---------------------------------------------------------------- what it keeps


def test_only_the_better_is_kept_and_its_value_is_its_worth(store):
    assert worth(TOY, BETTER) > worth(TOY, HALF) + 0.1
    assert store.best(TOY) is None
    assert store.offer(TOY, HALF, "train")
    assert store.best(TOY).value == worth(TOY, HALF)
    assert store.offer(TOY, torch.tensor(BETTER, dtype=torch.float64), "solve")
    assert not store.offer(TOY, BETTER, "train")
    assert not store.offer(TOY, HALF, "train")
    kept = BestKnown(store.path).best(TOY)
    assert kept.value == worth(TOY, BETTER)
    assert kept.parameters.tolist() == BETTER
    (entry,) = json.loads(store.path.read_text())["games"].values()
    expected = {"game": "discrete_toy", "value": kept.value, "found_by": "solve"}
    assert entry == expected | {"parameters": BETTER}
    assert {p.suffix for p in store.path.parent.iterdir()} == {".json", ".lock"}


def test_games_are_kept_apart(store):
    assert store.offer(TOY, HALF, "train")
    assert store.offer(discrete_toy.game(bonus=2.0), BETTER, "train")
    assert store.offer(paid(), [0.5, 0.1], "train")
    assert store.best(TOY).parameters.tolist() == HALF
    assert store.best(paid()).parameters.tolist() == [0.5, 0.1]
    assert store.best(paid(rate=0.5)) is None


def test_a_game_is_known_by_what_its_objective_depends_on():
    key = game_key(TOY)
    same = discrete_toy.game(horizon=7, optimum=3.0)
    same.name = "another name"
    assert game_key(same) == key
    for changed in (
        {"bonus": 2.0},
        {"temperature": 0.06},
        {"leader_discount": 0.9},
        {"follower_discount": 0.9},
        {"follower_observes_action": False},
    ):
        assert game_key(discrete_toy.game(**changed)) != key
    assert len({game_key(game) for game in (paid(), paid(2.0), paid(total=2.0), TOY)}) == 4
    assert game_key(paid()) == game_key(paid())
    assert game_key(four_rooms.game(kernel="reference")) == game_key(
        four_rooms.game(kernel="model")
    )  # they differ in play alone


def test_the_optimum_is_the_better_one_of_the_games_own_and_the_stored(store):
    low, none = discrete_toy.game(optimum=0.0), discrete_toy.game(optimum=None)
    assert store.optimum(TOY) == (TOY.optimum, "game")
    assert store.optimum(none) == (None, None)
    store.offer(TOY, BETTER, "train")
    assert store.optimum(TOY) == (TOY.optimum, "game")
    assert store.optimum(none) == store.optimum(low) == (worth(TOY, BETTER), "best known")
    equal = discrete_toy.game(optimum=worth(TOY, BETTER) - 1e-12)
    assert store.optimum(equal) == (equal.optimum, "game")


def test_many_at_once_lose_nothing(store):
    games = [random_game(Recipe(seed=seed)) for seed in range(8)]
    policies = [torch.full((g.states, g.leader_space.n), 1 / g.leader_space.n) for g in games]
    with ThreadPoolExecutor(8) as pool:
        offers = [pool.submit(BestKnown(store.path).offer, g, p.double(), "train")
                  for g, p in zip(games, policies, strict=True)]  # fmt: skip
    assert all(offer.result() for offer in offers)
    assert all(store.best(game) is not None for game in games)


def test_where_the_file_is(monkeypatch, tmp_path):
    monkeypatch.setenv("STACKELBERG_DATA", "here")
    assert BestKnown().path == Path("here/best_known.json")
    monkeypatch.delenv("STACKELBERG_DATA")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert BestKnown().path == tmp_path / "stackelberg" / "best_known.json"
    monkeypatch.setenv("HOME", str(tmp_path))
    for unset in ("", "relative"):
        monkeypatch.setenv("XDG_DATA_HOME", unset)
        assert BestKnown().path == tmp_path / ".local/share/stackelberg/best_known.json"
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- whom it believes


def test_what_the_file_says_of_a_value_is_not_believed(store):
    store.offer(TOY, HALF, "train")
    store.path.write_text(store.path.read_text().replace('"value": ', '"value": 99'))
    assert store.best(TOY).value == worth(TOY, HALF)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "3",
        "{}",
        '{"format": "else", "games": {}}',
        '{"format": 1, "games": 1}',
        "\0",
    ],
)
def test_a_foreign_file_is_ignored_with_one_warning_and_stays(store, content):
    store.path.parent.mkdir()
    store.path.write_text(content)
    with warnings.catch_warnings(record=True, action="always") as told:
        assert store.best(TOY) is None
        assert not store.offer(TOY, HALF, "train")
        assert store.optimum(TOY) == (TOY.optimum, "game")
    (warning,) = told
    assert re.match(r"best-known values in .*: it cannot be read \(.+\); ", str(warning.message))
    assert store.path.read_text() == content


@pytest.mark.parametrize(
    "entry",
    [
        *(3, {}, {"parameters": "x"}, {"parameters": [[0.5, 0.5]]}, {"parameters": [[1], [1, 2]]}),
        {"parameters": [[0.5, 0.4]] * 3},
        {"parameters": [[1.5, -0.5]] * 3},
        {"parameters": [[float("nan"), 0.5]] * 3},
    ],
)
def test_an_entry_that_does_not_fit_is_ignored_and_replaced(store, entry):
    store.path.parent.mkdir()
    whole = {"format": "stackelberg best known 1", "games": {game_key(TOY): entry}}
    store.path.write_text(json.dumps(whole))
    with pytest.warns(UserWarning, match=r"entry of 'discrete_toy' does not fit"):
        assert store.best(TOY) is None
    assert store.offer(TOY, HALF, "train")
    assert store.best(TOY).value == worth(TOY, HALF)


def test_a_design_outside_its_space_is_ignored(store):
    store.offer(paid(), [0.5, 0.1], "train")
    store.path.write_text(store.path.read_text().replace("[0.5, 0.1]", "[0.5, 0.9]"))
    with pytest.warns(UserWarning, match="a design outside Budget"):
        assert store.best(paid()) is None


def test_a_place_that_cannot_be_written_is_a_warning(tmp_path):
    (tmp_path / "file").write_text("precious")
    store = BestKnown(tmp_path / "file" / "best_known.json")
    with warnings.catch_warnings(record=True, action="always") as told:
        assert not store.offer(TOY, HALF, "train")
        assert store.best(TOY) is None
    (warning,) = told
    assert re.match(r"best-known values in .*: it cannot be written \(", str(warning.message))


# ---------------------------------------------------------------- training and solving


def trained(game, store=None, iterations=3, seeds=(0,)):
    config = TrainConfig(iterations=iterations, evaluation_episodes=5)
    leader = default_leader(game, seeds)
    made = Coordinator(game, leader, ExactFollower(), config, seeds=seeds, best_known=store)
    return made.run().summary


def test_a_run_that_beats_the_best_known_says_so_and_is_kept(store):
    game = discrete_toy.game(optimum=0.7)  # a poor one, of which the seeds start short
    found = trained(game, store, 30, (0, 1))
    values = np.array(found["leader_return"]["exact"])
    assert values.max() > 1
    assert (found["optimum"], found["optimum_source"]) == (values.max(), "best known")
    assert found["new_best"] is True
    assert found["regret"] == (values.max() - values).tolist()
    assert store.best(game).value == pytest.approx(values.max(), rel=1e-12)
    (entry,) = json.loads(store.path.read_text())["games"].values()
    assert entry["found_by"] == "train"
    later = trained(game, store, 1)
    assert (later["optimum"], later["new_best"]) == (store.best(game).value, False)
    assert later["regret"] == later["optimum"] - later["leader_return"]["exact"] > 1


def test_the_best_of_many_leaders_is_kept(store):
    game, seeds = random_game(Recipe(seed=5)), range(6)
    leader = spread_leader(game, seeds)
    config = TrainConfig(iterations=1, evaluation_episodes=1)
    parts = (game, leader, ExactFollower(), config)
    found = Coordinator(*parts, seeds=seeds, best_known=store).run().summary
    values = np.array(found["leader_return"]["exact"])
    best = commit(game, leader).policy[values.argmax()].tolist()
    assert store.best(game).parameters.tolist() == best
    assert store.best(game).value == pytest.approx(values.max(), rel=1e-9)
    assert (found["optimum"], found["regret"], found["new_best"]) == (None, None, False)


def test_without_a_store_nothing_is_written():
    found = trained(discrete_toy.game(optimum=0.1), iterations=30)
    assert (found["optimum"], found["regret"]) == (found["leader_return"]["exact"], 0.0)
    assert found["new_best"] is True
    assert trained(TOY)["optimum_source"] == "game"
    assert not os.path.exists(os.environ["STACKELBERG_DATA"])


@pytest.mark.parametrize(
    "game",
    [TOY, paid(), random_design_game(Recipe(seed=2, dimension=2)), random_game(Recipe(seed=4))],
    ids=lambda game: game.name,
)
def test_parameters_at_a_commitment_commit_to_it(game):
    leader, other = spread_leader(game, (0,)), spread_leader(game, (1,))
    row = next(rows[0].detach() for rows in commit(game, leader)[::-1] if rows is not None)
    with torch.no_grad():
        for p, there in zip(other.parameters(), other.parameters_at(row), strict=True):
            p[0] = there
    again = next(rows[0].detach() for rows in commit(game, other)[::-1] if rows is not None)
    torch.testing.assert_close(again, row, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("row", [[0.0, 0.0], [1.0, 0.0], [0.25, 0.75]])
def test_parameters_at_the_edge_are_finite(row):
    row = torch.tensor(row, dtype=torch.float64)
    box = random_design_game(Recipe(seed=2, dimension=2))
    low, high = (
        torch.from_numpy(x).double() for x in (box.leader_space.low, box.leader_space.high)
    )
    for game, design in ((paid(), row), (box, low + row * (high - low))):
        leader = default_leader(game)
        with torch.no_grad():
            for p, there in zip(leader.parameters(), leader.parameters_at(design), strict=True):
                p[0] = there
        torch.testing.assert_close(leader.design()[0].detach(), design, rtol=0, atol=1e-12)
    policy = torch.stack([row, 1 - row])
    assert all(p.isfinite().all() for p in default_leader(TOY).parameters_at(policy))


def test_solving_from_a_start_ends_no_lower():
    options = {key: json.loads(value) for key, value in two_hills().items()}
    game = matrix.game(**options)
    alone = solve(game, spread_leader(game, (0,)), 20)
    leader = spread_leader(game, (0,))
    start = leader.parameters_at(torch.tensor([[0.98, 0.02]], dtype=torch.float64))
    helped = solve(game, leader, 20, start=start)
    assert alone.value < 1.6
    assert helped.value > 4.9
    assert helped.value == pytest.approx(game.optimum, abs=1e-4)


# ---------------------------------------------------------------- the command line


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(capsys) -> str:
    return capsys.readouterr().out


def command(name: str, options: dict[str, str], *more: str) -> int:
    pairs = [part for pair in options.items() for part in ("--game-option", "=".join(pair))]
    return cli.main([name, "matrix", *pairs, *more])


def test_solve_begins_where_any_run_has_been(folder, capsys):
    """The commands share what they know; a solution is never below what was known."""
    options = two_hills()
    quick = ["--restarts", "1", "--steps", "20", "--json"]
    assert command("solve", options, *quick) == 0
    first = json.loads(said(capsys))
    assert first["value"] < 1.6
    assert first["best_known_before"] is None
    game = matrix.game(**{key: json.loads(value) for key, value in options.items()})
    assert BestKnown().offer(game, [[0.98, 0.02]], "train")
    assert command("solve", options, *quick) == 0
    second = json.loads(said(capsys))
    assert second["best_known_before"] == worth(game, [[0.98, 0.02]])
    assert second["value"] > second["best_known_before"]
    assert BestKnown().best(game).value == pytest.approx(second["value"], rel=1e-9)
    assert command("solve", options, *quick[:-1]) == 0
    assert "one of them began at the best known so far, " in said(capsys)


def test_train_measures_by_what_solve_has_found(folder, capsys):
    quick = ["--iterations", "2", "--evaluation-episodes", "2"]
    names = ("optimum", "optimum_source", "new_best")
    options = {"name": "chicken", "optimum": "-1.0", "temperature": "0.3"}

    def summary(out: str) -> dict:
        return json.loads((folder / out / "summary.json").read_text())

    assert command("train", options, *quick, "--out", "x") == 0
    exactly = summary("x")["leader_return"]["exact"]
    assert [summary("x")[name] for name in names] == [exactly, "best known", True]
    assert summary("x")["regret"] == 0.0
    assert "regret 0: better than any before" in said(capsys)
    assert command("solve", options, "--json") == 0
    solved = json.loads(said(capsys))
    assert solved["value"] > exactly + 0.01
    assert command("train", options, *quick, "--out", "y") == 0
    assert "best known" in said(capsys)
    found = [summary("y")[name] for name in names]
    assert found == [pytest.approx(solved["value"], rel=1e-9), "best known", False]
    assert summary("y")["regret"] == pytest.approx(solved["value"] - exactly)


def test_games_know_the_best(folder, capsys, monkeypatch):
    assert cli.main(["games", "--json"]) == 0
    before = {game["name"]: game for game in json.loads(said(capsys))["games"]}
    assert before["four_rooms"]["optimum_source"] == "game"
    assert BestKnown().offer(four_rooms.game(), [0.0] * 104, "train")
    assert cli.main(["games", "--json"]) == 0
    assert {g["name"]: g for g in json.loads(said(capsys))["games"]} == before  # it knows better
    monkeypatch.setitem(four_rooms.BEST_KNOWN, (1, "sim", 0.003, 5.0), -1.0)
    assert cli.main(["games", "--json"]) == 0
    after = {game["name"]: game for game in json.loads(said(capsys))["games"]}["four_rooms"]
    assert after["optimum_source"] == "best known"
    assert after["optimum"] == BestKnown().best(four_rooms.game()).value > -0.1
    assert cli.main(["games"]) == 0
    assert re.search(r"^four_rooms +best known \S+ ", said(capsys), re.MULTILINE)


def test_a_broken_file_does_not_stop_a_run(folder, capsys):
    place = Path(os.environ["STACKELBERG_DATA"])
    place.mkdir()
    (place / "best_known.json").write_text("{ broken")
    with pytest.warns(UserWarning, match="it cannot be read") as warned:
        assert (
            cli.main(["train", "discrete_toy", "--iterations", "2", "--quiet", "--out", "x"]) == 0
        )
    assert len([w for w in warned if "best-known" in str(w.message)]) == 1
    assert (place / "best_known.json").read_text() == "{ broken"
