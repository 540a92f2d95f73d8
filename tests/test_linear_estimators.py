"""Estimators of linear-quadratic games, against central differences of the exact objective."""

import numpy as np
import pytest
from linear_games import design_game, policy_game, sampled

from games import lqr
from stackelberg.errors import InputError
from stackelberg.estimators import estimator, quadratic
from stackelberg.estimators.linear import LINEAR, forward
from stackelberg.estimators.quadratic import LinearSignals, TemporalDifferences, model_forms

GAMES = {
    "observing": policy_game,
    "blind": lambda **given: policy_game(follower_observes_action=False, **given),
    "wide": lambda **given: policy_game(3, 2, 2, **given),
    "design": design_game,
    "wide design": lambda **given: design_game(3, 2, 4, **given),
}
LEARNING = ("expected-trace", "gradient-critic")


def estimates(sample, name, **given):
    direct, indirect = LINEAR[name](sample.evidence(**given), sample.commitment)
    return sample.gradients(direct), sample.gradients(indirect)


def scores(found, exact):
    """How many standard errors the mean of estimates [batches, coordinates] is off."""
    error = found.std(0, ddof=1) / len(found) ** 0.5
    return np.abs(found.mean(0) - exact) / error


@pytest.mark.parametrize("kind", GAMES)
@pytest.mark.parametrize("name", ["sampled-trace", "bc-hg"])
def test_unbiased_with_true_critics(kind, name):
    """200 batches of whole episodes: mean within four standard errors on every coordinate."""
    noise = 1.0 if name == "bc-hg" else 0.3  # scores carry its inverse
    sample = sampled(GAMES[kind](seed=20, noise=noise, horizon=30), 200, 6, 30)
    exact = sample.exact()
    direct, indirect = estimates(sample, name, true=True)
    assert scores(direct + indirect, exact).max() < 4
    if name == "sampled-trace":  # scores of transitions are too noisy to tell
        assert scores(direct, exact).max() > 4  # it is the indirect term that makes it so


@pytest.mark.parametrize(
    ("kind", "level"),
    [
        *((kind, "value") for kind in GAMES),
        ("observing", "trajectories"),
        ("design", "trajectories"),
    ],
)
@pytest.mark.parametrize("name", LEARNING)
def test_exact_in_the_limit(kind, name, level):
    """Every critic learned: nine times the play, a third of the error."""
    errors = []
    for streams in (7, 63):
        sample = sampled(GAMES[kind](seed=20), 25, streams, 20)
        exact = sample.exact()
        found = sum(estimates(sample, name, level=level))
        errors.append(np.linalg.norm(found - exact, axis=1).mean() / np.linalg.norm(exact))
    assert errors[1] < 0.3
    assert 0.2 < errors[1] / errors[0] < 0.5


@pytest.mark.parametrize("kind", GAMES)
def test_forward_is_backward(kind):
    """With true values on one long sample: both terms are those of the oracle."""
    sample = sampled(GAMES[kind](seed=20), 4, 400, 20)
    signals = LinearSignals(sample.evidence(true=True), sample.commitment)
    forms = model_forms(signals.critics)
    found = forward(signals, TemporalDifferences(signals), forms)
    exact = sample.exact()
    assert np.abs(sum(map(sample.gradients, found)) - exact).max() < 0.05 * np.abs(exact).max()


def test_arrival_noise_is_taken_off(monkeypatch):
    """What chance adds to the next state would cost the gradient critic half the error again."""
    sample = sampled(design_game(noise=1.0, seed=20), 20, 30, 20)
    exact, errors = sample.exact(), []
    for enough in (quadratic.ENOUGH, float("inf")):
        monkeypatch.setattr(quadratic, "ENOUGH", enough)
        signals = LinearSignals(sample.evidence(true=True), sample.commitment)
        forms = model_forms(signals.critics)
        found = sum(map(sample.gradients, forward(signals, TemporalDifferences(signals), forms)))
        errors.append(np.linalg.norm(found - exact, axis=1).mean())
    assert errors[0] < 0.67 * errors[1]


def test_naive_has_no_indirect_term():
    sample = sampled(design_game(seed=20), 3, 20, 20)
    direct, indirect = LINEAR["naive"](sample.evidence(), sample.commitment)
    assert not indirect.any()
    whole, _ = LINEAR["expected-trace"](sample.evidence(), sample.commitment)
    np.testing.assert_array_equal(sample.gradients(direct), sample.gradients(whole))


@pytest.mark.parametrize("name", ["gradient-critic", "sampled-trace", "bc-hg"])
def test_a_bump_is_no_quadratic_form(name):
    sample = sampled(lqr.game(leader_std=0.3), 1, 4, 50)
    with pytest.raises(InputError, match=f"quadratic form for {name}; got a bump in 'lqr'"):
        estimator(name, sample.game)(sample.evidence(), sample.commitment)


def test_a_bump_is_climbed_by_the_expected_trace():
    """BilevelLQR, learned from 200 steps: the exact hypergradient in relative precision."""
    sample = sampled(lqr.game(leader_std=0.3), 2, 4, 50)
    found = sum(estimates(sample, "expected-trace"))
    exact = sample.exact()
    np.testing.assert_allclose(found, np.broadcast_to(exact, found.shape), rtol=0.02)
