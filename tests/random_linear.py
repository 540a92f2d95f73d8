"""Random linear-quadratic games in matrices, and what becomes of them by plain loops."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from stackelberg.linear_model import LinearAnswer, LinearModel, LinearPolicy
from stackelberg.types import Commitment


@dataclass(frozen=True, kw_only=True)
class LinearRecipe:
    """All that decides a random linear-quadratic game."""

    seed: int = 0
    states: int = 2
    leader_actions: int = 1  # 0 is a design
    follower_actions: int = 1
    bump: int = 0  # its rows
    leader_discount: float = 0.9
    follower_discount: float = 0.9
    temperature: float = 0.3
    observes: bool = True

    @property
    def width(self) -> int:
        return 1 + self.states + self.leader_actions + self.follower_actions

    @property
    def size(self) -> int:
        """Of the parameters of a leader: a design, or gains and log standard deviations."""
        return 3 if self.leader_actions == 0 else self.leader_actions * (2 + self.states)

    def point(self, count: int = 1, seed: int = 0) -> Tensor:
        """Parameters [M, p] of random leaders."""
        draw = np.random.default_rng([self.seed, 1, seed]).normal(size=(count, self.size))
        return torch.from_numpy(0.3 * draw)

    def at(self, point: Tensor) -> tuple[LinearModel, LinearPolicy]:
        """The matrices and the leaders of parameters [M, p], attached."""
        rng, width, count = np.random.default_rng(self.seed), self.width, len(point)

        def normal(*shape: int, scale: float = 1.0) -> Tensor:
            return torch.from_numpy(scale * rng.normal(size=shape))

        def positive(size: int) -> Tensor:
            root = normal(size, size)
            return root @ root.mT / size + 0.1 * torch.eye(size, dtype=torch.float64)

        transition = normal(self.states, width, scale=0.7 / math.sqrt(width))
        leader_cost, follower_cost = normal(width, width), positive(width)
        leader_cost = leader_cost + leader_cost.mT
        bump = normal(self.bump, width, scale=0.3) if self.bump else None
        beside = {
            "noise": 0.1 * positive(self.states),
            "initial_mean": normal(self.states),
            "initial_covariance": positive(self.states),
            "height": 1.5,
            "leader_actions": self.leader_actions,
            "leader_discount": self.leader_discount,
            "follower_discount": self.follower_discount,
            "temperature": self.temperature,
            "follower_observes_action": self.observes,
        }
        if self.leader_actions == 0:
            slope = normal(3, self.states, width, scale=0.2 / math.sqrt(width))
            moved = torch.einsum("md,dij->mij", point.sin(), slope)
            grown = (1 + point.square().sum(-1))[:, None, None]
            transition, leader_cost = transition + moved, leader_cost * grown
            follower_cost = follower_cost * (2 - 1 / grown)
            bump = None if bump is None else bump * grown
            policy = LinearPolicy(point.new_zeros(count, 0, 1 + self.states), point[:, :0])
        else:
            gain, log_std = point.split([self.size - self.leader_actions, self.leader_actions], -1)
            policy = LinearPolicy(gain.view(count, self.leader_actions, -1), log_std.exp() / 3)
        costs = {"leader_cost": leader_cost, "follower_cost": follower_cost}
        return LinearModel(transition=transition, bump=bump, **costs, **beside), policy

    def answers(self, count: int = 1) -> LinearAnswer:
        """Random answers of followers, small enough for most games to stay in hand."""
        rng = np.random.default_rng([self.seed, 2])
        seen = 1 + self.states + self.leader_actions
        gain = torch.from_numpy(0.2 * rng.normal(size=(count, self.follower_actions, seen)))
        if not self.observes:
            gain[..., 1 + self.states :] = 0
        root = torch.from_numpy(rng.normal(size=(count, *[self.follower_actions] * 2)))
        return LinearAnswer(gain, root @ root.mT / 5 + 0.1 * torch.eye(self.follower_actions))


@st.composite
def linear_recipes(draw: st.DrawFn, **fixed) -> LinearRecipe:
    discount = st.sampled_from([0.0, 0.5, 0.8, 0.9])
    return LinearRecipe(
        **{
            "seed": draw(st.integers(0, 2**32 - 1)),
            "states": draw(st.integers(1, 4)),
            "leader_actions": draw(st.integers(0, 2)),
            "follower_actions": draw(st.integers(1, 2)),
            "bump": draw(st.integers(0, 2)),
            "leader_discount": draw(discount),
            "follower_discount": draw(discount),
            "temperature": draw(st.sampled_from([0.05, 0.3, 2.0])),
            "observes": draw(st.booleans()),
        }
        | fixed
    )


@dataclass(frozen=True)
class Gains:
    """Linear-Gaussian leaders as a game's oracle takes them."""

    policy: LinearPolicy

    @property
    def actions(self) -> int:
        return self.policy.std.shape[-1]

    def gain(self) -> Tensor:
        return self.policy.gain

    def std(self) -> Tensor:
        return self.policy.std

    def committed(self) -> Commitment:
        return Commitment(torch.ones(len(self.policy.gain), 0, 1), None, None, self)


def one(model: LinearModel, m: int) -> LinearModel:
    """The matrices of leader m alone, without a leading dimension where they had one."""
    kept = {"noise": 2, "initial_mean": 1, "initial_covariance": 2}
    parts = {name: part for name, part in vars(model).items() if isinstance(part, Tensor)}
    found = {k: p[m] if p.dim() > kept.get(k, 2) else p for k, p in parts.items()}
    return LinearModel(**vars(model) | found)


def unrolled(
    model: LinearModel, policy: LinearPolicy, answer: LinearAnswer, steps: int
) -> tuple[float, float]:
    """Leader's return and follower's soft return of one leader in so many steps, in plain loops.

    By the mean and the covariance of z = (1, s, a, b), block by block.
    """
    gain, std = policy.gain.numpy(), policy.std.numpy()
    answers, covariance = answer.gain.numpy(), answer.covariance.numpy()
    n, k = model.states, len(gain)
    mean, spread = model.initial_mean.numpy(), model.initial_covariance.numpy()
    entropy = np.linalg.slogdet(2 * np.pi * np.e * covariance)[1] / 2
    leader = follower = 0.0
    for t in range(steps):
        a = gain[:, 0] + gain[:, 1:] @ mean
        situation = np.concatenate([[1.0], mean, a])
        z = np.concatenate([situation, answers @ situation])
        joint = np.block(
            [
                [spread, spread @ gain[:, 1:].T],
                [gain[:, 1:] @ spread, gain[:, 1:] @ spread @ gain[:, 1:].T + np.diag(std**2)],
            ]
        )
        seen = answers[:, 1:]
        joint = np.block(
            [[joint, joint @ seen.T], [seen @ joint, seen @ joint @ seen.T + covariance]]
        )
        around = np.zeros((len(z), len(z)))
        around[1:, 1:] = joint
        second = around + np.outer(z, z)
        paid = -np.sum(model.leader_cost.numpy() * second)
        if model.bump is not None:
            width = np.eye(len(model.bump)) + model.bump.numpy() @ around @ model.bump.numpy().T
            away = model.bump.numpy() @ z
            size = np.linalg.det(width) ** -0.5
            paid += model.height * size * np.exp(-away @ np.linalg.solve(width, away) / 2)
        own = -np.sum(model.follower_cost.numpy() * second) + model.temperature * entropy
        leader += model.leader_discount**t * paid
        follower += model.follower_discount**t * own
        step = model.transition.numpy()
        mean, spread = step @ z, step @ around @ step.T + model.noise.numpy()
    assert k == len(std)
    assert n == len(mean)
    return float(leader), float(follower)


def sigma_points(covariance: Tensor) -> Tensor:
    """Points [2 p, p] whose mean of any quadratic is that under N(0, covariance) [p, p]."""
    values, vectors = torch.linalg.eigh(covariance)
    root = vectors * (len(values) * values.clamp(min=0)).sqrt()
    return torch.cat([root.mT, -root.mT])
