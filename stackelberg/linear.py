"""Linear-quadratic games: their matrices, and oracles on them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class LinearModel:
    """A linear-quadratic game in matrices, for one commitment or for each of M.

    With z = (1, s, a, b) of length K = 1 + n + k + m,

        s'  = transition z + w,  w ~ N(0, noise)
        r_F = -z' follower_cost z
        r_L = -z' leader_cost z + height exp(-z' bump z / 2),

    so that constants and linear terms stand in the first row and column. Under a design, k = 0 and
    the matrices depend on it, attached. Costs and `bump` are symmetric. Everything is in float64;
    what M designs move has the leading dimension M, [M, ...], the rest may do without.
    """

    transition: Tensor  # [.., n, K]
    noise: Tensor  # [n, n], covariance
    initial_mean: Tensor  # [n]
    initial_covariance: Tensor  # [n, n]
    leader_cost: Tensor  # [.., K, K]
    follower_cost: Tensor  # [.., K, K]
    bump: Tensor | None = None  # [.., K, K], positive semidefinite
    height: float = 1.0  # of the bump
    leader_actions: int = 0  # k
    leader_discount: float = 0.99
    follower_discount: float = 0.99
    temperature: float = 0.1
    follower_observes_action: bool = True

    @property
    def states(self) -> int:
        """n."""
        return self.transition.shape[-2]

    @property
    def follower_actions(self) -> int:
        """m."""
        return self.transition.shape[-1] - 1 - self.states - self.leader_actions

    def map(self, change: Callable[[Tensor], Tensor]) -> "LinearModel":
        """The change made to every matrix."""
        parts = {name: part for name, part in vars(self).items() if isinstance(part, Tensor)}
        changed: dict[str, Any] = {name: change(part) for name, part in parts.items()}
        return replace(self, **changed)

    def detach(self) -> "LinearModel":
        """The same numbers without a gradient."""
        return self.map(torch.Tensor.detach)
