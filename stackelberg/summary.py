"""What a summary says: returns with their confidence, versions."""

import math
from importlib import metadata
from typing import Any

from scipy import stats
from torch import Tensor

from stackelberg.game import Game

NEGLIGIBLE = 1e-4  # what is left of a discounted return when an evaluation episode is cut
LONGEST = 20_000  # steps of an evaluation episode; reached from discounts of 0.9995 on
PACKAGES = ("stackelberg", "torch", "numpy", "pettingzoo", "tianshou")


def evaluation_horizon(game: Game) -> int:
    """Steps until both players' discounted returns have settled to `NEGLIGIBLE` of their scale.

    At most `LONGEST`: closer to 1 a discount makes episodes that no memory holds.
    """
    discount = max(game.leader_discount, game.follower_discount)
    if discount == 0:
        return 1
    return min(LONGEST, max(1, math.ceil(math.log(NEGLIGIBLE) / math.log(discount))))


def interval(returns: Tensor, horizon: int) -> dict[str, Any]:
    """Mean and half-width of the 95 % confidence interval (Student's t) of returns [M, N].

    Numbers for one leader, lists for many; one episode has no interval (None). The returns are
    discounted and follow the objective: they run for `horizon` steps, whatever the game's own time
    limit.
    """
    count = returns.shape[1]
    mean = returns.mean(1)
    spread: list[float] | list[None] = [None] * len(mean)
    if count > 1:
        spread = (returns.std(1) * stats.t.ppf(0.975, count - 1) / math.sqrt(count)).tolist()
    one = len(mean) == 1
    return {
        "mean": mean.item() if one else mean.tolist(),
        "ci95": spread[0] if one else spread,
        "episodes": count,
        "discounted": True,
        "horizon": horizon,
    }


def versions() -> dict[str, str]:
    """Versions of what results depend on."""
    return {name: metadata.version(name) for name in PACKAGES}
