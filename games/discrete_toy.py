"""DiscreteToy: the smallest game in which the naive gradient leads the leader astray."""

from typing import Any

import numpy as np

from games.tabular import TabularGame
from stackelberg.environment import Environment

S, A, B = range(3)  # states
STAY, GO_A, GO_B = range(3)  # follower actions
OPEN, CLOSE = range(2)  # leader actions; they matter in A only
NAMES = {"state": "SAB", "leader": ("open", "close"), "follower": ("S", "A", "B")}

STANDARD = {
    "leader_discount": 0.99,
    "follower_discount": 0.99,
    "temperature": 0.05,
    "follower_observes_action": True,
}

# With these settings, by `stackelberg solve`, all restarts agreeing: the leader closes A just so
# often that the follower still finds it worth passing through.
OPTIMA = {1.0: 34.99264127975078, 2.0: 39.94021106430793}


def game(bonus: float = 1.0, **settings: Any) -> TabularGame:
    """A follower walks between S, A and B; the leader wants it to leave S for A.

    Description: from S the follower may go to A or B (each pays it 1), from A back to S or on to B,
        from B back to S. The leader acts in A: when it closes, the follower is sent to S and pays
        1; when it leaves A open, going on to B pays the follower `bonus`.
    Action space: leader Discrete(2) {open, close}; follower Discrete(3) {to S or stay, A, B}.
    Observation space: Box(3), one-hot of S, A, B.
    Start: S. End: never; episodes are cut after 150 steps.
    Reward: leader 1 for every move from S to A; follower as above.
    Arguments: `bonus` R, 1 or 2 in the literature. Discounts 0.99, temperature 0.05.
    Source: Kudo et al., arXiv:2603.14867 (DiscreteToy; R1 and R2 are bonus 1 and 2).
    Version history: v0.
    """
    to = np.zeros((3, 2, 3), dtype=int)
    to[S] = [S, A, B]
    to[A, OPEN] = [S, A, B]
    to[A, CLOSE] = S
    to[B] = [S, B, B]
    follower = np.zeros((3, 2, 3))
    follower[S, :, [GO_A, GO_B]] = 1.0
    follower[A, CLOSE] = -1.0
    follower[A, OPEN, GO_B] = bonus
    leader = np.zeros((3, 2, 3))
    leader[S, :, GO_A] = 1.0
    changed = {key: value for key, value in settings.items() if key not in ("horizon", "optimum")}
    known = OPTIMA.get(float(bonus)) if changed.items() <= STANDARD.items() else None
    defaults = {"temperature": 0.05, "horizon": 150, "optimum": known}
    made = TabularGame(np.eye(3)[to], leader, follower, name="discrete_toy", **defaults | settings)
    made.names = NAMES
    return made


def parallel_env(
    render_mode: str | None = None, max_cycles: int | None = None, **options: Any
) -> Environment:
    """`game(**options)` as a PettingZoo environment."""
    return Environment(game(**options), render_mode, max_cycles)
