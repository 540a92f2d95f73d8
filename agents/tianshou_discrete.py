"""Networks for followers that choose: Tianshou's DQN made soft, and DiscreteSAC.

Importing Tianshou takes seconds.
"""

from typing import Any, cast

import torch
from gymnasium import spaces
from tianshou.algorithm.modelfree.discrete_sac import (
    DiscreteSAC,
    DiscreteSACPolicy,
    DiscreteSACTrainingStats,
)
from tianshou.algorithm.modelfree.dqn import DQN, DiscreteQLearningPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Batch
from torch import Tensor

from agents.config import NetworkConfig
from agents.learning import draw
from agents.networks import MLP, Side
from agents.responses import DiscreteResponse
from agents.tianshou_parts import SeededPolicy
from agents.tianshou_targets import SoftTargets, standards, units_of
from stackelberg.game import Game
from stackelberg.induced import induced_observation_space


class _Boltzmann(SeededPolicy, DiscreteQLearningPolicy):
    def forward(self, batch: Any, state: Any = None, model: Any = None) -> Any:
        q = (self.model if model is None else model)(batch.obs)
        return Batch(logits=q, act=None, state=state)


class SoftQNetwork(SoftTargets, DQN):
    """DQN with the soft value v = alpha log sum_b exp(q(x', b) / alpha) of its target network."""

    def __init__(self, game: Game, config: NetworkConfig, generator: torch.Generator) -> None:
        inputs, actions = _sizes(game)
        model = MLP(inputs, config.width, actions, generator)
        super().__init__(
            policy=_Boltzmann(model=model, action_space=game.follower_space),
            optim=AdamOptimizerFactory(lr=config.step_size),
            target_update_freq=1,
        )
        self.lag = config.lag
        self.take_units(game)

    def _update_lagged_network_weights(self) -> None:
        self._lagged_networks.polyak_parameter_update(self.lag)

    def act(self, seen: Tensor) -> Tensor:
        return draw(self.policy.model(seen) / self.alpha.value, self.policy.generator)

    def value(self, seen: Tensor) -> Tensor:
        return _soft_maximum(self.policy.model(seen), self.alpha.value)

    def lagged_value(self, seen: Tensor) -> Tensor:
        return _soft_maximum(cast(Any, self.model_old)(seen), self.alpha.value)

    def action_value(self, seen: Tensor, action: Tensor) -> Tensor:
        return _chosen(self.policy.model(seen), action)

    @staticmethod
    def respond(
        game: Game, algorithms: list["SoftQNetwork"], gap: Tensor, steps: int
    ) -> DiscreteResponse:
        q = Side([one.policy.model for one in algorithms])
        alpha, level, scale = units_of(algorithms)

        def log_policy(seen: Tensor) -> Tensor:
            return torch.log_softmax(q(seen).double() / alpha, -1)

        def value(seen: Tensor) -> Tensor:
            return level + scale * alpha.squeeze(-1) * torch.logsumexp(q(seen).double() / alpha, -1)

        return DiscreteResponse(game, standards(algorithms), log_policy, value, gap, steps)


class _Categorical(SeededPolicy, DiscreteSACPolicy):
    def forward(self, batch: Any, state: Any = None, **_: Any) -> Any:
        logits = self.actor(batch.obs)
        dist = torch.distributions.Categorical(logits=logits, validate_args=False)
        return Batch(logits=logits, act=None, state=state, dist=dist)


class DiscreteActorCritic(SoftTargets, DiscreteSAC):
    """DiscreteSAC with fixed entropy weight; actions are sampled, in play too.

    Its actor minimises the cross entropy to softmax(q / alpha) instead of the KL divergence from
    it: the same minimum, but the gradient does not vanish where the actor is sure and wrong.
    """

    def __init__(self, game: Game, config: NetworkConfig, generator: torch.Generator) -> None:
        inputs, actions = _sizes(game)
        actor, one, two = (MLP(inputs, config.width, actions, generator) for _ in range(3))
        adam = AdamOptimizerFactory(lr=config.step_size)
        super().__init__(
            policy=_Categorical(actor=actor, action_space=game.follower_space),
            policy_optim=adam,
            critic=one,
            critic_optim=adam,
            critic2=two,
            tau=config.lag,
            alpha=1.0,
        )
        self.take_units(game)

    def act(self, seen: Tensor) -> Tensor:
        return draw(self.policy.actor(seen), self.policy.generator)

    def value(self, seen: Tensor) -> Tensor:
        log_policy = torch.log_softmax(self.policy.actor(seen), -1)
        return _mean_value(log_policy, self._lower(seen), self.alpha.value)

    def action_value(self, seen: Tensor, action: Tensor) -> Tensor:
        return _chosen(self._lower(seen), action)

    def best_value(self, seen: Tensor) -> Tensor:
        return _soft_maximum(self._lower(seen), self.alpha.value)

    def _lower(self, seen: Tensor) -> Tensor:
        """The smaller q [n, B] of both critics."""
        return torch.minimum(self.critic(seen), self.critic2(seen))

    def _update_with_batch(self, batch: Any) -> Any:
        critics = self.critic(batch.obs), self.critic2(batch.obs)
        losses = [(_chosen(q, batch.act) - batch.returns).square().mean() for q in critics]
        self.critic_optim.step(losses[0])
        self.critic2_optim.step(losses[1])
        best = torch.softmax(torch.minimum(*critics).detach() / self.alpha.value, -1)
        actor_loss = -(best * torch.log_softmax(self.policy.actor(batch.obs), -1)).sum(-1).mean()
        self.policy_optim.step(actor_loss)
        self._update_lagged_network_weights()
        names = ("actor_loss", "critic1_loss", "critic2_loss")
        found = {n: x.item() for n, x in zip(names, (actor_loss, *losses), strict=True)}
        return DiscreteSACTrainingStats(**found)

    @staticmethod
    def respond(
        game: Game, algorithms: list["DiscreteActorCritic"], gap: Tensor, steps: int
    ) -> DiscreteResponse:
        actor = Side([one.policy.actor for one in algorithms])
        critics = (
            Side([one.critic for one in algorithms]),
            Side([one.critic2 for one in algorithms]),
        )
        alpha, level, scale = units_of(algorithms)

        def log_policy(seen: Tensor) -> Tensor:
            return torch.log_softmax(actor(seen).double(), -1)

        def value(seen: Tensor) -> Tensor:
            q = torch.minimum(*(critic(seen).double() for critic in critics))
            return level + scale * _mean_value(log_policy(seen), q, alpha)

        return DiscreteResponse(game, standards(algorithms), log_policy, value, gap, steps)


def _sizes(game: Game) -> tuple[int, int]:
    actions = int(cast(spaces.Discrete, game.follower_space).n)
    return induced_observation_space(game).shape[0], actions


def _soft_maximum(q: Tensor, alpha: float) -> Tensor:
    return alpha * torch.logsumexp(q / alpha, -1)


def _mean_value(log_policy: Tensor, q: Tensor, alpha: float | Tensor) -> Tensor:
    """E_b[q - alpha log g(b)]."""
    return (log_policy.exp() * (q - alpha * log_policy)).sum(-1)


def _chosen(q: Tensor, action: Tensor) -> Tensor:
    return q.gather(-1, action.unsqueeze(-1)).squeeze(-1)
