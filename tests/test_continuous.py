"""Learned critics where actions lie in a Box, and the hypergradients they make, against solutions.

The games of tests/pull.py are linear-quadratic, which nobody is told.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from box_games import Aim
from gymnasium import spaces
from pull import Odds, Pull, PullChoice, PullDesign, PullFollower, PullScored, moments
from torch import Tensor, nn

from agents import FreeDesign, LinearGaussian, MLPDeterministic, MLPGaussian
from stackelberg import Coordinator, TrainConfig, continuous
from stackelberg.access import restrict
from stackelberg.box_features import nodes, quadratic
from stackelberg.continuous import BoxMemory
from stackelberg.coordinator import memory_of
from stackelberg.critics import Memory
from stackelberg.errors import InputError
from stackelberg.estimators import Evidence, estimator
from stackelberg.estimators.box import BOX, agreement
from stackelberg.game import Game, Step
from stackelberg.rollout import play
from stackelberg.types import Commitment, commit

SEEDS = (0, 1)
SLOW = pytest.mark.slow
STREAMS, STEPS = 40, 50


def linear(seeds=SEEDS) -> LinearGaussian:
    return LinearGaussian(1, 1, seeds, 0.5, noise=0.3)


def design(seeds=SEEDS) -> FreeDesign:
    return FreeDesign(2, seeds, 0.5)


CASES = {
    "observed": (Pull, linear),
    "not observed": (lambda: Pull(follower_observes_action=False), linear),
    "choice": (PullChoice, Odds),
    "choice not observed": (lambda: PullChoice(follower_observes_action=False), Odds),
    "design": (PullDesign, design),
    "scored design": (PullScored, design),
}


def evidence(
    game: Pull, leader: nn.Module, access="trajectories", streams=STREAMS
) -> tuple[Evidence, Commitment]:
    """Of one batch against the known answer."""
    committed = commit(game, leader).detach()
    response = PullFollower(leader).best_respond(game, committed, SEEDS)
    rng = [np.random.default_rng([seed, 7]) for seed in SEEDS]
    seen = play(game, committed, response, streams=streams, steps=STEPS, generators=rng)
    memory = BoxMemory(game, SEEDS)
    memory.update(seen)
    attached = commit(game, leader, seen.points.leader)
    found = Evidence(
        game=game,
        leader=leader,
        commitment=committed._replace(policy=attached.policy.detach()),
        follower=restrict(response, access),
        trajectories=seen,
        memory=memory,
    )
    return found, attached


def gradient(value: Tensor, leader: nn.Module) -> Tensor:
    """[M, parameters]."""
    found = torch.autograd.grad(value.sum(), list(leader.parameters()), retain_graph=True)
    return torch.cat([g.flatten(1) for g in found], 1)


def truth(game: Pull, leader: nn.Module) -> tuple[Tensor, Tensor]:
    """Direct and indirect part of the hypergradient."""
    direct = gradient(game.solution(*moments(leader), fixed=True).objective, leader)
    return direct, gradient(game.solution(*moments(leader)).objective, leader) - direct


def cosine(found: Tensor, expected: Tensor) -> Tensor:
    return torch.nn.functional.cosine_similarity(found, expected)


def test_the_solution_is_what_play_brings():
    game, leader = Pull(horizon=100), linear()
    known = game.solution(*moments(leader))
    found = PullFollower(leader).best_respond(game, commit(game, leader), SEEDS)
    rng = [np.random.default_rng([seed]) for seed in SEEDS]
    seen = play(game, commit(game, leader), found, streams=1000, steps=100, generators=rng)
    returns = seen.first_returns(seen.leader_reward, 0.9)
    error = returns.std(1) / 1000**0.5
    assert ((returns.mean(1) - known.objective).abs() <= 4 * error).all()


# ---------------------------------------------------------------- hypergradients


@pytest.mark.parametrize("kind", sorted(CASES))
def test_hypergradients_are_the_exact_ones(kind):
    """From 2,000 steps: the direction of both parts, and their sum, which nearly cancels for some.

    The naive leader, without the indirect part, is off by a third of the parts' lengths and more.
    """
    make, lead = CASES[kind]
    game, leader = make(), lead(SEEDS)
    expected, given = truth(game, leader), evidence(game, leader)
    size = sum(part.norm(dim=1) for part in expected)
    for name in ("expected-trace", "gradient-critic"):
        found = [gradient(part, leader) for part in BOX[name](*given)]
        for part, exact in zip(found, expected, strict=True):
            assert (cosine(part, exact) > 0.9).all()
        assert ((sum(found) - sum(expected)).norm(dim=1) < 0.2 * size).all()
    assert (expected[1].norm(dim=1) > 0.25 * size).all()


def test_followers_that_look_ahead_less_are_moved_less():
    game, leader = Pull(follower_discount=0.5), linear()
    exact, given = truth(game, leader)[1], evidence(game, leader)
    for name in ("expected-trace", "gradient-critic"):
        ratio = gradient(BOX[name](*given)[1], leader).norm(dim=1) / exact.norm(dim=1)
        assert ((ratio > 0.7) & (ratio < 1.4)).all()


def test_the_forward_form_is_that_of_an_explicit_vector_critic():
    """H = phi' W by least-squares TD on d V_F / d gains, and drive' W / beta."""
    game, leader = Pull(), linear()
    found, attached = evidence(game, leader, streams=4)
    critics, taken = found.critics, 4 * STEPS
    action, chance = critics.memory.moves(found.commitment, critics.here)
    action.requires_grad_()
    value = critics.grid(action).value[1]
    (slope,) = torch.autograd.grad((chance * value).sum(), action)
    observed = found.trajectories.points.leader[:, :taken]
    row = torch.cat([torch.ones_like(observed), observed], -1).double()
    signal = slope.sum((2, 3)).unsqueeze(-1) * row  # [M, N T, 2]
    here, there = critics.features[:, :taken], critics.features[:, taken:]
    system = here.mT @ (here - game.follower_discount * there)
    size = continuous.SETTINGS.ridge * here.square().mean((1, 2)) * taken
    system = system + size[:, None, None] * torch.eye(here.shape[-1]).double()
    weights = torch.linalg.solve(system, here.mT @ signal)
    expected = (critics.drive.unsqueeze(1) @ weights).squeeze(1) / game.temperature
    got = gradient(BOX["gradient-critic"](found, attached)[1], leader)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("access", ["policy", "value"])
def test_access_shows_the_followers_own(access):
    game, leader = Pull(), linear()
    found, attached = evidence(game, leader, access)
    direct, indirect = BOX["expected-trace"](found, attached)
    for part, exact in zip((direct, indirect), truth(game, leader), strict=True):
        assert (cosine(gradient(part, leader), exact) > 0.9).all()
    if access == "value":  # and the value is the very one
        action = torch.zeros(len(SEEDS), STREAMS * STEPS, 1, 1, dtype=torch.float64)
        seen = found.trajectories.points.follower[:, : STREAMS * STEPS]
        shown = found.follower.value(seen, action.squeeze(2))
        torch.testing.assert_close(found.critics.grid(action).value[1].squeeze(-1), shown)


def test_naive_is_the_direct_term_and_the_sampled_trace_has_the_same():
    game, leader = Pull(), linear()
    found, attached = evidence(game, leader)
    direct, _ = BOX["expected-trace"](found, attached)
    for name in ("naive", "sampled-trace"):
        torch.testing.assert_close(BOX[name](found, attached)[0], direct)
    assert (BOX["naive"](found, attached)[1] == 0).all()
    sampled = gradient(BOX["sampled-trace"](found, attached)[1], leader)
    assert (cosine(sampled, truth(game, leader)[1]) > 0.5).all()


class Nudge(Game):
    """The follower chooses a side b, paid a for the one and -a for the other, before it sees a.

    So g(1) = sigmoid(2 E[a] / temperature). The leader is paid 2 b - a^2, and every other step is
    the last.
    """

    name = "nudge"

    def __init__(self) -> None:
        super().__init__(
            temperature=1.0,
            horizon=20,
            leader_discount=0.9,
            follower_discount=0.0,
            follower_observes_action=False,
        )
        self.leader_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
        self.follower_space = spaces.Discrete(2)
        self.observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def initial(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.zeros(n, 1)

    def observe(self, state: Tensor) -> Tensor:
        return state

    def step(self, state, leader_action, follower_action, generator) -> Step:
        action, side = leader_action.squeeze(-1), follower_action
        over = torch.rand(len(state), generator=generator) < 0.5
        return Step(state, 2 * side - action**2, (2 * side - 1) * action, over)

    def objective(self, leader: LinearGaussian, side: Tensor) -> Tensor:
        mean, std = leader.gains[:, 0, 0], leader.std()[:, 0].detach()
        return (2 * side - mean**2 - std**2) / (1 - 0.5 * self.leader_discount)


class NudgeFollower:
    name = "known"
    gap, steps = None, 0

    def best_respond(self, game: Nudge, commitment: Commitment, seeds) -> "NudgeFollower":
        self.odds = torch.sigmoid(2 * commitment.box.gain()[:, 0, 0]).detach()
        return self

    def sample(self, observation, leader_action, generator) -> Tensor:
        drawn = torch.rand(observation.shape[:2], generator=generator)
        return (drawn < self.odds.unsqueeze(-1)).long()


def test_a_box_leader_of_a_choosing_follower_with_endings():
    """Both parts, and the objective, of which half the steps are the last."""
    game, leader = Nudge(), LinearGaussian(1, 1, SEEDS, 0.5, noise=0.3)
    committed = commit(game, leader).detach()
    follower = NudgeFollower().best_respond(game, committed, SEEDS)
    rng = [np.random.default_rng([seed, 7]) for seed in SEEDS]
    seen = play(game, committed, follower, streams=40, steps=STEPS, generators=rng)
    memory = BoxMemory(game, SEEDS)
    memory.update(seen)
    given = Evidence(
        game=game,
        leader=leader,
        commitment=committed,
        follower=restrict(follower, "trajectories"),
        trajectories=seen,
        memory=memory,
    )
    odds = torch.sigmoid(2 * leader.gains[:, 0, 0])
    fixed = gradient(game.objective(leader, odds.detach()), leader)
    moved = gradient(game.objective(leader, odds), leader) - fixed
    for name in ("expected-trace", "gradient-critic", "sampled-trace"):
        found = BOX[name](given, commit(game, leader, seen.points.leader))
        for part, exact in zip(found, (fixed, moved), strict=True):
            apart = (gradient(part, leader) - exact)[:, 0].abs()
            assert (apart < 0.2 * (fixed.norm(dim=1) + moved.norm(dim=1))).all()
    expected = game.objective(leader, odds).detach()
    torch.testing.assert_close(given.critics.objective, expected, rtol=0.0, atol=0.15)


# ---------------------------------------------------------------- critics


def test_values_are_the_known_ones():
    game, leader = Pull(temperature=1.0), linear()
    found, _ = evidence(game, leader, streams=80)
    known = game.solution(*moments(leader))
    points = found.trajectories.points.leader[:, : 80 * STEPS].double()
    row = torch.cat([torch.ones_like(points), points], -1)
    expected = ((row @ known.leader_value) * row).sum(-1)
    value = found.critics.leader_state_value[:, : 80 * STEPS]
    assert ((value - expected).abs().mean() / expected.std()) < 0.3
    full = torch.cat([row, 0.5 * torch.ones_like(points)], -1)
    expected = ((full @ known.value) * full).sum(-1)
    theirs = found.critics.grid(torch.full((2, 80 * STEPS, 1, 1), 0.5).double())
    assert ((theirs.value[1].squeeze(-1) - expected).abs().mean() / expected.std()) < 0.3
    assert ((theirs.odds * theirs.benefit).sum(-1).abs() < 1e-9).all()


def test_quadrature_is_exact_for_polynomials():
    for size in (1, 2, 3, 5):
        noise, odds = nodes(size)
        assert odds.sum().item() == pytest.approx(1.0)
        torch.testing.assert_close(odds @ noise, torch.zeros(size).double())
        second = noise.mT @ (odds.unsqueeze(-1) * noise)
        torch.testing.assert_close(second, torch.eye(size).double())
    noise, odds = nodes(2)
    assert (odds * noise[:, 0] ** 4).sum().item() == pytest.approx(3.0)
    assert quadratic(torch.tensor([[2.0, 3.0]])).tolist() == [[1.0, 2.0, 3.0, 4.0, 6.0, 9.0]]


def test_the_temperature_has_to_be_known():
    with pytest.raises(InputError, match="expected a known temperature"):
        BoxMemory(Pull(), (0,), estimate_temperature=True)


def test_box_games_have_this_memory_and_these_estimators():
    memory: Memory = memory_of(Pull(), (0,))
    assert isinstance(memory, BoxMemory)
    assert estimator("expected-trace", Aim()) is BOX["expected-trace"]


def test_a_design_that_is_not_told_how_it_moves_steps_is_an_error():
    class Mute(PullDesign):
        reenact = Game.reenact

    game, leader = Mute(), design()
    with pytest.raises(InputError, match="log_transition"):
        BOX["expected-trace"](*evidence(game, leader, streams=2))


# ---------------------------------------------------------------- whole runs


class Meet(Game):
    """The leader announces nothing, the follower meets it: paid -(b - a)^2, for now alone.

    So b ~ N(E[a|s], temperature / 2). The leader wants b = s / 2, whatever it does itself: all that
    it can do is to move what the follower expects. States are drawn anew.
    """

    name = "meet"

    def __init__(self, **settings) -> None:
        fixed = {"temperature": 0.1, "horizon": 10, "follower_discount": 0.0}
        fixed |= {"leader_discount": 0.5, "follower_observes_action": False}
        super().__init__(**fixed | settings)
        self.leader_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.follower_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
        self.observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def initial(self, n: int, generator: torch.Generator) -> Tensor:
        return 2 * torch.rand(n, 1, generator=generator) - 1

    def observe(self, state: Tensor) -> Tensor:
        return state

    def step(self, state, leader_action, follower_action, generator) -> Step:
        ours = -((follower_action - state / 2) ** 2).squeeze(-1)
        theirs = -((follower_action - leader_action) ** 2).squeeze(-1)
        never = torch.zeros(len(state), dtype=torch.bool)
        return Step(self.initial(len(state), generator), ours, theirs, never)


class MeetFollower:
    """The known answer."""

    name = "known"
    gap, steps = None, 0

    def best_respond(self, game: Meet, commitment: Commitment, seeds) -> "MeetFollower":
        self.commitment, self.std = commitment, math.sqrt(game.temperature / 2)
        return self

    def expected(self, observation: Tensor) -> Tensor:
        noise, odds = nodes(1)
        acts = [
            self.commitment.box.act(observation, x.expand(*observation.shape[:2], 1)) for x in noise
        ]
        return (torch.stack(acts, -1) * odds).sum(-1).detach()

    def sample(self, observation, leader_action, generator) -> Tensor:
        mean = self.expected(observation)
        return mean + self.std * torch.randn(mean.shape, generator=generator, dtype=mean.dtype)


QUICK = TrainConfig(
    iterations=12,
    streams=30,
    access="trajectories",
    radius=0.05,
    evaluation_episodes=20,
    checkpoint_every=4,
)


@pytest.fixture
def fast(monkeypatch):
    """Fewer steps of Adam."""
    monkeypatch.setattr(
        continuous, "SETTINGS", replace(continuous.SETTINGS, rounds=4, updates=10, cloning=40)
    )


@pytest.mark.parametrize("make", [pytest.param(MLPGaussian, marks=SLOW), MLPDeterministic])
def test_a_perceptron_reaches_the_optimum(make, fast):
    """-(1/2) temperature / (1 - gamma), from play alone; the naive leader has no gradient here."""
    game = Meet()
    leader = make(1, game.leader_space, (16,), seeds=(0, 1))
    Coordinator(game, leader, MeetFollower(), QUICK, seeds=(0, 1)).run()
    seen = torch.linspace(-1, 1, 21).unsqueeze(-1)
    follower = MeetFollower().best_respond(game, commit(game, leader), (0, 1))
    missed = follower.expected(seen.expand(2, -1, -1)) - seen / 2
    assert (missed.square().mean(1) < 0.01).all()


@pytest.mark.parametrize(
    ("optimiser", "iterations", "left"),
    [("trust-region", 12, 0.1), pytest.param("natural-gradient", 20, 0.05, marks=SLOW)],
)
def test_gains_reach_the_optimum(optimiser, iterations, left, fast):
    game, best, leader = Pull(), linear((0,)), linear((0, 1))
    climb = torch.optim.LBFGS(best.parameters(), line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        climb.zero_grad()
        value = -game.solution(*moments(best)).objective.sum()
        value.backward()
        return value

    climb.step(loss)
    config = replace(QUICK, iterations=iterations, streams=8, optimiser=optimiser)
    start = game.solution(*moments(leader)).objective.detach()
    Coordinator(game, leader, PullFollower(leader), config, seeds=(0, 1)).run()
    highest = game.solution(*moments(best)).objective.detach()
    reached = game.solution(*moments(leader)).objective.detach()
    assert (highest - reached < left * (highest - start)).all()


def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(tmp_path, fast):
    game = Pull()
    settings = replace(QUICK, iterations=4, streams=3, checkpoint_every=2)

    def run(iterations: int, **more) -> LinearGaussian:
        leader = linear((0, 1))
        config = replace(settings, iterations=iterations)
        Coordinator(game, leader, PullFollower(leader), config, seeds=(0, 1), **more).run()
        return leader

    run(2, out=tmp_path)
    resumed = run(4, out=tmp_path, resume=True)
    assert torch.equal(resumed.gains, run(4).gains)


def test_leaders_side_by_side_are_as_each_alone(fast):
    """Of critics: what M leaders learn from given play."""
    game, leader = Pull(), linear((0, 1))
    alone = linear((1,))
    found = []
    for lead, seeds in ((leader, (0, 1)), (alone, (1,))):
        committed = commit(game, lead).detach()
        response = PullFollower(lead).best_respond(game, committed, seeds)
        memory = BoxMemory(game, seeds)
        first = commit(game, alone).detach()
        answer = PullFollower(alone).best_respond(game, first, (1,))
        rng = [np.random.default_rng(3)]
        seen = play(game, first, answer, streams=4, steps=50, generators=rng)
        each = torch.zeros(len(seeds), dtype=torch.long)
        points = seen.points._make(x[each] for x in seen.points)
        wide = replace(seen.map(lambda part, each=each: part[each]), points=points)
        memory.update(wide)
        critics = memory.critics(committed, restrict(response, "trajectories"), wide)
        found.append(critics.leader_state_value[-1])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)


def test_a_discrete_leader_of_a_box_follower_runs_and_spsa_too(fast):
    for name in ("expected-trace", "spsa"):
        leader = Odds((0, 1))
        config = replace(QUICK, iterations=2, streams=3, estimator=name)
        game = PullChoice()
        result = Coordinator(game, leader, PullFollower(leader), config, seeds=(0, 1)).run()
        assert all(math.isfinite(x) for x in result.metrics[-1]["leader_estimate"])


def test_agreement_is_the_share_that_is_signal():
    """Of gradients 1 + noise in 100 dimensions and 50 streams."""
    generator = torch.Generator().manual_seed(0)
    theta = torch.zeros(3, 100, dtype=torch.float64, requires_grad=True)
    noise = torch.randn(3, 50, 100, generator=generator, dtype=torch.float64)
    size = torch.tensor([0.0, 5.0, 1e6]).view(3, 1, 1)
    streams = ((1 + size * noise) * theta.unsqueeze(1)).sum(-1)
    share = agreement(streams, [theta])
    assert share[0] == 1.0
    assert share[1].item() == pytest.approx(1 / (1 + 25 / 50), abs=0.15)
    assert share[2] < 0.3
    assert (agreement(streams[:, :1], [theta]) == 1.0).all()
