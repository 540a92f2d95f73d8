"""Responses of followers that learned by networks: what M leaders meet."""

from collections.abc import Callable

import torch
from gymnasium import spaces
from torch import Tensor

from agents.learning import draw, to_game
from agents.networks import Side
from agents.squashed import SquashedGaussian, log_width, squashed, unsquashed
from stackelberg.game import Game
from stackelberg.induced import with_action

DRAWS = 32  # actions by which the value of a Box policy is averaged


class NetworkResponse:
    """The responses to M leaders by networks; see `stackelberg.access.Response`.

    Attributes:
        gap: [M], see `agents.gap.gap_of`. steps: environment steps of training, per leader.
    """

    def __init__(
        self, game: Game, standard: Callable[[Tensor], Tensor], gap: Tensor, steps: int
    ) -> None:
        self.game, self.gap, self.steps = game, gap, steps
        self._standard = standard

    def _seen(self, observation: Tensor, leader_action: Tensor) -> Tensor:
        """What the follower meets [M, n, d + A], standard."""
        return self._standard(with_action(self.game, observation, leader_action))


class DiscreteResponse(NetworkResponse):
    """How followers choose among finitely many actions."""

    def __init__(
        self,
        game: Game,
        standard: Callable[[Tensor], Tensor],
        log_policy: Callable[[Tensor], Tensor],
        soft_value: Callable[[Tensor], Tensor],
        gap: Tensor,
        steps: int,
    ) -> None:
        super().__init__(game, standard, gap, steps)
        self._log_policy, self._soft_value = log_policy, soft_value

    def sample(
        self, observation: Tensor, leader_action: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Actions [M, n], drawn from the response."""
        return draw(self.log_prob(observation, leader_action), generator)

    def log_prob(self, observation: Tensor, leader_action: Tensor) -> Tensor:
        """log g(b|s,a) of every action: [M, n, B]."""
        return self._log_policy(self._seen(observation, leader_action))

    def value(self, observation: Tensor, leader_action: Tensor) -> Tensor:
        """V_F(s,a) [M, n]: what it expects, entropies included."""
        return self._soft_value(self._seen(observation, leader_action))


class BoxResponse(NetworkResponse):
    """How followers act in a Box."""

    def __init__(
        self,
        game: Game,
        space: spaces.Box,
        standard: Callable[[Tensor], Tensor],
        actor: Side,
        soft_value: Callable[..., Tensor],
        gap: Tensor,
        steps: int,
    ) -> None:
        super().__init__(game, standard, gap, steps)
        self._actor, self._soft_value, self._space = actor, soft_value, space
        self._outward, self._log_width = to_game(space), log_width(space)

    def sample(
        self, observation: Tensor, leader_action: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Actions [M, n, e], drawn from the response."""
        policy = SquashedGaussian.of(self._actor(self._seen(observation, leader_action)))
        return self._outward(policy.sample(generator))

    def log_density(self, observation: Tensor, leader_action: Tensor, action: Tensor) -> Tensor:
        """log g(b|s,a) [M, n] of actions [M, n, e] inside the Box."""
        seen = self._seen(observation, leader_action)
        policy = SquashedGaussian.of(self._actor(seen).double())
        low, high = (
            torch.from_numpy(bound).double() for bound in (self._space.low, self._space.high)
        )
        inner = unsquashed(2 * (action - low) / (high - low) - 1)
        return policy.log_density(inner) - self._log_width

    def value(self, observation: Tensor, leader_action: Tensor) -> Tensor:
        """V_F(s,a) [M, n]: what it expects, entropies included; a mean over fixed draws."""
        seen = self._seen(observation, leader_action)
        policy = SquashedGaussian.of(self._actor(seen))
        fixed = torch.Generator().manual_seed(0)
        half = torch.randn(DRAWS // 2, 1, 1, policy.mean.shape[-1], generator=fixed)
        total = torch.zeros(seen.shape[:2], dtype=torch.float64)
        for noise in torch.cat([half, -half]):
            inner = policy.inner(noise)
            log_prob = policy.log_density(inner, noise) - self._log_width
            total += self._soft_value(seen, squashed(inner), log_prob.double())
        return total / DRAWS
