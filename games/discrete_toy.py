"""DiscreteToy: the smallest game in which the naive gradient leads the leader astray."""

from typing import Any

import numpy as np
from matplotlib.patches import Circle, FancyArrowPatch

from games.arrays import is_standard
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


PLACES = {S: (0.0, 0.0), A: (1.0, 0.9), B: (2.0, 0.0)}
BLUE = np.array([0.12, 0.47, 0.71])
WAYS = [(S, A), (S, B), (A, S), (A, B), (B, S)]


class DiscreteToy(TabularGame):
    """The game, drawn as its three states and the ways between them."""

    def picture(self, axes: Any, values: np.ndarray, title: str) -> None:
        """The states, the darker the larger their number; a state reached stands alone."""
        for start, end in WAYS:
            _arrow(axes, start, end, color="0.8")
        largest, place = max(values.max(), 1e-12), values.sum() == values.max() == 1
        for state, (x, y) in PLACES.items():
            share = max(values[state], 0) / largest
            colour = "white" if share > 0.5 else "black"
            circle = {"facecolor": 1 - share * (1 - BLUE), "edgecolor": "0.5"}
            axes.add_patch(Circle((x, y), 0.22, zorder=2, **circle))
            number = "" if place else f"\n{values[state]:.3g}"
            text = {"ha": "center", "va": "center", "zorder": 3, "color": colour}
            axes.text(x, y, NAMES["state"][state] + number, **text)
        axes.set(title=title, xlim=(-0.4, 2.4), ylim=(-0.6, 1.4), xticks=[], yticks=[])
        axes.set_aspect("equal")

    def picture_moves(
        self, axes: Any, values: np.ndarray, leader_action: Any, follower_action: Any
    ) -> None:
        """What both chose, by name."""
        ours, theirs = NAMES["leader"][int(leader_action)], NAMES["follower"][int(follower_action)]
        axes.set_xlabel(f"leader: {ours} A, follower: to {theirs}")


def _arrow(axes: Any, start: int, end: int, **style: Any) -> None:
    style |= {"arrowstyle": "-|>", "mutation_scale": 12, "shrinkA": 24, "shrinkB": 24}
    style |= {"connectionstyle": "arc3,rad=0.12"}
    axes.add_patch(FancyArrowPatch(PLACES[start], PLACES[end], **style))


def game(bonus: float = 1.0, **settings: Any) -> DiscreteToy:
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
    known = OPTIMA.get(float(bonus)) if is_standard(settings, STANDARD) else None
    defaults = {"temperature": 0.05, "horizon": 150, "optimum": known}
    made = DiscreteToy(np.eye(3)[to], leader, follower, name="discrete_toy", **defaults | settings)
    made.names = NAMES
    return made


def parallel_env(
    render_mode: str | None = None, max_cycles: int | None = None, **options: Any
) -> Environment:
    """`game(**options)` as a PettingZoo environment."""
    return Environment(game(**options), render_mode, max_cycles)
