"""All steps of play that M leaders have seen in a game without tables, the newest ones kept."""

import numpy as np
import torch
from torch import Tensor

from stackelberg.errors import InputError
from stackelberg.game import Game
from stackelberg.rollout import Points, Trajectories

CLIP = 10.0  # standard deviations beyond which an observation counts no further

Draws = list[np.random.Generator]  # one for each leader
Rows = dict[str, Tensor]  # [M, n, ...] each, see `Replay.add`


class Replay:
    """Transitions [M, n] of M leaders, each its own, in the order of play.

    Args:
        game: tells what the players observe. capacity: transitions kept of each leader.
    """

    def __init__(self, game: Game, capacity: int) -> None:
        self.game, self.capacity = game, capacity
        self.load({})

    def load(self, rows: Rows) -> None:
        """Keep these transitions instead."""
        self.rows = rows
        self._units: tuple[Tensor, Tensor] | None = None  # until the next transitions

    def __len__(self) -> int:
        """Transitions of each leader."""
        return self.rows["own"].shape[1] if self.rows else 0

    def add(self, seen: Trajectories, own: bool, call: int) -> None:
        """Append one batch [M, N, T] with its points; the oldest transitions give way.

        Args:
            own: of the M leaders themselves. call: number by which its age is told.
        """
        here = self.at(points_of(seen))
        taken = seen.state[0].numel()
        count = len(seen.time)
        new = {name: rows[:, :taken] for name, rows in here.items()}
        new |= {f"next_{name}": rows[:, taken:] for name, rows in here.items()}
        actions = {"leader": seen.leader_action, "follower": seen.follower_action}
        if self.game.finite:
            new["action"] = torch.stack(list(actions.values()), -1).flatten(1, 2)
        else:
            new |= {f"{who}_action": action.flatten(1, 2) for who, action in actions.items()}
        new["reward"] = torch.stack([seen.leader_reward, seen.follower_reward], -1).flatten(1, 2)
        new |= {
            "terminated": seen.terminated.flatten(1),
            "own": torch.full((count, taken), own),
            "call": torch.full((count, taken), call),
        }
        for name, rows in new.items():
            known = torch.cat([self.rows[name], rows], 1) if self.rows else rows
            new[name] = known[:, -self.capacity :].contiguous()
        self.load(new)

    def at(self, points: Points) -> Rows:
        """What is observed at points: by both (once, if they see the same), and who has left."""
        observation = points.leader
        if self.game.observes_apart:
            observation = torch.cat([points.leader, points.follower], -1)
        out = torch.stack([points.leader_out, points.follower_out], -1)
        return {"observation": observation, "out": out}

    def seen_by(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """The leader's and the follower's observations out of both."""
        first = self.game.observation_space.shape[0]
        second = self.game.follower_observation_space.shape[0]
        return observation[..., :first], observation[..., -second:]

    def inputs(self, rows: Rows) -> Tensor:
        """What networks see [M, n, d]: observations in standard units, and who has left."""
        if self._units is None:
            kept = self.rows["observation"].double()
            mean, spread = kept.mean(1, keepdim=True), kept.std(1, keepdim=True, correction=0)
            self._units = mean, torch.where(spread > 1e-6 * mean.abs(), spread, 1.0)
        mean, spread = self._units
        standard = (rows["observation"] - mean) / spread
        return torch.cat([standard.clamp(-CLIP, CLIP).float(), rows["out"].float()], -1)

    def take(self, index: Tensor) -> Rows:
        """The transitions of an index [M, n]."""
        m = torch.arange(len(index)).unsqueeze(-1)
        return {name: rows[m, index] for name, rows in self.rows.items()}

    def working(self, draws: Draws, count: int) -> Rows:
        """`count` transitions at most: all, or some drawn, half of them from the newest.

        The newest are those of the last call, or count / 2 of them if it brought fewer.
        """
        total = len(self)
        if total <= count:
            return self.rows
        last = int((self.rows["call"][0] == self.rows["call"][0, -1]).sum())
        older = total - max(last, count // 2)
        share = min(older, count // 2)
        new = older + noise(draws, count - share) * (total - older)
        return self.take(torch.cat([noise(draws, share) * older, new], 1).long())

    def recent(self, draws: Draws, within: tuple[int, int], forget: float, call: int) -> Rows:
        """The leaders' own transitions, drawn by weight forget^(calls ago).

        As many as these weights sum up to, within the limits.
        """
        weight = forget ** (call - self.rows["call"]).double() * self.rows["own"]
        weight = weight.cumsum(-1)
        count = min(max(int(weight[0, -1]), within[0]), within[1])
        index = torch.searchsorted(weight, noise(draws, count) * weight[:, -1:], right=True)
        return self.take(index.clamp(max=len(self) - 1))


def after(rows: Rows) -> Rows:
    """Where the transitions led."""
    return {name: rows[f"next_{name}"] for name in ("observation", "out")}


def active(rows: Rows) -> Tensor:
    """Who has not left, leader and follower: [2, M, n], 1 or 0."""
    return (~rows["out"]).double().movedim(-1, 0)


def noise(draws: Draws, count: int) -> Tensor:
    """[M, count] in [0, 1)."""
    return torch.from_numpy(np.stack([draw.random(count) for draw in draws]))


def points_of(seen: Trajectories) -> Points:
    """The points of a batch. Raises InputError if it has none."""
    if seen.points is None:
        raise InputError(
            "trajectories with points, as of a game without tables",
            "trajectories in tables",
            "learn from them by stackelberg.critics.TabularMemory",
        )
    return seen.points
