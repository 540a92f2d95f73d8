"""Soft Q-learning: a table where states are observed one-hot, elsewhere a network."""

from dataclasses import dataclass

import torch

from agents.learning import (
    Learner,
    LearningConfig,
    LearningFollower,
    NetworkConfig,
    check_counts,
    require_choices,
)
from stackelberg.errors import InputError
from stackelberg.game import Game


@dataclass(frozen=True, kw_only=True)
class SoftQConfig(LearningConfig):
    """Settings of the soft Q-learning follower: how much it plays, and how it fits a table."""

    learning_rate: float = 0.7  # in (0, 1]; 1 would swing for ever where states alternate
    updates: int = 300  # most updates in one fit
    residual: float = 0.002  # a fit ends when no mean TD error exceeds it, in temperatures
    uncertainty: float = 0.03  # collecting ends when 3 standard errors change no g(b|x) by more

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "updates")
        if not 0 < self.learning_rate <= 1:
            raise InputError(
                "learning_rate in (0, 1]", f"{self.learning_rate}", "use for example 0.7"
            )
        for name in ("residual", "uncertainty"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} > 0", f"{getattr(self, name)}", "use for example 0.01")


class SoftQFollower(LearningFollower):
    """Soft Q-learning: g(b|s,a) = softmax(Q(s,a,b) / temperature).

    With a table its error is sampling error, *exact when* every (s, a, b) has been seen infinitely
    often, and it stops when what it does not know could change no choice much. With a network it
    stops by the measured gap, see `agents.learning.gap_of`.

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
        from agents.tianshou_networks import NetworkLearner, SoftQNetwork

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
