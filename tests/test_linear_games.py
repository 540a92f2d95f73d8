"""Linear-quadratic games: steps, derivatives and the shipped ones' constants; bad input."""

import numpy as np
import pytest
import torch
from conformance import conform_shipped
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from games import building, duopoly, lqr
from games.linear import LinearDesign, LinearGame, product, squared_error
from stackelberg.check import check_game
from stackelberg.errors import InputError
from stackelberg.linear import best_response, objective
from stackelberg.linear_model import LinearPolicy, linear_policy
from stackelberg.registry import make_game

SHIPPED = {module.__name__.split(".")[-1]: module for module in (building, duopoly, lqr)}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def positive(size: int, seed: int) -> torch.Tensor:
    root = normal(size, size, seed=seed)
    return root @ root.mT + 0.1 * torch.eye(size, dtype=torch.float64)


def random_game(states=2, ours=2, theirs=1, seed=0, **options) -> LinearGame:
    width = 1 + states + ours + theirs
    leader_cost = normal(width, width, seed=seed + 1)
    given = {
        "noise": 0.1 * positive(states, seed + 2),
        "initial_mean": normal(states, seed=seed + 3),
        "initial_covariance": positive(states, seed + 4),
        "bump": 0.1 * positive(width, seed + 5),
        "height": 1.5,
    }
    return LinearGame(
        0.5 * normal(states, width, seed=seed),
        leader_cost + leader_cost.mT,
        positive(width, seed + 6),
        leader_actions=ours,
        **given | options,
    )


def random_design(states=2, theirs=2, knobs=3, seed=0, **options) -> LinearDesign:
    """Everything that can depend on the design does."""
    width = 1 + states + theirs
    base, slope = normal(states, width, seed=seed), normal(knobs, states, width, seed=seed + 1)
    costs = [positive(width, seed + 2), positive(width, seed + 3), 0.1 * positive(width, seed + 4)]

    def grown(cost):
        return lambda x: cost * (1 + x.square().sum(-1))[:, None, None]

    given = {
        "noise": 0.1 * positive(states, seed + 5),
        "initial_covariance": positive(states, seed + 6),
    }
    return LinearDesign(
        spaces.Box(-1.0, 1.0, (knobs,), np.float64),
        lambda x: base + 0.3 * torch.einsum("md,dij->mij", x.sin(), slope),
        *(grown(cost) for cost in costs[:2]),
        bump=grown(costs[2]),
        **given | options,
    )


def some_steps(game, n=6, seed=0):
    """States, leader's and follower's actions; every row has another design."""
    leader = 0.5 * normal(n, *game.leader_space.shape, seed=seed + 1)
    return (
        normal(n, *game.observation_space.shape, seed=seed),
        leader.clamp(-1, 1),
        normal(n, *game.follower_space.shape, seed=seed + 2),
    )


GAMES = {
    "game": random_game,
    "design": random_design,
    "clipped": lambda **options: random_design(limit=1.0, **options),
}


@pytest.fixture(params=GAMES)
def game(request):
    return GAMES[request.param]()


# ---------------------------------------------------------------- the rules


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    states=st.integers(1, 3), ours=st.integers(1, 2), theirs=st.integers(1, 2), seed=st.integers(0)
)
def test_steps_are_those_of_the_matrices(states, ours, theirs, seed):
    """Row by row, from the formulas; without noise the next state is the mean."""
    seed %= 1000
    still = {"noise": None}
    for game in (
        random_game(states, ours, theirs, seed, **still),
        random_design(states, theirs, seed=seed, **still),
    ):
        s, a, b = some_steps(game, seed=seed)
        step = game.step(s, a, b, seeded())
        for i in range(len(s)):
            if game.leader_moves == "once":
                model, z = game.matrices(a[i : i + 1]), torch.cat([torch.ones(1), s[i], b[i]])
                model = model.map(lambda part: part[0] if part.dim() == 3 else part)
            else:
                model, z = game.matrices(), torch.cat([torch.ones(1), s[i], a[i], b[i]])
            assert (model.states, model.follower_actions) == (states, theirs)
            bump = model.height * torch.exp(-0.5 * (model.bump @ z) @ (model.bump @ z))
            torch.testing.assert_close(step.state[i], model.transition @ z)
            torch.testing.assert_close(step.follower_reward[i], -z @ model.follower_cost @ z)
            torch.testing.assert_close(step.leader_reward[i], bump - z @ model.leader_cost @ z)
        assert not step.terminated.any()
        assert step.state.dtype == torch.float64
        assert game.observe(s).dtype == torch.float32
        torch.testing.assert_close(game.observe(s).double(), s)


def test_noise_and_first_states_have_their_moments():
    """Also where the covariance is singular; bounds of 5 standard errors."""
    singular = np.array([[1.0, 2.0], [2.0, 4.0]])
    game = random_game(noise=singular, initial_covariance=0.25 * singular)
    n = 20_000
    s, a, b = (part[:1].expand(n, -1) for part in some_steps(game))
    mean = random_game(noise=None).step(s, a, b, seeded()).state[0]
    for drawn, middle, covariance in (
        (game.step(s, a, b, seeded(1)).state, mean, singular),
        (game.initial(n, seeded(2)), game.matrices().initial_mean, 0.25 * singular),
    ):
        spread = np.sqrt(np.diag(covariance))
        assert (np.abs((drawn.mean(0) - middle).numpy()) < 5 * spread / n**0.5).all()
        found = torch.cov(drawn.mT).numpy()
        assert (np.abs(found - covariance) < 5 * np.outer(spread, spread) * (2 / n) ** 0.5).all()


def test_rows_of_one_design_and_of_several_are_the_same():
    game = random_design()
    s, _, b = some_steps(game)
    designs = 0.5 * normal(2, 3, seed=9)
    mixed = game.step(s, designs.repeat(3, 1), b, seeded())
    for i, design in enumerate(designs):
        alone = game.step(s, design.expand(6, -1), b, seeded())
        for one, other in zip(mixed, alone, strict=True):
            torch.testing.assert_close(one[i::2], other[i::2])


def test_the_mean_is_clipped_and_nothing_else():
    game = random_design(limit=0.1, noise=1e-6 * np.eye(2))
    s, a, b = some_steps(game, n=50)
    reached = game.step(10 * s, a, b, seeded()).state
    assert reached.abs().max() < 0.11
    assert reached.abs().max() > 0.1


def test_a_game_is_linear_and_knows_its_kind(game):
    assert game.linear
    assert game.reenacts
    assert not game.tabular
    assert not game.finite


# ---------------------------------------------------------------- derivatives


def difference(function, a, h=1e-6):
    """d function(a)[row] / d a[row, column] by central differences: [n, ..., d]."""
    columns = []
    for column in range(a.shape[1]):
        step = torch.zeros_like(a)
        step[:, column] = h
        columns.append((function(a + step) - function(a - step)) / (2 * h))
    return torch.stack(columns, -1)


def derivative(outcome, a):
    """The same by autograd of outcome [n] or [n, j]."""
    columns = outcome.flatten(1).unbind(1) if outcome.dim() > 1 else [outcome]
    found = [torch.autograd.grad(c.sum(), a, retain_graph=True)[0] for c in columns]
    return found[0] if outcome.dim() == 1 else torch.stack(found, 1)


def test_reenacted_steps_are_those_recorded_and_move_as_new_ones_would(game):
    """The pathwise derivative against new steps with the same noise."""
    s, a, b = some_steps(game)
    recorded = game.step(s, a, b, seeded(3))
    attached = a.clone().requires_grad_()
    again = game.reenact(s, attached, b, recorded.state)
    for i, reenacted in enumerate(again):
        torch.testing.assert_close(reenacted.detach(), recorded[i])
        expected = difference(lambda x, i=i: game.step(s, x, b, seeded(3))[i], a)
        assert expected.abs().max() > 0.01
        torch.testing.assert_close(derivative(reenacted, attached), expected, rtol=1e-5, atol=1e-6)


def test_some_rows_of_the_clipped_game_are_clipped():
    """Or the tests above would say nothing of it."""
    game = GAMES["clipped"]()
    attached = some_steps(game)[1].requires_grad_()
    s, _, b = some_steps(game)
    moved = derivative(game.reenact(s, attached, b, s).observation, attached)
    assert (moved == 0).all(-1).any()
    assert (moved != 0).any()


def test_log_transition_is_the_density_of_steps(game):
    s, a, b = some_steps(game)
    following = game.step(s, a, b, seeded(3)).state
    attached = a.clone().requires_grad_()
    found = game.log_transition(s, attached, b, following)
    mean = game.reenact(s, a, b, torch.zeros_like(s)).observation
    assert (mean == 0).all()  # reenact keeps what was recorded
    expected = difference(lambda x: game.log_transition(s, x, b, following), a)
    torch.testing.assert_close(derivative(found, attached), expected, rtol=1e-5, atol=1e-5)
    covariance = game.matrices(a).noise
    shock = torch.randn(len(s), 2, generator=seeded(3), dtype=torch.float64)
    values, vectors = torch.linalg.eigh(covariance)
    drawn = shock @ (vectors * values.sqrt()).mT
    density = torch.distributions.MultivariateNormal(torch.zeros_like(s[0]), covariance)
    torch.testing.assert_close(found.detach(), density.log_prob(drawn))


def test_no_density_without_noise():
    game = lqr.game()
    with pytest.raises(InputError, match=r"positive definite covariance.*'lqr'.*reenact"):
        game.log_transition(*some_steps(game), torch.zeros(6, 2))


# ---------------------------------------------------------------- the shipped games


def test_building_is_the_published_one():
    """Entries of A(x) as they are published, zone by zone, and a step by hand."""
    x = torch.tensor([[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8], [0.5] * 8], dtype=torch.float64)
    game = building.game()
    model = game.matrices(x)
    for matrix, row in zip(model.transition, x.tolist(), strict=True):
        i0, i1, i2, i3, v0, v1, v2, v3 = row
        expected = [
            [0, 1 + 0.04 * (1 - i0) - 0.05 * v0 - 0.05 * v3, 0.05 * v0, 0, 0.05 * v3, 0.1, 0],
            [0, 0.03 * v0, 1 + 0.03 * (1 - i1) - 0.04 * v1 - 0.03 * v0, 0.04 * v1, 0, 0.6, 0],
            [0, 0, 0.04 * v1, 1 + 0.06 * (1 - i2) - 0.06 * v2 - 0.04 * v1, 0.06 * v2, 0, 0.55],
            [0, 0.05 * v3, 0, 0.03 * v2, 1 + 0.05 * (1 - i3) - 0.05 * v3 - 0.03 * v2, 0, 0.3],
        ]
        torch.testing.assert_close(matrix, torch.tensor(expected, dtype=torch.float64))
    s = torch.tensor([[1.0, -2.0, 3.0, 0.5]], dtype=torch.float64)
    u = torch.tensor([[12.0, -1.0]], dtype=torch.float64)
    paid = game.step(s, x[:1], u, seeded())
    assert paid.follower_reward.item() == pytest.approx(-(8 + 4 + 45 + 1.5) - 0.01 * 145)
    variance = np.var([1.0, -2.0, 3.0, 0.5])
    square = x[0].square().sum().item()
    assert paid.leader_reward.item() == pytest.approx(-variance - 0.5 * 145 - 0.1 * square)
    torch.testing.assert_close(model.noise, 0.0004 * torch.eye(4, dtype=torch.float64))
    torch.testing.assert_close(model.initial_covariance, 25 * torch.eye(4, dtype=torch.float64))
    hot = building.game(limit=30.0).step(100 * s, x[:1], u, seeded()).state
    torch.testing.assert_close(hot.abs(), torch.full_like(hot, 30.0), rtol=0, atol=0.15)
    assert game.moves_transition
    assert (game.leader_discount, game.follower_discount, game.temperature) == (0.9, 0.9, 0.1)


def test_lqr_is_the_published_one():
    game = lqr.game()
    s = torch.tensor([[-0.7, 0.02], [1.0, 0.0]], dtype=torch.float64)
    a, b = torch.tensor([[0.3], [-2.0]]).double(), torch.tensor([[0.5], [1.5]]).double()
    step = game.step(s, a, b, seeded())
    torch.testing.assert_close(step.state, torch.tensor([[0.05, 0.05], [-0.2, 0.15]]).double())
    torch.testing.assert_close(
        step.follower_reward, -torch.tensor([0.49 + 0.0004 + 0.25, 1 + 2.25]).double()
    )
    bump = np.exp(-(0.1**2 / (2 * 0.2**2) + 0.02**2 / (2 * 0.01**2)))
    assert step.leader_reward[0].item() == pytest.approx(bump)
    assert step.leader_reward[1].item() == pytest.approx(np.exp(-(1.8**2) / 0.08))
    assert game.initial(3, seeded()).tolist() == [[1.0, 0.0]] * 3
    assert (game.leader_std, game.affine, game.horizon) == (0.001, False, 100)
    assert (game.leader_discount, game.follower_discount, game.temperature) == (0.99, 0.95, 0.1)


def test_lqr_of_any_size():
    """Three states, two leader actions, one of the follower; costs of the leader by hand."""
    game = lqr.game(
        A=0.5 * np.eye(3),
        B=[[1], [0], [0]],
        C=[[0, 0], [1, 0], [0, 1]],
        Q=np.eye(3),
        R=[[2]],
        target=[1, 0, 0],
        width=None,
        leader_Q=np.diag([1, 2, 3]),
        leader_N=np.eye(2),
        start=[0, 0, 0],
        noise=0.1,
    )
    s, a, b = (torch.tensor([row]).double() for row in ([3, 1, 1], [1, 2], [1]))
    step = game.step(s, a, b, seeded())
    assert step.leader_reward.item() == pytest.approx(-(4 + 2 + 3) - 5)
    assert step.follower_reward.item() == pytest.approx(-(9 + 1 + 1) - 2)
    assert (step.state - torch.tensor([[2.5, 1.5, 2.5]])).abs().max() < 0.5
    assert game.matrices().noise.diagonal().tolist() == pytest.approx([0.01] * 3)


def test_duopoly_at_its_solution():
    """The follower's soft best response and the leader's optimum, from rewards alone."""
    settings = {"intercept": 5.0, "slope": 0.5, "cost": 1.0, "persistence": 0.6, "shock": 0.8}
    game = duopoly.game(**settings)
    assert game.step(torch.tensor([[1.0]]), torch.tensor([[2.0]]), torch.tensor([[3.0]]), seeded())[
        1:3
    ] == (pytest.approx(2 * (6 - 2.5 - 1)), pytest.approx(3 * (6 - 2.5 - 1)))

    def reward(s, a, b):
        return game.step(s[:, None], a[:, None], b[:, None], seeded())[1:3]

    # exp(r_F / temperature) of the follower's quantities is its density: actions move no state.
    quantities = torch.linspace(-10, 20, 20_001, dtype=torch.float64)
    s, a = torch.full_like(quantities, 0.7), torch.full_like(quantities, 3.0)
    odds = (reward(s, a, quantities)[1] / game.temperature).softmax(0)
    mean = (odds * quantities).sum()
    assert mean.item() == pytest.approx((4 + 0.7 - 0.5 * 3) / (2 * 0.5), rel=1e-6)
    variance = (odds * (quantities - mean) ** 2).sum()
    assert variance.item() == pytest.approx(game.temperature / (2 * 0.5), rel=1e-5)

    # The leader's pay is linear in b, so its mean over b is that at b's mean.
    for s in (-2.0, 0.0, 0.7):
        demand = torch.full_like(quantities, s)
        answer = (4 + s - 0.5 * quantities) / (2 * 0.5)
        paid = reward(demand, quantities, answer)[0]
        assert paid.max().item() == pytest.approx((4 + s) ** 2 / (8 * 0.5), abs=1e-5)
        best = paid.argmax()
        assert quantities[best].item() == pytest.approx((4 + s) / (2 * 0.5), abs=2e-3)
        assert answer[best].item() == pytest.approx((4 + s) / (4 * 0.5), abs=1e-3)
    stationary = 0.8**2 / (1 - 0.6**2)
    assert game.optimum == pytest.approx((16 + stationary) / (8 * 0.5) / (1 - 0.9))


def test_duopoly_is_worth_its_optimum():
    """Play at the solution earns J*, within 4 standard errors; no other slope earns more."""
    game, n, steps = duopoly.game(), 4000, 120
    earned = {}
    for scale in (0.7, 1.0, 1.3):
        draw, total = seeded(5), torch.zeros(n, dtype=torch.float64)
        s = game.initial(n, draw)
        for k in range(steps):
            a = scale * (8 + s) / 2
            b = (8 + s - a) / 2 + (game.temperature / 2) ** 0.5 * torch.randn(
                n, 1, generator=draw, dtype=torch.float64
            )
            step = game.step(s, a, b, draw)
            total += game.leader_discount**k * step.leader_reward
            s = step.state
        earned[scale] = total.mean().item(), total.std().item() / n**0.5
    mean, error = earned[1.0]
    assert abs(mean - game.optimum) < 4 * error
    assert max(earned[0.7][0], earned[1.3][0]) < mean - 4 * error


@pytest.mark.parametrize("spread", [0.0, 0.1])
def test_duopoly_by_the_oracle(spread):
    """Exact: the solution is worth J* less what exploring costs, and no gain nearby is better."""
    game = duopoly.game()
    gains = torch.tensor([[[4.0, 0.5]], [[4.1, 0.5]], [[3.9, 0.5]], [[4.0, 0.6]], [[4.0, 0.4]]])
    policy = LinearPolicy(gains.double(), torch.full((5, 1), spread, dtype=torch.float64))
    worth = objective(game.matrices(), policy)
    assert worth[0].item() == pytest.approx(game.optimum - spread**2 / (2 * 0.1), rel=1e-12)
    assert worth.argmax() == 0


@pytest.mark.parametrize("airflow", [0.2, 0.9])
def test_building_is_worth_what_the_oracle_says(airflow):
    """Steps of the game against its matrices, within 4 standard errors."""
    game, n, draw = building.game(), 1500, seeded(3)
    x = torch.tensor([[0.5] * 4 + [airflow] * 4], dtype=torch.float64)
    model, policy = game.matrices(x), linear_policy(1, 4)
    answer = best_response(model, policy).answer
    factor = torch.linalg.cholesky(answer.covariance[0])
    s, total = game.initial(n, draw), torch.zeros(n, dtype=torch.float64)
    for k in range(120):
        shock = torch.randn(n, 2, generator=draw, dtype=torch.float64)
        u = torch.cat([torch.ones(n, 1), s], 1) @ answer.gain[0].mT + shock @ factor.mT
        step = game.step(s, x.expand(n, -1), u, draw)
        total += game.leader_discount**k * step.leader_reward
        s = step.state
    error = total.std().item() / n**0.5
    assert total.mean().item() == pytest.approx(objective(model, policy).item(), abs=4 * error)


@pytest.mark.parametrize("module", [building, lqr])
def test_the_optimum_is_that_of_the_published_settings(module):
    assert module.game().optimum == module.game(horizon=7, temperature=0.1).optimum is not None
    assert module.game(temperature=0.2).optimum is None
    assert module.game(optimum=3.0).optimum == 3.0


def test_the_optimum_of_other_matrices_is_not_known():
    assert lqr.game(noise=0.1).optimum is None
    assert lqr.game(width=None, leader_Q=np.eye(2)).optimum is None


def test_an_optimum_that_is_given_counts():
    assert duopoly.game(optimum=3.0).optimum == 3.0
    assert duopoly.game(optimum=None).optimum is None


def test_options_in_text():
    """As the command line gives them."""
    made = make_game("games.lqr:game", ["width=null", "leader_Q=[[1, 0], [0, 2]]", "noise=0.1"])
    s, a, b = torch.tensor([[0.2, 1.0]]), torch.tensor([[1.0]]), torch.tensor([[0.0]])
    assert made.step(s, a, b, seeded()).leader_reward.item() == pytest.approx(-1 - 2)
    assert made.matrices().bump is None
    assert make_game("games.building:game", ["temperature=0.3"]).temperature == 0.3


# ---------------------------------------------------------------- as environments


EXPECTED_WARNINGS = (
    "Environment's (minimum|maximum) state space value is -?infinity",
    "Observation is a single number",
    "State is a single number",
    "Agent's (minimum|maximum) (action|observation) space value is -?infinity",
)


@pytest.mark.parametrize("name", SHIPPED)
def test_conformance(name):
    conform_shipped(SHIPPED[name], *EXPECTED_WARNINGS)


@pytest.mark.parametrize("name", SHIPPED)
def test_pictures(name):
    env = SHIPPED[name].parallel_env(render_mode="rgb_array")
    env.reset(seed=0)
    before = env.render()
    assert before.dtype == np.uint8
    env.step({agent: env.action_space(agent).sample() for agent in env.agents})
    assert not np.array_equal(before[60:], env.render()[60:])  # more than the title moves on


@pytest.mark.parametrize("name", SHIPPED)
def test_check(name):
    found = {item.name: item for item in check_game(SHIPPED[name].game())}
    assert "fail" not in {item.status for item in found.values()}
    assert found["temperature"].status == "ok"
    assert found["gradient"].status == "ok"
    assert f"'{name}' is given in matrices" in found["game"].found


def test_costs_are_the_forms_that_they_are_named_after():
    z = np.array([1.0, -2.0, 3.0, 0.5])
    for i, j in ((1, 2), (3, 3), (0, 2), (0, 0)):
        cost = product(4, i, j)
        assert z @ cost @ z == z[i] * z[j]
        np.testing.assert_array_equal(cost, cost.T)
    assert z @ squared_error(4, 2, 1.5) @ z == pytest.approx(1.5**2)
    assert z @ squared_error(4, 1) @ z == pytest.approx(4)
    assert z @ squared_error(4, 0, 3.0) @ z == pytest.approx(4)


# ---------------------------------------------------------------- bad input


COST = np.eye(4)
ASKEW = np.eye(4) + np.eye(4, k=2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"transition": np.zeros((1, 3))}, r"transition of shape \[n, 1 \+ n \+ k \+ m\]"),
        ({"transition": np.zeros(4)}, r"transition of shape .*got shape \[4\]"),
        ({"transition": [[0, np.nan, 0, 0]]}, r"transition: finite numbers; got nan at index"),
        ({"transition": "much"}, r"transition: an array of numbers; got str"),
        ({"transition": np.zeros((1, 1, 4))}, r"transition of shape \[1, 4\]; got .*\[1, 1, 4\]"),
        ({"leader_cost": np.eye(3)}, r"leader_cost of shape \[4, 4\]; got shape \[3, 3\]; write"),
        ({"leader_cost": ASKEW}, r"leader_cost: a symmetric matrix; got entries \[0, 2\]"),
        (
            {"follower_cost": np.diag([0, 1, 1, 0])},
            r"follower_cost in the follower's action: a positive definite",
        ),
        ({"follower_cost": np.diag([0, 1, 1, -1])}, r"got the eigenvalue -1; mend"),
        ({"bump": np.eye(3)}, r"bump of shape \[3, 4\]; got shape \[3, 3\]"),
        ({"height": np.inf}, r"a finite height; got inf"),
        ({"noise": [[-1.0]]}, r"noise: a positive semidefinite matrix; got the eigenvalue -1"),
        (
            {"noise": [1.0]},
            r"noise, the covariance of the next state's noise, of shape \[1, 1\]; got",
        ),
        ({"initial_covariance": [[-1.0]]}, r"initial_covariance: a positive semidefinite"),
        (
            {"initial_mean": [0.0, 1.0]},
            r"initial_mean, the mean of the first state, of shape \[1\]; got",
        ),
        ({"limit": 0}, r"a limit > 0, or none; got 0"),
        ({"leader_actions": 0}, r"leader_actions >= 1 .*; got leader_actions = 0"),
        ({"leader_std": 0.0}, r"finite leader_std > 0; got .*leader_std = 0.0"),
        ({"leader_space": spaces.Discrete(2)}, r"leader_space: a Box of shape \(1,\); got Disc"),
        ({"follower_space": spaces.Box(0, 1, (2,))}, r"follower_space: a Box of shape \(1,\)"),
        ({"temperature": 0.0}, r"temperature"),
    ],
)
def test_bad_games(changes, message):
    given = {"transition": np.zeros((1, 4)), "leader_cost": COST, "follower_cost": COST}
    LinearGame(**given)
    with pytest.raises(InputError, match=message):
        LinearGame(**given | changes)


@pytest.mark.parametrize("indices", [(1, 7), (-1, 0), (4, 1)])
def test_costs_of_numbers_that_are_not_there(indices):
    with pytest.raises(InputError, match=r"indices in 0..3 of z, whose length is 4; got"):
        product(4, *indices)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"transition": lambda x: x[0]}, r"transition: a function from designs \[M, d\]"),
        ({"transition": lambda x: 1}, r"transition: a function .*; got int"),
        ({"leader_cost": lambda x: torch.ones(3, 3)}, r"leader_cost: a function .*\[M, 3, 3\]"),
        (
            {"follower_cost": lambda x: x[:, :, None].sign() * torch.eye(3)},
            r"follower_cost in the follower's action: a positive .*; got the eigenvalue -1",
        ),
        ({"design_space": spaces.Box(-np.inf, np.inf, (1,))}, r"design_space: a bounded Box"),
        ({"transition": torch.zeros(3, 1, 3)}, r"transition of shape \[1, 3\]; got .*\[3, 1, 3\]"),
    ],
)
def test_bad_designs(changes, message):
    given = {
        "design_space": spaces.Box(-1, 1, (1,)),
        "transition": np.zeros((1, 3)),
        "leader_cost": np.eye(3),
        "follower_cost": np.eye(3),
    }
    LinearDesign(**given)
    with pytest.raises(InputError, match=message):
        LinearDesign(**given | changes)
    with pytest.raises(InputError, match=r"the designs \[M, d\]; got none"):
        LinearDesign(**given).matrices()


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lqr.game, {"B": [0.0, 0.1]}, r"B: a matrix; got shape \[2\]; write"),
        (lqr.game, {"A": "fast"}, r"A: a matrix of numbers; got 'fast'"),
        (lqr.game, {"A": [[1.0, 0.0]]}, r"A of shape \[1, 1\]; got shape \[1, 2\]"),
        (lqr.game, {"R": np.eye(2)}, r"R of shape \[1, 1\]; got shape \[2, 2\]"),
        (lqr.game, {"R": [[-1.0]]}, r"follower_cost in the follower's action: a positive definite"),
        (lqr.game, {"Q": [[1, 1], [0, 1]]}, r"follower_cost: a symmetric matrix"),
        (lqr.game, {"width": [0.2, 0.0]}, r"width: positive numbers; got \[0.2, 0.0\]"),
        (lqr.game, {"target": [0.2]}, r"target of shape \[2\]; got shape \[1\]"),
        (duopoly.game, {"slope": 0.0}, r"slope > 0, .*; got .*slope = 0.0"),
        (duopoly.game, {"persistence": 1.0}, r"persistence < 1"),
        (duopoly.game, {"intercept": np.nan}, r"cost < intercept, .*; got intercept = nan"),
        (duopoly.game, {"leader_discount": 1.0}, r"leader_discount"),
    ],
)
def test_bad_options_of_shipped_games(make, options, message):
    with pytest.raises(InputError, match=message):
        make(**options)
