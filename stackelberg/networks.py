"""Small networks, many side by side, and how they are fitted."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn


class Perceptrons(nn.Module):
    """R multi-layer perceptrons side by side, each of its own random start.

    The last layer starts at a hundredth of its usual size, so that nothing is believed at first.

    Args:
        draws: one generator for each network. widths: of all layers, inputs to outputs.
        activation: between the layers; a smooth one where derivatives are wanted of what they say.
    """

    def __init__(
        self,
        draws: Sequence[np.random.Generator],
        widths: Sequence[int],
        activation: Callable[[Tensor], Tensor] = torch.relu,
    ) -> None:
        super().__init__()
        self.activation = activation
        weights = []
        for i, (fan_in, fan_out) in enumerate(pairwise(widths)):
            bound = math.sqrt(6 / fan_in) * (0.01 if i == len(widths) - 2 else 1.0)  # He
            rows = [draw.uniform(-bound, bound, (fan_in, fan_out)) for draw in draws]
            weights.append(nn.Parameter(torch.from_numpy(np.stack(rows)).float()))
        self.weights = nn.ParameterList(weights)
        self.biases = nn.ParameterList(
            nn.Parameter(torch.zeros(len(draws), 1, width)) for width in widths[1:]
        )

    def features(self, inputs: Tensor) -> Tensor:
        """The last hidden layer [R, n, K] on inputs [R, n, d]."""
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            inputs = self.activation(torch.baddbmm(bias, inputs, weight))
        return inputs

    def forward(self, inputs: Tensor) -> Tensor:
        """[R, n, outputs] on inputs [R, n, d]."""
        return torch.baddbmm(self.biases[-1], self.features(inputs), self.weights[-1])


class Fitted:
    """Networks under training, and the running average of their parameters, which is steadier.

    Args:
        draws, widths, activation: of `Perceptrons`. rate: Adam's. average: by how much the average
            moves towards the parameters at every step, in (0, 1].
    """

    def __init__(
        self,
        draws: Sequence[np.random.Generator],
        widths: Sequence[int],
        *,
        rate: float,
        average: float,
        activation: Callable[[Tensor], Tensor] = torch.relu,
    ) -> None:
        self.online = Perceptrons(draws, widths, activation)
        self.averaged = Perceptrons(draws, widths, activation).requires_grad_(False)
        self.averaged.load_state_dict(self.online.state_dict())
        self.average = average
        self.optimiser = torch.optim.Adam(self.online.parameters(), lr=rate, fused=True)

    def step(self, loss: Tensor) -> None:
        """One step of Adam down the loss, a sum over networks."""
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.averaged.parameters()), list(self.online.parameters()), self.average
            )

    def rate(self, rate: float) -> None:
        """From now on, Adam's."""
        self.optimiser.param_groups[0]["lr"] = rate

    @torch.no_grad()
    def rescale(self, factor: Tensor) -> None:
        """Multiply what the networks say by `factor` [R]."""
        for network in (self.online, self.averaged):
            for last in (network.weights[-1], network.biases[-1]):
                last.mul_(factor.view(-1, 1, 1))

    def state(self) -> dict[str, Tensor]:
        named = dict(self.online.named_parameters())
        state = {f"online.{name}": p.detach() for name, p in named.items()}
        state |= {f"averaged.{name}": p for name, p in self.averaged.named_parameters()}
        for name, parameter in named.items():
            moments = self.optimiser.state[parameter].items()
            state |= {f"{key}.{name}": moment for key, moment in moments}
        return state

    def load(self, state: dict[str, Tensor]) -> None:
        self.online.load_state_dict(part_of(state, "online"))
        self.averaged.load_state_dict(part_of(state, "averaged"))
        self.optimiser.state.clear()
        for key in ("step", "exp_avg", "exp_avg_sq"):
            for name, moment in part_of(state, key).items():
                parameter = self.online.get_parameter(name)
                self.optimiser.state[parameter][key] = moment.clone()


def part_of(state: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    """What stands under `part.`, without that."""
    head = part + "."
    return {k.removeprefix(head): v for k, v in state.items() if k.startswith(head)}
