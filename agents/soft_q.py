"""A follower that learns its soft best response from experience: soft Q-learning in Tianshou.

It meets the game only as the induced MDP, by sampling. The leader's commitment is public, so
the leader's next move enters the targets as an expectation; what is stored is the state alone,
and experience outlives a change of the leader's policy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from stackelberg.errors import InputError
from stackelberg.exact import SoftResponse
from stackelberg.game import Game
from stackelberg.induced import InducedMDP, freeze
from stackelberg.types import Commitment, TabularResponse


@dataclass(frozen=True, kw_only=True)
class SoftQConfig:
    """Settings of the soft Q-learning follower."""

    copies: int = 64  # episodes that run side by side in the first round; later ones take more
    capacity: int = 1_048_576  # transitions kept; the oldest give way
    first_steps: int = 1_048_576  # most environment steps of the first call
    afresh_steps: int = 131_072  # of a later one that cannot use earlier experience, only Q
    later_steps: int = 16_384  # of a later one that can
    learning_rate: float = 0.7  # in (0, 1]; 1 would swing for ever where states alternate
    updates: int = 300  # most updates in one fit
    residual: float = 0.002  # a fit ends when no mean TD error exceeds it, in temperatures
    uncertainty: float = 0.03  # collecting ends when 3 standard errors change no g(b|x) by more

    def __post_init__(self) -> None:
        for name in ("copies", "capacity", "first_steps", "afresh_steps", "later_steps", "updates"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} >= 1", f"{getattr(self, name)}", "give a positive count")
        if not 0 < self.learning_rate <= 1:
            raise InputError(
                "learning_rate in (0, 1]", f"{self.learning_rate}", "use for example 0.7"
            )
        for name in ("residual", "uncertainty"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} > 0", f"{getattr(self, name)}", "use for example 0.01")


class SoftQFollower:
    """Trains by soft Q-learning on sampled transitions, warm-started from call to call.

    Every call collects rounds of experience and fits Q to all that is kept, until the response
    is known well enough or the budget of steps is spent. Where the leader's move is observed,
    experience is kept across calls; under a design, or a hidden move, rewards and transitions
    change with the leader, so that only Q is kept. A new game (another object, or another
    number of leaders) starts afresh.

    *Exact when* every (s, a, b) has been seen infinitely often; its error is sampling error.

    Args:
        config: the settings; the defaults suit small tabular games.
    """

    name = "soft-q"

    def __init__(self, config: SoftQConfig | None = None) -> None:
        self.config = SoftQConfig() if config is None else config
        self._game: Game | None = None
        self._learners: list[Any] = []
        self._saved: dict[str, Tensor] = {}

    def best_respond(
        self, game: Game, commitment: Commitment, seeds: Sequence[int]
    ) -> TabularResponse:
        """The learned response to M leaders.

        Args:
            commitment: of M leaders. seeds: [M] non-negative; leader m's response depends on
                seeds[m] and its own experience alone. No global random state is read or changed.

        Returns:
            The response; `steps` is that of the leader that took most.

        Raises:
            InputError: unless states are observed one-hot and the follower's actions Discrete.
        """
        _check(game, commitment, seeds)
        shape = tuple(commitment.policy.shape)
        if self._game is not game or len(self._learners) != len(seeds):
            self._start(game, shape)
        steps, tables = [], []
        for m, (learner, seed) in enumerate(zip(self._learners, seeds, strict=True)):
            generator = torch.Generator().manual_seed(_torch_seed(seed))
            play = InducedMDP(game, freeze(commitment, m), self.config.copies, generator)
            steps.append(learner.train(play, commitment.policy[m].detach()))
            tables.append(learner.action_value())
        action_value = torch.stack(tables).expand(*shape, -1).contiguous()  # [M, S, A, B]
        values = _soft_response(action_value, commitment.policy.detach(), game.temperature)
        return TabularResponse(values.policy, values, steps=max(steps))

    def _start(self, game: Game, shape: tuple[int, ...]) -> None:
        """New learners, which take up a loaded state if there is one."""
        from agents.soft_q_learning import Learner

        leaders, states, actions = shape
        seen = actions if game.follower_observes_action else 1
        self._learners = [Learner(game, (states, seen), self.config) for _ in range(leaders)]
        self._game = game
        saved, self._saved = self._saved, {}
        for m, learner in enumerate(self._learners if saved else []):
            learner.load({k.split(".", 1)[1]: v for k, v in saved.items() if k.startswith(f"{m}.")})

    def state(self) -> dict[str, Tensor]:
        if self._saved:
            return {name: value.clone() for name, value in self._saved.items()}
        return {
            f"{m}.{name}": value
            for m, learner in enumerate(self._learners)
            for name, value in learner.state().items()
        }

    def load(self, state: dict[str, Tensor]) -> None:
        """Take up a saved state; the next call must be on the game that it was saved on."""
        self._game, self._learners = None, []
        self._saved = {name: value.clone() for name, value in state.items()}


def _soft_response(action_value: Tensor, policy: Tensor, temperature: float) -> SoftResponse:
    """The Boltzmann response to Q [M, S, A, B] under f [M, S, A]."""
    scaled = action_value / temperature
    value = temperature * torch.logsumexp(scaled, -1)
    return SoftResponse(torch.softmax(scaled, -1), value, (policy * value).sum(-1))


def _torch_seed(seed: int) -> int:
    return int(np.random.SeedSequence([seed, 1]).generate_state(1, np.uint64)[0] >> 1)


def _check(game: Game, commitment: Commitment, seeds: Sequence[int]) -> None:
    if not isinstance(game.follower_space, spaces.Discrete):
        raise InputError(
            "a game with a Discrete follower space for 'soft-q'",
            f"{game.follower_space!r}",
            "use a follower for continuous actions",
        )
    if not _observed_one_hot(game):
        raise InputError(
            "a tabular game, whose states are observed one-hot, for 'soft-q'",
            f"'{game.name}' with observations {game.observation_space!r}",
            "give the game as arrays or use a follower with a neural network",
        )
    if len(seeds) != len(commitment.policy):
        raise InputError(
            f"one seed for each of {len(commitment.policy)} leaders",
            f"{len(seeds)} seeds",
            "pass as many seeds as the commitment has leaders",
        )


def _observed_one_hot(game: Game) -> bool:
    if len(game.observation_space.shape) != 1:
        return False
    count = game.observation_space.shape[0]
    try:
        seen = game.observe(torch.arange(count))
    except (RuntimeError, TypeError, IndexError, ValueError):  # states of another kind
        return False
    return seen.shape == (count, count) and torch.equal(seen, torch.eye(count))
