"""`stackelberg check`: every way in which a game is broken is found, and nothing else is said."""

import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from gymnasium import spaces
from pettingzoo.utils.conversions import parallel_to_aec
from small_envs import Parking

from games import building, discrete_toy, four_rooms, matrix
from games.linear import LinearGame
from games.tabular import TabularGame
from stackelberg import Finding, check, check_game, cli, from_parallel_env
from stackelberg.environment import parallel_env


class Good(Parking):
    """The city's inspections cost the driver."""

    length = 100

    def step(self, actions):
        found = super().step(actions)
        if "city" in actions and "driver" in actions:
            found[1]["driver"] -= 0.3 * float(actions["city"]) * float(actions["driver"])
        return found


@pytest.fixture(autouse=True)
def shorter(monkeypatch):
    for name, value in (("WALK", 120), ("COPIES", 4), ("TIMED", 0.02)):
        monkeypatch.setattr(check, name, value)


def found(subject, **settings) -> dict[str, Finding]:
    findings = check_game(subject, **settings)
    assert len({one.name for one in findings}) == len(findings)
    for one in findings:
        assert one.status in ("ok", "warn", "fail")
        assert one.found
        assert one.advice
        assert "\n" not in one.found + one.advice
    return {one.name: one for one in findings}


def marked(findings: dict[str, Finding]) -> dict[str, str]:
    return {name: one.status for name, one in findings.items() if one.status != "ok"}


ITEMS = ["api", "episodes", "determinism", "observations", "spaces", "rewards", "game"]
ITEMS += ["influence", "temperature", "horizon", "speed"]


@pytest.mark.parametrize(
    "subject",
    [
        Good,
        lambda: parallel_to_aec(Good()),
        from_parallel_env(Good),
        lambda: Good(possible_agents=["driver", "city"]),
    ],
)
def test_a_good_environment_has_nothing_to_mend(subject):
    findings = found(subject)
    assert list(findings) == ITEMS
    assert marked(findings) == {}


@pytest.mark.parametrize(
    "subject",
    [
        discrete_toy.game(),
        discrete_toy.parallel_env,
        lambda: matrix.game(name="commitment"),
        four_rooms.game(),
    ],
)
def test_shipped_games_have_nothing_to_mend(subject):
    findings = found(subject)
    items = [name for name in findings if name not in ("names", "grid")]
    assert items == [*ITEMS[:-1], "gradient", "speed"]
    assert marked(findings).keys() <= {"speed"}  # a busy machine is no fault of theirs
    cosine = float(findings["gradient"].found.split("cosine of ")[1].split()[0])
    assert 0.95 < cosine <= 1


# ---------------------------------------------------------------- broken environments


class NoOptions(Good):
    def reset(self, seed=None):
        return super().reset(seed)


class Unseeded(Good):
    def step(self, actions):
        found = super().step(actions)
        if self.time == 7:
            found[1]["city"] += float(np.random.normal())  # noqa: NPY002
        return found


class Unbounded(Good):
    observation = spaces.Box(-1, 1, (2,), np.float32)

    def observed(self, agents):
        return super().observed(agents) | {"city": np.array([0.0, self.time], np.float32)}


class Double(Good):
    def observed(self, agents):
        made = super().observed(agents)
        return made | {"city": made["city"].astype(np.float64)}


class NewSpaces(Good):
    def action_space(self, agent):
        return spaces.Discrete(2, start=0 if agent == "city" else 3)


class Unpaid(Good):
    def step(self, actions):
        found = super().step(actions)
        if self.time == 5:
            found[1]["driver"] = float("nan")
        return found


class Wordy(Good):
    def step(self, actions):
        found = super().step(actions)
        found[1]["driver"] = "much"
        return found


class Deaf(Parking):
    """The city's actions change nothing but its own pay."""

    length = 100


class Mute(Good):
    def step(self, actions):
        return super().step(actions | {"city": 0} if "city" in actions else actions)


class Short(Good):
    length = 6


class Slow(Good):
    def step(self, actions):
        time.sleep(0.004)
        return super().step(actions)


class Raising(Good):
    def step(self, actions):
        if self.time == 4:
            raise RuntimeError("several\nlines")
        return super().step(actions)


class Leaving(Good):
    def reset(self, seed=None, options=None):
        sys.exit(3)


class Empty(Good):
    def reset(self, seed=None, options=None):
        found = super().reset(seed)
        self.agents = []
        return found


STEPPED = {"influence": "fail", "temperature": "fail", "horizon": "fail", "speed": "fail"}
BROKEN = {
    "no options": (NoOptions, {"api": "fail"}, "options"),
    "unseeded": (Unseeded, {"determinism": "fail"}, "differ at step 7"),
    "out of bounds": (
        Unbounded,
        {"observations": "fail"} | STEPPED,
        "of agent 'city' is not in",
    ),
    "dtype": (Double, {"observations": "warn"}, "agent 'city' observes float64"),
    "new spaces": (NewSpaces, {"api": "fail", "spaces": "warn"}, "a new object"),
    "nan": (Unpaid, {"rewards": "fail"} | STEPPED, "'driver' is paid nan at step 5"),
    "words": (Wordy, {"rewards": "fail"} | STEPPED, "'driver' is paid 'much' at step 1"),
    "deaf": (
        Deaf,
        {"influence": "warn"},
        "changes the leader's reward by up to 1 and does not change the follower's reward nor the "
        "state that the follower sees",
    ),
    "mute": (Mute, {"influence": "fail"}, "does not change the leader's reward nor the follower's"),
    "short": (Short, {"horizon": "warn"}, "after 6 steps on average"),
    "slow": (Slow, {"speed": "warn"}, "steps per second"),
    "raising": (
        Raising,
        {"api": "fail", "episodes": "fail"} | STEPPED,
        "after 4 steps of random actions, in 1 episode: RuntimeError: several lines",
    ),
    "exit": (
        Leaving,
        dict.fromkeys(["api", *ITEMS[1:4], "rewards", *STEPPED], "fail"),
        "after 0 steps of random actions, in 0 episodes: SystemExit: 3",
    ),
    "empty": (
        Empty,
        {"api": "warn"} | dict.fromkeys(["episodes", "determinism", "rewards", *STEPPED], "fail"),
        "agents is empty after reset()",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_found(name, monkeypatch):
    make, expected, said = BROKEN[name]
    if name == "slow":
        monkeypatch.setattr(check, "WALK", 20)
        make = lambda: Slow(max_cycles=5, length=5)  # noqa: E731
        expected = expected | {"horizon": "warn"}
    findings = found(make)
    assert marked(findings) == expected
    assert any(said in one.found for one in findings.values())


def test_observations_are_checked_without_steps():
    """A part that cannot be examined says so; the others are examined all the same."""
    findings = found(Leaving)
    assert findings["spaces"].status == "ok"
    assert findings["game"].status == "ok"
    assert "no step to compare" in findings["determinism"].found


@pytest.mark.parametrize(
    ("subject", "said"),
    [
        (3, "got int; pass the function"),
        (lambda: 3, "one that returns int"),
        (lambda: 1 // 0, "ZeroDivisionError"),
        (lambda: sys.exit(2), "SystemExit"),
        (lambda: Good(possible_agents=["city", "driver", "police"]), "two agents"),
        (lambda: Good(metadata={"name": "x"}), "no word of who leads"),
        (lambda: Good(action=spaces.Box(0, 1, (2,))), "finitely many actions of 'city'"),
        (
            lambda: Good(
                driver_observation=spaces.Dict(
                    {"observation": spaces.Discrete(2), "action_mask": spaces.MultiBinary(2)}
                )
            ),
            "action mask",
        ),
    ],
)
def test_what_is_no_game_is_found(subject, said):
    last = check_game(subject)[-1]
    assert (last.name, last.status) == ("game", "fail")
    assert said in f"{last.found}; {last.advice}"


# ---------------------------------------------------------------- as a game


def test_temperatures_that_hide_the_follower(monkeypatch):
    for temperature, said in ((1e4, "nearly uniform"), (1e-6, "nearly deterministic")):
        metadata = {"leader_agent": "city", "stackelberg": {"temperature": temperature}}
        findings = found(lambda m=metadata: Good(metadata=m))
        assert marked(findings) == {"temperature": "warn"}
        assert said in findings["temperature"].advice
        exactly = found(discrete_toy.game(temperature=temperature))
        assert exactly["temperature"].status == "warn"
        assert said in exactly["temperature"].advice


def test_settings_and_the_leader_are_taken():
    findings = found(Good, leader="driver", temperature=1e4)
    assert "temperature 10000" in findings["game"].found
    assert findings["temperature"].status == "warn"


def one_shot(leader_reward, follower_reward, **settings) -> TabularGame:
    return TabularGame(
        np.ones((1, 2, 2, 1)), [leader_reward], [follower_reward], termination=1.0, **settings
    )


def test_influence_in_arrays():
    flat, own = [[1, 1], [1, 1]], [[0.3, 0], [0.3, 0]]
    nothing = found(one_shot(flat, own))
    assert nothing["influence"].status == "fail"
    assert nothing["gradient"].status == "warn"
    alone = found(one_shot([[0, 0], [1, 1]], own))
    assert marked(alone) == {"influence": "warn"}
    for observes in (True, False):
        game = one_shot([[0, 1], [1, 2]], [[0.1, 0], [0, 0.1]], follower_observes_action=observes)
        assert found(game)["influence"].status == "ok"


def test_the_horizon_in_arrays():
    assert found(discrete_toy.game(horizon=20))["horizon"].status == "warn"
    long = found(discrete_toy.game(horizon=20, leader_discount=0.8, follower_discount=0.8))
    assert long["horizon"].status == "ok"
    assert "after 20 steps" in long["horizon"].found
    assert found(discrete_toy.game(horizon=10_000))["horizon"].status == "ok"


@pytest.mark.parametrize(
    ("boxes", "said"),
    [
        ({}, "actions at a step are unbounded, as exact solutions take it"),
        ({"follower_space": 1}, "the bounds of the follower's Box(-1.0, 1.0, (1,), float32) are"),
        (
            {"follower_space": 1, "leader_space": 2},
            "follower's Box(-1.0, 1.0, (1,), float32) and the bounds of the leader's Box(-2.0, 2.0",
        ),
    ],
)
def test_bounds_that_exact_solutions_do_not_know(boxes, said):
    given = {name: spaces.Box(-high, high, (1,)) for name, high in boxes.items()}
    cost = np.diag([0.0, 1.0, 1.0, 1.0])
    item = found(LinearGame([[0.0, 0.5, 0.1, 0.5]], cost, cost, noise=[[0.1]], **given))
    assert said in item["bounds"].found
    assert item["bounds"].status == ("warn" if boxes else "ok")


def test_a_limit_that_exact_solutions_do_not_know():
    cost = np.diag([0.0, 1.0, 1.0, 1.0])
    item = found(LinearGame([[0.0, 0.5, 0.1, 0.5]], cost, cost, noise=[[0.1]], limit=2.5))
    assert "clipped to 2.5 either way" in item["bounds"].found
    assert item["bounds"].status == "warn"


def test_designs_keep_to_their_bounds():
    assert found(building.game())["bounds"].status == "ok"


def test_a_gradient_from_too_little_play(monkeypatch):
    monkeypatch.setattr(check, "STREAMS", 1)
    monkeypatch.setattr(check, "LONGEST", 1)
    findings = found(discrete_toy.game())
    assert "from 2 steps of play" in findings["gradient"].found
    assert findings["gradient"].status == "warn"


def test_nothing_is_printed_and_no_seed_is_touched(capsys, recwarn):
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    found(Double)
    said = capsys.readouterr()
    assert (said.out, said.err, len(recwarn)) == ("", "", 0)
    np.testing.assert_array_equal(state, np.random.get_state()[1])  # noqa: NPY002


# ---------------------------------------------------------------- by command


FILE = """
import sys
sys.path.insert(0, {tests!r})
import test_check

def good(length: int = 100):
    return test_check.Good(length=length)

def bad():
    return test_check.Unpaid()
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(FILE.format(tests=str(Path(__file__).parent)))
    yield
    sys.modules.pop("_own_mine", None)


def test_check_by_command(file, capsys):
    arguments = ["check", "mine.py:good", "--leader-agent", "driver"]
    assert cli.main([*arguments, "--game-option", "temperature=0.2"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert "temperature 0.2" in said.out
    assert said.out.endswith("11 items: 0 to mend, 1 to look at\n")
    assert cli.main(["check", "mine.py:bad"]) == 2
    said = capsys.readouterr()
    assert said.err == ""
    assert "fail rewards" in said.out
    assert "to do: pay finite numbers" in said.out
    assert cli.main(["check", "mine.py:bad", "--json"]) == 2
    answer = json.loads(capsys.readouterr().out)
    assert answer["fit"] is False
    assert [one["status"] for one in answer["findings"] if one["name"] == "rewards"] == ["fail"]
    assert cli.main(["check", "discrete_toy", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["fit"] is True
    for line in (["absent.py:game"], ["discrete_toy", "--leader-agent", "leader"]):
        assert cli.main(["check", *line]) == 2
        assert capsys.readouterr().out == ""


def test_a_game_of_another_environment_is_checked_through_its_own():
    findings = found(parallel_env(discrete_toy.game()).game)
    assert list(findings) == [*ITEMS[:-1], "names", "gradient", "speed"]


def test_a_follower_may_act_in_a_box():
    box = spaces.Box(-1.0, 1.0, (1,), np.float32)
    found = {f.name: f for f in check_game(lambda: Parking(driver_action=box))}
    assert "fail" not in {item.status for item in found.values()}
    assert found["game"].status == "ok"
    assert "follower Box(-1.0, 1.0, (1,), float32)" in found["game"].found
