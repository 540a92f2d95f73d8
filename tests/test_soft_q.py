"""The soft Q-learning follower against the exact best response."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from gymnasium import spaces

from agents.soft_q import SoftQConfig, SoftQFollower
from agents.soft_q_learning import level_step, response_error
from games import discrete_toy
from games.tabular import TabularDesign, TabularGame
from stackelberg import exact
from stackelberg.errors import InputError
from stackelberg.game import Budget, Game
from stackelberg.types import Commitment, Response


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def random_game(seed: int, discount: float, temperature: float, **settings) -> TabularGame:
    draw = np.random.default_rng(seed)
    return TabularGame(
        draw.dirichlet(np.ones(8), (8, 2, 3)),
        draw.normal(size=(8, 2, 3)),
        draw.uniform(-1, 1, (8, 2, 3)),
        follower_discount=discount,
        temperature=temperature,
        horizon=50,
        **settings,
    )


def closing(*shares: float) -> Commitment:
    """One leader of discrete_toy for each P(close | A)."""
    policy = torch.full((len(shares), 3, 2), 0.5, dtype=torch.float64)
    policy[:, discrete_toy.A, discrete_toy.CLOSE] = torch.tensor(shares, dtype=torch.float64)
    policy[:, discrete_toy.A, discrete_toy.OPEN] = 1 - policy[:, discrete_toy.A, discrete_toy.CLOSE]
    return Commitment(policy, None)


def uniform(leaders: int = 1, states: int = 8) -> Commitment:
    return Commitment(torch.full((leaders, states, 2), 0.5, dtype=torch.float64), None)


def policy_error(game: Game, commitment: Commitment, response: Response) -> float:
    best = exact.best_response(game.model(commitment.design), commitment.policy)
    return (response.behaviour - best.policy).abs().max().item()


def same(one: Response, other: Response) -> bool:
    pairs = zip(one.value, other.value, strict=True)
    return one.steps == other.steps and all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("shown", [True, False], ids=["shown", "hidden"])
@pytest.mark.parametrize("bonus", [1.0, 2.0])
def test_discrete_toy(bonus, shown):
    game = discrete_toy.game(bonus, follower_observes_action=shown)
    commitment = closing(0.5, 0.05, 0.1665, 0.25)
    response = SoftQFollower().best_respond(game, commitment, [0, 1, 2, 3])
    assert response.behaviour.shape == (4, 3, 2, 3)
    assert response.behaviour.dtype == torch.float64
    assert policy_error(game, commitment, response) < (0.002 if shown else 0.05)


@pytest.mark.parametrize("shown", [True, False], ids=["shown", "hidden"])
@pytest.mark.parametrize(("seed", "discount", "temperature"), [(1, 0.95, 0.1), (2, 0.9, 0.3)])
def test_random_games(seed, discount, temperature, shown):
    game = random_game(seed, discount, temperature, follower_observes_action=shown)
    response = SoftQFollower().best_respond(game, uniform(), [seed])
    best = exact.best_response(game.model(), uniform().policy)
    assert policy_error(game, uniform(), response) < 0.05
    assert (response.value.value - best.value).abs().max() < 0.1
    assert (response.value.state_value - best.state_value).abs().max() < 0.1


def test_a_game_that_ends():
    game = random_game(3, 0.95, 0.3, termination=np.full((8, 1, 1, 1), 0.1))
    response = SoftQFollower().best_respond(game, uniform(), [0])
    best = exact.best_response(game.model(), uniform().policy)
    assert policy_error(game, uniform(), response) < 0.05
    assert (response.value.value - best.value).abs().max() < 0.1


def test_a_warm_start_tracks_a_leader_that_moves():
    game, follower = discrete_toy.game(), SoftQFollower()
    for i, share in enumerate(np.linspace(0.5, 0.05, 8)):
        response = follower.best_respond(game, closing(share), [i])
        assert policy_error(game, closing(share), response) < 0.002
        assert response.steps <= follower.config.later_steps


def test_a_warm_start_tracks_a_design_without_old_rewards():
    def reward(design: torch.Tensor) -> torch.Tensor:
        return torch.stack([design, torch.zeros_like(design)], -1)

    kernel = np.full((3, 2, 3), 1 / 3)
    game = TabularDesign(
        Budget(3, 1.0), kernel, np.zeros((3, 2)), reward, temperature=0.5, horizon=20
    )
    follower, ones = SoftQFollower(), torch.ones(1, 3, 1, dtype=torch.float64)
    for spent in ([0.1, 0.2, 0.7], [0.7, 0.1, 0.1]):
        commitment = Commitment(ones, torch.tensor([spent], dtype=torch.float64))
        response = follower.best_respond(game, commitment, [0])
        assert policy_error(game, commitment, response) < 0.05


def test_the_seeds_alone_decide_and_leaders_are_independent():
    game, commitment = random_game(0, 0.9, 0.3), uniform(2)
    config = SoftQConfig(first_steps=8192)
    torch.manual_seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002 - left alone?
    first = SoftQFollower(config).best_respond(game, commitment, [4, 5])
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()  # noqa: NPY002
    torch.manual_seed(99)
    assert same(first, SoftQFollower(config).best_respond(game, commitment, [4, 5]))
    alone = SoftQFollower(config).best_respond(game, uniform(1), [5])
    assert torch.equal(first.behaviour[1], alone.behaviour[0])
    assert not torch.equal(first.behaviour[0], first.behaviour[1])


@pytest.mark.parametrize("shown", [True, False], ids=["shown", "hidden"])
@pytest.mark.parametrize("capacity", [5000, 100_000], ids=["full", "room left"])
def test_an_interrupted_run_continues_identically(capacity, shown):
    game = random_game(0, 0.9, 0.3, follower_observes_action=shown)
    config = SoftQConfig(first_steps=8192, later_steps=4096, capacity=capacity)
    follower, resumed = SoftQFollower(config), SoftQFollower(config)
    follower.best_respond(game, uniform(2), [0, 1])
    resumed.load(follower.state())
    state = resumed.state()
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    moved = Commitment(torch.tensor([0.3, 0.7]).double().expand(2, 8, 2), None)
    for seeds in ([2, 3], [4, 5], [6, 7]):
        expected = follower.best_respond(game, moved, seeds)
        assert same(expected, resumed.best_respond(game, moved, seeds))


def test_a_state_is_a_copy():
    game, follower = random_game(0, 0.9, 0.3), SoftQFollower(SoftQConfig(first_steps=4096))
    follower.best_respond(game, uniform(), [0])
    state = follower.state()
    before = {name: value.clone() for name, value in state.items()}
    follower.best_respond(game, uniform(), [1])
    assert all(torch.equal(before[name], value) for name, value in state.items())


def test_another_game_starts_afresh():
    follower, config = SoftQFollower(), SoftQConfig()
    follower.best_respond(discrete_toy.game(2.0), closing(0.3), [0])
    game = discrete_toy.game(1.0)
    again = follower.best_respond(game, closing(0.3), [0])
    assert same(again, SoftQFollower(config).best_respond(game, closing(0.3), [0]))


def test_importing_the_follower_does_not_import_tianshou():
    code = "import sys, agents.soft_q; assert not {'tianshou', 'tensorboard'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_level_step_leaves_the_smallest_squared_errors():
    error, weight = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.1, 1.0, 0.1])
    step = level_step(error, weight)
    left = (error - step * weight) ** 2
    for other in (step - 0.01, step + 0.01):
        assert left.sum() < ((error - other * weight) ** 2).sum()


def test_response_error_by_hand():
    policy = torch.tensor([[0.5, 0.5], [0.5, 0.5]])
    squares = torch.tensor([[4.0, 0.0], [0.0, 0.0]])
    count = torch.tensor([[5.0, 5.0], [0.0, 0.0]])  # the second observation was never met
    mixing = torch.tensor([[0.5, 0.5]])
    # variance of the mean target 4 / (5 * 4) = 0.2; of the value (0.5 * 0.5)^2 * 0.2 = 0.0125
    expected = 0.5 * 0.5 * 0.2125**0.5 / 0.1
    found = response_error(squares, count, policy, mixing, 0.1).item()
    assert found == pytest.approx(expected, rel=1e-6)
    count[0, 1] = 1
    assert response_error(squares, count, policy, mixing, 0.1).item() == float("inf")


def test_bad_input_is_refused_in_three_parts():
    game, follower = discrete_toy.game(), SoftQFollower()
    with pytest.raises(InputError, match="expected one seed for each of 2 leaders; got 1 seeds"):
        follower.best_respond(game, closing(0.1, 0.2), [0])
    game.follower_space = spaces.Box(-1, 1, (2,))
    with pytest.raises(InputError, match="expected a game with a Discrete follower space"):
        follower.best_respond(game, closing(0.1), [0])
    game = discrete_toy.game()
    game.observe = lambda state: torch.zeros(len(state), 3)
    with pytest.raises(InputError, match="observed one-hot"):
        follower.best_respond(game, closing(0.1), [0])


@pytest.mark.parametrize(
    "setting", [{"copies": 0}, {"learning_rate": 1.5}, {"residual": 0.0}, {"updates": 0}]
)
def test_bad_settings_are_refused(setting):
    with pytest.raises(InputError, match=next(iter(setting))):
        SoftQConfig(**setting)
