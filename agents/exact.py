"""Followers that plan on the true model: the exact best response, or one cut off early."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from stackelberg import exact
from stackelberg.errors import InputError
from stackelberg.game import Game
from stackelberg.types import Commitment, TabularResponse


class ExactFollower:
    """The soft best response, or what soft policy iteration has after a few sweeps.

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
        game.require_tables()

    @torch.no_grad()
    def best_respond(
        self, game: Game, commitment: Commitment, seeds: Sequence[int]
    ) -> TabularResponse:
        """The response to M leaders; nothing is random. The values are carried to the next call."""
        policy = commitment.policy
        model = game.model(commitment.design)
        start = self._value
        if start is None or start.shape != policy.shape[:-1]:
            start = torch.zeros_like(policy[..., 0])
        if self.sweeps is None:
            found = exact.best_response(model, policy, start)
            self._value = found.state_value
            gap = torch.zeros(len(policy), dtype=policy.dtype)
            return TabularResponse(found.policy, found, gap=gap)
        if self.restart == "reset":
            start = torch.zeros_like(start)
        self._value = exact.sweep(model, policy, start, self.sweeps, self.backups)
        action_value = exact.follower_action_value(model, self._value)
        found = exact.soft_response(model, policy, action_value)
        return TabularResponse(found.policy, found)

    def state(self) -> dict[str, Tensor]:
        return {} if self._value is None else {"value": self._value}

    def load(self, state: dict[str, Tensor]) -> None:
        self._value = state.get("value")
