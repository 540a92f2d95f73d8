"""Leaders: M at once, independent of each other, every parameter with the leading dimension M."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from stackelberg.errors import InputError
from stackelberg.game import Budget, Game

SMALLEST = 1e-300  # share or probability, which stands for 0 where its logarithm is taken


def normal(seeds: Sequence[int], *shape: int, std: float = 1.0) -> Tensor:
    """[M, *shape] of N(0, std^2), row m drawn from seeds[m] alone."""
    rows = [np.random.default_rng([seed, 0]).normal(0.0, std, shape) for seed in seeds]
    return torch.from_numpy(np.stack(rows))


def _count(seeds: Sequence[int]) -> int:
    if not len(seeds):
        raise InputError("one seed per leader", "none", "give at least one, for example (0,)")
    return len(seeds)


class TabularSoftmax(nn.Module):
    """f(a|s) = softmax of one logit per state and action.

    Args:
        states, actions: S and A.
        seeds: one per leader.
        std: of the initial logits; 0 starts uniform.
    """

    def __init__(
        self, states: int, actions: int, seeds: Sequence[int] = (0,), std: float = 0.0
    ) -> None:
        super().__init__()
        self.count = _count(seeds)
        self.rows = states
        self.logits = nn.Parameter(normal(seeds, states, actions, std=std))

    def log_policy(self, observation: Tensor) -> Tensor:
        """log f(a|s): [M, n, A] from n one-hot observations [n, S]."""
        return torch.log_softmax(observation.to(self.logits) @ self.logits, -1)

    def position(self, observation: Tensor) -> Tensor:
        """log f(a|s) in all states, whichever are observed: [M, S, A]."""
        return torch.log_softmax(self.logits, -1)

    def parameters_at(self, policy: Tensor) -> list[Tensor]:
        """One leader's parameters at the policy f(a|s) [S, A]."""
        return [policy.clamp(min=SMALLEST).log()]


class MLPCategorical(nn.Module):
    """f(a|s) from a multi-layer perceptron with ReLU, M networks side by side.

    Args:
        inputs, actions: length of an observation, A.
        hidden: widths of the hidden layers.
        seeds: one per leader.
    """

    def __init__(
        self,
        inputs: int,
        actions: int,
        hidden: Sequence[int] = (64, 64),
        seeds: Sequence[int] = (0,),
    ) -> None:
        super().__init__()
        self.count = _count(seeds)
        self.rows = 1
        widths = [inputs, *hidden, actions]
        layers = []
        draws = [np.random.default_rng([seed, 0]) for seed in seeds]
        for fan_in, fan_out in pairwise(widths):
            bound = math.sqrt(6 / (fan_in + fan_out))  # Xavier, as in the published leader
            rows = [draw.uniform(-bound, bound, (fan_in, fan_out)) for draw in draws]
            layers.append(nn.Parameter(torch.from_numpy(np.stack(rows)).float()))
        self.weights = nn.ParameterList(layers)
        self.biases = nn.ParameterList(
            nn.Parameter(torch.zeros(self.count, 1, width)) for width in widths[1:]
        )

    def log_policy(self, observation: Tensor) -> Tensor:
        """log f(a|s): [M, n, A] in float64 from n observations [n, inputs]."""
        hidden = observation.float().expand(self.count, -1, -1)
        last = len(self.weights) - 1
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = torch.baddbmm(bias, hidden, weight)
            hidden = hidden if i == last else torch.relu(hidden)
        return torch.log_softmax(hidden.double(), -1)

    def position(self, observation: Tensor) -> Tensor:
        """log f(a|s): [M, n, A]."""
        return self.log_policy(observation)


class SoftmaxBudget(nn.Module):
    """A design that spends a budget: spending_i = total softmax(x)_i, the last share unspent.

    Args:
        space: the budget. seeds: one per leader. std: of the initial x.
    """

    def __init__(self, space: Budget, seeds: Sequence[int] = (0,), std: float = 0.01) -> None:
        super().__init__()
        self.count = _count(seeds)
        self.rows = 1
        self.total = space.total
        self.x = nn.Parameter(normal(seeds, space.shape[0] + 1, std=std))

    def design(self) -> Tensor:
        """The spendings [M, d]."""
        return self.total * torch.softmax(self.x, -1)[:, :-1]

    def position(self, observation: Tensor) -> Tensor:
        """Log of the shares [M, 1, d + 1]."""
        return torch.log_softmax(self.x, -1).unsqueeze(1)

    def parameters_at(self, design: Tensor) -> list[Tensor]:
        """One leader's parameters at the spendings [d]."""
        shares = design / self.total
        rest = 1 - shares.sum(-1, keepdim=True)
        return [torch.cat([shares, rest], -1).clamp(min=SMALLEST).log()]


class BoxDesign(nn.Module):
    """A design inside a box: low + (high - low) sigmoid(x).

    Args:
        space: the box. seeds: one per leader. std: of the initial x.
    """

    low: Tensor
    width: Tensor

    def __init__(self, space: spaces.Box, seeds: Sequence[int] = (0,), std: float = 0.01) -> None:
        super().__init__()
        self.count = _count(seeds)
        self.rows = space.shape[0]
        low = torch.as_tensor(space.low, dtype=torch.float64)
        self.register_buffer("low", low)
        self.register_buffer("width", torch.as_tensor(space.high, dtype=torch.float64) - low)
        self.x = nn.Parameter(normal(seeds, *space.shape, std=std))

    def design(self) -> Tensor:
        """The designs [M, d]."""
        return self.low + self.width * torch.sigmoid(self.x)

    def position(self, observation: Tensor) -> Tensor:
        """Where in the box, as log of (share below, share above), [M, d, 2]."""
        return nn.functional.logsigmoid(torch.stack([self.x, -self.x], -1))

    def parameters_at(self, design: Tensor) -> list[Tensor]:
        """One leader's parameters at the design [d]."""
        below, above = design - self.low, self.low + self.width - design
        return [below.clamp(min=SMALLEST).log() - above.clamp(min=SMALLEST).log()]


def default_leader(
    game: Game, seeds: Sequence[int] = (0,), std: float | None = None
) -> TabularSoftmax | MLPCategorical | SoftmaxBudget | BoxDesign:
    """The leader that fits the game: tabular softmax, softmax budget or box design.

    Where the leader does not observe states one-hot, a network takes the place of the tabular
    softmax, and `std` does not matter.

    Args:
        seeds: one per leader.
        std: of the initial parameters; the leader's own default unless given.
    """
    space = game.leader_space
    spread = {} if std is None else {"std": std}
    if isinstance(space, spaces.Discrete) and not game.one_hot:
        return mlp_leader(game, seeds)
    if isinstance(space, spaces.Discrete):
        return TabularSoftmax(game.observation_space.shape[0], int(space.n), seeds, **spread)
    if isinstance(space, Budget):
        return SoftmaxBudget(space, seeds, **spread)
    if isinstance(space, spaces.Box):
        return BoxDesign(space, seeds, **spread)
    raise InputError(
        "a leader space Discrete, Box or Budget", f"{space!r}", "write a leader for it and pass it"
    )


def spread_leader(
    game: Game, seeds: Sequence[int]
) -> TabularSoftmax | MLPCategorical | SoftmaxBudget | BoxDesign:
    """The default leader with parameters N(0, 1): starting points of a search."""
    return default_leader(game, seeds, std=1.0)


def mlp_leader(game: Game, seeds: Sequence[int] = (0,)) -> MLPCategorical:
    """A multi-layer perceptron for a game in which the leader acts at every step."""
    space = game.leader_space
    if not isinstance(space, spaces.Discrete):
        raise InputError("a leader space Discrete", f"{space!r}", "use the default leader")
    return MLPCategorical(game.observation_space.shape[0], int(space.n), seeds=seeds)
