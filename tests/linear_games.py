"""Random linear-quadratic games, and play in them."""

from dataclasses import dataclass

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from agents import ExactFollower
from agents.leaders import default_leader
from games.linear import LinearDesign, LinearGame
from stackelberg import linear
from stackelberg.access import restrict
from stackelberg.estimators import Evidence
from stackelberg.game import Game
from stackelberg.linear_model import LinearModel, LinearPolicy, linear_policy
from stackelberg.regression import LinearCritics, LinearMemory
from stackelberg.rollout import Trajectories, play
from stackelberg.types import Commitment, Leader, LinearResponse, commit

SHORT = {"leader_discount": 0.7, "follower_discount": 0.6, "horizon": 40, "temperature": 0.5}


def normal(*shape: int, seed: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def positive(size: int, seed: int) -> Tensor:
    root = normal(size, size, seed=seed)
    return root @ root.mT / size + 0.2 * torch.eye(size, dtype=torch.float64)


def policy_game(states=2, ours=1, theirs=1, seed=0, noise=0.3, **options) -> LinearGame:
    """Everything matters to everybody, and all stays bounded."""
    width = 1 + states + ours + theirs
    tilted = normal(width, width, seed=seed + 1)
    given = {
        "noise": noise**2 * positive(states, seed + 2),
        "initial_mean": normal(states, seed=seed + 3),
        "initial_covariance": positive(states, seed + 4),
        "leader_std": 0.4,
    }
    return LinearGame(
        0.4 * normal(states, width, seed=seed),
        positive(width, seed + 7) + 0.2 * (tilted + tilted.mT),
        positive(width, seed + 6),
        leader_actions=ours,
        **given | SHORT | options,
    )


def design_game(states=2, theirs=1, knobs=3, seed=0, noise=0.3, **options) -> LinearDesign:
    """The design moves transitions and rewards of both."""
    width = 1 + states + theirs
    base, slope = normal(states, width, seed=seed), normal(knobs, states, width, seed=seed + 1)
    costs = [positive(width, seed + 2), positive(width, seed + 3)]
    turned = normal(knobs, width, width, seed=seed + 8)

    def grown(cost: Tensor):
        turns = 0.02 * (turned + turned.mT)
        return lambda x: (
            cost
            + 0.1 * x[:, 0].square()[:, None, None] * cost
            + torch.einsum("md,dij->mij", x, turns)
        )

    given = {
        "noise": noise**2 * positive(states, seed + 5),
        "initial_covariance": positive(states, seed + 6),
        "initial_mean": normal(states, seed=seed + 9),
    }
    return LinearDesign(
        spaces.Box(-1.0, 1.0, (knobs,), np.float64),
        lambda x: 0.4 * base + 0.15 * torch.einsum("md,dij->mij", x.sin(), slope),
        *(grown(cost) for cost in costs),
        **given | SHORT | options,
    )


@dataclass
class Sample:
    """M leaders that are all the same, and their play."""

    game: Game
    leader: Leader
    commitment: Commitment  # attached
    response: LinearResponse
    seen: Trajectories
    memory: LinearMemory

    @property
    def policy(self) -> LinearPolicy:
        count, states = self.leader.count, self.game.matrices(self.commitment.design).states
        return linear_policy(count, states, self.commitment.box)

    @property
    def true(self) -> LinearModel:
        return self.game.matrices(self.commitment.design)

    def evidence(self, level: str = "value", true: bool = False) -> Evidence:
        evidence = Evidence(
            game=self.game,
            leader=self.leader,
            commitment=self.commitment.detach(),
            follower=restrict(self.response, level),
            trajectories=self.seen,
            memory=self.memory,
        )
        if true:
            learned: LinearCritics = evidence.critics
            evidence.__dict__["critics"] = learned._replace(model=self.true.detach())
        return evidence

    def gradients(self, *surrogates: Tensor) -> np.ndarray:
        """Of the leaders' parameters, [M, coordinates]."""
        leaves = list(self.leader.parameters())
        found = torch.autograd.grad(torch.stack(surrogates).sum(), leaves, retain_graph=True)
        return torch.cat([g.flatten(1) for g in found], 1).numpy()

    def exact(self) -> np.ndarray:
        """The hypergradient [coordinates] by central differences of the exact objective."""
        (leaf,) = self.leader.parameters()
        origin, found = leaf.detach().clone(), []
        with torch.no_grad():
            for i in range(leaf[0].numel()):
                ends = []
                for sign in (1e-5, -1e-5):
                    moved = origin.clone()
                    moved.flatten(1)[:, i] += sign
                    leaf.copy_(moved)
                    attached = commit(self.game, self.leader)
                    model = self.game.matrices(attached.design)
                    policy = linear_policy(self.leader.count, model.states, attached.box)
                    ends.append(linear.objective(model, policy)[0])
                found.append((ends[0] - ends[1]) / 2e-5)
            leaf.copy_(origin)
        return torch.stack(found).numpy()


def same_leaders(game: Game, count: int, seed: int = 3, size: float = 0.2) -> Leader:
    """Leaders that all stand at the same point."""
    made = default_leader(game, range(count))
    with torch.no_grad():
        for leaf in made.parameters():
            leaf.copy_(size * normal(*leaf.shape[1:], seed=seed))
    return made


def sampled(game: Game, count: int, streams: int, steps: int, seed: int = 0, leader=None) -> Sample:
    """Independent batches of play against the exact best response."""
    leader = same_leaders(game, count) if leader is None else leader
    attached = commit(game, leader)
    response = ExactFollower().best_respond(game, attached.detach(), [0] * count)
    generators = [np.random.default_rng([seed, m]) for m in range(count)]
    seen = play(
        game, attached.detach(), response, streams=streams, steps=steps, generators=generators
    )
    memory = LinearMemory(game, count)
    memory.update(seen)
    return Sample(game, leader, attached, response, seen, memory)
