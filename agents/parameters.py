"""What leaders' parameters start from, and perceptrons side by side."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from stackelberg.errors import InputError


def normal(seeds: Sequence[int], *shape: int, std: float = 1.0) -> Tensor:
    """[M, *shape] of N(0, std^2), row m drawn from seeds[m] alone."""
    rows = [np.random.default_rng([seed, 0]).normal(0.0, std, shape) for seed in seeds]
    return torch.from_numpy(np.stack(rows))


def count_of(seeds: Sequence[int]) -> int:
    """M. Raises InputError without any seed."""
    if not len(seeds):
        raise InputError("one seed per leader", "none", "give at least one, for example (0,)")
    return len(seeds)


def perceptrons(
    widths: Sequence[int], seeds: Sequence[int], last: float = 1.0
) -> tuple[nn.ParameterList, nn.ParameterList]:
    """Weights [M, in, out] and biases [M, 1, out] of M multi-layer perceptrons side by side.

    Args:
        widths: of all layers, inputs to outputs. last: what the last layer's weights start times.
    """
    layers = []
    draws = [np.random.default_rng([seed, 0]) for seed in seeds]
    for i, (fan_in, fan_out) in enumerate(pairwise(widths)):
        bound = math.sqrt(6 / (fan_in + fan_out))  # Xavier, as in the published leader
        bound *= last if i == len(widths) - 2 else 1.0
        rows = [draw.uniform(-bound, bound, (fan_in, fan_out)) for draw in draws]
        layers.append(nn.Parameter(torch.from_numpy(np.stack(rows)).float()))
    biases = (nn.Parameter(torch.zeros(len(seeds), 1, width)) for width in widths[1:])
    return nn.ParameterList(layers), nn.ParameterList(biases)


def through(
    weights: nn.ParameterList,
    biases: nn.ParameterList,
    observation: Tensor,
    activation: Callable[[Tensor], Tensor] = torch.relu,
) -> Tensor:
    """What the perceptrons say [M, n, out], in float64, of observations [n, in] or [M, n, in]."""
    hidden = observation.float().expand(len(weights[0]), -1, -1)
    for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        hidden = torch.baddbmm(bias, activation(hidden) if i else hidden, weight)
    return hidden.double()
