"""Values of both players, differentiable in what they do: quadratic, plus what a network says."""

from typing import NamedTuple

import torch
from torch import Tensor

from stackelberg.box_features import quadratic
from stackelberg.networks import Fitted, part_of
from stackelberg.replay import Draws, noise


class Backups(NamedTuple):
    """W transitions, of which values are made: Q(z) -> reward + lever E Q(arrival)."""

    z: Tensor  # [M, W, d] (x,a,b)
    reward: Tensor  # [2, M, W]
    lever: Tensor  # [2, M, W] the discount, 0 where nothing follows
    arrival: Tensor  # [M, W, K, d] nodes of the next (x,a,b)
    odds: Tensor  # [M, W, K] of them
    plays: Tensor  # [2, M, W] 1, or 0 where the leader, the follower has left
    discounts: Tensor  # [2]


class Values:
    """Q_L and q_F of M leaders.

    The quadratic part is solved for by least-squares TD, all discounts at once, then fitted in
    sweeps in which nothing is worth more or less than rewards as they were met can add up to, as
    old play may mislead the former. The network learns what is left, in rounds of targets that the
    round before it makes; of where a step led each round draws one node for it.

    Args:
        inputs: d. networks: the leaders' M, then the followers'.
    """

    def __init__(self, inputs: int, networks: Fitted, leaders: int) -> None:
        self.networks = networks
        self.scale = torch.ones(2, leaders, 1, dtype=torch.float64)
        terms = quadratic(torch.zeros(1, inputs)).shape[-1]
        self.weights = torch.zeros(2, leaders, terms, dtype=torch.float64)

    def __call__(self, z: Tensor) -> Tensor:
        """Q_L and q_F [2, M, n] of (x,a,b) as one input [M, n, d]."""
        smooth = (quadratic(z) @ self.weights.unsqueeze(-1)).squeeze(-1)
        return smooth + self._bends(z.float().repeat(2, 1, 1))

    @torch.no_grad()
    def fit(
        self,
        found: Backups,
        draws: Draws,
        *,
        rounds: int,
        sweeps: int,
        updates: int,
        batch: int,
        rate: float,
        ridge: float,
    ) -> None:
        """In rounds: the quadratic part, targets, networks.

        Args:
            sweeps: of the quadratic part in a round. updates, batch, rate: of Adam in a round,
                whose rate falls to 0. ridge: of the quadratic part, relative to the features' mean
                square.
        """
        reward, lever, arrival, odds = found.reward, found.lever, found.arrival, found.odds
        weight = found.plays / found.plays.sum(-1, keepdim=True).clamp(min=1)
        features, following = quadratic(found.z), torch.zeros(1)
        for k in range(odds.shape[-1]):  # node by node: all at once are many numbers
            following = following + odds[..., k, None] * quadratic(arrival[:, :, k])
        weighed = (features * weight.unsqueeze(-1)).mT
        size = ridge * features.square().mean((1, 2))
        added = size[:, None, None] * torch.eye(features.shape[-1], dtype=torch.float64)
        system = weighed @ (features - lever.unsqueeze(-1) * following)
        factors = torch.linalg.lu_factor(system + added)
        fit = torch.linalg.lu_factor(weighed @ features + added)
        least, most = (x.unsqueeze(-1) for x in reward.aminmax(dim=-1))
        time = 1 / (1 - found.discounts.view(2, 1, 1))  # within these bounds lie all returns
        least, most = time * least.clamp(max=0), time * most.clamp(min=0)

        inputs, later, likely = found.z.float().repeat(2, 1, 1), arrival.float(), odds.cumsum(-1)
        for done in range(rounds):
            self.networks.rate(rate * (1 - done / rounds))
            bends = self._bends(inputs)
            drawn = noise(draws, likely.shape[1]).unsqueeze(-1) * likely[..., -1:]
            node = torch.searchsorted(likely, drawn).clamp(max=likely.shape[-1] - 1)
            there = later.take_along_dim(node.unsqueeze(-1), 2).squeeze(2)
            ahead = reward + lever * self._bends(there.repeat(2, 1, 1))
            smooth = torch.linalg.lu_solve(*factors, weighed @ (ahead - bends).unsqueeze(-1))
            for _ in range(sweeps):
                later_on = (following @ smooth).squeeze(-1).clamp(least, most)
                aim = (ahead - bends + lever * later_on).unsqueeze(-1)
                smooth = torch.linalg.lu_solve(*fit, weighed @ aim)
            self.weights = smooth.squeeze(-1)
            ahead = ahead + lever * (following @ smooth).squeeze(-1).clamp(least, most)
            target = ahead - (features @ smooth).squeeze(-1)
            spread = (weight * target**2).sum(-1, keepdim=True).sqrt().clamp(min=1e-12)
            self.networks.rescale((self.scale / spread).flatten())
            self.scale = spread
            goal, plays = (target / spread).float(), found.plays.float()
            self._regress(inputs, goal, plays, draws, updates, batch)

    @torch.enable_grad()
    def _regress(
        self,
        inputs: Tensor,
        target: Tensor,
        weight: Tensor,
        draws: Draws,
        updates: int,
        batch: int,
    ) -> None:
        """Steps of Adam towards targets [2, M, W], at inputs [2 M, W, d]."""
        target, weight = target.flatten(0, 1), weight.flatten(0, 1)
        rows = torch.arange(len(target)).unsqueeze(-1)
        for _ in range(updates):
            where = rows, (noise(draws, batch) * target.shape[1]).long().repeat(2, 1)
            missed = self.networks.online(inputs[where]).squeeze(-1) - target[where]
            self.networks.step((weight[where] * missed**2).mean(-1).sum())

    def _bends(self, inputs: Tensor) -> Tensor:
        """What the networks add to the quadratic part [2, M, n], inputs [2 M, n, d]."""
        said = self.networks.averaged(inputs).squeeze(-1).double()
        return self.scale * said.unflatten(0, (2, -1))

    def state(self) -> dict[str, Tensor]:
        own = {"scale": self.scale, "weights": self.weights}
        return own | {f"values.{name}": part for name, part in self.networks.state().items()}

    def load(self, state: dict[str, Tensor]) -> None:
        self.scale, self.weights = state["scale"].clone(), state["weights"].clone()
        self.networks.load(part_of(state, "values"))
