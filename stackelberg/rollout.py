"""Play: a leader and a follower's response in, trajectories out."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from stackelberg.access import Response, blamed
from stackelberg.errors import InputError
from stackelberg.game import Game
from stackelberg.induced import announced
from stackelberg.model import TabularModel
from stackelberg.types import Commitment, TabularResponse
from stackelberg.vector import VectorGame


class Points(NamedTuple):
    """What was observed of states, at n points for each of M leaders.

    Those of N streams of T steps are n = 2 N T: the states of all steps in the order of [N, T],
    then where those steps led, in the same order.
    """

    leader: Tensor  # [M, n, d] float32
    follower: Tensor  # [M, n, d'] float32
    leader_out: Tensor  # [M, n] bool: it had left
    follower_out: Tensor  # [M, n] bool


@dataclass(frozen=True, kw_only=True)
class Trajectories:
    """What M leaders saw in N streams of T steps each; a stream starts anew after an ending.

    A state is an index, in a game without tables that of the step's own point.
    """

    state: Tensor  # [M, N, T] index
    leader_action: Tensor  # [M, N, T] index, [M, N, T, k] in a Box; 0 under a design
    follower_action: Tensor  # [M, N, T] index, [M, N, T, m] in a Box
    leader_reward: Tensor  # [M, N, T]
    follower_reward: Tensor  # [M, N, T]
    next_state: Tensor  # [M, N, T] index, the one arrived in, also at an ending
    terminated: Tensor  # [M, N, T] bool: ended by the rules
    time: Tensor  # [M, N, T] steps since the episode's start; 0 starts a new episode
    points: Points | None = None  # in a game without tables, what the states were observed to be
    design: Tensor | None = None  # [M, N, d] of the streams, where leaders commit to one

    @property
    def steps(self) -> int:
        """Environment steps per leader."""
        return self.state.shape[1] * self.state.shape[2]

    @property
    def episodes(self) -> Tensor:
        """Episodes begun, [M]."""
        return (self.time == 0).sum((1, 2))

    @property
    def cut(self) -> Tensor:
        """Last steps that the stream's end or the time limit makes so, not the rules: [M, N, T]."""
        goes_on = torch.nn.functional.pad(self.time[..., 1:] != 0, (0, 1))
        return ~(goes_on | self.terminated)

    def parts(self) -> dict[str, Tensor]:
        """Everything but the points and designs, each [M, N, T]."""
        apart = ("points", "design")
        return {name: part for name, part in vars(self).items() if name not in apart}

    def map(self, change: Callable[[Tensor], Tensor]) -> "Trajectories":
        """The change made to every part and to designs; there are no points afterwards."""
        parts: dict[str, Any] = {name: change(part) for name, part in self.parts().items()}
        return Trajectories(**parts, design=None if self.design is None else change(self.design))

    def grouped(self, leaders: int) -> "Trajectories":
        """The play of M K leaders as that of M, the streams of K after each other: [M, K N, T]."""

        def joined(part: Tensor) -> Tensor:  # [M K, N, ...]
            return part.unflatten(0, (leaders, -1)).flatten(1, 2)

        own = self.map(joined)
        if self.points is None:
            return own
        steps = own.state[0].numel()
        here = torch.arange(steps).view_as(own.state[0]).expand_as(own.state)
        halves = [part.unflatten(1, (2, -1)) for part in self.points]  # [M K, 2, N T, ...]
        points = [torch.stack([joined(x[:, 0]), joined(x[:, 1])], 1) for x in halves]
        return replace(
            own,
            state=here,
            next_state=here + steps,
            points=Points(*(part.flatten(1, 2) for part in points)),
        )

    def first_returns(self, reward: Tensor, discount: float) -> Tensor:
        """Discounted return of every stream's first episode, [M, N]."""
        first = (self.time == 0).cumsum(-1) == 1
        return (reward * discount ** self.time.to(reward.dtype) * first).sum(-1)


def play(
    game: Game,
    commitment: Commitment,
    response: Response,
    *,
    streams: int,
    steps: int,
    generators: list[np.random.Generator],
    horizon: int | None = None,
    initial: Tensor | None = None,
    once: bool = False,
) -> Trajectories:
    """Sample trajectories under commitments and responses.

    Where game and response have tables, state, both actions and the next state are one draw from a
    joint table, so a time step is a binary search over all streams of all leaders at once, and a
    leader's trajectories depend on its own generator alone. Elsewhere the game is stepped.

    Args:
        commitment, response: of M leaders.
        streams, steps: N and T.
        generators: one for each leader.
        horizon: the time limit; the game's own unless given.
        initial: in tables, the distribution of the first state, [S] or [M, S]; the game's own
            unless given.
        once: stop as soon as the first episodes of all streams are over.

    Raises:
        InputError: for a reward that is not finite, or a response whose actions do not fit.
    """
    limit = game.horizon if horizon is None else horizon
    if not (game.tabular and isinstance(response, TabularResponse)):
        if initial is not None:
            raise InputError(
                "a follower that responds in tables, where play is to start elsewhere",
                type(response).__name__,
                "use another estimator, for example expected-trace",
            )
        drawn = np.random.SeedSequence([int(g.integers(2**63)) for g in generators])
        generator = torch.Generator().manual_seed(int(drawn.generate_state(1, np.uint64)[0] >> 1))
        vector = game.vector(len(generators) * streams, generator, limit)
        return _stepped(game, vector, commitment, response, len(generators), steps, once)
    model = game.simulated_model(commitment.design).detach()
    shape = (len(generators), model.states, model.leader_actions, model.follower_actions)
    first = model.initial if initial is None else initial
    noise = np.stack([g.random((3, steps, streams)) for g in generators], 2)  # [3, T, M, N]
    walk = _walk(
        _chain(model, commitment, response),
        _invert(first.expand(shape[:2]).numpy(), noise[0]),
        noise[1:],
        limit,
        once,
    )
    state, outcome, over, time = (
        torch.from_numpy(part).movedim(0, -1).contiguous()
        for part in walk  # [M, N, T]
    )
    pair, arrived = outcome // shape[1], outcome % shape[1]
    index = (torch.arange(shape[0])[:, None, None], state, pair // shape[3], pair % shape[3])
    return Trajectories(
        state=state,
        leader_action=index[2],
        follower_action=index[3],
        leader_reward=model.leader_reward.expand(shape)[index],
        follower_reward=model.follower_reward.expand(shape)[index],
        next_state=arrived,
        terminated=over > 0,
        time=time,
        design=_designs(commitment, streams),
    )


def _designs(commitment: Commitment, streams: int) -> Tensor | None:
    """The designs [M, N, d] that streams are played under, where leaders commit to one."""
    if commitment.design is None:
        return None
    return commitment.design[:, None].expand(-1, streams, -1)


def _walk(
    chain: "_Chain", starts: np.ndarray, noise: np.ndarray, limit: int, once: bool
) -> tuple[np.ndarray, ...]:
    """States, outcomes, endings and clocks, each [T, M, N].

    Args:
        starts: [T, M, N], the state from which a stream begins should it begin anew at that time.
        noise: [2, T, M, N] for the draws of outcomes and of endings. limit: of an episode's steps.
    """
    state, outcome, over, time = (np.empty(starts.shape, np.int64) for _ in range(4))
    now, clock, unended = starts[0], np.zeros_like(starts[0]), np.ones_like(starts[0], bool)
    for k in range(len(starts)):
        state[k], time[k] = now, clock
        outcome[k], now, over[k] = chain.step(now, noise[0, k], noise[1, k])
        clock = clock + 1
        fresh = (over[k] > 0) | (clock >= limit)
        if once:
            unended &= ~fresh
            if not unended.any():
                return state[: k + 1], outcome[: k + 1], over[: k + 1], time[: k + 1]
        if k + 1 < len(starts) and fresh.any():
            now, clock = np.where(fresh, starts[k + 1], now), np.where(fresh, 0, clock)
    return state, outcome, over, time


@torch.no_grad()
def _stepped(
    game: Game,
    vector: VectorGame,
    commitment: Commitment,
    response: Response,
    leaders: int,
    steps: int,
    once: bool,
) -> Trajectories:
    """`play` by stepping copies of the game [M N]."""
    rows, over = [], torch.zeros(vector.copies, dtype=torch.bool)
    unended = ~over
    time = torch.zeros(vector.copies, dtype=torch.long)
    for _ in range(steps):
        if over.any():
            vector.reset(over)
            time = torch.where(over, 0, time)
        before = _observed(vector)
        seen = [part.unflatten(0, (leaders, -1)) for part in before]
        ours = commitment.act(seen[0], vector.generator)
        told = announced(ours, seen[2])
        with blamed(f"a follower whose sample() acts, as {type(response).__name__}'s should"):
            theirs = response.sample(seen[1], told, vector.generator)
        _check_actions(game, response, theirs, seen[1])
        moved = vector.step(ours.flatten(0, 1), theirs.flatten(0, 1))
        over = moved.terminated | moved.truncated
        chosen = ours if commitment.design is None else torch.zeros(ours.shape[:2]).long()
        actions = chosen.flatten(0, 1), theirs.flatten(0, 1)
        rows.append((*before, *_observed(vector), *actions, time, *moved))
        time = time + 1
        unended = unended & ~over
        if once and not unended.any():
            break
    columns = [
        torch.stack(column, 1).unflatten(0, (leaders, -1))
        for column in zip(*rows, strict=True)  # [M, N, T, ...]
    ]
    states, arrivals = columns[:4], columns[4:8]
    ours, theirs, clock, leader_reward, follower_reward, terminated, _ = columns[8:]
    points = None
    if game.tabular:
        state, arrived = states[0].argmax(-1), arrivals[0].argmax(-1)
    else:
        pairs = zip(states, arrivals, strict=True)
        points = Points(*(torch.cat([x.flatten(1, 2) for x in pair], 1) for pair in pairs))
        state = torch.arange(clock[0].numel()).view_as(clock[0]).expand_as(clock)
        arrived = state + clock[0].numel()
    return Trajectories(
        state=state,
        leader_action=ours,
        follower_action=theirs,
        leader_reward=leader_reward.double(),
        follower_reward=follower_reward.double(),
        next_state=arrived,
        terminated=terminated,
        time=clock,
        points=points,
        design=_designs(commitment, clock.shape[1]),
    )


def _observed(vector: VectorGame) -> tuple[Tensor, ...]:
    return (
        vector.leader_observation,
        vector.follower_observation,
        vector.leader_out,
        vector.follower_out,
    )


def _check_actions(game: Game, response: Response, actions: Tensor, seen: Tensor) -> None:
    """Raise InputError unless a follower's actions fit its observations [M, n, d]."""
    space = game.follower_space
    fits = isinstance(actions, Tensor) and actions.shape[:2] == seen.shape[:2]
    if fits and isinstance(space, spaces.Discrete):
        inside = actions.dim() == 2 and actions.dtype in (torch.int64, torch.int32)
        fits = inside and bool(((actions >= 0) & (actions < int(space.n))).all())
    elif fits:
        fits = actions.shape[2:] == space.shape and bool(torch.isfinite(actions).all())
    if not fits:
        what = type(actions).__name__
        if isinstance(actions, Tensor):
            what = f"a tensor of shape {list(actions.shape)} and {actions.dtype}"
            if actions.numel():
                what += f", from {actions.min().item():g} to {actions.max().item():g}"
        shape = [*seen.shape[:2], *(space.shape or ())]
        raise InputError(
            f"a follower whose sample() gives a tensor of shape {shape}, an action in {space} for "
            "each observation",
            what,
            f"mend sample() of {type(response).__name__}",
        )


def _chain(model: TabularModel, commitment: Commitment, response: TabularResponse) -> "_Chain":
    """The joint draw that model, leaders and followers make."""
    weight = commitment.policy.detach().unsqueeze(-1) * response.policy  # [M, S, A, B]
    total, share = model.transition, None
    if model.ending is not None:
        total = total + model.ending
        share = (model.ending / torch.where(total > 0, total, 1.0)).flatten().numpy()
    return _Chain((weight.unsqueeze(-1) * total).flatten(2).numpy(), share)


class _Chain:
    """The joint draw (a, b, s') given s for M leaders, by binary search in one sorted array.

    Args:
        joint: [M, S, A B S] probabilities.
        ending: of the mass of every (s, a, b, s') the share that ends the game, flat; for each of
            the M leaders, or one for all.
    """

    def __init__(self, joint: np.ndarray, ending: np.ndarray | None) -> None:
        leaders, self.states, self.outcomes = joint.shape
        cumulative = np.cumsum(joint, -1)
        cumulative /= cumulative[..., -1:]
        rows = np.arange(leaders * self.states, dtype=np.float64)
        self.sorted = (cumulative.reshape(-1, self.outcomes) + rows[:, None]).ravel()
        self.offset = np.arange(leaders)[:, None] * self.states
        self.ending = ending

    def step(
        self, state: np.ndarray, noise: np.ndarray, end_noise: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | int]:
        row = state + self.offset
        found = np.searchsorted(self.sorted, row + np.minimum(noise, 1 - 1e-9), side="right")
        over = 0 if self.ending is None else end_noise < self.ending[found % len(self.ending)]
        outcome = found - row * self.outcomes
        return outcome, outcome % self.states, over


def _invert(rows: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Draws [T, M, N] from M distributions [M, S] by inversion of the noise."""
    cumulative = np.cumsum(rows, -1)
    cumulative /= cumulative[:, -1:]
    return np.stack(
        [
            np.searchsorted(row, np.minimum(noise[:, m], 1 - 1e-9), side="right")
            for m, row in enumerate(cumulative)
        ],
        1,
    )
