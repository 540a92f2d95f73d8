"""What is concluded from a follower's actions: its temperature, and how it behaves."""

from copy import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from random_games import accuracy_case, batches_of_play, with_true_critics
from scipy import optimize
from scipy.special import gammaln, logsumexp
from strategies import Recipe, random_game, random_policies
from torch import Tensor

from agents import ExactFollower, TabularSoftmax
from games import discrete_toy
from stackelberg import Coordinator, TrainConfig, exact
from stackelberg.access import restrict
from stackelberg.belief import KEPT, SPARE, STEPS, UNKNOWN, likely_response, likely_temperature
from stackelberg.critics import TabularMemory
from stackelberg.estimators import ESTIMATORS
from stackelberg.game import Game
from stackelberg.model import TabularModel

RECIPE = Recipe(seed=3, states=4, leader_actions=2, follower_actions=3)


def told(model: TabularModel, policy: Tensor, counts: Tensor, guess=1.0, certainty=UNKNOWN):
    """`likely_temperature` with every action tried and one guess for all."""
    numbers = (
        torch.full((len(policy),), float(x), dtype=torch.float64) for x in (guess, certainty)
    )
    return likely_temperature(model, policy, counts, torch.ones_like(counts) > 0, *numbers)


def response_at(model: TabularModel, policy: Tensor, temperature: Tensor | float) -> Tensor:
    return exact.best_response(replace(model, temperature=temperature), policy).policy


# ---------------------------------------------------------------- the temperature


@pytest.mark.parametrize("observes", [True, False])
def test_temperature_of_what_is_expected_is_the_true_one(observes):
    """Every leader's own, from far above to far below the guess."""
    game = random_game(replace(RECIPE, observes=observes))
    policy = random_policies(4, 4, 2)
    true = torch.tensor([0.03, 0.2, 1.0, 30.0], dtype=torch.float64)
    counts = 1e6 * response_at(game.model(), policy, true)
    found, certainty = told(game.model(), policy, counts)
    assert (found / true).log().abs().max() < 1e-3
    assert (certainty > 1e3).all()


@pytest.mark.parametrize("certainty", [UNKNOWN, 100.0])
@pytest.mark.parametrize("seed", range(4))
def test_temperature_is_the_one_that_is_most_likely(seed, certainty):
    """Against a search of one number by SciPy; only what was tried is told apart."""
    game = random_game(replace(RECIPE, seed=seed))
    policy = random_policies(1, 4, 2, seed=seed)
    draw = np.random.default_rng(seed)
    chances = response_at(game.model(), policy, 0.4)[0].numpy()
    counts = torch.from_numpy(draw.multinomial(12, chances).astype(float))[None]
    tried = counts > 0
    guess = torch.tensor([0.5], dtype=torch.float64)

    def loss(x: float) -> float:
        chance = torch.where(tried, response_at(game.model(), policy, float(np.exp(x))), 0.0)
        chance = (chance / chance.sum(-1, keepdim=True)).clamp(min=1e-300)
        return 0.5 * certainty * (x - np.log(0.5)) ** 2 - (counts * chance.log()).sum().item()

    best = min(
        (optimize.minimize_scalar(loss, bounds=(x - 1, x + 1), method="bounded") for x in (-2, 0)),
        key=lambda one: one.fun,
    )
    found, curvature = likely_temperature(
        game.model(), policy, counts, tried, guess, torch.full_like(guess, certainty)
    )
    assert found.log().item() == pytest.approx(best.x, abs=2e-3)
    h = 0.05
    bend = (loss(best.x + h) + loss(best.x - h) - 2 * loss(best.x)) / h**2 - certainty
    assert curvature.item() == pytest.approx(bend, rel=0.1, abs=0.1)


def test_certainty_is_the_spread_of_estimates():
    """1 / variance of log beta over independent batches of 2,400 actions."""
    game = random_game(RECIPE)
    policy = random_policies(1, 4, 2).expand(200, -1, -1)
    chances = response_at(game.model(), policy[:1], 0.4)[0].numpy()
    counts = np.random.default_rng(0).multinomial(300, chances, size=(200, 4, 2)).astype(float)
    found, certainty = told(game.model(), policy, torch.from_numpy(counts))
    error = (found / 0.4).log()
    assert abs(error.mean()) < 4 * error.std() / 200**0.5
    assert error.std().item() == pytest.approx(certainty.mean().rsqrt().item(), rel=0.2)


def test_temperature_stays_where_nothing_tells_it():
    """Equal rewards, or one action in every row: at the guess, which is then as sure as before."""
    model = random_game(RECIPE).model()
    policy = random_policies(2, 4, 2)
    even = torch.full((2, 4, 2, 3), 7.0, dtype=torch.float64)
    indifferent = replace(model, follower_reward=torch.zeros_like(model.follower_reward))
    found, certainty = told(indifferent, policy, even, guess=0.7)
    torch.testing.assert_close(found, torch.full_like(found, 0.7))
    assert certainty.max() < 1e-6

    sure = torch.zeros_like(even)
    sure[..., 1] = 100
    guess, unsure = torch.full_like(found, 0.7), torch.full_like(found, UNKNOWN)
    found, certainty = likely_temperature(model, policy, sure, sure > 0, guess, unsure)
    torch.testing.assert_close(found, guess)
    assert certainty.max() < 1e-6


def test_temperature_of_sure_choices_is_bounded():
    """The best of three every time: any small temperature would do, none above some height."""
    model = random_game(RECIPE).model()
    policy = random_policies(1, 4, 2)
    chance = response_at(model, policy, 1e-3)
    found, certainty = told(model, policy, 1000 * (chance > 0.5).double(), guess=3.0)
    assert 1e-3 < found.item() < 0.5
    assert 0 <= certainty.item() < 50


def test_a_certain_guess_outweighs_few_actions():
    model = random_game(RECIPE).model()
    policy = random_policies(1, 4, 2)
    counts = 5 * response_at(model, policy, 0.2)
    loose, firm = (told(model, policy, counts, 1.0, c)[0].item() for c in (UNKNOWN, 1e4))
    assert loose == pytest.approx(0.2, rel=0.05)
    assert firm == pytest.approx(1.0, rel=0.05)


# ---------------------------------------------------------------- in a memory


def test_the_estimate_uses_the_policy_where_it_may_be_seen():
    """From the same play, at access `policy` without the noise of the actions drawn."""
    errors = {}
    for access in ("trajectories", "policy", "value"):
        errors[access] = []
        for seed in range(6):
            game, point = accuracy_case("observing", 3 * seed + 2)  # nothing hides the rewards
            game.horizon = 50
            seen = batches_of_play(game, point, batches=8, streams=90, steps=50, seed=seed)
            sample = with_true_critics(game, point, seen)
            memory = TabularMemory(game, 8, estimate_temperature=True)
            memory.update(seen)
            follower = restrict(sample.evidence.follower._response, access)
            memory.critics(sample.evidence.commitment, follower, seen)
            errors[access].append((memory.temperature / game.temperature).log())
    sizes = {access: np.median(np.abs(np.stack(found))) for access, found in errors.items()}
    assert sizes["trajectories"] < 0.2
    assert sizes["policy"] < 0.5 * sizes["trajectories"]
    assert sizes["value"] == sizes["policy"]


def test_asking_twice_tells_nothing_more():
    game, point = accuracy_case("observing", 2)
    seen = batches_of_play(game, point, batches=3, streams=3, steps=50)
    sample = with_true_critics(game, point, seen)
    memory = TabularMemory(game, 3, estimate_temperature=True)
    follower = restrict(sample.evidence.follower._response, "trajectories")
    before = torch.zeros(3)
    for _ in range(2):
        memory.update(seen)
        known = []
        for _ in range(2):
            memory.critics(sample.evidence.commitment, follower, seen)
            known.append((memory.temperature, memory.certainty))
        torch.testing.assert_close(*known)
        assert (memory.certainty > before).all()
        before = memory.certainty


@pytest.mark.parametrize("kind", ["observing", "blind", "design", "moving design"])
def test_leaders_with_temperatures_of_their_own(kind):
    """Two leaders that take it to be so estimate what each would in a game of that temperature."""
    game, point = accuracy_case(kind, 1)
    game.horizon = 30
    seen = batches_of_play(game, point, batches=2, streams=4, steps=30)
    temperatures = (0.2, 0.9)

    def gradients(game: Game, rows: slice, believed: Tensor | None = None) -> dict:
        part = seen.map(lambda x: x[rows])
        sample = with_true_critics(game, point, part)
        memory = TabularMemory(game, len(part.time))
        memory.update(part)
        if believed is not None:
            memory.temperature = believed
        follower = restrict(sample.evidence.follower._response, "trajectories")
        evidence = replace(sample.evidence, memory=memory, follower=follower)
        names = ["expected-trace", "gradient-critic", "sampled-trace", "gae", "hpgd-sarsa"]
        if kind == "design":
            names += ["sobirl", "sobirl-modified"]
        return {
            name: sample.gradients(*ESTIMATORS[name](evidence, sample.commitment)) for name in names
        }

    both = gradients(game, slice(0, 2), torch.tensor(temperatures, dtype=torch.float64))
    for m, temperature in enumerate(temperatures):
        own = copy(game)
        own.temperature, own._model = temperature, replace(game._model, temperature=temperature)
        alone = gradients(own, slice(m, m + 1))
        for name, found in both.items():
            np.testing.assert_allclose(
                found[m], alone[name][0], rtol=1e-9, atol=1e-10, err_msg=name
            )


@pytest.mark.parametrize("access", ["trajectories", "value"])
def test_training_finds_the_temperature_and_the_optimum(access):
    game = discrete_toy.game()
    config = TrainConfig(iterations=30, access=access, estimate_temperature=True)
    seeds = range(4)
    result = Coordinator(
        game, TabularSoftmax(3, 2, seeds), ExactFollower(), config, seeds=seeds
    ).run()
    found = np.array([row["temperature"] for row in result.metrics])
    assert found.shape == (30, 4)
    assert np.abs(np.log(found[-1] / game.temperature)).max() < 0.3
    assert min(result.summary["leader_return"]["exact"]) > 0.99 * game.optimum
    assert game.temperature == 0.05
    known = Coordinator(
        game, TabularSoftmax(3, 2), ExactFollower(), TrainConfig(iterations=1)
    ).run()
    assert "temperature" not in known.metrics[0]


def test_a_model_based_leader_may_estimate_the_temperature():
    """At access `value` it then takes followers' values for no evidence of transitions."""
    game = discrete_toy.game()
    config = TrainConfig(iterations=3, estimator="model-based", estimate_temperature=True)
    coordinator = Coordinator(game, TabularSoftmax(3, 2), ExactFollower(), config)
    result = coordinator.run()
    assert result.metrics[-1]["temperature"] == pytest.approx(0.05, rel=0.3)
    assert coordinator.memory.revealed is None


# ---------------------------------------------------------------- the response


def rows_of(count: int, actions: int = 3, seed: int = 0) -> Tensor:
    """Predictions [1, count, 1, actions]."""
    draw = np.random.default_rng(seed)
    return torch.from_numpy(draw.dirichlet(np.ones(actions), (1, count, 1)))


def drawn(chances: Tensor, number: int, seed: int = 1) -> Tensor:
    found = np.random.default_rng(seed).multinomial(number, chances.numpy())
    return torch.from_numpy(found.astype(float))


def divergence(true: Tensor, found: Tensor) -> float:
    """Mean KL in nats over rows."""
    return torch.special.entr(true).sum(-1).neg().sub((true * found.log()).sum(-1)).mean().item()


def in_loops(predicted: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """`likely_response` of one leader, rows [R, B], from its formula."""
    rows = range(len(predicted))
    likelihood = np.array(
        [
            [
                gammaln(k)
                - gammaln(k + counts[r].sum())
                + (gammaln(k * predicted[r] + counts[r]) - gammaln(k * predicted[r])).sum()
                for k in KEPT
            ]
            for r in rows
        ]
    )
    been = [r for r in rows if counts[r].sum()]
    spare = np.array([SPARE[0]] * (len(KEPT) - 1) + [SPARE[1]])
    common = spare / spare.sum()

    def shares(r: int) -> np.ndarray:
        posterior = likelihood[r] + np.log(common)
        return np.exp(posterior - logsumexp(posterior))

    for _ in range(STEPS):
        total = spare + sum(shares(r) for r in been)
        common = total / total.sum()
    return np.array(
        [
            sum(
                share * (counts[r] + k * predicted[r]) / (counts[r].sum() + k)
                for share, k in zip(shares(r), KEPT, strict=True)
            )
            for r in rows
        ]
    )


def test_response_is_its_formula():
    predicted = torch.cat([rows_of(6, seed=1), rows_of(6, seed=2)])
    counts = torch.cat([drawn(predicted[:1], 9), drawn(rows_of(6, seed=5), 40)])
    counts[:, 2] = 0
    found = likely_response(predicted, counts)
    for m in range(2):
        expected = in_loops(predicted[m, :, 0].numpy(), counts[m, :, 0].numpy())
        np.testing.assert_allclose(found[m, :, 0], expected, rtol=1e-9)


@pytest.mark.parametrize("number", [5, 50, 500])
def test_a_follower_that_does_as_predicted_is_believed_to(number):
    """Far nearer to it than the frequencies are, with all rows' actions as evidence."""
    true = rows_of(60)
    found = likely_response(true, drawn(true, number))
    assert divergence(true, found) < 0.1 * (true.shape[-1] - 1) / (2 * number)


@pytest.mark.parametrize("number", [50, 500])
def test_a_follower_with_a_rule_of_its_own_is_known_by_what_it_does(number):
    """Nearly as near as the frequencies, where the prediction is worthless."""
    true, predicted = rows_of(60), rows_of(60, seed=7)
    counts = drawn(true, number)
    frequencies = (counts + 0.5) / (number + 1.5)
    found = likely_response(predicted, counts)
    assert divergence(true, found) < 2 * divergence(true, frequencies)
    assert divergence(true, found) < 0.1 * divergence(true, predicted)


def test_leaders_are_believed_apart():
    """One follower does as predicted, the other does not: each is judged by its own actions."""
    predicted = rows_of(30).expand(2, -1, -1, -1)
    counts = torch.cat([drawn(predicted[:1], 20), drawn(rows_of(30, seed=7), 20)])
    both = likely_response(predicted, counts)
    for m in range(2):
        torch.testing.assert_close(
            both[m : m + 1], likely_response(predicted[m : m + 1], counts[m : m + 1])
        )


@pytest.mark.parametrize("steps", [100, 2000])
def test_an_impossible_action_is_learned_of(steps):
    """One that prediction rules out to the last digit."""
    predicted = torch.tensor([1.0, 0.0], dtype=torch.float64).expand(1, 4, 1, 2)
    counts = torch.tensor([0.0, steps], dtype=torch.float64).expand(1, 4, 1, 2)
    found = likely_response(predicted, counts)
    assert torch.isfinite(found).all()
    assert (found[..., 1] > 0.9).all()
