"""Soft actor-critic followers, for Discrete and for Box actions."""

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

    def check(self, game: Game) -> None:
        space = game.follower_space
        fits = isinstance(space, spaces.Box) and len(space.shape) == 1 and space.is_bounded()
        if not fits or not np.all(cast(spaces.Box, space).low < cast(spaces.Box, space).high):
            raise InputError(
                "a game with a bounded Box [e] as follower space for 'sac'",
                f"{space!r}",
                "use soft-q or discrete-sac for Discrete actions, and give a Box finite bounds",
            )

    def learner(self, game: Game, generator: torch.Generator) -> Learner:
        from agents.tianshou_networks import BoxActorCritic, NetworkLearner

        return NetworkLearner(game, self.config, self.network, BoxActorCritic, generator)
