"""The search for the leader's optimum against known optima and brute force."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from strategies import Recipe, random_design_game, random_game

from agents.leaders import spread_leader
from games import discrete_toy, matrix
from games.tabular import TabularDesign
from stackelberg import exact, search
from stackelberg.errors import InputError
from stackelberg.game import Budget, Game, Step
from stackelberg.process import single_thread
from stackelberg.search import solve


@pytest.fixture(autouse=True)
def _one_thread():
    with single_thread():
        yield


def found(game: Game, restarts: int = 32, seed: int = 0, **options: Any):
    return solve(game, spread_leader(game, range(seed, seed + restarts)), **options)


@pytest.mark.parametrize(("bonus", "optimum"), [(1.0, 34.99264127975), (2.0, 39.94021106)])
def test_the_optima_of_discrete_toy(bonus, optimum):
    solution = found(discrete_toy.game(bonus))
    assert solution.value == pytest.approx(optimum, abs=1e-6)
    assert solution.reached_by >= 28
    policy = torch.tensor(solution.parameters, dtype=torch.float64)
    assert exact.objective(discrete_toy.game(bonus).model(), policy[None]).item() == pytest.approx(
        solution.value, abs=1e-9
    )


@pytest.mark.parametrize("observes", [True, False])
@pytest.mark.parametrize("name", sorted(matrix.CLASSICS))
def test_the_optima_of_matrix_games(name, observes):
    game = matrix.game(name, follower_observes_action=observes)
    assert found(game, steps=100).value == pytest.approx(game.optimum, abs=1e-5)


@pytest.mark.parametrize("observes", [True, False])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_grid_point_beats_it(seed, observes):
    """Two states with two actions each: a grid over both probabilities, then a finer one."""
    game = random_game(Recipe(seed=seed, states=2, observes=observes, temperature=0.3))
    solution = found(game, steps=100)
    centre, width = np.array([0.5, 0.5]), 0.5
    for _ in range(4):
        axis = np.linspace(-width, width, 41)
        grid = np.clip(centre + np.array(list(itertools.product(axis, axis))), 0, 1)
        policy = torch.from_numpy(np.stack([grid, 1 - grid], -1))
        value = exact.objective(game.model(), policy)
        best, centre, width = value.max().item(), grid[value.argmax()], width / 10
    assert solution.value == pytest.approx(best, abs=1e-4)
    assert solution.value >= best - 1e-5


def test_a_design_is_found():
    game = random_design_game(Recipe(seed=1, dimension=1, temperature=0.3))
    grid = torch.linspace(-1, 1, 4001, dtype=torch.float64)[:, None]
    best = exact.objective(game.model(grid), torch.ones(4001, 3, 1, dtype=torch.float64)).max()
    solution = found(game, steps=100)
    assert solution.value == pytest.approx(best.item(), abs=1e-5)
    assert len(solution.parameters) == 1
    assert -1 <= solution.parameters[0] <= 1


def test_a_budget_is_spent_where_it_pays():
    """Paying 0.68 of 1 lifts the follower off the other action; more only costs the leader."""
    game = TabularDesign(
        Budget(2, 1.0),
        np.ones((1, 2, 1)),
        lambda x: torch.stack([2 - x.sum(-1), -x.sum(-1)], -1)[:, None, :],
        lambda x: torch.stack([x[:, 0], 0.5 + x[:, 1]], -1)[:, None, :],
        termination=1.0,
        temperature=0.05,
    )
    spent = torch.linspace(0, 1, 10001, dtype=torch.float64)
    taken = torch.sigmoid((spent - 0.5) / 0.05)
    best, at = (2 * taken - spent).max(0)
    solution = found(game)
    assert solution.value == pytest.approx(best.item(), abs=2e-4)  # shares near 0 move slowly
    assert solution.parameters == pytest.approx([spent[at].item(), 0.0], abs=1e-2)


def test_one_seed_one_answer():
    game = random_game(Recipe(seed=5))
    one, two, other = (found(game, 8, seed, steps=30, polish=10) for seed in (0, 0, 50))
    assert one == two
    assert one.values != other.values
    assert other.value == pytest.approx(one.value, abs=1e-3)


def test_one_restart_is_enough_where_there_is_one_hill():
    solution = found(discrete_toy.game(), 1)
    assert solution.value == pytest.approx(discrete_toy.OPTIMA[1.0], abs=1e-6)
    assert solution.reached_by == 1
    assert len(solution.values) == 1


def many_hills(states: int = 6) -> TabularDesign:
    """In every state a wage of its own, of two hills each: shirk for nothing, or work for 0.8."""
    ones = torch.ones(states, dtype=torch.float64)

    def pay(shirking: torch.Tensor, working: torch.Tensor) -> torch.Tensor:
        return torch.stack([shirking, working], -1)

    return TabularDesign(
        spaces.Box(0.0, 1.0, (states,), np.float64),
        np.eye(states)[:, None].repeat(2, 1),
        lambda x: pay(0.2 - 0.2 * x, 1.5 - x),
        lambda x: pay(0.8 * ones.expand(x.shape), x),
        initial=ones / states,
        termination=1.0,
        temperature=0.02,
    )


def test_recombining_finds_what_no_restart_does(monkeypatch):
    """Six pairs of hills; a warm climb, which would see over them all, is not warm here."""
    monkeypatch.setattr(search, "WARM", 1.0)
    wage = torch.linspace(0, 1, 10_001, dtype=torch.float64)[:, None]
    one = many_hills(1)
    best = exact.objective(one.model(wage), torch.ones(len(wage), 1, 1, dtype=torch.float64)).max()
    solution = found(many_hills(), 32)
    assert solution.values[0] < best - 0.05
    assert solution.value == pytest.approx(best.item(), abs=1e-4)
    assert solution.value == max(solution.populations)
    assert solution.reached_by >= 1
    assert solution.parameters == pytest.approx([solution.parameters[0]] * 6, abs=1e-2)


def test_no_population_where_most_restarts_agree():
    assert found(discrete_toy.game(), 8).populations == []


def test_a_given_start_is_taken_as_it_is():
    game = random_game(Recipe(seed=5))
    best = found(game, 16)
    logits = torch.tensor(best.parameters, dtype=torch.float64).clamp(min=1e-12).log()
    again = found(game, 2, 70, steps=1, polish=1, start=[logits])
    assert again.value >= best.value - 1e-9


def test_an_elite_keeps_one_of_those_alike():
    """Alike are those of one value that also move alike."""
    elite = search.Elite(3)
    value = torch.tensor([1.0, 4.0, 2.0, 4.0 + 1e-6, 2.0], dtype=torch.float64)
    moves = torch.tensor([0.5, 0.2, 0.7, 0.201, 0.1], dtype=torch.float64)[:, None]
    elite.add([torch.arange(5.0), torch.eye(5)], moves, value)
    assert elite.value.tolist() == [4.0 + 1e-6, 2.0, 2.0]
    assert elite.tables[0].tolist() == [3.0, 2.0, 4.0]
    assert torch.equal(elite.tables[1], torch.eye(5)[[3, 2, 4]])
    assert torch.equal(elite.moves, moves[[3, 2, 4]])
    new = torch.tensor([3.0], dtype=torch.float64)
    elite.add([torch.tensor([9.0]), torch.zeros(1, 5)], moves[:1], new)
    assert elite.tables[0].tolist() == [3.0, 9.0, 2.0]


def test_offspring_of_all_kinds():
    elite = search.Elite()
    parents = torch.tensor([[1.0] * 50, [10.0] * 50], dtype=torch.float64)
    value = torch.tensor([1.0, 0.0], dtype=torch.float64)
    elite.add([parents, torch.zeros(2)], value[:, None], value)
    noise = np.random.default_rng(0)
    (born,) = elite.offspring(1, 400, noise)
    assert born.shape == (400, 50)
    mixed, noisy, flat = (torch.cat([born[0::4], born[1::4]]), born[2::4], born[3::4])
    assert set(mixed.unique().tolist()) == {1.0, 10.0}
    both = (mixed == 1).any(1) & (mixed == 10).any(1)
    assert 0.2 < both.double().mean() < 0.8
    assert {round(v, 9) for v in flat.unique().tolist()} <= {0.3, 0.5, 0.7, 3.0, 5.0, 7.0}
    assert (flat.std(1) == 0).all()
    spread = noisy.std(1)
    assert spread.min() < 0.7
    assert spread.max() > 2.5


def test_progress_rises_and_ends():
    calls: list[tuple] = []
    game = random_game(Recipe())
    solution = found(game, 4, steps=10, polish=5, report=lambda *arguments: calls.append(arguments))
    steps, totals, values = zip(*calls, strict=True)
    assert steps == tuple(range(len(steps)))
    assert set(totals) == {2 * 10 + 5 + search.POPULATIONS * search.GENERATIONS * 5}
    assert len(steps) == (totals[0] if solution.populations else 25)
    assert list(values) == sorted(values)
    assert solution.value >= values[-1]
    assert solution.values == sorted(solution.values, reverse=True)


def test_a_game_without_tables_is_an_error():
    class Loose(Game):
        def __init__(self) -> None:
            super().__init__()
            toy = discrete_toy.game()
            self.leader_space, self.follower_space = toy.leader_space, toy.follower_space
            self.observation_space = toy.observation_space

        def initial(self, n, generator):
            return torch.zeros(n)

        def step(self, state, leader_action, follower_action, generator):
            return Step(state, state, state, state > 0)

        def observe(self, state):
            return state

    game = Loose()
    leader = spread_leader(game, (0,))
    before = [p.detach().clone() for p in leader.parameters()]
    with pytest.raises(InputError, match=r"expected a tabular game, .*; got 'game'.*; give it as"):
        solve(game, leader)
    assert all(map(torch.equal, leader.parameters(), before))
