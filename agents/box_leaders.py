"""Leaders that act in a Box at every step: M at once, see `stackelberg.types.BoxLeader`."""

import math
from collections.abc import Callable, Sequence

import torch
from gymnasium import spaces
from torch import Tensor, nn

from agents.parameters import count_of, normal, perceptrons, through
from stackelberg.errors import InputError
from stackelberg.squash import Squash, gaussian
from stackelberg.trust_region import GAUSSIAN

FIRST = 0.1  # size of the last layer's first weights, whose outputs are actions


class LinearGaussian(nn.Module):
    """a ~ N(K (1, s), diag(noise^2)), in a Box without bounds.

    Args:
        states, actions: n and k.
        seeds: one per leader.
        std: of the initial gains; 0 starts with none.
        noise: standard deviation of an action, for each or for all; > 0.
        affine: is there a constant beside the gains of s?
        learns_noise: is the noise a parameter, too?
        unit: standard deviation that is added to the noise where a step's length is told, as KL
            between Gaussians: with hardly any noise, hardly any step would be allowed.
    """

    geometry = GAUSSIAN
    log_std: Tensor

    def __init__(
        self,
        states: int,
        actions: int,
        seeds: Sequence[int] = (0,),
        std: float = 0.0,
        *,
        noise: float | Sequence[float] = 0.1,
        affine: bool = True,
        learns_noise: bool = False,
        unit: float = 0.3,
    ) -> None:
        super().__init__()
        self.count = count_of(seeds)
        self.rows, self.actions, self.affine, self.unit = 1, actions, affine, unit
        self.gains = nn.Parameter(normal(seeds, actions, affine + states, std=std))
        spread = torch.as_tensor(noise, dtype=torch.float64)
        if not (spread > 0).all():
            raise InputError("noise > 0", f"{noise}", "take a small one, for example 1e-3")
        log_std = spread.log().expand(actions).clone()
        if learns_noise:
            self.log_std = nn.Parameter(log_std.repeat(self.count, 1))
        else:
            self.register_buffer("log_std", log_std)

    def gain(self) -> Tensor:
        """[M, k, 1 + n], the constants first; 0 where there are none."""
        return nn.functional.pad(self.gains, (0 if self.affine else 1, 0))

    def std(self) -> Tensor:
        """[M, k]."""
        return self.log_std.exp().expand(len(self.gains), -1)

    def parameters_at(self, rows: Tensor) -> list[Tensor]:
        """One leader's parameters at rows of constant, gains and standard deviation [k, 2 + n]."""
        gains = rows[:, 0 if self.affine else 1 : -1]
        return [gains, rows[:, -1].log()] if isinstance(self.log_std, nn.Parameter) else [gains]

    def mean(self, observation: Tensor) -> Tensor:
        """K (1, s) [M, n, k]."""
        gain = self.gain()
        return observation.to(gain) @ gain[..., 1:].mT + gain[..., :1].mT

    def act(self, observation: Tensor, noise: Tensor) -> Tensor:
        """As `stackelberg.types.BoxLeader.act`."""
        return self.mean(observation) + self.std().unsqueeze(1) * noise

    def log_density(self, observation: Tensor, action: Tensor) -> Tensor:
        """log f(a|s) [M, n] of actions [M, n, k]."""
        return gaussian(action, self.mean(observation), self.std().log().unsqueeze(1))

    def position(self, observation: Tensor) -> Tensor:
        """Means and log standard deviations [M, n, 2 k]."""
        return blurred(self.mean(observation), self.std().unsqueeze(1), self.unit)


class _Perceptron(nn.Module):
    """A multi-layer perceptron for every leader, squashed by tanh into the bounds."""

    geometry = GAUSSIAN

    def __init__(
        self,
        inputs: int,
        space: spaces.Space,
        hidden: Sequence[int] = (64, 64),
        seeds: Sequence[int] = (0,),
        activation: Callable[[Tensor], Tensor] = torch.tanh,
    ) -> None:
        super().__init__()
        self.count, self.rows = count_of(seeds), 1
        self.squash, self.activation = Squash(space), activation
        self.actions = self.squash.size
        self.weights, self.biases = perceptrons([inputs, *hidden, self.actions], seeds, FIRST)

    def mean(self, observation: Tensor) -> Tensor:
        """Before squashing, [M, n, k]."""
        return through(self.weights, self.biases, observation, self.activation)


class MLPGaussian(_Perceptron):
    """A Gaussian around what a multi-layer perceptron says, M side by side, squashed by tanh.

    a = outward(mean(s) + std noise), see `stackelberg.squash`: dimensions without bounds are not
    squashed. One learned standard deviation for each dimension.

    Args:
        inputs: length of an observation. space: the Box of actions.
        hidden: widths of the hidden layers.
        seeds: one per leader.
        noise: first standard deviation, before squashing.
        activation: between the layers.
    """

    unit = 0.1  # added to the noise where a step's length is told

    def __init__(
        self,
        inputs: int,
        space: spaces.Space,
        hidden: Sequence[int] = (64, 64),
        seeds: Sequence[int] = (0,),
        noise: float = 0.5,
        activation: Callable[[Tensor], Tensor] = torch.tanh,
    ) -> None:
        super().__init__(inputs, space, hidden, seeds, activation)
        log_std = torch.full((self.count, 1, self.actions), math.log(noise), dtype=torch.float64)
        self.log_std = nn.Parameter(log_std)

    def act(self, observation: Tensor, noise: Tensor) -> Tensor:
        """As `stackelberg.types.BoxLeader.act`."""
        return self.squash.outward(self.mean(observation) + self.log_std.exp() * noise)

    def log_density(self, observation: Tensor, action: Tensor) -> Tensor:
        """log f(a|s) [M, n] of actions [M, n, k], in the game's units."""
        return self.squash.log_density(action, self.mean(observation), self.log_std)

    def position(self, observation: Tensor) -> Tensor:
        """Means and log standard deviations before squashing, [M, n, 2 k]."""
        return blurred(self.mean(observation), self.log_std.exp(), self.unit)


class MLPDeterministic(_Perceptron):
    """What a multi-layer perceptron says, M side by side, squashed by tanh into the bounds.

    Its gradient is the pathwise one. Arguments as of `MLPGaussian`.
    """

    unit = 0.3  # standard deviation by which a step's length is told, before squashing

    def act(self, observation: Tensor, noise: Tensor) -> Tensor:
        """As `stackelberg.types.BoxLeader.act`; the noise does not matter."""
        return self.squash.outward(self.mean(observation))

    def log_density(self, observation: Tensor, action: Tensor) -> Tensor:
        """Raises InputError: there is none."""
        raise InputError(
            "a leader with a density",
            "MLPDeterministic, which always does the same",
            "use MLPGaussian, or an estimator that needs no density",
        )

    def position(self, observation: Tensor) -> Tensor:
        """Means before squashing and log unit, [M, n, 2 k]."""
        return blurred(self.mean(observation), torch.zeros(1, dtype=torch.float64), self.unit)


def blurred(mean: Tensor, std: Tensor, unit: float) -> Tensor:
    """Position [M, n, 2 k] of Gaussians to which noise of standard deviation `unit` is added."""
    log_std = (std**2 + unit**2).log() / 2
    return torch.cat([mean, log_std.expand_as(mean)], -1)
