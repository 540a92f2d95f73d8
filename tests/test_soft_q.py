"""The soft Q-learning follower against the exact best response."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from gymnasium import spaces

from agents import SoftQConfig, SoftQFollower
from agents.leaders import TabularSoftmax
from agents.tianshou_table import level_step, response_error
from games import discrete_toy
from games.tabular import TabularDesign, TabularGame
from stackelberg import exact
from stackelberg.errors import InputError
from stackelberg.game import Budget, Game
from stackelberg.types import Commitment, TabularResponse

# (seed of a game, temperature, is the leader's move observed?)
VARIED = [(0, 0.05, True), (5, 0.05, True), (6, 0.05, True), (7, 0.05, True), (3, 0.05, False)]


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


def policy_error(game: Game, commitment: Commitment, response: TabularResponse) -> float:
    best = exact.best_response(game.model(commitment.design), commitment.policy)
    return (response.policy - best.policy).abs().max().item()


def same(one: TabularResponse, other: TabularResponse) -> bool:
    pairs = zip(one.values, other.values, strict=True)
    return one.steps == other.steps and all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("shown", [True, False], ids=["shown", "hidden"])
@pytest.mark.parametrize("bonus", [1.0, 2.0])
def test_discrete_toy(bonus, shown):
    game = discrete_toy.game(bonus, follower_observes_action=shown)
    commitment = closing(0.5, 0.05, 0.1665, 0.25)
    response = SoftQFollower().best_respond(game, commitment, [0, 1, 2, 3])
    assert response.policy.shape == (4, 3, 2, 3)
    assert response.policy.dtype == torch.float64
    assert policy_error(game, commitment, response) < (0.002 if shown else 0.05)


@pytest.mark.parametrize("shown", [True, False], ids=["shown", "hidden"])
@pytest.mark.parametrize(("seed", "discount", "temperature"), [(1, 0.95, 0.1), (2, 0.9, 0.3)])
def test_random_games(seed, discount, temperature, shown):
    game = random_game(seed, discount, temperature, follower_observes_action=shown)
    response = SoftQFollower().best_respond(game, uniform(), [seed])
    best = exact.best_response(game.model(), uniform().policy)
    assert policy_error(game, uniform(), response) < 0.05
    assert (response.values.value - best.value).abs().max() < 0.1
    assert (response.values.state_value - best.state_value).abs().max() < 0.1


def test_a_game_that_ends():
    game = random_game(3, 0.95, 0.3, termination=np.full((8, 1, 1, 1), 0.1))
    response = SoftQFollower().best_respond(game, uniform(), [0])
    best = exact.best_response(game.model(), uniform().policy)
    assert policy_error(game, uniform(), response) < 0.05
    assert (response.values.value - best.value).abs().max() < 0.1


def varied_game(seed: int, temperature: float, shown: bool) -> tuple[TabularGame, Commitment]:
    """A game of random size, transitions and ending, and a random leader."""
    draw = np.random.default_rng(1000 + seed)
    states, actions = int(draw.integers(5, 9)), int(draw.integers(2, 4))
    cells = (states, actions, 3)
    kernel = draw.dirichlet(np.full(states, (1.0, 1.0, 0.3)[seed % 3]), cells)
    if seed % 3 == 1:
        kernel *= draw.random(kernel.shape) < 0.5
        kernel[kernel.sum(-1) == 0] = 1
        kernel /= kernel.sum(-1, keepdims=True)
    ends = (None, np.arange(states) == states - 1, np.full((states, 1, 1, 1), 0.1))[seed // 3 % 3]
    game = TabularGame(
        kernel,
        *draw.normal(size=(2, *cells)),
        np.full(states, 1 / states),
        None if ends is None else ends.astype(float),
        leader_discount=0.95,
        follower_discount=(0.9, 0.95)[seed % 2],
        temperature=temperature,
        horizon=50,
        follower_observes_action=shown,
    )
    policy = torch.softmax(torch.from_numpy(draw.normal(size=(1, states, actions))), -1)
    return game, Commitment(policy, None)


def played_error(game: Game, commitment: Commitment, response: TabularResponse) -> float:
    """Largest policy error where play spends more than 1 % of its discounted time."""
    model, policy = game.model(), commitment.policy
    best = exact.best_response(model, policy)
    error = (response.policy - best.policy).abs().amax(-1)
    share = exact.visitation(model, policy, best.policy)
    share = (share / share.sum()).unsqueeze(-1).expand_as(policy)
    if game.follower_observes_action:
        share = share * policy
    return error[share > 0.01].max().item()


@pytest.mark.parametrize(("seed", "temperature", "shown"), VARIED)
def test_random_leaders_in_random_games(seed, temperature, shown):
    game, commitment = varied_game(seed, temperature, shown)
    response = SoftQFollower().best_respond(game, commitment, [seed])
    assert played_error(game, commitment, response) < 0.05


def cold_game() -> tuple[TabularGame, Commitment]:
    """Temperature 0.01 and close calls: noise turns choices, and makes them look certain."""
    draw = np.random.default_rng(3)
    game = TabularGame(
        draw.dirichlet(np.full(5, 0.3), (5, 3, 3)),
        *draw.normal(size=(2, 5, 3, 3)),
        np.full(5, 0.2),
        [0, 0, 0, 0, 1.0],
        leader_discount=0.95,
        follower_discount=0.95,
        temperature=0.01,
    )
    return game, Commitment(
        TabularSoftmax(5, 3, std=1.0).log_policy(torch.eye(5)).exp().detach(), None
    )


@pytest.mark.parametrize("seed", range(4))
def test_collecting_does_not_end_on_a_wrong_action(seed):
    game, commitment = cold_game()
    config = SoftQConfig(first_steps=65_536)
    response = SoftQFollower(config).best_respond(game, commitment, [seed])
    wrong = policy_error(game, commitment, response) > 0.05
    spent = config.first_steps - config.copies * game.horizon  # no room for another round
    assert not wrong or response.steps > spent


def test_the_default_budget_tells_close_calls_apart():
    game, commitment = cold_game()
    response = SoftQFollower().best_respond(game, commitment, [0])
    assert policy_error(game, commitment, response) < 0.05


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
    assert torch.equal(first.policy[1], alone.policy[0])
    assert not torch.equal(first.policy[0], first.policy[1])


@pytest.mark.parametrize("shown", [True, False], ids=["shown", "hidden"])
def test_an_interrupted_run_continues_identically(shown):
    game = random_game(0, 0.9, 0.3, follower_observes_action=shown)
    few = {"first_steps": 4096, "later_steps": 2048, "afresh_steps": 4096}
    config = SoftQConfig(**few)
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
    q = torch.tensor([[0.0, 0.1], [0.0, 0.0]])
    squares = torch.tensor([[6.0, 6.0], [0.0, 0.0]])
    count = torch.tensor([[4.0, 4.0], [0.0, 0.0]])  # the second observation was never met
    mixing, moves = torch.tensor([[0.5, 0.5]]), torch.zeros(2, 2, 1)
    # spread 2 per sample, 0.5 of a mean target, 1 of the gap: play ends at once
    expected = 1 / (1 + np.exp(-(3 - 0.1) / 0.5)) - 1 / (1 + np.exp(0.1 / 0.5))
    found = response_error(squares, moves, count, q, mixing, 0.5).item()
    assert found == pytest.approx(expected, rel=1e-6)
    assert response_error(0 * squares, moves, count, q, mixing, 0.5).item() == 0
    count[0, 1] = 1
    assert response_error(squares, moves, count, q, mixing, 0.5).item() == float("inf")


@pytest.mark.parametrize("apart", [0.5, 0.05])
def test_a_choice_that_noise_could_turn_is_not_known(apart):
    q = torch.tensor([[5.6, 6.0, 6.0 + apart]])
    count, moves = torch.full((1, 3), 100.0), torch.zeros(1, 3, 1)
    squares = torch.full((1, 3), 2.0)  # standard error of a difference 0.02, of a gap 0.06
    known = response_error(squares, moves, count, q, torch.ones(1, 1), 0.005) < 0.01
    assert known == (apart > 0.1)


@pytest.mark.parametrize("seen", [1, 2], ids=["hidden", "shown"])
def test_noise_in_values_passes_through_the_whole_game(seen):
    states, actions, temperature = 4, 3, 0.2
    draw = torch.Generator().manual_seed(seen)
    rows = states * seen

    def some(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=draw, dtype=torch.float64)

    q, mixing = some(rows, actions), torch.softmax(some(states, seen), -1)
    moves = 0.95 * torch.softmax(3 * some(rows, actions, states), -1)
    count, squares = torch.full((rows, actions), 1e6).double(), 1e7 * torch.ones(rows, actions)
    # Independently: Q = e + moves E_fg[Q], one linear system for all entries (x, b).
    weight = (mixing.reshape(-1, 1) * torch.softmax(q / temperature, -1)).reshape(-1)
    average = torch.zeros(states, rows * actions, dtype=torch.float64)
    for entry in range(rows * actions):
        average[entry // (seen * actions), entry] = weight[entry]
    system = torch.eye(rows * actions) - moves.view(-1, states) @ average
    effect = torch.linalg.inv(system).view(rows, actions, -1) * (10 / 1e6) ** 0.5
    largest = 0.0
    for x in range(rows):
        for b in range(actions):
            rest = [c for c in range(actions) if c != b]
            share = torch.softmax(q[x, rest] / temperature, -1)
            error = (effect[x, b] - share @ effect[x, rest]).norm()
            gap = q[x, b] / temperature - torch.logsumexp(q[x, rest] / temperature, -1)
            for sign in (-3, 3):
                moved = torch.sigmoid(gap + sign * error / temperature)
                largest = max(largest, (moved - torch.sigmoid(gap)).abs().item())
    found = response_error(squares, moves, count, q, mixing, temperature).item()
    assert found == pytest.approx(largest, rel=1e-4)


def test_bad_input_is_refused_in_three_parts():
    game, follower = discrete_toy.game(), SoftQFollower()
    with pytest.raises(InputError, match="expected one seed for each of 2 leaders; got 1 seeds"):
        follower.best_respond(game, closing(0.1, 0.2), [0])
    game.follower_space = spaces.Box(-1, 1, (2,))
    with pytest.raises(InputError, match="expected a game with a Discrete follower space"):
        follower.best_respond(game, closing(0.1), [0])


@pytest.mark.parametrize(
    "setting", [{"copies": 0}, {"learning_rate": 1.5}, {"residual": 0.0}, {"updates": 0}]
)
def test_bad_settings_are_refused(setting):
    with pytest.raises(InputError, match=next(iter(setting))):
        SoftQConfig(**setting)
