"""The contract of a leader-follower game, written once, batched, in torch."""

import copy
import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple, cast

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from stackelberg.errors import InputError, nearest
from stackelberg.grid import Grid
from stackelberg.linear_model import LinearModel
from stackelberg.model import TabularModel, check_settings
from stackelberg.vector import VectorGame, VectorSteps, check_rows

EVEN_SHARES = 10  # even shares of a budget, at which a picture's colour is full
ROUNDING = 1e-5  # of its size, by which an action in single precision may leave its space


class Budget(spaces.Box):
    """Non-negative spendings over `items` whose sum is at most `total`.

    A Box with one more rule, so whatever takes a Box takes it. Samples are uniform over the simplex
    that the items and the unspent rest make. What single precision cannot tell from the total is
    no overspending.
    """

    def __init__(self, items: int, total: float, seed: int | None = None) -> None:
        if items < 1 or not 0 < total < float("inf"):
            raise InputError(
                "items >= 1 and a finite total > 0",
                f"items = {items}, total = {total}",
                "give how many things money goes to and how much there is",
            )
        super().__init__(0.0, total, (items,), np.float64, seed=seed)
        self.total = float(total)

    def __repr__(self) -> str:
        return f"Budget({self.shape[0]} items, total {self.total})"

    def sample(self, mask: Any = None, probability: Any = None) -> np.ndarray:
        shares = self.np_random.dirichlet(np.ones(self.shape[0] + 1))
        return self.total * shares[:-1]

    def contains(self, x: Any) -> bool:
        floating = isinstance(x, np.ndarray) and x.dtype.kind == "f"
        inside = super().contains(np.minimum(x, np.float64(self.total)) if floating else x)
        return inside and float(np.sum(x, dtype=np.float64)) <= self.total * (1 + ROUNDING)


class Step(NamedTuple):
    """What one step of n independent copies of a game brings.

    Attributes:
        state: [n, ...] the next state, also where the game has ended.
        leader_reward, follower_reward: [n], not [n, 1]; numbers.
        terminated: [n] bool: the game has ended by its rules (a time limit is not one).
    """

    state: Tensor
    leader_reward: Tensor
    follower_reward: Tensor
    terminated: Tensor


class Reenacted(NamedTuple):
    """n recorded steps as functions of what the leader did, attached to it.

    Attributes:
        observation: [n, d] of where they led, floating: as recorded, with the derivative that the
            leader's action gives it (`recorded + moved - moved.detach()`).
        leader_reward, follower_reward: [n], floating.
    """

    observation: Tensor
    leader_reward: Tensor
    follower_reward: Tensor


class _Missing:
    """Stands where a game's own class has to put a space."""

    def __init__(self, what: str) -> None:
        self.__doc__ = what

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, game: "Game | None", owner: type) -> Any:
        if game is None:
            return self
        raise InputError(
            f"a game with a {self.name}: {self.__doc__}",
            f"'{game.name}', which has none",
            f"set self.{self.name} in __init__() of {owner.__name__}",
        )


class Game(ABC):
    """A two-player Markov game in which the leader commits and the follower best-responds.

    At every step the leader acts in the state, the follower acts in the state and, if
    `follower_observes_action`, on the leader's action; both are paid and the state moves on. With
    `leader_moves = "once"` the leader's action is a design that stays for the whole episode.

    The leader's objective is its discounted return over an unbounded horizon. `horizon` is a time
    limit on sampled episodes, as Gymnasium's truncation: it is not a rule of the game.

    Attributes:
        name: of the game.
        leader_moves: "every step", or "once" where the leader commits to a design.
        leader_space, follower_space: of actions, each a Discrete or a Box (k,); of designs, a Box.
        observation_space: a Box (d,), of what both see of the state; the follower's may be another,
            `follower_observation_space`.
        moves_transition: does a design change the transitions, not rewards alone? False unless set.
        one_hot: does the leader observe which of finitely many states it is, one-hot?
        one_by_one: does `vector` step its copies one after the other?
        grid: where the states lie, if they are cells of a map.
        longest: steps after which the game itself cuts episodes, if it does.
        names: for pictures, words for the numbers of what is observed under the key "state", and of
            what they do under "leader" and "follower" (of a Box its numbers, of a Discrete its
            choices), a sequence of strings each. Keys may be left out.
        leader_discount, follower_discount, temperature, horizon, follower_observes_action,
            optimum: the settings, see `__init__`.
    """

    name: str = "game"
    leader_moves: ClassVar[Literal["every step", "once"]] = "every step"

    moves_transition: bool = False
    one_hot: bool = False
    one_by_one: bool = False
    grid: Grid | None = None
    longest: int | None = None
    names: Mapping[str, Sequence[str]] = MappingProxyType({})

    leader_space: spaces.Space = cast(Any, _Missing("what the leader does, a Discrete or a Box"))
    follower_space: spaces.Space = cast(Any, _Missing("what the follower does, Discrete or Box"))
    observation_space: spaces.Box = cast(Any, _Missing("a Box (d,), what is seen of the state"))

    def __init__(
        self,
        *,
        leader_discount: float = 0.99,
        follower_discount: float = 0.99,
        temperature: float = 0.05,
        horizon: int = 100,
        follower_observes_action: bool = True,
        optimum: float | None = None,
        **unknown: Any,
    ) -> None:
        """
        Args:
            leader_discount, follower_discount: in [0, 1).
            temperature: > 0, the weight of the entropy in the follower's objective.
            horizon: steps after which a sampled episode is cut off.
            follower_observes_action: does the follower see the leader's action before its own?
            optimum: the best (known) value of the leader's objective, for regret.

        Raises:
            InputError: for a setting out of its range, or one that is `unknown`.
        """
        if unknown:
            known = [*dict.fromkeys(name for kind in type(self).mro() for name in _settings(kind))]
            raise InputError(
                f"a setting of {type(self).__name__}: {', '.join(known)}",
                f"'{next(iter(unknown))}'",
                nearest(next(iter(unknown)), known),
            )
        check_settings(
            leader_discount=leader_discount,
            follower_discount=follower_discount,
            temperature=temperature,
            horizon=horizon,
            follower_observes_action=follower_observes_action,
        )
        self.leader_discount = float(leader_discount)
        self.follower_discount = float(follower_discount)
        self.temperature = float(temperature)
        self.horizon = int(horizon)
        self.follower_observes_action = bool(follower_observes_action)
        self.optimum = optimum

    @abstractmethod
    def initial(self, n: int, generator: torch.Generator) -> Tensor:
        """n first states [n, ...]."""

    @abstractmethod
    def step(
        self,
        state: Tensor,
        leader_action: Tensor,
        follower_action: Tensor,
        generator: torch.Generator,
    ) -> Step:
        """One step of n copies.

        Args:
            state: [n, ...]. leader_action: [n], or [n, k] in a Box, as designs are.
            follower_action: [n], or [n, m] in a Box.
        """

    @abstractmethod
    def observe(self, state: Tensor) -> Tensor:
        """What is seen of the state: [n, d] float32, inside `observation_space`."""

    @cached_property
    def follower_observation_space(self) -> spaces.Box:
        """What the follower sees of the state: what the leader sees, unless it is set."""
        return self.observation_space

    def follower_observe(self, state: Tensor) -> Tensor:
        """What the follower sees of the state, [n, d'] float32."""
        return self.observe(state)

    @property
    def observes_apart(self) -> bool:
        """Does the follower see something else of the state than the leader?"""
        return type(self).follower_observe is not Game.follower_observe

    def vector(
        self, copies: int, generator: torch.Generator, limit: int | None = None
    ) -> VectorGame:
        """Copies of the game side by side.

        Args:
            copies: how many. generator: all randomness.
            limit: steps after which an episode is cut off; the horizon unless given.
        """
        return VectorSteps(self, copies, generator, limit)

    @property
    def tabular(self) -> bool:
        """Has the game tables?"""
        return type(self).model is not Game.model

    def model(self, design: Tensor | None = None) -> TabularModel:
        """The game in arrays, for the designs [M, d] of M leaders if the leader moves once.

        Raises:
            InputError: if the game has no tables.
        """
        raise InputError(
            "a tabular game",
            f"'{self.name}', which has no tables",
            "give it as arrays (games.tabular.TabularGame) or use a method that needs no tables",
        )

    @property
    def finite(self) -> bool:
        """Do both players choose among finitely many actions at every step?"""
        return all(isinstance(s, spaces.Discrete) for s in (self.leader_space, self.follower_space))

    @property
    def linear(self) -> bool:
        """Is the game linear-quadratic, with its matrices to show?"""
        return type(self).matrices is not Game.matrices

    def matrices(self, design: Tensor | None = None) -> LinearModel:
        """The game in matrices, for the designs [M, d] of M leaders if the leader moves once.

        What is observed of the state is the state itself.

        Raises:
            InputError: if the game is not linear-quadratic.
        """
        raise InputError(
            "a linear-quadratic game",
            f"'{self.name}', which has no matrices",
            "give it as matrices (games.linear.LinearGame), or use a method that needs none",
        )

    def reenact(
        self,
        observation: Tensor,
        leader_action: Tensor,
        follower_action: Tensor,
        next_observation: Tensor,
    ) -> Reenacted:
        """Recorded steps with the same chance in them, as functions of the leader's action.

        The values are those recorded, the gradient with respect to `leader_action` tells what
        would have changed: the pathwise derivative. The leader is taken to know how its own action
        enters the game.

        Args:
            observation, next_observation: of the state before and after, [n, d] float32.
            leader_action: [n, k] float64, attached. follower_action: [n] or [n, m].

        Raises:
            InputError: if the game does not tell.
        """
        raise InputError(
            "a game that tells how the leader's action moves rewards and transitions",
            f"'{self.name}', which has no reenact()",
            "write Game.reenact, or use an estimator of zeroth order (spsa, es)",
        )

    @property
    def reenacts(self) -> bool:
        """Does the game tell pathwise derivatives?"""
        return type(self).reenact is not Game.reenact

    def log_transition(
        self,
        observation: Tensor,
        leader_action: Tensor,
        follower_action: Tensor,
        next_observation: Tensor,
    ) -> Tensor:
        """log P(s'|s,a,b) of recorded steps [n], attached to the leader's action.

        The score form of what `reenact` tells, for transitions that have a density but no
        derivative along a path. Arguments as there.

        Raises:
            InputError: if the game does not tell.
        """
        raise InputError(
            "a game that tells the density of its transitions",
            f"'{self.name}', which has no log_transition()",
            "write Game.log_transition, or Game.reenact",
        )

    def at_temperature(self, temperature: float) -> "Game":
        """The game with a follower of another temperature; of its optimum nothing is known.

        A game that keeps the temperature elsewhere, as in a model, changes it there as well.

        Raises:
            InputError: unless the temperature is finite and > 0.
        """
        names = "leader_discount", "follower_discount", "horizon", "follower_observes_action"
        settings: dict[str, Any] = {name: getattr(self, name) for name in names}
        check_settings(temperature=temperature, **settings)
        other = copy.copy(self)
        other.temperature, other.optimum = float(temperature), None
        return other

    def require_tables(self) -> None:
        """Raise InputError unless the game has tables."""
        if not self.tabular:
            self.model()

    def simulated_model(self, design: Tensor | None = None) -> TabularModel:
        """The arrays that play follows; another model than `model` only to reproduce a mismatch."""
        return self.model(design)

    def check_grid(self) -> None:
        """Raise InputError unless the grid, if there is one, is of its states and follower."""
        if self.grid is None:
            return
        if not isinstance(self.grid, Grid):
            raise InputError(
                "a stackelberg.Grid as the game's grid",
                f"{type(self.grid).__name__}",
                "write game.grid = Grid(rows, moves)",
            )
        moves = self.follower_space.n if isinstance(self.follower_space, spaces.Discrete) else None
        self.grid.check(self.observation_space.shape[0], None if moves is None else int(moves))

    @property
    def drawn(self) -> bool:
        """Has the game a picture of its own, beyond bars?"""
        return self.grid is not None or type(self).picture is not Game.picture

    def picture(self, axes: Any, values: np.ndarray, title: str) -> None:
        """Draw one number per state [S]; grids draw themselves as grids.

        So a one-hot observation shows the state that it is of.
        """
        if self.grid is not None:
            if values.sum() == values.max() == 1:
                self.grid.draw_place(axes, int(values.argmax()), title)
            else:
                self.grid.draw(axes, values, title)
            return
        axes.bar(range(len(values)), values)
        axes.locator_params(axis="x", integer=True)
        axes.set(title=title, xlabel="state")

    def picture_moves(
        self, axes: Any, values: np.ndarray, leader_action: Any, follower_action: Any
    ) -> None:
        """Draw over a picture of the state that was reached what both did to reach it.

        On a grid a design with a number for every cell, where the leader moves once; the colour is
        full at the bound of its space, or at ten even shares of a Budget.
        """
        if self.grid is not None and self.leader_moves == "once":
            if np.size(leader_action) == len(self.grid.cells):
                self.grid.shade(axes, np.ravel(leader_action), self._full(leader_action))
        elif self.finite:
            axes.set_xlabel(f"leader's action {leader_action}, follower's {follower_action}")

    def _full(self, design: Any) -> float:
        """The size of a design's number that is shaded fully."""
        space = self.leader_space
        if isinstance(space, Budget):
            return min(1, EVEN_SHARES / len(space.low)) * space.total
        bounds = np.abs([space.low, space.high]) if isinstance(space, spaces.Box) else np.inf
        most = float(np.max(bounds))
        return most if 0 < most < np.inf else float(np.abs(design).max()) or 1.0


def reenacted(game: Game, *recorded: Tensor) -> Reenacted:
    """What `Game.reenact` makes of recorded steps, its arguments, if it is of the right form.

    Raises:
        InputError: if it is not, naming the part.
    """
    found: Any = game.reenact(*recorded)
    if not isinstance(found, Reenacted):
        raise InputError(
            "reenact() to return stackelberg.game.Reenacted(observation, leader_reward, "
            "follower_reward)",
            type(found).__name__,
            f"mend reenact() of {type(game).__name__}",
        )
    count, width = recorded[3].shape
    for part, value in found._asdict().items():
        shape = (count, width) if part == "observation" else (count,)
        check_rows(game, "reenact", part, value, shape)
    return found


def log_transitions(game: Game, *recorded: Tensor) -> Tensor:
    """What `Game.log_transition` makes of recorded steps, its arguments: [n].

    Raises:
        InputError: if it has another shape.
    """
    found = game.log_transition(*recorded)
    check_rows(game, "log_transition", "result", found, (len(recorded[3]),))
    return found


def _settings(kind: type) -> list[str]:
    """The arguments of a class's own __init__ that have names."""
    if "__init__" not in vars(kind) or not issubclass(kind, Game):
        return []
    parameters = inspect.signature(kind.__init__).parameters.values()
    named = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    return [one.name for one in parameters if one.kind in named and one.name != "self"]
