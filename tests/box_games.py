"""Games in which the follower acts in a Box and its soft best response is known."""

import math

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from stackelberg.game import Game, Step


class Aim(Game):
    """At every step the leader names a target; the follower is paid -curvature (b - target)^2.

    The soft best response is Normal(target, temperature / (2 curvature)), where the bounds are far.
    """

    name = "aim"
    targets = torch.tensor([-0.5, 1.0])
    curvature = 1.0

    def __init__(self, **settings) -> None:
        super().__init__(**{"temperature": 0.1, "horizon": 8, "follower_discount": 0.5} | settings)
        self.leader_space = spaces.Discrete(2)
        self.follower_space = spaces.Box(-2.0, 4.0, (1,), np.float32)
        self.observation_space = spaces.Box(-1, 1, (1,), np.float32)

    def initial(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.zeros(n, 1)

    def observe(self, state: Tensor) -> Tensor:
        return state

    def step(
        self,
        state: Tensor,
        leader_action: Tensor,
        follower_action: Tensor,
        generator: torch.Generator,
    ) -> Step:
        miss = follower_action.squeeze(-1) - self.targets[leader_action]
        reward = -self.curvature * miss**2
        return Step(state, -reward, reward, torch.zeros(len(state), dtype=torch.bool))

    @property
    def variance(self) -> float:
        return self.temperature / (2 * self.curvature)

    @property
    def value(self) -> float:
        """Of every (s, a): the log of the Gaussian integral, over and over."""
        once = 0.5 * self.temperature * math.log(math.pi * self.temperature / self.curvature)
        return once / (1 - self.follower_discount)


class Regulator(Game):
    """s' = 0.9 s + 0.5 b + noise, the follower is paid -s^2 - 0.5 b^2; the leader does nothing.

    The soft best response is Normal(-gain s, temperature / (2 curvature)) by a Riccati equation.
    """

    name = "regulator"
    drift, force, cost, noise = 0.9, 0.5, 0.5, 0.1

    def __init__(self, **settings) -> None:
        fixed = {"temperature": 0.1, "horizon": 20, "follower_discount": 0.9}
        super().__init__(**fixed | settings)
        self.leader_space = spaces.Discrete(1)
        self.follower_space = spaces.Box(-3.0, 3.0, (1,), np.float32)
        self.observation_space = spaces.Box(-10, 10, (1,), np.float32)

    def initial(self, n: int, generator: torch.Generator) -> Tensor:
        return 2 * torch.rand(n, 1, generator=generator) - 1

    def observe(self, state: Tensor) -> Tensor:
        return state

    def step(
        self,
        state: Tensor,
        leader_action: Tensor,
        follower_action: Tensor,
        generator: torch.Generator,
    ) -> Step:
        reward = (-(state**2) - self.cost * follower_action**2).squeeze(-1)
        shock = self.noise * torch.randn(len(state), 1, generator=generator)
        following = self.drift * state + self.force * follower_action + shock
        return Step(following, reward, reward, torch.zeros(len(state), dtype=torch.bool))

    def solution(self) -> tuple[float, float, float, float]:
        """gain and variance of the response; p and constant of V(s) = constant - p s^2."""
        p, discount = 0.0, self.follower_discount
        for _ in range(1000):
            curvature = self.cost + discount * p * self.force**2
            gain = discount * p * self.force * self.drift / curvature
            p = 1 + self.cost * gain**2 + discount * p * (self.drift - self.force * gain) ** 2
        curvature = self.cost + discount * p * self.force**2
        entropy = 0.5 * self.temperature * math.log(math.pi * self.temperature / curvature)
        constant = (entropy - discount * p * self.noise**2) / (1 - discount)
        return gain, self.temperature / (2 * curvature), p, constant
