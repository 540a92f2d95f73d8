"""Networks for followers: Tianshou's DQN made soft, DiscreteSAC and SAC.

Networks work in units of their own: Q = level + scale q, where the level, common to all (x, b), is
found in closed form and the scale is that of returns. Importing Tianshou takes seconds.
"""

import itertools
import math
import warnings
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from tianshou.algorithm.modelfree.discrete_sac import (
    DiscreteSAC,
    DiscreteSACPolicy,
    DiscreteSACTrainingStats,
)
from tianshou.algorithm.modelfree.dqn import DQN, DiscreteQLearningPolicy
from tianshou.algorithm.modelfree.sac import SAC, FixedAlpha, SACPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Batch
from tianshou.utils.torch_utils import policy_within_training_step
from torch import Tensor, nn

from agents.learning import (
    Columns,
    Experience,
    Learner,
    LearningConfig,
    NetworkConfig,
    draw,
    flat,
    gap_of,
    to_game,
)
from agents.replay import Replay
from stackelberg.errors import InputError
from stackelberg.game import Game
from stackelberg.induced import Place, induced_observation_space, meetings, with_action
from stackelberg.types import Commitment

_LEVELLED = 65_536  # transitions from which the level is found
_PROPOSALS = 16  # actions by which the normaliser of exp(q / alpha) is estimated in a Box
_BEND = 4  # the exponent of the squashing
_FEATURES = 500  # at most, where a polynomial is found by least squares; else its linear part
_UNTOLD = 0.05, 0.5  # of the variance of targets, what a polynomial may miss at first, and later,
# when it has told so much that their noise is most of what is left
_RANK = 1e-9  # of the largest eigenvalue, below which a combination of features is not seen to vary
_NEAR = 4.0  # squared distance from the response's play at which experience counts a quarter
_EDGE = 0.98, 0.03  # of the range: where it ends, and which share of actions may lie there
_START = 0.1  # standard deviation of the first response, where the range is from -1 to 1
_DRAWS = 32  # actions by which the value of a Box policy is averaged


class NetworkLearner(Learner):
    """One follower against one leader, with networks.

    Args:
        game, config, network: see the followers.
        kind: the algorithm, one of the classes below.
        generator: decides the first parameters.
    """

    first_steps = 131_072
    afresh_steps = 65_536
    experience: Experience

    def __init__(
        self,
        game: Game,
        config: LearningConfig,
        network: NetworkConfig,
        kind: Callable[..., Any],
        generator: torch.Generator,
    ) -> None:
        super().__init__(game, config)
        if config.copies < 4:
            raise InputError(
                "copies >= 4 for networks, half of which measure the response",
                f"{config.copies}",
                "use more copies",
            )
        self.network = network
        self.experience = Experience(network.capacity)
        self.algorithm = kind(game, network, generator)
        self.space = self.algorithm.policy.action_space

    def face(self, commitment: Commitment, leader: int, generator: torch.Generator) -> None:
        super().face(commitment, leader, generator)
        self.algorithm.policy.generator = generator

    def strays(self, copies: int) -> Tensor:
        """One half follows the response; the others stray from hardly ever to always."""
        half = copies // 2
        share = torch.arange(1, copies - half + 1) / (copies - half)
        return torch.cat([torch.zeros(half), share])

    def act(self, seen: Tensor) -> Tensor:
        return self.algorithm.act(self.algorithm.standard(seen))

    def stray(self, action: Tensor) -> Tensor:
        return self.algorithm.stray(action, super().stray(action))

    def keep(self, rows: Columns) -> None:
        self.experience.add({name: rows[name] for name in rows if name != "truncated"})

    def learn(self, fresh: Columns, strays: Tensor, last: bool) -> bool:
        """Measure the gap by the fresh play, then learn from it unless that is good enough."""
        algorithm, game = self.algorithm, self.game
        if not self.trained:
            algorithm.rescale(max(game.temperature, _spread(fresh, game.follower_discount)))
            algorithm.standardise(fresh["seen"].flatten(0, 1))
        over, away = fresh["terminated"] | fresh["truncated"], fresh["seen"][:, strays > 0]
        error = algorithm.errors(Batch(self._met(flat(fresh)))).view(over.shape)
        slack = algorithm.slack(algorithm.standard(away.flatten(0, 1))).view(away.shape[:2])
        gap = gap_of(error, slack, over, strays, game.follower_discount)
        self.keep(flat(fresh))
        own = flat({name: fresh[name][:, strays == 0] for name in ("seen", "act")})
        algorithm.survey(algorithm.standard(own["seen"]), own["act"])
        self.gap, allowed = gap.value, self.network.tolerance * game.temperature * gap.time
        if last or (self.trained and gap.value + 2 * gap.error <= allowed):
            return True
        self._fit(len(over.flatten()))
        self.trained = True
        return False

    def _met(self, rows: Columns) -> Columns:
        """The transitions, and what the follower may meet where they led."""
        place = Place(rows.get("leader", rows["follower"]), rows["follower"], rows["out"])
        met, odds = meetings(self.game, self.commitment, self.index, place, self.generator)
        kept = {name: rows[name] for name in ("act", "rew", "terminated")}
        standard = self.algorithm.standard
        return kept | {"obs": standard(rows["seen"]), "obs_next": standard(met), "odds": odds}

    def _fit(self, fresh: int) -> None:
        algorithm, batch = self.algorithm, self.network.batch
        replay = Replay(self.experience.columns(), self.generator, self._met)
        with policy_within_training_step(algorithm.policy):
            everything, _ = replay.sample(min(_LEVELLED, replay.size))
            algorithm.find_level(everything)
            least = max(1, min(algorithm.fewest, fresh // 4))
            updates = max(least, round(self.network.replays * fresh / batch))
            for i in range(updates):
                algorithm.slow(1 - i / updates)
                algorithm.update(replay, sample_size=batch)
            everything, _ = replay.sample(min(_LEVELLED, replay.size))
            algorithm.find_level(everything)

    @staticmethod
    def respond(
        learners: list["NetworkLearner"], commitment: Commitment, steps: int
    ) -> "NetworkResponse":
        """The response to M leaders."""
        gaps = torch.tensor([learner.gap for learner in learners], dtype=torch.float64)
        algorithms = [learner.algorithm for learner in learners]
        return algorithms[0].respond(learners[0].game, algorithms, gaps, steps)

    def state(self) -> dict[str, Tensor]:
        algorithm = self.algorithm
        saved = algorithm.state_dict()
        moments = saved.pop("_optimizers")
        found = {name: value.clone() for name, value in saved.items()}
        for i, optimiser in enumerate(moments):
            for row, entries in optimiser["state"].items():
                found |= {f"moments.{i}.{row}.{k}": v.clone() for k, v in entries.items()}
        return found | {f"kept.{name}": v for name, v in self.experience.state().items()}

    def load(self, state: dict[str, Tensor]) -> None:
        parts: dict[str, dict[str, Tensor]] = {"moments": {}, "kept": {}}
        own = {}
        for name, value in state.items():
            head, _, rest = name.partition(".")
            if head in parts:
                parts[head][rest] = value
            else:
                own[name] = value
        saved = self.algorithm.state_dict()
        for name, value in parts["moments"].items():
            i, row, entry = name.split(".")
            saved["_optimizers"][int(i)]["state"].setdefault(int(row), {})[entry] = value.clone()
        self.algorithm.load_state_dict(saved | own)
        self.algorithm.rescale(self.algorithm.scale.item())
        self.experience.load(parts["kept"])
        self.trained = True


def _spread(play: Columns, discount: float) -> float:
    """Of returns, were rewards independent; as it was, where rewards are all alike."""
    independent = play["rew"].std().item() * (1 - discount**2) ** -0.5
    if independent:
        return independent
    over, total, returns = play["terminated"] | play["truncated"], torch.zeros(()), []
    for reward, ended in zip(play["rew"].flip(0), over.flip(0), strict=True):
        total = reward + discount * torch.where(ended, 0.0, total)
        returns.append(total)
    return torch.stack(returns).std().item()


class MLP(nn.Module):
    """Two hidden layers; `generator` decides the parameters (Xavier).

    Args:
        degree: 0, with ReLU; or 1 or 2, that of a polynomial of the inputs that is added to the
            outputs, with SiLU, which has a curvature.
    """

    def __init__(
        self, inputs: int, width: int, outputs: int, generator: torch.Generator, degree: int = 0
    ) -> None:
        super().__init__()
        widths = [inputs, width, width, outputs]
        shapes = list(itertools.pairwise(widths))
        self.weights = nn.ParameterList(nn.Parameter(torch.empty(shape)) for shape in shapes)
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(1, out)) for _, out in shapes)
        for weight in self.weights:
            nn.init.xavier_uniform_(weight, generator=generator)
        terms = len(_monomials(torch.zeros(inputs), degree))
        self.polynomial = nn.Parameter(torch.zeros(terms, outputs))
        self.degree = degree

    def forward(self, x: Tensor) -> Tensor:
        return _layers(x, self, torch.addmm)


def _monomials(x: Tensor, degree: int) -> Tensor:
    """The products of 1 to `degree` entries of x [..., d], degree <= 2."""
    if degree < 2:
        return x[..., : degree * x.shape[-1]]
    i, j = torch.triu_indices(x.shape[-1], x.shape[-1])
    return torch.cat([x, x[..., i] * x[..., j]], -1)


def _layers(x: Tensor, network: Any, affine: Callable[..., Tensor]) -> Tensor:
    first, second, last = zip(network.biases, network.weights, strict=True)
    act = F.silu if network.degree else torch.relu
    hidden = x
    for bias, weight in (first, second):
        hidden = act(affine(bias, hidden, weight))
    outputs = affine(last[0], hidden, last[1])
    if network.degree:
        outputs = outputs + _monomials(x, network.degree) @ network.polynomial
    return outputs


class Side:
    """M trained networks side by side, as they are now: [M, n, inputs] to [M, n, outputs]."""

    def __init__(self, networks: list[Any]) -> None:
        layers = range(len(networks[0].weights))
        self.weights = [torch.stack([n.weights[i].detach() for n in networks]) for i in layers]
        self.biases = [torch.stack([n.biases[i].detach() for n in networks]) for i in layers]
        self.polynomial = torch.stack([n.polynomial.detach() for n in networks])
        self.degree = networks[0].degree

    def __call__(self, x: Tensor) -> Tensor:
        return _layers(x, self, torch.baddbmm)


class _Relative:
    """What the algorithms share: one-step soft targets in units of their own.

    What is met enters the networks standardised by the first play, and `seen` below is so.

    With Q = level + scale q and V = level + scale v, the target of q(x, b) is
    (r + gamma V(x') - level) / scale, where nothing follows an ending.
    """

    fewest = 1  # updates in a round, unless a quarter of its transitions is less
    policy: Any
    alpha: Any
    scale: Tensor
    level: Tensor
    centre: Tensor
    spread: Tensor

    def _units(self, game: Game) -> None:
        module = cast(nn.Module, self)
        module.register_buffer("scale", torch.ones((), dtype=torch.float64))
        module.register_buffer("level", torch.zeros((), dtype=torch.float64))
        inputs = induced_observation_space(game).shape
        module.register_buffer("centre", torch.zeros(inputs))
        module.register_buffer("spread", torch.ones(inputs))
        self.temperature, self.discount = game.temperature, game.follower_discount
        self.rescale(1.0)

    def rescale(self, scale: float) -> None:
        """Take this unit of returns."""
        self.scale.fill_(scale)
        self.alpha = FixedAlpha(self.temperature / scale)

    def standardise(self, seen: Tensor) -> None:
        """Take the units of what is met from this [n, d], where they matter."""

    def standard(self, seen: Tensor) -> Tensor:
        """What is met [..., d] in those units."""
        return (seen - self.centre) / self.spread

    def survey(self, seen: Tensor, action: Tensor) -> None:
        """Take note of what the response meets [n, d] and does [n] or [n, e]."""

    def stray(self, action: Tensor, free: Tensor) -> Tensor:
        """What a copy does that strays: it acts freely, or does something near the response's."""
        return free

    def slow(self, share: float) -> None:
        """Take smaller steps as a round of updates goes on, where the last digits matter."""

    def value(self, seen: Tensor) -> Tensor:
        """v [n] of what the follower met [n, d], standard."""
        raise NotImplementedError

    def action_value(self, seen: Tensor, action: Tensor) -> Tensor:
        """q [n]."""
        raise NotImplementedError

    def best_value(self, seen: Tensor) -> Tensor:
        """v [n] of softmax(q / alpha), where the policy may be another: at least `value`."""
        return self.value(seen)

    def lagged_value(self, seen: Tensor) -> Tensor:
        """v [n] by the target networks."""
        batch = Batch(obs=seen)
        found = self._target_q_compute_value(batch, self.policy(batch))  # type: ignore[attr-defined]
        return cast(Tensor, found).flatten()

    @torch.no_grad()
    def _preprocess_batch(self, batch: Any, buffer: Any, indices: Any) -> Any:
        batch.returns = self._target(batch, self.lagged_value).float()
        return batch

    def _target(self, batch: Any, value_of: Callable[[Tensor], Tensor]) -> Tensor:
        value = value_of(batch.obs_next.flatten(0, 1)).view_as(batch.odds)
        value = (batch.odds * value).sum(-1)
        future = (self.level + self.scale * value).masked_fill(batch.terminated, 0.0)
        return (batch.rew + self.discount * future - self.level) / self.scale

    @torch.no_grad()
    def errors(self, batch: Any) -> Tensor:
        """Soft TD errors of transitions [n], in units of the return."""
        target = self._target(batch, self.value)
        return self.scale * (target - self.action_value(batch.obs, batch.act))

    @torch.no_grad()
    def slack(self, seen: Tensor) -> Tensor:
        """By how much V falls short of that of softmax(Q / beta), [n]."""
        return self.scale * (self.best_value(seen) - self.value(seen))

    @torch.no_grad()
    def find_level(self, batch: Any) -> None:
        """Set the level to where TD errors are 0 on average."""
        error = self.errors(batch)
        self.level += error.mean() / (1 - self.discount * (~batch.terminated).double().mean())


class _Boltzmann(DiscreteQLearningPolicy):
    generator: torch.Generator
    algorithm: Any

    @staticmethod
    def _compile() -> None:
        """Skip compiling advantage estimators (seconds), which are never called."""

    def forward(self, batch: Any, state: Any = None, model: Any = None) -> Any:
        q = (self.model if model is None else model)(batch.obs)
        return Batch(logits=q, act=None, state=state)


class SoftQNetwork(_Relative, DQN):
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
        self._units(game)

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
    ) -> "DiscreteResponse":
        q = Side([one.policy.model for one in algorithms])
        alpha, level, scale = _units_of(algorithms)

        def log_policy(seen: Tensor) -> Tensor:
            return torch.log_softmax(q(seen).double() / alpha, -1)

        def value(seen: Tensor) -> Tensor:
            return level + scale * alpha.squeeze(-1) * torch.logsumexp(q(seen).double() / alpha, -1)

        return DiscreteResponse(game, _standards(algorithms), log_policy, value, gap, steps)


class _Categorical(DiscreteSACPolicy):
    generator: torch.Generator

    @staticmethod
    def _compile() -> None:
        """Skip compiling advantage estimators (seconds), which are never called."""

    def forward(self, batch: Any, state: Any = None, **_: Any) -> Any:
        logits = self.actor(batch.obs)
        dist = torch.distributions.Categorical(logits=logits, validate_args=False)
        return Batch(logits=logits, act=None, state=state, dist=dist)


class DiscreteActorCritic(_Relative, DiscreteSAC):
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
        self._units(game)

    def act(self, seen: Tensor) -> Tensor:
        return draw(self.policy.actor(seen), self.policy.generator)

    def value(self, seen: Tensor) -> Tensor:
        q = torch.minimum(self.critic(seen), self.critic2(seen))
        return _mean_value(torch.log_softmax(self.policy.actor(seen), -1), q, self.alpha.value)

    def action_value(self, seen: Tensor, action: Tensor) -> Tensor:
        return _chosen(torch.minimum(self.critic(seen), self.critic2(seen)), action)

    def best_value(self, seen: Tensor) -> Tensor:
        q = torch.minimum(self.critic(seen), self.critic2(seen))
        return _soft_maximum(q, self.alpha.value)

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
    ) -> "DiscreteResponse":
        actor = Side([one.policy.actor for one in algorithms])
        critics = (
            Side([one.critic for one in algorithms]),
            Side([one.critic2 for one in algorithms]),
        )
        alpha, level, scale = _units_of(algorithms)

        def log_policy(seen: Tensor) -> Tensor:
            return torch.log_softmax(actor(seen).double(), -1)

        def value(seen: Tensor) -> Tensor:
            q = torch.minimum(*(critic(seen).double() for critic in critics))
            return level + scale * _mean_value(log_policy(seen), q, alpha)

        return DiscreteResponse(game, _standards(algorithms), log_policy, value, gap, steps)


class _Squashed(SACPolicy):
    """A squashed Gaussian on [-1, 1]; log-densities are those in the game's units of action."""

    generator: torch.Generator
    log_width: float  # sum_i log((high_i - low_i) / 2)

    @staticmethod
    def _compile() -> None:
        """Skip compiling advantage estimators (seconds), which are never called."""

    def forward(self, batch: Any, state: Any = None, **_: Any) -> Any:
        mean, log_scale = _moments(self.actor(batch.obs))
        noise = torch.randn(mean.shape, generator=self.generator)
        action = mean + log_scale.exp() * noise
        log_prob = _log_density(noise, log_scale, action) - self.log_width
        return Batch(
            logits=(mean, log_scale),
            act=_squashed(action),
            state=state,
            dist=None,
            log_prob=log_prob.unsqueeze(-1),
        )


class BoxActorCritic(_Relative, SAC):
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
        self.degree = 2 if every * (every + 3) // 2 <= _FEATURES else 1
        one, two = (_Critic(MLP(every, width, 1, generator, self.degree)) for _ in range(2))
        with torch.no_grad():
            actor.weights[-1].zero_()
            actor.biases[-1][:, size:] = math.log(_START)
            for critic in (one, two):
                critic.network.weights[-1].mul_(_START)
                critic.network.polynomial.requires_grad_(False)
        adam = AdamOptimizerFactory(lr=config.step_size)
        policy = _Squashed(actor=actor, action_space=space)
        policy.log_width = _log_width(space)
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
        self.register_buffer("width", torch.full((size,), 2 * _START))
        self.register_buffer("middle", torch.zeros(inputs))
        self.register_buffer("around", torch.ones(inputs))
        self._units(game)

    def act(self, seen: Tensor) -> Tensor:
        mean, log_scale = _moments(self.policy.actor(seen))
        noise = torch.randn(mean.shape, generator=self.policy.generator)
        return _squashed(mean + log_scale.exp() * noise)

    def value(self, seen: Tensor) -> Tensor:
        batch = self.policy(Batch(obs=seen))
        return self.action_value(seen, batch.act) - self.alpha.value * batch.log_prob.squeeze(-1)

    def best_value(self, seen: Tensor) -> Tensor:
        """By importance sampling: half of the actions are the policy's, half uniform."""
        mean, log_scale = _moments(self.policy.actor(seen))
        generator = self.policy.generator
        terms = []
        for k in range(_PROPOSALS):
            action = mean + log_scale.exp() * torch.randn(mean.shape, generator=generator)
            if k % 2:
                action = _unsquashed(2 * torch.rand(mean.shape, generator=generator) - 1)
            own = _log_density((action - mean) / log_scale.exp(), log_scale, action)
            either = torch.logaddexp(own, torch.full_like(own, -math.log(2) * mean.shape[-1]))
            proposed = either - math.log(2) - self.policy.log_width
            q = self.action_value(seen, _squashed(action))
            terms.append(q / self.alpha.value - proposed)
        return self.alpha.value * (torch.logsumexp(torch.stack(terms), 0) - math.log(_PROPOSALS))

    def action_value(self, seen: Tensor, action: Tensor) -> Tensor:
        return torch.minimum(self.critic(seen, action), self.critic2(seen, action)).squeeze(-1)

    @torch.no_grad()
    def find_level(self, batch: Any) -> None:
        """Then the polynomial, which both critics have in common, by weighted least squares.

        With features phi of (x, b), regressing the soft TD errors e on phi moves the coefficients
        of Q by w, and the errors to e - (phi - gamma phi') w. Where repeating that converges the
        limit is taken (LSTD-Q), else one regression. Where a polynomial misses more than a
        twentieth of the variance of the first targets, or half of that of later ones, it is left as
        it is, for good.

        Source: Lagoudakis and Parr, Least-squares policy iteration, JMLR 4, 2003.
        """
        super().find_level(batch)
        if not self.quadratic:
            return
        met = batch.obs_next.flatten(0, 1)
        done = self.policy(Batch(obs=met))
        value = self.action_value(met, done.act) - self.alpha.value * done.log_prob.squeeze(-1)
        q = self.action_value(batch.obs, batch.act).double()
        target = self._target(batch, lambda _: value).double()
        error = target - q
        here, ahead = self._features(batch.obs, batch.act), self._features(met, done.act)
        odds = batch.odds.masked_fill(batch.terminated.unsqueeze(-1), 0.0).double()
        ahead = (odds.unsqueeze(-1) * ahead.view(*odds.shape, -1)).sum(1)
        size = here.square().mean(0).sqrt().clamp(min=1e-12)
        here, ahead = here / size, ahead / size
        weighed = self.weight(batch.obs).double().unsqueeze(-1) * here
        inverse = torch.linalg.pinv(weighed.mT @ here, rtol=_RANK, hermitian=True)
        change = inverse @ (weighed.mT @ error)
        share = weighed[:, 0] / weighed[:, 0].sum()
        missed = share @ (error - here @ change).square()
        told = share @ (target - share @ target).square()
        begun = cast(MLP, self.critic.network).polynomial.any()
        if missed > _UNTOLD[int(begun)] * told:
            self.quadratic.fill_(False)
            return
        passed = self.discount * inverse @ (weighed.mT @ ahead)
        if torch.linalg.eigvals(passed).abs().max() < 1:
            change = torch.linalg.solve(torch.eye(len(passed)).to(passed) - passed, change)
        change = (change / size).unsqueeze(-1)
        self.level += self.scale * change[0].squeeze()
        for critic in (self.critic, self.critic2):
            cast(MLP, critic.network).polynomial.add_(change[1:].float())
        self._lagged_networks.full_parameter_update()

    def _features(self, seen: Tensor, action: Tensor) -> Tensor:
        monomials = _monomials(torch.cat([seen, action], -1).double(), self.degree)
        return torch.cat([torch.ones_like(monomials[:, :1]), monomials], -1)

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
        share, most = (action.abs() > _EDGE[0])[:, self.open].double().mean(), _EDGE[1]
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
        return (1 + far / _NEAR) ** -2

    @torch.no_grad()
    def _preprocess_batch(self, batch: Any, buffer: Any, indices: Any) -> Any:
        batch = super()._preprocess_batch(batch, buffer, indices)
        weight = self.weight(batch.obs)
        batch.weight = weight / weight.mean()
        return batch

    @staticmethod
    def respond(
        game: Game, algorithms: list["BoxActorCritic"], gap: Tensor, steps: int
    ) -> "BoxResponse":
        actor = Side([one.policy.actor for one in algorithms])
        critics = [
            Side([one.critic.network for one in algorithms]),
            Side([one.critic2.network for one in algorithms]),
        ]
        alpha, level, scale = _units_of(algorithms)

        def value(seen: Tensor, action: Tensor, log_prob: Tensor) -> Tensor:
            x = torch.cat([seen, action], -1)
            q = torch.minimum(*(critic(x).double() for critic in critics)).squeeze(-1)
            return level + scale * (q - alpha.squeeze(-1) * log_prob)

        space = cast(spaces.Box, algorithms[0].policy.action_space)
        return BoxResponse(game, space, _standards(algorithms), actor, value, gap, steps)


class _Critic(nn.Module):
    def __init__(self, network: MLP) -> None:
        super().__init__()
        self.network = network

    def forward(self, seen: Tensor, action: Tensor) -> Tensor:
        return self.network(torch.cat([seen, action], -1))


# ---------------------------------------------------------------- responses


class NetworkResponse:
    """The responses to M leaders by networks; see `stackelberg.access.Response`.

    Attributes:
        gap: [M], see `agents.learning.gap_of`. steps: environment steps of training, per leader.
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
        self._outward, self._log_width = to_game(space), _log_width(space)

    def sample(
        self, observation: Tensor, leader_action: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Actions [M, n, e], drawn from the response."""
        mean, log_scale = _moments(self._actor(self._seen(observation, leader_action)))
        noise = torch.randn(mean.shape, generator=generator)
        return self._outward(_squashed(mean + log_scale.exp() * noise))

    def log_density(self, observation: Tensor, leader_action: Tensor, action: Tensor) -> Tensor:
        """log g(b|s,a) [M, n] of actions [M, n, e] inside the Box."""
        mean, log_scale = _moments(self._actor(self._seen(observation, leader_action)).double())
        low, high = (
            torch.from_numpy(bound).double() for bound in (self._space.low, self._space.high)
        )
        inner = _unsquashed(2 * (action - low) / (high - low) - 1)
        noise = (inner - mean) / log_scale.exp()
        return _log_density(noise, log_scale, inner) - self._log_width

    def value(self, observation: Tensor, leader_action: Tensor) -> Tensor:
        """V_F(s,a) [M, n]: what it expects, entropies included; a mean over fixed draws."""
        seen = self._seen(observation, leader_action)
        mean, log_scale = _moments(self._actor(seen))
        fixed = torch.Generator().manual_seed(0)
        half = torch.randn(_DRAWS // 2, 1, 1, mean.shape[-1], generator=fixed)
        total = torch.zeros(seen.shape[:2], dtype=torch.float64)
        for noise in torch.cat([half, -half]):
            action = mean + log_scale.exp() * noise
            log_prob = _log_density(noise.expand_as(mean), log_scale, action) - self._log_width
            total += self._soft_value(seen, _squashed(action), log_prob.double())
        return total / _DRAWS


# ---------------------------------------------------------------- formulas


def _sizes(game: Game) -> tuple[int, int]:
    actions = int(cast(spaces.Discrete, game.follower_space).n)
    return induced_observation_space(game).shape[0], actions


def _units_of(algorithms: list[Any]) -> tuple[Tensor, Tensor, Tensor]:
    """alpha [M, 1, 1], level and scale [M, 1], as they are now."""
    level = torch.stack([one.level for one in algorithms]).unsqueeze(-1)
    scale = torch.stack([one.scale for one in algorithms]).unsqueeze(-1)
    return algorithms[0].temperature / scale.unsqueeze(-1), level, scale


def _standards(algorithms: list[Any]) -> Callable[[Tensor], Tensor]:
    """What the followers meet [M, n, d] in the units of each, as they are now."""
    centre = torch.stack([one.centre for one in algorithms]).unsqueeze(1)
    spread = torch.stack([one.spread for one in algorithms]).unsqueeze(1)
    return lambda seen: (seen - centre) / spread


def _soft_maximum(q: Tensor, alpha: float) -> Tensor:
    return alpha * torch.logsumexp(q / alpha, -1)


def _mean_value(log_policy: Tensor, q: Tensor, alpha: float | Tensor) -> Tensor:
    """E_b[q - alpha log g(b)]."""
    return (log_policy.exp() * (q - alpha * log_policy)).sum(-1)


def _chosen(q: Tensor, action: Tensor) -> Tensor:
    return q.gather(-1, action.unsqueeze(-1)).squeeze(-1)


def _moments(output: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log standard deviation of the Gaussian before it is squashed."""
    mean, log_scale = output.chunk(2, -1)
    return mean, log_scale.clamp(-10.0, 2.0)


def _log_density(noise: Tensor, log_scale: Tensor, unsquashed: Tensor) -> Tensor:
    """Log-density on [-1, 1]^e of squashed(unsquashed), unsquashed = mean + scale noise."""
    gaussian = -0.5 * noise**2 - log_scale - 0.5 * math.log(2 * math.pi)
    slope = -(1 + 1 / _BEND) * torch.log1p(unsquashed**_BEND)
    return (gaussian - slope).sum(-1)


def _squashed(x: Tensor) -> Tensor:
    """x / (1 + x^4)^(1/4), in (-1, 1).

    Where tanh bends from the start, this is x up to 0.2 % below 0.3: Gaussians in the middle of the
    range stay what they are.
    """
    return x * (1 + x**_BEND) ** (-1 / _BEND)


def _unsquashed(y: Tensor) -> Tensor:
    """The x of y in [-1, 1], the ends moved inside."""
    inside = y.clamp(-1 + 1e-6, 1 - 1e-6)
    return inside * (1 - inside**_BEND) ** (-1 / _BEND)


def _log_width(space: spaces.Box) -> float:
    low, high = (torch.from_numpy(bound).double() for bound in (space.low, space.high))
    return ((high - low) / 2).log().sum().item()
