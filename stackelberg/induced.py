"""The follower's induced MDP: what a follower lives in once the leader has committed.

Built from the game contract and the commitment alone, so any reinforcement learner can be a
follower. The batched form is the core; the Gymnasium form is the same thing with one copy.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from stackelberg.errors import InputError
from stackelberg.game import Game
from stackelberg.types import Commitment

_FEW = 8  # actions of a leader that are averaged over; of more, one is drawn

# The frozen leader: observations of n states [n, d] and a generator in, n leader actions out.
FrozenLeader = Callable[[Tensor, torch.Generator], Tensor]


class Place(NamedTuple):
    """Where n copies of a game stand, before the leader moves there."""

    leader: Tensor  # [n, d] float32, what the leader observes
    follower: Tensor  # [n, d'] float32, what the follower observes, without the leader's action
    out: Tensor  # [n] bool: the leader has left


class InducedStep(NamedTuple):
    """What one step of n copies brings the follower."""

    observation: Tensor  # [n, d] float32, of where the step led, also at an episode's end
    reward: Tensor  # [n] the follower's
    terminated: Tensor  # [n] bool: ended by the rules, nothing follows
    truncated: Tensor  # [n] bool: cut off by the time limit, bootstrap from `observation`
    place: Place  # where the step led; under another leader `meet` tells what is met there


def freeze(commitment: Commitment, leader: int = 0) -> FrozenLeader:
    """One of M committed leaders as a rule that acts.

    Args:
        commitment: of M leaders; detached.
        leader: which of them, in 0..M-1.
    """
    if commitment.design is not None:
        design = commitment.design[leader].detach()
        return lambda observation, _: design.expand(len(observation), -1)
    if commitment.box is not None:
        return lambda observation, generator: commitment.act(
            observation.expand(len(commitment.policy), -1, -1), generator
        )[leader]

    @torch.no_grad()
    def draw(observation: Tensor, generator: torch.Generator) -> Tensor:
        below = _odds(commitment, leader, observation).cumsum(-1)
        noise = torch.rand(len(below), 1, generator=generator, dtype=below.dtype) * below[:, -1:]
        return (noise >= below).sum(-1).clamp(max=below.shape[-1] - 1)

    return draw


def _odds(commitment: Commitment, leader: int, observation: Tensor) -> Tensor:
    """f(a|s) [n, A] of one leader on observations [n, d]."""
    if commitment.rule is not None:
        return commitment.rule(observation)[leader].exp()
    policy = commitment.policy[leader].detach()
    return observation.to(policy) @ policy  # rows of the table, by one-hot state


def induced_observation_space(game: Game) -> spaces.Box:
    """What the follower observes: the state and, if it is shown, the leader's action.

    Raises:
        InputError: if the follower observes a leader action that is neither Discrete nor Box.
    """
    state = game.follower_observation_space
    if not shows_action(game):
        return spaces.Box(state.low, state.high, dtype=np.float32)
    if isinstance(game.leader_space, spaces.Discrete):
        count = int(game.leader_space.n)
        low, high = np.zeros(count, np.float32), np.ones(count, np.float32)
    elif isinstance(game.leader_space, spaces.Box):
        low = game.leader_space.low.astype(np.float32)
        high = game.leader_space.high.astype(np.float32)
    else:
        raise InputError(
            "a leader space Discrete or Box for a follower that observes the leader's action",
            f"{game.leader_space!r}",
            "flatten that space, or set follower_observes_action=False",
        )
    return spaces.Box(
        np.concatenate([state.low, low]), np.concatenate([state.high, high]), dtype=np.float32
    )


class InducedMDP:
    """n copies of the follower's MDP under a frozen leader, natively batched.

    The leader's action is drawn at reset and after every step, the truncating one included, since
    the learner bootstraps from the observation there. Copies that have ended wait for `reset`.

    Args:
        game: the game. leader: its frozen leader, see `freeze`.
        copies: n. generator: all randomness, of the game and of the leader.

    Attributes:
        observation: what the follower sees now, [n, d] float32.
    """

    observation: Tensor
    _action: Tensor  # [n] or [n, d] of the leader

    def __init__(
        self, game: Game, leader: FrozenLeader, copies: int, generator: torch.Generator
    ) -> None:
        if copies < 1:
            raise InputError("copies >= 1", f"{copies}", "give how many episodes run side by side")
        self.game, self.leader, self.copies, self.generator = game, leader, copies, generator
        self.observation_space = induced_observation_space(game)
        self.action_space = game.follower_space
        self._vector = game.vector(copies, generator)
        self._announce()

    def reset(self, which: Tensor | None = None) -> Tensor:
        """Start new episodes in the copies `which` (a mask [n] bool), or in all of them.

        Returns:
            The present observations of all copies, [n, d].
        """
        self._vector.reset(which)
        if which is None:
            self._announce()
        elif which.any():
            there = Place(*(part[which] for part in self._place()))
            seen, action = meet(self.game, self.leader, there, self.generator)
            self._action, self.observation = self._action.clone(), self.observation.clone()
            self._action[which], self.observation[which] = action, seen
        return self.observation

    def step(self, action: Tensor) -> InducedStep:
        """One step of all copies, by follower actions [n] (or [n, d] in a Box)."""
        outcome = self._vector.step(self._action, action)
        self._announce()
        over = outcome.terminated | self._vector.follower_out
        return InducedStep(
            self.observation,
            outcome.follower_reward,
            over,
            outcome.truncated & ~over,
            self._place(),
        )

    def _announce(self) -> None:
        """The leader moves in every copy."""
        self.observation, self._action = meet(self.game, self.leader, self._place(), self.generator)

    def _place(self) -> Place:
        vector = self._vector
        return Place(vector.leader_observation, vector.follower_observation, vector.leader_out)


def meet(
    game: Game, leader: FrozenLeader, place: Place, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """What the follower meets at n places where the leader moves [n, d], and its actions."""
    action = leader(place.leader, generator)
    return with_action(game, place.follower, announced(action, place.out)), action


@torch.no_grad()
def meetings(
    game: Game, commitment: Commitment, leader: int, place: Place, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """What the follower may meet at n places where one of M leaders moves, and how likely it is.

    Where the leader chooses among few actions and is seen, all of them; else one that is drawn.

    Returns:
        Observations [n, K, d] and probabilities [n, K].
    """
    space, count = game.leader_space, len(place.out)
    seen = shows_action(game) and isinstance(space, spaces.Discrete)
    if not seen or int(space.n) > _FEW:  # type: ignore[attr-defined]
        met, _ = meet(game, freeze(commitment, leader), place, generator)
        return met.unsqueeze(1), torch.ones(count, 1)
    odds = _odds(commitment, leader, place.leader)
    actions = torch.arange(odds.shape[1]).expand(count, -1)
    observation, out = (
        part.unsqueeze(1).expand(count, odds.shape[1], *part.shape[1:])
        for part in (place.follower, place.out)
    )
    return with_action(game, observation, announced(actions, out)), odds


def announced(leader_action: Tensor, out: Tensor) -> Tensor:
    """The leader's actions as followers are told them: -1 where a leader has left, `out` [...].

    Args:
        leader_action: [...] of a Discrete space; others, as designs, stay as they are.
    """
    return leader_action if leader_action.dim() > out.dim() else leader_action.masked_fill(out, -1)


def with_action(game: Game, observation: Tensor, leader_action: Tensor) -> Tensor:
    """What the follower meets: its observation [..., d'] and, if it is shown, the leader's action.

    Args:
        leader_action: as `announced`, [...] or [..., k]; zeros show where the leader has left.
    """
    if not shows_action(game):
        return observation
    shown = leader_action
    if isinstance(game.leader_space, spaces.Discrete):
        shown = leader_action.unsqueeze(-1) == torch.arange(int(game.leader_space.n))
    return torch.cat([observation, shown.to(observation)], -1)


class InducedEnv(gymnasium.Env):
    """The induced MDP as a Gymnasium environment.

    Description: the game as the follower meets it; the frozen leader is part of the environment.
    Action space: the follower's. Observation space: the state's observation, followed by the
        leader's action (one-hot where it is Discrete) if the follower observes it.
    Start, reward, end: the game's; episodes are truncated after `game.horizon` steps.
    Arguments: game: the game. leader: its frozen leader, see `freeze`.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 - as Gymnasium declares it

    def __init__(self, game: Game, leader: FrozenLeader) -> None:
        self._generator = torch.Generator()
        self._core = InducedMDP(game, leader, 1, self._generator)
        self.observation_space = self._core.observation_space
        self.action_space = self._core.action_space
        self._seeded = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None or not self._seeded:
            self._generator.manual_seed(int(self.np_random.integers(2**63)))
            self._seeded = True
        return self._core.reset()[0].numpy().copy(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        found = self._core.step(torch.as_tensor(np.asarray(action)).unsqueeze(0))
        observation = found.observation[0].numpy().copy()
        flags = bool(found.terminated[0]), bool(found.truncated[0])
        return observation, float(found.reward[0]), *flags, {}


def shows_action(game: Game) -> bool:
    """Does the follower see an action of the leader before its own?"""
    return game.leader_moves == "every step" and game.follower_observes_action
