"""Generalised advantage estimates of both players: every path listed, cuts and restarts."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from random_games import Sample, layered_game, paths_of, start_term, with_true_critics

from stackelberg import InputError, TrainConfig, estimators
from stackelberg.estimators.signals import Signals
from stackelberg.rollout import Trajectories

KINDS = ("observing", "blind", "design")
LAMBDAS = (0.0, 0.5, 0.95, 1.0)


def listed(kind: str, seed: int, change=lambda seen: seen) -> tuple[Sample, np.ndarray]:
    """A sample in which batch i is path i, `change`d, and the paths' probabilities."""
    game, point = layered_game(kind, seed)
    paths = paths_of(game, point)
    return with_true_critics(game, point, change(paths.trajectories)), paths.chance


def by(sample: Sample, estimator, gae_lambda: float = 0.95) -> np.ndarray:
    """An estimator's gradients [M, coordinates], a moved start included."""
    evidence = replace(sample.evidence, gae_lambda=gae_lambda)
    evidence.__dict__["critics"] = sample.evidence.critics
    parts = estimator(evidence, sample.commitment)
    if evidence.game.leader_moves == "once":
        parts = (*parts, start_term(sample))
    return sample.gradients(*parts)


@pytest.mark.parametrize("gae_lambda", LAMBDAS)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_with_true_values_any_lambda_is_unbiased_to_the_last_digit(kind, seed, gae_lambda):
    sample, chance = listed(kind, seed)
    found = chance @ by(sample, estimators.gae, gae_lambda)
    np.testing.assert_allclose(found, sample.exact, atol=1e-9 * np.abs(sample.exact).max())


@pytest.mark.parametrize("kind", KINDS)
def test_lambda_matters_path_by_path(kind):
    sample, _ = listed(kind, 0)
    found = [by(sample, estimators.gae, gae_lambda) for gae_lambda in (0.0, 1.0)]
    assert np.abs(found[0] - found[1]).max() > 0.1 * np.abs(sample.exact).max()


def cut(seen: Trajectories, steps: int) -> Trajectories:
    """The first steps alone."""
    return seen.map(lambda part: part[..., :steps])


@pytest.mark.parametrize("gae_lambda", LAMBDAS)
@pytest.mark.parametrize("kind", KINDS)
def test_where_a_stream_is_cut_the_values_stand_for_the_rest(kind, gae_lambda):
    """In the mean the cut sum is that of the tables' own advantages."""
    sample, chance = listed(kind, 1, lambda seen: cut(seen, 2))
    expected = chance @ by(sample, estimators.sampled_trace)
    found = chance @ by(sample, estimators.gae, gae_lambda)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, atol=1e-9 * scale)
    assert np.abs(expected - sample.exact).max() > 0.01 * scale


@pytest.mark.parametrize("gae_lambda", LAMBDAS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [2, 3])
def test_episodes_of_a_stream_do_not_touch_each_other(kind, gae_lambda, steps):
    """Two in a row, the first cut by a time limit or ended, have the mean of their gradients."""
    order = None

    def doubled(seen: Trajectories) -> Trajectories:
        nonlocal order
        first = cut(seen, steps)
        order = torch.from_numpy(np.random.default_rng(0).permutation(len(seen.time)))
        return first.map(lambda part: torch.cat([part, part[order]], -1))

    alone = by(listed(kind, 2, lambda seen: cut(seen, steps))[0], estimators.gae, gae_lambda)
    both = by(listed(kind, 2, doubled)[0], estimators.gae, gae_lambda)
    np.testing.assert_allclose(both, (alone + alone[order]) / 2, atol=1e-10)


@pytest.mark.parametrize("gae_lambda", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_advantages_are_mixed_returns_less_the_value(kind, gae_lambda):
    """A_k = (1 - lambda) sum_n lambda^(n-1) G_k^(n) - V(s_k), the last G to the cut or the end."""
    sample, _ = listed(kind, 4, lambda seen: cut(seen, 2))
    evidence, seen = sample.evidence, sample.evidence.trajectories
    game, critics = evidence.game, evidence.critics
    m = torch.arange(len(seen.time))[:, None, None]
    cell = (m, seen.state, seen.leader_action, seen.follower_action)
    told = seen.follower_reward - game.temperature * critics.response[cell].log()
    advantages, tails = [], []
    for reward, value, gamma in (
        (seen.leader_reward, critics.leader_state_value, game.leader_discount),
        (told, critics.follower_state_value, game.follower_discount),
    ):
        after = torch.where(seen.terminated, 0.0, value[m, seen.next_state])
        short = reward + gamma * after  # G^(1), at both steps
        long = reward[..., 0] + gamma * (reward[..., 1] + gamma * after[..., 1])  # G^(2) at first
        ended = seen.terminated[..., 0]
        first = torch.where(
            ended, short[..., 0], (1 - gae_lambda) * short[..., 0] + gae_lambda * long
        )
        advantages.append(torch.stack([first, short[..., 1]], -1) - value[m, seen.state])
        ahead = gae_lambda * (short[..., 1] - value[m, seen.state][..., 1]) * ~ended
        tails.append(torch.stack([ahead, torch.zeros_like(ahead)], -1))
    signals = Signals(evidence, sample.commitment)
    weight = signals.discounts
    weights = weight, signals.trace(weight * signals.benefits) / game.temperature
    if kind == "design":
        terms = zip(("leader", "follower"), weights, tails, strict=True)
        parts = [signals.design(*term) for term in terms]
        parts.append(start_term(sample))
    else:
        terms = zip(weights, advantages, strict=True)
        parts = [signals.score(w * a) for w, a in terms]
    found = by(sample, estimators.gae, gae_lambda)
    np.testing.assert_allclose(found, sample.gradients(*parts), atol=1e-10)


def test_an_unlikely_choice_of_the_follower_adds_no_noise():
    """The surprise in place of the entropy: given s and a, delta^F varies with s' alone."""
    sample, _ = listed("observing", 0)
    critics, game = sample.evidence.critics, sample.evidence.game
    model = game.model()
    told = model.follower_reward - game.temperature * critics.response[0].log()
    told = told + game.follower_discount * model.transition @ critics.follower_state_value[0]
    torch.testing.assert_close(told, critics.follower_value[0].unsqueeze(-1).expand(told.shape))


@pytest.mark.parametrize("bad", [-0.1, 1.1, float("nan")])
def test_lambda_is_in_the_unit_interval(bad):
    with pytest.raises(InputError, match=r"expected gae_lambda in \[0, 1\]; got .*; use"):
        TrainConfig(gae_lambda=bad)
