"""Followers that plan on the true model: the exact best response, or one cut off early."""

from collections.abc import Sequence
from typing import Literal

import torch
from gymnasium import spaces
from torch import Tensor

from stackelberg import exact, linear
from stackelberg.errors import InputError
from stackelberg.game import Game
from stackelberg.linear_model import linear_policy
from stackelberg.oracle import require_oracle
from stackelberg.types import Commitment, LinearResponse, TabularResponse


class ExactFollower:
    """The soft best response, or what soft policy iteration has after a few sweeps.

    It plans on the tables of a game, or on the matrices of a linear-quadratic one.

    Args:
        sweeps: stop after so many sweeps; None solves exactly.
        backups: evaluation backups in a sweep (1 is soft value iteration; FourRooms was published
            with 5).
        restart: with `sweeps`, start each call from the last values ("carry") or from 0 ("reset").
    """

    name = "exact"

    def __init__(
        self,
        sweeps: int | None = None,
        backups: int = 1,
        restart: Literal["carry", "reset"] = "carry",
    ) -> None:
        if (sweeps is not None and sweeps < 1) or backups < 1:
            raise InputError(
                "sweeps >= 1 (or None) and backups >= 1",
                f"sweeps = {sweeps}, backups = {backups}",
                "leave sweeps out to solve exactly",
            )
        if restart not in ("carry", "reset"):
            raise InputError('restart "carry" or "reset"', f"{restart!r}", "use one of the two")
        self.sweeps, self.backups, self.restart = sweeps, backups, restart
        self._value: Tensor | None = None

    def check(self, game: Game) -> None:
        """Raise InputError unless it can play this game."""
        other = "sac" if isinstance(game.follower_space, spaces.Box) else "soft-q"
        require_oracle(game, "the follower exact", f"another follower, for example {other}")

    @torch.no_grad()
    def best_respond(
        self, game: Game, commitment: Commitment, seeds: Sequence[int]
    ) -> TabularResponse | LinearResponse:
        """The response to M leaders; nothing is random. The values are carried to the next call.

        Raises:
            InputError: if the game has neither tables nor matrices; in a linear-quadratic game, if
                a leader is not linear-Gaussian, or leaves its follower no best response.
        """
        self.check(game)
        return self._linear(game, commitment) if game.linear else self._tabular(game, commitment)

    def _tabular(self, game: Game, commitment: Commitment) -> TabularResponse:
        policy = commitment.policy
        model = game.model(commitment.design)
        start = self._start(*policy.shape[:-1])
        if self.sweeps is None:
            found = exact.best_response(model, policy, start)
            self._value = found.state_value
            gap = torch.zeros(len(policy), dtype=policy.dtype)
            return TabularResponse(found.policy, found, gap=gap)
        self._value = exact.sweep(model, policy, start, self.sweeps, self.backups)
        action_value = exact.follower_action_value(model, self._value)
        found = exact.soft_response(model, policy, action_value)
        return TabularResponse(found.policy, found)

    def _linear(self, game: Game, commitment: Commitment) -> LinearResponse:
        model = game.matrices(commitment.design)
        count, size = len(commitment.policy), 1 + model.states
        policy = linear_policy(count, model.states, commitment.box)
        start = self._start(count, size, size)
        if self.sweeps is None:
            found = linear.best_response(model, policy, start)
            value, gap = found.state_value, torch.zeros(count, dtype=torch.float64)
        else:
            value, gap = linear.sweep(model, policy, start, self.sweeps, self.backups), None
            found = linear.soft_response(model, policy, value)
        if not found.solved.all():
            lost = torch.nonzero(~found.solved).flatten().tolist()
            raise InputError(
                "leaders against which the follower has a best response",
                f"none against leader {', '.join(map(str, lost))} of 0 to {count - 1}: there the "
                "follower's return, or the state whatever it does, has no bound",
                "start from smaller gains, or take shorter steps (max_radius)",
            )
        self._value = value
        return LinearResponse(found, gap=gap)

    def _start(self, *shape: int) -> Tensor:
        """The values of the last call, where they fit; else 0."""
        kept = None if self.sweeps is not None and self.restart == "reset" else self._value
        if kept is None or kept.shape != shape:
            return torch.zeros(shape, dtype=torch.float64)
        return kept

    def state(self) -> dict[str, Tensor]:
        return {} if self._value is None else {"value": self._value}

    def load(self, state: dict[str, Tensor]) -> None:
        self._value = state.get("value")
