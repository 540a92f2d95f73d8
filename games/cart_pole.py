"""GuidedCartPole: a follower balances a pole on a cart; a leader blows it where it likes."""

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

GRAVITY = 9.8
CART, POLE = 1.0, 0.1  # masses
HALF = 0.5  # of the pole's length
FORCE = 10.0  # of the follower at its strongest
TAU = 0.02  # seconds in a step
FURTHEST = 2.4  # of the cart from the middle
STEEPEST = 12 * 2 * math.pi / 360  # of the pole
START = 0.05


class CartPole(DeterministicGame):
    """The game, drawn as it is known."""

    name = "cart_pole"
    names = MappingProxyType(
        {
            "state": ["position", "speed", "angle", "turning rate"],
            "leader": ["wind"],
            "follower": ["push"],
        }
    )

    def __init__(self, target: tuple[float, float], wind: float, **settings: Any) -> None:
        super().__init__(**settings)
        self.target, self.wind = target, wind
        high = np.array([2 * FURTHEST, np.inf, 2 * STEEPEST, np.inf], np.float32)
        self.observation_space = spaces.Box(-high, high)
        self.leader_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.follower_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def initial(self, n: int, generator: torch.Generator) -> Tensor:
        return START * (2 * torch.rand(n, 4, generator=generator, dtype=torch.float64) - 1)

    def observe(self, state: Tensor) -> Tensor:
        return state.to(torch.float32)

    def place(self, observation: Tensor) -> Tensor:
        return observation

    def move(self, state: Tensor, leader_action: Tensor, follower_action: Tensor) -> Step:
        x, speed, angle, turn = state.unbind(-1)
        blow, push = (a.squeeze(-1).clamp(-1, 1) for a in (leader_action, follower_action))
        sine, cosine = angle.sin(), angle.cos()
        mass, lever = CART + POLE, POLE * HALF
        pressed = (FORCE * push + lever * turn**2 * sine) / mass
        inertia = HALF * (4 / 3 - POLE * cosine**2 / mass)
        turning = (GRAVITY * sine - cosine * pressed) / inertia
        driving = pressed - lever * turning * cosine / mass
        turning = turning + self.wind * blow * cosine**2 / lever
        changes = torch.stack([speed, driving, turn, turning], -1)
        following = state + TAU * changes
        x, angle = following[..., 0], following[..., 2]
        low, high = self.target
        ended = (x.abs() > FURTHEST) | (angle.abs() > STEEPEST)
        inside = ((low < x) & (x < high)).double()
        return Step(following, inside, torch.ones_like(inside), ended)

    def picture(self, axes: Any, values: np.ndarray, title: str) -> None:
        x, _, angle, _ = map(float, values)
        axes.axhline(0, color="black", linewidth=1)
        axes.plot(self.target, (0, 0), color="tab:red", linewidth=4)
        axes.bar(x, 0.24, width=0.5, color="0.2", zorder=2)
        tip = x + 2 * HALF * math.sin(angle), 0.24 + 2 * HALF * math.cos(angle)
        axes.plot((x, tip[0]), (0.24, tip[1]), color="tab:brown", linewidth=6, zorder=3)
        axes.set(title=title, xlim=(-FURTHEST, FURTHEST), ylim=(-0.4, 1.8), yticks=[])
        axes.set_aspect("equal")

    def picture_moves(
        self, axes: Any, values: np.ndarray, leader_action: Any, follower_action: Any
    ) -> None:
        """The wind, red, above the pole, and the push, blue, below the cart."""
        x = float(values[0])
        for action, height, colour in (
            (leader_action, 1.5, "red"),
            (follower_action, -0.2, "blue"),
        ):
            size = float(np.clip(action[0], -1, 1))
            arrow = {"width": 0.02, "head_width": 0.1, "length_includes_head": True}
            axes.arrow(x, height, size, 0, color=f"tab:{colour}", **arrow)


def game(
    target: tuple[float, float] = (0.25, 0.75), wind: float = 1.0, **settings: Any
) -> CartPole:
    """A follower balances a pole on a cart; the leader's wind tilts the pole to lead the cart away.

    Description: the classic cart and pole. The follower pushes the cart and wants the pole to
        stand; the leader blows at the pole and wants the cart in the target interval. Leaning
        against the wind, the follower moves the cart.
    Action space: leader Box(-1, 1, (1,)), the wind w, positive to the right; follower
        Box(-1, 1, (1,)), the push u. What is outside is clipped.
    Observation space: Box(4): position x and speed of the cart, angle (0 is upright) and turning
        rate of the pole.
    Start: uniform in [-0.05, 0.05]^4. End: with |x| > 2.4 or an angle beyond 12 degrees; episodes
        are cut after 200 steps.
    Transition: Gymnasium's CartPole, explicit Euler with steps of 0.02 s and the force 10 u, but
        for the pole's acceleration, which gains 20 wind w cos^2(angle).
    Reward: follower 1 in every step; leader 1 where the step leads into the target, without its
        ends.
    Arguments: `target`: (-0.25, 0.25) is the published v0, (0.25, 0.75) its v1. `wind` > 0, the
        strength. Discounts 0.99, temperature 0.005.
    Source: Kudo et al., arXiv:2603.14867 (GuidedCartPole); Barto, Sutton and Anderson, 1983.
    Version history: v0.
    """
    sound = len(target) == 2 and -math.inf < target[0] < target[1] < math.inf
    if not (sound and 0 < wind < math.inf):
        raise InputError(
            "a target (low, high) with low < high, and a wind > 0",
            f"target = {target}, wind = {wind}",
            "give an interval of the cart's position, in [-2.4, 2.4]",
        )
    defaults = {
        "leader_discount": 0.99,
        "follower_discount": 0.99,
        "temperature": 0.005,
        "horizon": 200,
    }
    return CartPole((float(target[0]), float(target[1])), float(wind), **defaults | settings)


def parallel_env(
    render_mode: str | None = None, max_cycles: int | None = None, **options: Any
) -> Environment:
    """`game(**options)` as a PettingZoo environment."""
    return Environment(game(**options), render_mode, max_cycles)
