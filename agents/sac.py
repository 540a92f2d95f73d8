"""Soft actor-critic followers, for Discrete and for Box actions."""

from functools import partial
from typing import cast

import numpy as np
import torch
from gymnasium import spaces

from agents.config import LearningConfig, NetworkConfig
from agents.learning import Learner, LearningFollower, require_choices
from stackelberg.errors import InputError
from stackelberg.game import Game

NETWORK = NetworkConfig(step_size=3e-3, batch=256, replays=8.0, lag=0.05, tolerance=1e-3)


class _ActorCriticFollower(LearningFollower):
    """What both are given."""

    def __init__(
        self, config: LearningConfig | None = None, network: NetworkConfig | None = None
    ) -> None:
        super().__init__()
        self.config = LearningConfig() if config is None else config
        self.network = NetworkConfig() if network is None else network


class DiscreteSACFollower(_ActorCriticFollower):
    """Tianshou's DiscreteSAC with the entropy weight fixed to the game's temperature.

    Source: Christodoulou, arXiv:1910.07207.

    Args:
        config: how much it plays. network: how it trains its networks.
    """

    name = "discrete-sac"

    def check(self, game: Game) -> None:
        require_choices(self.name, game)

    def learner(self, game: Game, generator: torch.Generator) -> Learner:
        from agents.tianshou_discrete import DiscreteActorCritic
        from agents.tianshou_learner import NetworkLearner

        return NetworkLearner(game, self.config, self.network, DiscreteActorCritic, generator)


class SACFollower(_ActorCriticFollower):
    """Tianshou's SAC with the entropy weight fixed to the game's temperature.

    Its policy is a Gaussian squashed into the Box; where that has no bounds, into a range.
    Entropies, and so the values, are of the density in the game's own units of action: inside,
    where actions run from -1 to 1, log-densities are less by sum_i log((high_i - low_i) / 2).

    Source: Haarnoja et al., arXiv:1812.05905.

    Args:
        config: how much it plays. network: how it trains its networks.
        reach: > 0, half of the range in which it looks for actions in every dimension where the
            Box lacks a bound, in the game's units: from -reach to reach, or as far as that from the
            one bound there is. It begins with a tenth of that. A warning tells when it should be
            larger; one ten times too large costs some accuracy.
    """

    name = "sac"

    def __init__(
        self,
        config: LearningConfig | None = None,
        network: NetworkConfig | None = None,
        reach: float = 10.0,
    ) -> None:
        super().__init__(config, NETWORK if network is None else network)
        if not 0 < reach < float("inf"):
            raise InputError("a finite reach > 0", f"{reach}", "give the largest useful action")
        self.reach = float(reach)

    def check(self, game: Game) -> None:
        space = game.follower_space
        fits = isinstance(space, spaces.Box) and len(space.shape) == 1
        if not fits or not np.all(cast(spaces.Box, space).low < cast(spaces.Box, space).high):
            raise InputError(
                "a game whose follower acts in a Box of one dimension, for the follower 'sac'",
                f"{space!r}",
                "use soft-q or discrete-sac for Discrete actions, and low < high in a Box",
            )

    def learner(self, game: Game, generator: torch.Generator) -> Learner:
        from agents.tianshou_box import BoxActorCritic
        from agents.tianshou_learner import NetworkLearner

        space = within(cast(spaces.Box, game.follower_space), self.reach)
        kind = partial(BoxActorCritic, space=space)
        return NetworkLearner(game, self.config, self.network, kind, generator)


def within(space: spaces.Box, reach: float) -> spaces.Box:
    """The Box with bounds, 2 reach apart where it lacks any."""
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    no_low, no_high = np.isinf(low), np.isinf(high)
    bottom = np.where(no_low, np.where(no_high, -reach, high - 2 * reach), low)
    top = np.where(no_high, np.where(no_low, reach, low + 2 * reach), high)
    return spaces.Box(bottom.astype(np.float32), top.astype(np.float32), dtype=np.float32)
