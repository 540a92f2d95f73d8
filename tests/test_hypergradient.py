"""The hypergradient's formulas against definitions in plain loops and against the exact oracle."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from benchmarks.estimator_cost import HIDDEN, cost
from random_games import Family, families, gradient, layered_game, paths_of
from torch import Tensor

from games import discrete_toy
from stackelberg import exact, hypergradient
from stackelberg.hypergradient import Critics
from stackelberg.model import TabularModel

FAMILIES = families(96)


def evaluated(family: Family, x: Tensor) -> tuple[TabularModel, Tensor, Critics]:
    """The attached model and policy under x, and the critics at that point."""
    model, policy = family.at(x)
    constant, fixed = model.detach(), policy.detach()
    best = exact.best_response(constant, fixed)
    return model, policy, hypergradient.tabular_critics(constant, fixed, best)


def clocks(rng: np.random.Generator, shape: tuple[int, ...]) -> Tensor:
    """Steps within episodes of random lengths; every stream starts a new one."""
    time = np.zeros(shape, dtype=np.int64)
    for k in range(1, shape[-1]):
        fresh = rng.random(shape[:-1]) < 0.1
        time[..., k] = np.where(fresh, 0, time[..., k - 1] + 1)
    return torch.from_numpy(time)


# ---------------------------------------------------------------- scans and traces


@pytest.mark.parametrize("length", [1, 2, 7, 256, 257, 320, 321, 5000, 20_000])
@pytest.mark.parametrize("decay", [0.0, 0.3, 0.99, 1.0])
@pytest.mark.parametrize("restarts", [False, True])
def test_sums_are_the_loop(length, decay, restarts):
    rng = np.random.default_rng(length)
    drive = rng.normal(size=(2, 3, length))
    time = clocks(rng, (2, 3, length)) if restarts else torch.arange(length).expand(2, 3, length)
    expected, y = np.zeros_like(drive), np.zeros((2, 3))
    for k in range(length):
        y = decay * y * (time[..., k] != 0).numpy() + drive[..., k]
        expected[..., k] = y
    found = hypergradient.restarting_sum(torch.from_numpy(drive), time, decay)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-11)
    if not restarts:
        found = hypergradient.decaying_sum(torch.from_numpy(drive), decay)
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    "discounts", [(0.9, 0.9), (0.95, 0.6), (0.5, 0.99), (0.0, 0.9), (0.9, 0.0)]
)
def test_traces_are_double_sums_over_the_episode(discounts):
    """e_k = sum_{t<k} gamma_F^(k-t) gamma_L^t delta_t; the inclusive one has t = k as well."""
    leader_discount, follower_discount = discounts
    rng = np.random.default_rng(3)
    time = clocks(rng, (2, 3, 60))
    benefit = torch.from_numpy(rng.normal(size=(2, 3, 60)))
    assert (time == 0).sum() > 12
    exclusive, inclusive = np.zeros((2, 3, 60)), np.zeros((2, 3, 60))
    for m, n, k in np.ndindex(2, 3, 60):
        start = k - time[m, n, k].item()  # of this episode
        for t in range(start, k + 1):
            weight = follower_discount ** (k - t) * leader_discount ** (t - start)
            inclusive[m, n, k] += weight * benefit[m, n, t].item()
            if t < k:
                exclusive[m, n, k] += weight * benefit[m, n, t].item()
    found = hypergradient.benefit_trace(benefit, time, *discounts)
    np.testing.assert_allclose(found, exclusive, rtol=1e-10, atol=1e-13)
    found = hypergradient.inclusive_benefit_trace(benefit, time, *discounts)
    np.testing.assert_allclose(found, inclusive, rtol=1e-12, atol=1e-13)


def test_traces_keep_double_precision():
    """Integer clocks and Python discounts do not fall back to single precision."""
    time = torch.arange(400)[None]
    benefit = torch.ones(1, 400, dtype=torch.float64)
    found = hypergradient.inclusive_benefit_trace(benefit, time, 0.97, 0.9)[0, -1].item()
    expected = sum(0.9 ** (399 - t) * 0.97**t for t in range(400))
    assert found == pytest.approx(expected, rel=1e-12)


# ---------------------------------------------------------------- formulas on samples


def test_stackelberg_advantage_is_its_formula():
    rng = np.random.default_rng(0)
    a_leader, a_follower, trace, weight = torch.from_numpy(rng.normal(size=(4, 2, 3, 5)))
    found = hypergradient.stackelberg_advantage(a_leader, a_follower, trace, weight, 0.25)
    for index in np.ndindex(2, 3, 5):
        expected = weight[index] * a_leader[index] + trace[index] * a_follower[index] / 0.25
        assert found[index].item() == pytest.approx(expected.item(), rel=1e-14)


def test_policy_surrogate_weighs_scores_by_constant_advantages():
    rng = np.random.default_rng(1)
    log_prob, advantage = (
        torch.from_numpy(x).requires_grad_() for x in rng.normal(size=(2, 2, 3, 5))
    )
    episodes = torch.tensor([4, 7])
    value = hypergradient.policy_surrogate(log_prob, advantage, episodes)
    assert value.shape == (2,)
    expected = advantage.detach() / episodes[:, None, None]
    torch.testing.assert_close(gradient(value, log_prob), expected)
    assert gradient(value, advantage).abs().max() == 0


def test_design_surrogate_weighs_rewards_and_scores_of_transitions():
    rng = np.random.default_rng(2)
    reward, log_transition, next_value, weight = (
        torch.from_numpy(x).requires_grad_() for x in rng.normal(size=(4, 2, 3, 5))
    )
    episodes = torch.tensor([4, 7])
    value = hypergradient.design_surrogate(
        reward, log_transition, next_value, weight, 0.8, episodes
    )
    assert value.shape == (2,)
    share = weight.detach() / episodes[:, None, None]
    torch.testing.assert_close(gradient(value, reward), share)
    torch.testing.assert_close(gradient(value, log_transition), 0.8 * next_value.detach() * share)
    assert gradient(value, next_value).abs().max() == 0
    assert gradient(value, weight).abs().max() == 0


# ---------------------------------------------------------------- critics on a model


@pytest.mark.parametrize("kind", ["observing", "blind", "design"])
def test_critics_are_sums_over_all_paths(kind):
    """d, c, V_L and Q_L of a game that surely ends, by listing every way it can be played."""
    game, point = layered_game(kind, seed=4)
    paths = paths_of(game, point)
    model, policy = paths.model, paths.policy
    best = exact.best_response(model, policy)
    found = hypergradient.tabular_critics(model, policy, best)
    states = model.states
    visits, trace = np.zeros(states), np.zeros(states)
    delta = found.benefit[0].numpy()
    for chance, steps in zip(paths.chance, paths.steps, strict=True):
        benefits = [delta[s, a, b] for s, a, b in steps]
        for k, (s, _, _) in enumerate(steps):
            visits[s] += chance * model.leader_discount**k
            trace[s] += chance * sum(
                model.follower_discount ** (k - t) * model.leader_discount**t * benefits[t]
                for t in range(k)
            )
    live = slice(0, states - 1)  # all but the state in which nothing happens
    np.testing.assert_allclose(found.visitation[0, live], visits[live], rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(found.trace[0, live], trace[live], rtol=1e-9, atol=1e-12)
    alone = exact.visitation(model, policy, best.policy)
    torch.testing.assert_close(alone, found.visitation, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(found.objective, exact.objective(model, policy))


@pytest.mark.parametrize("family", FAMILIES[:24:2], ids=lambda f: str(f.seed))
def test_critics_satisfy_their_definitions(family):
    """Q_L, V_L, q_F, V_F and delta entry by entry, in loops."""
    _, _, critics = evaluated(family, family.point())
    model, policy = family.at(family.point())
    transition, r_leader, r_follower, f, g = (
        t[0].numpy()
        for t in (
            model.transition,
            model.leader_reward,
            model.follower_reward,
            policy,
            critics.response,
        )
    )
    v_leader, v_follower = (
        t[0].numpy() for t in (critics.leader_state_value, critics.follower_state_value)
    )
    q_leader, q_follower, delta = (
        t[0].numpy()
        for t in (critics.leader_action_value, critics.follower_action_value, critics.benefit)
    )
    for s, a, b in np.ndindex(*r_leader.shape):
        after = transition[s, a, b]
        expected = r_leader[s, a, b] + family.leader_discount * after @ v_leader
        assert q_leader[s, a, b] == pytest.approx(expected, rel=1e-9, abs=1e-9)
        expected = r_follower[s, a, b] + family.follower_discount * after @ v_follower
        assert q_follower[s, a, b] == pytest.approx(expected, rel=1e-9, abs=1e-9)
        if family.observes:
            expected = q_leader[s, a, b] - g[s, a] @ q_leader[s, a]
        else:
            expected = f[s] @ q_leader[s, :, b] - v_leader[s]
        assert delta[s, a, b] == pytest.approx(expected, rel=1e-8, abs=1e-9)
    mean = (f * (g * q_leader).sum(-1)).sum(-1)
    np.testing.assert_allclose(v_leader, mean, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(critics.leader_value[0], (g * q_leader).sum(-1), rtol=1e-9)
    np.testing.assert_allclose((g * delta).sum(-1), 0, atol=1e-9)  # benefits have mean zero


def test_critics_of_every_leader_are_its_own():
    for family in FAMILIES[:12]:
        x = family.point(3)
        _, _, together = evaluated(family, x)
        for m in range(3):
            _, _, alone = evaluated(family, x[m : m + 1])
            for name in ("visitation", "trace", "benefit", "leader_value", "follower_value"):
                torch.testing.assert_close(
                    getattr(together, name)[m], getattr(alone, name)[0], rtol=1e-8, atol=1e-10
                )


def test_critics_take_arrays_shared_by_all_leaders():
    """One model without a leading dimension, many policies: the same as a model for each."""
    family = Family(moves=frozenset({"policy"}))
    model, policy = family.at(family.point(3))
    best = exact.best_response(model, policy)
    shared = replace(model.detach(), **{k: getattr(model, k)[0] for k in ARRAYS})
    torch.testing.assert_close(exact.best_response(shared, policy), best)
    full = hypergradient.tabular_critics(model, policy, best)
    torch.testing.assert_close(hypergradient.tabular_critics(shared, policy, best), full)


ARRAYS = ("transition", "ending", "leader_reward", "follower_reward", "initial")


# ---------------------------------------------------------------- adjoint form and oracle


def relative(found: Tensor, expected: Tensor, scale: Tensor) -> float:
    return ((found - expected).norm() / scale.norm().clamp(min=1e-6)).item()


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: str(f.seed))
def test_adjoint_form_is_the_exact_hypergradient(family):
    """As a whole; and its direct part is the gradient with the response frozen."""
    x = family.point(2).requires_grad_()
    model, policy, critics = evaluated(family, x)
    direct, indirect = (
        gradient(part, x) for part in hypergradient.surrogates(critics, model, policy)
    )
    total = gradient(exact.objective(model, policy), x)
    assert relative(direct + indirect, total, total) < 1e-8

    frozen = exact.leader_values(model, policy, critics.response)
    alone = gradient((model.initial * frozen).sum(-1), x)
    assert relative(direct, alone, alone) < 1e-8

    through = exact.attached_best_response(model, policy).policy
    values = exact.leader_values(model.detach(), policy.detach(), through)
    moved = gradient((model.detach().initial * values).sum(-1), x)
    assert relative(indirect, moved, total) < 1e-8


def test_the_families_are_of_all_kinds():
    """In every kind of game the indirect part counts somewhere."""
    for observes in (True, False):
        for moves in {f.moves for f in FAMILIES}:
            shares = []
            for family in FAMILIES:
                if (family.observes, family.moves) != (observes, moves):
                    continue
                x = family.point().requires_grad_()
                model, policy, critics = evaluated(family, x)
                direct, indirect = (
                    gradient(part, x).norm().item()
                    for part in hypergradient.surrogates(critics, model, policy)
                )
                shares.append(indirect / (direct + indirect + 1e-12))
            assert len(shares) >= 16
            assert max(shares) > 0.2


def test_adjoint_form_on_discrete_toy():
    """To the last digits also where benefits are large and reach far."""
    model = discrete_toy.game().model()
    for close in (0.05, 0.1665, 0.25, 0.5):
        logits = torch.tensor([0.0, np.log(close / (1 - close))], dtype=torch.float64)
        leaf = logits.expand(1, 3, 2).clone().requires_grad_()
        policy = torch.softmax(leaf, -1)
        total = gradient(exact.objective(model, policy), leaf)
        best = exact.best_response(model, policy.detach())
        critics = hypergradient.tabular_critics(model, policy.detach(), best)
        direct, indirect = (
            gradient(part, leaf) for part in hypergradient.surrogates(critics, model, policy)
        )
        assert relative(direct + indirect, total, direct) < 1e-8


# ---------------------------------------------------------------- expected trace as a critic


@pytest.mark.parametrize("family", FAMILIES[:36], ids=lambda f: str(f.seed))
def test_expected_trace_targets_have_the_adjoint_trace_as_fixed_point(family):
    """The regression on exact expectations: e-bar = c / d, from any start."""
    model, policy, critics = evaluated(family, family.point())
    d, f, g = critics.visitation, policy.unsqueeze(-1), critics.response
    weight = family.leader_discount * (d[..., None, None] * f * g).unsqueeze(-1) * model.transition
    total = model.initial + weight.sum((1, 2, 3))  # where e-bar(s_0) = 0 regresses too
    torch.testing.assert_close(total, d)
    trace = torch.ones_like(d)
    for _ in range(700):
        target = hypergradient.expected_trace_targets(
            trace[..., None, None],
            critics.benefit,
            family.leader_discount,
            family.follower_discount,
        )
        trace = (weight * target.unsqueeze(-1)).sum((1, 2, 3)) / total
    torch.testing.assert_close(trace * d, critics.trace, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(
    "family",
    [f for f in FAMILIES if f.observes and f.leader_actions > 1][::4],
    ids=lambda f: str(f.seed),
)
def test_exchange_rate_prices_the_followers_value(family):
    """The gradient in f is that of sum_s d(s) sum_a f [V_L(s,a) + rho(s) V_F(s,a)]."""
    family = replace(family, moves=frozenset({"policy"}))
    x = family.point(2).requires_grad_()
    model, policy, critics = evaluated(family, x)
    rate = hypergradient.exchange_rate(critics, family.temperature)
    worth = critics.leader_value + rate.unsqueeze(-1) * critics.follower_value
    priced = (critics.visitation * (policy * worth).sum(-1)).sum(-1)
    total = gradient(exact.objective(model, policy), x)
    torch.testing.assert_close(gradient(priced, x), total, rtol=1e-8, atol=1e-10)


def test_exchange_rate_is_zero_where_nobody_comes():
    _, _, critics = evaluated(Family(), Family().point())
    d = torch.tensor([[0.0, 2.0, 0.5, 0.0]], dtype=torch.float64)
    c = torch.tensor([[0.0, 3.0, -1.0, 0.0]], dtype=torch.float64)
    rate = hypergradient.exchange_rate(critics._replace(visitation=d, trace=c), 0.5)
    assert rate.tolist() == [[0.0, 3.0, -4.0, 0.0]]


# ---------------------------------------------------------------- cost


def test_a_hypergradient_costs_what_a_policy_gradient_costs():
    """At most 1.3 times as much, where the network is what counts; the best of ten short runs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        ratios = []
        for _ in range(10):
            plain, ours = cost(HIDDEN[100_000], length=100, seconds=0.2)
            ratios.append(ours / plain)
            if ratios[-1] <= 1.3:
                break
    finally:
        torch.set_num_threads(threads)
    assert min(ratios) <= 1.3, ratios
