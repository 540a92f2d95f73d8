"""What the parts hand to each other: leaders, followers, commitments, responses."""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from stackelberg.access import Response
from stackelberg.config import TrainConfig
from stackelberg.errors import InputError
from stackelberg.exact import SoftResponse
from stackelberg.game import ROUNDING, Budget, Game
from stackelberg.linear import LinearBest
from stackelberg.linear_model import LinearAnswer

SHOWN = 8  # entries of a design in an error, beyond which the middle is left out


class Leader(Protocol):
    """M independent leaders; every parameter has the leading dimension M.

    A leader that moves at every step has `log_policy`, one that commits to a design has `design`.
    """

    count: int
    rows: int  # into which every parameter [M, rows, ...] falls, each acting apart; else 1

    def position(self, observation: Tensor) -> Tensor:
        """Log-probabilities [M, n, K] whose KL tells how far the leader moves in a step.

        A leader with a `geometry` (`stackelberg.trust_region.Geometry`) has its coordinates in
        that instead. A leader that moves at every step has one row for each of the n observations,
        [n, d] or each leader's own [M, n, d].
        """
        ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def state_dict(self) -> dict[str, Any]: ...


@runtime_checkable
class PolicyLeader(Leader, Protocol):
    """Moves at every step."""

    def log_policy(self, observation: Tensor) -> Tensor:
        """log f(a|s): [M, n, A] in float64, from observations [n, d] or each leader's [M, n, d]."""
        ...


@runtime_checkable
class DesignLeader(Leader, Protocol):
    """Commits to a design."""

    def design(self) -> Tensor:
        """The designs [M, d] in float64."""
        ...


@runtime_checkable
class BoxLeader(Leader, Protocol):
    """Moves at every step, in a Box of k dimensions."""

    actions: int  # k

    def act(self, observation: Tensor, noise: Tensor) -> Tensor:
        """Actions [M, n, k], attached: a = h_theta(s, noise), by reparametrisation.

        Args:
            observation: [n, d] or each leader's [M, n, d]. noise: N(0, 1), [M, n, k]; it does not
                matter to a deterministic leader.
        """
        ...

    def log_density(self, observation: Tensor, action: Tensor) -> Tensor:
        """log f(a|s) [M, n] of actions [M, n, k], in the game's own units of action.

        Raises:
            InputError: by a deterministic leader, which has none.
        """
        ...


@runtime_checkable
class LinearLeader(BoxLeader, Protocol):
    """a ~ N(gain (1, s), diag(std^2)): the kind for which linear-quadratic games have oracles."""

    def gain(self) -> Tensor:
        """[M, k, 1 + n], the constants first."""
        ...

    def std(self) -> Tensor:
        """[M, k]."""
        ...


class Commitment(NamedTuple):
    """What M leaders have committed to; attached to their parameters.

    In a game without tables the policy is given at n points that were met in play (none before
    it), and `rule` tells it anywhere; of leaders that move in a Box `box` tells how.
    """

    policy: Tensor  # [M, S, A] f(a|s); all ones with A = 1 under a design and in a Box
    design: Tensor | None = None  # [M, d], None for a leader that moves at every step
    rule: Callable[[Tensor], Tensor] | None = None  # log f(a|s) [M, n, A] of what is observed
    # there, [n, d] or [M, n, d]; None in a game with tables
    box: BoxLeader | None = None  # the leaders themselves, where they move in a Box

    def detach(self) -> "Commitment":
        """The same numbers without a gradient, whatever becomes of the leaders."""
        design = None if self.design is None else self.design.detach()
        rule = None if self.rule is None else _frozen(self.rule)
        box = None if self.box is None else _copied(self.box)
        return Commitment(self.policy.detach(), design, rule, box)

    @torch.no_grad()
    def act(self, observation: Tensor, generator: torch.Generator) -> Tensor:
        """The leaders' actions on observations [M, n, d]: [M, n], or [M, n, k] if not Discrete."""
        leaders, count = observation.shape[:2]
        if self.design is not None:
            return self.design[:, None].expand(-1, count, -1)
        if self.box is not None:
            shape = leaders, count, self.box.actions
            noise = torch.randn(shape, generator=generator, dtype=torch.float64)
            return self.box.act(observation, noise)
        if self.rule is None:
            odds = observation.to(self.policy) @ self.policy  # rows of the table, by one-hot state
        else:
            odds = self.rule(observation).exp()
        return torch.multinomial(odds.flatten(0, 1), 1, generator=generator).view(leaders, count)


def _frozen(rule: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A leader's rule as it is now. What the leader refers to, but its modules, is not copied."""
    leader = getattr(rule, "__self__", None)
    if not isinstance(leader, nn.Module):
        return torch.no_grad()(rule)
    return torch.no_grad()(getattr(_copied(leader), rule.__name__))


def _copied(leader: Any) -> Any:
    """The leader as it is now, without gradients. Only its modules and tensors are copied."""
    shared = {id(v): v for name, v in vars(leader).items() if not name.startswith("_")}
    return copy.deepcopy(leader, shared).requires_grad_(False)


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
            not isinstance(follower, type) and is_follower(follower),
            "make one, as in agents.ExactFollower(); it has a name and "
            "best_respond(game, commitment, seeds)",
        ),
        ("config", config, isinstance(config, TrainConfig), "pass stackelberg.TrainConfig(...)"),
    )
    for name, given, fits, fix in parts:
        if not fits:
            raise InputError(f"a {name} object", f"{given!r}", fix)


def is_follower(part: Any) -> bool:
    """Has it a follower's name and method?"""
    return callable(getattr(part, "best_respond", None)) and hasattr(part, "name")


def commit(game: Game, leader: Leader, points: Tensor | None = None) -> Commitment:
    """The leader's commitment.

    Args:
        points: in a game without tables, observations [M, n, d] at which the policy is wanted.

    Raises:
        InputError: if the leader is not of the kind, or not of the size, that the game asks for.
    """
    count = 0 if points is None else points.shape[-2]
    if game.leader_moves == "once":
        states = game.observation_space.shape[0] if game.tabular else count
        if not isinstance(leader, DesignLeader):
            raise InputError(
                f"a design leader for '{game.name}', where the leader moves once",
                type(leader).__name__,
                "use one with a method design(), for example agents.SoftmaxBudget",
            )
        design = _fitting(game, leader, leader.design, game.leader_space.shape)
        check_inside(game, type(leader).__name__, design)
        return Commitment(torch.ones(leader.count, states, 1, dtype=torch.float64), design)
    if isinstance(game.leader_space, spaces.Box):
        _check_box_leader(game, leader)
        policy = torch.ones(leader.count, count, 1, dtype=torch.float64)
        return Commitment(policy, None, None, leader)  # type: ignore[arg-type]
    if not isinstance(leader, PolicyLeader):
        raise InputError(
            f"a policy leader for '{game.name}', where the leader moves at every step",
            type(leader).__name__,
            "use one with a method log_policy(), for example agents.TabularSoftmax",
        )
    if not isinstance(game.leader_space, spaces.Discrete):
        raise InputError(
            "a leader space Discrete or Box where the leader moves at every step",
            f"{game.leader_space!r}",
            "flatten it to one of them",
        )
    rule = None
    if game.tabular:
        points = everywhere(game)
    else:
        rule = leader.log_policy
        if points is None:
            points = torch.zeros(leader.count, 0, *game.observation_space.shape)
    shape = points.shape[-2], int(game.leader_space.n)
    policy = _fitting(game, leader, lambda: leader.log_policy(points), shape).exp()
    return Commitment(policy, None, rule)


def _check_box_leader(game: Game, leader: Leader) -> None:
    """Raise InputError unless the leader acts in the game's Box."""
    if not isinstance(leader, BoxLeader):
        raise InputError(
            f"a leader for '{game.name}', that moves in {game.leader_space}",
            type(leader).__name__,
            "use one with methods act() and log_density(), for example agents.MLPGaussian",
        )
    seen = torch.zeros(leader.count, 1, *game.observation_space.shape)
    noise = torch.zeros(leader.count, 1, leader.actions, dtype=torch.float64)
    _fitting(game, leader, lambda: leader.act(seen, noise), (1, *(game.leader_space.shape or ())))


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


def check_inside(game: Game, who: str, designs: Tensor) -> None:
    """Raise InputError unless the designs [M, d], of whom they are, are inside the game's space."""
    fits = inside(game.leader_space, designs)
    if not fits.all():
        first = designs[~fits][0].detach().numpy()
        shown = np.array2string(first, 1000, threshold=SHOWN, edgeitems=2)
        raise InputError(
            f"designs inside {game.leader_space}",
            f"{who} with the design {shown}",
            "use a leader that stays inside, for example by agents.leaders.default_leader",
        )


def inside(space: spaces.Space, designs: Tensor) -> Tensor:
    """Which of the designs [M, d] are in the space, up to rounding: [M]; all, if it is no Box."""
    rows = designs.detach()
    if not isinstance(space, spaces.Box):
        return torch.ones(len(rows), dtype=torch.bool)
    low, high = torch.from_numpy(space.low), torch.from_numpy(space.high)
    slack = torch.nan_to_num(ROUNDING * (high - low), posinf=0.0)
    fits = ((low - slack <= rows) & (rows <= high + slack)).all(-1)
    if isinstance(space, Budget):
        fits &= rows.sum(-1) <= space.total * (1 + ROUNDING)
    return fits


@dataclass(frozen=True)
class TabularResponse:
    """The response to M leaders in tables; see `stackelberg.access.Response` for its methods."""

    policy: Tensor  # [M, S, A, B] g(b|s,a), how the follower acts
    values: SoftResponse | None = None  # the follower's own values, where it has them to show
    gap: Tensor | None = None  # [M] best-response gap where the follower knows it
    steps: int = 0  # environment steps its training took, per leader

    def sample(
        self, observation: Tensor, leader_action: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Actions [M, n]."""
        odds = self.policy[self._at(observation, leader_action)]
        drawn = torch.multinomial(odds.flatten(0, 1), 1, generator=generator)
        return drawn.view(odds.shape[:2])

    def log_prob(self, observation: Tensor, leader_action: Tensor) -> Tensor:
        """log g(b|s,a) [M, n, B]."""
        return self.policy[self._at(observation, leader_action)].log()

    def value(self, observation: Tensor, leader_action: Tensor) -> Tensor:
        """V_F(s,a) [M, n]. Raises InputError if the follower has no values to show."""
        if self.values is None:
            raise InputError(
                "a follower that offers its values, at access 'value'",
                "a response with values = None",
                "train with access policy or trajectories",
            )
        return self.values.value[self._at(observation, leader_action)]

    def _at(self, observation: Tensor, leader_action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The index of one-hot observations [M, n, S] and actions [M, n] into [M, S, A]."""
        leader = torch.arange(len(self.policy)).unsqueeze(-1)
        state = observation.argmax(-1)
        if self.policy.shape[2] == 1:  # a design
            return leader, state, torch.zeros_like(state)
        return leader, state, leader_action


@dataclass(frozen=True)
class LinearResponse:
    """The response to M leaders in a linear-quadratic game; see `stackelberg.access.Response`.

    What is observed is the state; actions of the leader count as far as the answer depends on them.
    """

    found: LinearBest  # how the follower acts, and its own values
    gap: Tensor | None = None  # [M] best-response gap where the follower knows it
    steps: int = 0  # environment steps its training took, per leader

    @property
    def answer(self) -> LinearAnswer:
        """How the follower acts."""
        return self.found.answer

    def sample(
        self, observation: Tensor, leader_action: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Actions [M, n, m]."""
        mean, factor = self._moments(observation, leader_action)
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype)
        return mean + noise @ factor.mT

    def log_density(self, observation: Tensor, leader_action: Tensor, action: Tensor) -> Tensor:
        """log g(b|s,a) [M, n] of actions [M, n, m]."""
        mean, factor = self._moments(observation, leader_action)
        missed = torch.linalg.solve_triangular(factor, (action - mean).mT, upper=False)
        log_size = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1, keepdim=True)
        constant = mean.shape[-1] * math.log(2 * math.pi) / 2
        return -missed.square().sum(-2) / 2 - log_size - constant

    def value(self, observation: Tensor, leader_action: Tensor) -> Tensor:
        """V_F(s,a) [M, n]."""
        situation = self._situation(observation, leader_action)
        return -((situation @ self.found.value) * situation).sum(-1)

    def _moments(self, observation: Tensor, leader_action: Tensor) -> tuple[Tensor, Tensor]:
        """Mean [M, n, m] and Cholesky factor of the covariance [M, m, m]."""
        answer = self.found.answer
        mean = self._situation(observation, leader_action) @ answer.gain.mT
        return mean, torch.linalg.cholesky(answer.covariance)

    def _situation(self, observation: Tensor, leader_action: Tensor) -> Tensor:
        """(1, s, a) [M, n, 1 + n + k], under a design without a."""
        state = observation.double()
        known = [torch.ones_like(state[..., :1]), state]
        if self.found.value.shape[-1] > 1 + state.shape[-1]:
            known.append(leader_action.double())
        return torch.cat(known, -1)


class Follower(Protocol):
    """A black box that trains to its best response.

    One that has `sample` is its own response. One that is warm-started from call to call also has
    `state() -> dict[str, Tensor]`, all that a later call depends on, and `load(state)`.
    """

    name: str

    def best_respond(self, game: Game, commitment: Commitment, seeds: Sequence[int]) -> Response:
        """Train against M frozen leaders; `seeds` [M] decide all randomness."""
        ...
