"""BilevelLQR: both players push a linear system, of which the leader wants to be somewhere else."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import block_diag

from games.arrays import is_standard
from games.linear import LinearGame
from stackelberg.environment import Environment
from stackelberg.errors import InputError

OPTIMUM = 16.66127319419858  # of linear leaders by `stackelberg solve`, which every restart reaches


class BilevelLQR(LinearGame):
    """The game, drawn in the plane of its first two states."""

    target: np.ndarray
    width: np.ndarray | None

    def picture(self, axes: Any, values: np.ndarray, title: str) -> None:
        """Where the system is, and what the leader is paid for: the middle and a width around."""
        here, there = (np.pad(x, (0, 2))[:2] for x in (values, self.target))
        if self.width is not None:
            angle = np.linspace(0, 2 * np.pi, 100)
            wide = np.pad(self.width, (0, 2))[:2]
            axes.fill(there[0] + wide[0] * np.cos(angle), there[1] + wide[1] * np.sin(angle), "C1")
        axes.plot(*there, "x", color="C1")
        axes.plot(*here, "o", color="C0")
        axes.axhline(0, color="0.8", zorder=0)
        axes.axvline(0, color="0.8", zorder=0)
        reach = max(1.2, 1.2 * float(np.abs([here, there]).max()))
        axes.set(title=title, xlabel="$s_1$", ylabel="$s_2$")
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach))

    def picture_moves(
        self, axes: Any, values: np.ndarray, leader_action: Any, follower_action: Any
    ) -> None:
        """The pushes of the leader, red, and of the follower, blue, to where they led."""
        k, n = self._model.leader_actions, self._model.states
        pushes = self._model.transition[:, 1 + n :].numpy()
        here = np.pad(values, (0, 2))[:2]
        moves = ((pushes[:, :k], leader_action, "red"), (pushes[:, k:], follower_action, "blue"))
        for matrix, action, colour in moves:
            push = np.pad(matrix @ action, (0, 2))[:2]
            axes.plot(*zip(here - push, here, strict=True), color=f"tab:{colour}", zorder=1)


def game(
    A: ArrayLike = ((0.0, 1.0), (0.0, 0.0)),
    B: ArrayLike = ((0.0,), (0.1,)),
    C: ArrayLike = ((0.1,), (0.0,)),
    Q: ArrayLike = ((1.0, 0.0), (0.0, 1.0)),
    R: ArrayLike = ((1.0,),),
    target: ArrayLike = (-0.8, 0.0),
    width: ArrayLike | None = (0.2, 0.01),
    leader_Q: ArrayLike | None = None,
    leader_N: ArrayLike | None = None,
    start: ArrayLike = (1.0, 0.0),
    noise: float = 0.0,
    **settings: Any,
) -> BilevelLQR:
    """A follower steers a linear system to the origin; the leader wants it at a target.

    Description: s' = A s + B b + C a + N(0, noise^2). The default is a chain of two states; the
        leader pushes the first, the follower the second.
    Action space: leader Box(-inf, inf, (k,)), follower Box(-inf, inf, (m,)).
    Observation space: Box(-inf, inf, (n,)), the state.
    Start: `start`. End: never; episodes are cut after 100 steps.
    Reward: follower -s'Q s - b'R b; leader, with e = s - target,

            exp(-sum_i (e_i / width_i)^2 / 2) - e' leader_Q e - a' leader_N a,

        where what is not given does not count. The bump is narrow and almost flat at the start.
    Arguments: matrices A [n, n], B [n, m], C [n, k], symmetric Q [n, n] and R [m, m] (positive
        definite), `leader_Q` [n, n], `leader_N` [k, k]; `target`, `width` (> 0) and `start` [n].
        Without `width` the leader's cost is quadratic. Discounts 0.99 of the leader and 0.95,
        temperature 0.1; the default leader is linear without a constant, of standard deviation
        0.001.
    Source: Kudo et al., arXiv:2603.14867 (BilevelLQR).
    Version history: v0.
    """
    named = A, B, C, Q, R, target, width, leader_Q, leader_N, start, noise
    default = all(x is y for x, y in zip(named, game.__defaults__ or (), strict=True))
    A, B, C, Q, R = (_matrix(n, x) for n, x in zip("ABCQR", (A, B, C, Q, R), strict=True))
    states, follower_actions, leader_actions = len(A), B.shape[1], C.shape[1]
    ours = np.zeros((states,) * 2) if leader_Q is None else _matrix("leader_Q", leader_Q)
    own = np.zeros((leader_actions,) * 2) if leader_N is None else _matrix("leader_N", leader_N)
    for name, given, shape in (
        ("A", A, (states, states)),
        ("B", B, (states, follower_actions)),
        ("C", C, (states, leader_actions)),
        ("Q", Q, (states, states)),
        ("R", R, (follower_actions, follower_actions)),
        ("leader_Q", ours, (states, states)),
        ("leader_N", own, (leader_actions, leader_actions)),
    ):
        _check_shape(name, given, shape)
    aim, begin = _vector("target", target, states), _vector("start", start, states)
    away = np.eye(states, 1 + states + leader_actions + follower_actions, 1)  # e = away z
    away[:, 0] = -aim
    wide = None if width is None else _width(width, states)
    bump = None if wide is None else away / wide[:, None]
    standard = {
        "leader_discount": 0.99,
        "follower_discount": 0.95,
        "temperature": 0.1,
        "leader_std": 0.001,
        "affine": False,
    }
    as_published = default and is_standard(settings, standard)
    defaults = standard | {"horizon": 100, "optimum": OPTIMUM if as_published else None}
    made = BilevelLQR(
        np.hstack([np.zeros((states, 1)), A, C, B]),
        away.T @ ours @ away + block_diag(np.zeros((1 + states,) * 2), own, 0 * R),
        block_diag(0, Q, 0 * own, R),
        leader_actions=leader_actions,
        noise=noise**2 * np.eye(states),
        initial_mean=begin,
        bump=bump,
        name="lqr",
        **defaults | settings,
    )
    made.target, made.width = aim, wide
    return made


def parallel_env(
    render_mode: str | None = None, max_cycles: int | None = None, **options: Any
) -> Environment:
    """`game(**options)` as a PettingZoo environment."""
    return Environment(game(**options), render_mode, max_cycles)


def _array(name: str, given: ArrayLike, dimensions: int) -> np.ndarray:
    form = {1: "a vector", 2: "a matrix"}[dimensions]
    try:
        array = np.array(given, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{name}: {form} of numbers", f"{given!r}", f"mend it ({error})"
        ) from error
    if array.ndim != dimensions or not array.size:
        raise InputError(
            f"{name}: {form}",
            f"shape {list(array.shape)}",
            f"write for example {'[[0.1], [0.0]]' if dimensions == 2 else '[1.0, 0.0]'}",
        )
    return array


def _matrix(name: str, given: ArrayLike) -> np.ndarray:
    return _array(name, given, 2)


def _vector(name: str, given: ArrayLike, states: int) -> np.ndarray:
    vector = _array(name, given, 1)
    _check_shape(name, vector, (states,))
    return vector


def _width(given: ArrayLike, states: int) -> np.ndarray:
    width = _vector("width", given, states)
    if not (np.isfinite(width) & (width > 0)).all():
        raise InputError(
            "width: positive numbers", f"{width.tolist()}", "give the bump's spread in each state"
        )
    return width


def _check_shape(name: str, given: np.ndarray, shape: tuple[int, ...]) -> None:
    if given.shape != shape:
        raise InputError(
            f"{name} of shape {list(shape)}",
            f"shape {list(given.shape)}",
            "A has a row and a column for each state, B and C a column for each action",
        )
