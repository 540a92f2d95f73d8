"""PettingZoo's conformance tests, of every game alike."""

import warnings

import pettingzoo
from pettingzoo.test import api_test, parallel_api_test, parallel_seed_test
from pettingzoo.test.state_test import state_test
from pettingzoo.utils import parallel_to_aec

import games

NAMES = "We recommend agents to be named"  # "leader" and "follower" say more than "player_0"


def conform(make, *expected: str) -> None:
    """All of them; a warning is a failure unless it is of the agents' names, or expected."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for message in (NAMES, *expected):
            warnings.filterwarnings("ignore", message)
        parallel_api_test(make(), num_cycles=60)
        parallel_seed_test(make, num_cycles=60)
        api_test(parallel_to_aec(make()), num_cycles=60)
        state_test(parallel_to_aec(make()), make())


def conform_shipped(module, *expected: str) -> None:
    """Of a module of `games`, which PettingZoo knows by its name as well."""
    assert games.__doc__
    conform(module.parallel_env, *expected)
    name = module.__name__.split(".")[-1]
    env = pettingzoo.make("parallel", f"stackelberg/{name}_v0", max_cycles=7, temperature=0.2)
    assert (env.max_cycles, env.game.temperature) == (7, 0.2)
