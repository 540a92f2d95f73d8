"""The warehouse: a design that moves the transitions, against loops, the optimum and training."""

import itertools

import numpy as np
import pytest
import torch

from agents import ExactFollower
from agents.leaders import default_leader
from games import warehouse
from stackelberg import Coordinator, TrainConfig, exact
from stackelberg.errors import InputError

DESK, SCANNER = warehouse.INDEX[warehouse.DESK], warehouse.INDEX[warehouse.SCANNER]


def test_its_arrays_are_its_description():
    game = warehouse.game(price=0.3)
    slow = torch.rand(2, 37, generator=torch.Generator().manual_seed(0)).double() * 0.8
    model = game.model(slow)
    assert len(warehouse.CELLS) == 37
    assert model.initial[warehouse.INDEX[7, 1]] == 1
    for m, (i, cell), b in itertools.product(range(2), enumerate(warehouse.CELLS), range(4)):
        to = tuple(np.add(cell, warehouse.MOVES[b]))
        to = to if warehouse.MAP[to[0]][to[1]] == " " else cell
        fails, chances = slow[m, i].item(), np.zeros(37)
        chances[i] += fails
        chances[warehouse.INDEX[to]] += 1 - fails
        found = model.transition[m, i, 0, b]
        if i == DESK:  # the step that is taken there is the last
            assert found.sum() == 0
            assert model.ending[m, i, 0, b].sum() == 1
            assert model.follower_reward[i, 0, b] == 0
            assert model.leader_reward[m, i, 0, b].item() == pytest.approx(-0.3 * slow[m].sum())
            continue
        np.testing.assert_allclose(found, chances, atol=1e-12)
        assert model.follower_reward[i, 0, b] == -1
        passes = 1 - chances[i] if i == SCANNER else 0
        assert model.leader_reward[m, i, 0, b].item() == pytest.approx(passes)


def test_the_optimum_is_that_of_its_own_settings():
    assert warehouse.game().optimum == warehouse.BEST_KNOWN[0.2, 0.1]
    assert warehouse.game(horizon=7, **warehouse.STANDARD).optimum is not None
    for changed in ({"price": 0.2}, {"leader_discount": 0.9}, {"optimum": None}):
        assert warehouse.game(**changed).optimum is None
    with pytest.raises(InputError, match="price"):
        warehouse.game(price=-1)


def test_two_slow_cells_are_worth_the_optimum():
    """One in the upper aisle, one in the last lane; nothing else need be slow."""
    for temperature, first, second in ((0.1, 0.430513, 0.352349), (0.2, 0.61616, 0.523201)):
        game = warehouse.game(temperature)
        slow = torch.zeros(1, 37, dtype=torch.float64)
        slow[0, 2], slow[0, 25] = first, second
        policy = torch.ones(1, 37, 1, dtype=torch.float64)
        value = exact.objective(game.model(slow), policy).item()
        assert value == pytest.approx(game.optimum, abs=2e-4)


def test_leaders_learn_it_from_play_alone():
    """Within 10 % of the optimum by 30,000 steps; blind to the follower's answer they never do."""
    game, seeds = warehouse.game(), range(5)
    found = {}
    for estimator in ("expected-trace", "naive"):
        config = TrainConfig(estimator=estimator, iterations=100)
        leader = default_leader(game, seeds)
        result = Coordinator(game, leader, ExactFollower(), config, seeds=seeds).run()
        assert result.summary["env_steps"]["leader"] == 30_000
        found[estimator] = np.array(result.summary["leader_return"]["exact"])
    assert (found["expected-trace"] > 0.9 * game.optimum).all()
    assert (found["naive"] < 0.7 * game.optimum).all()
