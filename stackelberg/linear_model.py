"""Linear-quadratic games in matrices, linear leaders and followers, and the loop that they close.

Homogeneous coordinates keep the formulas short: y = (1, s), and z = (1, s, a, b), so that constants
and linear terms are entries of the same matrices. All is batched over M leaders and differentiable.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stackelberg.errors import InputError

FAR = 1e60  # beyond which powers of a diverging system are not followed


@dataclass(frozen=True, kw_only=True)
class LinearModel:
    """A linear-quadratic game in matrices, for one commitment or for each of M.

    With z = (1, s, a, b) of length K = 1 + n + k + m,

        s'  = transition z + w,  w ~ N(0, noise)
        r_F = -z' follower_cost z
        r_L = -z' leader_cost z + height exp(-|bump z|^2 / 2),

    so that constants and linear terms stand in the first row and column. Under a design, k = 0 and
    the matrices depend on it, attached. Costs are symmetric. Everything is in float64; what M
    designs move, or M leaders have learned, has the leading dimension M, [M, ...], the rest may do
    without.
    """

    transition: Tensor  # [.., n, K]
    noise: Tensor  # [.., n, n], covariance
    initial_mean: Tensor  # [.., n]
    initial_covariance: Tensor  # [.., n, n]
    leader_cost: Tensor  # [.., K, K]
    follower_cost: Tensor  # [.., K, K], positive definite in b
    bump: Tensor | None = None  # [.., r, K]
    height: float | Tensor = 1.0  # of the bump, one or [M]
    leader_actions: int = 0  # k
    leader_discount: float = 0.99
    follower_discount: float = 0.99
    temperature: float | Tensor = 0.1  # one or [M]
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

    @property
    def step(self) -> Tensor:
        """F of y' = F z + (0, w): [.., 1 + n, K]."""
        one = torch.zeros_like(self.transition[..., :1, :])
        one[..., 0] = 1
        return torch.cat([one, self.transition], -2)

    @property
    def begin(self) -> Tensor:
        """E y_0: [.., 1 + n]."""
        return torch.nn.functional.pad(self.initial_mean, (1, 0), value=1.0)

    @property
    def start(self) -> Tensor:
        """E[y_0 y_0']: [.., 1 + n, 1 + n]."""
        mean = self.begin
        return mean.unsqueeze(-1) * mean.unsqueeze(-2) + padded(self.initial_covariance)


class LinearPolicy(NamedTuple):
    """Leaders that move by a ~ N(gain y, diag(std^2)); k = 0 under a design."""

    gain: Tensor  # [M, k, 1 + n]
    std: Tensor  # [M, k]

    def detach(self) -> "LinearPolicy":
        return LinearPolicy(self.gain.detach(), self.std.detach())


class LinearAnswer(NamedTuple):
    """Followers that move by b ~ N(gain (y, a), covariance)."""

    gain: Tensor  # [M, m, 1 + n + k], 0 on an action that is not observed
    covariance: Tensor  # [M, m, m]

    def detach(self) -> "LinearAnswer":
        return LinearAnswer(self.gain.detach(), self.covariance.detach())


class Loop(NamedTuple):
    """Leader and follower in place: z = span y + noise, y' = system y + noise."""

    span: Tensor  # [M, K, 1 + n]
    system: Tensor  # [M, 1 + n, 1 + n]
    scatter: Tensor  # [M, K, K], covariance of z given y
    arrival: Tensor  # [M, 1 + n, 1 + n], covariance of y' given y


def close(model: LinearModel, policy: LinearPolicy, answer: LinearAnswer) -> Loop:
    """The closed loop of leaders and followers."""
    count, states = len(policy.gain), model.states + 1
    eye = torch.eye(states, dtype=policy.gain.dtype).expand(count, -1, -1)
    situation = torch.cat([eye, policy.gain], 1)  # (y, E a)
    span = torch.cat([situation, answer.gain @ situation], 1)
    seen = answer.gain[..., states:]
    leader = torch.diag_embed(policy.std.square())
    carried = torch.cat([torch.eye(policy.std.shape[1]).to(seen).expand(count, -1, -1), seen], 1)
    inner = carried @ leader @ carried.mT
    chosen = torch.nn.functional.pad(answer.covariance, (policy.std.shape[1], 0) * 2)
    scatter = torch.nn.functional.pad(inner + chosen, (states, 0, states, 0))
    step = model.step
    arrival = step @ scatter @ step.mT + padded(model.noise)
    return Loop(span, step @ span, scatter, arrival)


def radius(loop: Loop) -> Tensor:
    """Spectral radius of what becomes of s, [M]: discount^1/2 times it below 1 is stable.

    Infinite where it is beyond all numbers.
    """
    system = loop.system.detach()[:, 1:, 1:]
    near = are_near(system)
    found = torch.linalg.eigvals(torch.where(near.view(-1, 1, 1), system, 0.0)).abs().amax(-1)
    return torch.where(near, found, torch.inf)


def linear_policy(count: int, states: int, leader: Any = None) -> LinearPolicy:
    """The policy of M leaders, k = 0 without any.

    Args:
        count: M. states: n. leader: a `LinearLeader`, or None under a design.

    Raises:
        InputError: if the leader is not linear-Gaussian.
    """
    if leader is None:
        empty = torch.zeros(count, 0, 1 + states, dtype=torch.float64)
        return LinearPolicy(empty, empty[..., 0])
    if not is_linear(leader):
        raise InputError(
            "a linear-Gaussian leader, for which there are oracles",
            type(leader).__name__,
            "use agents.LinearGaussian, in evaluate() also gains [k, 1 + n] (constants first, then "
            "of the states), or a follower and an estimator that do not solve the game",
        )
    return LinearPolicy(leader.gain().double(), leader.std().double())


def is_linear(leader: Any) -> bool:
    """Is the leader a `LinearLeader`, as far as oracles go?"""
    return hasattr(leader, "gain") and hasattr(leader, "std")


# ---------------------------------------------------------------- matrices


def are_near(matrices: Tensor) -> Tensor:
    """Are the matrices [..., p, p] numbers to go on with?"""
    return (matrices.abs() < FAR).all(-1).all(-1)


def padded(covariance: Tensor) -> Tensor:
    """The covariance of s as that of y."""
    return torch.nn.functional.pad(covariance, (1, 0, 1, 0))


def constant_form(values: Tensor, size: int) -> Tensor:
    """Numbers [M] as quadratic forms of (1, ...), [M, size, size]."""
    return torch.nn.functional.pad(values[..., None, None], (0, size - 1, 0, size - 1))
