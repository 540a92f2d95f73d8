"""Leaders: M at once, independent of each other, every parameter with the leading dimension M."""

from collections.abc import Sequence

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from agents.box_leaders import LinearGaussian, MLPDeterministic, MLPGaussian
from agents.parameters import count_of, normal, perceptrons, through
from stackelberg.errors import InputError
from stackelberg.game import Budget, Game
from stackelberg.trust_region import GAUSSIAN

SMALLEST = 1e-300  # share or probability, which stands for 0 where its logarithm is taken


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
        self.count = count_of(seeds)
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
        self.count = count_of(seeds)
        self.rows = 1
        self.weights, self.biases = perceptrons([inputs, *hidden, actions], seeds)

    def log_policy(self, observation: Tensor) -> Tensor:
        """log f(a|s): [M, n, A] in float64 from n observations [n, inputs]."""
        return torch.log_softmax(through(self.weights, self.biases, observation), -1)

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
        self.count = count_of(seeds)
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

    Raises:
        InputError: if a bound is not finite.
    """

    low: Tensor
    width: Tensor

    def __init__(self, space: spaces.Box, seeds: Sequence[int] = (0,), std: float = 0.01) -> None:
        super().__init__()
        self.count = count_of(seeds)
        self.rows = space.shape[0]
        if not space.is_bounded():
            raise InputError(
                "a Box with both bounds in every dimension, or with none in any, for a design",
                f"{space!r}",
                "give it finite bounds",
            )
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


class FreeDesign(nn.Module):
    """A design without bounds: unit x.

    Args:
        size: d. seeds: one per leader. std: of the initial x.
        unit: for each number of the design or for all, > 0; a step's length is told as KL between
            Gaussians of this standard deviation.
    """

    geometry = GAUSSIAN
    unit: Tensor

    def __init__(
        self,
        size: int,
        seeds: Sequence[int] = (0,),
        std: float = 0.01,
        unit: float | Sequence[float] = 1.0,
    ) -> None:
        super().__init__()
        self.count = count_of(seeds)
        self.rows = size
        self.register_buffer("unit", torch.as_tensor(unit, dtype=torch.float64))
        self.x = nn.Parameter(normal(seeds, size, std=std))

    def design(self) -> Tensor:
        """The designs [M, d]."""
        return self.unit * self.x

    def position(self, observation: Tensor) -> Tensor:
        """x and log 1 of each number, [M, d, 2]."""
        return torch.stack([self.x, torch.zeros_like(self.x)], -1)

    def parameters_at(self, design: Tensor) -> list[Tensor]:
        """One leader's parameters at the design [d]."""
        return [design / self.unit]


AnyLeader = (
    TabularSoftmax
    | MLPCategorical
    | SoftmaxBudget
    | BoxDesign
    | FreeDesign
    | LinearGaussian
    | MLPGaussian
)


def default_leader(game: Game, seeds: Sequence[int] = (0,), std: float | None = None) -> AnyLeader:
    """The leader that fits the game.

    One that chooses is a tabular softmax, or a network where it does not observe states one-hot;
    one that acts in a Box a Gaussian: linear in a linear-quadratic game, else a network. A design
    spends a budget, lies in a box, or is free.

    Args:
        seeds: one per leader.
        std: of the initial parameters; the leader's own default unless given. Networks have none.
    """
    space = game.leader_space
    spread = {} if std is None else {"std": std}
    if isinstance(space, spaces.Box) and game.leader_moves == "every step":
        return box_leader(game, seeds, **spread)
    if isinstance(space, spaces.Discrete) and not game.one_hot:
        return mlp_leader(game, seeds)
    if isinstance(space, spaces.Discrete):
        return TabularSoftmax(game.observation_space.shape[0], int(space.n), seeds, **spread)
    if isinstance(space, Budget):
        return SoftmaxBudget(space, seeds, **spread)
    if isinstance(space, spaces.Box):
        if not np.isfinite([space.low, space.high]).any():
            return FreeDesign(space.shape[0], seeds, **spread)
        return BoxDesign(space, seeds, **spread)
    raise InputError(
        "a leader space Discrete, Box or Budget", f"{space!r}", "write a leader for it and pass it"
    )


def spread_leader(game: Game, seeds: Sequence[int]) -> AnyLeader:
    """The default leader with parameters N(0, 1): starting points of a search."""
    return default_leader(game, seeds, std=1.0)


def mlp_leader(game: Game, seeds: Sequence[int] = (0,)) -> MLPCategorical | MLPGaussian:
    """A multi-layer perceptron for a game in which the leader acts at every step."""
    space = game.leader_space
    if game.leader_moves == "once" or not isinstance(space, spaces.Discrete | spaces.Box):
        raise InputError(
            "a leader space Discrete or Box, where the leader acts at every step",
            f"{space!r} and a leader that moves {game.leader_moves}",
            "use the default leader",
        )
    if isinstance(space, spaces.Box):
        return MLPGaussian(game.observation_space.shape[0], space, seeds=seeds)
    return MLPCategorical(game.observation_space.shape[0], int(space.n), seeds=seeds)


def deterministic_leader(game: Game, seeds: Sequence[int] = (0,)) -> MLPDeterministic:
    """A deterministic perceptron for a game in which the leader acts in a Box at every step."""
    if game.leader_moves == "once":
        raise InputError(
            "a leader that acts in a Box at every step", "a design", "use the default leader"
        )
    return MLPDeterministic(game.observation_space.shape[0], game.leader_space, seeds=seeds)


def box_leader(
    game: Game, seeds: Sequence[int] = (0,), std: float = 0.0
) -> LinearGaussian | MLPGaussian:
    """A Gaussian for a game in which the leader acts in a Box, linear if the game is.

    Args:
        seeds: one per leader. std: of the initial gains, where it is linear.
    """
    if not game.linear:
        return MLPGaussian(game.observation_space.shape[0], game.leader_space, seeds=seeds)
    return LinearGaussian(
        game.observation_space.shape[0],
        game.leader_space.shape[0],  # type: ignore[index]
        seeds,
        std,
        noise=game.leader_std,  # type: ignore[attr-defined]
        affine=game.affine,  # type: ignore[attr-defined]
    )
