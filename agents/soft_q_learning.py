"""Soft Q-learning on a table, in Tianshou: policy, algorithm, replay buffer.

Apart from `soft_q.py` because importing Tianshou takes seconds.
"""

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from gymnasium import spaces
from tianshou.algorithm.modelfree.dqn import DQN, DiscreteQLearningPolicy
from tianshou.algorithm.modelfree.reinforce import SimpleLossTrainingStats
from tianshou.algorithm.optim import TorchOptimizerFactory
from tianshou.data import Batch, ReplayBuffer
from tianshou.utils.torch_utils import policy_within_training_step
from torch import Tensor, nn

from stackelberg.game import Game
from stackelberg.induced import InducedMDP

if TYPE_CHECKING:
    from agents.soft_q import SoftQConfig

_FIELDS = ("obs", "act", "rew", "terminated", "truncated", "obs_next")
_ERRORS = 3.0  # standard errors by which Q may be off before a response counts as unknown
_POOLED = 4.0  # samples that the spread over all entries counts for in that of each


class Learner:
    """One follower against one leader: a Tianshou algorithm and its replay buffer.

    Q is a table with one row for every observation x = s K + a (K = A, or 1 where the follower
    sees no action). Transitions are stored as (x, b, r, s').
    """

    def __init__(self, game: Game, shape: tuple[int, int], config: "SoftQConfig") -> None:
        self.shape, self.config, self.temperature = shape, config, game.temperature
        self.keeps_experience = game.leader_moves == "every step" and game.follower_observes_action
        self.algorithm = _algorithm(game, shape, config.learning_rate)
        self.buffer = ReplayBuffer(1)  # empty; stored experience brings its own size

    def train(self, play: InducedMDP, policy: Tensor) -> int:
        """Best-respond to f(a|s) [S, A]; returns the environment steps taken."""
        if not self.keeps_experience:
            self.buffer.reset()
        config, algorithm = self.config, self.algorithm
        algorithm.mixing = policy if self.shape[1] > 1 else torch.ones_like(policy[:, :1])
        algorithm.policy.generator = play.generator
        budget = config.later_steps if len(self.buffer) else config.afresh_steps
        if not algorithm.policy.model.relative.any():  # never trained
            budget = config.first_steps
        steps, horizon = 0, play.game.horizon
        while steps < budget:
            length = min(horizon, -(-(budget - steps) // play.copies))
            self._collect(play, length)
            self._fit()
            steps += length * play.copies
            if algorithm.uncertainty(self.buffer) <= config.uncertainty:
                break
            # Then as much again, in more copies: few fits and few calls, whatever the budget.
            copies = max(config.copies, min(steps, budget - steps) // horizon)
            play = InducedMDP(play.game, play.leader, copies, play.generator)
        return steps

    def _collect(self, play: InducedMDP, length: int) -> None:
        """Play `length` steps in every copy and store them."""
        policy = self.algorithm.policy
        rows: list[tuple[np.ndarray, ...]] = []
        for _ in range(length):
            x = _row(play.observation, self.shape)
            batch = Batch(obs=x, info=None)
            action = policy.add_exploration_noise(policy(batch).act, batch)
            found = play.step(torch.from_numpy(action))
            arrived = _row(found.observation, self.shape) // self.shape[1]
            flags = found.terminated.numpy(), found.truncated.numpy()
            rows.append((x, action, found.reward.double().numpy(), *flags, arrived))
            play.reset(found.terminated | found.truncated)
        self._store([np.concatenate(column) for column in zip(*rows, strict=True)])

    def _store(self, columns: list[np.ndarray]) -> None:
        """Append transitions; the oldest give way. Faster than Tianshou's loop over them."""
        if len(self.buffer):
            kept = self.buffer[:]
            columns = [
                np.concatenate([kept[name], column])
                for name, column in zip(_FIELDS, columns, strict=True)
            ]
        stored = {
            name: column[-self.config.capacity :]
            for name, column in zip(_FIELDS, columns, strict=True)
        }
        done = stored["terminated"] | stored["truncated"]
        self.buffer = ReplayBuffer.from_data(**stored, done=done)

    def _fit(self) -> None:
        """Update on all experience until the Bellman residual is small."""
        algorithm, tolerance = self.algorithm, self.config.residual * self.temperature
        with policy_within_training_step(algorithm.policy):
            for _ in range(self.config.updates):
                algorithm.update(self.buffer, sample_size=0)  # 0: all of it
                if algorithm.residual <= tolerance:
                    break

    def action_value(self) -> Tensor:
        """Q [S, K, B]."""
        return self.algorithm.policy.model.table().detach().view(*self.shape, -1)

    def state(self) -> dict[str, Tensor]:
        """All that the next call depends on."""
        saved = {name: value.clone() for name, value in self.algorithm.policy.state_dict().items()}
        if self.keeps_experience and len(self.buffer):
            kept = self.buffer[:]  # oldest first
            saved |= {f"buffer.{name}": torch.from_numpy(np.array(kept[name])) for name in _FIELDS}
        return saved

    def load(self, saved: dict[str, Tensor]) -> None:
        """Take up a saved state."""
        names = self.algorithm.policy.state_dict()
        self.algorithm.policy.load_state_dict({name: saved[name] for name in names})
        if "buffer.obs" in saved:
            self._store([saved[f"buffer.{name}"].numpy() for name in _FIELDS])


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
        return self.table()[torch.as_tensor(obs)], state


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


class BoltzmannPolicy(DiscreteQLearningPolicy):
    """Acts by g(b|x) = softmax(Q(x, b) / temperature), drawn by Gumbel-max."""

    temperature: float
    generator: torch.Generator

    @staticmethod
    def _compile() -> None:
        """Skip compiling advantage estimators (seconds), which Q-learning never calls."""

    def forward(self, batch: Any, state: Any = None, model: Any = None) -> Any:
        with torch.no_grad():
            q, state = (self.model if model is None else model)(batch.obs, state=state)
        noise = torch.rand(q.shape, generator=self.generator, dtype=q.dtype)
        gumbel = -torch.log(-torch.log(noise.clamp(min=1e-300)))
        action = (q / self.temperature + gumbel).argmax(-1)
        return Batch(logits=q, act=action.numpy(), state=state)

    def add_exploration_noise(self, act: Any, batch: Any) -> Any:
        """Copy i of n acts uniformly with probability (i + 1) / n: from faithful to random."""
        n, actions = len(act), int(cast(spaces.Discrete, self.action_space).n)
        share = torch.arange(1, n + 1) / n
        stray = torch.rand(n, generator=self.generator) < share
        other = torch.randint(actions, (n,), generator=self.generator)
        return np.where(stray.numpy(), other.numpy(), act)


class SoftQLearning(DQN):
    """DQN with the soft target beta log sum_b exp(Q(s', a', b) / beta), averaged over f(a'|s').

    No target network: a table does not generalise, so its updates are contractions. Every
    entry (x, b) seen counts alike in the loss, however often it was visited.
    """

    mixing: Tensor  # [S, K] weights of the next observations x' = s' K + a' in state s'
    residual = float("inf")  # largest mean TD error of the last update

    def _target_q(self, buffer: ReplayBuffer, indices: np.ndarray) -> Tensor:
        q = self.policy.model.table().detach()
        beta = self.policy.temperature
        value = beta * torch.logsumexp(q / beta, -1)  # [X]
        state_value = (self.mixing * value.view_as(self.mixing)).sum(-1)  # [S]
        return state_value[torch.from_numpy(buffer.obs_next[indices])]

    def _preprocess_batch(self, batch: Any, buffer: ReplayBuffer, indices: np.ndarray) -> Any:
        """One-step targets; longer returns would be those of the behaviour that strays."""
        goes_on = torch.from_numpy(~batch.terminated)
        future = self.gamma * goes_on * self._target_q(buffer, indices)
        batch.returns = torch.from_numpy(batch.rew) + future
        return batch

    def _update_with_batch(self, batch: Any) -> SimpleLossTrainingStats:
        model = self.policy.model
        count, (target, ended) = self._sums(batch, batch.returns, batch.terminated)
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

    def uncertainty(self, buffer: ReplayBuffer) -> float:
        """`response_error` of all that is in the buffer."""
        everything, indices = buffer.sample(0)
        batch = self._preprocess_batch(everything, buffer, indices)
        q = self.policy.model.table().detach()
        fitted = q[torch.from_numpy(batch.obs), torch.from_numpy(batch.act)]
        count, (squares,) = self._sums(batch, (batch.returns - fitted) ** 2)
        states = len(self.mixing)
        arrivals = (batch.obs * q.shape[1] + batch.act) * states + batch.obs_next
        moves = np.bincount(arrivals, ~batch.terminated, q.numel() * states)
        kernel = torch.from_numpy(moves).view(*q.shape, states) / count.clamp(min=1).unsqueeze(-1)
        beta = self.policy.temperature
        return response_error(squares, self.gamma * kernel, count, q, self.mixing, beta).item()

    def _sums(self, batch: Any, *values: Any) -> tuple[Tensor, list[Tensor]]:
        """How often each entry (x, b) occurs, and the sums of `values` [n] over it: [X, B]."""
        rows, actions = self.policy.model.relative.shape
        entry = batch.obs * actions + batch.act
        weights = [None, *(np.asarray(v, np.float64) for v in values)]
        sums = [np.bincount(entry, w, rows * actions).reshape(rows, actions) for w in weights]
        count, *rest = (torch.from_numpy(s.astype(np.float64)) for s in sums)
        return count, rest


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


def _row(observation: Tensor, shape: tuple[int, int]) -> np.ndarray:
    """x = s K + a [n] of induced observations [n, S + A] (or [n, S], where K = 1)."""
    states, seen = shape
    x = observation[:, :states].argmax(-1)
    if observation.shape[1] > states:
        x = x * seen + observation[:, states:].argmax(-1)
    return x.numpy()
