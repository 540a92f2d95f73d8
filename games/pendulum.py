"""GuidedPendulum: a follower swings a pendulum up while a leader blows it to one side."""

import math
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from games.deterministic import DeterministicGame
from stackelberg.environment import Environment
from stackelberg.errors import InputError
from stackelberg.game import Step

GRAVITY = 10.0  # the mass and the length are 1
TAU = 0.05  # seconds in a step
TORQUE = 2.0  # of the follower at its strongest
FASTEST = 8.0


class Pendulum(DeterministicGame):
    """The game, drawn as it is known."""

    name = "pendulum"
    names = MappingProxyType(
        {
            "state": ["cosine", "sine", "turning rate"],
            "leader": ["wind"],
            "follower": ["torque"],
        }
    )

    def __init__(self, wind: float, **settings: Any) -> None:
        super().__init__(**settings)
        self.wind = wind
        high = np.array([1.0, 1.0, FASTEST], np.float32)
        self.observation_space = spaces.Box(-high, high)
        self.leader_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.follower_space = spaces.Box(-TORQUE, TORQUE, (1,), np.float32)

    def initial(self, n: int, generator: torch.Generator) -> Tensor:
        within = 2 * torch.rand(n, 2, generator=generator, dtype=torch.float64) - 1
        return within * torch.tensor([math.pi, 1.0])

    def observe(self, state: Tensor) -> Tensor:
        angle, turn = state.unbind(-1)
        return torch.stack([angle.cos(), angle.sin(), turn], -1).to(torch.float32)

    def place(self, observation: Tensor) -> Tensor:
        cosine, sine, turn = observation.unbind(-1)
        return torch.stack([torch.atan2(sine, cosine), turn], -1)

    def move(self, state: Tensor, leader_action: Tensor, follower_action: Tensor) -> Step:
        angle, turn = state.unbind(-1)
        blow = leader_action.squeeze(-1).clamp(-1, 1)
        push = follower_action.squeeze(-1).clamp(-TORQUE, TORQUE)
        turning = 1.5 * GRAVITY * angle.sin() + 3 * push + 2 * self.wind * blow * angle.cos() ** 2
        faster = turn + TAU * turning
        following = torch.stack([angle + TAU * faster, faster.clamp(-FASTEST, FASTEST)], -1)
        off = torch.remainder(angle + math.pi, 2 * math.pi) - math.pi
        cost = off**2 + 0.1 * turn**2 + 0.001 * push**2
        ended = torch.zeros(len(state), dtype=torch.bool)
        return Step(following, (-angle.sin()).clamp(max=0), -cost, ended)

    def picture(self, axes: Any, values: np.ndarray, title: str) -> None:
        cosine, sine, _ = map(float, values)
        axes.axvspan(-1.6, 0, color="tab:red", alpha=0.1)
        axes.plot((0, -sine), (0, cosine), color="tab:brown", linewidth=8, solid_capstyle="round")
        axes.plot(0, 0, "o", color="black")
        axes.set(title=title, xlim=(-1.6, 1.6), ylim=(-1.6, 1.6), xticks=[], yticks=[])
        axes.set_aspect("equal")

    def picture_moves(
        self, axes: Any, values: np.ndarray, leader_action: Any, follower_action: Any
    ) -> None:
        """The force of the wind at the tip, red; the torque in numbers."""
        cosine, sine, _ = map(float, values)
        force = -cosine * float(np.clip(leader_action[0], -1, 1))
        arrow = {"width": 0.02, "head_width": 0.1, "length_includes_head": True}
        axes.arrow(-sine, cosine, force, 0, color="tab:red", zorder=3, **arrow)
        axes.text(0, -1.5, f"torque {follower_action[0]:+.2f}", color="tab:blue", ha="center")


def game(wind: float = 1.0, **settings: Any) -> Pendulum:
    """A follower swings a pendulum up; the leader's wind keeps it off the left side.

    Description: the classic pendulum, angle 0 upright and growing to the left. The follower wants
        it upright and still, the leader only not on the left.
    Action space: leader Box(-1, 1, (1,)), the wind w; follower Box(-2, 2, (1,)), the torque u.
        What is outside is clipped.
    Observation space: Box(3): cosine and sine of the angle, the turning rate in [-8, 8].
    Start: angle uniform in [-pi, pi], rate in [-1, 1]. End: never; episodes are cut after 200
        steps.
    Transition: with steps of 0.05 s

            rate'  = rate + 0.05 (15 sin(angle) + 3 u + 2 wind w cos^2(angle))
            angle' = angle + 0.05 rate',   then rate' is clipped to [-8, 8].

        Gymnasium's Pendulum moves the angle by the clipped rate instead.
    Reward: of the state before the step; follower -(angle^2 + 0.1 rate^2 + 0.001 u^2), the angle
        in [-pi, pi); leader min(-sin(angle), 0).
    Arguments: `wind` > 0, the strength. Discounts 0.99; the temperature is 0.1, small beside what
        a step away from upright costs. None is published.
    Source: Kudo et al., arXiv:2603.14867 (GuidedPendulum, in its code).
    Version history: v0.
    """
    if not 0 < wind < math.inf:
        raise InputError("a finite wind > 0", f"{wind}", "give the strength of the leader's wind")
    defaults = {
        "leader_discount": 0.99,
        "follower_discount": 0.99,
        "temperature": 0.1,
        "horizon": 200,
    }
    return Pendulum(float(wind), **defaults | settings)


def parallel_env(
    render_mode: str | None = None, max_cycles: int | None = None, **options: Any
) -> Environment:
    """`game(**options)` as a PettingZoo environment."""
    return Environment(game(**options), render_mode, max_cycles)
