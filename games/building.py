"""Building: a leader insulates four zones and lets air pass between them; a follower heats them."""

from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from scipy.linalg import block_diag
from torch import Tensor

from games.arrays import is_standard
from games.linear import LinearDesign
from stackelberg.environment import Environment

ZONES = 4  # in a ring
WARM = 15.0  # a deviation of temperature that is drawn in full red
PLACES = [(0, 1), (1, 1), (1, 0), (0, 0)]  # of the zones in a picture
DRIFT = torch.tensor(
    [[1, 0.05, 0, 0.05], [0.03, 1, 0.04, 0], [0, 0.04, 1, 0.06], [0.05, 0, 0.03, 1]],
    dtype=torch.float64,
)
LEAK = torch.tensor([0.04, 0.03, 0.06, 0.05], dtype=torch.float64)  # without insulation
HEATING = torch.tensor([[0.1, 0], [0.6, 0], [0, 0.55], [0, 0.3]], dtype=torch.float64)
DISCOMFORT = [8.0, 1.0, 5.0, 6.0]  # the follower's, by zone
EFFORT = 0.01  # the follower's, per squared unit of heating
WORKLOAD = 0.5  # the leader's, per squared unit of heating
PRICE = 0.1  # the leader's, per squared unit of insulation and of airflow
SHOCK = 0.02  # standard deviation of the temperatures' noise
START = 5.0  # standard deviation of the first temperatures
OPTIMUM = -162.50345215791717  # of `stackelberg solve`, which 59 of 64 restarts reach


class Building(LinearDesign):
    """The design game, drawn as a ring of rooms."""

    names = MappingProxyType(
        {
            "state": [f"zone {i + 1}" for i in range(ZONES)],
            "leader": [f"insulation {i + 1}" for i in range(ZONES)]
            + [f"airflow {i + 1}-{(i + 1) % ZONES + 1}" for i in range(ZONES)],
            "follower": ["device 1", "device 2"],
        }
    )

    def picture(self, axes: Any, values: np.ndarray, title: str) -> None:
        """The temperature deviations of the zones, blue where cold, neighbours side by side."""
        grid = np.zeros((2, 2))
        for (column, row), value in zip(PLACES, values, strict=True):
            grid[row, column] = value
        axes.imshow(grid, cmap="coolwarm", vmin=-WARM, vmax=WARM, origin="lower")
        for i, ((column, row), value) in enumerate(zip(PLACES, values, strict=True)):
            axes.text(column, row, f"zone {i + 1}\n{value:+.2f}", ha="center", va="bottom")
        axes.axhline(0.5, color="black")
        axes.axvline(0.5, color="black")
        axes.set(title=title, xticks=[], yticks=[])

    def picture_moves(
        self, axes: Any, values: np.ndarray, leader_action: Any, follower_action: Any
    ) -> None:
        """Insulation in the zones and airflow between them, in percent; heating below."""
        kept, flow = np.split(100 * np.asarray(leader_action), 2)
        box = {"boxstyle": "round", "facecolor": "white"}
        for i, here in enumerate(PLACES):
            axes.text(*here, f"insulated\n{kept[i]:.0f} %", ha="center", va="top", size=8)
            middle = np.mean([here, PLACES[(i + 1) % ZONES]], 0)
            axes.text(*middle, f"{flow[i]:.0f} %", ha="center", va="center", size=8, bbox=box)
        devices = ", ".join(f"{u:+.2f}" for u in follower_action)
        axes.set_xlabel(f"heating {devices}")


def transition(design: Tensor) -> Tensor:
    """(0, A(x), B) [M, 4, 7] of designs x [M, 8]: insulation of the zones, then airflows.

    Neighbours i, j around the ring exchange DRIFT_ij times the airflow between them, and

        A_ii = DRIFT_ii + LEAK_i (1 - insulation_i) - sum_{j != i} A_ij.
    """
    insulation, airflow = design.to(torch.float64).split(ZONES, -1)
    following = (torch.arange(ZONES) + 1) % ZONES
    between = torch.zeros(ZONES, ZONES, ZONES, dtype=torch.float64)  # which airflow joins i and j
    for i, j in enumerate(following.tolist()):
        between[i, i, j] = between[i, j, i] = 1
    exchange = DRIFT * torch.einsum("mk,kij->mij", airflow, between)
    kept = DRIFT.diagonal() + LEAK * (1 - insulation) - exchange.sum(-1)
    matrix = exchange + torch.diag_embed(kept)
    constant = matrix.new_zeros(len(design), ZONES, 1)
    return torch.cat([constant, matrix, HEATING.expand(len(design), -1, -1)], -1)


def leader_cost(design: Tensor) -> Tensor:
    """[M, 7, 7]: PRICE |x|^2 + variance of the temperatures over zones + WORKLOAD |u|^2."""
    spread = np.eye(ZONES) / ZONES - 1 / ZONES**2
    fixed = torch.from_numpy(block_diag(0, spread, WORKLOAD * np.eye(2)))
    paid = torch.zeros_like(fixed)
    paid[0, 0] = PRICE
    return fixed + design.to(torch.float64).square().sum(-1)[:, None, None] * paid


def game(limit: float | None = None, **settings: Any) -> Building:
    """A follower keeps four zones at their temperatures; the leader insulates and ventilates them.

    Description: the zones stand in a ring. Their deviations s from the wanted temperatures grow by
        themselves, less where a zone is insulated, and mix with their neighbours', more where the
        airflow is large. The follower heats and cools through two devices u. The leader sets
        insulation and airflows once; it wants even temperatures and little work of the devices.
    Action space: leader Box(0, 1, (8,)), insulation of the 4 zones and airflows between zones 1-2,
        2-3, 3-4, 4-1; follower Box(-inf, inf, (2,)).
    Observation space: Box(-inf, inf, (4,)), the deviations.
    Start: N(0, 25) in every zone. End: never; episodes are cut after 100 steps.
    Transition: s' = A(x) s + B u + N(0, 0.02^2); see `transition`.
    Reward: follower -(8 s1^2 + s2^2 + 5 s3^2 + 6 s4^2) - 0.01 |u|^2; leader -(variance of s over
        the zones) - 0.5 |u|^2 - 0.1 |x|^2.
    Arguments: `limit`: A(x) s + B u is clipped to [-limit, limit]; 30 as published, where designs
        that let temperatures run away cost less than oracles, which do not know of it, say (1 % at
        the published start). settings: discounts 0.9, temperature 0.1.
    Source: Kudo et al., arXiv:2603.14867 (BuildingThermalControl).
    Version history: v0.
    """
    standard = {"leader_discount": 0.9, "follower_discount": 0.9, "temperature": 0.1}
    known = OPTIMUM if is_standard(settings, standard) else None
    defaults = standard | {"horizon": 100, "optimum": known}
    return Building(
        spaces.Box(0.0, 1.0, (2 * ZONES,), np.float32),
        transition,
        leader_cost,
        block_diag(0, np.diag(DISCOMFORT), EFFORT * np.eye(2)),
        noise=SHOCK**2 * np.eye(ZONES),
        initial_covariance=START**2 * np.eye(ZONES),
        limit=limit,
        name="building",
        **defaults | settings,
    )


def parallel_env(
    render_mode: str | None = None, max_cycles: int | None = None, **options: Any
) -> Environment:
    """`game(**options)` as a PettingZoo environment."""
    return Environment(game(**options), render_mode, max_cycles)
