"""PettingZoo's conformance tests, of every game alike."""

import warnings

from pettingzoo.test import api_test, parallel_api_test, parallel_seed_test
from pettingzoo.test.state_test import state_test
from pettingzoo.utils import parallel_to_aec

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
