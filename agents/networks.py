"""Small networks with a polynomial part, and many of them side by side."""

import itertools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agents.polynomial import monomials


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
        terms = len(monomials(torch.zeros(inputs), degree))
        self.polynomial = nn.Parameter(torch.zeros(terms, outputs))
        self.degree = degree

    def forward(self, x: Tensor) -> Tensor:
        return _layers(x, self, torch.addmm)


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


def _layers(x: Tensor, network: Any, affine: Callable[..., Tensor]) -> Tensor:
    first, second, last = zip(network.biases, network.weights, strict=True)
    act = F.silu if network.degree else torch.relu
    hidden = x
    for bias, weight in (first, second):
        hidden = act(affine(bias, hidden, weight))
    outputs = affine(last[0], hidden, last[1])
    if network.degree:
        outputs = outputs + monomials(x, network.degree) @ network.polynomial
    return outputs
