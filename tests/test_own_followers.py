"""Followers that a user brings: a name and two methods, and all that a leader sees is actions."""

import re
import textwrap
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from strategies import Recipe, random_design_game, random_game

from agents import ExactFollower, TabularSoftmax, default_leader
from games import discrete_toy
from stackelberg import Coordinator, InputError, TrainConfig, exact
from stackelberg.cli import main
from stackelberg.identity import identity
from stackelberg.registry import make_follower, make_game
from stackelberg.types import commit

TOY = discrete_toy.game()
DESIGN = random_design_game(Recipe(seed=4, states=3, follower_actions=3))


class Rule:
    """Follows the leader: action number (state + leader's action), but for one step in ten."""

    name = "rule"

    def best_respond(self, game, commitment, seeds):
        self.count = int(game.follower_space.n)
        return self

    def sample(self, observation, leader_action, generator):
        state = observation.argmax(-1)
        told = leader_action if leader_action.dim() == 2 else torch.zeros_like(state)
        any_ = torch.randint(self.count, state.shape, generator=generator)
        strays = torch.rand(state.shape, generator=generator) < 0.1
        return torch.where(strays, any_, (state + told) % self.count)

    def table(self, states: int, leader_actions: int) -> torch.Tensor:
        """What it does, in numbers [1, S, A, B]."""
        odds = torch.full((1, states, leader_actions, self.count), 0.1 / self.count)
        for s, a in np.ndindex(states, leader_actions):
            odds[0, s, a, (s + a) % self.count] += 0.9
        return odds.double()


class Hidden:
    """Solves for its exact best response, and shows what it does alone."""

    name = "hidden"

    def best_respond(self, game, commitment, seeds):
        self.response = ExactFollower().best_respond(game, commitment, seeds)
        return self

    def sample(self, observation, leader_action, generator):
        return self.response.sample(observation, leader_action, generator)


def trained(game, follower, iterations=30, out=None, resume=False, stop=None, **settings):
    config = TrainConfig(
        iterations=iterations,
        evaluation_episodes=50,
        checkpoint_every=4,
        **{"access": "trajectories"} | settings,
    )
    leader = default_leader(game, (0, 1))
    coordinator = Coordinator(game, leader, follower, config, seeds=(0, 1), out=out, resume=resume)

    def report(row):
        if row["iteration"] == stop:
            raise ZeroDivisionError

    return coordinator.run(report), coordinator


@pytest.mark.parametrize("estimate", [False, True])
def test_against_one_that_hides_its_best_response_the_optimum_is_found(estimate):
    result, _ = trained(TOY, Hidden(), 25, estimate_temperature=estimate)
    assert min(result.summary["leader_return"]["exact"]) > 0.95 * TOY.optimum
    last = result.metrics[-1]
    assert last["leader_objective"] is None
    assert last["leader_estimate"][0] == pytest.approx(TOY.optimum, rel=0.05)


@pytest.mark.parametrize("game", [TOY, DESIGN, random_game(Recipe(seed=5, states=4))])
def test_against_a_rule_the_leader_learns_what_the_rule_is_worth(game):
    """What it believes its objective to be is the true one against the rule.

    Nothing foresees how a rule answers, so that the leader's own gradient is all there is to climb.
    """
    rule = Rule()
    result, coordinator = trained(game, rule, 30, estimator="naive", streams=6, steps=100)
    with torch.no_grad():
        commitment = commit(game, coordinator.leader)
        model = game.model(commitment.design)
        table = rule.table(model.states, model.leader_actions).expand(2, -1, -1, -1)
        truth = exact.leader_return(model, commitment.policy, table)
        start = commit(game, default_leader(game, (0, 1)))
        before = exact.leader_return(game.model(start.design), start.policy, table)
    assert (truth > before).all()
    spread = model.leader_reward.max() - model.leader_reward.min()
    scale = spread / (1 - game.leader_discount)
    estimate = torch.tensor(result.metrics[-1]["leader_estimate"])
    assert ((estimate - truth).abs() < 0.05 * scale).all()
    mean = torch.tensor(result.summary["leader_return"]["mean"])
    half = torch.tensor(result.summary["leader_return"]["ci95"])
    assert ((mean - truth).abs() < 2 * half + 1e-3 * scale).all()


@pytest.mark.parametrize("estimator", ["sampled-trace", "gae", "hpgd-mc", "bc-hg", "es"])
def test_other_estimators_meet_one_that_hides(estimator):
    result, _ = trained(TOY, Hidden(), 3, estimator=estimator)
    assert len(result.metrics) == 3


def test_what_starts_elsewhere_needs_tables():
    with pytest.raises(InputError, match=r"responds in tables.*Hidden.*another estimator"):
        trained(TOY, Hidden(), 2, estimator="hpgd-oracle")


def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(tmp_path):
    whole, _ = trained(TOY, Rule(), 9)
    with pytest.raises(ZeroDivisionError):
        trained(TOY, Rule(), 9, out=tmp_path, stop=6)
    resumed, _ = trained(TOY, Rule(), 9, out=tmp_path, resume=True)

    def plain(rows):
        return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]

    assert plain(resumed.metrics) == plain(whole.metrics)
    assert resumed.summary["leader_return"] == whole.summary["leader_return"]


def test_the_readme_follower_runs(tmp_path):
    """As on the command line, beside the README's game."""
    text = (Path(__file__).parent.parent / "README.md").read_text()
    for name, mark in (("inspections", "def inspections"), ("driver", "class Cautious")):
        blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
        (tmp_path / f"{name}.py").write_text(next(block for block in blocks if mark in block))
    game = make_game(f"{tmp_path / 'inspections.py'}:inspections")
    follower = make_follower(f"{tmp_path / 'driver.py'}:Cautious", ["slips=0.1"])
    result, _ = trained(game, follower, 10)
    assert follower.slips == 0.1
    assert len(result.metrics) == 10


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize("access", ["policy", "value"])
def test_one_that_is_its_own_response_is_refused_before_it_trains(access):
    class Slow(Rule):
        def best_respond(self, *arguments):
            raise AssertionError("trains")

    with pytest.raises(InputError, match=rf"log_prob\(\).*'{access}'.*Slow.*access trajectories"):
        trained(TOY, Slow(), access=access)


def test_any_other_is_refused_before_play():
    class Two(Hidden):
        def best_respond(self, *arguments):
            super().best_respond(*arguments)
            return Acting()

    class Acting:
        def sample(self, *arguments):
            raise AssertionError("plays")

        log_prob = sample

    Two.sample = property()
    with pytest.raises(InputError, match=r"response with value\(\).*Acting.*trajectories"):
        trained(TOY, Two(), access="value")


class Wrong(Rule):
    def __init__(self, change):
        self.change = change

    def sample(self, *arguments):
        return self.change(super().sample(*arguments))


@pytest.mark.parametrize(
    ("change", "got"),
    [
        (lambda b: b[0], "shape"),
        (lambda b: b.unsqueeze(-1), r"shape \[2, 3, 1\]"),
        (lambda b: b[:, :2], r"shape \[2, 2\]"),
        (lambda b: b.double(), "float64"),
        (lambda b: b > 0, "bool"),
        (lambda b: b + 3, "to [345]"),
        (lambda b: b - 1, "from -1"),
        (lambda b: b.numpy(), "ndarray"),
        (lambda b: None, "NoneType"),
    ],
)
def test_actions_that_do_not_fit_are_one_clear_error(change, got):
    with pytest.raises(InputError, match=rf"expected .*sample\(\).*\[2, 3\].*got .*{got}.*Wrong"):
        trained(TOY, Wrong(change), 1)


def test_int32_actions_will_do():
    result, _ = trained(TOY, Wrong(lambda b: b.int()), 1)
    assert len(result.metrics) == 1


@pytest.mark.parametrize("answer", [None, 3, "response"])
def test_a_response_that_is_none_is_one_clear_error(answer):
    class Mute(Rule):
        sample = property()

        def best_respond(self, *arguments):
            return answer

    with pytest.raises(InputError, match=r"best_respond\(\) returns a response.*return self"):
        trained(TOY, Mute(), 1)


def test_no_follower_at_all_is_one_clear_error():
    class Idle:
        name = "idle"

    class Nameless:
        def best_respond(self, *arguments):
            return self

    for follower in (Idle(), Nameless(), Rule):
        with pytest.raises(InputError, match=r"a follower object.*name"):
            trained(TOY, follower, 1)


def test_any_attributes_survive_a_run_directory(tmp_path):
    class Odd(Rule):
        __slots__ = ()
        kept: ClassVar = object()

        def __init__(self):
            self.net = torch.nn.Linear(2, 2)
            self.function = lambda x: x
            self.array, self.numbers = np.ones(3), {"a": object()}
            self.state = "not a method"
            self.rate, self.config = float("nan"), TrainConfig()

    class Slotted:
        __slots__ = ()
        name = "slotted"
        best_respond, sample = Hidden.best_respond, Hidden.sample

    trained(TOY, Odd(), 2, out=tmp_path / "run")
    trained(TOY, Odd(), 3, out=tmp_path / "run", resume=True)
    found = identity(TOY, TabularSoftmax(3, 2), Slotted())
    assert found["follower_settings"] == {"class": "Slotted"}


# ---------------------------------------------------------------- on the command line

FILE = """
    import torch

    class Rule:
        name = "rule"

        def __init__(self, action: int = 0):
            self.action = action

        def best_respond(self, game, commitment, seeds):
            return self

        def sample(self, observation, leader_action, generator):
            return torch.full(observation.shape[:2], self.action)

    def two():
        return Rule(2)

    def nothing():
        return None

    class Empty:
        name = "empty"
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "followers.py"
    path.write_text(textwrap.dedent(FILE))
    return path


def test_a_follower_from_a_file(file, monkeypatch):
    assert make_follower(f"{file}:Rule").action == 0
    assert make_follower(f"{file}:Rule", ["action=1"]).action == 1
    assert make_follower(f"{file}:two").action == 2
    monkeypatch.chdir(file.parent)
    assert make_follower("followers:two").action == 2


@pytest.mark.parametrize(
    ("reference", "options", "expected"),
    [
        ("{file}:Absent", (), "'Absent' in .*Rule, two"),
        ("{file}:nothing", (), "a follower from .*NoneType"),
        ("{file}:Empty", (), "a follower from .*Empty"),
        ("{file}:Rule", ("speed=1",), "an option of follower .*action"),
        ("{file}:Rule", ("action=x",), "action: an integer"),
        ("nowhere.py:Rule", (), "an existing file"),
        ("rule", (), "one of the followers .*exact, .*file.py:Class"),
    ],
)
def test_a_follower_that_cannot_be_made_is_one_clear_error(file, reference, options, expected):
    with pytest.raises(InputError, match=f"expected .*{expected}"):
        make_follower(reference.format(file=file), options)


def test_the_command_line_takes_it_and_resumes_with_it(file, tmp_path, capsys):
    out, follower = tmp_path / "run", f"{file}:Rule"
    given = ["train", "discrete_toy", "--out", str(out), "--quiet"]
    options = ["--follower", follower, "--follower-option", "action=1", "--iterations", "2"]
    assert main([*given, *options]) == 2
    assert "access trajectories" in capsys.readouterr().err
    assert not out.exists()
    assert main([*given, *options, "--access", "trajectories"]) == 0
    assert main([*given, "--resume", "--iterations", "3"]) == 0
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize("method", ["best_respond", "sample"])
def test_one_that_fails_costs_no_iteration(method, tmp_path):
    """One clear error, and a checkpoint of the last whole iteration from which to go on."""

    class Failing(Rule):
        calls = 0

        def best_respond(self, game, commitment, seeds):
            Failing.calls += 1
            if method == "best_respond" and Failing.calls == 4:
                raise IndexError("no such road")
            return super().best_respond(game, commitment, seeds)

        def sample(self, observation, leader_action, generator):
            if method == "sample" and Failing.calls == 4:
                raise IndexError("no such road")
            return super().sample(observation, leader_action, generator)

    with pytest.raises(InputError, match=rf"{method}\(\).*IndexError: no such road"):
        trained(TOY, Failing(), 5, out=tmp_path)
    found, _ = trained(TOY, Failing(), 5, out=tmp_path, resume=True)
    assert Failing.calls == 4 + 3
    expected, _ = trained(TOY, Failing(), 5)
    returns = [[row["leader_return"] for row in run.metrics] for run in (found, expected)]
    assert returns[0] == returns[1]


@pytest.mark.parametrize("gap", [0.5, np.array([0.5, 0.25]), torch.tensor([0.5, 0.25])])
def test_its_own_gap_is_told(gap):
    class Telling(Rule):
        def best_respond(self, game, commitment, seeds):
            self.gap = gap
            return super().best_respond(game, commitment, seeds)

    result, _ = trained(TOY, Telling(), 1)
    assert result.metrics[0]["follower_gap"] == [0.5, 0.5 if isinstance(gap, float) else 0.25]


@pytest.mark.parametrize("gap", ["small", [0.1, 0.2, 0.3], lambda: 0.5])
def test_a_gap_that_is_none_is_an_error(gap):
    class Telling(Rule):
        def best_respond(self, game, commitment, seeds):
            self.gap = gap
            return super().best_respond(game, commitment, seeds)

    with pytest.raises(InputError, match="a response's gap: a number"):
        trained(TOY, Telling(), 1)
