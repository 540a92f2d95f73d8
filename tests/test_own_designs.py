"""What a game of one's own returns: `check` compares it with play, play with the contract."""

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from linear_games import design_game
from pull import PullDesign, PullFollower, PullScored

from agents import FreeDesign, default_leader
from games.linear import LinearGame, product, squared_error
from games.tabular import TabularGame
from stackelberg import Coordinator, Finding, TrainConfig, check, check_game
from stackelberg.best_known import BestKnown
from stackelberg.errors import InputError
from stackelberg.game import Game, Reenacted, Step
from stackelberg.oracle import committed, oracle, without_maximum
from stackelberg.registry import make_follower
from stackelberg.search import solve
from stackelberg.vector import VectorSteps


class Flow(Game):
    """s' = (0.9 - x) s + 0.3 b + rain; noise in neither reward."""

    name, leader_moves, moves_transition = "flow", "once", True

    def __init__(self, **settings) -> None:
        rules = {"leader_discount": 0.9, "follower_discount": 0.9, "temperature": 0.3}
        super().__init__(**{"horizon": 20} | rules | settings)
        self.leader_space = spaces.Box(0.0, 0.8, (2,))
        self.follower_space = spaces.Discrete(3)
        self.observation_space = spaces.Box(0.0, 50.0, (2,))

    def initial(self, n: int, generator: torch.Generator) -> torch.Tensor:
        return torch.rand(n, 2, generator=generator)

    def observe(self, state: torch.Tensor) -> torch.Tensor:
        return state.float()

    def move(self, level, drain, water):
        following = (0.9 - drain) * level + 0.3 * water.unsqueeze(-1)
        flood = level.square().sum(-1)
        return following, 2 * water - flood - 3 * drain.sum(-1), water - flood + drain[:, 0]

    def step(self, state, leader_action, follower_action, generator) -> Step:
        following, ours, theirs = self.move(state, leader_action, follower_action)
        rain = 0.1 * torch.rand(state.shape, generator=generator)
        return Step(following + rain, ours, theirs, torch.zeros(len(state), dtype=torch.bool))

    def reenact(self, observation, leader_action, follower_action, next_observation):
        following, ours, theirs = self.move(observation, leader_action, follower_action)
        return Reenacted(next_observation + following - following.detach(), ours, theirs)


def item(game: Game, name: str = "derivative") -> Finding:
    (found,) = (one for one in check_game(game) if one.name == name)
    return found


@pytest.fixture(autouse=True)
def shorter(monkeypatch):
    for name, value in (("WALK", 20), ("COPIES", 8), ("TIMED", 0.01), ("LONGEST", 10)):
        monkeypatch.setattr(check, name, value)


@pytest.mark.parametrize("game", [Flow(), design_game(), PullDesign(), PullScored()])
def test_what_is_told_rightly_is_found_right(game):
    assert item(game).status == "ok"


def wrong(change):
    """Flow whose reenact is changed: what it is given, and the right answer, to another answer."""

    class Wrong(Flow):
        def reenact(self, *recorded):
            return change(recorded, super().reenact(*recorded))

    return Wrong


def turned(recorded, found):
    return found._replace(observation=2 * recorded[3] - found.observation)


def half(recorded, found):
    paid = found.leader_reward
    return found._replace(leader_reward=(paid + paid.detach()) / 2)


def partly(recorded, found):
    """The second number alone stands still."""
    first, second = found.observation.unbind(-1)
    return found._replace(observation=torch.stack([first, second.detach()], -1))


MISTAKES = {
    "sign": (turned, "fail", "next observation has a derivative of the wrong sign"),
    "size": (half, "fail", "the leader's reward has another derivative than step()"),
    "part": (partly, "fail", "number 2 of the next observation has no derivative"),
    "detached": (
        lambda _, found: Reenacted(*(part.detach() for part in found)),
        "fail",
        "number 1 of the next observation has no derivative",
    ),
    "reward detached": (
        lambda _, found: found._replace(follower_reward=found.follower_reward.detach()),
        "fail",
        "the follower's reward has no derivative",
    ),
    "observation recorded": (
        lambda recorded, found: found._replace(observation=recorded[3]),
        "fail",
        "next observation has no derivative",
    ),
    "observation shifted": (
        lambda _, found: found._replace(observation=found.observation + 1),
        "fail",
        "by step() and",
    ),
    "reward shifted": (
        lambda _, found: found._replace(leader_reward=found.leader_reward + 9),
        "warn",
        "the leader's reward is",
    ),
    "tuple": (lambda _, found: tuple(found), "fail", "stackelberg.game.Reenacted"),
    "column": (
        lambda _, found: found._replace(leader_reward=found.leader_reward[:, None]),
        "fail",
        "expected leader_reward of reenact() to be a tensor of shape [160] of real numbers",
    ),
    "width": (
        lambda _, found: found._replace(observation=found.observation[:, :1]),
        "fail",
        "expected observation of reenact() to be a tensor of shape [160, 2]",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_what_is_told_wrongly_is_found(name):
    change, status, said = MISTAKES[name]
    found = item(wrong(change)())
    assert found.status == status
    assert said in found.found
    assert found.advice != "nothing to do"


@pytest.mark.parametrize("name", ["tuple", "column", "width"])
def test_training_names_what_reenact_returns_wrongly(name):
    class Wrong(PullDesign):
        def reenact(self, *recorded):
            return MISTAKES[name][0](recorded, super().reenact(*recorded))

    class Wide(PullDesign):
        def reenact(self, *recorded):
            found = super().reenact(*recorded)
            return found._replace(observation=found.observation.expand(-1, 3))

    game = Wide() if name == "width" else Wrong()
    leader = FreeDesign(2, (0,), 0.5)
    config = TrainConfig(iterations=1, access="trajectories", streams=4, steps=5)
    with pytest.raises(InputError, match=r"expected .*reenact\(\) to"):
        Coordinator(game, leader, PullFollower(leader), config, seeds=(0,)).run()


def test_steps_that_end_or_jump_are_left_out():
    class Ending(Flow):
        """Nothing follows where the level is high, which reenact does not know."""

        def step(self, state, leader_action, follower_action, generator):
            moved = super().step(state, leader_action, follower_action, generator)
            over = moved.state[:, 0] > 0.8
            return moved._replace(
                state=torch.where(over[:, None], 0.0, moved.state), terminated=over
            )

    class Jumping(Flow):
        def move(self, level, drain, water):
            following, ours, theirs = super().move(level, drain, water)
            return following, ours + (1e4 * drain[:, 0]).round() % 2, theirs

    assert item(Ending()).status == "ok"
    assert item(Jumping()).status == "ok"


def test_chance_from_elsewhere_is_told():
    class Loose(Flow):
        draws = np.random.default_rng(0)

        def step(self, state, leader_action, follower_action, generator):
            moved = super().step(state, leader_action, follower_action, generator)
            return moved._replace(leader_reward=moved.leader_reward + 1e-6 * self.draws.normal())

    found = item(Loose())
    assert (found.status, found.advice) == ("warn", "draw all chance from the generator given")


def test_a_design_of_which_nothing_is_told():
    class Silent(Flow):
        reenact = Game.reenact

    found = item(Silent())
    assert found.status == "fail"
    assert "neither by reenact() nor by log_transition()" in found.found


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda chance: chance.detach(), "has no derivative"),
        (lambda chance: chance * math.inf, "is not finite in"),
        (
            lambda chance: chance[:, None],
            "result of log_transition() to be a tensor of shape [",
        ),
    ],
)
def test_densities_that_are_wrong(change, said):
    class Wrong(PullScored):
        def log_transition(self, *recorded):
            return change(super().log_transition(*recorded))

    found = item(Wrong())
    assert found.status == "fail"
    assert said in found.found


# ---------------------------------------------------------------- what a game returns


def stepping(game: Game, copies: int = 4) -> VectorSteps:
    vector = game.vector(copies, torch.Generator().manual_seed(0))
    vector.step(torch.full((copies, 2), 0.4, dtype=torch.float64), torch.ones(copies).long())
    return vector


def changed(**parts):
    class Changed(Flow):
        def step(self, *given):
            moved = super().step(*given)
            return moved._replace(
                **{name: change(getattr(moved, name)) for name, change in parts.items()}
            )

    return Changed()


@pytest.mark.parametrize(
    ("part", "change", "said"),
    [
        ("leader_reward", lambda x: x[:, None], r"\[4\] of real numbers; got .*\[4, 1\]"),
        ("follower_reward", lambda x: x.mean(), r"\[4\] of real numbers; got .*\[\]"),
        ("follower_reward", lambda x: 1.0, r"\[4\] of real numbers; got float"),
        ("terminated", lambda x: x.float(), r"\[4\] of booleans; got .*torch.float32"),
        ("terminated", lambda x: x[:, None], r"\[4\] of booleans; got .*\[4, 1\]"),
        ("state", lambda x: x[:2], r"\[4, 2\]; got .*\[2, 2\]"),
        ("state", lambda x: x[:, 0], r"\[4, 2\]; got .*\[4\]"),
    ],
)
def test_what_a_step_returns_wrongly_is_named(part, change, said):
    with pytest.raises(InputError, match=rf"expected {part} of step\(\) .*{said}.*mend step\(\)"):
        stepping(changed(**{part: change}))


def test_a_step_that_is_none_and_observations_of_the_wrong_width_are_named():
    class Bare(Flow):
        def step(self, *given):
            return tuple(super().step(*given))

    class Wide(Flow):
        def observe(self, state):
            return state.float()[:, :1]

    class Single(Flow):
        def initial(self, n, generator):
            return torch.zeros(1, 2)

    class Flat(Flow):
        def __init__(self):
            super().__init__()
            self.observation_space = spaces.Discrete(2)

    for game, said in (
        (Bare(), r"expected step\(\) to return stackelberg.game.Step"),
        (Wide(), r"expected the result of observe\(\) .* \[4, 2\] of real numbers; got .*\[4, 1\]"),
        (Single(), r"expected the state of initial\(\) .*\[4, 2\]; got .*\[1, 2\]"),
        (Flat(), r"expected a Box \(d,\) as space of what observe\(\) returns; got Discrete"),
    ):
        with pytest.raises(InputError, match=said):
            stepping(game)


def test_what_is_right_is_looked_at_once():
    """Steps that come later cost no more."""
    vector = stepping(Flow())
    assert vector._known


def test_observations_are_of_single_precision_whatever_the_states_are():
    class Double(Flow):
        def initial(self, n, generator):
            return super().initial(n, generator).float()

        def observe(self, state):
            return state

    vector = stepping(Double())
    assert vector._state.dtype == torch.float64
    assert vector.leader_observation.dtype == torch.float32
    vector.reset(torch.tensor([True, False, False, True]))
    assert vector.follower_observation.dtype == torch.float32


@pytest.mark.parametrize("name", ["leader_space", "follower_space", "observation_space"])
def test_a_space_that_was_forgotten_is_named(name):
    class Forgetful(Flow):
        def __init__(self):
            super().__init__()
            delattr(self, name)

    game = Forgetful()
    with pytest.raises(InputError, match=rf"a game with a {name}: .*set self.{name} in __init__"):
        getattr(game, name)
    (found,) = check_game(game)
    assert (found.status, found.advice[: len(f"set self.{name}")]) == ("fail", f"set self.{name}")


@pytest.mark.parametrize(
    ("make", "nearest"),
    [
        (lambda: Flow(discount=0.9), "leader_discount"),
        (lambda: LinearGame([[0, 0, 0, 1]], np.eye(4), np.eye(4), nois=[[1.0]]), "noise"),
        (lambda: TabularGame(np.ones((1, 1, 1, 1)), 0, 0, terminaton=1.0), "termination"),
    ],
)
def test_a_misspelt_setting_has_a_nearest_one(make, nearest):
    with pytest.raises(InputError, match=rf"expected a setting of .*did you mean {nearest}\?"):
        make()


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ({"states": ["a", "b"]}, "the key 'states', where"),
        ({"state": "level"}, "no sequence of strings"),
        ({"leader": [1, 2]}, "no sequence of strings"),
        ({"leader": ["left"]}, "names['leader'] has 1 words for 2 numbers or choices"),
        ({"follower": ["none", "some"]}, "names['follower'] has 2 words for 3 numbers or choices"),
        ({"state": "ab"}, ""),
        ({"state": ["a", "b"], "follower": ["none", "some", "much"]}, ""),
    ],
)
def test_names_that_fit_nothing_are_found(names, said):
    game = Flow()
    game.names = names
    found = item(game, "names")
    assert found.status == ("warn" if said else "ok")
    assert said in found.found


def test_the_contract_stands_in_the_help():
    for word in ("moves_transition:", "names:", '"state"', '"leader"', '"follower"'):
        assert word in Game.__doc__
    assert "[n] bool" in Step.__doc__
    assert "[n, d]" in Reenacted.__doc__


# ---------------------------------------------------------------- no maximum

PAID = -2 * product(4, 2, 3)  # the leader lives by what the follower pays it


@pytest.mark.parametrize(
    ("leader_cost", "grows"),
    [
        (squared_error(4, 1) - squared_error(4, 2), True),
        (-product(4, 0, 3), True),  # linear in the follower's action, which it moves at no cost
        (PAID + 0.1 * squared_error(4, 2), True),
        (PAID + 5.0 * squared_error(4, 2), False),
        (squared_error(4, 1) + squared_error(4, 2) - product(4, 0, 2), False),
        (np.zeros((4, 4)), False),
    ],
)
def test_an_objective_that_grows_without_end_is_found(leader_cost, grows, tmp_path):
    theirs = squared_error(4, 3) + squared_error(4, 1) - product(4, 2, 3)
    rules = {"leader_discount": 0.9, "follower_discount": 0.9, "noise": [[0.1]]}
    game = LinearGame([[0.0, 0.5, 0.0, 0.0]], leader_cost, theirs, **rules)
    rows = [torch.tensor([[c, 0.0, 0.1]]) for c in (0.0, 1e2, 1e4, 1e6)]
    worth = [oracle(game, committed(game, row[None])).objective.item() for row in rows]
    assert (worth[3] > worth[2] > worth[1] > worth[0] + 1) == grows
    best_known = BestKnown(tmp_path / "best_known.json")
    assert best_known.offer(game, rows[3], "test") is not grows
    assert (best_known.best(game) is None) == grows
    found = item(game, "bounds")
    assert found.status == ("warn" if grows else "ok")
    assert ("grows without end" in found.found) == grows
    if grows:
        with pytest.raises(InputError, match="expected a leader's objective that has a maximum"):
            solve(game, default_leader(game, (0, 1)), steps=2, polish=2)


def test_a_leader_without_a_constant_cannot_go_along_it():
    cost = squared_error(4, 1) - squared_error(4, 2)
    game = LinearGame([[0.0, 0.5, 0.0, 0.5]], cost, np.eye(4), affine=False)
    assert without_maximum(game) is None


def test_sac_says_plainly_which_games_it_takes():
    with pytest.raises(InputError, match="whose follower acts in a Box of one dimension"):
        make_follower("sac").check(Flow())
