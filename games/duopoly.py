"""Duopoly: Stackelberg's own game of two firms, of which one sets its quantity first."""

import math
from types import MappingProxyType
from typing import Any

import numpy as np

from games.linear import LinearGame
from stackelberg.environment import Environment
from stackelberg.errors import InputError


class Duopoly(LinearGame):
    """The game, drawn as a market."""

    names = MappingProxyType(
        {
            "state": ["demand"],
            "leader": ["leader's quantity"],
            "follower": ["follower's quantity"],
        }
    )
    margin: float  # intercept - cost
    slope: float

    def picture(self, axes: Any, values: np.ndarray, title: str) -> None:
        """The demand: the price above cost by how much is sold."""
        most = self.margin + float(values[0])
        axes.plot((0, most / self.slope), (most, 0), color="black")
        axes.axhline(0, color="0.6", linewidth=0.8)
        axes.set(title=title, xlabel="quantity", ylabel="price above cost")

    def picture_moves(
        self, axes: Any, values: np.ndarray, leader_action: Any, follower_action: Any
    ) -> None:
        """What both sell, as bars as high as the price that it brings in today's demand."""
        ours, theirs = float(leader_action[0]), float(follower_action[0])
        price = self.margin + float(values[0]) - self.slope * (ours + theirs)
        style: dict[str, Any] = {"align": "edge", "alpha": 0.6}
        axes.bar(0, price, width=ours, color="tab:red", label="leader", **style)
        axes.bar(ours, price, width=theirs, color="tab:blue", label="follower", **style)
        axes.legend(loc="upper right")


def game(
    intercept: float = 10.0,
    slope: float = 1.0,
    cost: float = 2.0,
    persistence: float = 0.9,
    shock: float = 0.5,
    **settings: Any,
) -> Duopoly:
    """Two firms sell the same good; the leader commits to its quantity as a function of demand.

    Description: at every step both see the demand s; the leader brings a quantity a to the market,
        the follower sees it and brings b, and the price is p = intercept + s - slope (a + b).
        Demand follows s' = persistence s + N(0, shock^2), whatever the firms do.
    Action space: leader Box(-inf, inf, (1,)), follower Box(-inf, inf, (1,)).
    Observation space: Box(-inf, inf, (1,)), the demand s.
    Start: the stationary N(0, shock^2 / (1 - persistence^2)). End: never; episodes are cut after
        100 steps.
    Reward: leader (p - cost) a; follower (p - cost) b.
    Solution: with m = intercept - cost, the follower's soft best response is

        b ~ N((m + s - slope a) / (2 slope), temperature / (2 slope)),

        what leaves the leader a (m + s - slope a) / 2, best at a = (m + s) / (2 slope), which the
        follower meets with (m + s) / (4 slope) on average. So, with f = leader_discount,

        J* = (m^2 + shock^2 / (1 - persistence^2)) / (8 slope (1 - f)).

        A leader that spreads its quantity by a standard deviation d loses slope d^2 / (2 (1 - f)).
    Arguments: `slope` and `cost` > 0, `intercept` > cost, `persistence` in [0, 1), `shock` >= 0.
        Discounts 0.9, temperature 0.1; the default leader's standard deviation is 0.1.
    Source: von Stackelberg, Marktform und Gleichgewicht, 1934; here with demand that moves.
    Version history: v0.
    """
    _check(intercept, slope, cost, persistence, shock)
    margin = intercept - cost
    ours, theirs = np.zeros((4, 4)), np.zeros((4, 4))  # of z = (1, s, a, b)
    for costs, own, other in ((ours, 2, 3), (theirs, 3, 2)):
        costs[own, own] = slope
        for column, value in ((0, -margin), (1, -1.0), (other, slope)):
            costs[own, column] = costs[column, own] = value / 2
    variance = shock**2 / (1 - persistence**2)
    defaults = {
        "leader_discount": 0.9,
        "follower_discount": 0.9,
        "temperature": 0.1,
        "horizon": 100,
        "leader_std": 0.1,
    }
    made = Duopoly(
        [[0.0, persistence, 0.0, 0.0]],
        ours,
        theirs,
        noise=[[shock**2]],
        initial_covariance=[[variance]],
        name="duopoly",
        **defaults | settings,
    )
    made.margin, made.slope = margin, slope
    if "optimum" not in settings:
        made.optimum = (margin**2 + variance) / (8 * slope * (1 - made.leader_discount))
    return made


def parallel_env(
    render_mode: str | None = None, max_cycles: int | None = None, **options: Any
) -> Environment:
    """`game(**options)` as a PettingZoo environment."""
    return Environment(game(**options), render_mode, max_cycles)


def _check(intercept: float, slope: float, cost: float, persistence: float, shock: float) -> None:
    finite = all(map(math.isfinite, (intercept, slope, cost, persistence, shock)))
    sound = finite and slope > 0 and 0 < cost < intercept and 0 <= persistence < 1 and shock >= 0
    if not sound:
        raise InputError(
            "slope > 0, 0 < cost < intercept, 0 <= persistence < 1 and shock >= 0",
            f"intercept = {intercept}, slope = {slope}, cost = {cost}, "
            f"persistence = {persistence}, shock = {shock}",
            "mend the one that is out of its range",
        )
