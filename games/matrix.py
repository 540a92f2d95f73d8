"""Matrix games: one shot, a payoff matrix for each player."""

import json
from typing import Any

import numpy as np
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike

from games.tabular import TabularGame
from stackelberg.environment import Environment
from stackelberg.errors import InputError

# Payoffs of the leader and of the follower by [leader's action, follower's action], and what these
# are called.
CLASSICS = {
    "prisoners_dilemma": ([[3, 0], [5, 1]], [[3, 5], [0, 1]]),
    "chicken": ([[3, 1], [4, 0]], [[3, 4], [1, 0]]),
    "stag_hunt": ([[4, 0], [3, 2]], [[4, 3], [0, 2]]),
    "battle_of_the_sexes": ([[2, 0], [0, 1]], [[1, 0], [0, 2]]),
    "matching_pennies": ([[1, -1], [-1, 1]], [[-1, 1], [1, -1]]),
    "commitment": ([[2, 4], [1, 3]], [[1, 0], [0, 1]]),
}
ACTIONS = {
    "prisoners_dilemma": ("cooperate", "defect"),
    "chicken": ("swerve", "go straight"),
    "stag_hunt": ("stag", "hare"),
    "battle_of_the_sexes": ("leader's choice", "follower's"),
    "matching_pennies": ("heads", "tails"),
    "commitment": ("top", "bottom", "left", "right"),
}
LARGEST_GRID = 1_000_000
READABLE = 8  # actions of a player up to which payoffs are written
COLOURS = "tab:red", "tab:blue"  # of leader and follower


class MatrixGame(TabularGame):
    """The game, drawn as its matrix."""

    def picture(self, axes: Any, values: np.ndarray, title: str) -> None:
        """Both payoffs of every cell, the leader's in red; of the one state there is no more.

        Of a larger matrix the leader's alone, the darker the more.
        """
        model = self.model()
        payoffs = model.leader_reward[0].numpy(), model.follower_reward[0].numpy()
        if max(payoffs[0].shape) > READABLE:
            axes.imshow(payoffs[0], cmap="Reds", aspect="auto")
            axes.set(title=title, xlabel="follower", ylabel="leader")
            return
        axes.imshow(np.ones_like(payoffs[0]), cmap="gray", vmin=0, vmax=1)
        for who, payoff in enumerate(payoffs):
            for (row, column), paid in np.ndenumerate(payoff):
                place = {"ha": "center", "va": "center", "size": 12, "color": COLOURS[who]}
                axes.text(column + 0.4 * who - 0.2, row, f"{paid:.3g}", **place)
        for side, player, count in zip("yx", ("leader", "follower"), payoffs[0].shape, strict=True):
            names = self.names.get(player) or range(count)
            axes.set(**{f"{side}ticks": range(count), f"{side}ticklabels": names})
            axes.set(**{f"{side}label": player})
            getattr(axes, f"set_{side}ticks")(np.arange(count - 1) + 0.5, minor=True)
        axes.grid(which="minor", color="0.7")
        axes.tick_params(which="both", length=0)
        axes.set_title(title)

    def picture_moves(
        self, axes: Any, values: np.ndarray, leader_action: Any, follower_action: Any
    ) -> None:
        """The cell that was played."""
        corner = int(follower_action) - 0.47, int(leader_action) - 0.47
        axes.add_patch(Rectangle(corner, 0.94, 0.94, fill=False, linewidth=2.5))


def game(
    name: str | None = None,
    leader_payoff: ArrayLike | str | None = None,
    follower_payoff: ArrayLike | str | None = None,
    follower_observes_action: bool = False,
    temperature: float = 0.1,
    **settings: Any,
) -> MatrixGame:
    """Both players move once and are paid by a matrix each.

    Description: the leader commits to a mixed strategy, a distribution over its actions. The
        follower knows the strategy and responds: to the strategy itself or, if
        `follower_observes_action`, to the action drawn from it. In "commitment" every pure strategy
        is worse than a mixed one: as the temperature falls, playing top pays the leader 2, bottom
        3, and half of each 3.5 (with ties broken in its favour).
    Action space: leader Discrete(A), follower Discrete(B): rows and columns of the matrices.
    Observation space: Box(1), always 1; there is one state.
    Start: the only state. End: after one step.
    Reward: leader_payoff[a, b] and follower_payoff[a, b].
    Arguments: either `name`, one of prisoners_dilemma, chicken, stag_hunt, battle_of_the_sexes,
        matching_pennies, commitment, or both `leader_payoff` and `follower_payoff` [A, B], as
        arrays or in JSON; "commitment" unless given. `follower_observes_action` and `temperature`
        as for every game. The optimum is known if the follower observes or if A <= 2.
    Source: "commitment" is the first example of Conitzer and Sandholm, Computing the optimal
        strategy to commit to, EC 2006; the others are folklore.
    Version history: v0.
    """
    leader, follower = _payoffs(name, leader_payoff, follower_payoff)
    defaults = {"horizon": 1} | settings
    made = MatrixGame(
        np.ones((1, *leader.shape, 1)),
        leader[None],
        follower[None],
        termination=1.0,
        name="matrix",
        temperature=temperature,
        follower_observes_action=follower_observes_action,
        **defaults,
    )
    if leader_payoff is None:
        actions = ACTIONS["commitment" if name is None else name]
        made.names = {"leader": actions[:2], "follower": actions[-2:]}
    if made.optimum is None:
        find = best_action if made.follower_observes_action else best_mixture
        made.optimum = find(leader, follower, made.temperature)
    return made


def parallel_env(
    render_mode: str | None = None, max_cycles: int | None = None, **options: Any
) -> Environment:
    """`game(**options)` as a PettingZoo environment."""
    return Environment(game(**options), render_mode, max_cycles)


def strategy_value(
    leader: np.ndarray, follower: np.ndarray, temperature: float, strategy: np.ndarray
) -> np.ndarray:
    """J of mixed strategies f against a follower that knows f and does not see the action.

    J = sum_b g(b) sum_a f(a) r_L(a,b),  g = softmax_b( sum_a f(a) r_F(a,b) / beta ).

    Args:
        leader, follower: payoffs [A, B]. temperature: beta > 0. strategy: f [..., A].
    """
    scaled = strategy @ follower / temperature
    weight = np.exp(scaled - scaled.max(-1, keepdims=True))
    return (weight * (strategy @ leader)).sum(-1) / weight.sum(-1)


def best_action(leader: np.ndarray, follower: np.ndarray, temperature: float) -> float:
    """max_f J against a follower that sees the action: J is linear in f, so an action is best."""
    return float(strategy_value(leader, follower, temperature, np.eye(len(leader))).max())


def best_mixture(leader: np.ndarray, follower: np.ndarray, temperature: float) -> float | None:
    """max_f J against a follower that does not see the action, for at most two actions.

    A grid, 20 points to every change of the response by a factor e, then a zoom on its best local
    maxima. None if there are more actions, or if the temperature asks for too fine a grid.
    """
    if len(leader) == 1:
        return best_action(leader, follower, temperature)
    points = 1000 + 20 * np.ptp(follower[0] - follower[1]) / temperature
    if len(leader) > 2 or points > LARGEST_GRID:
        return None

    def value(p: np.ndarray) -> np.ndarray:
        return strategy_value(leader, follower, temperature, np.stack([p, 1 - p], -1))

    grid = np.linspace(0.0, 1.0, int(points))
    found = np.pad(value(grid), 1, constant_values=-np.inf)
    peaks = (found[1:-1] >= found[:-2]) & (found[1:-1] >= found[2:])
    centre = grid[peaks][np.argsort(found[1:-1][peaks])[-10:]]
    width = grid[1]
    while width > 1e-13:
        near = np.clip(centre[:, None] + width * np.linspace(-1, 1, 33), 0.0, 1.0)
        centre = near[np.arange(len(near)), value(near).argmax(-1)]
        width /= 16
    return float(value(centre).max())


def _payoffs(
    name: str | None, leader: ArrayLike | str | None, follower: ArrayLike | str | None
) -> tuple[np.ndarray, np.ndarray]:
    if leader is None and follower is None:
        chosen = "commitment" if name is None else name
        if chosen not in CLASSICS:
            raise InputError(
                f"name: one of {', '.join(CLASSICS)}",
                f"{name!r}",
                "choose one of them or give leader_payoff and follower_payoff",
            )
        leader, follower = CLASSICS[chosen]
    elif name is not None or leader is None or follower is None:
        given = {"name": name, "leader_payoff": leader, "follower_payoff": follower}
        raise InputError(
            "either name or both leader_payoff and follower_payoff",
            " and ".join(key for key, value in given.items() if value is not None),
            "leave out the name, or the payoffs",
        )
    ours, theirs = _payoff("leader_payoff", leader), _payoff("follower_payoff", follower)
    if ours.shape != theirs.shape:
        raise InputError(
            "leader_payoff and follower_payoff of the same shape [A, B]",
            f"shapes {list(ours.shape)} and {list(theirs.shape)}",
            "give both by leader's action (rows) and follower's action (columns)",
        )
    return ours, theirs


def _payoff(name: str, given: ArrayLike | str) -> np.ndarray:
    try:
        payoff = np.array(json.loads(given) if isinstance(given, str) else given, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{name}: a matrix of numbers",
            f"{given!r}",
            f'write it as "[[2, 4], [1, 3]]" ({error})',
        ) from error
    if payoff.ndim != 2 or not payoff.size:
        raise InputError(
            f"{name} of shape [A, B]",
            f"shape {list(payoff.shape)}",
            "give a row for each action of the leader, a column for each of the follower",
        )
    if not np.isfinite(payoff).all():
        where = np.argwhere(~np.isfinite(payoff))[0]
        raise InputError(
            f"{name}: finite numbers",
            f"{payoff[tuple(where)]} at index {where.tolist()}",
            "replace it; forbid an action by a large finite penalty, not by infinity",
        )
    return payoff
