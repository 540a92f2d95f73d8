"""Exact numbers in linear-quadratic games: follower, training, solving and best-known values."""

import json
import warnings
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from agents import ExactFollower, MLPGaussian, default_leader
from agents.leaders import spread_leader
from games import building, duopoly, lqr, pendulum
from games.linear import LinearGame
from stackelberg import Coordinator, TrainConfig, cli, linear
from stackelberg.best_known import BestKnown
from stackelberg.errors import InputError
from stackelberg.estimators import Evidence, exact_oracle
from stackelberg.identity import game_key
from stackelberg.oracle import LinearOracle, committed, in_matrices, oracle, rows_of
from stackelberg.search import solve
from stackelberg.types import LinearResponse, commit

pytestmark = pytest.mark.filterwarnings("ignore:the leader's ")
SEEDS = (0, 1, 2)
DUOPOLY = 81.64473684210527 - 0.05  # what the leader's own spread of 0.1 costs


def response_to(follower, game, leader) -> LinearResponse:
    return follower.best_respond(game, commit(game, leader).detach(), range(leader.count))


def runaway() -> LinearGame:
    """s' = 2 a + noise, which the follower only watches: it has an answer to small gains alone."""
    cost = torch.diag(torch.tensor([0.0, 1.0, 0.0, 1.0]))
    return LinearGame([[0.0, 0.0, 2.0, 0.0]], cost, cost, noise=[[0.1]], initial_mean=[1.0])


# ---------------------------------------------------------------- the follower


@pytest.mark.parametrize("make", [building.game, duopoly.game, lqr.game])
def test_the_exact_follower_gives_the_best_response(make):
    game = make()
    leader = default_leader(game, SEEDS, std=0.3)
    found = response_to(ExactFollower(), game, leader)
    truth = oracle(game, commit(game, leader))
    assert isinstance(truth, LinearOracle)
    for x, y in zip(found.found.answer, truth.best.answer, strict=True):
        torch.testing.assert_close(x, y)
    assert found.gap.tolist() == [0.0] * 3
    assert (truth.follower_gap(found) < 1e-9).all()
    torch.testing.assert_close(truth.leader_return(found), truth.objective)


def test_sweeps_come_near_the_best_response_one_after_the_other():
    game = building.game()
    leader = default_leader(game, SEEDS, std=0.3)
    truth = oracle(game, commit(game, leader))
    gaps = [
        truth.follower_gap(response_to(ExactFollower(sweeps=k, restart="reset"), game, leader))
        for k in (1, 2, 4, 100)
    ]
    for worse, better in pairwise(gaps):
        assert (worse > better).all()
    assert (gaps[-1] < 1e-6).all()
    carrying, resetting = (ExactFollower(sweeps=2, restart=kind) for kind in ("carry", "reset"))
    for follower in (carrying, resetting):
        assert response_to(follower, game, leader).gap is None
    kept = carrying.state()
    again = response_to(carrying, game, leader)
    torch.testing.assert_close(truth.follower_gap(again), gaps[2])
    torch.testing.assert_close(truth.follower_gap(response_to(resetting, game, leader)), gaps[1])
    resumed = ExactFollower(sweeps=2)
    resumed.load(kept)
    there = response_to(resumed, game, leader).found
    assert torch.equal(there.value, again.found.value)


def test_a_leader_without_a_best_response_is_named():
    game = runaway()
    leader = default_leader(game, SEEDS)
    with torch.no_grad():
        leader.gains[1, 0, 1] = 0.8
    with pytest.raises(InputError, match=r"best response; got none against leader 1 of 0 to 2.*;"):
        response_to(ExactFollower(), game, leader)


def test_a_game_of_no_known_form_has_no_exact_answer():
    game = pendulum.game()
    with pytest.raises(InputError, match=r"a tabular game, or a linear.*'pendulum'.*example sac"):
        response_to(ExactFollower(), game, default_leader(game, SEEDS))


def test_a_network_has_no_exact_answer():
    game = duopoly.game()
    leader = MLPGaussian(1, game.leader_space, seeds=SEEDS)
    with pytest.raises(
        InputError, match=r"a linear-Gaussian leader.*; got MLPGaussian; use agents"
    ):
        response_to(ExactFollower(), game, leader)
    assert oracle(game, commit(game, leader)) is None


# ---------------------------------------------------------------- training


def gradient_of(function, leader) -> Tensor:
    return torch.autograd.grad(function.sum(), list(leader.parameters()))[0]


def evidence_of(game, leader) -> Evidence:
    given = {"trajectories": None, "memory": None, "follower": None}
    return Evidence(game=game, leader=leader, commitment=commit(game, leader).detach(), **given)


@pytest.mark.parametrize("make", [building.game, duopoly.game])
def test_the_estimator_exact_is_the_gradient_of_the_objective(make):
    game = make()
    leader = default_leader(game, SEEDS, std=0.3)
    both = exact_oracle(evidence_of(game, leader), commit(game, leader))
    objective = linear.objective(*in_matrices(game, commit(game, leader)))
    torch.testing.assert_close(
        gradient_of(sum(both), leader), gradient_of(objective, leader), rtol=1e-8, atol=1e-10
    )


def test_the_estimator_exact_needs_a_linear_leader():
    game = duopoly.game()
    leader = MLPGaussian(1, game.leader_space, seeds=SEEDS)
    with pytest.raises(InputError, match=r"a linear-Gaussian leader"):
        exact_oracle(evidence_of(game, leader), commit(game, leader))


def test_training_along_the_exact_hypergradient_and_what_it_says(tmp_path):
    game, config = (
        duopoly.game(),
        TrainConfig(iterations=40, streams=1, steps=20, estimator="exact"),
    )
    leader, store = default_leader(game, SEEDS), BestKnown(tmp_path / "known.json")
    short = replace(config, evaluation_episodes=50)
    result = Coordinator(game, leader, ExactFollower(), short, seeds=SEEDS, best_known=store).run()
    summary, row = result.summary, result.metrics[0]
    exact = summary["leader_return"]["exact"]
    assert exact == pytest.approx([DUOPOLY] * 3, rel=1e-3)
    assert summary["leader_return"]["against_response"] == pytest.approx(exact)
    assert summary["follower_gap"] == [0.0] * 3 or max(summary["follower_gap"]) < 1e-9
    assert summary["regret"] == pytest.approx([game.optimum - value for value in exact])
    start = default_leader(game, SEEDS)
    expected = oracle(game, commit(game, start)).objective
    assert row["leader_objective"] == pytest.approx(expected.tolist())
    kept = store.best(game)
    assert kept.value == pytest.approx(max(exact), rel=1e-12)
    assert kept.parameters.shape == (1, 3)


def test_training_stays_where_a_best_response_is_foreseen():
    """The leader wants s^2, which the follower pays for, and pays the follower a b to go astray.

    The more it pays, the more it gains, until the follower would gain without end.
    """
    ours, theirs = np.diag([0.0, -1.0, 0.0, 0.0]), np.diag([0.0, 1.0, 0.0, 0.5])
    theirs[2, 3] = theirs[3, 2] = 0.5
    game = LinearGame(
        [[0.0, 0.9, 0.0, 0.5]],
        ours,
        theirs,
        noise=[[0.04]],
        initial_covariance=[[1.0]],
        leader_discount=0.9,
        follower_discount=0.9,
    )
    leader = default_leader(game, SEEDS)
    settings = {"streams": 4, "steps": 25, "radius": 0.1, "evaluation_episodes": 2}
    config = TrainConfig(iterations=15, **settings)
    result = Coordinator(game, leader, ExactFollower(), config, seeds=SEEDS).run()
    values = torch.tensor([row["leader_objective"] for row in result.metrics])
    assert values.isfinite().all()
    reached = torch.tensor(result.summary["leader_return"]["exact"])
    assert (reached > 1.2 * values[5]).all()  # it does go on
    with torch.no_grad():
        leader.gains[:, 0, 1] -= 0.2
    assert not oracle(game, commit(game, leader)).best.solved.any()


def test_a_leader_whose_return_diverges_is_told():
    """The follower looks ahead too little to care where s' = 1.2 s + (a + b) / 2 leads."""
    ours, theirs = np.diag([0.0, 1.0, 0.2, 0.1]), np.diag([0.0, 0.5, 0.0, 1.0])
    discounts = {"leader_discount": 0.95, "follower_discount": 0.3}
    chance = {"noise": [[0.04]], "initial_covariance": [[1.0]]}
    game = LinearGame([[0.0, 1.2, 0.5, 0.5]], ours, theirs, **chance | discounts)
    leader = default_leader(game, (0, 1))
    with torch.no_grad():
        leader.gains[0, 0, 1] = -0.8
    config = TrainConfig(iterations=1, streams=3, steps=20, evaluation_episodes=2)
    with pytest.warns(UserWarning, match=r"returns of leader 1 of 0 to 1 diverge at the start"):
        result = Coordinator(game, leader, ExactFollower(), config, seeds=(0, 1)).run()
    exact = result.summary["leader_return"]["exact"]
    assert np.isfinite(exact[0])
    assert exact[1] == -np.inf


def test_errors_of_what_was_learned_hold_no_leader():
    """Of 30 steps in a market, many learn one in which the follower can gain without end."""
    game, seeds = duopoly.game(), range(16)
    leader = default_leader(game, seeds)
    config = TrainConfig(iterations=2, streams=1, steps=30, evaluation_episodes=2)
    coordinator = Coordinator(game, leader, ExactFollower(), config, seeds=seeds)
    coordinator.run()
    assert not coordinator._foreseen().all()
    assert (leader.gains != 0).any(-1).all()


def test_a_learned_game_without_a_best_response_is_warned_of_once():
    """Of 3 steps nobody learns a market; of 300 everybody does."""
    game, found = duopoly.game(), {}
    for steps in (3, 100):
        leader = default_leader(game, (0, 1))
        config = TrainConfig(iterations=3, streams=3, steps=steps, evaluation_episodes=2)
        coordinator = Coordinator(game, leader, ExactFollower(), config, seeds=(0, 1))
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            norms = [row["indirect_norm"] for row in coordinator.run().metrics]
        found[steps] = norms, [w for w in told if "has no best response" in str(w.message)]
    norms, told = found[3]
    lost = [m for m in (0, 1) if norms[0][m] == 0]
    assert sum(0.0 in row for row in norms) > 1
    assert len(told) == 1
    assert f"to leader {', '.join(map(str, lost))} of 0 to 1" in str(told[0].message)
    norms, told = found[100]
    assert not any(0.0 in row for row in norms)
    assert not told


def test_training_with_a_follower_that_stops_short_tells_its_gap():
    game, config = (
        building.game(),
        TrainConfig(iterations=1, streams=1, steps=20, estimator="exact", evaluation_episodes=2),
    )
    leader = default_leader(game, (0,))
    start = commit(game, leader).detach()
    result = Coordinator(game, leader, ExactFollower(sweeps=2), config).run()
    truth, answer = (
        oracle(game, start),
        response_to(ExactFollower(sweeps=2), game, default_leader(game)),
    )
    assert result.metrics[0]["follower_gap"] == pytest.approx(truth.follower_gap(answer).item())
    met = truth.leader_return(answer).item()
    assert result.metrics[0]["leader_objective"] == pytest.approx(met)
    assert met != pytest.approx(truth.objective.item())


# ---------------------------------------------------------------- commitments as numbers


@pytest.mark.parametrize("make", [building.game, duopoly.game, lqr.game])
def test_numbers_stand_for_commitments(make):
    game = make()
    leader = default_leader(game, SEEDS, std=0.3)
    commitment = commit(game, leader)
    rows = rows_of(commitment).detach()
    value = oracle(game, commitment).objective
    torch.testing.assert_close(oracle(game, committed(game, rows)).objective, value)
    again = default_leader(game, (7,), std=0.3)
    with torch.no_grad():
        for p, given in zip(again.parameters(), leader.parameters_at(rows[1]), strict=True):
            p.copy_(given)
    torch.testing.assert_close(rows_of(commit(game, again))[0], rows[1])


@pytest.mark.parametrize(
    ("make", "rows", "why"),
    [
        (duopoly.game, [[1.0, 2.0]], r"shape \[1, 2\], not \[1, 3\]"),
        (duopoly.game, [[1.0, 2.0, -1.0]], "a negative standard deviation"),
        (building.game, [2.0] * 8, "a design outside"),
        (building.game, [0.5] * 7, r"shape \[7\], not \[8\]"),
        (runaway, [[0.0, 0.8, 0.1]], "a value of -inf"),
    ],
)
def test_numbers_that_do_not_fit_are_not_kept(make, rows, why, tmp_path):
    with pytest.raises(ValueError, match=why):
        BestKnown(tmp_path / "known.json").offer(make(), rows, "train")


def test_a_linear_game_is_known_by_its_matrices():
    key = game_key(lqr.game())
    assert game_key(lqr.game(horizon=7)) == key
    for other in (lqr.game(width=[0.2, 0.02]), lqr.game(noise=0.1), lqr.game(temperature=0.2)):
        assert game_key(other) != key
    assert game_key(building.game()) == game_key(building.game())


# ---------------------------------------------------------------- solving


def test_solving_the_duopoly():
    """a = (m + s) / (2 slope), and the spread that the leader cannot do without."""
    game = duopoly.game()
    found = solve(game, spread_leader(game, range(4)), 60, 40)
    assert found.value == pytest.approx(DUOPOLY, rel=1e-9)
    torch.testing.assert_close(
        torch.tensor(found.parameters), torch.tensor([[4.0, 0.5, 0.1]]), rtol=0, atol=1e-5
    )
    assert found.reached_by == 4


def test_solving_a_design_finds_no_worse_than_a_grid():
    """Two numbers of the building's eight, the others as in the optimum."""
    game = building.game()
    found = solve(game, spread_leader(game, range(4)), 40, 30)
    best = torch.tensor(found.parameters, dtype=torch.float64)
    grid = torch.linspace(0, 1, 11, dtype=torch.float64)
    for pair in ((0, 1), (4, 5)):
        designs = best.repeat(121, 1)
        designs[:, pair] = torch.cartesian_prod(grid, grid)
        assert (
            linear.objective(*in_matrices(game, committed(game, designs))).max()
            < found.value + 1e-9
        )
    assert found.value == pytest.approx(game.optimum, abs=1e-4)


def test_solving_from_the_command_line(capsys):
    assert cli.main(["solve", "duopoly", "--restarts", "4", "--steps", "40", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["value"] == pytest.approx(DUOPOLY, rel=1e-6)
    assert answer["discounted"] is True
    assert answer["horizon"] is None
    assert BestKnown().best(duopoly.game()).value == pytest.approx(answer["value"])


def test_a_start_from_which_nothing_is_finite():
    cost = torch.diag(torch.tensor([0.0, 1.0, 0.0, 1.0]))
    game = LinearGame([[0.0, 50.0, 1.0, 0.0]], cost, cost, initial_mean=[1.0])
    with pytest.raises(InputError, match="returns are finite; got none in 2 restarts"):
        solve(game, spread_leader(game, range(2)), 2, 2)


@pytest.mark.slow
def test_solving_lqr():
    game = lqr.game()
    found = solve(game, spread_leader(game, range(64)))
    assert found.value == pytest.approx(game.optimum, abs=1e-6)
    assert found.reached_by >= 60
    assert found.parameters[0][:3] == pytest.approx([0.0, -9.985075, -10.0], abs=1e-4)


@pytest.mark.slow
def test_no_grid_point_beats_what_few_restarts_find():
    """A bump of widths 0.2 and 0.01, whose slope at the start is 1e-18; fewer steps than usual."""
    game = lqr.game(leader_discount=0.9)
    found = solve(game, spread_leader(game, range(4)), 60, 40)
    assert found.reached_by == 4
    grid = torch.linspace(-12, 12, 49, dtype=torch.float64)
    none, std = torch.zeros(1, dtype=torch.float64), torch.full((1,), 1e-3, dtype=torch.float64)
    rows = torch.cartesian_prod(none, grid, grid, std)
    values = linear.objective(*in_matrices(game, committed(game, rows[:, None])))
    assert values.max() <= found.value
    assert found.value > 0.9 * values.max()
