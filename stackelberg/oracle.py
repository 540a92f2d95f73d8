"""What is exactly true of commitments, in games that show their tables or their matrices."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor

from stackelberg import exact, hypergradient, linear
from stackelberg.errors import InputError
from stackelberg.game import Game
from stackelberg.hypergradient import Critics
from stackelberg.linear import LinearBest
from stackelberg.linear_model import LinearModel, LinearPolicy, is_linear, linear_policy
from stackelberg.model import check_distribution
from stackelberg.types import BoxLeader, Commitment, LinearResponse, TabularResponse, inside


class Oracle(Protocol):
    """What is true of the commitments of M leaders."""

    @property
    def objective(self) -> Tensor:
        """J [M] against the exact best response; -inf where it diverges or there is none."""
        ...

    @property
    def scale(self) -> Tensor:
        """Of the leader's values, [M] >= 1."""
        ...

    def leader_return(self, response: object) -> Tensor | None:
        """The leader's return [M] against a response; None if it does not show how it acts."""
        ...

    def follower_gap(self, response: object) -> Tensor | None:
        """What a response leaves of the follower's return, [M] >= 0; None as above."""
        ...

    def growth(self, response: object) -> Tensor:
        """Factor by which the size of rewards grows in a step, the leader's and the follower's.

        [2, M] >= 1. Where a response does not show how it acts, under the best one.
        """
        ...

    def surrogates(self, commitment: Commitment) -> tuple[Tensor, Tensor]:
        """[M] each, whose gradients are the direct and the indirect term of the hypergradient.

        Args:
            commitment: the same numbers, attached.
        """
        ...


def oracle(game: Game, commitment: Commitment) -> Oracle | None:
    """The oracle of commitments; None where there is none: no tables, nor all of it linear."""
    if game.tabular:
        return TabularOracle(game, commitment)
    if game.linear and (commitment.box is None or is_linear(commitment.box)):
        return LinearOracle(game, commitment)
    return None


@dataclass(frozen=True)
class TabularOracle:
    """By the tables of the game."""

    game: Game
    commitment: Commitment

    @cached_property
    def critics(self) -> Critics:
        """Values, visitation and expected trace against the exact best response."""
        model, policy = self.game.model(self.commitment.design), self.commitment.policy
        best = exact.best_response(model, policy)
        return hypergradient.tabular_critics(model, policy, best)

    @property
    def objective(self) -> Tensor:
        model = self.game.model(self.commitment.design)
        return exact.objective(model, self.commitment.policy)

    @property
    def scale(self) -> Tensor:
        return self.critics.leader_state_value.abs().amax(-1).clamp(min=1.0)

    def leader_return(self, response: object) -> Tensor | None:
        if not isinstance(response, TabularResponse):
            return None
        model = self.game.model(self.commitment.design)
        return exact.leader_return(model, self.commitment.policy, response.policy)

    def follower_gap(self, response: object) -> Tensor | None:
        if not isinstance(response, TabularResponse):
            return None
        model = self.game.model(self.commitment.design)
        return exact.follower_gap(model, self.commitment.policy, response.policy)

    def growth(self, response: object) -> Tensor:
        return torch.ones(2, len(self.commitment.policy), dtype=torch.float64)

    def surrogates(self, commitment: Commitment) -> tuple[Tensor, Tensor]:
        model = self.game.model(commitment.design)
        return hypergradient.surrogates(self.critics, model, commitment.policy)


@dataclass(frozen=True)
class LinearOracle:
    """By the matrices of the game; what makes its leaders fail is no error here, but -inf."""

    game: Game
    commitment: Commitment

    @cached_property
    def parts(self) -> tuple[LinearModel, LinearPolicy]:
        """The matrices and the leaders, without a gradient."""
        model, policy = in_matrices(self.game, self.commitment)
        return model.detach(), policy.detach()

    @cached_property
    def best(self) -> LinearBest:
        """The exact best response."""
        return linear.best_response(*self.parts)

    @property
    def objective(self) -> Tensor:
        value = linear.leader_return(*self.parts, self.best.answer)
        return torch.where(self.best.solved, value, -torch.inf)

    @property
    def scale(self) -> Tensor:
        return torch.nan_to_num(self.objective, neginf=1.0).abs().clamp(min=1.0)

    def leader_return(self, response: object) -> Tensor | None:
        if not isinstance(response, LinearResponse):
            return None
        return linear.leader_return(*self.parts, response.found.answer)

    def follower_gap(self, response: object) -> Tensor | None:
        if not isinstance(response, LinearResponse):
            return None
        return linear.follower_gap(*self.parts, response.found.answer)

    def growth(self, response: object) -> Tensor:
        found = response.found if isinstance(response, LinearResponse) else self.best
        own = linear.radius(linear.close(*self.parts, found.answer)).clamp(min=1.0).square()
        costly = self.parts[0].leader_cost.any()  # bumps alone do not grow
        return torch.stack([own if costly else torch.ones_like(own), own])

    def surrogates(self, commitment: Commitment) -> tuple[Tensor, Tensor]:
        return linear.surrogates(*in_matrices(self.game, commitment), self.best.answer)


def in_matrices(game: Game, commitment: Commitment) -> tuple[LinearModel, LinearPolicy]:
    """A linear-quadratic game under commitments, and its leaders; attached.

    Raises:
        InputError: if a leader is not linear-Gaussian.
    """
    model = game.matrices(commitment.design)
    return model, linear_policy(len(commitment.policy), model.states, commitment.box)


# ---------------------------------------------------------------- commitments as numbers


class _Gains(NamedTuple):
    """Linear-Gaussian leaders of given numbers, for the oracles."""

    gains: Tensor  # [M, k, 1 + n]
    spread: Tensor  # [M, k]

    def gain(self) -> Tensor:
        return self.gains

    def std(self) -> Tensor:
        return self.spread


def rows_of(commitment: Commitment) -> Tensor:
    """Commitments as numbers [M, ...].

    The design [d], the policy f(a|s) [S, A], or of a linear-Gaussian leader a row for each of its
    actions: constant, gains of the state, standard deviation, [k, 2 + n].
    """
    if commitment.design is not None:
        return commitment.design
    if commitment.box is None:
        return commitment.policy
    policy = linear_policy(len(commitment.policy), 0, commitment.box)
    return torch.cat([policy.gain, policy.std.unsqueeze(-1)], -1)


def committed(game: Game, rows: Tensor) -> Commitment:
    """The commitments that numbers [M, ...] stand for, to be asked of an oracle.

    Raises:
        InputError, ValueError: if the game has no such commitment.
    """
    rows, count = rows.to(torch.float64), len(rows)
    states = game.observation_space.shape[0]
    once = torch.ones(count, states, 1, dtype=torch.float64)
    if game.leader_moves == "once":
        _check_shape(rows, game.leader_space.shape or ())
        if not inside(game.leader_space, rows).all():
            raise ValueError(f"a design outside {game.leader_space}")
        return Commitment(once, rows)
    if game.linear:
        _check_shape(rows, (game.matrices().leader_actions, 2 + states))
        if not (rows[..., -1] >= 0).all():
            raise ValueError("a negative standard deviation")
        return Commitment(once, box=cast(BoxLeader, _Gains(rows[..., :-1], rows[..., -1])))
    _check_shape(rows, (states, game.model().leader_actions))
    check_distribution("policy", rows)
    return Commitment(rows)


def _check_shape(rows: Tensor, shape: tuple[int, ...]) -> None:
    if rows.shape[1:] != shape:
        raise ValueError(f"shape {list(rows.shape[1:])}, not {list(shape)}")


def require_oracle(game: Game, who: str = "", instead: str = "a method that needs neither") -> None:
    """Raise InputError unless the game shows tables or matrices.

    Args:
        who: needs them. instead: what to use where there are none.
    """
    if not (game.tabular or game.linear):
        raise InputError(
            f"a tabular game, or a linear-quadratic one{who and f', for {who}'}",
            f"'{game.name}', which shows neither tables nor matrices",
            f"give it as arrays (games.tabular) or matrices (games.linear), or use {instead}",
        )


def without_maximum(game: Game) -> Tensor | None:
    """A direction of the leader's constant action in which its objective grows without end.

    None where none is found; see `stackelberg.linear.ascending`.
    """
    constant = game.linear and game.leader_moves == "every step" and getattr(game, "affine", True)
    return linear.ascending(game.matrices()) if constant else None


def require_maximum(game: Game) -> None:
    """Raise InputError if the leader's objective is found to grow without end."""
    way = without_maximum(game)
    if way is not None:
        raise InputError(
            "a leader's objective that has a maximum",
            f"'{game.name}', where it grows without end with the leader's constant action along "
            f"{[float(f'{x:.3g}') for x in way.tolist()]}",
            "let the leader's action cost it, as by leader_cost + 0.1 * squared_error(...)",
        )
