"""Estimators against the exact hypergradient: every path listed, then sampled play."""

import numpy as np
import pytest
import torch
from random_games import (
    Rested,
    Sample,
    accuracy_case,
    batches_of_play,
    committed,
    gradient,
    layered_game,
    listed,
    paths_of,
    sampled,
    start_mover,
    start_term,
    toy_case,
    with_true_critics,
)
from scipy import stats
from strategies import Recipe, random_design_game, random_designs, random_game
from torch import Tensor

from games import four_rooms
from stackelberg import estimators, exact, hypergradient
from stackelberg.errors import InputError
from stackelberg.game import Game

KINDS = ("observing", "blind", "design")


def both(sample: Sample) -> np.ndarray:
    """The sampled form's gradients [M, coordinates], a moved start included."""
    parts = estimators.sampled_trace(sample.evidence, sample.commitment)
    if sample.evidence.game.leader_moves == "once":
        parts = (*parts, start_term(sample))
    return sample.gradients(*parts)


def conditional_means(sample: Sample) -> Tensor:
    """E[V(s') | s, a, b] of the leader and of the follower: [2, M, S, A, B]."""
    critics = sample.evidence.critics
    model = sample.evidence.game.model(sample.commitment.design).detach()
    values = (critics.leader_state_value, critics.follower_state_value)
    return torch.stack([exact.expected_next(model, v).expand_as(critics.benefit) for v in values])


def with_baseline(sample: Sample, baseline: Tensor | None = None) -> np.ndarray:
    """A design's sampled form with `baseline` (by default the means) subtracted from V(s')."""
    evidence, seen = sample.evidence, sample.evidence.trajectories
    game, critics = evidence.game, evidence.critics
    model = game.model(sample.commitment.design)
    subtracted = conditional_means(sample) if baseline is None else baseline
    m = torch.arange(len(sample.leaf))[:, None, None]
    cell = (m, seen.state, seen.leader_action, seen.follower_action)
    full = (*critics.response.shape, model.states)
    whole = model.transition if model.ending is None else model.transition + model.ending
    log_transition = whole.expand(full)[(*cell, seen.next_state)].log()
    gammas = game.leader_discount, game.follower_discount
    trace = hypergradient.inclusive_benefit_trace(critics.benefit[cell], seen.time, *gammas)
    weights = gammas[0] ** seen.time.double(), trace / game.temperature
    rewards = model.leader_reward, model.follower_reward
    values = critics.leader_state_value, critics.follower_state_value
    parts = []
    for reward, value, weight, gamma, less in zip(
        rewards, values, weights, gammas, subtracted, strict=True
    ):
        arrived = torch.where(seen.terminated, 0.0, value[m, seen.next_state]) - less[cell]
        paid = reward.expand(full[:-1])[cell]
        parts.append(
            hypergradient.design_surrogate(
                paid, log_transition, arrived, weight, gamma, seen.episodes
            )
        )
    return sample.gradients(*parts, start_term(sample))


# ---------------------------------------------------------------- every path, no noise


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_sampled_form_is_unbiased_to_the_last_digit(kind, seed):
    """The expectation over all paths of a short game is the exact hypergradient."""
    sample, chance = listed(kind, seed)
    assert chance.sum() == pytest.approx(1, abs=1e-12)
    scale = np.abs(sample.exact).max()
    np.testing.assert_allclose(chance @ both(sample), sample.exact, atol=1e-9 * scale)


def frozen_gradient(sample: Sample) -> np.ndarray:
    """The exact gradient of the objective while the follower keeps to its response."""
    game, leaf = sample.evidence.game, sample.leaf[:1].detach().clone().requires_grad_()
    commitment = committed(game, leaf)
    model = game.model(commitment.design)
    values = exact.leader_values(model, commitment.policy, sample.evidence.critics.response[:1])
    return gradient((model.initial * values).sum(-1), leaf).flatten().numpy()


@pytest.mark.parametrize("kind", KINDS)
def test_direct_part_is_the_gradient_with_the_response_frozen(kind):
    sample, chance = listed(kind, 3)
    frozen = frozen_gradient(sample)
    direct, _ = estimators.sampled_trace(sample.evidence, sample.commitment)
    parts = (direct, start_term(sample)) if kind == "design" else (direct,)
    found = chance @ sample.gradients(*parts)
    np.testing.assert_allclose(found, frozen, atol=1e-9 * np.abs(frozen).max())
    assert np.abs(sample.exact - frozen).max() > 0.05 * np.abs(frozen).max()


@pytest.mark.parametrize("seed", range(3))
def test_a_baseline_leaves_the_mean_to_the_last_digit(seed):
    """Any function of (s, b) may be subtracted from V(s'): the critics' mean, or anything else."""
    sample, chance = listed("design", seed)
    critics, scale = sample.evidence.critics, np.abs(sample.exact).max()
    odd = torch.from_numpy(np.random.default_rng(seed).normal(size=(2, *critics.benefit.shape[1:])))
    for baseline in (
        conditional_means(sample),
        odd.unsqueeze(1).expand(-1, len(chance), -1, -1, -1),
    ):
        found = chance @ with_baseline(sample, baseline)
        np.testing.assert_allclose(found, sample.exact, atol=1e-9 * scale)


def test_a_designs_sampled_form_is_put_together_from_its_formulas():
    """Step by step, with the means as the baseline; endings and transitions that move, too."""
    for seed in range(12):
        game, point = random_case("design", seed)
        sample = sampled(game, point, batches=5, streams=10, steps=STEPS, seed=seed)
        scale = np.abs(both(sample)).max()
        np.testing.assert_allclose(both(sample), with_baseline(sample), atol=1e-12 * scale)


def test_the_exclusive_trace_is_the_quieter_one():
    """For an observing follower the inclusive trace has the same mean and a larger variance."""
    for seed in range(3):
        sample, chance = listed("observing", seed)
        noise = []
        for trace_of in (hypergradient.benefit_trace, hypergradient.inclusive_benefit_trace):
            found = with_trace(sample, trace_of)
            np.testing.assert_allclose(chance @ found, sample.exact, atol=1e-9)
            noise.append((chance @ (found - sample.exact) ** 2).sum())
        assert noise[0] < noise[1]
        np.testing.assert_allclose(with_trace(sample, hypergradient.benefit_trace), both(sample))


def with_trace(sample: Sample, trace_of) -> np.ndarray:
    """The sampled form of an observing follower, put together from its formulas."""
    game, critics, seen = (
        sample.evidence.game,
        sample.evidence.critics,
        sample.evidence.trajectories,
    )
    m = torch.arange(len(sample.leaf))[:, None, None]
    s, a, b = seen.state, seen.leader_action, seen.follower_action
    discounts = game.leader_discount, game.follower_discount
    mean = (critics.policy * critics.leader_value).sum(-1, keepdim=True)
    advantage = hypergradient.stackelberg_advantage(
        (critics.leader_value - mean)[m, s, a],
        (critics.follower_value - critics.follower_state_value.unsqueeze(-1))[m, s, a],
        trace_of(critics.benefit[m, s, a, b], seen.time, *discounts),
        game.leader_discount ** seen.time.double(),
        game.temperature,
    )
    log_prob = sample.commitment.policy[m, s, a].log()
    return sample.gradients(hypergradient.policy_surrogate(log_prob, advantage, seen.episodes))


@pytest.mark.parametrize("kind", KINDS)
def test_sampled_form_is_its_definition(kind):
    """Path by path, in loops over time; the policies' scores are those of a softmax."""
    game, point = layered_game(kind, 5)
    paths = paths_of(game, point)
    sample = with_true_critics(game, point, paths.trajectories)
    direct, indirect = (
        sample.gradients(part)
        for part in estimators.sampled_trace(sample.evidence, sample.commitment)
    )
    define = defined_for_designs if kind == "design" else defined_for_policies
    for i in np.random.default_rng(0).choice(len(paths.steps), 100, replace=False):
        expected = define(sample, point, i, paths.steps[i])
        np.testing.assert_allclose(direct[i], expected[0], rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(indirect[i], expected[1], rtol=1e-8, atol=1e-10)


def traces(sample: Sample, i: int, steps: list) -> tuple[list[float], list[float]]:
    """(exclusive, inclusive) benefit trace at every step of path i."""
    game, delta = sample.evidence.game, sample.evidence.critics.benefit[i].numpy()
    exclusive = [
        sum(
            game.follower_discount ** (k - t) * game.leader_discount**t * delta[steps[t]]
            for t in range(k)
        )
        for k in range(len(steps))
    ]
    own = [game.leader_discount**k * delta[step] for k, step in enumerate(steps)]
    return exclusive, [e + o for e, o in zip(exclusive, own, strict=True)]


def defined_for_policies(sample: Sample, point: Tensor, i: int, steps: list) -> tuple:
    game, critics = sample.evidence.game, sample.evidence.critics
    f, v_leader, v_follower, q_follower = (
        table[i].numpy()
        for table in (
            critics.policy,
            critics.leader_value,
            critics.follower_value,
            critics.follower_action_value,
        )
    )
    exclusive, inclusive = traces(sample, i, steps)
    direct, indirect = np.zeros(point.shape), np.zeros(point.shape)
    for k, (s, a, b) in enumerate(steps):
        score = np.eye(len(f[s]))[a] - f[s]
        direct[s] += score * game.leader_discount**k * (v_leader[s, a] - f[s] @ v_leader[s])
        if game.follower_observes_action:
            weight = exclusive[k] * (v_follower[s, a] - f[s] @ v_follower[s])
        else:
            weight = inclusive[k] * (q_follower[s, a, b] - f[s] @ q_follower[s, :, b])
        indirect[s] += score * weight / game.temperature
    return direct.ravel(), indirect.ravel()


def defined_for_designs(sample: Sample, point: Tensor, i: int, steps: list) -> tuple:
    game, critics = sample.evidence.game, sample.evidence.critics
    x = point[None].clone().requires_grad_()
    model = game.model(x)
    seen = sample.evidence.trajectories
    _, inclusive = traces(sample, i, steps)
    direct = indirect = torch.zeros(())
    for k, (s, a, b) in enumerate(steps):
        later = game.leader_discount * critics.leader_state_value[i]
        own = game.follower_discount * critics.follower_state_value[i]
        gain, pay = model.leader_reward[0, s, a, b], model.follower_reward[0, s, a, b]
        after, ended = seen.next_state[i, 0, k], bool(seen.terminated[i, 0, k])
        table = model.ending if ended else model.transition
        log_chance, chance = table[0, s, a, b, after].log(), model.transition[0, s, a, b].detach()
        gain = gain + log_chance * (later[after] * (not ended) - chance @ later)
        pay = pay + log_chance * (own[after] * (not ended) - chance @ own)
        direct = direct + game.leader_discount**k * gain
        indirect = indirect + inclusive[k] / game.temperature * pay
    return gradient(direct, x)[0].numpy(), gradient(indirect, x)[0].numpy()


# ---------------------------------------------------------------- sampled play


def hotelling(gradients: np.ndarray, expected: np.ndarray) -> tuple[float, float]:
    """(largest |z| of a coordinate, p-value of all coordinates together).

    Coordinates that never vary must be exact; directions that hardly do are left out of p.
    """
    count = len(gradients)
    error, deviation = gradients.mean(0) - expected, gradients.std(0, ddof=1)
    scale = np.abs(expected).max() + deviation.max()
    still = deviation <= 1e-9 * scale
    assert (np.abs(error[still]) <= 1e-6 * scale).all()
    z = error[~still] / (deviation[~still] / count**0.5)
    centred = (gradients - gradients.mean(0))[:, ~still] / deviation[~still]
    variance, axes = np.linalg.eigh(centred.T @ centred / (count - 1))
    kept = variance > 1e-3
    rank = int(kept.sum())
    statistic = ((axes.T @ z)[kept] ** 2 / variance[kept]).sum()
    p = stats.f.sf(statistic * (count - rank) / (rank * (count - 1)), rank, count - rank)
    return float(np.abs(z).max()), float(p)


def random_case(kind: str, seed: int) -> tuple[Game, Tensor]:
    """A random game with discounts short enough for episodes of `STEPS`, and a point in it."""
    rng = np.random.default_rng([seed, 6])
    leader_discount = float(rng.choice([0.6, 0.7, 0.8]))
    recipe = Recipe(
        seed=seed,
        states=int(rng.integers(2, 5)),
        leader_actions=int(rng.integers(2, 4)),
        follower_actions=int(rng.integers(2, 4)),
        transitions=("dirichlet", "sparse", "deterministic")[seed % 3],
        termination=("never", "anywhere")[seed % 2],
        leader_discount=leader_discount,
        follower_discount=leader_discount if seed % 4 < 2 else float(rng.choice([0.6, 0.8])),
        temperature=float(rng.choice([0.3, 0.5, 1.0])),
        observes=kind != "blind",
        moves_transition=seed % 5 > 0,
    )
    if kind == "design":
        design = random_design_game(recipe)
        game = Rested(design, start_mover(design, seed))
        game.start = masked(game.start, design)
        return game, random_designs(design, 1, seed)[0]
    return random_game(recipe), torch.from_numpy(
        rng.normal(size=(recipe.states, recipe.leader_actions))
    )


def masked(start, design):
    """Only states in which the game may start anyway."""
    possible = design.model(torch.zeros(1, design.leader_space.shape[0])).initial > 0
    return lambda x: start(x) + possible.log()


STEPS = 50


def p_values(kind: str, seeds: range, batches: int, limit: float) -> list[float]:
    """Of unbiasedness, for each random game; every coordinate within `limit` standard errors."""
    found = []
    for seed in seeds:
        game, point = random_case(kind, seed)
        sample = sampled(game, point, batches=batches, streams=30, steps=STEPS, seed=seed)
        worst, p = hotelling(both(sample), sample.exact)
        assert worst < limit, (seed, worst)
        found.append(p)
    return found


def assert_uniform(found: list[float]) -> None:
    """p-values of true hypotheses: none too small for their number, and uniform together."""
    assert min(found) > 1e-3 / len(found), min(found)
    assert stats.kstest(found, "uniform").pvalue > 1e-3, sorted(found)[:5]


@pytest.mark.parametrize("kind", KINDS)
def test_sampled_form_is_unbiased_on_random_games(kind):
    """Fifty games each: |z| < 4 on every coordinate, and no drift over all of them."""
    assert_uniform(p_values(kind, range(50), batches=100, limit=4.0))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_sampled_form_is_unbiased_on_random_games_at_length(kind):
    """Ten times the play. A false alarm in 1 of 1000 runs: about 400 coordinates are tested."""
    limit = stats.norm.isf(1e-3 / 2 / 400)
    assert_uniform(p_values(kind, range(100, 150), batches=1000, limit=limit))


def rooms_case(temperature: float) -> tuple[Game, Tensor]:
    """Penalties on the straight way to the goal, and a little everywhere."""
    game = four_rooms.game(temperature=temperature)
    share = np.random.default_rng(0).dirichlet(np.ones(len(four_rooms.CELLS)))
    design = 0.1 * torch.from_numpy(share)
    for cell in ((3, 5), (3, 6), (3, 7), (2, 8)):
        design[four_rooms.INDEX[cell]] += 0.02
    return game, design


@pytest.mark.parametrize("close", [0.05, 0.25, 0.5])
def test_sampled_form_is_unbiased_on_discrete_toy(close):
    game, point = toy_case(close)
    sample = sampled(game, point, batches=100, streams=4, steps=930, seed=1)
    worst, p = hotelling(both(sample), sample.exact)
    assert worst < 4
    assert p > 1e-3


@pytest.mark.parametrize("temperature", [0.003, 0.005])
def test_sampled_form_is_unbiased_on_four_rooms(temperature):
    """In all cells that are visited often enough for a standard error to be one."""
    game, point = rooms_case(temperature)
    sample = sampled(game, point, batches=150, streams=12, steps=930, seed=2)
    gradients = sample.gradients(*estimators.sampled_trace(sample.evidence, sample.commitment))
    often = sample.evidence.critics.visitation[0, :-1].numpy() > 0.05
    assert often.sum() > 30
    gradients, expected = gradients[:, often], sample.exact[often]
    deviation = gradients.std(0, ddof=1) / len(gradients) ** 0.5
    assert (np.abs(gradients.mean(0) - expected) < 4 * deviation).all()
    planes = np.random.default_rng(3).normal(size=(10, len(expected), 3))
    assert_uniform([hotelling(gradients @ axes, expected @ axes)[1] for axes in planes])


def test_error_falls_with_the_root_of_the_sample_size():
    ratios = []
    for seed in range(12):
        kind = KINDS[seed % 3]
        game, point = random_case(kind, seed)
        errors = []
        for streams in (4, 64):
            sample = sampled(game, point, batches=150, streams=streams, steps=STEPS, seed=seed)
            errors.append(((both(sample) - sample.exact) ** 2).mean() ** 0.5)
        ratios.append(errors[0] / errors[1])
    assert np.median(ratios) == pytest.approx(4, rel=0.1)
    assert min(ratios) > 3
    assert max(ratios) < 5.5


def test_a_baseline_takes_noise():
    """In games that go on, where values are large beside their differences."""
    ratios = []
    for seed in range(12):
        recipe = Recipe(seed=seed, states=4, leader_discount=0.95, follower_discount=0.95)
        game = random_design_game(recipe)
        point = random_designs(game, 1, seed)[0]
        sample = sampled(game, point, batches=100, streams=3, steps=100, seed=seed)
        bare = with_baseline(sample, torch.zeros_like(conditional_means(sample)))
        ratios.append(both(sample).var(0).sum() / bare.var(0).sum())
    assert np.median(ratios) < 0.5


# ---------------------------------------------------------------- the other estimators


def evidence_of(kind: str, seed: int = 0, batches: int = 2) -> Sample:
    game, point = random_case(kind, seed)
    if isinstance(game, Rested):
        game = game.inner
    seen = batches_of_play(game, point, batches=batches, streams=3, steps=100, seed=seed)
    return with_true_critics(game, point, seen)


@pytest.mark.parametrize("kind", KINDS)
def test_exact_oracle_is_the_exact_hypergradient(kind):
    sample = evidence_of(kind)
    found = sample.gradients(*estimators.exact_oracle(sample.learned(), sample.commitment))
    for row in found:
        np.testing.assert_allclose(row, sample.exact, atol=1e-9 * np.abs(sample.exact).max())


@pytest.mark.parametrize("kind", KINDS)
def test_naive_is_the_direct_part_alone(kind):
    sample = evidence_of(kind)
    evidence = sample.learned()
    direct, indirect = estimators.expected_trace(evidence, sample.commitment)
    alone, nothing = estimators.naive(evidence, sample.commitment)
    np.testing.assert_array_equal(sample.gradients(alone), sample.gradients(direct))
    assert nothing.shape == indirect.shape
    assert not nothing.any()
    assert np.abs(sample.gradients(indirect)).max() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_expected_trace_on_the_true_model_is_exact(kind):
    """With the true model in the memory's place nothing is left to err."""
    sample = evidence_of(kind)
    parts = estimators.expected_trace(sample.evidence, sample.commitment)
    scale = np.abs(sample.exact).max()
    for row in sample.gradients(*parts):
        np.testing.assert_allclose(row, sample.exact, atol=1e-9 * scale)
    alone = frozen_gradient(sample)
    for row in sample.gradients(parts[0]):
        np.testing.assert_allclose(row, alone, atol=1e-9 * scale)
    assert np.abs(sample.exact - alone).max() > 1e-3 * scale


@pytest.mark.parametrize("name", ["expected-trace", "sampled-trace", "naive", "exact"])
@pytest.mark.parametrize("kind", KINDS)
def test_estimators_return_two_surrogates_for_each_leader(name, kind):
    sample = evidence_of(kind)
    estimate = estimators.estimator(name, sample.evidence.game)
    assert estimate is estimators.ESTIMATORS[name]
    direct, indirect = estimate(sample.learned(), sample.commitment)
    assert direct.shape == indirect.shape == (2,)
    found = sample.gradients(direct, indirect)
    assert np.isfinite(found).all()
    assert np.abs(found).max() > 0


def test_unknown_estimators_are_refused():
    with pytest.raises(InputError, match="expected-trace, gradient-critic, sampled-trace"):
        estimators.estimator("exakt", evidence_of("observing").evidence.game)


# ---------------------------------------------------------------- expected against sampled trace


def variances(game: Game, point: Tensor, batches: int, seed: int = 0) -> tuple[float, float]:
    """Total variance of (the expected trace on each batch's own model, the sampled trace with true
    critics), from 3 streams of 150 steps."""
    game.horizon = 150
    seen = batches_of_play(game, point, batches=batches, streams=3, steps=150, seed=seed)
    sample = with_true_critics(game, point, seen)
    learned = sample.gradients(*estimators.expected_trace(sample.learned(), sample.commitment))
    summed = sample.gradients(*estimators.sampled_trace(sample.evidence, sample.commitment))
    return learned.var(0).sum(), summed.var(0).sum()


@pytest.mark.parametrize("close", [0.05, 0.1, 0.1665, 0.25])
def test_expected_trace_has_a_hundredth_of_the_variance_on_discrete_toy(close):
    learned, summed = variances(*toy_case(close), batches=200)
    assert learned < summed / 100


@pytest.mark.parametrize("kind", [*KINDS, "moving design"])
def test_expected_trace_has_a_fraction_of_the_variance_on_random_games(kind):
    ratios = []
    for seed in range(15):
        learned, summed = variances(*accuracy_case(kind, seed), batches=60, seed=seed)
        ratios.append(learned / summed)
    assert np.median(ratios) < 1 / 20


@pytest.mark.parametrize("kind", [*KINDS, "moving design"])
def test_the_bias_of_a_learned_model_vanishes(kind):
    """The mean of the plug-in comes closer to the exact hypergradient with more samples."""
    errors = np.zeros((2, 6))
    for seed in range(6):
        game, point = accuracy_case(kind, seed)
        for i, streams in enumerate((1, 40)):
            seen = batches_of_play(game, point, batches=100, streams=streams, steps=60, seed=seed)
            sample = with_true_critics(game, point, seen)
            parts = estimators.expected_trace(sample.learned(), sample.commitment)
            mean = sample.gradients(*parts).mean(0)
            errors[i, seed] = np.linalg.norm(mean - sample.exact) / np.linalg.norm(sample.exact)
    assert np.median(errors[1]) < 0.02
    assert np.median(errors[1] / errors[0]) < 1 / 4
