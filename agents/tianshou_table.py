"""Soft Q-learning on a table, in Tianshou: policy and algorithm.

Apart from `soft_q.py` because importing Tianshou takes seconds.
"""

from typing import Any, cast

import torch
from gymnasium import spaces
from tianshou.algorithm.modelfree.dqn import DQN, DiscreteQLearningPolicy
from tianshou.algorithm.modelfree.reinforce import SimpleLossTrainingStats
from tianshou.algorithm.optim import TorchOptimizerFactory
from tianshou.data import Batch
from tianshou.utils.torch_utils import policy_within_training_step
from torch import Tensor, nn

from agents.config import SoftQConfig
from agents.experience import Columns, flat
from agents.learning import Learner, draw, outlives
from agents.tianshou_parts import Replay, SeededPolicy
from stackelberg.exact import SoftResponse
from stackelberg.game import Game
from stackelberg.induced import shows_action
from stackelberg.types import Commitment, TabularResponse

_ERRORS = 3.0  # standard errors by which Q may be off before a response counts as unknown
_POOLED = 4.0  # samples that the spread over all entries counts for in that of each


class TableLearner(Learner):
    """One follower against one leader, with a table of Q.

    The table has one row for every x = s K + a (K = A, or 1 where the follower sees no action).
    What is kept of transitions, `grouped` says.
    """

    config: SoftQConfig
    experience: Columns  # see `grouped`
    first_steps = 4_194_304
    afresh_steps = 131_072

    def __init__(self, game: Game, config: SoftQConfig) -> None:
        super().__init__(game, config)
        states, shown = game.follower_observation_space.shape[0], 1
        if shows_action(game):
            shown = int(cast(spaces.Discrete, game.leader_space).n)
        self.shape = states, shown
        self.algorithm = _algorithm(game, self.shape, config.learning_rate)
        self._actions = int(cast(spaces.Discrete, game.follower_space).n)
        self.experience = {}

    def face(self, commitment: Commitment, leader: int, generator: torch.Generator) -> None:
        super().face(commitment, leader, generator)
        policy = leader_tables(commitment, self.shape[0])[leader]
        self.algorithm.mixing = policy if self.shape[1] > 1 else torch.ones_like(policy[:, :1])
        self.algorithm.policy.generator = generator

    def view(self, observation: Tensor) -> Tensor:
        """x [n], or s [n] of the state alone."""
        return _row(observation, self.shape)

    def strays(self, copies: int) -> Tensor:
        """From faithful to random."""
        return torch.arange(1, copies + 1) / copies

    def act(self, seen: Tensor) -> Tensor:
        table = self.algorithm.policy.model.table()
        return draw(table[seen] / self.game.temperature, self.generator)

    def keep(self, rows: Columns) -> None:
        kept = {name: rows[name] for name in ("seen", "act", "rew", "terminated", "follower")}
        kept |= {"count": torch.ones_like(kept["rew"]), "spread": torch.zeros_like(kept["rew"])}
        if self.experience:
            kept = {name: torch.cat([self.experience[name], row]) for name, row in kept.items()}
        self.experience = grouped(kept, self._actions, self.shape[0])

    def learn(self, fresh: Columns, strays: Tensor, last: bool) -> bool:
        """Fit Q to all experience; good enough when it is known to `uncertainty`."""
        self.keep(flat(fresh))
        replay = Replay(self.experience, self.generator)
        self._fit(replay)
        return self.algorithm.uncertainty(replay) <= self.config.uncertainty

    def _fit(self, replay: Replay) -> None:
        """Update on all experience until the Bellman residual is small."""
        algorithm, tolerance = self.algorithm, self.config.residual * self.game.temperature
        with policy_within_training_step(algorithm.policy):
            for _ in range(self.config.updates):
                algorithm.update(replay, sample_size=0)  # 0: all of it
                if algorithm.residual <= tolerance:
                    break

    def action_value(self) -> Tensor:
        """Q [S, K, B]."""
        return self.algorithm.policy.model.table().detach().view(*self.shape, -1)

    @staticmethod
    def respond(
        learners: list["TableLearner"], commitment: Commitment, steps: int
    ) -> TabularResponse:
        """The response to M leaders."""
        states = learners[0].shape[0]
        policy = leader_tables(commitment, states)
        tables = torch.stack([learner.action_value() for learner in learners])
        action_value = tables.expand(*policy.shape, -1).contiguous()  # [M, S, A, B]
        values = _soft_response(action_value, policy, learners[0].game.temperature)
        return TabularResponse(values.policy, values, steps=steps)

    def state(self) -> dict[str, Tensor]:
        saved = {name: value.clone() for name, value in self.algorithm.policy.state_dict().items()}
        if outlives(self.game):
            saved |= {f"kept.{name}": column.clone() for name, column in self.experience.items()}
        return saved

    def load(self, state: dict[str, Tensor]) -> None:
        names = self.algorithm.policy.state_dict()
        self.algorithm.policy.load_state_dict({name: state[name] for name in names})
        kept = {k.removeprefix("kept."): v for k, v in state.items() if k.startswith("kept.")}
        self.experience = kept
        self.trained = True


def grouped(rows: Columns, actions: int, states: int) -> Columns:
    """Transitions in rows of the same (x, b, s', ended): `seen`, `act`, `follower`, `terminated`.

    `count` is how many a row stands for, `rew` their mean reward, `spread` the summed squared
    deviation from it. Every sum over transitions that soft Q-learning takes is one over rows, so
    nothing need be forgotten.
    """
    place = (rows["seen"] * actions + rows["act"]) * states + rows["follower"]
    found, group = (2 * place + rows["terminated"].long()).unique(return_inverse=True)
    weight, reward = rows["count"].double(), rows["rew"].double()
    count = torch.bincount(group, weight)
    mean = torch.bincount(group, weight * reward) / count
    spread = rows["spread"].double() + weight * (reward - mean[group]) ** 2
    pair = found // (2 * states)
    return {
        "seen": pair // actions,
        "act": pair % actions,
        "follower": found // 2 % states,
        "terminated": found % 2 == 1,
        "count": count,
        "rew": mean,
        "spread": torch.bincount(group, spread),
    }


def leader_tables(commitment: Commitment, states: int) -> Tensor:
    """f(a|s) [M, S, A] where states are observed one-hot."""
    if commitment.rule is None:
        return commitment.policy.detach()
    with torch.no_grad():
        return commitment.rule(torch.eye(states)).exp()


class RelativeTable(nn.Module):
    """Q(x, b) = h(x, b) + k, with the common level k apart.

    A Boltzmann response does not depend on k, but at discount 0.99 plain updates take hundreds
    of sweeps to find it; apart, it is found in one.
    """

    level: Tensor

    def __init__(self, rows: int, actions: int) -> None:
        super().__init__()
        self.relative = nn.Parameter(torch.zeros(rows, actions, dtype=torch.float64))
        self.register_buffer("level", torch.zeros((), dtype=torch.float64))

    def table(self) -> Tensor:
        """Q [X, B]."""
        return self.relative + self.level

    def forward(self, obs: Any, state: Any = None, info: Any = None) -> tuple[Tensor, Any]:
        """Q [n, B] of the observations [n] (row numbers), as Tianshou calls its networks."""
        return self.table()[obs], state


def level_step(error: Tensor, weight: Tensor) -> Tensor:
    """The change of the common level of Q that leaves the smallest squared TD errors.

    Raising all of Q by k changes the TD error of an entry by -k (1 - gamma P(goes on)), so
    k = sum(error weight) / sum(weight^2) with that weight.

    Args:
        error: mean TD error of the entries seen [n]. weight: 1 - gamma P(goes on), [n], > 0.
    """
    return (error * weight).sum() / (weight * weight).sum()


def response_error(
    squares: Tensor, moves: Tensor, count: Tensor, q: Tensor, mixing: Tensor, temperature: float
) -> Tensor:
    """Largest change of a response probability g(b|x) while Q stays within three standard errors.

    g(b) is the logistic function of the gap c = Q(b) / beta - log sum_{b' != b} exp(Q(b') / beta).
    Its change under a shift of c is bounded, not differentiated: where noise makes g(b) ~ 1 for
    the wrong b the derivative vanishes, but a shift that would turn the choice is seen.

    The noise e of the mean targets, independent between entries, has passed into the values by
    dv = E_fg[e + gamma P dv], and c moves by that of Q = e + gamma P dv on both sides of the gap.
    All of this is taken on the empirical model, to first order in e. An entry seen a few times may
    show no spread at all, so the spread over all entries counts for a few samples more.
    Infinite while an action at a visited observation has fewer than two samples.

    Args:
        squares: summed squared TD errors [X, B]. moves: gamma P(s'|x, b) [X, B, S], without what
            ended. count: samples [X, B]. q: Q [X, B]. mixing: f(a|s) [S, K], where X = S K.
    """
    (rows, actions), states = q.shape, len(mixing)
    pooled = squares.sum() / (count - 1).clamp(min=0).sum().clamp(min=1)
    freedom = (count - 1).clamp(min=0)
    variance = (squares + _POOLED * pooled) / (freedom + _POOLED) / count.clamp(min=1)

    # What the noise does to the values: dv = back @ E_fg[e].
    weight = mixing.reshape(-1, 1) * torch.softmax(q / temperature, -1)  # [X, B]
    kernel = (weight.unsqueeze(-1) * moves).view(states, -1, states).sum(1)
    back = torch.linalg.inv(torch.eye(states, dtype=q.dtype) - kernel)
    drawn = (weight**2 * variance).view(states, -1).sum(-1)  # variance of E_fg[e]
    covariance = back * drawn @ back.T  # of dv

    # What it does to the gaps: own noise, that of the values, and what they have in common.
    itself = torch.eye(actions, dtype=torch.bool)
    others = (q / temperature).unsqueeze(1).expand(rows, actions, actions)
    others = others.masked_fill(itself, -float("inf"))  # [X, b, b']
    sides = itself.to(q) - torch.softmax(others, -1).nan_to_num()
    ahead = sides @ moves  # [X, B, S]
    state = torch.arange(rows) // mixing.shape[1]
    shared = (ahead * back.T[state].unsqueeze(1)).sum(-1) * (
        sides @ (variance * weight).unsqueeze(-1)
    ).squeeze(-1)
    own = (sides**2 @ variance.unsqueeze(-1)).squeeze(-1)
    spread = own + ((ahead @ covariance) * ahead).sum(-1) + 2 * shared

    gap = (q / temperature - torch.logsumexp(others, -1)).abs()
    shift = _ERRORS * spread.clamp(min=0).sqrt() / temperature
    change = torch.sigmoid(shift - gap) - torch.sigmoid(-gap)  # towards 1/2: the larger one
    return change.masked_fill(count < 2, float("inf"))[count.sum(-1) > 0].max()


class BoltzmannPolicy(SeededPolicy, DiscreteQLearningPolicy):
    """Acts by g(b|x) = softmax(Q(x, b) / temperature)."""

    temperature: float

    def forward(self, batch: Any, state: Any = None, model: Any = None) -> Any:
        q, state = (self.model if model is None else model)(batch.seen, state=state)
        act = draw(q.detach() / self.temperature, self.generator)
        return Batch(logits=q, act=act, state=state)


class SoftQLearning(DQN):
    """DQN with the soft target beta log sum_b exp(Q(s', a', b) / beta), averaged over f(a'|s').

    No target network: a table does not generalise, so its updates are contractions. Every
    entry (x, b) seen counts alike in the loss, however often it was visited.
    """

    mixing: Tensor  # [S, K] weights of the next observations x' = s' K + a' in state s'
    residual = float("inf")  # largest mean TD error of the last update

    def _preprocess_batch(self, batch: Any, buffer: Any, indices: Any) -> Any:
        """One-step targets; longer returns would be those of the behaviour that strays."""
        q = self.policy.model.table().detach()
        beta = self.policy.temperature
        value = beta * torch.logsumexp(q / beta, -1)  # [X]
        state_value = (self.mixing * value.view_as(self.mixing)).sum(-1)  # [S]
        future = state_value[batch.follower].masked_fill(batch.terminated, 0.0)
        batch.returns = batch.rew + self.gamma * future
        return batch

    def _update_with_batch(self, batch: Any) -> SimpleLossTrainingStats:
        model = self.policy.model
        ones = torch.ones_like(batch.rew)
        count, target, ended = self._sums(batch, ones, batch.returns, batch.terminated)
        seen = count > 0
        count = count[seen]
        error = target[seen] / count - model.table()[seen]
        loss = 0.5 * (error * error).sum()
        weight = 1 - self.gamma * (1 - ended[seen] / count)
        step = level_step(error.detach(), weight)
        self.optim.step(loss)
        model.level += step
        self.residual = (error.detach() - step * weight).abs().max().item()
        return SimpleLossTrainingStats(loss=loss.item())

    def uncertainty(self, replay: Replay) -> float:
        """`response_error` of all experience."""
        everything, indices = replay.sample(0)
        batch = self._preprocess_batch(everything, replay, indices)
        q = self.policy.model.table().detach()
        fitted = q[batch.seen, batch.act]
        squared = (batch.returns - fitted) ** 2 + batch.spread / batch.count
        count, squares = self._sums(batch, torch.ones_like(squared), squared)
        goes_on = batch.count.masked_fill(batch.terminated, 0.0)
        kernel = torch.zeros(*q.shape, len(self.mixing), dtype=q.dtype)
        kernel.index_put_((batch.seen, batch.act, batch.follower), goes_on, accumulate=True)
        kernel /= count.clamp(min=1).unsqueeze(-1)
        beta = self.policy.temperature
        return response_error(squares, self.gamma * kernel, count, q, self.mixing, beta).item()

    def _sums(self, batch: Any, *values: Tensor) -> list[Tensor]:
        """The sums of `values` [n] over all transitions of every entry (x, b): [X, B] each."""
        shape = self.policy.model.relative.shape
        entry = batch.seen * shape[1] + batch.act
        return [torch.bincount(entry, batch.count * v, shape.numel()).view(shape) for v in values]


def _algorithm(game: Game, shape: tuple[int, int], learning_rate: float) -> Any:
    """A Tianshou algorithm for observations [S, K]."""
    actions = int(cast(spaces.Discrete, game.follower_space).n)
    model = RelativeTable(shape[0] * shape[1], actions)
    policy = BoltzmannPolicy(model=model, action_space=game.follower_space)
    policy.temperature = game.temperature
    return SoftQLearning(
        policy=policy,
        optim=TorchOptimizerFactory(torch.optim.SGD, lr=learning_rate),
        gamma=game.follower_discount,
    )


def _soft_response(action_value: Tensor, policy: Tensor, temperature: float) -> SoftResponse:
    """The Boltzmann response to Q [M, S, A, B] under f [M, S, A]."""
    scaled = action_value / temperature
    value = temperature * torch.logsumexp(scaled, -1)
    return SoftResponse(torch.softmax(scaled, -1), value, (policy * value).sum(-1))


def _row(observation: Tensor, shape: tuple[int, int]) -> Tensor:
    """x = s K + a [n] of induced observations [n, S + A]; s [n] of those of the state alone."""
    states, seen = shape
    x = observation[:, :states].argmax(-1)
    if observation.shape[1] > states:
        x = x * seen + observation[:, states:].argmax(-1)
    return x
