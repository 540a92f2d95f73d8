"""Soft Q-learning: a table where states are observed one-hot, elsewhere a network."""

import torch

from agents.config import NetworkConfig, SoftQConfig
from agents.learning import Learner, LearningFollower, require_choices
from stackelberg.game import Game


class SoftQFollower(LearningFollower):
    """Soft Q-learning: g(b|s,a) = softmax(Q(s,a,b) / temperature).

    With a table its error is sampling error, *exact when* every (s, a, b) has been seen infinitely
    often, and it stops when what it does not know could change no choice much. With a network it
    stops by the measured gap, see `agents.gap.gap_of`.

    Args:
        config: how much it plays, and how it fits a table; the defaults suit small games.
        network: how it trains a network.
    """

    name = "soft-q"
    config: SoftQConfig

    def __init__(
        self, config: SoftQConfig | None = None, network: NetworkConfig | None = None
    ) -> None:
        super().__init__()
        self.config = SoftQConfig() if config is None else config
        self.network = NetworkConfig() if network is None else network

    def check(self, game: Game) -> None:
        require_choices(self.name, game)

    def learner(self, game: Game, generator: torch.Generator) -> Learner:
        if observed_one_hot(game):
            from agents.tianshou_table import TableLearner

            return TableLearner(game, self.config)
        from agents.tianshou_discrete import SoftQNetwork
        from agents.tianshou_learner import NetworkLearner

        return NetworkLearner(game, self.config, self.network, SoftQNetwork, generator)


def observed_one_hot(game: Game) -> bool:
    """Is state i observed, by both, as the i-th unit vector?"""
    space = game.follower_observation_space
    if (
        game.observes_apart
        or len(space.shape) != 1
        or not ((space.low == 0) & (space.high == 1)).all()
    ):
        return False
    count = space.shape[0]
    try:
        seen = game.observe(torch.arange(count))
    except Exception:  # a user's game, whose states may be of any other kind
        return False
    return seen.shape == (count, count) and torch.equal(seen, torch.eye(count))
