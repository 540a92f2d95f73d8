"""Soft actor-critic followers, for Discrete and for Box actions."""

from functools import partial
from typing import cast

import numpy as np
import torch
from gymnasium import spaces

from agents.learning import (
    Learner,
    LearningConfig,
    LearningFollower,
    NetworkConfig,
    require_choices,
)
from stackelberg.errors import InputError
from stackelberg.game import Game


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
        from agents.tianshou_networks import DiscreteActorCritic, NetworkLearner

        return NetworkLearner(game, self.config, self.network, DiscreteActorCritic, generator)


class SACFollower(_ActorCriticFollower):
    """Tianshou's SAC with the entropy weight fixed to the game's temperature.

    Its policy is a Gaussian squashed into the Box. Entropies, and so the values, are of the density
    in the game's own units of action: inside, where actions run from -1 to 1, log-densities are
    less by sum_i log((high_i - low_i) / 2).

    Source: Haarnoja et al., arXiv:1812.05905.

    Args:
        config: how much it plays. network: how it trains its networks.
    """

    name = "sac"

    def __init__(
        self,
        config: LearningConfig | None = None,
        network: NetworkConfig | None = None,
        reach: float = 10.0,
    ) -> None:
        super().__init__(config, network)
        self.reach = float(reach)

    def check(self, game: Game) -> None:
        space = game.follower_space
        fits = isinstance(space, spaces.Box) and len(space.shape) == 1
        if not fits or not np.all(cast(spaces.Box, space).low < cast(spaces.Box, space).high):
            raise InputError(
                "a game with a Box [e] as follower space for 'sac'",
                f"{space!r}",
                "use soft-q or discrete-sac for Discrete actions, and give a Box finite bounds",
            )

    def learner(self, game: Game, generator: torch.Generator) -> Learner:
        from agents.tianshou_networks import BoxActorCritic, NetworkLearner

        space = within(cast(spaces.Box, game.follower_space), self.reach)
        kind = partial(BoxActorCritic, space=space)
        return NetworkLearner(game, self.config, self.network, kind, generator)


def within(space: spaces.Box, reach: float) -> spaces.Box:
    """The Box with bounds 2 reach apart where it lacks any, about 0 where it lacks both."""
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    below = np.where(np.isinf(high), -reach, high - 2 * reach)
    above = np.where(np.isinf(low), reach, low + 2 * reach)
    low = np.where(np.isinf(low), below, low)
    high = np.where(np.isinf(high), above, high)
    return spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)
