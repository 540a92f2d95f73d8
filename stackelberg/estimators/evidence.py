"""What an estimator is given, and what it is."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import cast

import numpy as np
from torch import Tensor

from stackelberg.access import TrajectoriesAccess
from stackelberg.config import TrainConfig
from stackelberg.critics import Memory, TabularMemory
from stackelberg.errors import InputError
from stackelberg.game import Game
from stackelberg.hypergradient import Critics
from stackelberg.oracle import Oracle, oracle
from stackelberg.probe import Probe
from stackelberg.rollout import Trajectories
from stackelberg.types import Commitment, Leader


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the leader has in hand after one round of play; constant, but for the leader itself."""

    game: Game
    leader: Leader  # as it committed; its parameters are live
    commitment: Commitment  # the one that was played
    follower: TrajectoriesAccess  # what the leader may see of its response
    trajectories: Trajectories
    memory: Memory
    noise: list[np.random.Generator] = field(default_factory=list)  # one for each leader
    probe: Probe | None = None  # for the estimators that need more than this play
    gae_lambda: float = TrainConfig.gae_lambda  # of the estimator gae alone

    def probe_for(self, who: str, instead: str) -> Probe:
        """The probe. Raises InputError without one, naming who needs it and what to use instead."""
        if self.probe is None:
            raise InputError(
                f"a probe for {who}, which plays more",
                "evidence without one",
                f"train by the Coordinator, or use {instead}",
            )
        return self.probe

    @property
    def tables(self) -> TabularMemory:
        """The memory, which is in tables. Raises InputError in a game without them."""
        self.game.require_tables()
        return cast(TabularMemory, self.memory)

    @cached_property
    def critics(self) -> Critics:
        """Values, visitation and expected trace, learned from all that was seen."""
        return self.memory.critics(self.commitment, self.follower, self.trajectories)

    @property
    def temperature(self) -> float | Tensor:
        """The follower's temperature as the leader knows it: a number, or estimates [M]."""
        self.critics  # noqa: B018 - they estimate it
        return self.memory.temperature

    @cached_property
    def oracle(self) -> Oracle | None:
        """What is exactly true of the leaders; None where nothing tells."""
        return oracle(self.game, self.commitment)


Estimator = Callable[[Evidence, Commitment], tuple[Tensor, Tensor]]
