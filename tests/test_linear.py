"""Oracles of linear-quadratic games against plain loops, simulation and finite differences."""

from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, reject, settings
from random_linear import LinearRecipe, linear_recipes, one, sigma_points, unrolled
from torch import Tensor

from games import lqr
from stackelberg import linear
from stackelberg.linear_model import (
    LinearAnswer,
    LinearModel,
    LinearPolicy,
    close,
    linear_policy,
    radius,
)
from stackelberg.types import LinearResponse

few = settings(max_examples=12, deadline=None, derandomize=True)
LONG = 300  # steps after which the discounts that are drawn have left nothing


def solved(recipe: LinearRecipe, count: int = 1):
    model, policy = recipe.at(recipe.point(count))
    best = linear.best_response(model, policy)
    if not best.solved.all():
        reject()
    return model, policy, best


def bounded(model: LinearModel, policy: LinearPolicy, answer: LinearAnswer) -> bool:
    """Are the returns of both players finite, and settled within `LONG` steps?"""
    held = radius(close(model, policy, answer)).max().item()
    discount = max(model.leader_discount, model.follower_discount)
    return held < 2 and discount * max(held, held**2) < 0.92


def leader_m(policy: LinearPolicy, m: int) -> LinearPolicy:
    return LinearPolicy(*(part[m] for part in policy))


def answer_m(answer: LinearAnswer, m: int) -> LinearAnswer:
    return LinearAnswer(*(part[m] for part in answer))


# ---------------------------------------------------------------- best response


@few
@given(linear_recipes())
def test_best_response_is_a_fixed_point_of_the_soft_bellman_operator(recipe):
    """V_F(s,a) = q_F(s,a,b) - beta log g(b|s,a), whatever b; blind, with E_a of q_F."""
    model, policy, best = solved(recipe)
    gain, std = (part[0] for part in policy)
    model = one(model, 0)
    response = LinearResponse(best)
    n, k, m = recipe.states, recipe.leader_actions, recipe.follower_actions
    draw = torch.Generator().manual_seed(recipe.seed % 2**32)
    state, told, b = (torch.randn(size, dtype=torch.float64, generator=draw) for size in (n, k, m))

    def act(state: Tensor) -> Tensor:
        return gain[:, 0] + state @ gain[:, 1:].mT

    shaken = sigma_points(std.diag().square()) if k else torch.zeros(1, 0, dtype=torch.float64)

    def action_value(state: Tensor, a: Tensor) -> Tensor:
        z = torch.cat([torch.ones(1, dtype=torch.float64), state, a, b])
        following = model.transition @ z + sigma_points(model.noise)
        values = [response.value(following[None], act(following)[None] + da) for da in shaken]
        return -z @ model.follower_cost @ z + model.follower_discount * torch.stack(values).mean()

    if recipe.observes:
        q = action_value(state, told)
    else:
        q = torch.stack([action_value(state, act(state) + da) for da in shaken]).mean()
    where = state[None, None], told[None, None]
    log_density = response.log_density(*where, b[None, None])
    torch.testing.assert_close(
        q - recipe.temperature * log_density[0, 0],
        response.value(*where)[0, 0],
        rtol=1e-8,
        atol=1e-8,
    )


@settings(few, max_examples=6)
@given(linear_recipes())
def test_best_response_is_what_value_iteration_finds(recipe):
    model, policy, best = solved(recipe, 2)
    assume(bounded(model, policy, best.answer))
    still = torch.zeros_like(best.state_value)
    for backups in (1, 3):
        value = linear.sweep(model, policy, still, LONG // backups, backups)
        torch.testing.assert_close(value, best.state_value, rtol=1e-8, atol=1e-8)
    found = linear.soft_response(model, policy, value)
    torch.testing.assert_close(found.answer.gain, best.answer.gain, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(
        found.answer.covariance, best.answer.covariance, rtol=1e-8, atol=1e-9
    )


def test_the_first_sweeps_are_best_responses_of_short_games():
    """From X = 0, k sweeps solve the game of k steps: backward induction by hand in one dimension.

    s' = 0.8 s + b, r_F = -s^2 - b^2: x_1 = 1, x_{k+1} = 1 + 0.64 g x_k / (1 + g x_k).
    """
    eye = torch.eye(1, dtype=torch.float64)
    model = LinearModel(
        transition=torch.tensor([[0.0, 0.8, 1.0]], dtype=torch.float64),
        noise=0 * eye,
        initial_mean=eye[0],
        initial_covariance=0 * eye,
        leader_cost=torch.zeros(3, 3, dtype=torch.float64),
        follower_cost=torch.diag(torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64)),
        follower_discount=0.9,
    )
    x, expected = 0.0, []
    for _ in range(5):
        x = 1 + 0.64 * 0.9 * x / (1 + 0.9 * x)
        expected.append(x)
    still = torch.zeros(1, 2, 2, dtype=torch.float64)
    nobody = linear_policy(1, 1)
    found = [linear.sweep(model, nobody, still, k)[0, 1, 1].item() for k in range(1, 6)]
    assert found == pytest.approx(expected, rel=1e-12)


@few
@given(linear_recipes())
def test_no_other_answer_is_better_and_the_gap_tells_by_how_much(recipe):
    model, policy, best = solved(recipe, 2)
    assume(bounded(model, policy, best.answer))
    assert (linear.follower_gap(model, policy, best.answer) < 1e-8).all()
    other = recipe.answers(2)
    assume(bounded(model, policy, other))
    gap = linear.follower_gap(model, policy, other)
    for m in range(2):
        alone = one(model, m)
        returns = [
            unrolled(alone, leader_m(policy, m), answer_m(g, m), LONG)[1]
            for g in (best.answer, other)
        ]
        assert returns[0] > returns[1]
        assert gap[m].item() == pytest.approx(returns[0] - returns[1], rel=1e-7, abs=1e-8)


def test_the_start_does_not_matter():
    recipe = LinearRecipe(states=3, leader_actions=2, follower_actions=2, seed=3)
    model, policy, best = solved(recipe, 3)
    far = 50 * torch.eye(4, dtype=torch.float64).expand(3, -1, -1)
    for start in (best.state_value, far):
        again = linear.best_response(model, policy, start)
        for x, y in zip(again.answer, best.answer, strict=True):
            torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-12)


def test_many_sweeps_stay_where_they_have_arrived():
    """What rounding leaves of X beside its symmetric part grows by 1.94 a sweep if it is kept."""
    eye, cost = torch.eye(1, dtype=torch.float64), torch.full((3, 3), 0.2, dtype=torch.float64)
    cost = cost + 0.7 * torch.eye(3, dtype=torch.float64)
    model = LinearModel(
        transition=torch.tensor([[0.5, 2.0, 1.0]], dtype=torch.float64),
        noise=0.1 * eye,
        initial_mean=eye[0],
        initial_covariance=eye,
        leader_cost=cost,
        follower_cost=cost,
        follower_discount=0.9,
    )
    nobody = linear_policy(1, 1)
    value = linear.sweep(model, nobody, torch.zeros(1, 2, 2, dtype=torch.float64), 1000)
    torch.testing.assert_close(value, linear.best_response(model, nobody).state_value)


# ---------------------------------------------------------------- returns


@few
@given(linear_recipes())
def test_the_leaders_return_is_what_loops_find(recipe):
    model, policy = recipe.at(recipe.point(2))
    answer = recipe.answers(2)
    assume(bounded(model, policy, answer))
    forever = linear.leader_return(model, policy, answer)
    short = linear.leader_return(model, policy, answer, horizon=7)
    for m in range(2):
        alone = one(model, m), leader_m(policy, m), answer_m(answer, m)
        assert forever[m].item() == pytest.approx(unrolled(*alone, LONG)[0], rel=1e-7, abs=1e-7)
        assert short[m].item() == pytest.approx(unrolled(*alone, 7)[0], rel=1e-10, abs=1e-10)
    long = linear.leader_return(model, policy, answer, horizon=LONG)
    torch.testing.assert_close(long, forever, rtol=1e-8, atol=1e-8)
    other = linear.leader_return(model, policy, answer, horizon=7, discount=1.0)
    undiscounted = linear.leader_return(
        replace(model, leader_discount=1.0), policy, answer, horizon=7
    )
    torch.testing.assert_close(other, undiscounted)


@pytest.mark.parametrize("recipe", [
    LinearRecipe(seed=1, states=2, leader_actions=1, follower_actions=2, bump=2),
    LinearRecipe(seed=2, states=3, leader_actions=2, follower_actions=1, bump=1, observes=False),
    LinearRecipe(seed=3, states=2, leader_actions=0, follower_actions=1, bump=2),
])  # fmt: skip
def test_returns_are_those_of_simulated_play(recipe):
    """20,000 episodes of 12 steps; z < 4."""
    model, policy, best = solved(recipe)
    alone, response, count, steps = one(model, 0), LinearResponse(best), 20_000, 12
    draw = torch.Generator().manual_seed(0)

    def normal(covariance: Tensor) -> Tensor:
        noise = torch.randn(count, len(covariance), generator=draw, dtype=torch.float64)
        return noise @ torch.linalg.cholesky(covariance).mT

    state = alone.initial_mean + normal(alone.initial_covariance)
    leader = follower = torch.zeros(count, dtype=torch.float64)
    for t in range(steps):
        y = torch.cat([torch.ones(count, 1, dtype=torch.float64), state], -1)
        a = y @ policy.gain[0].mT
        a = a + policy.std[0] * torch.randn(a.shape, generator=draw, dtype=torch.float64)
        b = response.sample(state[None], a[None], draw)[0]
        z = torch.cat([y, a, b], -1)
        paid = -((z @ alone.leader_cost) * z).sum(-1)
        paid = paid + alone.height * (-(z @ alone.bump.mT).square().sum(-1) / 2).exp()
        own = -((z @ alone.follower_cost) * z).sum(-1)
        own = own - recipe.temperature * response.log_density(state[None], a[None], b[None])[0]
        leader = leader + alone.leader_discount**t * paid
        follower = follower + alone.follower_discount**t * own
        state = z @ alone.transition.mT + normal(alone.noise)
    expected = linear.leader_return(model, policy, best.answer, horizon=steps).item()
    assert abs(leader.mean().item() - expected) < 4 * leader.std().item() / count**0.5
    soft = unrolled(alone, leader_m(policy, 0), answer_m(best.answer, 0), steps)[1]
    assert abs(follower.mean().item() - soft) < 4 * follower.std().item() / count**0.5


# ---------------------------------------------------------------- gradients


def slopes(function, point: Tensor, width: float = 1e-5) -> Tensor:
    """Central finite differences of function [M, p] -> [M], every leader's own: [M, p]."""
    found = torch.zeros_like(point)
    for i in range(point.shape[1]):
        step = torch.zeros_like(point)
        step[:, i] = width
        found[:, i] = (function(point + step) - function(point - step)) / (2 * width)
    return found


def close_to(found: Tensor, expected: Tensor) -> None:
    scale = expected.abs().amax(-1, keepdim=True).clamp(min=1e-3)
    assert ((found - expected).abs() < 1e-6 * scale).all(), (found, expected)


@few
@given(linear_recipes())
def test_the_hypergradient_is_that_of_finite_differences(recipe):
    point = recipe.point(2)
    model, policy, best = solved(recipe, 2)
    assume(bounded(model, policy, best.answer))
    expected = slopes(lambda x: linear.objective(*recipe.at(x)), point)
    leaf = point.requires_grad_()
    (found,) = torch.autograd.grad(linear.objective(*recipe.at(leaf)).sum(), leaf)
    close_to(found, expected)
    both = linear.surrogates(*recipe.at(leaf), best.answer)
    (found,) = torch.autograd.grad(sum(both).sum(), leaf)
    close_to(found, expected)


@few
@given(linear_recipes())
def test_the_two_terms_at_any_answer(recipe):
    """J(theta, g) with g held, and J(g + g*(theta) - g*(theta_0)) with all else held."""
    point, given = recipe.point(2), recipe.answers(2)
    model, policy, best = solved(recipe, 2)
    assume(bounded(model, policy, best.answer) and bounded(model, policy, given))

    def moved(x: Tensor) -> LinearAnswer:
        there = linear.best_response(*recipe.at(x)).answer
        return LinearAnswer(*(g + a - b for g, a, b in zip(given, there, best.answer, strict=True)))

    leaf = point.clone().requires_grad_()
    direct, indirect = linear.surrogates(*recipe.at(leaf), given)
    for surrogate, function in (
        (direct, lambda x: linear.leader_return(*recipe.at(x), given)),
        (indirect, lambda x: linear.leader_return(model, policy, moved(x))),
    ):
        (found,) = torch.autograd.grad(
            surrogate.sum(), leaf, retain_graph=True, materialize_grads=True, allow_unused=True
        )
        close_to(found, slopes(function, point))


# ---------------------------------------------------------------- many leaders, and failing ones


@few
@given(linear_recipes())
def test_every_leader_on_its_own(recipe):
    point = recipe.point(3)
    together = solved(recipe, 3)[2]
    value = linear.objective(*recipe.at(point))
    for m in range(3):
        model, policy = recipe.at(point[m : m + 1])
        alone = linear.best_response(model, policy)
        for x, y in zip(together.answer, alone.answer, strict=True):
            torch.testing.assert_close(x[m : m + 1], y, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(together.value[m : m + 1], alone.value, rtol=1e-9, atol=1e-9)
        own = linear.objective(model, policy)
        torch.testing.assert_close(value[m : m + 1], own, rtol=1e-9, atol=1e-9)


def push(
    follower: float = 0.0,
    *,
    cost: float = 1.0,
    discounts: tuple[float, float] = (0.9, 0.9),
    bump: bool = False,
    paid: float = 1.0,
) -> LinearModel:
    """s' = a + follower b + noise in one dimension: a gain k of the leader makes s' = k s.

    Both players pay s^2 (the follower `cost` times that), the follower b^2 as well.
    """
    eye = torch.eye(1, dtype=torch.float64)
    return LinearModel(
        transition=torch.tensor([[0.0, 0.0, 1.0, follower]], dtype=torch.float64),
        noise=0.1 * eye,
        initial_mean=eye[0],
        initial_covariance=eye,
        leader_cost=torch.diag(torch.tensor([0.0, paid, 0.0, 0.0], dtype=torch.float64)),
        follower_cost=torch.diag(torch.tensor([0.0, cost, 0.0, 1.0], dtype=torch.float64)),
        bump=torch.tensor([[-1.0, 1.0, 0.0, 0.0]], dtype=torch.float64) if bump else None,
        leader_actions=1,
        leader_discount=discounts[0],
        follower_discount=discounts[1],
    )


def pushing(*gains: float) -> LinearPolicy:
    rows = [[[0.0, gain]] for gain in gains]
    gain = torch.tensor(rows, dtype=torch.float64, requires_grad=True)
    return LinearPolicy(gain, torch.full((len(gains), 1), 0.1, dtype=torch.float64))


GAINS = 0.5, 1.2, 1e8, 1e160, -0.9  # the follower's cost is bounded below 0.9^-1/2 = 1.054
FINE = torch.tensor([True, False, False, False, True])


@pytest.mark.parametrize("bump", [False, True])
def test_leaders_without_a_best_response_are_minus_infinity_and_no_more(bump):
    model, policy = push(bump=bump), pushing(*GAINS)
    best = linear.best_response(model, policy)
    assert best.solved.tolist() == FINE.tolist()
    value = linear.objective(model, policy)
    assert value.isfinite().tolist() == FINE.tolist()
    assert (value[~FINE] == -torch.inf).all()
    (found,) = torch.autograd.grad(value.sum(), policy.gain)
    direct, indirect = linear.surrogates(model, policy, best.answer)
    (other,) = torch.autograd.grad((direct + indirect).sum(), policy.gain)
    for gradient in (found, other):
        assert (gradient[~FINE] == 0).all()
        for m in FINE.nonzero().flatten().tolist():
            alone = pushing(GAINS[m])
            (own,) = torch.autograd.grad(linear.objective(model, alone).sum(), alone.gain)
            torch.testing.assert_close(gradient[m : m + 1], own)


def test_a_leader_whose_own_return_diverges():
    """The follower looks less far ahead than the leader: there is a best response, and J = -inf."""
    model, policy = push(discounts=(0.99, 0.5)), pushing(0.5, 1.2)
    best = linear.best_response(model, policy)
    assert best.solved.all()
    value = linear.objective(model, policy)
    assert value[0].isfinite()
    assert value[1] == -torch.inf
    (gradient,) = torch.autograd.grad(value.sum(), policy.gain)
    assert gradient[0].any()
    assert not gradient[1].any()


@pytest.mark.parametrize("horizon", [None, 30, 3000])
def test_a_bump_that_is_left_behind_is_finite(horizon):
    """Unstable, but for the leader only the bump counts, which 0 <= J <= 1 / (1 - f) bounds."""
    model = push(bump=True, paid=0.0, discounts=(0.99, 0.1))
    policy = pushing(0.5, 1.2, 3.0)
    value = linear.objective(model, policy, horizon=horizon)
    (gradient,) = torch.autograd.grad(value.sum(), policy.gain)
    assert ((value > 0) & (value < 100)).all()
    assert gradient.isfinite().all()


def test_a_narrow_bump_that_is_left_behind_is_a_number():
    """Growth by 1.03 a step in one direction: 1 + cov is singular but for rounding."""
    model = lqr.game().matrices()
    gain = torch.tensor([[[0.0, -10.29, -10.31]]], dtype=torch.float64, requires_grad=True)
    policy = LinearPolicy(gain, torch.full((1, 1), 0.001, dtype=torch.float64))
    value = linear.objective(model, policy)
    (gradient,) = torch.autograd.grad(value.sum(), gain)
    assert 0 <= value.item() < 100
    assert gradient.isfinite().all()


def test_an_unstable_leader_within_a_horizon():
    """Growth by 1.2 a step is no harm in 20 steps, and beyond all numbers in 100,000."""
    model, policy = push(discounts=(0.9, 0.5)), pushing(0.5, 1.2)
    assert linear.objective(model, policy, horizon=20).isfinite().all()
    far = linear.objective(model, policy, horizon=100_000, discount=1.0)
    assert far.isfinite().tolist() == [True, False]
    (gradient,) = torch.autograd.grad(far[far.isfinite()].sum(), policy.gain)
    assert gradient.isfinite().all()


def test_the_follower_steadies_what_the_leader_shakes():
    """Where it can push back there is a best response, whatever the gain."""
    best = linear.best_response(push(follower=0.5), pushing(*GAINS[:3]))
    assert best.solved.all()


def test_a_follower_that_is_paid_to_run_away_has_no_best_response():
    """r_F = 5 s^2 - b^2: more push, more pay."""
    best = linear.best_response(push(follower=1.0, cost=-5.0), pushing(0.5))
    assert not best.solved.any()
    assert not best.answer.gain.any()
    assert linear.objective(push(follower=1.0, cost=-5.0), pushing(0.5)).tolist() == [-torch.inf]


def paying(transition: list[list[float]]) -> LinearModel:
    """r_F = -|s|^2 - b^2 + a^2 / 2 in two dimensions: who is far away is paid, as the gain is."""
    eye = torch.eye(2, dtype=torch.float64)
    cost = torch.tensor([0.0, 1.0, 1.0, -0.5, 1.0], dtype=torch.float64).diag()
    return LinearModel(
        transition=torch.tensor(transition, dtype=torch.float64),
        noise=0.1 * eye,
        initial_mean=eye[0],
        initial_covariance=eye,
        leader_cost=cost.abs(),
        follower_cost=cost,
        leader_actions=1,
        leader_discount=0.9,
        follower_discount=0.9,
        temperature=0.3,
    )


def test_a_follower_that_is_paid_to_go_astray_has_no_best_response(monkeypatch):
    """Though the Riccati equation has a solution, the best of the answers that do not go astray."""
    model = paying([[0.0, -0.6, 1.2, -0.2, 1.0], [0.0, -0.7, -0.1, -0.2, -1.1]])
    gain = torch.tensor([[[0.0, -0.3, 1.0]], [[0.0, -0.3, 1.8]]], dtype=torch.float64)
    policy = LinearPolicy(gain, torch.full((2, 1), 0.1, dtype=torch.float64))
    nothing = torch.zeros(2, 3, 3, dtype=torch.float64)
    short = linear.sweep(model, policy, nothing, 12)  # steps: in one more any sum can be gained
    assert linear.soft_response(model, policy, short).solved.tolist() == [True, False]
    with monkeypatch.context() as careless:
        careless.setattr(linear, "WARY", 0)
        solution = linear.best_response(model, policy).state_value
    assert solution.abs().amax((1, 2)).all()
    again = linear.soft_response(model, policy, solution)
    torch.testing.assert_close(again.state_value, solution)
    for start in (None, nothing, solution):
        best = linear.best_response(model, policy, start)
        assert best.solved.tolist() == [True, False]
        torch.testing.assert_close(best.state_value[0], solution[0])


def test_newton_steps_that_do_not_settle_find_nothing(monkeypatch):
    """Returns without bound, and no solution either."""
    model = paying([[0.0, -0.6, 1.1, 0.4, 0.2], [0.0, -0.4, 1.8, 1.7, 0.1]])
    cost = torch.tensor([0.0, 1.0, 1.0, -1.0, 1.0], dtype=torch.float64).diag()
    model = replace(model, follower_cost=cost)
    gain = torch.tensor([[[0.0, 0.3, -1.6]]], dtype=torch.float64)
    monkeypatch.setattr(linear, "WARY", 0)
    best = linear.best_response(model, LinearPolicy(gain, torch.full((1, 1), 0.1).double()))
    assert not best.solved.any()


@pytest.mark.parametrize("gain", [1e160, 1e308, torch.inf, torch.nan])
def test_leaders_beyond_all_numbers_have_no_best_response(gain):
    gains = [[[0.0, gain, 0.0]], [[0.0, 0.0, gain]], [[0.0, -0.1, 0.0]]]
    gains = torch.tensor(gains, dtype=torch.float64)
    policy = LinearPolicy(gains, torch.full((3, 1), 0.1, dtype=torch.float64))
    for model in (lqr.game().matrices(), lqr.game(width=None, leader_Q=torch.eye(2)).matrices()):
        assert linear.objective(model, policy).isfinite().tolist() == [False, False, True]


def test_an_answer_that_diverges_leaves_an_infinite_gap():
    model, policy = push(follower=0.5), pushing(0.5, 0.5)
    gain = torch.tensor([[[0.0, 0.0, 0.0]], [[0.0, 3.0, 0.0]]], dtype=torch.float64)
    answer = LinearAnswer(gain, torch.ones(2, 1, 1, dtype=torch.float64))
    gap = linear.follower_gap(model, policy, answer)
    assert 0 < gap[0] < torch.inf
    assert gap[1] == torch.inf


def test_a_response_draws_what_it_says():
    recipe = LinearRecipe(states=2, leader_actions=1, follower_actions=2)
    best = solved(recipe)[2]
    response = LinearResponse(best)
    state, action = torch.ones(1, 1, 2), torch.tensor([[[0.5]]])
    draw = torch.Generator().manual_seed(0)
    seen = response.sample(state.expand(-1, 40_000, -1), action.expand(-1, 40_000, -1), draw)[0]
    mean = best.answer.gain[0] @ torch.tensor([1.0, 1.0, 1.0, 0.5], dtype=torch.float64)
    torch.testing.assert_close(seen.mean(0), mean, rtol=0, atol=0.02)
    torch.testing.assert_close(seen.T.cov(), best.answer.covariance[0], rtol=0.05, atol=0.005)
    grid = torch.cartesian_prod(*[torch.linspace(-6, 6, 401, dtype=torch.float64)] * 2)
    where = state.expand(-1, len(grid), -1), action.expand(-1, len(grid), -1)
    mass = response.log_density(*where, (grid + mean)[None]).exp().sum() * 0.03**2
    assert mass.item() == pytest.approx(1, abs=1e-6)
