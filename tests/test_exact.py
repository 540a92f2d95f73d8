"""Oracles of tabular games against plain loops, value iteration and finite differences."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from random_games import (
    Family,
    bellman,
    families,
    gradient,
    iterated_objective,
    iterated_response,
    log_sum_exp,
)
from torch import Tensor

from games import discrete_toy, four_rooms
from games.tabular import TabularDesign
from stackelberg import exact, hypergradient
from stackelberg.model import TabularModel, closed_classes

FAMILIES = families(24)


def named(family: Family) -> str:
    kind = "observing" if family.observes else "blind"
    return f"{family.seed}-{kind}-{family.states}x{family.leader_actions}"


every_family = pytest.mark.parametrize("family", FAMILIES, ids=named)


def solved(family: Family, count: int = 1) -> tuple[TabularModel, Tensor, exact.SoftResponse]:
    model, policy = family.at(family.point(count))
    return model, policy, exact.best_response(model, policy)


def of_leader(model: TabularModel, m: int) -> TabularModel:
    """The arrays of leader m, without the leading dimension."""
    return replace(
        model,
        transition=model.transition[m],
        ending=None if model.ending is None else model.ending[m],
        leader_reward=model.leader_reward[m],
        follower_reward=model.follower_reward[m],
        initial=model.initial[m],
    )


# ---------------------------------------------------------------- best response


@every_family
def test_best_response_is_a_fixed_point_of_the_soft_bellman_operator(family):
    """Loops over s, a, b, s', a'; the expectation over a' stands outside the log-sum-exp."""
    model, policy, found = solved(family)
    one, f = of_leader(model, 0), policy[0]
    action_value = bellman(one, f, found.value[0].numpy())
    value = log_sum_exp(action_value, model.temperature)
    behaviour = np.exp((action_value - value[..., None]) / model.temperature)
    np.testing.assert_allclose(found.value[0], value, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(found.policy[0], behaviour, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.state_value[0], (f.numpy() * value).sum(-1), rtol=1e-10)


@every_family
def test_best_response_is_what_value_iteration_finds(family):
    model, policy, found = solved(family)
    behaviour, value = iterated_response(of_leader(model, 0), policy[0], 600)
    np.testing.assert_allclose(found.value[0], value, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.policy[0], behaviour, rtol=1e-8, atol=1e-10)


@every_family
def test_value_is_that_of_the_policy(family):
    """V_F = E_g[Q_F - beta log g], and no other behaviour has a higher one."""
    model, policy, found = solved(family)
    own = exact.follower_values(model, policy, found.policy)
    torch.testing.assert_close(own, found.state_value, rtol=1e-10, atol=1e-10)
    rng = np.random.default_rng(family.seed)
    for noise in (0.01, 1.0):
        logits = found.policy.log() + noise * torch.from_numpy(rng.normal(size=found.policy.shape))
        if not family.observes:
            logits = logits[..., :1, :].expand_as(logits)
        other = exact.follower_values(model, policy, torch.softmax(logits, -1))
        assert (other <= found.state_value + 1e-10).all()


def test_every_leader_is_solved_on_its_own():
    for family in FAMILIES[:6]:
        model, policy, together = solved(family, 3)
        for m in range(3):
            alone = exact.best_response(of_leader(model, m), policy[m])
            torch.testing.assert_close(together.policy[m], alone.policy, rtol=1e-9, atol=1e-12)
            torch.testing.assert_close(together.value[m], alone.value, rtol=1e-9, atol=1e-10)


def test_the_start_does_not_matter():
    for family in FAMILIES[:8]:
        model, policy, cold = solved(family)
        start = 50 * torch.randn(cold.state_value.shape, dtype=torch.float64)
        warm = exact.best_response(model, policy, start)
        torch.testing.assert_close(warm.policy, cold.policy, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("observes", [True, False])
def test_blind_responses_do_not_depend_on_the_leaders_action(observes):
    _, _, found = solved(Family(observes=observes))
    spread = (found.policy - found.policy[..., :1, :]).abs().max()
    assert spread > 0.01 if observes else spread == 0


def test_hard_games_stay_finite():
    """Temperatures near 0 and large rewards: greedy, but neither nan nor inf."""
    family = Family(temperature=1e-4, follower_discount=0.99, ends=False)
    model, policy = family.at(family.point())
    model = replace(model, follower_reward=1000 * model.follower_reward)
    found = exact.best_response(model, policy)
    assert torch.isfinite(found.value).all()
    torch.testing.assert_close(found.policy.sum(-1), torch.ones(1, 4, 3, dtype=torch.float64))
    _, value = iterated_response(of_leader(model, 0), policy[0], 4000)
    np.testing.assert_allclose(found.value[0], value, rtol=1e-9)


def test_best_response_says_when_it_has_not_converged():
    model, policy = Family().at(Family().point())
    with pytest.raises(ArithmeticError, match="after 1 Newton steps"):
        exact.best_response(model, policy, max_steps=1)


# ---------------------------------------------------------------- objective


@every_family
def test_objective_is_what_value_iteration_finds(family):
    model, policy = family.at(family.point())
    expected = iterated_objective(of_leader(model, 0), policy[0])
    assert exact.objective(model, policy).item() == pytest.approx(expected, rel=1e-9, abs=1e-10)


def test_objective_of_discrete_toy():
    """Known values of R = 1 (by value iteration), from an open door to one nearly always closed."""
    for close, expected in ((0.5, 0.6170054), (0.01, 33.758), (0.9, 6.6e-6)):
        policy = torch.tensor([1 - close, close], dtype=torch.float64).expand(1, 3, 2)
        value = exact.objective(discrete_toy.game().model(), policy).item()
        assert value == pytest.approx(expected, rel=5e-3 if close == 0.9 else 1e-5)


# ---------------------------------------------------------------- hypergradient


@every_family
def test_hypergradient_passes_gradcheck(family):
    """Policies and designs that move rewards, transitions, endings and first states."""
    x = family.point(2).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda y: exact.objective(*family.at(y)), x, eps=1e-5, atol=1e-7, rtol=1e-6
    )


@pytest.mark.parametrize("family", FAMILIES[::2], ids=named)
def test_hypergradient_against_differences_of_value_iteration(family):
    """Nothing of the package in the differences but the arrays."""
    x = family.point().requires_grad_()
    found = gradient(exact.objective(*family.at(x)), x)[0]
    for i in range(family.dimension):
        step = torch.zeros(1, family.dimension, dtype=torch.float64)
        step[0, i] = 1e-4
        ends = []
        for y in (x.detach() + step, x.detach() - step):
            model, policy = family.at(y)
            ends.append(iterated_objective(of_leader(model, 0), policy[0], 450))
        slope = (ends[0] - ends[1]) / 2e-4
        assert found[i].item() == pytest.approx(slope, rel=1e-5, abs=1e-6)


def test_hypergradient_of_a_network():
    """A multi-layer perceptron in float64 as the leader, differentiated in every weight."""
    family = Family(seed=5, leader_discount=0.95, moves=frozenset())
    model, _ = family.at(family.point())
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3)
    ).double()
    weights = dict(network.named_parameters())

    def value(*given: Tensor) -> Tensor:
        named_weights = dict(zip(weights, given, strict=True))
        eye = torch.eye(4, dtype=torch.float64)[None]
        logits = torch.func.functional_call(network, named_weights, (eye,))
        return exact.objective(model, torch.softmax(logits, -1))

    assert torch.autograd.gradcheck(value, tuple(weights.values()), eps=1e-5, atol=1e-7, rtol=1e-6)


def test_hypergradient_of_discrete_toy():
    """d J / d logit of an open door, uniform leader, R = 1: 4.3385 by finite differences."""
    model = discrete_toy.game().model()
    logits = torch.zeros(1, 3, 2, dtype=torch.float64, requires_grad=True)
    found = gradient(exact.objective(model, torch.softmax(logits, -1)), logits)
    assert found[0, 1, 0].item() == pytest.approx(4.3385, abs=1e-4)


@every_family
def test_values_and_policy_carry_the_implicit_derivative(family):
    """Not the objective alone: every number of the attached response."""
    x = family.point().requires_grad_()
    weight = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 6, 4, 4)))

    def summary(y: Tensor) -> Tensor:
        found = exact.attached_best_response(*family.at(y))
        _, states, a, b = found.policy.shape
        return (
            (found.policy * weight[0, :states, :a, :b]).sum()
            + (found.value * weight[1, :states, :a, 0]).sum()
            + (found.state_value * weight[2, :states, 0, 0]).sum()
        )

    assert torch.autograd.gradcheck(summary, x, eps=1e-5, atol=1e-6, rtol=1e-5)


# ---------------------------------------------------------------- sweeps and gaps


@every_family
def test_sweeps_contract_to_the_best_response(family):
    """Soft value iteration: the error shrinks by gamma_F in every sweep."""
    model, policy, best = solved(family)
    value = torch.full_like(best.state_value, -20.0)
    error = (best.state_value - value).abs().max()
    for _ in range(12):
        value = exact.sweep(model, policy, value, 1)
        now = (best.state_value - value).abs().max()
        assert now <= family.follower_discount * error + 1e-10
        error = now
    value = exact.sweep(model, policy, value, 400)
    torch.testing.assert_close(value, best.state_value, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("backups", [1, 3, 50])
@pytest.mark.parametrize("family", FAMILIES[:12], ids=named)
def test_sweeps_rise_and_close_the_gap(family, backups):
    """From too low a start, values rise with every sweep and bound what the follower loses."""
    model, policy, best = solved(family)
    lowest = model.follower_reward.min().clamp(max=0)
    value = torch.full_like(best.state_value, (lowest / (1 - family.follower_discount)).item())
    bounds = []
    for _ in range(6):
        higher = exact.sweep(model, policy, value, 1, backups)
        assert (higher >= value - 1e-10).all()
        assert (higher <= best.state_value + 1e-10).all()
        value = higher
        behaviour = exact.soft_response(
            model, policy, exact.follower_action_value(model, value)
        ).policy
        bounds.append((model.initial * (best.state_value - value)).sum(-1))
        assert (exact.follower_gap(model, policy, behaviour) <= bounds[-1] + 1e-10).all()
    for sooner, later in itertools.pairwise(bounds):
        assert (later <= sooner + 1e-12).all()
    assert bounds[-1] < 1e-4 or backups < 50


@pytest.mark.parametrize("backups", [1, 2, 5])
def test_a_sweep_is_its_definition(backups):
    """g is fixed in a sweep; each backup is v <- E_fg[r_F - beta log g + gamma_F P v]."""
    for family in FAMILIES[:8]:
        model, policy = family.at(family.point())
        value = torch.from_numpy(np.random.default_rng(1).normal(size=(1, family.states)))
        expected = value[0].numpy()
        f, transition, reward = (
            t[0].numpy() for t in (policy, model.transition, model.follower_reward)
        )
        for _ in range(2):
            target = reward + model.follower_discount * transition @ expected
            if not family.observes:
                mean = (f[..., None] * target).sum(1, keepdims=True)
                target = np.broadcast_to(mean, target.shape)
            soft = log_sum_exp(target, model.temperature)
            log_g = (target - soft[..., None]) / model.temperature
            for _ in range(backups):
                backed = reward + model.follower_discount * transition @ expected
                pay = np.exp(log_g) * (backed - model.temperature * log_g)
                expected = (f * pay.sum(-1)).sum(-1)
        found = exact.sweep(model, policy, value, 2, backups)[0]
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


@every_family
def test_the_gap_is_what_the_follower_loses(family):
    model, policy, best = solved(family)
    assert exact.follower_gap(model, policy, best.policy).abs().max() < 1e-9
    uniform = torch.full_like(best.policy, 1 / family.follower_actions)
    f, transition, reward = (
        t[0].numpy() for t in (policy, model.transition, model.follower_reward)
    )
    pay = reward + family.temperature * np.log(family.follower_actions)
    value = np.zeros(family.states)
    for _ in range(600):
        both = f[..., None] / family.follower_actions
        value = (both * (pay + family.follower_discount * transition @ value)).sum((1, 2))
    lost = (model.initial[0].numpy() * (best.state_value[0].numpy() - value)).sum()
    found = exact.follower_gap(model, policy, uniform).item()
    assert found == pytest.approx(lost, rel=1e-8, abs=1e-9)
    assert found >= 0


def test_closed_classes_are_solved_alone():
    """Two goals are two copies of the rooms: the same numbers as from one system of all states."""
    game = four_rooms.game(goals=2, temperature=0.005)
    spent = 0.1 * torch.softmax(torch.randn(3, 105, dtype=torch.float64), -1)[:, :104]
    policy = torch.ones(3, 208, 1, dtype=torch.float64)
    found = []
    for classes in (2, 1):
        design = spent.clone().requires_grad_()
        model = game.model(design)
        assert model.classes == 2
        model = replace(model, classes=classes)
        value = exact.objective(model, policy)
        (gradient,) = torch.autograd.grad(value.sum(), design)
        best = exact.best_response(model.detach(), policy)
        critics = hypergradient.tabular_critics(model.detach(), policy, best)
        visits = exact.visitation(model.detach(), policy, best.policy)
        found.append([value, gradient, critics.trace, critics.visitation, visits])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_closed_classes_are_the_smallest_runs_without_a_way_out():
    def kernel(*sizes: int) -> torch.Tensor:
        return torch.block_diag(*(torch.ones(n, n) / n for n in sizes))[:, None, None]

    for sizes, expected in (((3, 3), 2), ((1, 1, 1), 3), ((2, 4), 1), ((6,), 1), ((1, 2), 1)):
        blocks = kernel(*sizes)
        assert closed_classes(blocks) == expected, sizes


def test_play_that_crosses_joins_classes():
    """Planning never leaves a state, play does: what is learned from play must not be cut apart."""
    design = TabularDesign(
        spaces.Box(0.0, 1.0, (1,), np.float64),
        np.eye(2)[:, None],
        np.array([[0.0], [1.0]]),
        np.zeros((2, 1)),
        simulated_transition=np.array([[[0.0, 1.0]], [[0.0, 1.0]]]),
    )
    assert design.model(torch.zeros(1, 1)).classes == 1
