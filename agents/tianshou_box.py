"""Networks for followers that act in a Box: Tianshou's SAC, with a polynomial part.

Importing Tianshou takes seconds.
"""

import math
import warnings
from typing import Any, cast

import numpy as np
import torch
from gymnasium import spaces
from tianshou.algorithm.modelfree.sac import SAC, SACPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Batch
from torch import Tensor, nn

from agents.config import NetworkConfig
from agents.networks import MLP, Side
from agents.polynomial import monomials, temporal_differences
from agents.responses import BoxResponse
from agents.squashed import SquashedGaussian, log_width, squashed, unsquashed
from agents.tianshou_parts import SeededPolicy
from agents.tianshou_targets import SoftTargets, standards, units_of
from stackelberg.game import Game
from stackelberg.induced import induced_observation_space

PROPOSALS = 16  # actions by which the normaliser of exp(q / alpha) is estimated in a Box
FEATURES = 500  # at most, where a polynomial is found by least squares; else its linear part
UNTOLD = 0.05, 0.5  # of the variance of targets, what a polynomial may miss at first, and later,
# when it has told so much that their noise is most of what is left
NEAR = 4.0  # squared distance from the response's play at which experience counts a quarter
EDGE = 0.98, 0.03  # of the range: where it ends, and which share of actions may lie there
START = 0.1  # standard deviation of the first response, where the range is from -1 to 1


class _Squashed(SeededPolicy, SACPolicy):
    """A squashed Gaussian on [-1, 1]; log-densities are those in the game's units of action."""

    log_width: float

    def forward(self, batch: Any, state: Any = None, **_: Any) -> Any:
        policy = SquashedGaussian.of(self.actor(batch.obs))
        noise = policy.noise(self.generator)
        inner = policy.inner(noise)
        log_prob = policy.log_density(inner, noise) - self.log_width
        return Batch(
            logits=tuple(policy),
            act=squashed(inner),
            state=state,
            dist=None,
            log_prob=log_prob.unsqueeze(-1),
        )


class BoxActorCritic(SoftTargets, SAC):
    """SAC with fixed entropy weight; actions are sampled, in play too.

    To both critics a quadratic function of what is met and done is added, found by least squares,
    and to the actor's means a linear one: near where a system is held values are quadratic, and a
    few per cent of the response's variance ask for more of their curvature than networks tell.

    Args:
        space: where it acts, the game's Box with bounds.
    """

    fewest = 300
    quadratic: Tensor  # bool: does a polynomial tell nearly all?
    width: Tensor  # [e] by how much copies stray
    middle: Tensor  # [d] of what the response meets
    around: Tensor  # [d], the spread of it

    def __init__(
        self,
        game: Game,
        config: NetworkConfig,
        generator: torch.Generator,
        space: spaces.Box,
    ) -> None:
        inputs, width = induced_observation_space(game).shape[0], config.width
        size = space.shape[0]
        actor = MLP(inputs, width, 2 * size, generator, 1)
        every = inputs + size
        self.degree = 2 if every * (every + 3) // 2 <= FEATURES else 1
        one, two = (_Critic(MLP(every, width, 1, generator, self.degree)) for _ in range(2))
        with torch.no_grad():
            actor.weights[-1].zero_()
            actor.biases[-1][:, size:] = math.log(START)
            for critic in (one, two):
                critic.network.weights[-1].mul_(START)
                critic.network.polynomial.requires_grad_(False)
        adam = AdamOptimizerFactory(lr=config.step_size)
        policy = _Squashed(actor=actor, action_space=space)
        policy.log_width = log_width(space)
        super().__init__(
            policy=policy,
            policy_optim=adam,
            critic=one,
            critic_optim=adam,
            critic2=two,
            tau=config.lag,
            alpha=1.0,
        )
        bounds = cast(spaces.Box, game.follower_space)
        self.open = torch.from_numpy(np.isinf(bounds.low) | np.isinf(bounds.high))
        self.largest = config.step_size
        self.register_buffer("quadratic", torch.tensor(True))
        self.register_buffer("width", torch.full((size,), 2 * START))
        self.register_buffer("middle", torch.zeros(inputs))
        self.register_buffer("around", torch.ones(inputs))
        self.take_units(game)

    def act(self, seen: Tensor) -> Tensor:
        return SquashedGaussian.of(self.policy.actor(seen)).sample(self.policy.generator)

    def value(self, seen: Tensor) -> Tensor:
        batch = self.policy(Batch(obs=seen))
        return self.action_value(seen, batch.act) - self.alpha.value * batch.log_prob.squeeze(-1)

    def best_value(self, seen: Tensor) -> Tensor:
        """By importance sampling: half of the actions are the policy's, half uniform."""
        policy, generator = SquashedGaussian.of(self.policy.actor(seen)), self.policy.generator
        shape, terms = policy.mean.shape, []
        for k in range(PROPOSALS):
            inner = policy.inner(policy.noise(generator))
            if k % 2:
                inner = unsquashed(2 * torch.rand(shape, generator=generator) - 1)
            own = policy.log_density(inner)
            either = torch.logaddexp(own, torch.full_like(own, -math.log(2) * shape[-1]))
            proposed = either - math.log(2) - self.policy.log_width
            q = self.action_value(seen, squashed(inner))
            terms.append(q / self.alpha.value - proposed)
        return self.alpha.value * (torch.logsumexp(torch.stack(terms), 0) - math.log(PROPOSALS))

    def action_value(self, seen: Tensor, action: Tensor) -> Tensor:
        return torch.minimum(self.critic(seen, action), self.critic2(seen, action)).squeeze(-1)

    @torch.no_grad()
    def find_level(self, batch: Any) -> None:
        """Then the polynomial, which both critics have in common, by weighted least squares.

        Where it misses more than a twentieth of the variance of the first targets, or half of that
        of later ones, it is left as it is, for good.
        """
        super().find_level(batch)
        if not self.quadratic:
            return
        met = batch.obs_next.flatten(0, 1)
        done = self.policy(Batch(obs=met))
        value = self.action_value(met, done.act) - self.alpha.value * done.log_prob.squeeze(-1)
        q = self.action_value(batch.obs, batch.act).double()
        target = self._target(batch, lambda _: value).double()
        here, ahead = self._features(batch.obs, batch.act), self._features(met, done.act)
        odds = batch.odds.masked_fill(batch.terminated.unsqueeze(-1), 0.0).double()
        ahead = (odds.unsqueeze(-1) * ahead.view(*odds.shape, -1)).sum(1)
        weight = self.weight(batch.obs).double()
        polynomials = [
            cast(MLP, critic.network).polynomial for critic in (self.critic, self.critic2)
        ]
        missing = UNTOLD[int(polynomials[0].any())]
        change = temporal_differences(here, ahead, self.discount, q, target, weight, missing)
        if change is None:
            self.quadratic.fill_(False)
            return
        self.level += self.scale * change[0]
        for polynomial in polynomials:
            polynomial.add_(change[1:, None].float())
        self._lagged_networks.full_parameter_update()

    def _features(self, seen: Tensor, action: Tensor) -> Tensor:
        terms = monomials(torch.cat([seen, action], -1).double(), self.degree)
        return torch.cat([torch.ones_like(terms[:, :1]), terms], -1)

    def standardise(self, seen: Tensor) -> None:
        """Take the units of what is met from this [n, d]."""
        self.centre.copy_(seen.mean(0))
        spread = seen.std(0)
        self.spread.copy_(torch.where(spread > 1e-6, spread, 1.0))

    def slow(self, share: float) -> None:
        for optimiser in self._optimizers:
            for group in optimiser._optim.param_groups:
                group["lr"] = share * self.largest

    def survey(self, seen: Tensor, action: Tensor) -> None:
        """Stray by up to two standard deviations, and learn most exactly where the response is.

        Warns where it often wants to go beyond the range that stands in for bounds.
        """
        share, most = (action.abs() > EDGE[0])[:, self.open].double().mean(), EDGE[1]
        if share > most:
            warnings.warn(
                f"{share:.0%} of the actions of 'sac' lie at the edge of its range; "
                "raise its option reach",
                stacklevel=2,
            )
        self.width.copy_(2 * action.std(0))
        self.middle.copy_(seen.mean(0))
        self.around.copy_(seen.std(0).clamp(min=1e-3))

    def stray(self, action: Tensor, free: Tensor) -> Tensor:
        return (action + self.width * free).clamp(-1, 1)

    def weight(self, seen: Tensor) -> Tensor:
        """How much transitions [n] count: less far from what the response meets, if a polynomial
        must fit them.
        """
        if not self.quadratic:
            return torch.ones(len(seen))
        far = ((seen - self.middle) / self.around).square().mean(-1)
        return (1 + far / NEAR) ** -2

    @torch.no_grad()
    def _preprocess_batch(self, batch: Any, buffer: Any, indices: Any) -> Any:
        batch = super()._preprocess_batch(batch, buffer, indices)
        weight = self.weight(batch.obs)
        batch.weight = weight / weight.mean()
        return batch

    @staticmethod
    def respond(
        game: Game, algorithms: list["BoxActorCritic"], gap: Tensor, steps: int
    ) -> BoxResponse:
        actor = Side([one.policy.actor for one in algorithms])
        critics = [
            Side([one.critic.network for one in algorithms]),
            Side([one.critic2.network for one in algorithms]),
        ]
        alpha, level, scale = units_of(algorithms)

        def value(seen: Tensor, action: Tensor, log_prob: Tensor) -> Tensor:
            x = torch.cat([seen, action], -1)
            q = torch.minimum(*(critic(x).double() for critic in critics)).squeeze(-1)
            return level + scale * (q - alpha.squeeze(-1) * log_prob)

        space = cast(spaces.Box, algorithms[0].policy.action_space)
        return BoxResponse(game, space, standards(algorithms), actor, value, gap, steps)


class _Critic(nn.Module):
    def __init__(self, network: MLP) -> None:
        super().__init__()
        self.network = network

    def forward(self, seen: Tensor, action: Tensor) -> Tensor:
        return self.network(torch.cat([seen, action], -1))
