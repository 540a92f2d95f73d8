"""The model-based leader: hills it must find, what it counts, what it may see."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from linear_games import design_game, policy_game
from strategies import Recipe, random_design_game, random_game
from test_coordinator import TOY, Crash, crash_at, parameters

from agents import ExactFollower
from agents.leaders import default_leader, mlp_leader, spread_leader
from games import discrete_toy, four_rooms
from games.tabular import TabularDesign
from stackelberg import Coordinator, TrainConfig, exact
from stackelberg.access import ValueAccess, policy_table
from stackelberg.critics import TabularMemory
from stackelberg.errors import InputError
from stackelberg.estimators import LinearModelBased, ModelBased, estimator, model_based
from stackelberg.estimators.evidence import Evidence
from stackelberg.game import Game
from stackelberg.probe import Probe
from stackelberg.rollout import Trajectories, play
from stackelberg.search import solve
from stackelberg.types import TabularResponse, commit


def two_hills() -> TabularDesign:
    """A wage x moves the follower from shirking to working at 0.8, far from where the slope points.

    At x = 0.5 it shirks, and every wage is lost on it: the nearer hill is x = 0.
    """
    return TabularDesign(
        spaces.Box(0.0, 1.0, (1,), np.float64),
        np.ones((1, 2, 1)),
        lambda x: torch.stack([0.2 - 0.2 * x[:, 0], 1.5 - x[:, 0]], -1)[:, None, :],
        lambda x: torch.stack([torch.full_like(x[:, 0], 0.8), x[:, 0]], -1)[:, None, :],
        termination=1.0,
        temperature=0.02,
        horizon=5,
    )


@dataclass(frozen=True)
class Run:
    game: Game
    seeds: tuple[int, ...] = (0, 1, 2)
    leader: Any = default_leader
    settings: Any = None

    def coordinator(self, **options: Any) -> Coordinator:
        given = {"estimator": "model-based", "iterations": 40, "checkpoint_every": 5, "streams": 2}
        config = TrainConfig(**given | (self.settings or {}))
        leader = self.leader(self.game, self.seeds)
        return Coordinator(self.game, leader, ExactFollower(), config, seeds=self.seeds, **options)

    def values(self) -> np.ndarray:
        return np.atleast_1d(self.coordinator().run().summary["leader_return"]["exact"])


def _shorten(monkeypatch, name, value):
    """A constant of the module, or a number of the class."""
    owner = (
        model_based.ModelBased if name in ("exploring", "searching", "climbing") else model_based
    )
    monkeypatch.setattr(owner, name, value)


@pytest.fixture
def shorter(monkeypatch):
    """Half of the generations and of the steps."""
    for name, value in {"exploring": 3, "searching": 3, "climbing": 20}.items():
        _shorten(monkeypatch, name, value)


@pytest.fixture
def brief(monkeypatch):
    """Few generations of few scouts, in few steps."""
    small = {"SCOUTS": 6, "exploring": 2, "searching": 2, "climbing": 8}
    for name, value in small.items():
        _shorten(monkeypatch, name, value)
    return small


# ---------------------------------------------------------------- what it finds


@pytest.mark.parametrize("access", ["value", "policy", "trajectories"])
def test_it_leaves_the_lower_hill(access, shorter):
    game = two_hills()
    wage = torch.linspace(0, 1, 10_001, dtype=torch.float64)[:, None]
    ones = torch.ones(len(wage), 1, 1, dtype=torch.float64)
    best = exact.objective(game.model(wage), ones).max().item()
    assert best == pytest.approx(0.6, abs=0.05)
    naive = Run(game, settings={"estimator": "expected-trace", "access": access}).values()
    assert naive == pytest.approx(0.2, abs=0.01)
    assert Run(game, settings={"access": access}).values() == pytest.approx(best, abs=2e-3)


@pytest.mark.parametrize(("seed", "observes"), [(0, True), (1, False), (2, True)])
def test_it_reaches_the_optimum_of_random_games(seed, observes, shorter):
    """Policies, with and without what the follower's values tell."""
    game = random_game(Recipe(seed=seed, observes=observes, temperature=0.2))
    best = solve(game, spread_leader(game, range(8)), steps=50, polish=30).value
    start = exact.objective(game.model(), torch.full((1, 3, 2), 0.5, dtype=torch.float64)).item()
    values = Run(game, seeds=(0, 1), settings={"streams": 10}).values()
    assert (values >= best - 0.05 * (best - start)).all()


@pytest.mark.parametrize("seed", [0, 1])
def test_it_reaches_the_optimum_where_designs_move_transitions(seed, shorter):
    game = random_design_game(
        Recipe(seed=seed, moves_transition=True, dimension=3, temperature=0.2)
    )
    best = solve(game, spread_leader(game, range(8)), steps=50, polish=30).value
    middle = torch.as_tensor(game.leader_space.low + game.leader_space.high).double()[None] / 2
    start = exact.objective(game.model(middle), torch.ones(1, game.states, 1).double()).item()
    values = Run(game, seeds=(0, 1), settings={"streams": 10}).values()
    assert (values >= best - 0.05 * (best - start)).all()


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.001, 0.003, 0.005])
def test_four_rooms_at_its_best(temperature):
    """The published cells that no published method and no gradient alone solves."""
    game = four_rooms.game(kernel="model", temperature=temperature)
    run = Run(game, seeds=(0, 1), settings={"iterations": 60, "streams": 1})
    assert run.values() == pytest.approx(game.optimum, abs=0.01)


# ---------------------------------------------------------------- what it counts


def test_scouts_steps_are_counted(brief):
    result = Run(TOY, settings={"iterations": 6}).coordinator().run()
    scouting = brief["SCOUTS"] * TOY.horizon
    own = 2 * TOY.horizon
    rounds = np.minimum(np.arange(1, 7), brief["exploring"] + brief["searching"])
    expected = np.arange(1, 7) * own + rounds * scouting
    assert [row["leader_steps"] for row in result.metrics] == expected.tolist()


def test_what_scouts_meet_is_not_how_the_leaders_follower_behaves(brief):
    coordinator = Run(TOY, settings={"iterations": 1}).coordinator()
    coordinator.run()
    assert coordinator.memory.recent.sum((1, 2, 3)).tolist() == [2 * TOY.horizon] * 3
    scouted = (2 + brief["SCOUTS"]) * TOY.horizon
    assert coordinator.memory.visits.sum((1, 2, 3)).tolist() == [scouted] * 3


@pytest.mark.parametrize("leader", [default_leader, mlp_leader])
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, brief, leader):
    run = Run(TOY, leader=leader, settings={"iterations": 7, "checkpoint_every": 1})
    expected = run.coordinator().run()
    for stop in (1, 4):
        out = tmp_path / str(stop)
        with pytest.raises(Crash):
            run.coordinator(out=out).run(crash_at(stop))
        found = run.coordinator(out=out, resume=True).run()
        for now, then in zip(parameters(found), parameters(expected), strict=True):
            assert torch.equal(now, then)


def test_leaders_side_by_side_search_each_alone(brief):
    """Where they move anything: in A; elsewhere in this game a gradient is rounding error."""
    settings = {"iterations": 6}
    together = parameters(Run(TOY, seeds=(0, 1), settings=settings).coordinator().run())[0]
    for m in range(2):
        alone = parameters(Run(TOY, seeds=(m,), settings=settings).coordinator().run())[0]
        torch.testing.assert_close(together[m, discrete_toy.A], alone[0, discrete_toy.A])


def test_two_runs_share_nothing():
    one, two = estimator("model-based", TOY), estimator("model-based", TOY)
    assert isinstance(one, ModelBased)
    assert one is not two


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize("optimiser", ["natural-gradient", "ppo"])
def test_optimisers_that_would_turn_its_walk_are_refused(optimiser):
    with pytest.raises(InputError, match=r"trust-region beside the estimator model-based.*; leave"):
        TrainConfig(estimator="model-based", optimiser=optimiser)


def test_it_needs_a_probe():
    leader = default_leader(TOY, (0,))
    commitment = commit(TOY, leader).detach()
    found = exact.best_response(TOY.model(), commitment.policy)
    response, noise = TabularResponse(found.policy, found), [np.random.default_rng(0)]
    seen = play(TOY, commitment, response, streams=1, steps=5, generators=noise)
    evidence = Evidence(
        game=TOY,
        leader=leader,
        commitment=commitment,
        follower=ValueAccess(response),
        trajectories=seen,
        memory=TabularMemory(TOY, 1),
        noise=noise,
    )
    with pytest.raises(InputError, match=r"a probe for model-based.*without one; train by"):
        ModelBased()(evidence, commit(TOY, leader))


# ---------------------------------------------------------------- scouts


def test_scouts_meet_their_own_followers():
    """Play and answers are each scout's own, in the order of their leaders; nothing has moved."""
    leader = default_leader(TOY, (0, 1), std=1.0)
    crew = default_leader(TOY, range(6), std=2.0)
    follower = ExactFollower()
    commitment = commit(TOY, leader).detach()
    response = follower.best_respond(TOY, commitment, (0, 0))
    state = {name: value.clone() for name, value in follower.state().items()}
    probe = Probe(
        game=TOY,
        leader=leader,
        follower=follower,
        response=response,
        access="policy",
        streams=1,
        length=9,
        generators=lambda draw: [np.random.default_rng([m, draw]) for m in range(2)],
    )
    answers, seen = probe.scout(crew)
    met = policy_table(answers, TOY, 6, 2)
    best = exact.best_response(TOY.model(), commit(TOY, crew).policy).policy
    torch.testing.assert_close(met, best)
    assert answers.level == "policy"
    assert seen.state.shape == (2, 3, TOY.horizon)
    assert probe.steps == {"leader": 3 * TOY.horizon, "follower": 0}
    for name, value in follower.state().items():
        assert torch.equal(value, state[name])
    for m in range(2):
        for k in range(3):
            row = [3 * m + k]
            one = commit(TOY, crew)
            alone = play(
                TOY,
                one._replace(policy=one.policy.detach()[row]),
                TabularResponse(best[row]),
                streams=1,
                steps=TOY.horizon,
                generators=[_after_seed(m, k)],
            )
            assert torch.equal(alone.state[0, 0], seen.state[m, k])
            assert torch.equal(alone.follower_action[0, 0], seen.follower_action[m, k])


def _after_seed(m: int, draw: int) -> np.random.Generator:
    generator = np.random.default_rng([m, draw])
    generator.integers(2**31)  # the follower's seed comes first
    return generator


def test_other_leaders_play_tells_of_the_game_alone():
    memory = TabularMemory(TOY, 1)
    first = _walk(0)
    memory.update(first)
    recent, visits = memory.recent.clone(), memory.visits.clone()
    memory.update(_walk(1), own=False)
    assert torch.equal(memory.recent, recent)
    assert memory.visits.sum() == 2 * visits.sum()


def _walk(seed: int) -> Trajectories:
    commitment = commit(TOY, default_leader(TOY, (seed,), std=1.0)).detach()
    found = exact.best_response(TOY.model(), commitment.policy)
    return play(
        TOY,
        commitment,
        TabularResponse(found.policy, found),
        streams=2,
        steps=30,
        generators=[np.random.default_rng(seed)],
    )


def test_one_leaders_memory_is_a_copy():
    memory = TabularMemory(TOY, 2)
    seen = [_walk(0), _walk(1)]
    memory.update(
        Trajectories(**{k: torch.cat([s.parts()[k] for s in seen]) for k in seen[0].parts()})
    )
    commitments = commit(TOY, default_leader(TOY, (0, 1), std=1.0)).detach()
    both = memory.model(commitments)
    for m in range(2):
        one = memory.of(m)
        alone = one.model(commitments._replace(policy=commitments.policy[[m]]))
        for name in ("transition", "leader_reward", "follower_reward", "initial"):
            assert torch.equal(getattr(alone, name)[0], getattr(both, name)[m])
        one.update(_walk(2))
    assert memory.visits.sum() == 2 * 60


# ---------------------------------------------------------------- regressed games


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(model_based, "SCOUTS", 8)
    monkeypatch.setattr(LinearModelBased, "climbing", 15)


@pytest.mark.parametrize("access", ["value", "trajectories"])
def test_it_walks_to_the_optimum_of_a_regressed_game(quick, access):
    """A design that moves transitions; what `solve` finds is where the leaders come to."""
    game = design_game(seed=5)
    best = solve(game, default_leader(game, range(4), 1.0), steps=40, polish=30).value
    leader = default_leader(game, range(2))
    settings = {"iterations": 15, "streams": 4, "steps": 20, "estimator": "model-based"}
    config = TrainConfig(**settings, access=access, radius=1e-2, evaluation_episodes=2)
    result = Coordinator(game, leader, ExactFollower(), config, seeds=(0, 1)).run()
    found = np.array(result.summary["leader_return"]["exact"])
    assert (found > best - 0.02 * abs(best)).all()
    first = result.metrics[0]["leader_steps"]
    assert first == 8 * game.horizon + 80
    assert result.metrics[-1]["leader_steps"] == 3 * 8 * game.horizon + 15 * 80


def test_a_search_of_a_regressed_game_resumes(quick, tmp_path):
    game, ends = policy_game(seed=5), []
    for name, cuts in (("whole", (5,)), ("resumed", (2, 5))):
        for iterations in cuts:
            leader = default_leader(game, range(2))
            settings = {"iterations": iterations, "steps": 20, "estimator": "model-based"}
            config = TrainConfig(**settings, evaluation_episodes=2, checkpoint_every=1)
            parts = game, leader, ExactFollower(), config
            resume = iterations == 5 and name == "resumed"
            Coordinator(*parts, seeds=(0, 1), out=tmp_path / name, resume=resume).run()
        ends.append([p.detach().clone() for p in leader.parameters()])
    torch.testing.assert_close(*ends, rtol=0, atol=0)
