"""More interaction than an iteration's own play, for the estimators that need it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from stackelberg.access import (
    Response,
    TrajectoriesAccess,
    keeps_state,
    restrict,
    state_of,
    steps_of,
)
from stackelberg.config import Access
from stackelberg.game import Game
from stackelberg.rollout import Trajectories, play
from stackelberg.types import Commitment, Follower, Leader, commit


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Play of displaced leaders, and of the present one from elsewhere; every step is counted.

    What is called with the same `draw` has the same random numbers: one number for both sides of a
    difference makes them common, a new one makes a fresh sample.
    """

    game: Game
    leader: Leader
    follower: Follower
    response: Response  # the present one
    access: Access  # of the leader to other ones
    streams: int  # of the play whose returns are taken
    length: int  # steps of each of them
    generators: Callable[[int], list[np.random.Generator]]  # of a draw, one for each leader
    steps: dict[str, int] = field(default_factory=lambda: {"leader": 0, "follower": 0})

    def returns(self, displacements: Sequence[Tensor], draw: int = 0) -> Tensor:
        """Mean discounted return [M] of the leaders, displaced, against followers that answer.

        The followers best-respond from the state that they are in and go back to it.

        Args:
            displacements: what is added to each of the leader's parameters, of its shape.
            draw: which random numbers.
        """
        with self._displaced(displacements):
            commitment = commit(self.game, self.leader).detach()
            generators = self.generators(draw)
            response = self._answer(commitment, generators)
            seen = play(
                self.game,
                commitment,
                response,
                streams=self.streams,
                steps=self.length,
                generators=generators,
            )
        self.steps["leader"] += seen.steps
        self.steps["follower"] += steps_of(response)
        return seen.first_returns(seen.leader_reward, self.game.leader_discount).mean(-1)

    def scout(self, scouts: Leader) -> tuple[TrajectoriesAccess, Trajectories]:
        """Other leaders' play: each meets a follower that answers it, for one stream of an episode.

        Args:
            scouts: K for each of the M leaders, all of the first leader's first.
        Returns: the answers [M K, ...], and the play as the M leaders' own [M, K, T].
        """
        each = scouts.count // self.leader.count
        draws = [self.generators(draw) for draw in range(each)]
        generators = [draw[m] for m in range(self.leader.count) for draw in draws]
        commitment = commit(self.game, scouts).detach()
        response = self._answer(commitment, generators)
        seen = play(
            self.game,
            commitment,
            response,
            streams=1,
            steps=self.game.horizon,
            generators=generators,
        )
        self.steps["leader"] += each * seen.steps
        self.steps["follower"] += each * steps_of(response)
        return restrict(response, self.access), seen.grouped(self.leader.count)

    def play(self, steps: int, initial: Tensor, draw: int = 0) -> Trajectories:
        """At least `steps` steps of the present leaders and response, from elsewhere.

        Args:
            steps: per leader, in streams of one full episode each.
            initial: distribution of the first state, [S] or [M, S]. draw: which random numbers.
        """
        seen = play(
            self.game,
            commit(self.game, self.leader).detach(),
            self.response,
            streams=-(-steps // self.game.horizon),
            steps=self.game.horizon,
            generators=self.generators(draw),
            initial=initial,
        )
        self.steps["leader"] += seen.steps
        return seen

    def _answer(self, commitment: Commitment, generators: list[np.random.Generator]) -> Response:
        """The followers' best response; afterwards they are what they were."""
        seeds = [int(generator.integers(2**31)) for generator in generators]
        state = {name: value.clone() for name, value in state_of(self.follower).items()}
        try:
            return self.follower.best_respond(self.game, commitment, seeds)
        finally:
            if keeps_state(self.follower):
                self.follower.load(state)

    @contextmanager
    def _displaced(self, displacements: Sequence[Tensor]) -> Iterator[None]:
        """The leader elsewhere; afterwards it is where it was."""
        parameters = list(self.leader.parameters())
        before = [p.data for p in parameters]  # never written to: earlier graphs hold on to them
        try:
            for p, displacement in zip(parameters, displacements, strict=True):
                p.data = p.data + displacement
            yield
        finally:
            for p, origin in zip(parameters, before, strict=True):
                p.data = origin
