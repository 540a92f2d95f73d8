"""Linear-quadratic games learned from play, against the true matrices."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from linear_games import design_game, normal, policy_game, same_leaders, sampled

from agents import ExactFollower
from agents.leaders import default_leader
from games import lqr
from stackelberg import Coordinator, TrainConfig, linear
from stackelberg.access import restrict
from stackelberg.coordinator import memory_of
from stackelberg.linear_model import LinearAnswer, linear_policy
from stackelberg.regression import LinearMemory, Regression, forms_of, pairs_of
from stackelberg.rollout import play
from stackelberg.types import commit

KINDS = {"policy": policy_game, "design": design_game}
MATRICES = ("transition", "leader_cost", "follower_cost")


def close(found, true, tolerance=1e-4):
    scale = 1 + true.abs().max().item()
    torch.testing.assert_close(found, true.expand(found.shape), rtol=0, atol=tolerance * scale)


@settings(max_examples=25, deadline=None)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 2), st.integers(1, 2)),
    seed=st.integers(0, 10**6),
)
def test_matrices_are_recovered(kind, sizes, seed):
    """Without noise to the precision of observations, whatever the game."""
    states, ours, theirs = sizes
    if kind == "policy":
        game = policy_game(states, ours, theirs, seed, noise=0.0, leader_std=1.0)
    else:
        game = design_game(states, theirs, ours, seed, noise=0.0)
    sample = sampled(game, 2, 60, 4, seed)
    model = sample.memory.model(sample.commitment.detach())
    for name in MATRICES:
        close(getattr(model, name), getattr(sample.true, name).detach(), 1e-3)
    assert model.noise.abs().max() < 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_noisy_matrices_are_recovered(kind):
    """Every entry of 200 leaders' transitions within statistical error, and the noise."""
    sample = sampled(KINDS[kind](seed=5), 200, 20, 10)
    model, true = sample.memory.model(sample.commitment.detach()), sample.true.detach()
    for name in ("transition", "noise", "initial_mean", "initial_covariance"):
        found, expected = getattr(model, name), getattr(true, name)
        expected = expected[0] if expected.dim() > len(found.shape[1:]) else expected
        if name == "initial_covariance":
            expected = expected * 19 / 20  # of the greatest likelihood, around the mean of 20
        error = found.std(0) / len(found) ** 0.5
        assert ((found.mean(0) - expected).abs() < 4.5 * error).all(), name
        assert error.max() < 0.2
    for name in ("leader_cost", "follower_cost"):
        close(getattr(model, name), getattr(true, name), 1e-3)


def test_old_play_counts_under_a_new_design():
    """Batches of several designs together tell of each; the derivative is the known one."""
    game = design_game(noise=0.0, seed=3)
    leader = default_leader(game, range(2))
    memory = LinearMemory(game, 2)
    for seed in range(3):
        with torch.no_grad():
            for leaf in leader.parameters():
                leaf.copy_(normal(*leaf.shape, seed=seed))
        fixed = commit(game, leader).detach()
        answer = ExactFollower().best_respond(game, fixed, [0, 0])
        noise = [np.random.default_rng([m, seed]) for m in range(2)]
        memory.update(play(game, fixed, answer, streams=8, steps=5, generators=noise))
    attached = commit(game, leader)
    model, true = memory.model(attached), game.matrices(attached.design)
    for name in MATRICES:
        found, expected = getattr(model, name), getattr(true, name)
        close(found.detach(), expected.detach(), 1e-3)
        weights = normal(*found.shape, seed=9)
        leaves = list(leader.parameters())
        slopes = [
            torch.autograd.grad((x * weights).sum(), leaves, retain_graph=True)[0]
            for x in (found, expected)
        ]
        torch.testing.assert_close(*slopes)
        assert slopes[0].abs().max() > 1e-3


def test_a_bump_is_learned_by_its_logarithm():
    """BilevelLQR with a lively leader: the bump's form and height, from 200 steps."""
    sample = sampled(lqr.game(leader_std=1.0), 2, 4, 50)
    model, true = sample.memory.model(sample.commitment.detach()), sample.true
    form, expected = model.bump.mT @ model.bump, true.bump.mT @ true.bump
    close(form, expected, 1e-4)
    torch.testing.assert_close(model.height, torch.ones(2).double(), rtol=1e-2, atol=0)
    assert not model.leader_cost.any()
    quadratic = sampled(lqr.game(width=None, leader_Q=np.eye(2), leader_std=1.0), 2, 4, 50)
    model = quadratic.memory.model(quadratic.commitment.detach())
    assert model.bump is None
    close(model.leader_cost, quadratic.true.leader_cost)


@pytest.mark.parametrize("width", [(0.2, 0.01), None])
def test_directions_without_play_do_not_blow_up(width):
    """A leader of noise 0.001 and no constant: what it does next is still foretold."""
    options = {} if width else {"leader_Q": np.eye(2)}
    game = lqr.game(width=width, **options)
    for steps in (3, 12, 100):
        sample = sampled(game, 3, 1, steps, leader=same_leaders(game, 3, size=0.7))
        critics = sample.evidence().critics
        for part in vars(critics.model).values():
            if isinstance(part, torch.Tensor):
                assert torch.isfinite(part).all()
                assert part.abs().max() < 1e6
    exact = linear.leader_return(sample.true, sample.policy, sample.response.answer)
    torch.testing.assert_close(critics.objective, exact.detach(), rtol=2e-2, atol=0)


@pytest.mark.parametrize("kind", ["policy", "blind", "design"])
def test_behaviour_is_shown_or_estimated(kind):
    options = {"follower_observes_action": False} if kind == "blind" else {}
    game = KINDS["policy" if kind == "blind" else kind](seed=5, **options)
    errors = []
    for streams in (4, 400):
        sample = sampled(game, 10, streams, 10)
        shown, seen = (sample.evidence(x).critics.answer for x in ("policy", "trajectories"))
        for found, true in zip(shown, sample.response.answer, strict=True):
            torch.testing.assert_close(found, true)
        errors.append((seen.gain - shown.gain).abs().mean().item())
        if kind == "blind":
            assert not seen.gain[..., 1 + 2 :].any()
    assert errors[1] < min(0.02, errors[0])
    close(seen.covariance, shown.covariance, 0.02)


def test_behaviour_follows_what_is_seen():
    """Followers that do otherwise than predicted are believed, as they are seen more."""
    game = policy_game(seed=5)
    sample = sampled(game, 2, 1, 1)
    found = sample.response.found
    other = LinearAnswer(found.answer.gain + 0.5, 2 * found.answer.covariance)
    response = type(sample.response)(found._replace(answer=other))
    noise = [np.random.default_rng(m) for m in range(2)]
    fixed = sample.commitment.detach()
    seen = play(game, fixed, response, streams=200, steps=20, generators=noise)
    sample.memory.update(seen)
    learned = sample.memory.critics(fixed, restrict(response, "trajectories"), seen).answer
    close(learned.gain, other.gain, 0.03)
    close(learned.covariance, other.covariance, 0.03)
    sample.memory.update(seen, own=False)
    assert sample.memory.behaviour.rows[0] == 4000


@pytest.mark.parametrize("level", ["policy", "trajectories"])
@pytest.mark.parametrize("kind", KINDS)
def test_temperature_is_estimated(kind, level):
    sample = sampled(KINDS[kind](seed=5, temperature=0.37), 10, 100, 20)
    memory = memory_of(sample.game, range(10), estimate_temperature=True)
    memory.update(sample.seen)
    critics = memory.critics(
        sample.commitment.detach(), restrict(sample.response, level), sample.seen
    )
    spread = 0.03 if level == "trajectories" else 0.01
    torch.testing.assert_close(memory.temperature, critics.model.temperature)
    np.testing.assert_allclose(memory.temperature, 0.37, rtol=5 * spread)
    np.testing.assert_allclose(memory.temperature.mean(), 0.37, rtol=2 * spread)


def test_leaders_do_not_mix_and_go_on_from_a_state():
    first = sampled(policy_game(seed=5), 3, 3, 10)
    again = sampled(policy_game(seed=5), 3, 3, 10, seed=1)
    both = LinearMemory(first.game, 3)
    for part in (first, again):
        both.update(part.seen)
    loaded = LinearMemory(first.game, 3)
    loaded.load({name: value.clone() for name, value in first.memory.state().items()})
    loaded.update(again.seen)
    alone = first.memory.of(1)
    fixed = first.commitment.detach()
    for name in MATRICES:
        one, two = (getattr(memory.model(fixed), name) for memory in (both, loaded))
        torch.testing.assert_close(one, two, rtol=0, atol=0)
        mine = getattr(alone.model(fixed), name)[0]
        torch.testing.assert_close(mine, getattr(first.memory.model(fixed), name)[1])
        assert not torch.equal(one[0], one[1])


def test_least_squares_of_least_norm():
    """As numpy has it, batch after batch; collinear features share. There is hardly any noise."""
    x = normal(50, 3, seed=1)
    y = x @ normal(3, 2, seed=2) + 1e-6 * normal(50, 2, seed=3)
    x = torch.cat([x, x[:, :1]], 1)
    regression = Regression(1, 4, 2)
    for rows in (slice(0, 7), slice(7, 50)):
        regression.add(x[None, rows], y[None, rows])
    fit = regression.solve()
    expected = np.linalg.lstsq(x.numpy(), y.numpy(), rcond=1e-10)[0]
    np.testing.assert_allclose(fit.weights[0], expected, atol=1e-10)
    missed = y - x @ fit.weights[0]
    torch.testing.assert_close(fit.residual[0], missed.mT @ missed)
    assert fit.rank.tolist() == [3]
    z, weights = normal(5, 4, seed=3), normal(10, seed=4)
    value = ((z @ forms_of(weights)) * z).sum(-1)
    torch.testing.assert_close(value, pairs_of(z) @ weights)


@pytest.mark.parametrize("kind", KINDS)
def test_training_resumes(kind, tmp_path):
    """An interrupted run ends where an uninterrupted one does, and climbs."""
    ends = []
    for name, cuts in (("whole", (6,)), ("resumed", (2, 6))):
        for iterations in cuts:
            game = KINDS[kind](seed=5)
            leader = same_leaders(game, 2)
            Coordinator(
                game,
                leader,
                ExactFollower(),
                TrainConfig(iterations=iterations, steps=20, evaluation_episodes=2),
                seeds=(0, 1),
                out=tmp_path / name,
                resume=iterations == 6 and name == "resumed",
            ).run()
        ends.append([p.detach().clone() for p in leader.parameters()])
    with torch.no_grad():
        before, after = (
            linear.objective(game.matrices(c.design), linear_policy(2, 2, c.box))
            for c in (commit(game, same_leaders(game, 2)), commit(game, leader))
        )
    assert (after > before).all()
    torch.testing.assert_close(*ends, rtol=0, atol=0)
