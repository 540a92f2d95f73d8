"""Games by name, from a user's file or module, with options read by their types."""

import sys
from pathlib import Path
from typing import Any, Literal, Optional, Union

import pytest

from agents import SoftQFollower
from agents.exact import ExactFollower
from games import discrete_toy
from stackelberg import registry
from stackelberg.errors import InputError

THREE_PARTS = r"(?s)^expected .+; got .+; .+"
GAME = """
from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Optional

import numpy as np

from games.tabular import TabularGame
from neighbour import SHIFT

if TYPE_CHECKING:
    from nowhere import Nothing


@dataclass
class Size:
    states: int = 2


def small(
    reward: list[list[float]] = [[1, 0], [0, 2]],
    kind: Literal["plain", "odd"] = "plain",
    stop: Optional[float] = None,
    sure: bool = False,
    title: str = "mine",
    pair: tuple[int, ...] = (),
    **settings,
) -> TabularGame:
    made = TabularGame(
        np.ones((1, 2, 2, 1)), np.array([reward]) + SHIFT, np.eye(2)[None], name=title, **settings
    )
    made.told = (kind, stop, sure, pair)
    return made


def hinted(other: Nothing, size: int = Size().states) -> TabularGame:
    return small(horizon=size)


def broken():
    raise RuntimeError("no luck\\ntoday")


def leaving():
    raise SystemExit(3)


def nothing():
    return None


def klass():
    return TabularGame


def unlikely():
    return TabularGame(np.full((1, 2, 2, 1), 0.9), 0.0, 0.0)


def unreal():
    return TabularGame(np.ones((1, 2, 2, 1)), np.full((1, 2, 2), np.nan), 0.0)


class Other:
    pass


number = 3
"""


@pytest.fixture
def file(tmp_path, monkeypatch) -> Path:
    """A user's file with a neighbour that it imports."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "my_game.py").write_text(GAME)
    (tmp_path / "neighbour.py").write_text("SHIFT = 0.0\n")
    yield tmp_path / "my_game.py"
    for name in ("neighbour", "my_game", "_own_my_game"):
        sys.modules.pop(name, None)


# ---------------------------------------------------------------- names


def test_what_is_registered():
    assert registry.names("games") == [
        "building",
        "cart_pole",
        "discrete_toy",
        "duopoly",
        "four_rooms",
        "lqr",
        "matrix",
        "pendulum",
        "warehouse",
    ]
    assert {"exact", "soft-q"} <= set(registry.names("followers"))
    assert {"default", "mlp"} <= set(registry.names("leaders"))


@pytest.mark.parametrize("kind", ["games", "leaders", "followers"])
def test_an_unknown_name_is_an_error_that_lists_the_known_ones(kind):
    with pytest.raises(InputError, match=THREE_PARTS) as error:
        registry.load(kind, "nope")
    assert all(name in str(error.value) for name in registry.names(kind))


# ---------------------------------------------------------------- a user's own game


@pytest.mark.parametrize("inside", [True, False])
def test_a_game_from_a_file(file, monkeypatch, inside):
    if inside:
        monkeypatch.chdir(file.parent)
    game = registry.make_game(f"{file.name if inside else file}:small")
    assert game.name == "mine"
    assert game.told == ("plain", None, False, ())


def test_a_game_from_a_module_of_the_current_directory(file, monkeypatch):
    monkeypatch.chdir(file.parent)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])  # as the console script has it
    assert registry.make_game("my_game:small", ["horizon=7"]).horizon == 7


def test_a_file_hides_no_module_of_its_name(tmp_path, monkeypatch):
    import json

    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "json.py").write_text(GAME.replace("from neighbour import SHIFT", "SHIFT = 0"))
    assert registry.make_game(f"{tmp_path / 'json.py'}:small").name == "mine"
    assert sys.modules["json"] is json


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("reward=[[2, 4], [1, 3.5]]", lambda game: game.model().leader_reward[0].tolist()),
        ("kind=odd", lambda game: game.told[0]),
        ("stop=0.5", lambda game: game.told[1]),
        ("stop=None", lambda game: game.told[1]),
        ("sure=True", lambda game: game.told[2]),
        ("title=3", lambda game: game.name),
        ("pair=[1, 2]", lambda game: game.told[3]),
        ("horizon=7", lambda game: game.horizon),
        ("temperature=1", lambda game: game.temperature),
    ],
)
def test_options_are_read_by_their_types(file, option, expected):
    known = {
        "reward": [[2.0, 4.0], [1.0, 3.5]],
        "kind": "odd",
        "stop": None if "None" in option else 0.5,
        "sure": True,
        "title": "3",
        "pair": (1, 2),
        "horizon": 7,
        "temperature": 1.0,
    }
    found = expected(registry.make_game(f"{file}:small", [option]))
    assert found == known[option.split("=")[0]]
    assert type(found) is type(known[option.split("=")[0]])


@pytest.mark.parametrize(
    "option",
    [
        *("reward=3", "reward=[[1, x]]", "kind=even", "stop=late", "sure=yes", "sure=1"),
        *("pair=[1.5]", "horizon=2.5", "horizon=0", "temperature=warm", "temperature=-1"),
        *("leader_discount=1", "leader_discount=NaN", "nothing=1", "title", "=3", "states=2"),
    ],
)
def test_a_wrong_option_is_an_error(file, option):
    with pytest.raises(InputError, match=THREE_PARTS):
        registry.make_game(f"{file}:small", [option])


@pytest.mark.parametrize(
    ("reference", "match"),
    [
        ("{file}:broken", "RuntimeError: no luck"),
        ("{file}:leaving", "SystemExit: 3"),
        ("{file}:nothing", "got NoneType; return a games.tabular"),
        ("{file}:klass", "got the class TabularGame"),
        ("{file}:klass", "returns a stackelberg Game or a PettingZoo environment"),
        ("{file}:Other", "got Other"),
        ("{file}:number", "a function or class 'number'.*small"),
        ("{file}:absent", "a function or class 'absent'.*small, .*broken"),
        ("{file}:", "a function or class ''"),
        ("{file}:hinted", "a value of"),
        ("{file}:unlikely", "transition: rows that sum to 1.*got a sum of 0.9"),
        ("{file}:unreal", "leader_reward: finite numbers; got nan at index"),
        ("{folder}/absent.py:small", "an existing file"),
        ("{folder}:small", "can be imported"),
        ("absent_module:small", "ModuleNotFoundError"),
        (":small", "can be imported"),
        ("os:sep", "a function or class 'sep' in os"),
        ("{file}", "path/to/file.py:factory"),
    ],
)
def test_a_reference_that_gives_no_game_is_an_error(file, reference, match):
    with pytest.raises(InputError, match=THREE_PARTS) as error:
        registry.make_game(reference.format(file=file, folder=file.parent))
    assert error.match(f"(?s){match}")


@pytest.mark.parametrize(
    "text", ["def game(:\n", "import nowhere_at_all\n", "1 / 0\n", "raise SystemExit\n", "\0"]
)
def test_a_file_that_cannot_be_run_is_an_error(tmp_path, text):
    (tmp_path / "bad.py").write_text(text)
    with pytest.raises(InputError, match=r"(?s)^expected a module .*bad.py'; got .+; run it alone"):
        registry.make_game(f"{tmp_path / 'bad.py'}:game")


def test_a_users_input_error_passes_as_it_is(file):
    with pytest.raises(InputError, match=r"^expected a finite temperature > 0; got -1"):
        registry.make_game(f"{file}:small", ["temperature=-1"])


# ---------------------------------------------------------------- shipped games and followers


def test_a_shipped_game_with_options():
    game = registry.make_game("discrete_toy", ["bonus=2", "horizon=10"])
    assert game.optimum == discrete_toy.OPTIMA[2.0]
    payoffs = ["leader_payoff=[[2, 4], [1, 3]]", "follower_payoff=[[1, 0], [0, 1]]"]
    assert registry.make_game("matrix", payoffs).optimum == pytest.approx(
        registry.make_game("matrix", ["name=commitment"]).optimum
    )
    with pytest.raises(InputError, match="leader_payoff: a matrix of numbers"):
        registry.make_game("matrix", ["leader_payoff=[[2, 4", "follower_payoff=[[1]]"])


def test_followers_with_options():
    follower = registry.make_follower("exact", ["sweeps=3", "restart=reset"])
    assert isinstance(follower, ExactFollower)
    assert (follower.sweeps, follower.restart) == (3, "reset")
    assert registry.make_follower("exact", ["sweeps=None"]).sweeps is None
    follower = registry.make_follower("soft-q", ["copies=8", "residual=0.1"])
    assert isinstance(follower, SoftQFollower)
    assert (follower.config.copies, follower.config.residual) == (8, 0.1)
    assert registry.make_follower("soft-q").config.copies == SoftQFollower().config.copies


@pytest.mark.parametrize(
    ("name", "option"),
    [
        *(("exact", o) for o in ("sweeps=0", "sweeps=2.5", "sweeps=abc", "restart=now", "x=1")),
        *(("soft-q", o) for o in ("copies=0", "copies=many", "config=1", "learning_rate=2")),
        ("nobody", "x=1"),
    ],
)
def test_a_wrong_follower_option_is_an_error(name, option):
    with pytest.raises(InputError, match=THREE_PARTS):
        registry.make_follower(name, [option])


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("3", int, 3),
        ("3", float, 3.0),
        ("3", str, "3"),
        ("3", Optional[int], 3),  # noqa: UP045
        ("null", int | None, None),
        ("None", str | None, None),
        ("abc", str | None, "abc"),
        ("3", Union[str, int], 3),  # noqa: UP007
        ("false", bool, False),
        ("True", Literal[True, "auto"], True),
        ("auto", Literal[True, "auto"], "auto"),
        ("2", Literal[1, 2], 2),
        ("[1, 2]", list[float], [1.0, 2.0]),
        ('["a", "b"]', list[str], ["a", "b"]),
        ("[1]", list, [1]),
        ('{"a": 1}', dict[str, int], {"a": 1}),
        ("[1, 2]", Any, [1, 2]),
        ("abc", "Unknown", "abc"),
    ],
)
def test_texts_are_values_of_the_type(text, kind, value):
    found = registry._value("key", text, kind)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("x", int | None, "key: an integer or None; got 'x'; give a value of that type"),
        ("x", Union[float, bool], "key: a number or true or false; got"),  # noqa: UP007
        ("now", Literal["carry", "reset"], "key: carry or reset; got 'now'; give a value"),
        ("rest", Literal["carry", "reset"], "key: carry or reset; got 'rest'; did you mean reset?"),
        ("3", list[int], r"key: list[int]; got '3'; give a value of that type"),
    ],
)
def test_a_type_is_told_in_words(text, kind, said):
    with pytest.raises(InputError) as error:
        registry._value("key", text, kind)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        *(("abc", int), ("3.0", int), ("true", int), ("true", float), ("1", bool), ("3", dict)),
        *(("abc", int | None), ("c", Literal["a", "b"]), ("3", list[int]), ('["a"]', list[int])),
        ("1" + "0" * 400, float),
    ],
)
def test_texts_of_another_type_are_an_error(text, kind):
    with pytest.raises(InputError, match=r"^expected key: .+; got '.+'; give a value of that type"):
        registry._value("key", text, kind)


def test_a_missing_option_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("needy.py").write_text("def make(tax):\n    return None\n")
    with pytest.raises(InputError, match="a value of 'tax' for"):
        registry.make_game("needy.py:make")


def test_a_name_that_is_not_there_is_told_whatever_else_is_in_the_file(tmp_path):
    """Also objects that answer no question, as some modules do."""
    path = tmp_path / "odd.py"
    path.write_text("import supersuit as ss\n\ndef make():\n    return 1 / 0\n")
    with pytest.raises(InputError, match=r"'absent' in .*odd.py; got these: make;"):
        registry.make_game(f"{path}:absent")
    with pytest.raises(InputError, match=r"ZeroDivisionError: division by zero \(odd.py:4\)"):
        registry.make_game(f"{path}:make")
