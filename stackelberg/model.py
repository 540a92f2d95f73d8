"""A two-player Markov game in arrays: what oracles and model-based critics compute on."""

from dataclasses import dataclass, replace
from numbers import Integral, Real

import numpy as np
import torch
from torch import Tensor

from stackelberg.errors import InputError


@dataclass(frozen=True, kw_only=True)
class TabularModel:
    """A Markov game as arrays, any of which may carry leading batch dimensions or a gradient.

    S states, A leader actions, B follower actions. Under a design the leader has no action
    left, so A = 1 and the arrays themselves depend on the design. Every function that takes
    a model broadcasts its leading dimensions (written M below: leaders, seeds, restarts).
    """

    transition: Tensor  # [M, S, A, B, S] probability that play goes on in s'; rows sum to at most 1
    leader_reward: Tensor  # [M, S, A, B]
    follower_reward: Tensor  # [M, S, A, B]
    initial: Tensor  # [M, S] distribution of the first state
    leader_discount: float  # in [0, 1)
    follower_discount: float  # in [0, 1)
    temperature: float | Tensor  # > 0, the weight of the follower's entropy; or one for each [M]
    follower_observes_action: bool = True  # does b_t depend on a_t, or on s_t alone?
    ending: Tensor | None = None  # [M, S, A, B, S] probability that play ends in s'; None: never
    classes: int = 1  # equal runs of states with no way between them, as the contexts of a game

    @property
    def states(self) -> int:
        return self.transition.shape[-1]

    @property
    def leader_actions(self) -> int:
        return self.transition.shape[-3]

    @property
    def follower_actions(self) -> int:
        return self.transition.shape[-2]

    def detach(self) -> "TabularModel":
        """The same numbers without a gradient."""
        return replace(
            self,
            transition=self.transition.detach(),
            leader_reward=self.leader_reward.detach(),
            follower_reward=self.follower_reward.detach(),
            initial=self.initial.detach(),
            ending=None if self.ending is None else self.ending.detach(),
        )


def spread(values: float | Tensor, dimensions: int) -> float | Tensor:
    """A number as it is, numbers [M] with so many dimensions more, to meet a table [M, ...]."""
    return values[(..., *[None] * dimensions)] if isinstance(values, Tensor) else values


def closed_classes(transition: Tensor) -> int:
    """Into how many equal runs of states [S, ..., S] falls, at most, with no way between them."""
    states = len(transition)
    led = (transition > 0).reshape(states, -1, states).any(1)
    for count in range(states, 1, -1):
        if states % count == 0:
            run = torch.arange(states) // (states // count)
            if not led[run.unsqueeze(-1) != run].any():
                return count
    return 1


def check_settings(
    *,
    leader_discount: float,
    follower_discount: float,
    temperature: float,
    horizon: int,
    follower_observes_action: bool,
) -> None:
    """Raise InputError unless the settings that every game has are in their ranges."""
    for name, value in (
        ("leader_discount", leader_discount),
        ("follower_discount", follower_discount),
        ("temperature", temperature),
    ):
        if not isinstance(value, Real):
            raise InputError(f"{name}: a number", f"{value!r}", "give it as a float")
    for name, value in (
        ("leader_discount", leader_discount),
        ("follower_discount", follower_discount),
    ):
        if not 0 <= value < 1:
            raise InputError(f"{name} in [0, 1)", f"{value}", "use for example 0.99")
    if not 0 < temperature < float("inf"):
        raise InputError(
            "a finite temperature > 0",
            f"{temperature}",
            "use a small positive one, for example 0.01, for a nearly greedy follower",
        )
    if isinstance(horizon, bool) or not isinstance(horizon, Integral) or horizon < 1:
        raise InputError("horizon: an integer >= 1", f"{horizon!r}", "give the steps per episode")
    if not isinstance(follower_observes_action, (bool, np.bool_)):
        raise InputError(
            "follower_observes_action: True or False", f"{follower_observes_action!r}", "use a bool"
        )


def check_distribution(name: str, rows: Tensor, tolerance: float = 1e-8) -> None:
    """Raise InputError unless the last dimension of `rows` is a probability distribution."""
    bad = ~torch.isfinite(rows) | (rows < 0)
    _refuse_first(bad, rows, f"{name}: finite probabilities >= 0", "mend that entry")
    gap = (rows.sum(-1) - 1).abs()
    if gap.max() > tolerance:
        where = tuple((gap == gap.max()).nonzero()[0].tolist())
        raise InputError(
            f"{name}: rows that sum to 1 over the last dimension",
            f"a sum of {rows.sum(-1)[where].item():.10g} at row {list(where)}",
            "normalise it in float64: divide it by its sum(-1, keepdims=True)",
        )


def check_finite(name: str, values: Tensor) -> None:
    """Raise InputError unless every entry is a finite number."""
    fix = "replace it; forbid an action by a large finite penalty, not by infinity"
    _refuse_first(~torch.isfinite(values), values, f"{name}: finite numbers", fix)


def _refuse_first(bad: Tensor, values: Tensor, expected: str, fix: str) -> None:
    """Raise InputError with the first of the values that are bad, if there is one."""
    if bad.any():
        where = tuple(bad.nonzero()[0].tolist())
        raise InputError(expected, f"{values[where].item()} at index {list(where)}", fix)
