"""The shipped games against their descriptions, and what games say to bad input."""

import itertools
import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import design_games, random_designs, tabular_games

from agents.leaders import SoftmaxBudget
from games import discrete_toy, four_rooms, matrix
from games.tabular import TabularDesign, TabularGame
from stackelberg import exact
from stackelberg.errors import InputError
from stackelberg.game import Budget
from stackelberg.types import commit

# ---------------------------------------------------------------- discrete toy


def toy_policy(close: float) -> torch.Tensor:
    """Uniform but in A, where the leader closes with probability `close`: [1, 3, 2]."""
    policy = torch.full((1, 3, 2), 0.5, dtype=torch.float64)
    policy[0, 1] = torch.tensor([1 - close, close])
    return policy


@pytest.mark.parametrize(("close", "value"), [(0.5, 0.6170054), (0.01, 33.758), (0.9, 6.6e-6)])
def test_discrete_toy_objective(close, value):
    found = exact.objective(discrete_toy.game().model(), toy_policy(close)).item()
    assert found == pytest.approx(value, rel=2e-2 if close == 0.9 else 2e-5)


STANDARD = {"leader_discount": 0.99, "follower_discount": 0.99, "follower_observes_action": True}


@pytest.mark.parametrize(
    ("game", "temperature", "optimum"),
    [
        (discrete_toy.game, 0.05, discrete_toy.OPTIMA[1.0]),
        (four_rooms.game, 0.003, four_rooms.BEST_KNOWN[1, "sim", 0.003, 5.0]),
    ],
)
def test_an_optimum_is_known_however_defaults_are_spelled_out(game, temperature, optimum):
    assert game(temperature=temperature, horizon=7, **STANDARD).optimum == optimum
    for changed in (
        {"temperature": 0.07},
        {"leader_discount": 0.9},
        {"follower_discount": 0.9},
        {"optimum": None},
    ):
        assert game(**changed).optimum is None
    assert game(optimum=3.0).optimum == 3.0


def toy_rules(state: str, leader: str, follower: str, bonus: float) -> tuple[str, float, float]:
    """The description in words: next state, leader's reward, follower's reward."""
    if state == "S":
        return {
            "stay": ("S", 0.0, 0.0),
            "to A": ("A", 1.0, 1.0),
            "to B": ("B", 0.0, 1.0),
        }[follower]
    if state == "A":
        if leader == "close":
            return "S", 0.0, -1.0
        return {
            "stay": ("S", 0.0, 0.0),
            "to A": ("A", 0.0, 0.0),
            "to B": ("B", 0.0, bonus),
        }[follower]
    return ("S", 0.0, 0.0) if follower == "stay" else ("B", 0.0, 0.0)


@pytest.mark.parametrize("bonus", [1.0, 2.0])
def test_discrete_toy_rules(bonus):
    game = discrete_toy.game(bonus=bonus)
    model = game.model()
    names, ours, theirs = "SAB", ("open", "close"), ("stay", "to A", "to B")
    for s, a, b in itertools.product(range(3), range(2), range(3)):
        state, leader, follower = toy_rules(names[s], ours[a], theirs[b], bonus)
        assert model.transition[s, a, b].tolist() == [float(n == state) for n in names]
        assert model.leader_reward[s, a, b] == leader
        assert model.follower_reward[s, a, b] == follower
    assert model.initial.tolist() == [1, 0, 0]
    assert model.ending is None
    assert (game.horizon, game.temperature, game.leader_discount) == (150, 0.05, 0.99)
    assert game.follower_observes_action


# ---------------------------------------------------------------- four rooms


@pytest.mark.parametrize(
    ("temperature", "value"), [(0.001, -0.741), (0.003, -0.726), (0.005, -0.667)]
)
def test_four_rooms_objective_at_the_start(temperature, value):
    game = four_rooms.game(kernel="model", temperature=temperature)
    commitment = commit(game, SoftmaxBudget(game.leader_space, std=0.0))
    found = exact.objective(game.model(commitment.design), commitment.policy)
    assert found.item() == pytest.approx(value, abs=5e-4)


def walk(kept: float, row: int, column: int, chosen: int) -> dict[tuple[int, int], float]:
    """Where one move leads, from the map alone."""
    arrive: dict[tuple[int, int], float] = {}
    for move, (down, right) in enumerate([(-1, 0), (0, 1), (1, 0), (0, -1)]):
        to = (row + down, column + right)
        to = to if four_rooms.MAP[to[0]][to[1]] != "#" else (row, column)
        chance = kept if move == chosen else (1 - kept) / 3
        arrive[to] = arrive.get(to, 0.0) + chance
    return arrive


@pytest.mark.parametrize(("kernel", "kept"), [("sim", 0.67), ("model", 0.56)])
def test_four_rooms_moves(kernel, kept):
    game = four_rooms.game(kernel=kernel)
    model = game.model(torch.zeros(1, 104))
    assert model.ending is not None
    moves = (model.transition + model.ending)[..., 0, :, :].expand(104, 4, 104)
    assert len(four_rooms.CELLS) == 104
    for (s, cell), b in itertools.product(enumerate(four_rooms.CELLS), range(4)):
        expected = np.zeros(104)
        moved = {cell: 1.0} if cell == (1, 9) else walk(kept, *cell, b)  # the goal is not left
        for to, chance in moved.items():
            expected[four_rooms.CELLS.index(to)] = chance
        np.testing.assert_allclose(moves[s, b].numpy(), expected, atol=1e-12)
    open_floor = four_rooms.INDEX[(2, 3)]
    around = sorted(moves[open_floor, 0][moves[open_floor, 0] > 0].tolist())
    other = 0.11 if kernel == "sim" else 0.14667
    assert around == pytest.approx([other, other, other, kept], abs=1e-5)


def test_four_rooms_reference_mismatch():
    """The follower plans and values are reported on one kernel; play follows the other."""
    design = torch.zeros(1, 104)
    mixed, sim, model = (four_rooms.game(kernel=k) for k in ("reference", "sim", "model"))
    planned, played = mixed.model(design), mixed.simulated_model(design)
    torch.testing.assert_close(planned.transition, model.model(design).transition)
    torch.testing.assert_close(played.transition, sim.model(design).transition)
    assert not torch.equal(planned.transition, played.transition)
    torch.testing.assert_close(sim.simulated_model(design).transition, played.transition)


def test_four_rooms_rewards():
    game = four_rooms.game(penalty=5.0)
    spent = torch.arange(104, dtype=torch.float64)[None] * 1e-5
    model = game.model(spent)
    goal, target = four_rooms.INDEX[(1, 9)], four_rooms.INDEX[(8, 4)]
    for s, b in itertools.product(range(104), range(4)):
        follower = 1.0 if s == goal else -spent[0, s].item()
        leader = float(s == target) - (5 * spent.sum().item() if s == goal else 0.0)
        assert model.follower_reward[0, s, 0, b].item() == pytest.approx(follower)
        assert model.leader_reward[0, s, 0, b].item() == pytest.approx(leader)
    assert model.initial[four_rooms.INDEX[(4, 1)]] == 1
    assert isinstance(game.leader_space, Budget)
    assert (game.leader_space.total, game.horizon) == (0.2, 200)


def test_four_rooms_ends_with_the_step_on_the_goal():
    model = four_rooms.game().model(torch.zeros(1, 104))
    ends = model.ending[..., 0, :, :].reshape(104, 4, 104).sum(-1)
    goal = torch.arange(104) == four_rooms.INDEX[(1, 9)]
    torch.testing.assert_close(ends, goal.double()[:, None].expand(104, 4))


def test_four_rooms_two_goals():
    """Two copies of the rooms, never left; each has its own goal; spendings count in both."""
    game = four_rooms.game(goals=2, penalty=2.0)
    spent = torch.full((1, 104), 1e-3, dtype=torch.float64)
    model = game.model(spent)
    moves = (model.transition + model.ending)[..., 0, :, :].reshape(2, 104, 4, 2, 104)
    assert moves[0, :, :, 1].abs().max() == moves[1, :, :, 0].abs().max() == 0
    goals = [four_rooms.INDEX[(1, 9)], four_rooms.INDEX[(11, 11)]]
    for g, goal in enumerate(goals):
        assert (moves[g, goal, :, g, goal] == 1).all()
    inner = torch.ones(104, dtype=torch.bool)
    inner[goals] = False
    torch.testing.assert_close(moves[0, inner, :, 0], moves[1, inner, :, 1])
    start = four_rooms.INDEX[(4, 1)]
    expected = [start, 104 + start]
    assert model.initial.nonzero().squeeze(1).tolist() == expected
    assert model.initial[expected].tolist() == [0.5, 0.5]
    goals = [four_rooms.INDEX[(1, 9)], 104 + four_rooms.INDEX[(11, 11)]]
    assert (model.follower_reward[0, :, 0, 0] == 1).nonzero().squeeze(1).tolist() == goals
    assert (model.ending.sum((-3, -2, -1)).flatten() > 0).nonzero().squeeze(1).tolist() == goals
    cost = model.leader_reward[0, goals, 0, 0]
    torch.testing.assert_close(cost, torch.full((2,), -2 * 0.104, dtype=torch.float64))
    rest = torch.ones(208, dtype=torch.bool)
    rest[goals] = False
    assert model.follower_reward[0, rest].unique().tolist() == [-1e-3]


# ---------------------------------------------------------------- matrix games


def brute_force(game: TabularGame, strategies: np.ndarray) -> np.ndarray:
    """J of every strategy [N, A], from the exact objective of the arrays."""
    return exact.objective(game.model(), torch.from_numpy(strategies)[:, None]).numpy()


def halves(points: int) -> np.ndarray:
    p = np.linspace(0, 1, points)
    return np.stack([p, 1 - p], -1)


@pytest.mark.parametrize("name", matrix.CLASSICS)
@pytest.mark.parametrize("observes", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.1, 0.01])
def test_matrix_optimum(name, observes, temperature):
    game = matrix.game(name, follower_observes_action=observes, temperature=temperature)
    values = brute_force(game, halves(20_001))
    assert game.optimum >= values.max() - 1e-12
    assert game.optimum == pytest.approx(values.max(), abs=1e-3 * temperature)


finite = st.floats(-5, 5).map(lambda x: round(x, 2))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    leader=st.lists(finite, min_size=6, max_size=6),
    follower=st.lists(finite, min_size=6, max_size=6),
    temperature=st.sampled_from([0.05, 0.3, 2.0]),
)
def test_best_mixture_of_random_games(leader, follower, temperature):
    ours, theirs = (np.reshape(x, (2, 3)) for x in (leader, follower))
    game = matrix.game(leader_payoff=ours, follower_payoff=theirs, temperature=temperature)
    values = brute_force(game, halves(5_001))
    assert game.optimum >= values.max() - 1e-9
    assert game.optimum <= values.max() + 1e-2


def test_matrix_values():
    """J against sums written out, for three leader actions; no optimum is claimed there."""
    ours, theirs = [[1, 2], [0, 1], [3, -1]], [[0, 1], [2, 0], [1, 1]]
    mix, beta = [0.2, 0.5, 0.3], 0.7
    for observes in (False, True):
        game = matrix.game(None, ours, theirs, observes, beta)
        total = 0.0
        for a in range(3):
            sight = [float(i == a) for i in range(3)] if observes else mix
            heat = [math.exp(sum(sight[i] * theirs[i][b] for i in range(3)) / beta) for b in (0, 1)]
            total += mix[a] * sum(heat[b] / sum(heat) * ours[a][b] for b in (0, 1))
        assert brute_force(game, np.array([mix])).item() == pytest.approx(total, abs=1e-12)
        if observes:
            assert game.optimum == pytest.approx(brute_force(game, np.eye(3)).max())
        else:
            assert game.optimum is None


def test_commitment_beats_every_pure_strategy():
    game = matrix.game("commitment", temperature=1e-3)
    assert brute_force(game, np.eye(2)) == pytest.approx([2.0, 3.0], abs=1e-6)
    assert 3.49 < game.optimum < 3.5
    seen = matrix.game("commitment", temperature=1e-3, follower_observes_action=True)
    assert seen.optimum == pytest.approx(3.0)


def test_matrix_shapes_and_ends():
    game = matrix.game(leader_payoff="[[2, 4, 1]]", follower_payoff="[[1, 0, 1]]")
    assert (game.leader_space.n, game.follower_space.n, game.states) == (1, 3, 1)
    assert not game.follower_observes_action
    assert game.model().transition.sum() == 0
    assert game.model().ending.sum() == 3
    assert game.optimum == pytest.approx(brute_force(game, np.ones((1, 1))).item())
    assert matrix.game().optimum == matrix.game("commitment").optimum
    assert matrix.game(optimum=7.0).optimum == 7.0
    assert matrix.game("chicken", temperature=1e-6).optimum is None  # no grid is fine enough


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"name": "checkers"}, "prisoners_dilemma, chicken, .*; got 'checkers'"),
        ({"name": "chicken", "leader_payoff": [[1]], "follower_payoff": [[1]]}, "either name or"),
        ({"name": "chicken", "leader_payoff": [[1]]}, "either name or"),
        ({"leader_payoff": [[1]]}, "either name or .*; got leader_payoff"),
        ({"follower_payoff": [[1]]}, "either name or .*; got follower_payoff"),
        ({"leader_payoff": [[1, 2]], "follower_payoff": [[1], [2]]}, "same shape"),
        ({"leader_payoff": [1, 2], "follower_payoff": [1, 2]}, r"leader_payoff of shape \[A, B\]"),
        ({"leader_payoff": [[]], "follower_payoff": [[]]}, r"leader_payoff of shape \[A, B\]"),
        ({"leader_payoff": [[1]], "follower_payoff": [[math.nan]]}, "follower_payoff: finite"),
        ({"leader_payoff": [[math.inf]], "follower_payoff": [[1]]}, "leader_payoff: finite"),
        ({"leader_payoff": "[[1, NaN]]", "follower_payoff": [[1, 1]]}, "leader_payoff: finite"),
        ({"leader_payoff": "[[1, 2", "follower_payoff": [[1, 1]]}, "leader_payoff: a matrix"),
        ({"leader_payoff": "chicken", "follower_payoff": [[1, 1]]}, "leader_payoff: a matrix"),
        ({"leader_payoff": [["a"]], "follower_payoff": [[1]]}, "leader_payoff: a matrix"),
        ({"leader_payoff": [[1, 2], [3]], "follower_payoff": [[1]]}, "leader_payoff: a matrix"),
        ({"temperature": 0.0}, "temperature"),
    ],
)
def test_matrix_bad_input(options, expected):
    with pytest.raises(InputError, match=rf"^expected .*{expected}.*; .+"):
        matrix.game(**options)


# ---------------------------------------------------------------- arrays of any game

KERNEL = np.full((2, 2, 2, 2), 0.5)


def changed(array, index, value):
    array = np.array(array, dtype=float)
    array[index] = value
    return array


def base(**given):
    return {
        "transition": KERNEL,
        "leader_reward": 0.0,
        "follower_reward": np.zeros((2, 2, 2)),
    } | given


BAD = {
    "transition of 3 dimensions": ({"transition": np.full((2, 2, 2), 0.5)}, "transition of shape"),
    "transition not square": ({"transition": np.full((3, 2, 2, 2), 0.5)}, "transition of shape"),
    "transition empty": ({"transition": np.zeros((0, 2, 2, 0))}, "transition of shape"),
    "transition ragged": ({"transition": [[1.0], [0.5, 0.5]]}, "transition: an array of numbers"),
    "transition a name": ({"transition": "uniform"}, "transition: an array of numbers"),
    "rows sum": ({"transition": changed(KERNEL, (1, 0, 1, 0), 0.6)}, r"row \[1, 0, 1\]; normalise"),
    "negative": (
        {"transition": changed(KERNEL, (0, 1, 1), [1.5, -0.5])},
        r"transition: finite prob.*-0.5 at index \[0, 1, 1, 1\]",
    ),
    "transition nan": (
        {"transition": changed(KERNEL, (0, 0, 0, 0), math.nan)},
        "transition: finite",
    ),
    "leader nan": (
        {"leader_reward": changed(np.zeros((2, 2, 2)), (1, 0, 1), math.nan)},
        r"leader_reward: finite.*index \[1, 0, 1\]",
    ),
    "follower inf": (
        {"follower_reward": changed(np.zeros((2, 2, 2)), (0, 0, 1), -math.inf)},
        r"follower_reward: finite.*index \[0, 0, 1\]",
    ),
    "reward shape": ({"leader_reward": np.zeros((2, 3, 2))}, "leader_reward of a shape"),
    "reward dimensions": ({"leader_reward": np.zeros((1, 2, 2, 2))}, "leader_reward of a shape"),
    "reward [A, B]": ({"leader_reward": np.zeros((2, 2))}, "leader_reward of a shape"),
    "reward [B]": ({"follower_reward": np.zeros(2)}, "follower_reward of a shape"),
    "reward missing": ({"leader_reward": None}, "leader_reward: an array of numbers"),
    "initial shape": ({"initial": np.ones(3) / 3}, r"initial of shape \[2\]"),
    "initial sum": ({"initial": [0.5, 0.6]}, "initial: rows that sum to 1"),
    "initial negative": ({"initial": [1.5, -0.5]}, "initial: finite probabilities"),
    "termination range": ({"termination": [0.0, 1.5]}, "termination: probabilities"),
    "termination nan": ({"termination": [0.0, math.nan]}, "termination: probabilities"),
    "termination shape": ({"termination": np.zeros(3)}, "termination of a shape"),
    "termination [B, S]": ({"termination": np.zeros((2, 2))}, "termination of a shape"),
    "termination [A, B, S]": ({"termination": np.zeros((2, 2, 2))}, "termination of a shape"),
    "observes a word": (
        {"follower_observes_action": "false"},
        "follower_observes_action: True or False; got 'false'",
    ),
    "leader discount a word": ({"leader_discount": "0.9"}, "leader_discount: a number; got '0.9'"),
    "temperature a word": ({"temperature": "0.1"}, "temperature: a number"),
    "temperature none": ({"temperature": None}, "temperature: a number"),
    "temperature 0": ({"temperature": 0.0}, "finite temperature > 0; got 0"),
    "temperature negative": ({"temperature": -1.0}, "finite temperature > 0"),
    "temperature inf": ({"temperature": math.inf}, "finite temperature > 0"),
    "temperature nan": ({"temperature": math.nan}, "finite temperature > 0"),
    "leader discount 1": ({"leader_discount": 1.0}, r"leader_discount in \[0, 1\); got 1"),
    "follower discount 1": ({"follower_discount": 1.0}, r"follower_discount in \[0, 1\)"),
    "follower discount -": ({"follower_discount": -0.1}, r"follower_discount in \[0, 1\)"),
    "leader discount nan": ({"leader_discount": math.nan}, r"leader_discount in \[0, 1\)"),
    "horizon 0": ({"horizon": 0}, "horizon: an integer >= 1; got 0"),
    "horizon 1.5": ({"horizon": 1.5}, "horizon: an integer >= 1"),
    "horizon True": ({"horizon": True}, "horizon: an integer >= 1"),
}


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.replace(" ", "-"))
def test_bad_arrays(case):
    changes, expected = BAD[case]
    with pytest.raises(InputError, match=r"expected .*; got .*; .+") as caught:
        TabularGame(**base(**changes))
    assert caught.match(expected)


def test_arrays_of_the_full_number_of_dimensions_are_broadcast():
    reward = np.arange(2.0)[:, None, None]
    game = TabularGame(**base(leader_reward=reward, termination=[0.0, 1.0]))
    model = game.model()
    assert model.leader_reward.tolist() == [[[0.0] * 2] * 2, [[1.0] * 2] * 2]
    assert model.ending[..., 0].max() == model.transition[..., 1].max() == 0


def test_settings_of_numpy_are_taken():
    game = TabularGame(
        **base(
            horizon=np.int64(7),
            leader_discount=np.float32(0.5),
            follower_observes_action=np.False_,
        )
    )
    assert (game.horizon, game.leader_discount, game.follower_observes_action) == (7, 0.5, False)
    assert [type(x) for x in (game.horizon, game.follower_observes_action)] == [int, bool]


@pytest.mark.parametrize("items", [1, 7, 104])
def test_a_budget_may_be_spent_whole_in_single_precision(items):
    space = Budget(items, 0.2)
    whole = np.random.default_rng(0).dirichlet(np.ones(items), 50) * 0.2
    assert all(space.contains(row.astype(np.float32)) for row in whole)
    assert not space.contains(np.full(items, 0.2 * 1.0001 / items))
    assert not space.contains(np.r_[-1e-9, np.zeros(items - 1)])
    assert not space.contains(np.full(items, np.nan))


def test_rows_in_single_precision_are_told_how_far_off_they_are():
    rows = np.random.default_rng(0).dirichlet(np.ones(7), (7, 1, 1)).astype(np.float32)
    with pytest.raises(InputError, match=r"got a sum of (0\.99999|1\.00000)\d+ at row"):
        TabularGame(rows, 0.0, 0.0)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: four_rooms.game(goals=3), "goals = 1 or 2; got 3"),
        (lambda: four_rooms.game(kernel="slippery"), "kernel = sim, model or reference"),
        (lambda: four_rooms.game(penalty=-1.0), "finite penalty >= 0"),
        (lambda: four_rooms.game(penalty=math.nan), "finite penalty >= 0"),
        (lambda: four_rooms.game(temperature=0.0), "finite temperature > 0"),
        (lambda: discrete_toy.game(bonus=math.nan), "follower_reward: finite"),
        (lambda: discrete_toy.game(horizon=0), "horizon: an integer"),
        (lambda: Budget(0, 1.0), "items >= 1"),
        (lambda: Budget(3, -1.0), "finite total > 0"),
    ],
)
def test_bad_options(make, expected):
    with pytest.raises(InputError, match=rf"^expected .*{expected}.*; .+"):
        make()


# ---------------------------------------------------------------- designs

BOX = spaces.Box(-1.0, 1.0, (2,), np.float64)
STEADY = np.full((3, 2, 3), 1 / 3)


def tensor_of(*shape: int, value: float = 0.0):
    """A function from designs [M, d] to a constant tensor [M, *shape]."""
    return lambda x: torch.full((len(x), *shape), value, dtype=torch.float64)


BAD_DESIGNS = {
    "reward [M]": ({"leader_reward": tensor_of()}, "leader_reward"),
    "reward [M, B]": ({"leader_reward": tensor_of(2)}, "leader_reward"),
    "reward [M, S, 1]": ({"follower_reward": tensor_of(3, 1)}, "follower_reward"),
    "reward [M, S, 1, B]": ({"follower_reward": tensor_of(3, 1, 2)}, "follower_reward"),
    "reward [M, S, B, S]": ({"follower_reward": tensor_of(3, 2, 3)}, "follower_reward"),
    "reward without M": ({"leader_reward": lambda x: torch.zeros(3, 2, 5)}, "leader_reward: a fun"),
    "reward of first": ({"leader_reward": lambda x: x[0, 0]}, "leader_reward: a function"),
    "reward an array": ({"leader_reward": lambda x: np.zeros((3, 3, 2))}, "leader_reward: a func"),
    "reward a float": ({"leader_reward": lambda x: 1.0}, "leader_reward: a function"),
    "reward nan": ({"leader_reward": tensor_of(3, 2, value=math.nan)}, "leader_reward: finite"),
    "reward nan at an end": (
        {"leader_reward": lambda x: torch.sqrt(x[:, :1, None]).expand(-1, 3, 2)},
        "leader_reward: finite",
    ),
    "transition shape": ({"transition": tensor_of(3, 2, 4, value=0.25)}, "transition of shape"),
    "transition [M, 1, B, S]": (
        {"transition": tensor_of(1, 2, 3, value=1 / 3)},
        "transition of sh",
    ),
    "transition sum": ({"transition": tensor_of(3, 2, 3, value=0.5)}, "transition: rows"),
    "transition negative": ({"transition": lambda x: x[:, :1, None, None]}, "transition: finite"),
    "simulated shape": ({"simulated_transition": np.full((2, 2, 2), 0.5)}, "simulated_transition"),
    "simulated actions": ({"simulated_transition": np.full((3, 4, 3), 1 / 3)}, "simulated_trans"),
    "simulated and moved": (
        {"transition": tensor_of(3, 2, 3, value=1 / 3), "simulated_transition": STEADY},
        "simulated_transition",
    ),
    "unbounded": ({"design_space": spaces.Box(-np.inf, np.inf, (2,))}, "design_space"),
    "matrix design": ({"design_space": spaces.Box(0, 1, (2, 2))}, "design_space"),
    "discrete design": ({"design_space": spaces.Discrete(3)}, "design_space"),
    "termination shape": ({"termination": np.zeros(4)}, "termination of a shape"),
    "termination [B, S]": ({"termination": np.zeros((2, 3))}, "termination of a shape"),
    "reward [B]": ({"leader_reward": np.zeros(2)}, "leader_reward of a shape"),
    "temperature": ({"temperature": -0.1}, "finite temperature > 0"),
}


@pytest.mark.parametrize("case", BAD_DESIGNS, ids=lambda case: case.replace(" ", "-"))
def test_bad_designs(case):
    changes, expected = BAD_DESIGNS[case]
    arguments = {
        "design_space": BOX,
        "transition": STEADY,
        "leader_reward": 0.0,
        "follower_reward": tensor_of(3, 2),
    }
    with pytest.raises(InputError, match=r"expected .*; got .*; .+") as caught:
        TabularDesign(**arguments | changes)
    assert caught.match(expected)


def test_a_design_must_be_given():
    with pytest.raises(InputError, match=r"designs \[M, d\]; got none; pass"):
        four_rooms.game().model()


@settings(max_examples=40, deadline=None, derandomize=True)
@given(game=design_games())
def test_random_design_games_are_whole(game):
    """The model of several designs is the models of each, and a distribution in every row."""
    designs = random_designs(game, 3)
    model = game.model(designs)
    total = model.transition if model.ending is None else model.transition + model.ending
    torch.testing.assert_close(total.sum(-1), torch.ones_like(total[..., 0]))
    for m in range(3):
        alone = game.model(designs[m : m + 1])
        torch.testing.assert_close(model.leader_reward[m], alone.leader_reward[0])
        torch.testing.assert_close(model.follower_reward[m], alone.follower_reward[0])
        ours = model.transition.expand(3, *alone.transition.shape[-4:])
        torch.testing.assert_close(ours[m], alone.transition.reshape(ours[m].shape))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(game=tabular_games())
def test_random_games_are_whole(game):
    model = game.model()
    total = model.transition if model.ending is None else model.transition + model.ending
    torch.testing.assert_close(total.sum(-1), torch.ones_like(total[..., 0]))
    assert model.states == game.states
    assert model.leader_actions == game.leader_space.n
    assert model.follower_actions == game.follower_space.n
