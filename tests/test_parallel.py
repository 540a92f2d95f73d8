"""Foreign PettingZoo environments as games: spaces, episodes, faults, and the truth of a table."""

import copy
import gc
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import supersuit
import torch
from gymnasium import spaces
from pettingzoo.utils import BaseParallelWrapper
from pettingzoo.utils.conversions import aec_to_parallel_wrapper, parallel_to_aec
from small_envs import Broken, Closing, Parking
from strategies import Recipe, random_game

from agents.leaders import mlp_leader
from games import discrete_toy, four_rooms
from stackelberg import (
    Coordinator,
    TrainConfig,
    cli,
    from_parallel_env,
    parallel,
    registry,
)
from stackelberg.environment import parallel_env
from stackelberg.errors import InputError
from stackelberg.induced import InducedMDP, freeze
from stackelberg.parallel import ParallelGame
from stackelberg.rollout import play
from stackelberg.types import Commitment, TabularResponse


def game_of(**changes) -> ParallelGame:
    return from_parallel_env(lambda: Parking(**changes))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def vector_of(game, copies: int = 3, seed: int = 0, limit: int | None = None):
    return game.vector(copies, seeded(seed), limit)


def moves(game, copies: int, seed: int = 0):
    """Random actions of both players, for ever."""
    draw = seeded(seed)
    box = isinstance(game.follower_space, spaces.Box)
    while True:
        ours = torch.randint(int(game.leader_space.n), (copies,), generator=draw)
        if box:
            theirs = torch.rand((copies, *game.follower_space.shape), generator=draw)
        else:
            theirs = torch.randint(int(game.follower_space.n), (copies,), generator=draw)
        yield ours, theirs


def run(vector, game, steps: int, seed: int = 0) -> list:
    """All that `steps` steps bring; copies that are over start anew."""
    seen = [(vector.leader_observation, vector.follower_observation)]
    for _, (ours, theirs) in zip(range(steps), moves(game, vector.copies, seed), strict=False):
        found = vector.step(ours, theirs)
        seen.append((*found, vector.leader_observation, vector.follower_observation))
        vector.reset(found.terminated | found.truncated)
    return seen


def same(one, other) -> bool:
    return all(
        torch.equal(a, b)
        for first, second in zip(one, other, strict=True)
        for a, b in zip(first, second, strict=True)
    )


# ---------------------------------------------------------------- spaces


OBSERVATIONS = {
    "Discrete": spaces.Discrete(4, start=-1),
    "Box": spaces.Box(-1.0, 1.0, (3,), np.float64),
    "image": spaces.Box(0, 255, (4, 5, 3), np.uint8),
    "MultiBinary": spaces.MultiBinary((2, 2)),
    "MultiDiscrete": spaces.MultiDiscrete([3, 2], start=[1, 0]),
    "Tuple": spaces.Tuple([spaces.Discrete(2), spaces.Box(-np.inf, np.inf, (2, 2))]),
    "Dict": spaces.Dict({"b": spaces.MultiBinary(2), "a": spaces.Box(0, 1, ())}),
}


@pytest.mark.parametrize("name", OBSERVATIONS)
def test_observations_are_flattened(name):
    space = OBSERVATIONS[name]

    class Told(Parking):
        def observed(self, agents):
            self.told = super().observed(agents)
            return self.told

    made = []

    def make():
        made.append(Told(driver_observation=space))
        return made[-1]

    game = from_parallel_env(make)
    flat = game.follower_observation_space
    assert (flat.dtype, flat.shape) == (np.float32, spaces.flatten_space(space).shape)
    assert game.observation_space.shape == (2,)
    assert game.observes_apart
    vector = vector_of(game, copies=1)
    for ours, theirs in (pair for pair, _ in zip(moves(game, 1), range(4), strict=False)):
        expected = spaces.flatten(space, made[0].told["driver"]).astype(np.float32)
        np.testing.assert_array_equal(vector.follower_observation[0].numpy(), expected)
        assert flat.contains(vector.follower_observation[0].numpy())
        np.testing.assert_array_equal(vector.leader_observation[0].numpy(), made[0].told["city"])
        vector.step(ours, theirs)


@pytest.mark.parametrize(
    ("space", "count"),
    [
        (spaces.Discrete(3), 3),
        (spaces.Discrete(3, start=5), 3),
        (spaces.MultiDiscrete([2, 3], start=[1, -1]), 6),
        (spaces.MultiDiscrete([[2, 2], [1, 3]]), 12),
        (spaces.MultiBinary(3), 8),
        (spaces.MultiBinary((2, 1)), 4),
    ],
)
@pytest.mark.parametrize("agent", ["city", "driver"])
def test_actions_are_numbered(space, count, agent):
    """Every number is an action of its own; the environment itself asserts that they are inside."""
    key = "action" if agent == "city" else "driver_action"
    env = Parking(**{key: space}, length=count)
    game = from_parallel_env(lambda: env)
    own = game.leader_space if agent == "city" else game.follower_space
    assert own == spaces.Discrete(count)
    vector = vector_of(game, copies=1, limit=1000)
    for index in range(count):
        pair = [torch.tensor([index if who == agent else 0]) for who in ("city", "driver")]
        vector.step(*pair)
    taken = [np.asarray(actions[agent]) for actions in env.taken]
    assert len({one.tobytes() for one in taken}) == count
    assert taken[0].shape == (space.shape or ())


def test_a_follower_may_act_in_a_box():
    space = spaces.Box(np.array([[-1.0, 0.0]]), np.array([[1.0, 0.5]]), dtype=np.float32)
    env = Parking(driver_action=space)
    game = from_parallel_env(lambda: env)
    assert game.follower_space.shape == (2,)
    vector = vector_of(game, copies=1)
    vector.step(torch.tensor([1]), torch.tensor([[0.25, 0.5 + 1e-7]]))
    np.testing.assert_array_equal(env.taken[0]["driver"], np.array([[0.25, 0.5]], np.float32))
    assert env.taken[0]["city"] == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"action": spaces.Box(0, 1, (2,))}, "finitely many actions of 'city'.*at present"),
        ({"driver_action": spaces.MultiDiscrete([17, 17, 17])}, "'driver'; got 4913 in"),
        ({"action": spaces.MultiBinary(400)}, "'city'; got .* in MultiBinary"),
        ({"driver_action": spaces.Tuple([spaces.Discrete(2)])}, "actions of agent 'driver'"),
        ({"driver_action": spaces.Box(0, 9, (2,), np.int64)}, "actions of agent 'driver'"),
        ({"driver_observation": spaces.Sequence(spaces.Discrete(2))}, "observations of .*'driver'"),
        (
            {
                "driver_observation": spaces.Dict(
                    {"observation": spaces.Discrete(2), "action_mask": spaces.MultiBinary(2)}
                )
            },
            "action mask",
        ),
        ({"driver_observation": None}, "observations of agent 'driver'"),
        ({"possible_agents": ["city"]}, "two agents.*got 1: city"),
        ({"possible_agents": []}, "two agents.*got 0: none"),
        ({"possible_agents": ["city", "driver", "police"]}, "two agents.*city, driver, police"),
        ({"metadata": {}}, "one of the agents city, driver; got no word of who leads"),
        ({"metadata": {"leader_agent": "mayor"}}, "city, driver; got 'mayor'"),
        ({"metadata": {"leader_agent": "city", "stackelberg": 3}}, "a dict"),
        ({"metadata": {"leader_agent": "city", "stackelberg": {"beta": 3}}}, "got 'beta'"),
        (
            {"metadata": {"leader_agent": "city", "stackelberg": {"temperature": -1}}},
            "temperature > 0",
        ),
    ],
)
def test_what_cannot_be_a_game_is_said(changes, said):
    with pytest.raises(InputError, match=rf"(?s)^expected .*{said}"):
        game_of(**changes)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (Parking(), "got Parking; pass the function"),
        (lambda: 3, "one that returns int"),
        (lambda: 1 // 0, "ZeroDivisionError"),
        (lambda: parallel_to_aec(Turns()), "is_parallelizable"),
    ],
)
def test_what_makes_no_environment_is_said(make, said):
    with pytest.raises(InputError, match=said):
        from_parallel_env(make)


class Turns(Parking):
    """An environment in turns, which cannot be one where both move at once."""

    @property
    def metadata(self):
        raise AttributeError("metadata with is_parallelizable")

    @metadata.setter
    def metadata(self, value):
        pass


# ---------------------------------------------------------------- who leads, and settings


def test_who_leads():
    assert game_of().leader_agent == "city"
    other = from_parallel_env(Parking, leader="driver")
    assert (other.leader_agent, other.follower_agent) == ("driver", "city")
    assert other.observation_space.shape == (7,)

    class Named(Parking):
        def __init__(self):
            super().__init__(possible_agents=["worker", "leader"], metadata={"name": "named"})

    assert from_parallel_env(Named).leader_agent == "leader"
    with pytest.raises(InputError, match="one of the agents city, driver; got 'mayor'"):
        from_parallel_env(Parking, leader="mayor")


def test_settings_come_from_the_caller_then_the_environment_then_defaults():
    plain = game_of()
    assert (plain.horizon, plain.temperature, plain.follower_observes_action) == (100, 0.05, False)
    assert plain.name == "parking_v0"
    assert game_of(max_cycles=40).horizon == 40
    told = {"temperature": 0.3, "horizon": 12, "follower_observes_action": True}
    changes = {"metadata": {"leader_agent": "city", "stackelberg": told}, "max_cycles": 40}
    game = game_of(**changes)
    assert (game.temperature, game.horizon, game.follower_observes_action) == (0.3, 12, True)
    game = from_parallel_env(lambda: Parking(**changes), temperature=0.4, leader_discount=0.5)
    assert (game.temperature, game.leader_discount, game.horizon) == (0.4, 0.5, 12)
    with pytest.raises(InputError, match=r"a setting out of .*; got 'beta'"):
        from_parallel_env(Parking, beta=0.4)


def test_our_own_environment_gives_its_game():
    game = four_rooms.game()
    assert from_parallel_env(lambda: parallel_env(game)) is game
    assert from_parallel_env(lambda: parallel_to_aec(parallel_env(game))) is game
    assert from_parallel_env(lambda: parallel_env(game), leader="leader") is game
    shorter = from_parallel_env(lambda: parallel_env(game, max_cycles=7))
    assert (shorter.horizon, game.horizon, shorter.tabular) == (7, 200, True)
    assert from_parallel_env(lambda: parallel_env(game), horizon=9).horizon == 9
    with pytest.raises(InputError, match=r"no settings but horizon .*; got temperature"):
        from_parallel_env(lambda: parallel_env(game), temperature=0.1)


def test_a_wrapped_environment_of_our_own_keeps_its_settings():
    game = discrete_toy.game(temperature=0.2, leader_discount=0.9)
    found = from_parallel_env(lambda: supersuit.frame_stack_v1(parallel_env(game, max_cycles=9), 2))
    assert isinstance(found, ParallelGame)
    for name in ("temperature", "leader_discount", "follower_discount", "follower_observes_action"):
        assert getattr(found, name) == getattr(game, name)
    assert (found.horizon, found.longest, found.name) == (9, 9, "discrete_toy_v0")
    assert found.observation_space.shape == (6,)
    with pytest.raises(InputError, match="finitely many actions of 'leader'"):
        from_parallel_env(lambda: supersuit.frame_stack_v1(four_rooms.parallel_env(), 2))


def test_the_functions_of_a_state_say_why_there_are_none():
    game = game_of()
    assert not game.tabular
    for call in (
        lambda: game.initial(1, seeded()),
        lambda: game.step(torch.zeros(1), torch.zeros(1), torch.zeros(1), seeded()),
        lambda: game.observe(torch.zeros(1)),
        lambda: game.follower_observe(torch.zeros(1)),
        lambda: parallel_env(game).reset(),
    ):
        with pytest.raises(InputError, match="step it by vector"):
            call()


# ---------------------------------------------------------------- episodes


@pytest.mark.parametrize("convert", [False, True], ids=["parallel", "aec"])
@pytest.mark.parametrize(("who", "other"), [("city", "driver"), ("driver", "city")])
def test_play_goes_on_for_the_one_that_stays(who, other, convert):
    env = Parking(leaves={who: 2, other: 4})
    game = (
        from_parallel_env(lambda: aec_to_parallel_wrapper(parallel_to_aec(env)))
        if (convert)
        else from_parallel_env(lambda: env)
    )
    vector = vector_of(game, copies=1)
    outs, over, earned, seen = [], [], [], []
    for _, (ours, theirs) in zip(range(5), moves(game, 1), strict=False):
        found = vector.step(ours, theirs)
        outs.append((vector.leader_out.item(), vector.follower_out.item()))
        over.append((found.terminated.item(), found.truncated.item()))
        earned.append((found.leader_reward.item(), found.follower_reward.item()))
        seen.append((vector.leader_observation, vector.follower_observation))
    gone, last = (True, False) if who == "city" else (False, True), (True, True)
    assert outs == [(False, False), gone, gone, last, last]
    assert over == [(False, False)] * 3 + [(True, False)] * 2
    first = 0 if who == "city" else 1
    assert all(pair[first] != 0 for pair in earned[:2])
    assert all(pair[first] == 0 for pair in earned[2:])
    assert all(pair[1 - first] != 0 for pair in earned[:4])
    assert earned[4] == (0, 0)  # over, until it is reset
    assert [set(actions) for actions in env.taken] == [{who, other}] * 2 + [{other}] * 2
    assert torch.equal(seen[1][first], seen[3][first])  # what it saw last
    vector.reset(torch.tensor([True]))
    assert not (vector.leader_out | vector.follower_out).any()


def test_a_follower_that_leaves_has_ended_in_its_own_eyes():
    game = game_of(leaves={"driver": 3})
    commitment = committed(game)
    induced = InducedMDP(game, freeze(commitment), 5, seeded())
    for k in range(1, 4):
        found = induced.step(torch.zeros(5, dtype=torch.long))
        assert (found.terminated == (k == 3)).all()
        assert not found.truncated.any()


def test_a_follower_is_told_that_the_leader_has_left():
    """By action -1 when it is asked, as zeros where it sees the action; then no leader acts."""
    told = []
    game = from_parallel_env(lambda: Parking(leaves={"city": 2}), follower_observes_action=True)

    class Listening:
        def sample(self, observation, leader_action, generator):
            told.append(leader_action)
            return torch.zeros_like(leader_action)

    seen = play(
        game,
        committed(game),
        Listening(),
        streams=3,
        steps=4,
        generators=[np.random.default_rng(0)],
    )
    assert [bool((action == -1).all()) for action in told] == [False, False, True, True]
    assert [bool((action >= 0).all()) for action in told] == [True, True, False, False]
    assert (seen.leader_action >= 0).all()
    induced = InducedMDP(game, freeze(committed(game)), 3, seeded())
    size = int(game.leader_space.n)
    for k in range(4):
        shown = induced.observation[:, -size:].sum(-1)
        assert (shown == (k < 2)).all()
        induced.step(torch.zeros(3, dtype=torch.long))


@pytest.mark.parametrize(
    ("changes", "limit", "ends", "how"),
    [
        ({}, None, 6, "truncated"),
        ({}, 4, 4, "truncated"),
        ({"cut": {"city": 3}}, None, 3, "truncated"),
        ({"leaves": {"city": 3}, "cut": {"driver": 3}}, None, 3, "truncated"),
        ({"leaves": {"city": 2}, "cut": {"driver": 4}}, None, 4, "truncated"),
        ({"leaves": {"city": 2}}, 4, 4, "truncated"),
        ({"leaves": {"city": 4, "driver": 4}}, 4, 4, "terminated"),
        ({"leaves": {"city": 6}}, None, 6, "truncated"),
    ],
)
def test_how_an_episode_ends(changes, limit, ends, how):
    game = game_of(**changes)
    vector = vector_of(game, copies=2, limit=limit)
    for k, (ours, theirs) in zip(range(1, 9), moves(game, 2), strict=False):
        found = vector.step(ours, theirs)
        assert (found.terminated == (how == "terminated" and k >= ends)).all()
        assert (found.truncated == (how == "truncated" and k >= ends)).all()


def test_who_is_terminated_and_truncated_at_once_has_terminated():
    class Both(Parking):
        def step(self, actions):
            found = super().step(actions)
            found[3].update({agent: True for agent, left in found[2].items() if left})
            return found

    game = from_parallel_env(lambda: Both(leaves={"city": 2, "driver": 3}))
    vector = vector_of(game)
    for k, pair in zip(range(1, 4), moves(game, 3), strict=False):
        found = vector.step(*pair)
        assert (found.terminated == (k == 3)).all()
        assert not found.truncated.any()


def test_empty_agents_are_the_end_if_one_has_terminated():
    class Sloppy(Parking):
        def step(self, actions):
            found = super().step(actions)
            if self.time == 2:
                found[2]["city"], self.agents = True, []
            return found

    game = from_parallel_env(Sloppy)
    vector = vector_of(game)
    vector.step(*next(moves(game, 3)))
    found = vector.step(*next(moves(game, 3)))
    assert found.terminated.all()
    assert (vector.leader_out & vector.follower_out).all()


def test_the_follower_is_told_the_leaders_action_if_it_observes_it():
    game = from_parallel_env(Parking, follower_observes_action=True)
    induced = InducedMDP(game, freeze(committed(game)), 8, seeded())
    assert induced.observation.shape == (8, 7 + 2)
    shown = induced.observation[:, 7:].argmax(-1)
    induced.step(torch.zeros(8, dtype=torch.long))
    assert 0 < shown.sum() < 8
    taken = [one.env.taken[0]["city"] for one in induced._vector._taken]
    assert taken == shown.tolist()
    assert from_parallel_env(Parking).vector(1, seeded()).follower_observation.shape == (1, 7)


# ---------------------------------------------------------------- randomness and the pool


def test_the_generator_decides_everything():
    game = game_of(length=4)
    first = run(vector_of(game, seed=1), game, 20)
    assert same(first, run(vector_of(game, seed=1), game, 20))
    assert same(first, run(vector_of(game_of(length=4), seed=1), game, 20))
    assert not same(first, run(vector_of(game, seed=2), game, 20))
    starts = vector_of(game, copies=16).leader_observation[:, 0]
    assert len(set(starts.tolist())) == 16  # copies are independent


def test_vectors_share_environments_but_do_not_disturb_each_other():
    made = []

    def make():
        made.append(Parking(length=4))
        return made[-1]

    game = from_parallel_env(make)
    alone = run(vector_of(game, seed=1), game, 12)
    assert len(made) == 3
    one, two = vector_of(game, seed=1), vector_of(game, seed=2)
    assert len(made) == 6
    together, draw = [(one.leader_observation, one.follower_observation)], moves(game, 3)
    for _ in range(12):
        found = one.step(*next(draw))
        two.step(*next(moves(game, 3, seed=5)))
        together.append((*found, one.leader_observation, one.follower_observation))
        one.reset(found.terminated | found.truncated)
        two.reset()
    assert same(alone, together)
    del one, two
    run(vector_of(game, copies=6), game, 3)
    assert len(made) == 6
    seeds = [seed for env in made for seed in env.seeds]
    assert None not in seeds
    state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    run(vector_of(game), game, 5)
    assert torch.equal(state[0], torch.get_rng_state())
    np.testing.assert_array_equal(state[1], np.random.get_state()[1])  # noqa: NPY002


@pytest.fixture
def closing():
    return type("Closing", (Closing,), {})


def test_idle_environments_are_few_and_closed_at_last(closing, monkeypatch):
    monkeypatch.setattr(parallel, "KEPT", 4)
    game = from_parallel_env(closing)
    one, two = vector_of(game), vector_of(game)
    assert (closing.made, closing.closed) == (6, 0)
    del one
    assert closing.closed == 0
    del two
    assert (closing.made, closing.closed) == (6, 2)
    vector = vector_of(game, copies=5)
    assert (closing.made, closing.closed) == (7, 2)
    del game
    gc.collect()
    assert closing.closed == 2  # the vector goes on
    vector.step(*(torch.zeros(5, dtype=torch.long) for _ in range(2)))
    del vector
    gc.collect()
    assert closing.closed == closing.made == 7


def test_a_fault_at_the_start_loses_no_environment(closing):
    class Failing(closing):
        def reset(self, seed=None, options=None):
            return 1 // 0

    game = from_parallel_env(Failing)
    for _ in range(3):
        with pytest.raises(InputError, match="ZeroDivisionError"):
            vector_of(game)
    assert Failing.made == 3
    del game
    gc.collect()
    assert Failing.closed == 3


def test_a_close_that_fails_disturbs_nobody(closing):
    class Stuck(closing):
        def close(self):
            super().close()
            raise OSError("stuck")

    game = from_parallel_env(Stuck)
    vector_of(game)
    del game
    gc.collect()
    assert Stuck.closed == 3


def test_an_environment_that_is_not_fresh_is_refused():
    env = Parking()
    game = from_parallel_env(lambda: supersuit.frame_stack_v1(env, 2), leader="city")
    vector_of(game, copies=1)
    with pytest.raises(InputError, match="a fresh environment"):
        vector_of(game, copies=2)


def test_copies_of_another_kind_are_refused():
    spaces_ = iter([2, 3])
    game = from_parallel_env(lambda: Parking(action=spaces.Discrete(next(spaces_))))
    with pytest.raises(InputError, match=r"Discrete\(2\), as at first, of agent 'city'"):
        vector_of(game, copies=2)


# ---------------------------------------------------------------- faults


def without(part: int, agent: str = "driver"):
    def mend(found):
        del found[part][agent]
        return found

    return mend


def put(part: int, value, agent: str = "driver"):
    def mend(found):
        found[part][agent] = value
        return found

    return mend


def fail(found):
    raise KeyError("wallet")


FAULTS = {
    "raises": (fail, "(?=.*city)(?=.*driver).*KeyError: 'wallet'", True),
    "nan reward": (put(1, float("nan")), "a finite reward of agent 'driver'; got nan", False),
    "infinite reward": (put(1, np.float32(np.inf), "city"), "reward of agent 'city'", False),
    "no number": (put(1, "3"), "a reward that is a number of agent 'driver'; got '3'", False),
    "none": (put(1, None), "number of agent 'driver'; got None", False),
    "two rewards": (put(1, np.zeros(2)), "number of agent 'driver'; got an array of", False),
    "no reward": (without(1), "an entry in rewards of agent 'driver'; got .*city", False),
    "no observation": (without(0, "city"), "observations of agent 'city'", False),
    "no termination": (without(2), "terminations of agent 'driver'", False),
    "no truncation": (without(3), "truncations of agent 'driver'", False),
    "odd flag": (put(2, "yes"), "True or False in terminations of agent 'driver'", False),
    "shape": (put(0, np.zeros(3), "city"), "an observation in Box.* of agent 'city'", False),
    "kind": (put(0, "here", "city"), "an observation in Box.* of agent 'city'; got 'here'", False),
    "out of Discrete": (put(0, 0), "an observation in Discrete.* of agent 'driver'; got 0", False),
    "nan": (put(0, np.full(2, np.nan), "city"), "a finite observation .* 'city'", False),
    "four parts": (lambda found: found[:4], "step.. to return .*; got tuple", False),
    "no dicts": (lambda found: (1, 2, 3, 4, 5), "step.. to return .*; got tuple", False),
    "nothing": (lambda found: None, "step.. to return .*; got NoneType", False),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named_with_agent_and_step(name):
    mend, said, chained = FAULTS[name]

    class Faulty(Broken):
        def mend(self, found):
            return mend(found)

    game = from_parallel_env(Faulty)
    vector = vector_of(game)
    with pytest.raises(InputError, match=rf"(?s)^expected .*{said}.*at step 3 of an") as error:
        run(vector, game, 3)
    assert isinstance(error.value.__cause__, KeyError) == chained


def test_a_box_observation_out_of_its_bounds_is_a_fault():
    bounded = spaces.Box(-1, 1, (2,), np.float64)

    class Faulty(Parking):
        def observed(self, agents):
            return super().observed(agents) | {"city": np.array([0.0, self.worth])}

    for worth, right in ((1.0, True), (1.0 + 1e-7, True), (1.1, False)):
        game = from_parallel_env(lambda w=worth: Faulty(observation=bounded, worth=w))
        if right:
            vector_of(game)
        else:
            with pytest.raises(InputError, match=r"from 0 to 1\.1 at the start"):
                vector_of(game)


def test_an_agent_that_vanishes_is_a_fault():
    class Vanishing(Parking):
        def step(self, actions):
            found = super().step(actions)
            if self.time == 2:
                self.agents = ["city"]
            return found

    game = from_parallel_env(Vanishing)
    with pytest.raises(InputError, match=r"of agent 'driver'; got agents = \['city'\].* step 2 "):
        run(vector_of(game), game, 2)


@pytest.mark.parametrize("which", ["observation", "driver_action"])
@pytest.mark.parametrize("within", [True, False])
def test_a_space_that_changes_is_a_fault(which, within):
    class Changing(Parking):
        def step(self, actions):
            found = super().step(actions)
            if within and self.time == 2:
                setattr(self, which, copy.deepcopy(getattr(self, which)))  # as good as it was
            if within and self.time == 3:
                new = {"observation": spaces.Box(-9, 9, (2,)), "driver_action": spaces.Discrete(2)}
                setattr(self, which, new[which])
            return found

        def reset(self, seed=None, options=None):
            if not within and self.seeds[1:]:
                if which == "driver_action":
                    self.driver_action.n = np.int64(5)  # in its place
                else:
                    self.observation.low[0] = 0
            return super().reset(seed, options)

    own = copy.deepcopy((Parking.observation, Parking.driver_action))
    game = from_parallel_env(lambda: Changing(observation=own[0], driver_action=own[1]))
    agent = "city" if which == "observation" else "driver"
    when = "at step 3" if within else "at the start"
    with pytest.raises(InputError, match=rf"as at first, of agent '{agent}'.* {when} of an"):
        run(vector_of(game, copies=1), game, 20)


@pytest.mark.parametrize("method", ["observation_space", "action_space"])
@pytest.mark.parametrize("within", [True, False])
def test_spaces_that_fail_in_an_episode_are_a_fault(method, within):
    """As those of environments that know the live agents alone."""

    class Forgetful(Parking):
        asked = False  # from outside, after the first steps

        def __init__(self):
            super().__init__()
            whole = getattr(self, method)

            def space(agent):
                if self.asked and agent == "driver":
                    raise KeyError(agent)
                return whole(agent)

            setattr(self, method, space)

        def step(self, actions):
            self.asked = False
            found = super().step(actions)
            self.asked = self.time == (3 if within else 6)
            return found

        def reset(self, seed=None, options=None):
            asked, self.asked = self.asked, False
            found = super().reset(seed)
            self.asked = asked
            return found

    game = from_parallel_env(Forgetful)
    when = "at step 3" if within else "at step 6"
    with pytest.raises(InputError, match=rf"of agent 'driver'; got KeyError: 'driver' .*{when} of"):
        run(vector_of(game), game, 8)


@pytest.mark.parametrize("missing", [True, False])
@pytest.mark.parametrize("when", [0, 2])
def test_agents_that_are_no_list_are_a_fault(missing, when):
    class Nameless(Parking):
        def spoil(self):
            if self.time == when and missing:
                del self.agents
            elif self.time == when:
                self.agents = None

        def reset(self, seed=None, options=None):
            found = super().reset(seed)
            self.spoil()
            return found

        def step(self, actions):
            found = super().step(actions)
            self.spoil()
            return found

    game = from_parallel_env(Nameless)
    kind = "AttributeError" if missing else "TypeError"
    place = "at step 2" if when else "at the start"
    with pytest.raises(InputError, match=rf"expected agents: a list .*; got {kind}.* {place} of"):
        run(vector_of(game), game, 3)


def test_environments_need_not_be_hashable():
    @dataclass
    class Plain(Parking):
        length: int = 4

        def __post_init__(self):
            super().__init__(length=self.length)

    with pytest.raises(TypeError):
        hash(Plain())
    game = from_parallel_env(Plain)
    assert len(run(vector_of(game), game, 5)) == 6  # equal, and yet three


def test_a_reset_that_fails_is_said():
    class Failing(Parking):
        def reset(self, seed=None, options=None):
            return 1 // 0

    class Old(Parking):
        def reset(self, seed=None, options=None):
            return super().reset(seed)[0]

    class Alone(Parking):
        def reset(self, seed=None, options=None):
            found = super().reset(seed)
            self.agents = ["city"]
            return found

    for kind, said in (
        (Failing, "ZeroDivisionError"),
        (Old, "observations of agent 'city'; got str at the start"),
        (Alone, "agents of agent 'driver'"),
    ):
        with pytest.raises(InputError, match=said):
            vector_of(from_parallel_env(kind))


# ---------------------------------------------------------------- the truth


class Same(BaseParallelWrapper):
    """A wrapper that changes nothing."""


def committed(game, policy=None) -> Commitment:
    """One leader that acts by a table on one-hot observations, or uniformly."""
    count = int(game.leader_space.n)

    def rule(observation):
        if policy is None:
            return torch.full((1, *observation.shape[-2:-1], count), 1 / count).log()
        rows = observation.expand(1, *observation.shape[-2:]).to(policy)
        return (rows @ policy).log()

    return Commitment(torch.zeros(1, 0, count), None, rule)


TABLES = {
    "discrete_toy": lambda: discrete_toy.game(horizon=12),
    "terminating": lambda: random_game(Recipe(seed=3, states=4, termination="anywhere")),
    "unseen": lambda: random_game(
        Recipe(seed=5, states=3, leader_actions=3, termination="on leaving", observes=False)
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_wrapped_table_plays_as_the_arrays_say(name):
    """Starts, both players' actions, transitions, rewards, endings, and the discounted returns."""
    truth = TABLES[name]()
    game = from_parallel_env(lambda: Same(parallel_env(truth)))
    assert isinstance(game, ParallelGame)
    model, limit = truth.model(), truth.horizon
    draw = seeded(7)
    shape = model.transition.shape[:3]
    policy = torch.softmax(torch.randn(shape[:2], generator=draw, dtype=torch.float64), -1)
    answer = torch.softmax(torch.randn(shape, generator=draw, dtype=torch.float64), -1)
    if not truth.follower_observes_action:
        answer = answer[:, :1].expand(shape)
    seen = play(
        game,
        committed(game, policy),
        TabularResponse(answer[None]),
        streams=60,
        steps=80,
        generators=[np.random.default_rng(1)],
    )
    first, following = (part[0].argmax(-1) for part in seen.points.leader.chunk(2, 1))
    state, arrived = first.view(60, 80), following.view(60, 80)
    a, b = seen.leader_action[0], seen.follower_action[0]
    start = state[seen.time[0] == 0].bincount(minlength=shape[0]).double()
    assert agrees(start, start.sum(), model.initial)
    ours = counts(shape[:2], state, a)
    assert agrees(ours, ours.sum(-1, keepdim=True), policy)
    theirs = counts(shape, state, a, b)
    assert agrees(theirs, theirs.sum(-1, keepdim=True), answer)
    total = model.transition if model.ending is None else model.transition + model.ending
    reached = counts(total.shape, state, a, b, arrived)
    assert agrees(reached, reached.sum(-1, keepdim=True), total)
    went_on = ~seen.terminated[0]
    stayed = counts(total.shape, *(x[went_on] for x in (state, a, b, arrived)))
    assert agrees(stayed, reached, torch.where(total > 0, model.transition / total, 0.0))
    np.testing.assert_allclose(seen.leader_reward[0], model.leader_reward[state, a, b])
    np.testing.assert_allclose(seen.follower_reward[0], model.follower_reward[state, a, b])
    assert seen.time.max() == limit - 1
    for reward, mine, discount in (
        (model.leader_reward, seen.leader_reward, truth.leader_discount),
        (model.follower_reward, seen.follower_reward, truth.follower_discount),
    ):
        joint = policy.unsqueeze(-1) * answer
        value = torch.zeros(shape[0], dtype=torch.float64)
        for _ in range(limit):
            value = (joint * (reward + discount * model.transition @ value)).sum((1, 2))
        found = seen.first_returns(mine, discount)[0]
        error = found.mean() - (model.initial * value).sum()
        assert error.abs() <= 4 * found.std() / 60**0.5 + 1e-9


def counts(shape, *index) -> torch.Tensor:
    table = torch.zeros(shape, dtype=torch.float64)
    ones = torch.ones(index[0].shape, dtype=torch.float64)
    return table.index_put_(index, ones, accumulate=True)


def agrees(count, tries, chance) -> bool:
    """Are binomial counts within five standard deviations of their chances?"""
    spread = (tries * chance * (1 - chance)).sqrt()
    return bool(((count - tries * chance).abs() <= 5 * spread + 1).all())


# ---------------------------------------------------------------- training


class Guesser:
    """A follower that acts at random, and trains by playing twenty steps; it carries a number."""

    name = "guesser"

    def __init__(self):
        self.calls = torch.zeros(1)

    def best_respond(self, game, commitment, seeds):
        self.calls += 1
        induced = InducedMDP(game, freeze(commitment), 2, seeded(seeds[0]))
        for _ in range(10):
            found = induced.step(torch.zeros(2, dtype=torch.long))
            induced.reset(found.terminated | found.truncated)
        return Guess(game, self.calls.item())

    def state(self):
        return {"calls": self.calls}

    def load(self, state):
        self.calls = state["calls"].clone()


class Guess:
    steps = 20

    def __init__(self, game, calls):
        self.game, self.calls = game, calls

    def sample(self, observation, leader_action, generator):
        count, shape = int(self.game.follower_space.n), observation.shape[:2]
        chance = torch.rand(shape, generator=generator)
        return ((chance + self.calls / 10) % 1 * count).long()


@pytest.fixture
def guessing(monkeypatch):
    made = registry.make_follower
    monkeypatch.setattr(
        registry, "make_follower", lambda name, o=(): Guesser() if name == "guesser" else made(name)
    )


WRAPPERS = {
    "frame_stack": lambda env: supersuit.frame_stack_v1(env, 3),
    "normalize_obs": supersuit.normalize_obs_v0,
    "clip_reward": lambda env: supersuit.clip_reward_v0(env, -0.1, 0.1),
    "dtype": lambda env: supersuit.dtype_v0(env, np.float64),
    "all": lambda env: supersuit.frame_stack_v1(
        supersuit.clip_reward_v0(supersuit.dtype_v0(supersuit.normalize_obs_v0(env), np.float64)), 2
    ),
}


@pytest.mark.parametrize(
    ("name", "own"), [*((name, False) for name in WRAPPERS), ("frame_stack", True), ("all", True)]
)
def test_training_through_supersuit(name, own):
    box = spaces.Box(-5, 5, (4,), np.float32)

    def make():
        changes = {"observation": box, "driver_observation": box, "length": 5, "max_cycles": 5}
        env = discrete_toy.parallel_env(max_cycles=5) if own else Parking(**changes)
        return WRAPPERS[name](env)

    game = from_parallel_env(make)
    assert isinstance(game, ParallelGame)
    config = TrainConfig(iterations=2, access="trajectories", evaluation_episodes=3)
    leader = mlp_leader(game)
    before = [parameter.detach().clone() for parameter in leader.parameters()]
    result = Coordinator(game, leader, Guesser(), config).run()
    assert len(result.metrics) == 2
    after = list(result.leader.parameters())
    assert all(parameter.isfinite().all() for parameter in after)
    assert not all(torch.equal(*pair) for pair in zip(before, after, strict=True))
    found = result.summary["leader_return"]
    assert np.isfinite(found["mean"])
    assert found["exact"] is None
    if name == "clip_reward":
        assert abs(result.metrics[0]["follower_return"]) <= 0.1 * 5


def test_evaluation_does_not_claim_steps_that_the_environment_cuts():
    game = game_of(length=5, max_cycles=5)
    config = TrainConfig(iterations=1, access="trajectories", evaluation_episodes=3)
    result = Coordinator(game, mlp_leader(game), Guesser(), config).run()
    assert result.summary["leader_return"]["horizon"] == 5


FILE = """
import sys
sys.path.insert(0, {tests!r})
import small_envs
from pettingzoo.utils.conversions import parallel_to_aec
from games import discrete_toy

class Counted(small_envs.Parking):
    steps = 0
    def step(self, actions):
        Counted.steps += 1
        if Counted.steps == {fails}:
            raise RuntimeError("out of petrol")
        return super().step(actions)

def env(length: int = 6, **nothing_else_is_known):
    if nothing_else_is_known:
        raise TypeError("unexpected keyword")
    return Counted(length=length)

def strict(length: int = 6):
    return Counted(length=length)

def turns():
    return parallel_to_aec(small_envs.Parking())

def own(**options):
    return discrete_toy.parallel_env(**options)

def game(**options):
    return discrete_toy.game(**options)
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.chdir(tmp_path)

    def write(fails: int = -1) -> None:
        text = FILE.format(tests=str(Path(__file__).parent), fails=fails)
        Path("mine.py").write_text(text)

    write()
    yield write
    sys.modules.pop("_own_mine", None)


@pytest.mark.parametrize("factory", ["env", "strict"])
def test_options_go_to_the_factory_then_to_the_settings(file, factory):
    options = ["length=4", "temperature=0.3", "horizon=3", "follower_observes_action=True"]
    game = registry.make_game(f"mine.py:{factory}", options, "driver")
    assert (game.temperature, game.horizon, game.leader_agent) == (0.3, 3, "driver")
    assert game.follower_observes_action
    vector = vector_of(game, copies=2, limit=99)
    assert [one.env.length for one in vector._taken] == [4, 4]
    for option, said in (
        ("temperature=-1", "temperature > 0"),
        ("temperature=warm", "temperature: a number"),
        ("nothing=1", "an option of .*temperature.*; check the spelling"),
        ("temprature=1", "did you mean temperature"),
        ("length=many", "length: an integer"),
    ):
        with pytest.raises(InputError, match=said):
            registry.make_game(f"mine.py:{factory}", [option])


def test_factories_of_environments(file):
    assert registry.make_game("mine.py:turns").leader_agent == "city"
    game = registry.make_game("mine.py:own", ["temperature=0.3", "bonus=2"][:1])
    assert (game.tabular, game.temperature) == (True, 0.3)
    with pytest.raises(InputError, match="a finite temperature > 0"):
        registry.make_game("mine.py:own", ["temperature=-1"])
    with pytest.raises(InputError, match="one of the agents city, driver; got 'mayor'"):
        registry.make_game("mine.py:env", [], "mayor")
    with pytest.raises(InputError, match="a leader agent of a PettingZoo environment alone"):
        registry.make_game("mine.py:game", [], "leader")


TRAIN = ["train", "mine.py:env", "--follower", "guesser", "--access", "trajectories"]
TRAIN += ["--leader-agent", "driver", "--game-option", "temperature=0.5", "--game-option"]
TRAIN += ["length=5", *("--game-option", "leader_discount=0.5")]
TRAIN += [
    "--game-option",
    "follower_discount=0.5",
    "--streams",
    "1",
    "--steps",
    "5",
    "--evaluation-episodes",
    "4",
    "--quiet",
]


def rows(path: str) -> list[dict]:
    lines = (Path(path) / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def test_training_by_command_and_resuming(guessing, file, capsys):
    assert cli.main([*TRAIN, "--iterations", "3", "--out", "whole"]) == 0
    config = json.loads(Path("whole/config.json").read_text())
    assert config["leader_agent"] == "driver"
    assert config["game_model"]["leader_agent"] == "driver"
    assert config["game_options"].items() > {"temperature": "0.5", "length": "5"}.items()
    assert cli.main([*TRAIN, "--iterations", "2", "--out", "parts"]) == 0
    again = ["train", "mine.py:env", "--out", "parts", "--resume"]
    assert cli.main([*again, "--leader-agent", "city"]) == 2
    assert "the run's own leader_agent = 'driver'" in capsys.readouterr().err
    assert cli.main([*again, "--iterations", "3"]) == 0
    assert rows("parts") == rows("whole")
    said = capsys.readouterr().out
    assert re.match(r"^leader return \S+ \+- \S+; written to parts\n$", said)


@pytest.mark.parametrize("place", ["play", "best_respond"])
def test_a_fault_in_training_keeps_the_run(guessing, file, capsys, place):
    """Iteration 2 fails; after mending, the run ends as one that never failed."""
    steps = 25 * 2 + (22 if place == "play" else 11)  # 20 of the follower's, 5 of play an iteration
    assert cli.main([*TRAIN, "--iterations", "3", "--out", "whole"]) == 0
    file(fails=steps)
    assert cli.main([*TRAIN, "--iterations", "3", "--out", "parts"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert re.match(r"^stackelberg: expected [^\n]+RuntimeError: out of petrol[^\n]+\n$", said.err)
    assert "2 outer iterations are kept, --resume goes on" in said.err
    assert len(rows("parts")) == 2
    file()
    assert cli.main(["train", "mine.py:env", "--out", "parts", "--resume", "--quiet"]) == 0
    assert rows("parts") == rows("whole")


def test_a_fault_in_the_first_iteration_leaves_nothing(guessing, file, capsys):
    file(fails=2)
    assert cli.main([*TRAIN, "--iterations", "5", "--out", "parts"]) == 2
    assert not Path("parts").exists()
    assert "kept" not in capsys.readouterr().err


@pytest.mark.parametrize("command", ["solve", "study"])
def test_what_needs_tables_says_so(file, capsys, command):
    assert cli.main([command, "mine.py:env"]) == 2
    said = capsys.readouterr().err
    assert "expected a game that shows tables or matrices; got 'mine.py:env', an env" in said
