"""How followers were seen to behave, cloned: where actions lie in a Box, or are Discrete."""

import torch
from torch import Tensor

from stackelberg.box_features import Code, nodes
from stackelberg.networks import Fitted, part_of
from stackelberg.replay import Draws, noise
from stackelberg.squash import gaussian

STDS = -3.0, 2.0  # log of the behaviour's standard deviation, less that of the linear part


class Behaviour:
    """g of M followers, fitted by maximum likelihood to what they did.

    A softmax of what a network says; in a Box a Gaussian, linear plus a network, where that is
    unbounded (`stackelberg.squash`).

    Args:
        code: of the follower's actions. inputs: d, of what it is told. network: M networks.
    """

    def __init__(self, code: Code, inputs: int, network: Fitted, leaders: int) -> None:
        self.code, self.network = code, network
        self.line = torch.zeros(leaders, inputs + 1, code.width, dtype=torch.float64)
        self.log_std = torch.zeros(leaders, 1, code.width, dtype=torch.float64)

    def fit(
        self,
        met: Tensor,
        done: Tensor,
        plays: Tensor,
        draws: Draws,
        *,
        steps: int,
        batch: int,
        rate: float,
        depart: float,
        ridge: float,
    ) -> None:
        """Fit g to actions `done` [M, n, ..], told `met` [M, n, d], where it `plays` [M, n].

        Args:
            steps, batch, rate: of Adam, whose rate falls to 0. depart: price of a departure from
                linear, squared and in its own units. ridge: of the linear part.
        """
        if self.code.squash is not None:
            done = self.code.squash.inward(done)
            ones = torch.cat([torch.ones_like(met[..., :1]), met], -1)
            weighed = ones * (plays / plays.sum(-1, keepdim=True).clamp(min=1)).unsqueeze(-1)
            system = weighed.mT @ ones
            system.diagonal(dim1=1, dim2=2).add_(ridge)
            self.line = torch.linalg.solve(system, weighed.mT @ done)
            missed = (done - ones @ self.line) ** 2
            left = (missed * plays.unsqueeze(-1)).sum(1) / plays.sum(-1, keepdim=True).clamp(min=1)
            self.log_std = left.clamp(min=1e-12).log().unsqueeze(1) / 2
        rows = torch.arange(len(met)).unsqueeze(-1)
        for step in range(steps):
            self.network.rate(rate * (1 - step / steps))
            where = rows, (noise(draws, batch) * met.shape[1]).long()
            said = self.network.online(met[where].float())
            price = depart * said.square().mean(-1)
            if self.code.squash is None:
                log_prob = torch.log_softmax(said, -1)
                log_prob = log_prob.gather(-1, done[where].unsqueeze(-1)).squeeze(-1)
            else:
                log_prob = gaussian(done[where], *self._moments(met[where], said))
            self.network.step((plays[where] * (price - log_prob)).mean(-1).sum())

    def answers(self, met: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Actions at L nodes [M, n, L, ..], their odds and log g [M, n, L]; attached to `met`."""
        said = self.network.averaged(met.float())
        if self.code.squash is None:
            log_prob = torch.log_softmax(said.double(), -1)
            choices = torch.arange(log_prob.shape[-1]).expand_as(log_prob)
            return choices, log_prob.exp(), log_prob
        mean, log_std = (part.unsqueeze(2) for part in self._moments(met, said))
        spread, odds = nodes(self.code.width)
        inner = mean + log_std.exp() * spread
        log_density = gaussian(inner, mean, log_std) - self.code.squash.log_slope(inner)
        return self.code.squash.outward(inner), odds.expand_as(log_density), log_density

    def _moments(self, met: Tensor, said: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation [M, n, m] where the Box is unbounded."""
        bent, wider = said.double().chunk(2, -1)
        line = met @ self.line[:, 1:] + self.line[:, :1]
        return line + self.log_std.exp() * bent, self.log_std + wider.clamp(*STDS)

    def state(self) -> dict[str, Tensor]:
        own = {"line": self.line, "log_std": self.log_std}
        return own | {f"behaviour.{name}": part for name, part in self.network.state().items()}

    def load(self, state: dict[str, Tensor]) -> None:
        self.line, self.log_std = state["line"].clone(), state["log_std"].clone()
        self.network.load(part_of(state, "behaviour"))
