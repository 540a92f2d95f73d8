"""Evaluation: exact numbers, fresh followers, what resuming keeps, statistics of known values."""

import copy
import csv
import functools
import io
import itertools
import json
import math
import os
import pickle
import re
import sys
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hidden import HidingFollower, Lookup, coded
from random_games import iterated_objective
from scipy import stats
from small_envs import Parking
from strategies import Recipe, random_game

from agents import ExactFollower, SoftQConfig, SoftQFollower, default_leader
from games import building, discrete_toy, duopoly, four_rooms, lqr, matrix
from games.linear import LinearGame
from stackelberg import (
    BestKnown,
    Coordinator,
    InputError,
    TrainConfig,
    evaluate,
    exact,
    linear,
    load_leader,
    statistics,
)
from stackelberg.evaluation import default_followers
from stackelberg.evaluation_result import EvaluationResult
from stackelberg.figures import draw_cross_play
from stackelberg.frozen import frozen
from stackelberg.game import Game, Step
from stackelberg.oracle import in_matrices
from stackelberg.parallel import from_parallel_env
from stackelberg.progress import progress_bar
from stackelberg.types import commit, inside

TOY = discrete_toy.game()
SOMETIMES = np.array([[0.5, 0.5], [0.8, 0.2], [0.5, 0.5]])  # close in A every fifth time
MIXED = np.array([[0.6, 0.4]])  # in the commitment game
QUICK = {"seeds": (0,), "episodes": 20}
NAMES = ("leader_discounted", "leader_undiscounted", "follower_discounted", "follower_undiscounted")
DICE = np.random.default_rng(0)

small_soft_q = functools.partial(SoftQFollower, SoftQConfig(first_steps=32_768))


def commitment_payoffs(strategy: np.ndarray, temperature: float) -> dict[str, float]:
    """By hand: what both are paid in the commitment game, where the follower sees no action."""
    ours, theirs = map(np.array, matrix.CLASSICS["commitment"])
    weight = np.exp(strategy @ theirs / temperature)
    response = weight[0] / weight.sum()
    paid = {"leader": strategy @ ours @ response, "follower": strategy @ theirs @ response}
    return {who: one.item() for who, one in paid.items()}


def z_scores(result: EvaluationResult, truth: dict[str, float]) -> list[float]:
    """How many standard errors every row's returns are off."""
    found = []
    for row, (name, value) in itertools.product(result.rows, truth.items()):
        standard = row[f"{name}_ci95"] / stats.t.ppf(0.975, row["episodes"] - 1)
        found.append((row[name] - value) / standard)
    return found


# ---------------------------------------------------------------- against exact numbers


def test_intervals_cover_what_matrix_games_pay():
    """Of 60 independent intervals of 95 %, at least 52 hold the truth, by chance or not."""
    result = evaluate(MIXED, matrix.game(), ["exact"], seeds=range(60), episodes=100)
    truth = commitment_payoffs(MIXED, 0.1)
    for who in ("leader", "follower"):
        z = z_scores(result, {f"{who}_discounted": truth[who]})
        assert sum(abs(one) < stats.t.ppf(0.975, 99) for one in z) >= 52
        assert abs(np.mean(z)) < 4 / math.sqrt(60)
    for row in result.rows:
        assert row["leader_exact"] == pytest.approx(truth["leader"], rel=1e-12)
        assert row["leader_undiscounted"] == row["leader_discounted"]  # of one step
        assert (row["follower_gap"], row["gap_source"]) == (0.0, "exact")


def test_a_leader_of_discrete_toy_and_its_regret():
    result = evaluate(SOMETIMES, TOY, ["exact"], seeds=range(3), episodes=400)
    value = iterated_objective(TOY.model(), torch.tensor(SOMETIMES), 4000)
    (standing,) = result.standings
    assert standing["objective"] == pytest.approx(value, rel=1e-9)
    assert standing["regret"] == pytest.approx(TOY.optimum - value, rel=1e-9)
    assert standing["optimum_source"] == "game"
    (summary,) = result.summary()
    assert summary["regret"] == standing["regret"] > 0.1
    assert abs(summary["leader_discounted"] - value) < 4 * summary["leader_discounted_ci95"]
    assert max(map(abs, z_scores(result, {"leader_discounted": value}))) < 4


def test_undiscounted_returns_end_at_the_time_limit():
    """Ahead in time: the distribution over states of each of the 12 steps, and what it pays."""
    game = discrete_toy.game(horizon=12)
    model, policy = game.model(), torch.tensor(SOMETIMES)[None]
    response = exact.best_response(model, policy).policy
    weight = (policy.unsqueeze(-1) * response)[0]
    kernel = torch.einsum("sab,sabt->st", weight, model.transition)
    where, paid = model.initial, {"leader": 0.0, "follower": 0.0}
    for _ in range(12):
        for who in paid:
            reward = (weight * getattr(model, f"{who}_reward")).sum((1, 2))
            paid[who] += (where @ reward).item()
        where = where @ kernel
    result = evaluate(SOMETIMES, game, ["exact"], seeds=range(2), episodes=400)
    assert result.about["undiscounted_horizon"] == 12
    for row in result.rows:
        assert (row["discounted_horizon"], row["discounted_rest"]) == (917, 0.99**917)
    z = z_scores(result, {f"{who}_undiscounted": value for who, value in paid.items()})
    assert max(map(abs, z)) < 4


def test_a_design_in_four_rooms():
    game = four_rooms.game()
    spending = np.random.default_rng(0).dirichlet(np.ones(game.leader_space.shape[0] + 1))
    design = game.leader_space.total * spending[:-1]
    result = evaluate(design, game, ["exact"], **QUICK)
    rows = torch.tensor(design)[None]
    ones = torch.ones(1, game.states, 1, dtype=torch.float64)
    value = exact.objective(game.model(rows), ones).item()
    assert result.standings[0]["objective"] == pytest.approx(value, rel=1e-12)
    assert result.rows[0]["leader_exact"] == pytest.approx(value, rel=1e-12)


def test_soft_q_comes_close_to_the_exact_follower():
    result = evaluate(SOMETIMES, TOY, ["exact", small_soft_q], seeds=(0, 1), episodes=200)
    best, learned = result.summary()
    assert (best["follower"], learned["follower"]) == ("exact", "soft-q")
    assert learned["leader_exact"] == pytest.approx(best["leader_exact"], rel=0.02)
    assert 0 < learned["worst_gap"] < 0.05
    assert all(row["follower_steps"] > 0 for row in result.rows if row["follower"] == "soft-q")
    assert max(map(abs, z_scores(result, {"leader_discounted": learned["leader_exact"]}))) < 5


def test_without_tables_returns_are_the_same_and_regret_is_sampled():
    inner = random_game(Recipe(seed=3))
    inner.optimum = 7.0
    game = coded(inner)
    policy = torch.softmax(torch.randn(1, inner.states, inner.leader_space.n).double(), -1)
    value = exact.objective(inner.model(), policy).item()
    leader = Lookup(game, policy.log())

    def by_observation(observation):
        return (
            leader.log_policy(torch.from_numpy(observation)[None, None])[0, 0]
            .exp()
            .detach()
            .numpy()
        )

    for given, episodes in ((leader, 400), (by_observation, 20)):
        result = evaluate(given, game, [HidingFollower], seeds=(0, 1), episodes=episodes)
        assert max(map(abs, z_scores(result, {"leader_discounted": value}))) < 4
        (summary,) = result.summary()
        assert summary["regret_source"] == "sampled"
        assert summary["regret"] == 7.0 - summary["leader_discounted"]
        assert result.standings[0]["objective"] is summary["follower_gap"] is None


@pytest.mark.parametrize("make", [duopoly.game, lqr.game, building.game])
def test_linear_quadratic_games_have_exact_numbers_too(make):
    """At two temperatures, the sampled mean within four standard errors of the exact return."""
    game = make()
    leader = default_leader(game, (3,))
    levels = (game.temperature, 2 * game.temperature)
    result = evaluate(leader, game, None, temperatures=levels, seeds=(0,), episodes=400)
    for level, row, standing in zip(levels, result.rows, result.standings, strict=True):
        other = make(temperature=level)
        with torch.no_grad():
            model, policy = in_matrices(other, commit(other, leader))
            value = linear.objective(model, policy).item()
        assert row["follower"] == "exact"
        assert standing["objective"] == pytest.approx(value, rel=1e-6)
        assert row["leader_exact"] == pytest.approx(value, rel=1e-6)
        assert row["follower_gap"] == pytest.approx(0, abs=1e-6)
        half = 2 * row["leader_discounted_ci95"] + 2e-4 * abs(value)  # what is cut off
        assert abs(row["leader_discounted"] - value) < half


def tame(own: float, leader_discount=0.8, follower_discount=0.8, **options) -> LinearGame:
    """Both pay for a state that grows by about `own` a step; the follower hardly minds."""
    return LinearGame(
        [[0.0, own, 0.1, 0.3]],
        np.diag([0.0, 1.0, 0.1, 0.0]),
        np.diag([0.0, 0.001, 0.0, 1.0]),
        **{"noise": [[1e-4]], "initial_mean": [1.0], "temperature": 0.001, "horizon": 20} | options,
        leader_discount=leader_discount,
        follower_discount=follower_discount,
    )


def test_returns_are_not_cut_while_they_grow():
    """The discount alone would end after 42 steps, with a quarter of the return to come."""
    game = tame(1.1)
    result = evaluate(default_leader(game), game, ["exact"], seeds=(0, 1), episodes=400)
    for row, truth in itertools.product(result.rows, [result.standings[0]["objective"]]):
        assert 200 < row["discounted_horizon"] < 400
        assert 5e-5 < row["discounted_rest"] <= 1e-4
        assert row["leader_discounted_ci95"] < 0.01 * abs(truth)
    assert max(map(abs, z_scores(result, {"leader_discounted": truth}))) < 4
    config = TrainConfig(iterations=1, streams=8, evaluation_episodes=400)
    summary = Coordinator(game, default_leader(game), ExactFollower(), config).run().summary
    told = summary["leader_return"]
    assert told["horizon"] > 200 > 1e-4 >= told["rest"]
    assert abs(told["mean"] - told["against_response"]) < 2 * told["ci95"] < 0.05 * -told["mean"]


class Aloof:
    """Does nothing, and does not show it."""

    name = "aloof"

    def best_respond(self, game, commitment, seeds):
        return self

    def sample(self, observation, leader_action, generator):
        return torch.zeros(*observation.shape[:2], 1)


def test_where_a_response_does_not_show_how_it_acts_the_best_one_tells_how_rewards_grow():
    game = tame(1.1)
    hiding, exact_one = evaluate(
        default_leader(game), game, [Aloof, "exact"], seeds=(0,), episodes=2
    ).rows
    assert hiding["discounted_horizon"] == exact_one["discounted_horizon"] > 200
    assert hiding["leader_exact"] is hiding["follower_gap"] is None


def test_a_leader_whose_return_diverges_is_worth_nothing_finite(capsys):
    game = tame(1.2, leader_discount=0.9, follower_discount=0.5)
    game.optimum = -1.0
    result = evaluate(default_leader(game), game, ["exact"], seeds=(0, 1), episodes=5)
    (standing,) = result.standings
    assert (standing["objective"], standing["diverges"], standing["regret"]) == (None, True, None)
    for row in result.rows:
        assert row["discounted_horizon"] == math.ceil(math.log(1e-4) / math.log(0.9))
        assert (row["discounted_rest"], row["leader_exact"]) == (1.0, None)
        assert row["leader_discounted"] < -1e5
    (summary,) = result.summary()
    assert (summary["regret"], summary["regret_source"]) == (None, "exact")
    print(result)
    said = capsys.readouterr().out
    assert "a discounted return diverges, and is cut after 88 steps" in said
    assert re.search(r"\| -inf +\| -1 +\| the game's \| inf ", said)


def test_what_is_paid_for_a_bump_does_not_grow_with_the_state():
    """The leader is paid near 0 alone, which the state leaves for ever."""
    options = {"noise": [[0.01]], "initial_mean": [0.1], "temperature": 0.001, "horizon": 20}
    game = LinearGame(
        [[0.0, 1.2, 0.1, 0.3]],
        np.zeros((4, 4)),
        np.diag([0.0, 0.001, 0.0, 1.0]),
        bump=[[0.0, 1.0, 0.0, 0.0]],
        **options,
        leader_discount=0.9,
        follower_discount=0.5,
    )
    result = evaluate(default_leader(game), game, ["exact"], seeds=(0, 1), episodes=400)
    truth = result.standings[0]["objective"]
    for row in result.rows:
        assert row["discounted_horizon"] == math.ceil(math.log(1e-4) / math.log(0.9))
        assert row["discounted_rest"] <= 1e-4
        assert row["leader_exact"] == pytest.approx(truth)
    assert max(map(abs, z_scores(result, {"leader_discounted": truth}))) < 4


def test_a_return_that_settles_is_not_cut_because_the_other_one_diverges():
    """A follower that stops at once leaves the state growing by about 1.09 a step."""
    game = tame(1.09, leader_discount=0.8, follower_discount=0.9)
    once = functools.partial(ExactFollower, 1)
    (row,) = evaluate(default_leader(game), game, [once], seeds=(0,), episodes=100).rows
    assert 150 < row["discounted_horizon"] < 250  # the discount of 0.9 alone would end after 88
    assert (row["discounted_rest"], row["follower_gap"]) == (1.0, None)
    assert abs(row["leader_discounted"] - row["leader_exact"]) < 2 * row["leader_discounted_ci95"]


def test_episodes_stay_within_what_numbers_hold():
    """States doubled at every step are beyond single precision after 128."""
    game = tame(2.0, leader_discount=0.9, follower_discount=0.2, horizon=90)
    (row,) = evaluate(default_leader(game), game, ["exact"], seeds=(0,), episodes=2).rows
    assert row["discounted_horizon"] == 88
    game = tame(2.0, leader_discount=0.99, follower_discount=0.2, horizon=90)
    (row,) = evaluate(default_leader(game), game, ["exact"], seeds=(0,), episodes=2).rows
    assert 90 < row["discounted_horizon"] < 110
    assert (row["discounted_rest"], math.isfinite(row["leader_discounted"])) == (1.0, True)


# ---------------------------------------------------------------- temperatures


def test_followers_at_other_temperatures():
    game = matrix.game()
    result = evaluate(MIXED, game, ["exact"], temperatures=(0.1, 0.5), seeds=(0,), episodes=500)
    for row, level in zip(result.rows, (0.1, 0.5), strict=True):
        truth = commitment_payoffs(MIXED, level)["leader"]
        assert (row["temperature"], row["leader_exact"]) == (level, pytest.approx(truth, rel=1e-12))
        assert max(map(abs, z_scores(result, {}) or [0])) < 4
    own, other = result.standings
    assert own["optimum"] == game.optimum
    assert (other["optimum"], other["regret"]) == (None, None)
    assert game.temperature == game.model().temperature == 0.1


def test_regret_at_another_temperature_is_by_what_is_known_there(tmp_path):
    warm, store = matrix.game(temperature=0.5), BestKnown(tmp_path / "best_known.json")
    store.offer(warm, [[0.5, 0.5]], "solve")
    result = evaluate(
        MIXED, matrix.game(), ["exact"], temperatures=(0.5,), best_known=store, **QUICK
    )
    half = commitment_payoffs(np.array([[0.5, 0.5]]), 0.5)["leader"]
    mixed = commitment_payoffs(MIXED, 0.5)["leader"]
    assert result.standings[0]["optimum_source"] == "best known"
    assert result.standings[0]["regret"] == pytest.approx(half - mixed, rel=1e-9)


def test_a_model_that_does_not_follow_the_temperature_is_refused():
    game = matrix.game()
    game.at_temperature = lambda t: (other := copy.copy(game), setattr(other, "temperature", t))[0]
    with pytest.raises(InputError, match="whose model follows the temperature"):
        evaluate(MIXED, game, ["exact"], temperatures=(0.5,))


# ---------------------------------------------------------------- what is evaluated


def test_many_leaders_are_evaluated_one_by_one():
    leader = default_leader(TOY, (0, 1, 2), std=1.0)
    result = evaluate({"mine": leader}, TOY, ["exact"], **QUICK)
    policy = commit(TOY, leader).policy.detach()
    assert [one["name"] for one in result.leaders] == ["mine #0", "mine #1", "mine #2"]
    for i, standing in enumerate(result.standings):
        value = exact.objective(TOY.model(), policy[i : i + 1]).item()
        assert result.rows[i]["leader_exact"] == pytest.approx(value, rel=1e-9)
        assert standing["objective"] == pytest.approx(value, rel=1e-9)


def test_names_of_leaders_tell_them_apart():
    """What a user calls "a #1" and "a #2" are two leaders, not two runs of one training."""
    several, one = default_leader(TOY, (0, 1)), default_leader(TOY, (5,))
    result = evaluate({"a": several, "b #1": one, "b #2": one}, TOY, ["exact"], **QUICK)
    assert [(group["group"], group["runs"]) for group in result.groups()] == [
        ("a", [2]),
        ("b #1", [1]),
        ("b #2", [1]),
    ]
    for named in ({"a": several, "a #0": one}, {1: one, "1": one}):
        with pytest.raises(InputError, match="each of another name"):
            evaluate(named, TOY, ["exact"], **QUICK)


def test_a_function_is_the_table_of_what_it_says():
    def probable(observation):
        return SOMETIMES[observation.argmax()]

    def firm(observation):
        return int(observation.argmax() == 1)

    given = evaluate({"leader": SOMETIMES}, TOY, ["exact"], **QUICK).rows
    assert evaluate({"leader": probable}, TOY, ["exact"], **QUICK).rows == given
    closing = evaluate(firm, TOY, ["exact"], **QUICK)
    table = np.eye(2)[[0, 1, 0]]
    assert closing.leaders == [{"name": "firm"}]
    assert closing.standings[0]["objective"] == pytest.approx(
        iterated_objective(TOY.model(), torch.tensor(table)), abs=1e-9
    )


class Toll(Game):
    """The leader names a toll in [0, 2], pays (toll - state)^2; the follower does not matter."""

    def __init__(self, **settings) -> None:
        super().__init__(
            **{"leader_discount": 0.5, "follower_discount": 0.5, "horizon": 3} | settings
        )
        self.leader_space = spaces.Box(0.0, 2.0, (1,), np.float64)
        self.follower_space = spaces.Discrete(2)
        self.observation_space = spaces.Box(0, 9, (1,), np.float32)

    def initial(self, n, generator):
        return torch.zeros(n, 1)

    def observe(self, state):
        return state.float()

    def step(self, state, leader_action, follower_action, generator):
        miss = (leader_action - state).squeeze(-1) ** 2
        never = torch.zeros(len(state), dtype=torch.bool)
        return Step((state + 1).clamp(max=9), -miss, follower_action.double(), never)


class First:
    """Always does the first thing."""

    name = "first"

    def best_respond(self, game, commitment, seeds):
        return self

    def sample(self, observation, leader_action, generator):
        return torch.zeros(observation.shape[:2], dtype=torch.long)


def test_a_function_in_a_box():
    """Over states 0, 1, 2, ..., 9, 9, ...: the toll that follows them to 1 is off by 0, 0, 1, 4."""
    result = evaluate(lambda seen: np.minimum(seen, 1.0), Toll(), [First], **QUICK)
    lost = sum(0.5**t * (min(t, 9) - min(t, 1)) ** 2 for t in range(14))  # 0.5^14 < 1e-4
    assert result.rows[0]["discounted_horizon"] == 14
    assert result.rows[0]["leader_discounted"] == pytest.approx(-lost, rel=1e-6)
    assert result.rows[0]["leader_undiscounted"] == pytest.approx(-1.0)


@pytest.mark.parametrize(
    ("leader", "said"),
    [
        (lambda seen: 2, "an action from 0 to 1"),
        (lambda seen: "open", "an action from 0 to 1"),
        (lambda seen: np.array([0.5, 0.4]), "rows that sum to 1"),
        (lambda seen: 1 / 0, "ZeroDivisionError"),
        (lambda seen: int(DICE.integers(2)), "probabilities"),
        (SOMETIMES[:2], r"shape \[3, 2\]"),
        (SOMETIMES * 2, "rows that sum to 1"),
        (object(), "a leader: a run directory"),
        (default_leader(matrix.game()), "a leader that fits 'discrete_toy'"),
        (default_leader(four_rooms.game()), "a policy leader for 'discrete_toy'"),
        ({}, "at least one leader"),
    ],
)
def test_a_leader_that_does_not_fit(leader, said):
    with pytest.raises(InputError, match=said):
        evaluate(leader, TOY, ["exact"], **QUICK)


def test_probabilities_in_single_precision_are_taken():
    """As networks give them: their sums miss 1 by more than those in double precision."""
    odds = np.float32([[0.7, 0.3], [0.6, 0.4], [0.2, 0.8]]) / np.float32(1.0000001)
    assert max(abs(odds.astype(float).sum(1) - 1)) > 1e-8
    table = evaluate({"leader": odds}, TOY, ["exact"], **QUICK)
    said = evaluate({"leader": lambda seen: odds[seen.argmax()]}, TOY, ["exact"], **QUICK)
    assert said.rows == table.rows
    policy = torch.tensor(odds).double()
    value = iterated_objective(TOY.model(), policy / policy.sum(-1, keepdim=True), 4000)
    assert table.standings[0]["objective"] == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize(
    ("leader", "said"),
    [
        (lambda seen: 1, "got a function"),
        (np.zeros(3), r"a design of shape \[104\] .* got shape \[3\]"),
        (np.ones(104), r"designs inside Budget.* with the design \[1. 1. ... 1. 1.\]"),
        (np.full(104, np.nan), "designs inside Budget"),
        (np.full(104, "x"), "a leader: a run directory"),
    ],
)
def test_a_design_that_does_not_fit(leader, said):
    with pytest.raises(InputError, match=said):
        evaluate(leader, four_rooms.game(), ["exact"], **QUICK)


def test_a_design_below_a_box_that_is_open_above_is_outside():
    space = spaces.Box(0.0, np.inf, (1,), np.float64)
    assert inside(space, torch.tensor([[-1.0], [0.0], [1e9]])).tolist() == [False, True, True]


@pytest.mark.parametrize(
    "options",
    [
        *({"seeds": 3}, {"seeds": (True,)}, {"temperatures": "0.1"}, {"followers": 3}),
        *({"seeds": ()}, {"seeds": (1, 1)}, {"seeds": (-1,)}, {"seeds": (0.5,)}),
        *({"episodes": 0}, {"episodes": 2.5}, {"jobs": 0}, {"temperatures": ()}),
        *({"half_width": 0}, {"half_width": math.nan}, {"half_width": "1"}, {"half_width": True}),
        {"half_width": 0.1, "episodes": 1},
        *({"temperatures": (0.0,)}, {"temperatures": (math.nan,)}, {"temperatures": (0.1, 0.1)}),
        *({"followers": ()}, {"followers": ("exact", "exact")}, {"followers": (ExactFollower(),)}),
        *({"followers": ("nonsense",)}, {"followers": ("sac",)}, {"followers": (lambda: 3,)}),
        *({"cross_play": True}, {"followers": (3,)}, {"game": None}, {"game": "discrete_toy"}),
    ],
)
def test_what_cannot_be_evaluated_is_refused_before_anything_is_trained(options, tmp_path):
    given = {"leader": SOMETIMES, "game": TOY, "followers": ["exact"], "seeds": (0,)} | options
    with pytest.raises(InputError):
        evaluate(**given, kept=tmp_path / "kept")
    assert not list(tmp_path.iterdir())


def test_the_exact_follower_needs_tables():
    with pytest.raises(InputError, match="a tabular game"):
        evaluate(lambda seen: 0, coded(random_game(Recipe(seed=3))), ["exact"], **QUICK)


def test_leaders_of_different_games_are_not_compared(tmp_path):
    leaders = {"a": default_leader(TOY), "b": default_leader(TOY)}
    assert len(evaluate(leaders, TOY, ["exact"], **QUICK).rows) == 2
    trained(tmp_path)
    one = load_leader(tmp_path, TOY, default_leader(TOY))
    other = one._replace(game=discrete_toy.game(bonus=2.0))
    with pytest.raises(InputError, match="leaders of one game"):
        evaluate({"a": one, "b": other}, None, ["exact"], **QUICK)


def test_default_followers():
    assert default_followers(TOY) == ("exact", "soft-q")
    assert default_followers(coded(TOY)) == ("soft-q", "discrete-sac")


# ---------------------------------------------------------------- fresh followers


class Counting(ExactFollower):
    """Counts its trainings; `made` counts followers."""

    name = "counting"
    trainings = made = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).made += 1
        self._trained = False

    def best_respond(self, game, commitment, seeds):
        assert not self._trained
        self._trained = True
        type(self).trainings += 1
        return super().best_respond(game, commitment, seeds)


@pytest.fixture(autouse=True)
def _count_anew():
    Counting.trainings = Counting.made = 0


def test_every_training_has_a_follower_of_its_own():
    leader = default_leader(TOY, (0, 1))
    evaluate(leader, TOY, [Counting], seeds=range(3), temperatures=(0.05, 0.1), episodes=1)
    assert Counting.trainings == 2 * 3 * 2
    assert Counting.made >= Counting.trainings


def test_followers_are_named_in_a_mapping():
    two = {"sloppy": functools.partial(ExactFollower, 1, restart="reset"), "best": "exact"}
    sloppy, best = evaluate(SOMETIMES, TOY, two, **QUICK).rows
    assert (sloppy["follower"], best["follower"]) == ("sloppy", "best")
    assert sloppy["follower_gap"] > 1 > best["follower_gap"]


def test_episodes_of_different_trainings_are_independent():
    leaders = {"a": SOMETIMES, "b": SOMETIMES}
    result = evaluate(leaders, TOY, ["exact", Counting], seeds=(0, 1), episodes=10)
    assert len({row["leader_discounted"] for row in result.rows if row["follower"] == "exact"}) == 4


class Slow(Counting):
    """Tells of its training."""

    report = staticmethod(lambda steps, most, gap: None)

    def best_respond(self, game, commitment, seeds):
        self.report(10_000, 20_000, None)
        self.report(20_000, 20_000, 0.5)
        return super().best_respond(game, commitment, seeds)


def test_it_is_told_how_far_a_follower_is():
    told = []
    run = {"seeds": (0, 3), "episodes": 1, "report": lambda *said: told.append(said)}
    evaluate({"mine": SOMETIMES}, TOY, [Slow], **run)
    first, second = ((i, f"mine: counting, seed {seed}") for i, seed in ((0, 0), (1, 3)))
    steps = "at 50%", "at 100%, gap 0.5"
    for i, which in (first, second):
        assert told[3 * i : 3 * i + 2] == [(i, 2, f"{which}, {said}") for said in steps]
        assert told[3 * i + 2] == (i + 1, 2, which)


# ---------------------------------------------------------------- as many episodes as it takes


def test_episodes_go_on_until_the_interval_is_narrow(tmp_path):
    """Payments that spread by 0.8 take some 1000, and intervals hold the truth as often as said."""
    run = {"seeds": range(40), "episodes": 50, "half_width": 0.05, "kept": tmp_path}
    result = evaluate(MIXED, matrix.game(), ["exact"], **run)
    spread = [row["leader_discounted_ci95"] for row in result.rows]
    assert 0.03 < min(spread) < max(spread) <= 0.05
    assert all(700 < row["episodes"] < 3000 for row in result.rows)
    assert result.about["half_width"] == 0.05
    truth = commitment_payoffs(MIXED, 0.1)["leader"]
    z = z_scores(result, {"leader_discounted": truth})
    assert sum(abs(one) < 1.96 for one in z) >= 34
    assert evaluate(MIXED, matrix.game(), ["exact"], **run).rows == result.rows
    assert len(list(tmp_path.iterdir())) == 40


def test_episodes_do_not_go_on_for_ever(capsys):
    run = {"seeds": (0,), "episodes": 2, "half_width": 1e-4}
    result = evaluate(MIXED, matrix.game(), ["exact"], **run)
    (row,) = result.rows
    assert (row["episodes"], row["leader_discounted_ci95"] > 1e-4) == (200, True)
    print(result)
    said = capsys.readouterr().out
    assert "half-width 0.0001 not reached in 1 of 1 trainings, in 200 episodes" in said


# ---------------------------------------------------------------- kept, resumed, in parallel


def kept_evaluation(folder, report=lambda done, total, which: None, leader=SOMETIMES, **options):
    settings = {"seeds": range(3), "temperatures": (0.05, 0.1), "episodes": 5} | options
    return evaluate(leader, TOY, [Counting], kept=folder, report=report, **settings)


def test_an_interrupted_evaluation_goes_on_to_the_same_result(tmp_path):
    def press(done, total, which):
        assert total == 6
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="after 2 of 6 trainings"):
        kept_evaluation(tmp_path / "kept", press)
    assert len(list((tmp_path / "kept").iterdir())) == 2
    resumed = kept_evaluation(tmp_path / "kept")
    assert Counting.trainings == 6
    whole = kept_evaluation(None)
    assert Counting.trainings == 12
    assert resumed.to_json() == whole.to_json()
    assert resumed.to_csv() == whole.to_csv()


def test_what_is_kept_is_used_for_nothing_else(tmp_path):
    first = kept_evaluation(tmp_path)
    assert kept_evaluation(tmp_path).rows == first.rows
    assert kept_evaluation(tmp_path, seeds=(2, 1)).rows != first.rows
    assert Counting.trainings == 6
    for changed in ({"episodes": 6}, {"leader": SOMETIMES[:, ::-1].copy()}, {"fresh": True}):
        before = Counting.trainings
        assert len(kept_evaluation(tmp_path, **changed).rows) == 6
        assert Counting.trainings == before + 6
    before = Counting.trainings
    kept_evaluation(tmp_path, temperatures=(0.05, 0.2))
    assert Counting.trainings == before + 3


class Pointed(Game):
    """Without tables: two coordinates, and a point that nobody sees."""

    def __init__(self, point: Any, **settings: Any) -> None:
        super().__init__(horizon=3, leader_discount=0.5, follower_discount=0.5, **settings)
        self.point = point
        self.leader_space = self.follower_space = spaces.Discrete(2)
        self.observation_space = spaces.Box(-1, 1, (2,))

    def initial(self, n, generator):
        return torch.zeros(n, 2)

    def observe(self, state):
        return state

    def step(self, state, leader_action, follower_action, generator):
        paid = (state - torch.as_tensor(self.point)).square().sum(-1)
        return Step(state, paid, paid, torch.zeros(len(state), dtype=torch.bool))


class Still:
    """Counts its trainings."""

    name, trainings = "still", 0

    def __init__(self, layers: tuple[int, ...] = (1,)) -> None:
        self.layers = layers

    def best_respond(self, game, commitment, seeds):
        Still.trainings += 1
        return self

    def sample(self, observation, leader_action, generator):
        shape = observation.shape[:2] + ((1,) if leader_action.ndim > 2 else ())
        return torch.zeros(shape, dtype=torch.long if len(shape) == 2 else torch.float32)


def parking(length: int) -> Game:
    return from_parallel_env(lambda: Parking(length=length))


CHANGED = {
    "a tensor": (lambda: Pointed(torch.zeros(2)), lambda: Pointed(torch.ones(2))),
    "a list": (lambda: Pointed([0.0, 0.0]), lambda: Pointed([0.0, 1.0])),
    "what is closed over": (lambda: parking(2), lambda: parking(4)),
    "an argument": (
        lambda: from_parallel_env(functools.partial(Parking, length=2)),
        lambda: from_parallel_env(functools.partial(Parking, length=4)),
    ),
    "a limit": (lambda: tame(1.1, limit=9.0), lambda: tame(1.1, limit=0.5)),
    "a space": (
        lambda: tame(1.1, follower_space=spaces.Box(-1, 1, (1,))),
        lambda: tame(1.1, follower_space=spaces.Box(-2, 2, (1,))),
    ),
}


@pytest.mark.parametrize("what", CHANGED)
def test_what_is_kept_of_a_game_is_not_used_for_another(tmp_path, what):
    """Also where the two differ in nothing that the leader sees."""
    make, other = CHANGED[what]
    leader = default_leader(make())
    for game, more in ((make(), 1), (make(), 0), (other(), 1), (make(), 0)):
        before = Still.trainings
        evaluate(leader, game, [Still], kept=tmp_path, **QUICK)
        assert Still.trainings == before + more


def test_what_is_kept_of_a_follower_is_not_used_for_another(tmp_path, monkeypatch):
    """Nor is anything kept of one that was typed in at a prompt."""
    game = Pointed([0.0, 0.0])
    typed: dict[str, Any] = {"Still": Still, "__name__": "__main__"}
    exec("class Typed(Still): pass", typed)
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    made = (Still, lambda: Still((2,)), Still, typed["Typed"], typed["Typed"])
    for make, more in zip(made, (1, 1, 0, 1, 1), strict=True):
        before = Still.trainings
        evaluate(default_leader(game), game, [make], kept=tmp_path, **QUICK)
        assert Still.trainings == before + more


@pytest.mark.parametrize("content", ["", "{", "3"])
def test_a_damaged_training_is_made_anew(tmp_path, content):
    first = kept_evaluation(tmp_path)
    next(tmp_path.iterdir()).write_text(content)
    assert kept_evaluation(tmp_path).rows == first.rows
    assert Counting.trainings == 7


@pytest.mark.slow
def test_processes_side_by_side_find_the_same(tmp_path):
    trained(tmp_path / "run", label=COMMAND)
    for leader, game in ((SOMETIMES, TOY), (tmp_path / "run", None)):
        options = {"seeds": range(3), "episodes": 10}
        alone, told = evaluate(leader, game, ["exact"], **options), []
        options |= {"jobs": 2, "report": lambda *said, told=told: told.append(said[:2])}
        assert evaluate(leader, game, ["exact"], **options).rows == alone.rows
        assert told == [(i, 3) for i in range(4)]
    with pytest.raises(InputError, match=r"a follower 'wrong' .* ZeroDivisionError"):
        evaluate(SOMETIMES, TOY, [Wrong], **options)
    with pytest.raises(InputError, match="processes that live until they are done"):
        evaluate(SOMETIMES, TOY, [Killed], **options)


class Wrong:
    name = "wrong"

    def best_respond(self, game, commitment, seeds):
        return 1 / 0


class Killed:
    name = "killed"

    def best_respond(self, game, commitment, seeds):
        os._exit(9)


def test_what_other_processes_are_sent(tmp_path):
    """Of a run its place alone, else everything; and an error comes back whole."""
    trained(tmp_path / "run", label=COMMAND)
    (here,) = frozen("a", tmp_path / "run", None)
    sent = pickle.dumps(here)
    assert len(sent) < 500
    there = pickle.loads(sent)
    assert (there.name, there.key, there.about) == (here.name, here.key, here.about)
    assert torch.equal(there.commitment.policy, here.commitment.policy)
    assert there.game is not here.game
    (given,) = frozen("a", SOMETIMES, TOY)
    whole = pickle.loads(pickle.dumps(given))
    assert torch.equal(whole.commitment.policy, given.commitment.policy)
    error = pickle.loads(pickle.dumps(InputError("this", "that", "do it")))
    assert (type(error), str(error)) == (InputError, "expected this; got that; do it")


# ---------------------------------------------------------------- cross-play


def test_cross_play_by_hand():
    """In the commitment game a response to one strategy meets another one."""
    strategies = {"a": MIXED, "b": np.array([[0.1, 0.9]])}
    ours, theirs = map(np.array, matrix.CLASSICS["commitment"])
    result = evaluate(
        strategies, matrix.game(), ["exact"], seeds=range(2), episodes=400, cross_play=True
    )
    assert len(result.rows) == 2 * 2 * 2
    for row in result.rows:
        weight = np.exp(strategies[row["leader"]] @ theirs / 0.1)[0]
        value = (strategies[row["against"]] @ ours @ (weight / weight.sum())).item()
        assert row["leader_exact"] == pytest.approx(value, rel=1e-12)
        spread = row["leader_discounted_ci95"]
        assert abs(row["leader_discounted"] - value) < 3 * spread
    gaps = {(row["leader"], row["against"]): row["follower_gap"] for row in result.rows}
    assert gaps["a", "a"] == gaps["b", "b"] == 0
    assert min(gaps["a", "b"], gaps["b", "a"]) > 0.1
    (cross,) = result.cross_play()
    assert cross["leaders"] == ["a", "b"]
    for i, j in itertools.product(range(2), repeat=2):
        place = {"leader": "ab"[i], "against": "ab"[j]}
        cells = [r["leader_discounted"] for r in result.rows if place.items() <= r.items()]
        assert cross["leader_discounted"][i][j] == np.mean(cells)
    assert [one["seeds"] for one in result.summary()] == [2, 2]


def test_a_heat_map(tmp_path):
    cross = {"follower": "x", "temperature": 0.1, "leaders": ["a", "b"]}
    draw_cross_play(tmp_path / "x.png", [cross | {"leader_discounted": [[1.0, 2.0], [3.0, 4.0]]}])
    assert (tmp_path / "x.png").read_bytes()[1:4] == b"PNG"


# ---------------------------------------------------------------- runs


def trained(folder, follower=None, seeds=(0,), iterations=3, **options):
    config = TrainConfig(iterations=iterations, evaluation_episodes=5)
    leader = default_leader(TOY, seeds)
    made = Coordinator(
        TOY, leader, follower or ExactFollower(), config, seeds=seeds, out=folder, **options
    )
    return made.run()


def test_a_run_started_from_python_needs_its_parts(tmp_path):
    """With them it is told of as any other run."""
    run, parts = tmp_path / "run", (TOY, default_leader(TOY, (0, 1)))
    result = trained(run, seeds=(3, 4))
    with pytest.raises(InputError, match=r"started from Python.*load_leader"):
        evaluate(run, TOY, ["exact"], **QUICK)
    saved = load_leader(run, *parts)
    assert (saved.iteration, saved.path) == (3, run)
    for name, tensor in result.leader.state_dict().items():
        assert torch.equal(saved.leader.state_dict()[name], tensor)
    found = evaluate(saved, None, ["exact"], kept=tmp_path / "kept", **QUICK)
    values = result.summary["leader_return"]["exact"]
    assert [row["leader_exact"] for row in found.rows] == pytest.approx(values, rel=1e-9)
    assert [one["name"] for one in found.leaders] == [f"{run} #0", f"{run} #1"]
    assert [one["seed"] for one in found.leaders] == [3, 4]
    promised = result.summary["leader_return"]["against_response"]
    assert [one["prediction"]["exact"] for one in found.leaders] == promised
    (group,) = found.groups()
    assert (group["run"], group["runs"]) == ("training run", [2])
    assert len(list((tmp_path / "kept").iterdir())) == 2
    assert len(pickle.loads(pickle.dumps(frozen("a", saved, None)))) == 2
    with pytest.raises(InputError, match="a leader that fits the game"):
        load_leader(run, TOY, default_leader(TOY, (0,)))


COMMAND = {"game": "discrete_toy", "game_options": {}, "leader": "default", "leader_agent": None}


def test_the_naive_prediction_stands_beside_what_is_measured(tmp_path):
    """A follower that stops short lets the leader hope for more than there is."""
    sloppy = ExactFollower(1, restart="reset")
    summary = trained(tmp_path / "run", sloppy, iterations=60, label=COMMAND).summary
    result = evaluate(tmp_path / "run", None, ["exact"], seeds=(0, 1), episodes=200)
    (leader,) = result.leaders
    told = summary["leader_return"]
    assert leader["prediction"] == {
        "mean": told["mean"],
        "ci95": told["ci95"],
        "exact": told["against_response"],
        "source": "summary.json",
    }
    (found,) = result.summary()
    assert leader["prediction"]["exact"] > TOY.optimum + 1
    assert found["leader_discounted"] < TOY.optimum - 0.5
    assert result.standings[0]["objective"] == pytest.approx(told["exact"], rel=1e-9)
    (tmp_path / "run" / "summary.json").unlink()
    told = evaluate(tmp_path / "run", None, ["exact"], **QUICK).leaders[0]["prediction"]
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert (told["mean"], told["source"]) == (last["leader_return"], "metrics.jsonl")


def test_a_run_whose_game_has_changed_is_refused(tmp_path):
    trained(tmp_path / "run", label=COMMAND | {"game_options": {"bonus": "2"}})
    with pytest.raises(InputError, match="with follower_reward = "):
        load_leader(tmp_path / "run")


# ---------------------------------------------------------------- statistics


def test_interquartile_mean_and_profile_of_known_values():
    scores = [np.array([8.0, 1.0, 3.0, 6.0]), np.array([5.0, 4.0, 2.0, 700.0])]
    assert statistics.interquartile_mean(scores) == np.mean([3, 4, 5, 6])
    thresholds = np.array([0.0, 4.0, 8.0, 1000.0])
    profile = statistics.performance_profile(scores, thresholds)
    assert profile.tolist() == [1.0, 0.5, (0 + 0.25) / 2, 0.0]


def test_probability_of_improvement_counts_pairs():
    rng = np.random.default_rng(0)
    x, y = ([rng.integers(0, 6, n).astype(float) for n in sizes] for sizes in ((5, 8), (7, 6)))
    won = [
        np.mean([(a > b) + (a == b) / 2 for a, b in itertools.product(*pair)])
        for pair in zip(x, y, strict=True)
    ]
    assert statistics.probability_of_improvement(x, y) == pytest.approx(np.mean(won))
    assert statistics.probability_of_improvement(x, x) == 0.5
    assert statistics.probability_of_improvement([np.ones(1)], [np.zeros(3)]) == 1.0
    low, high = statistics.improvement_interval(x, y)
    assert 0 <= low < np.mean(won) < high <= 1


def test_the_bootstrap_draws_within_tasks():
    """What differs between tasks alone makes no interval; fewer than five runs have none."""
    apart = [np.zeros(5), np.full(5, 100.0)]
    assert statistics.interquartile_interval(apart) == (50.0, 50.0)
    for few in range(1, 5):
        assert statistics.interquartile_interval([np.zeros(few), np.zeros(9)]) is None
        assert statistics.improvement_interval([np.zeros(9)], [np.zeros(few)]) is None
    assert statistics.interquartile_interval(apart, 1) == statistics.interquartile_interval(apart)


def test_runs_on_one_side_have_no_interval_of_improvement():
    """Normal runs of which 9 in 10 are better: of 5 and 5, all are on one side in 3 of 10 cases."""
    rng, held = np.random.default_rng(2), []
    for _ in range(100):
        x, y = [rng.normal(size=5) + 1.81], [rng.normal(size=5)]
        apart = x[0].min() > y[0].max()
        assert (statistics.improvement_interval(x, y) is None) == apart
        if not apart:
            low, high = statistics.improvement_interval(x, y)
            held.append(low <= 0.9 <= high)
    assert 50 < len(held) < 90
    assert np.mean(held) > 0.9


def test_the_interval_is_that_of_the_middle_half():
    """More than 3 of 12 outliers come in 1.4 % of the samples: none is in the interval."""
    scores = [np.append(np.zeros(11), 1e6)]
    assert statistics.interquartile_interval(scores) == (0.0, 0.0)


def test_bootstrap_intervals_cover():
    """Percentile intervals of 20 runs cover somewhat less often than 95 %: at least 85 in 100."""
    rng, held = np.random.default_rng(1), 0
    for _ in range(100):
        low, high = statistics.interquartile_interval([rng.normal(size=20), rng.normal(size=20)])
        held += low < 0 < high
    assert held >= 85


def test_groups_were_trained_alike_and_their_runs_are_leaders():
    rows = []
    for leader, value in (("a", 1.0), ("b", 3.0), ("c", 2.0)):
        for seed, follower in itertools.product(range(5), ("x", "y")):
            place = {"leader": leader, "against": leader, "follower": follower, "seed": seed}
            rows.append(place | {"temperature": 0.1, "leader_discounted": value + 0.01 * seed})
    alike = {"estimator": "old", "setting": "s"}
    leaders = [{"name": "a"} | alike, {"name": "b"} | alike, {"name": "c", "estimator": "new"}]
    result = EvaluationResult({}, leaders, [], rows)
    old, new = result.groups()
    assert (old["group"], old["run"], old["runs"]) == ("old", "training run", [2, 2])
    assert (new["group"], new["run"], new["runs"]) == ("new", "follower", [5, 5])
    leaders[2] |= {"estimator": "old", "setting": "t"}
    assert [one["group"] for one in result.groups()] == ["a", "c"]
    leaders[2] |= {"estimator": "new"}
    assert old["iqm"] == pytest.approx(2.02)
    assert old["interval"] is None
    assert new["iqm"] == pytest.approx(2.02)
    assert 2 <= new["interval"][0] < 2.02 < new["interval"][1] <= 2.04
    (comparison,) = result.comparisons()
    assert (comparison["group"], comparison["over"]) == ("old", "new")
    assert comparison["probability"] == 0.5  # b above all, a below all
    assert (comparison["runs"], comparison["interval"]) == ([2, 5], None)
    assert comparison["run"] == ["training run", "follower"]


# ---------------------------------------------------------------- what it is written to


def test_csv_json_and_data_frame_agree(tmp_path):
    result = evaluate(SOMETIMES, TOY, ["exact"], seeds=range(2), episodes=10)
    frame = result.to_dataframe()
    assert frame.to_dict("records") == result.rows
    read = list(csv.DictReader(io.StringIO(result.to_csv())))
    for one, row in zip(read, result.rows, strict=True):
        assert {k: str(v) for k, v in row.items()} == one
    found = json.loads(result.to_json())
    assert found["rows"] == result.rows
    assert found["summary"] == json.loads(json.dumps(result.summary()))
    assert found["cross_play"] == []
    result.write(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["evaluation.csv", "evaluation.json"]


def test_a_data_frame_without_pandas_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InputError, match="pip install pandas"):
        EvaluationResult({}, [], [], [{"a": 1}]).to_dataframe()


def test_one_episode_and_one_seed_have_no_interval():
    (row,) = evaluate(SOMETIMES, TOY, ["exact"], seeds=(0,), episodes=1).rows
    assert all(row[f"{name}_ci95"] is None for name in NAMES)
    result = evaluate(SOMETIMES, TOY, ["exact"], seeds=(0,), episodes=10)
    (summary,) = result.summary()
    for name in NAMES:  # of a single seed: that of its episodes
        assert summary[f"{name}_ci95"] == result.rows[0][f"{name}_ci95"] > 0
    assert summary["iqm_interval"] is None


def test_a_run_is_evaluated_in_its_own_game_alone(tmp_path):
    run, parts = tmp_path / "run", default_leader(TOY, (0,))
    trained(run)
    other = discrete_toy.game(bonus=2.0)
    with pytest.raises(InputError, match=r"with \w+ = .*load_leader.*leader, other_game"):
        load_leader(run, other, parts)
    named = tmp_path / "named"
    trained(named, label=COMMAND)
    with pytest.raises(InputError, match=r"with \w+ = "):
        evaluate(named, other, ["exact"], **QUICK)
    saved = load_leader(run, TOY, parts)
    assert evaluate(saved.leader, other, ["exact"], **QUICK).about["game"] == other.name


def test_a_result_is_printed_in_tables():
    result = evaluate({"mine": SOMETIMES}, TOY, ["exact", small_soft_q], seeds=(0,), episodes=5)
    lines = str(result).splitlines()
    assert lines[0].startswith("what leaders are worth")
    assert len(lines) < 40
    assert "rows" in repr(result)
    assert len(repr(result)) < 100
    (line,) = (line for line in lines if "interquartile" in line)
    assert line.startswith("mine: interquartile mean of the leader's return over all followers")
    assert "of each of 2 kinds" in line


def test_a_single_run_is_named_by_its_leader(tmp_path):
    trained(tmp_path / "run", label=COMMAND)
    (group,) = evaluate(tmp_path / "run", None, ["exact"], **QUICK).groups()
    assert group["group"] == str(tmp_path / "run")


def test_gains_are_a_leader_of_a_linear_game():
    """As LinearGaussian of the same gains and spread."""
    game = duopoly.game()
    leader = default_leader(game, (0,))
    with torch.no_grad():
        for parameter in leader.parameters():
            parameter += 0.1
    gains = leader.gain()[0].detach().numpy()
    ours, theirs = (evaluate(one, game, ["exact"], **QUICK) for one in (gains, leader))
    assert ours.standings[0]["objective"] is not None
    for key in ("objective", "regret"):
        assert ours.standings[0][key] == pytest.approx(theirs.standings[0][key], rel=1e-9)
    for name in (*NAMES, "leader_exact", "follower_gap"):
        assert ours.rows[0][name] == pytest.approx(theirs.rows[0][name], rel=1e-6, abs=1e-9)
    with pytest.raises(InputError, match=r"gains of shape .*function"):
        evaluate(np.zeros((7, 7)), game, ["exact"], **QUICK)
    with pytest.raises(InputError, match=r"gains \[k, 1 \+ n\]"):
        evaluate(lambda seen: 0.1, game, ["exact"], **QUICK)


def test_an_action_of_one_number_need_be_no_array():
    game = duopoly.game()
    (one,), (same,) = (
        frozen("a", rule, game) for rule in (lambda s: 0.1, lambda s: np.array([0.1]))
    )
    seen = torch.zeros(1, 3, *game.observation_space.shape)
    noise = torch.zeros(1, 3, 1)
    assert torch.equal(one.commitment.box.act(seen, noise), same.commitment.box.act(seen, noise))


@pytest.mark.parametrize(
    ("game", "key"), [(four_rooms.game(), "design"), (duopoly.game(), "gains")]
)
def test_the_summary_holds_what_was_trained(game, key):
    result = Coordinator(
        game, default_leader(game, (0,)), ExactFollower(), TrainConfig(iterations=1, streams=2)
    ).run()
    made = commit(game, result.leader)
    numbers = made.design if key == "design" else made.box.gain()
    assert result.summary[key] == numbers[0].tolist()


def test_what_a_bar_says_fits_into_80_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with progress_bar("discrete_toy", 60, -162.5) as progress:
        progress({"iteration": 0, "leader_objective": -1.823, "leader_return": 0.0})
        progress.follower(5_120, 65_536, 0.0072)
    last = capsys.readouterr().err
    assert "return -1.823 of -162.5, follower at 8%, gap 0.0072" in last
    assert "1/60" in last
    assert "…" not in last
