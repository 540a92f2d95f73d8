"""The PettingZoo form of every game: conformance, seeding, latching, wrappers, errors."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pettingzoo
import pytest
import supersuit
import torch
from conformance import conform
from hypothesis import given, settings
from pettingzoo.test import max_cycles_test, parallel_api_test
from pettingzoo.utils import parallel_to_aec
from strategies import Recipe, design_games, random_design_game, random_game, tabular_games

import games  # registers them
from games import discrete_toy, four_rooms, matrix, warehouse
from stackelberg.environment import Environment, parallel_env
from stackelberg.errors import InputError

PAYOFFS = {"leader_payoff": [[1, 2, 0], [0, 1, 4]], "follower_payoff": [[3, 1, 2], [0, 1, 5]]}
SHIPPED = {
    "discrete_toy": discrete_toy.parallel_env,
    "discrete_toy bonus 2": partial(discrete_toy.parallel_env, bonus=2.0),
    "four_rooms": four_rooms.parallel_env,
    "four_rooms 2 goals": partial(four_rooms.parallel_env, goals=2),
    "four_rooms model": partial(four_rooms.parallel_env, kernel="model", temperature=0.001),
    "four_rooms reference": partial(four_rooms.parallel_env, kernel="reference", penalty=1.0),
    "warehouse": warehouse.parallel_env,
    **{name: partial(matrix.parallel_env, name=name) for name in matrix.CLASSICS},
    "matrix, seen": partial(matrix.parallel_env, name="chicken", follower_observes_action=True),
    "matrix, own": partial(matrix.parallel_env, **PAYOFFS),
    "random": lambda: parallel_env(random_game(Recipe(seed=3, termination="anywhere"))),
    "random design": lambda: parallel_env(random_design_game(Recipe(seed=4, dimension=3))),
}
EXPECTED_WARNINGS = (
    "Observation is a single number",  # a matrix game has one state
    "State is a single number",
)


@pytest.fixture(params=SHIPPED, ids=lambda name: name.replace(" ", "-"))
def make(request):
    return SHIPPED[request.param]


def sample(env):
    return {agent: env.action_space(agent).sample() for agent in env.agents}


def episode(env, seed):
    """All that a whole episode under random actions brings, step by step."""
    for i, agent in enumerate(env.possible_agents):
        env.action_space(agent).seed(seed + i)
    seen = [(*env.reset(seed=seed), env.state())]
    while env.agents:
        seen.append((*env.step(sample(env)), env.state()))
    return seen


def test_conformance(make):
    conform(make, *EXPECTED_WARNINGS)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(game=tabular_games() | design_games())
def test_conformance_of_random_games(game):
    conform(lambda: parallel_env(game), *EXPECTED_WARNINGS)


def test_same_seed_same_episode(make):
    first, again = make(), make()
    np.testing.assert_equal(episode(first, 5), episode(again, 5))
    np.testing.assert_equal(episode(first, 6), episode(again, 6))


def test_seeds_differ_and_reset_without_a_seed_goes_on():
    env = four_rooms.parallel_env()
    states = [np.stack([step[-1] for step in episode(env, seed)]).argmax(-1) for seed in (1, 2)]
    assert not np.array_equal(states[0][:50], states[1][:50])
    game = random_game(Recipe(seed=1, states=6))
    first, again = parallel_env(game), parallel_env(game)
    starts = []
    for env in (first, again):
        env.reset(seed=1)
        starts.append([env.reset()[0]["leader"].argmax() for _ in range(30)])
    assert starts[0] == starts[1]
    assert len(set(starts[0])) > 1


def test_whole_episodes_stay_inside_the_spaces(make):
    env = make()
    for seed in range(3):
        first, *steps = episode(env, seed)
        for observations in (first[0], *(step[0] for step in steps)):
            for agent in env.possible_agents:
                assert env.observation_space(agent).contains(observations[agent])
        for k, (_, rewards, terminations, truncations, infos, state) in enumerate(steps):
            assert env.state_space.contains(state)
            assert all(type(r) is float for r in rewards.values())
            assert all(type(e) is bool for e in (*terminations.values(), *truncations.values()))
            assert infos == {"leader": {}, "follower": {}}
            over = terminations["leader"] or truncations["leader"]
            assert over == (k == len(steps) - 1)
            assert not (terminations["leader"] and truncations["leader"])
        assert len(steps) <= env.max_cycles
        assert env.agents == []


def test_metadata_and_spaces():
    game = four_rooms.game()
    env, other = parallel_env(game), parallel_env(game)
    assert str(env) == "four_rooms_v0"
    assert env.metadata["is_parallelizable"]
    assert env.metadata["render_modes"] == ["rgb_array"]
    assert env.metadata["render_fps"] > 0
    assert env.possible_agents == ["leader", "follower"]
    assert env.max_cycles == game.horizon == 200
    assert env.action_space("leader") == game.leader_space
    assert env.action_space("leader").total == game.leader_space.total
    assert env.action_space("leader") is not other.action_space("leader")
    assert env.observation_space("leader") is not env.observation_space("follower")


@pytest.mark.parametrize("name", ["discrete_toy", "four_rooms"])
def test_max_cycles(name):
    module = SHIPPED[name]
    aec = lambda **options: parallel_to_aec(module(**options))  # noqa: E731
    max_cycles_test(SimpleNamespace(parallel_env=module, env=aec))


@pytest.mark.parametrize("name", ["discrete_toy", "four_rooms", "matrix"])
def test_registered(name):
    assert games.__doc__
    env = pettingzoo.make("parallel", f"stackelberg/{name}_v0", max_cycles=7, temperature=0.2)
    assert isinstance(env, Environment)
    assert str(env) == f"{name}_v0"
    assert (env.max_cycles, env.game.temperature) == (7, 0.2)


def test_design_is_latched():
    """The first design pays for the whole episode, whatever the leader does later."""
    env = four_rooms.parallel_env()
    costly = np.full(104, 0.2 / 104)
    for later in (np.zeros(104), "nonsense", None):
        env.reset(seed=0)
        env.step({"leader": costly, "follower": 0})
        for _ in range(5):
            _, rewards, *_ = env.step({"leader": later, "follower": 0})
            assert rewards["follower"] == pytest.approx(-0.2 / 104)
    env.reset()
    _, rewards, *_ = env.step({"leader": np.zeros(104), "follower": 0})
    assert rewards["follower"] == 0


def test_transitions_follow_the_design():
    """A design that moves the transition moves the environment's: frequencies match the model."""
    game = random_design_game(Recipe(seed=2, states=4, dimension=2))
    env = parallel_env(game, max_cycles=1)
    rng = np.random.default_rng(0)
    for design in (np.array([-1.0, 1.0]), np.array([0.9, 0.2])):
        expected = game.model(torch.from_numpy(design)[None]).transition[0, :, 0, 1]
        counts = np.zeros((4, 4))
        env.reset(seed=int(rng.integers(1000)))
        for _ in range(3000):
            before = env.state().argmax()
            env.step({"leader": design, "follower": 1})
            counts[before, env.state().argmax()] += 1
            env.reset()
        visits = counts.sum(-1, keepdims=True)
        error = counts - visits * expected.numpy()
        scale = np.sqrt(visits * expected.numpy() * (1 - expected.numpy()))
        assert (np.abs(error) <= 4.5 * scale + 1e-9).all()


@pytest.mark.parametrize(
    ("actions", "agent"),
    [
        ({"leader": 2, "follower": 0}, "leader"),
        ({"leader": 0, "follower": 3}, "follower"),
        ({"leader": -1, "follower": 0}, "leader"),
        ({"leader": 0, "follower": 1.0}, "follower"),
        ({"leader": 0, "follower": np.zeros(2, int)}, "follower"),
        ({"follower": 0}, "leader"),
        ({"leader": 0}, "follower"),
        ({"leader": 7, "follower": 7}, "leader"),
    ],
)
def test_action_outside_its_space(actions, agent):
    env = discrete_toy.parallel_env()
    env.reset(seed=0)
    env.step({"leader": 0, "follower": 0})
    with pytest.raises(InputError, match=rf"an action of the {agent} in .* at step 1; got .*; see"):
        env.step(actions)


@pytest.mark.parametrize(
    "design",
    [
        np.full(104, 0.01),
        np.full(103, 0.0),
        np.full(104, np.nan),
        np.r_[-0.01, np.zeros(103)],
        "half",
        None,
        {"cell": 1},
        [[0.0], [0.0, 1.0]],
    ],
    ids=["total", "shape", "nan", "negative", "str", "none", "dict", "ragged"],
)
def test_design_outside_its_space(design):
    env = four_rooms.parallel_env()
    env.reset(seed=0)
    with pytest.raises(InputError, match=r"an action of the leader in .* at step 0; got .*; see"):
        env.step({"leader": design, "follower": 0})


def test_designs_of_other_kinds_are_taken():
    env = four_rooms.parallel_env()
    for design in ([0.001] * 104, np.full(104, 0.001, np.float32), torch.full((104,), 0.001)):
        env.reset(seed=0)
        _, rewards, *_ = env.step({"leader": design, "follower": np.int32(0)})
        assert rewards["follower"] == pytest.approx(-0.001)


def test_misuse_is_said():
    env = discrete_toy.parallel_env(max_cycles=1)
    with pytest.raises(InputError, match=r"expected reset\(\) before step.*; got .*; call"):
        env.step({"leader": 0, "follower": 0})
    with pytest.raises(InputError, match=r"expected reset\(\) before state.*; got .*; call"):
        env.state()
    env.reset()
    env.step({"leader": 0, "follower": 0})
    with pytest.raises(InputError, match=r"expected reset\(\) before step.*; got .*; call"):
        env.step({"leader": 0, "follower": 0})
    with pytest.raises(InputError, match=r"render_mode None or one of .*; got 'human'; leave"):
        discrete_toy.parallel_env(render_mode="human")
    with pytest.raises(InputError, match=r"max_cycles >= 1; got 0; give"):
        discrete_toy.parallel_env(max_cycles=0)


@pytest.mark.parametrize("name", ["discrete_toy", "four_rooms", "four_rooms 2 goals", "commitment"])
def test_pictures(name):
    env = SHIPPED[name](render_mode="rgb_array")
    env.reset(seed=0)
    before = env.render()
    assert before.dtype == np.uint8
    assert before.ndim == 3
    assert before.shape[2] == 3
    env.step(sample(env))
    assert not np.array_equal(before, env.render())  # at least the title moves on


def test_no_picture_without_a_mode():
    env = discrete_toy.parallel_env()
    env.reset(seed=0)
    with pytest.warns(UserWarning, match="render_mode"):
        assert env.render() is None


WRAPPERS = {
    "frame_stack": (lambda env: supersuit.frame_stack_v1(env, 3), (9,)),
    "dtype": (lambda env: supersuit.dtype_v0(env, np.float64), (3,)),
    "normalize_obs": (supersuit.normalize_obs_v0, (3,)),
    "clip_reward": (lambda env: supersuit.clip_reward_v0(env, -0.5, 0.5), (3,)),
    "all": (
        lambda env: supersuit.frame_stack_v1(
            supersuit.clip_reward_v0(supersuit.normalize_obs_v0(env), -0.5, 0.5), 2
        ),
        (6,),
    ),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_supersuit(name):
    wrap, shape = WRAPPERS[name]
    env = wrap(discrete_toy.parallel_env(max_cycles=30))
    observations, _ = env.reset(seed=0)
    steps, largest = 0, 0.0
    while env.agents:
        for agent, observation in observations.items():
            assert observation.shape == shape
            assert env.observation_space(agent).contains(observation)
        actions = {"leader": 0, "follower": (1, 2, 0)[steps % 3]}  # S -> A -> B -> S
        observations, rewards, *_ = env.step(actions)
        largest = max(largest, *map(abs, rewards.values()))
        steps += 1
    assert steps == 30
    assert largest == (0.5 if name in ("clip_reward", "all") else 1.0)


def test_supersuit_on_a_design_game():
    env = supersuit.frame_stack_v1(supersuit.dtype_v0(four_rooms.parallel_env(), np.float64), 2)
    parallel_api_test(env, num_cycles=20)
