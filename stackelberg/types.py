"""What the parts hand to each other: leaders, followers, commitments, responses."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from gymnasium import spaces
from torch import Tensor, nn

from stackelberg.config import Access, TrainConfig
from stackelberg.errors import InputError
from stackelberg.exact import SoftResponse
from stackelberg.game import ROUNDING, Budget, Game


class Leader(Protocol):
    """M independent leaders; every parameter has the leading dimension M.

    A leader that moves at every step has `log_policy`, one that commits to a design has `design`.
    """

    count: int
    rows: int  # into which every parameter [M, rows, ...] falls, each acting apart; else 1

    def position(self, observation: Tensor) -> Tensor:
        """Log-probabilities [M, n, K] whose KL tells how far the leader moves in a step.

        A leader that moves at every step has one row for each of the n observations [n, d].
        """
        ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def state_dict(self) -> dict[str, Any]: ...


@runtime_checkable
class PolicyLeader(Leader, Protocol):
    """Moves at every step."""

    def log_policy(self, observation: Tensor) -> Tensor:
        """log f(a|s): [M, n, A] in float64, from n observations [n, d]."""
        ...


@runtime_checkable
class DesignLeader(Leader, Protocol):
    """Commits to a design."""

    def design(self) -> Tensor:
        """The designs [M, d] in float64."""
        ...


class Commitment(NamedTuple):
    """What M leaders have committed to, as tables; attached to their parameters."""

    policy: Tensor  # [M, S, A] f(a|s); all ones with A = 1 under a design
    design: Tensor | None  # [M, d], None for a leader that moves at every step

    def detach(self) -> "Commitment":
        """The same numbers without a gradient."""
        return Commitment(
            self.policy.detach(), None if self.design is None else self.design.detach()
        )


def everywhere(game: Game) -> Tensor:
    """What is observed in every state of a tabular game, [S, d]."""
    return game.observe(torch.arange(game.observation_space.shape[0]))


def check_parts(game: Any, leader: Any, follower: Any, config: Any) -> None:
    """Raise InputError unless the parts of a training run are what they should be."""
    parts = (
        ("game", game, isinstance(game, Game), "call the factory, as in discrete_toy.game()"),
        (
            "leader",
            leader,
            isinstance(leader, nn.Module) and hasattr(leader, "position"),
            "make one, as in agents.default_leader(game, seeds)",
        ),
        (
            "follower",
            follower,
            not isinstance(follower, type) and hasattr(follower, "best_respond"),
            "make one, as in agents.ExactFollower()",
        ),
        ("config", config, isinstance(config, TrainConfig), "pass stackelberg.TrainConfig(...)"),
    )
    for name, given, fits, fix in parts:
        if not fits:
            raise InputError(f"a {name} object", f"{given!r}", fix)


def commit(game: Game, leader: Leader) -> Commitment:
    """The leader's commitment in a tabular game.

    Raises:
        InputError: if the leader is not of the kind, or not of the size, that the game asks for.
    """
    states = game.observation_space.shape[0]
    if game.leader_moves == "once":
        if not isinstance(leader, DesignLeader):
            raise InputError(
                f"a design leader for '{game.name}', where the leader moves once",
                type(leader).__name__,
                "use one with a method design(), for example agents.SoftmaxBudget",
            )
        design = _fitting(game, leader, leader.design, game.leader_space.shape)
        _check_inside(game, leader, design)
        return Commitment(torch.ones(leader.count, states, 1, dtype=torch.float64), design)
    if not isinstance(leader, PolicyLeader):
        raise InputError(
            f"a policy leader for '{game.name}', where the leader moves at every step",
            type(leader).__name__,
            "use one with a method log_policy(), for example agents.TabularSoftmax",
        )
    shape = states, game.model().leader_actions
    return Commitment(
        _fitting(game, leader, lambda: leader.log_policy(everywhere(game)), shape).exp(), None
    )


def _fitting(
    game: Game, leader: Leader, make: Callable[[], Tensor], shape: tuple[int, ...] | None
) -> Tensor:
    """What the leader makes, if its shape is [M, *shape]."""
    expected = f"a leader that fits '{game.name}': per leader, shape {list(shape or ())}"
    what = "make it for this game, for example by agents.leaders.default_leader"
    try:
        made = make()
    except RuntimeError as error:  # torch's, of shapes that do not go together
        raise InputError(expected, type(leader).__name__, f"{what} ({error})") from error
    if made.shape[1:] != shape:
        raise InputError(expected, f"shape {list(made.shape[1:])}", what)
    return made


def _check_inside(game: Game, leader: Leader, designs: Tensor) -> None:
    """Raise InputError unless the designs [M, d] are inside the game's space."""
    fits = inside(game.leader_space, designs)
    if not fits.all():
        raise InputError(
            f"designs inside {game.leader_space}",
            f"{type(leader).__name__} with the design {designs[~fits][0].tolist()}",
            "use a leader that stays inside, for example by agents.leaders.default_leader",
        )


def inside(space: spaces.Space, designs: Tensor) -> Tensor:
    """Which of the designs [M, d] are in the space, up to rounding: [M]; all, if it is no Box."""
    rows = designs.detach()
    if not isinstance(space, spaces.Box):
        return torch.ones(len(rows), dtype=torch.bool)
    low, high = torch.from_numpy(space.low), torch.from_numpy(space.high)
    slack = ROUNDING * (high - low)
    fits = ((low - slack <= rows) & (rows <= high + slack)).all(-1)
    if isinstance(space, Budget):
        fits &= rows.sum(-1) <= space.total * (1 + ROUNDING)
    return fits


@dataclass(frozen=True)
class Response:
    """A follower's trained behaviour and what the leader may see of it.

    `behaviour` is how the follower acts: rollouts use it. The leader's side reads `policy` and
    `value`, which answer only at an access level that includes them.
    """

    behaviour: Tensor  # [M, S, A, B]
    values: SoftResponse | None  # the follower's own values, where it has them
    access: Access = "value"
    gap: Tensor | None = None  # [M] best-response gap where the follower knows it
    steps: int = 0  # environment steps its training took, per leader

    @property
    def policy(self) -> Tensor:
        """g(b|s,a) [M, S, A, B]. Raises InputError at access `trajectories`."""
        if self.access == "trajectories":
            raise self._refusal("the follower's policy")
        return self.behaviour

    @property
    def value(self) -> SoftResponse:
        """The follower's policy and values.

        Raises:
            InputError: unless access is `value` and the follower has values to offer.
        """
        if self.access != "value":
            raise self._refusal("the follower's value")
        if self.values is None:
            raise InputError(
                "a follower that offers its values, at access 'value'",
                "a response with values = None",
                "train with access policy or trajectories",
            )
        return self.values

    def _refusal(self, what: str) -> InputError:
        return InputError(
            f"access that includes {what}",
            f"access '{self.access}'",
            "estimate it from trajectories, or train with a higher access level",
        )


class Follower(Protocol):
    """A black box that trains to its best response."""

    name: str

    def best_respond(self, game: Game, commitment: Commitment, seeds: Sequence[int]) -> Response:
        """Train against M frozen leaders; `seeds` [M] decide all randomness."""
        ...

    def state(self) -> dict[str, Tensor]:
        """All that a later call depends on; empty if every call starts afresh."""
        ...

    def load(self, state: dict[str, Tensor]) -> None:
        """Take up a saved state."""
        ...
