"""The exact follower: solved, or stopped after a few sweeps."""

import itertools

import pytest
import torch
from strategies import Recipe, random_game

from agents.exact import ExactFollower
from games import discrete_toy
from stackelberg import exact
from stackelberg.errors import InputError
from stackelberg.process import single_thread
from stackelberg.types import Commitment


@pytest.fixture(autouse=True)
def _one_thread():
    with single_thread():
        yield


def uniform(game, leaders=1) -> Commitment:
    model = game.model(None)
    shape = (leaders, model.states, model.leader_actions)
    return Commitment(torch.full(shape, 1 / shape[-1], dtype=torch.float64), None)


def gap(game, commitment, response) -> torch.Tensor:
    return exact.follower_gap(game.model(None), commitment.policy, response.policy)


GAME = random_game(
    Recipe(seed=1, states=5, follower_actions=3, transitions="deterministic", temperature=0.2)
)


def test_without_sweeps_it_is_the_exact_best_response():
    commitment = uniform(GAME, 2)
    response = ExactFollower().best_respond(GAME, commitment, (0, 1))
    best = exact.best_response(GAME.model(None), commitment.policy)
    torch.testing.assert_close(response.policy, best.policy)
    torch.testing.assert_close(response.values.state_value, best.state_value)
    assert response.gap.tolist() == [0.0, 0.0]
    assert gap(GAME, commitment, response).abs().max() < 1e-9
    assert response.steps == 0


@pytest.mark.parametrize("backups", [1, 5])
def test_the_gap_falls_with_the_number_of_sweeps(backups):
    commitment = uniform(GAME)
    gaps = [
        gap(GAME, commitment, ExactFollower(k, backups).best_respond(GAME, commitment, (0,))).item()
        for k in (1, 2, 4, 8, 16, 32, 64)
    ]
    assert gaps[0] > 1e-4
    assert all(later < earlier + 1e-12 for earlier, later in itertools.pairwise(gaps))
    assert gaps[-1] < 1e-3 * gaps[0]


def test_more_backups_come_closer():
    commitment = uniform(GAME)
    gaps = [
        gap(GAME, commitment, ExactFollower(2, k).best_respond(GAME, commitment, (0,))).item()
        for k in (1, 5, 50)
    ]
    assert gaps[0] > gaps[1] > gaps[2]


def test_carrying_goes_on_and_resetting_starts_over():
    commitment = uniform(GAME)
    carry, reset = ExactFollower(2), ExactFollower(2, restart="reset")
    carried = [carry.best_respond(GAME, commitment, (0,)) for _ in range(3)]
    again = [reset.best_respond(GAME, commitment, (0,)) for _ in range(3)]
    six = ExactFollower(6).best_respond(GAME, commitment, (0,))
    assert torch.equal(carried[2].policy, six.policy)
    assert torch.equal(again[2].policy, again[0].policy)
    assert torch.equal(again[0].policy, carried[0].policy)
    assert gap(GAME, commitment, carried[2]) < gap(GAME, commitment, again[2])


def test_sweeps_are_soft_value_iteration():
    commitment = uniform(GAME)
    response = ExactFollower(3).best_respond(GAME, commitment, (0,))
    model, value = GAME.model(None), torch.zeros(1, 5, dtype=torch.float64)
    for _ in range(3):
        action_value = model.follower_reward + 0.9 * torch.einsum(
            "sabt,mt->msab", model.transition, value
        )
        soft = 0.2 * torch.logsumexp(action_value / 0.2, -1)
        value = (commitment.policy * soft).sum(-1)
    action_value = model.follower_reward + 0.9 * torch.einsum(
        "sabt,mt->msab", model.transition, value
    )
    torch.testing.assert_close(response.policy, torch.softmax(action_value / 0.2, -1))


@pytest.mark.parametrize("options", [{}, {"sweeps": 2}, {"sweeps": 2, "restart": "reset"}])
def test_a_saved_state_answers_as_the_follower_itself(options):
    follower, other = ExactFollower(**options), ExactFollower(**options)
    follower.best_respond(GAME, uniform(GAME), (0,))
    other.load({name: tensor.clone() for name, tensor in follower.state().items()})
    sharp = Commitment(torch.tensor([[[0.9, 0.1]] * 5], dtype=torch.float64), None)
    one, two = (f.best_respond(GAME, sharp, (0,)) for f in (follower, other))
    assert torch.equal(one.policy, two.policy)
    assert ExactFollower(**options).state() == {}


def test_another_number_of_leaders_starts_over():
    follower = ExactFollower(2)
    follower.best_respond(GAME, uniform(GAME), (0,))
    response = follower.best_respond(GAME, uniform(GAME, 3), (0, 1, 2))
    fresh = ExactFollower(2).best_respond(GAME, uniform(GAME, 3), (0, 1, 2))
    assert torch.equal(response.policy, fresh.policy)


@pytest.mark.parametrize("observes", [True, False])
def test_many_sweeps_find_the_best_response_of_either_kind(observes):
    game = random_game(Recipe(seed=3, observes=observes, termination="on leaving"))
    commitment = uniform(game)
    response = ExactFollower(400).best_respond(game, commitment, (0,))
    best = exact.best_response(game.model(None), commitment.policy)
    torch.testing.assert_close(response.policy, best.policy, rtol=0, atol=1e-8)


def test_on_discrete_toy_a_warm_start_changes_nothing():
    game = discrete_toy.game()
    follower, commitment = ExactFollower(), uniform(game)
    cold, warm = (follower.best_respond(game, commitment, (0,)) for _ in range(2))
    torch.testing.assert_close(cold.policy, warm.policy, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "options",
    [{"sweeps": 0}, {"sweeps": -3}, {"backups": 0}, {"sweeps": 2, "restart": "sometimes"}],
)
def test_settings_out_of_range_are_an_error(options):
    with pytest.raises(InputError, match=r"^expected .+; got .+; .+"):
        ExactFollower(**options)
