"""Linear-quadratic games, given as matrices: batched stepping, derivatives and oracles for free."""

import math
from collections.abc import Container
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from games.arrays import Array, ArrayOrFunction, Latest, Parts, array, listed
from stackelberg.errors import InputError
from stackelberg.game import Game, Reenacted, Step
from stackelberg.linear_model import LinearModel
from stackelberg.model import check_finite

SYMMETRIC = 1e-9  # by how much of its largest entry a matrix may miss symmetry


class _Linear(Game):
    """What both kinds of linear-quadratic game share: the state is a vector, and is observed."""

    _model: LinearModel
    limit: float  # within which the mean of s' is clipped, infinite unless given

    def _describe(
        self, model: LinearModel, follower_space: spaces.Box | None, limit: float | None
    ) -> None:
        self._model = model
        self.limit = _checked_limit(limit)
        self._start, self._shock = _root(model.initial_covariance), _root(model.noise)
        self.observation_space = _unbounded(model.states)
        self.follower_space = _space("follower_space", follower_space, model.follower_actions)

    def at_temperature(self, temperature: float) -> "_Linear":
        other = cast(_Linear, super().at_temperature(temperature))
        other._model = replace(self._model, temperature=other.temperature)
        return other

    def observe(self, state: Tensor) -> Tensor:
        return state.to(torch.float32)

    def initial(self, n: int, generator: torch.Generator) -> Tensor:
        return self._model.initial_mean + _normal(n, self._start, generator)

    def step(
        self,
        state: Tensor,
        leader_action: Tensor,
        follower_action: Tensor,
        generator: torch.Generator,
    ) -> Step:
        model, z = self._met(state, leader_action, follower_action)
        following = self._mean(model, z) + _normal(len(z), self._shock, generator)
        ended = torch.zeros(len(z), dtype=torch.bool)
        return Step(following, *_rewards(model, z), ended)

    def reenact(
        self,
        observation: Tensor,
        leader_action: Tensor,
        follower_action: Tensor,
        next_observation: Tensor,
    ) -> Reenacted:
        model, z = self._attached(observation, leader_action, follower_action)
        mean = self._mean(model, z)
        following = next_observation.to(mean) + (mean - mean.detach())
        return Reenacted(following, *_rewards(model, z))

    def log_transition(
        self,
        observation: Tensor,
        leader_action: Tensor,
        follower_action: Tensor,
        next_observation: Tensor,
    ) -> Tensor:
        factor, failed = torch.linalg.cholesky_ex(self._model.noise)
        if failed:
            raise InputError(
                "transitions with a density: a positive definite covariance of their noise",
                f"'{self.name}', whose noise is zero in some direction",
                "use the pathwise derivative, Game.reenact, or give the game noise",
            )
        model, z = self._attached(observation, leader_action, follower_action)
        missed = next_observation.to(z) - self._mean(model, z)
        scaled = torch.linalg.solve_triangular(factor, missed.mT, upper=False)
        size = factor.diagonal().log().sum() + 0.5 * len(factor) * math.log(2 * math.pi)
        return -0.5 * scaled.square().sum(0) - size

    def _mean(self, model: LinearModel, z: Tensor) -> Tensor:
        """E[s'|z] [n, states]."""
        return _times(z, model.transition.mT).clamp(-self.limit, self.limit)

    def _met(self, state: Tensor, leader_action: Tensor, b: Tensor) -> tuple[LinearModel, Tensor]:
        """The matrices of the rows, and z [n, K], in play."""
        raise NotImplementedError

    def _attached(
        self, state: Tensor, leader_action: Tensor, b: Tensor
    ) -> tuple[LinearModel, Tensor]:
        """The same, attached to what the leader does."""
        return self._met(state, leader_action, b)


class LinearGame(_Linear):
    """A linear-quadratic Markov game, in which the leader acts at every step.

    With z = (1, s, a, b) of length K = 1 + n + k + m,

        s'  = transition z + w,  w ~ N(0, noise)
        r_F = -z' follower_cost z
        r_L = -z' leader_cost z + height exp(-|bump z|^2 / 2),

    so that s' = c + A s + C a + B b is `torch.cat([c, A, C, B], 1)`, and a cost s'Qs + a'Na + b'Rb
    is `scipy.linalg.block_diag(0, Q, N, R)`; others are sums of `product` and `squared_error`.

    Args:
        transition: [n, K]. leader_cost, follower_cost: [K, K], symmetric; the follower's is
            positive definite in b.
        leader_actions: k.
        noise, initial_covariance: [n, n], positive semidefinite; 0 unless given.
        initial_mean: [n]; 0 unless given.
        bump: [r, K]; there is none unless given. height: of it.
        limit: the mean of s' is clipped to [-limit, limit], which oracles do not know; not unless
            given.
        leader_space, follower_space: Boxes of shapes (k,) and (m,); unbounded unless given. Bounds
            are for those who look for actions inside them, as the follower sac does: neither steps,
            nor oracles, nor linear leaders keep to them.
        affine: has the default leader's rule a constant? leader_std: > 0, of the default leader.
        settings: see `stackelberg.game.Game`.

    Raises:
        InputError: for a wrong shape, a matrix that is not symmetric or not definite as it should
            be, entries that are not finite, or a setting out of its range.
    """

    leader_moves: ClassVar = "every step"

    def __init__(
        self,
        transition: Array,
        leader_cost: Array,
        follower_cost: Array,
        *,
        leader_actions: int = 1,
        noise: Array | None = None,
        initial_mean: Array | None = None,
        initial_covariance: Array | None = None,
        bump: Array | None = None,
        height: float = 1.0,
        limit: float | None = None,
        leader_space: spaces.Box | None = None,
        follower_space: spaces.Box | None = None,
        affine: bool = True,
        leader_std: float = 0.1,
        name: str = "linear",
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.name = name
        if leader_actions < 1 or not 0 < leader_std < math.inf:
            raise InputError(
                "leader_actions >= 1 and a finite leader_std > 0",
                f"leader_actions = {leader_actions}, leader_std = {leader_std}",
                "give the dimension of the leader's action and the spread of its exploration",
            )
        self.affine, self.leader_std = bool(affine), float(leader_std)
        self.leader_space = _space("leader_space", leader_space, leader_actions)
        given = {
            "transition": transition,
            "leader_cost": leader_cost,
            "follower_cost": follower_cost,
            "bump": bump,
        }
        parts = {name: array(name, part) for name, part in given.items() if part is not None}
        chance = _Chance(noise, initial_mean, initial_covariance)
        self._describe(_checked(self, parts, chance, leader_actions, height), follower_space, limit)

    def matrices(self, design: Tensor | None = None) -> LinearModel:
        return self._model

    def _met(self, state: Tensor, leader_action: Tensor, b: Tensor) -> tuple[LinearModel, Tensor]:
        return self._model, _joined(state, leader_action, b)


class LinearDesign(_Linear):
    """Linear-quadratic design: the leader moves once; its design shapes what the follower meets.

    As `LinearGame`, with z = (1, s, b). `transition`, `leader_cost`, `follower_cost` and `bump` are
    given as they are, or as functions of the designs of M leaders: a tensor [M, d] in, a tensor
    [M, ...] out, written in torch so that it has a derivative.

    Args:
        design_space: a `gymnasium.spaces.Box` of shape (d,), or a `stackelberg.Budget`.
        transition, leader_cost, follower_cost, noise, initial_mean, initial_covariance, bump,
            height, limit, follower_space, settings: see `LinearGame`.

    Raises:
        InputError: as for `LinearGame`; functions are tried at both ends of the design space and
            in its middle.
    """

    leader_moves: ClassVar = "once"

    def __init__(
        self,
        design_space: spaces.Box,
        transition: ArrayOrFunction,
        leader_cost: ArrayOrFunction,
        follower_cost: ArrayOrFunction,
        *,
        noise: Array | None = None,
        initial_mean: Array | None = None,
        initial_covariance: Array | None = None,
        bump: ArrayOrFunction | None = None,
        height: float = 1.0,
        limit: float | None = None,
        follower_space: spaces.Box | None = None,
        name: str = "linear design",
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.name = name
        self._parts = Parts(
            design_space,
            transition=transition,
            leader_cost=leader_cost,
            follower_cost=follower_cost,
            bump=bump,
        )
        self.leader_space, self.moves_transition = design_space, callable(transition)
        chance = _Chance(noise, initial_mean, initial_covariance)
        moved = self._parts.functions
        model = _checked(self, self._parts.tried, chance, 0, height, moved)
        self._describe(model, follower_space, limit)
        self._stepped: Latest[LinearModel] = Latest()

    def matrices(self, design: Tensor | None = None) -> LinearModel:
        moved: dict[str, Any] = {**self._parts.under(design)}
        return replace(self._model, **moved)

    def _met(self, state: Tensor, leader_action: Tensor, b: Tensor) -> tuple[LinearModel, Tensor]:
        return self._stepped.of(leader_action, self._rows), _joined(state, b)

    def _rows(self, designs: Tensor, which: Tensor) -> LinearModel:
        """The matrices of n rows under the designs [U, d] that they have, or of all under one."""
        rows = which if len(designs) > 1 else 0
        model = self.matrices(designs).detach()
        return model.map(lambda part: part[rows] if part.dim() == 3 else part)

    def _attached(
        self, state: Tensor, leader_action: Tensor, b: Tensor
    ) -> tuple[LinearModel, Tensor]:
        return self.matrices(leader_action), _joined(state, b)


# ---------------------------------------------------------------- costs


def product(size: int, i: int, j: int) -> np.ndarray:
    """z_i z_j as z' cost z: the symmetric cost [size, size].

    Raises:
        InputError: unless i and j are in 0..size-1.
    """
    for index in (i, j):
        if not 0 <= index < size:
            raise InputError(
                f"indices in 0..{size - 1} of z, whose length is {size}",
                f"{index}",
                "count from 0, the constant; then come the state, the leader, the follower",
            )
    half = np.zeros((size, size))
    half[i, j] = 0.5
    return half + half.T


def squared_error(size: int, i: int, aim: float = 0.0) -> np.ndarray:
    """(z_i - aim)^2 as z' cost z, where z_0 = 1: the symmetric cost [size, size].

    Raises:
        InputError: as `product`.
    """
    constant, linear = product(size, 0, 0), product(size, 0, i)
    return product(size, i, i) - 2 * aim * linear + aim**2 * constant


# ---------------------------------------------------------------- stepping


def _joined(*parts: Tensor) -> Tensor:
    """z = (1, s, a, b) [n, K] in float64."""
    one = torch.ones(len(parts[0]), 1, dtype=torch.float64)
    return torch.cat([one, *(part.to(torch.float64) for part in parts)], -1)


def _times(z: Tensor, matrix: Tensor) -> Tensor:
    """z' matrix of every row [n, K], for one matrix or one for each row."""
    return (z.unsqueeze(-2) @ matrix).squeeze(-2)


def _rewards(model: LinearModel, z: Tensor) -> tuple[Tensor, Tensor]:
    """The leader's and the follower's, [n]."""
    leader, follower = (
        -(_times(z, cost) * z).sum(-1) for cost in (model.leader_cost, model.follower_cost)
    )
    if model.bump is not None:
        away = _times(z, model.bump.mT).square().sum(-1)
        leader = leader + model.height * (-0.5 * away).exp()
    return leader, follower


def _normal(n: int, root: Tensor, generator: torch.Generator) -> Tensor:
    """n draws from N(0, root root')."""
    return torch.randn(n, len(root), generator=generator, dtype=torch.float64) @ root.mT


def _root(covariance: Tensor) -> Tensor:
    """A square root of a covariance, which may be singular."""
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp(min=0).sqrt()


# ---------------------------------------------------------------- validation


class _Chance(NamedTuple):
    """What is random, as it was given."""

    noise: Array | None
    initial_mean: Array | None
    initial_covariance: Array | None


def _checked(
    game: Game,
    parts: dict[str, Tensor],
    chance: _Chance,
    leader_actions: int,
    height: float,
    moved: Container[str] = (),
) -> LinearModel:
    """The model of parts [rows, columns], if they are sound; of `moved` ones [3, rows, columns]."""
    transition = parts["transition"]
    states = transition.shape[-2] if transition.dim() > 1 else 0
    if not states or transition.shape[-1] - 1 - states - leader_actions < 1:
        acts = f" and k = {leader_actions} actions of the leader" if leader_actions else ""
        raise InputError(
            f"transition of shape [n, 1 + n + {'k + ' if leader_actions else ''}m], with n >= 1 "
            f"states{acts} and m >= 1 of the follower",
            f"shape {list(transition.shape)}",
            "put the constants first, then the columns of the state, the leader, the follower",
        )
    for name, part in parts.items():
        width = transition.shape[-1]
        rows = {"transition": states, "bump": part.shape[-2] if part.dim() > 1 else 0}
        _check_form(name, part, (rows.get(name, width), width), name in moved)
        check_finite(name, part)
        if name not in rows:
            _check_symmetric(name, part)
    b = slice(1 + states + leader_actions, None)
    _check_positive(
        "follower_cost in the follower's action",
        parts["follower_cost"][..., b, b],
        strictly=True,
    )
    if not math.isfinite(height):
        raise InputError("a finite height", f"{height}", "give the height of the bump")
    square = (states, states)
    model: dict[str, Any] = {
        **{name: part[1] if name in moved else part for name, part in parts.items()},
        "noise": _covariance("noise", chance.noise, square, "next state's noise"),
        "initial_covariance": _covariance(
            "initial_covariance", chance.initial_covariance, square, "first state"
        ),
        "initial_mean": _or_zeros(
            "initial_mean", chance.initial_mean, (states,), "mean of the first state"
        ),
    }
    return LinearModel(
        **model,
        height=float(height),
        leader_actions=leader_actions,
        leader_discount=game.leader_discount,
        follower_discount=game.follower_discount,
        temperature=game.temperature,
        follower_observes_action=game.follower_observes_action,
    )


def _check_form(name: str, part: Tensor, form: tuple[int, int], moved: bool) -> None:
    if part.shape == ((3, *form) if moved else form):
        return
    shape = listed(part.shape[1:] if moved else part.shape)
    raise InputError(
        f"{name}: a function from designs [M, d] to a tensor [M, {listed(form)}]"
        if moved
        else f"{name} of shape [{listed(form)}]",
        f"shape [M, {shape}]" if moved else f"shape [{shape}]",
        "write it for z = (1, s, a, b), or (1, s, b) under a design",
    )


def _or_zeros(name: str, given: Array | None, shape: tuple[int, ...], what: str) -> Tensor:
    made = torch.zeros(shape, dtype=torch.float64) if given is None else array(name, given)
    if made.shape != shape:
        raise InputError(
            f"{name}, the {what}, of shape {list(shape)}",
            f"shape {list(made.shape)}",
            "give it for all numbers of the state, as [[0.01]] for a covariance of a single one",
        )
    check_finite(name, made)
    return made


def _covariance(name: str, given: Array | None, shape: tuple[int, int], of: str) -> Tensor:
    covariance = _or_zeros(name, given, shape, f"covariance of the {of}")
    _check_symmetric(name, covariance)
    _check_positive(name, covariance)
    return covariance


def _check_symmetric(name: str, matrix: Tensor) -> None:
    missed = (matrix - matrix.mT).abs()
    if (missed > SYMMETRIC * matrix.abs().amax((-2, -1), keepdim=True)).any():
        where = np.unravel_index(int(missed.argmax()), missed.shape)[-2:]
        row, column = (int(i) for i in where)
        raise InputError(
            f"{name}: a symmetric matrix",
            f"entries [{row}, {column}] and [{column}, {row}] that differ by {missed.max():.3g}",
            "give both the mean of the two",
        )


def _check_positive(name: str, matrix: Tensor, *, strictly: bool = False) -> None:
    """Raise InputError unless the matrix is positive definite, or semidefinite."""
    values = torch.linalg.eigvalsh(matrix)
    slack = SYMMETRIC * values.abs().amax(-1)
    least = values[..., 0]
    if (least <= slack).any() if strictly else (least < -slack).any():
        raise InputError(
            f"{name}: a positive {'definite' if strictly else 'semidefinite'} matrix",
            f"the eigenvalue {least.min():.6g}",
            "mend it: what costs the follower must grow with its action in every direction"
            if strictly
            else "mend it: its eigenvalues are 0 or more",
        )


def _checked_limit(limit: float | None) -> float:
    if limit is not None and not limit > 0:
        raise InputError("a limit > 0, or none", f"{limit}", "leave it out not to clip the state")
    return math.inf if limit is None else float(limit)


def _unbounded(size: int) -> spaces.Box:
    return spaces.Box(-np.inf, np.inf, (size,), np.float32)


def _space(name: str, given: spaces.Box | None, size: int) -> spaces.Box:
    if given is None:
        return _unbounded(size)
    if not isinstance(given, spaces.Box) or given.shape != (size,):
        raise InputError(
            f"{name}: a Box of shape ({size},)", f"{given!r}", "give one number for each action"
        )
    return given
