"""Followers that learn from play: one loop, whatever the algorithm.

A follower meets the game only as the induced MDP, by sampling. The leader's commitment is public:
what is stored is where play arrived, and the leader's move there is drawn, or averaged over, under
its present commitment whenever a target is computed, so experience outlives a change of the leader.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from agents.config import LearningConfig
from agents.experience import Columns
from stackelberg.access import Response
from stackelberg.errors import InputError
from stackelberg.game import Game
from stackelberg.induced import FrozenLeader, InducedMDP, freeze
from stackelberg.types import Commitment

Report = Callable[[int, int, float | None], None]  # steps so far, most steps, gap


def require_choices(name: str, game: Game) -> None:
    """Raise InputError unless the follower's actions are Discrete."""
    if not isinstance(game.follower_space, spaces.Discrete):
        raise InputError(
            f"a game with a Discrete follower space for '{name}'",
            f"{game.follower_space!r}",
            "use the follower sac for actions in a Box",
        )


class Learner(ABC):
    """One follower against one leader: what an algorithm adds to the loop.

    Args:
        game: the game. config: how much it plays.

    Attributes:
        experience: what it has seen and may still learn from.
        trained: has it learned anything yet?
        gap: the best-response gap as last measured; None where it measures none.
        space: where it acts: the game's, with bounds.
        first_steps, afresh_steps: what is meant where `LearningConfig` leaves them out.
    """

    first_steps: int
    afresh_steps: int
    gap: float | None = None
    trained = False
    experience: Any
    leader: FrozenLeader
    generator: torch.Generator

    def __init__(self, game: Game, config: LearningConfig) -> None:
        self.game, self.config = game, config
        self.space = game.follower_space
        self._uniform = _uniform(game.follower_space)

    def face(self, commitment: Commitment, leader: int, generator: torch.Generator) -> None:
        """Best-respond to one of M leaders from now on; what holds under others is forgotten."""
        self.commitment, self.index = commitment.detach(), leader
        self.leader, self.generator = freeze(commitment, leader), generator
        if not outlives(self.game):
            self.experience.clear()

    @property
    def budget(self) -> int:
        """Most environment steps of this call."""
        config = self.config
        if not self.trained:
            return config.first_steps or self.first_steps
        if not len(self.experience):
            return config.afresh_steps or self.afresh_steps
        return config.later_steps

    @abstractmethod
    def strays(self, copies: int) -> Tensor:
        """With which probability each copy acts at random, [n], to see what it else would not."""

    def view(self, observation: Tensor) -> Tensor:
        """What is stored of observations [n, d], of the state alone or with the leader's action."""
        return observation

    @abstractmethod
    def act(self, seen: Tensor) -> Tensor:
        """Actions of the present response [n] (in a Box [n, e], from -1 to 1), by what `view`s."""

    def stray(self, action: Tensor) -> Tensor:
        """What copies do that stray from these actions of the response: anything."""
        return self._uniform(len(action), self.generator)

    @abstractmethod
    def keep(self, rows: Columns) -> None:
        """Store transitions [n, ...], columns as `collect` names them."""

    @abstractmethod
    def learn(self, fresh: Columns, strays: Tensor, last: bool) -> bool:
        """Take up a round of play by the present response; returns whether it is good enough.

        Args:
            fresh: as `collect` returns it. strays: [n], of the copies. last: the budget ends here.
        """

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """All that a later call depends on."""

    @abstractmethod
    def load(self, state: dict[str, Tensor]) -> None:
        """Take up a saved state."""


def outlives(game: Game) -> bool:
    """Does a transition (s, a, b, r, s') tell the same under every commitment of the leader?

    Not where a design makes it, nor where it depends on what the leader does or sees unseen by the
    follower.
    """
    shown = game.follower_observes_action and not game.observes_apart
    return game.leader_moves == "every step" and shown


def train(learner: Learner, report: Report) -> int:
    """Best-respond to the leader that the learner faces; returns the environment steps taken.

    Rounds of whole episodes where the budget allows for four; each in as many copies as were played
    so far, up to a quarter of the budget: few fits and few calls, whatever the budget. Where a game
    steps its copies one by one, at most `config.copies` of them play at a time.
    """
    budget, game = learner.budget, learner.game
    quarter = -(-budget // 4)
    first = min(learner.config.copies, max(4, quarter // game.horizon))
    length = min(game.horizon, max(1, quarter // first))
    steps, copies, done = 0, first, False
    while not done:
        strays = learner.strays(copies)
        fresh = _played(learner, strays, length)
        steps += length * copies
        room = (budget - steps) // length
        done = learner.learn(fresh, strays, room < first) or room < first
        report(steps, budget, learner.gap)
        copies = min(room, max(first, min(steps, quarter) // length))
    learner.trained = True
    return steps


def _played(learner: Learner, strays: Tensor, length: int) -> Columns:
    """What `collect` returns of as many episodes as there are `strays`."""
    game = learner.game
    together = learner.config.copies if game.one_by_one else len(strays)
    parts = [
        collect(InducedMDP(game, learner.leader, len(s), learner.generator), learner, s, length)
        for s in strays.split(together)
    ]
    return {name: torch.cat([part[name] for part in parts], 1) for name in parts[0]}


@torch.no_grad()
def collect(play: InducedMDP, learner: Learner, strays: Tensor, length: int) -> Columns:
    """Play `length` steps in every copy.

    Returns:
        Columns [T, n, ...]: `seen` (what the follower met), `act` (in a Box from -1 to 1), `rew`,
        `terminated`, `truncated`, and where the step led: `follower` (what it sees there before
        the leader moves), `out` (the leader had left) and, where it sees something else, `leader`.
    """
    outward = to_game(learner.space)
    stray, game, generator = bool(strays.any()), play.game, play.generator
    rows = []
    for _ in range(length):
        seen = learner.view(play.observation)
        action = learner.act(seen)
        if stray:
            other = torch.rand(len(strays), generator=generator) < strays
            free = learner.stray(action)
            action = torch.where(other if action.dim() == 1 else other[:, None], free, action)
        found = play.step(outward(action))
        flags = found.terminated, found.truncated
        arrived = learner.view(found.place.follower), found.place.out
        apart = (found.place.leader,) if game.observes_apart else ()
        rows.append((seen, action, found.reward, *flags, *arrived, *apart))
        play.reset(found.terminated | found.truncated)
    return {
        name: torch.stack(column)
        for name, column in zip(_COLUMNS, zip(*rows, strict=True), strict=False)
    }


_COLUMNS = ("seen", "act", "rew", "terminated", "truncated", "follower", "out", "leader")


def draw(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Actions [...] with probabilities softmax(logits) [..., B]."""
    return (logits - torch.empty_like(logits).exponential_(generator=generator).log()).argmax(-1)


def to_game(space: spaces.Space) -> Callable[[Tensor], Tensor]:
    """From the actions of a learner to those of the game: in a Box from [-1, 1] to its bounds."""
    if not isinstance(space, spaces.Box):
        return lambda action: action
    low, high = (torch.from_numpy(bound).float() for bound in (space.low, space.high))
    return lambda action: low + (high - low) * (action + 1) / 2


def _uniform(space: spaces.Space) -> Callable[[int, torch.Generator], Tensor]:
    """Draws n actions of a learner uniformly."""
    if isinstance(space, spaces.Discrete):
        return lambda n, generator: torch.randint(int(space.n), (n,), generator=generator)
    shape = cast(spaces.Box, space).shape
    return lambda n, generator: 2 * torch.rand(n, *shape, generator=generator) - 1


class LearningFollower(ABC):
    """A follower that learns its soft best response by playing, warm-started from call to call.

    Every call plays rounds and learns from all that is kept, until the response is good enough or
    the budget of steps is spent. Where the leader's move is observed, experience is kept across
    calls; under a design, or a hidden move, rewards and transitions change with the leader, so that
    only what was learned is kept. A new game (another object, or another number of leaders) starts
    afresh.

    Attributes:
        config: how much it plays.
        report: told, as it trains, of the steps so far, the most there may be, and the gap as last
            measured. Nobody unless set.
    """

    name: str
    config: LearningConfig

    def __init__(self) -> None:
        self.report: Report = lambda steps, budget, gap: None
        self._game: Game | None = None
        self._learners: list[Any] = []
        self._saved: dict[str, Tensor] = {}

    @abstractmethod
    def check(self, game: Game) -> None:
        """Raise InputError unless it can play this game."""

    @abstractmethod
    def learner(self, game: Game, generator: torch.Generator) -> Learner:
        """One that has learned nothing; `generator` decides its first parameters."""

    def best_respond(self, game: Game, commitment: Commitment, seeds: Sequence[int]) -> Response:
        """The learned response to M leaders.

        Args:
            commitment: of M leaders. seeds: [M] non-negative; leader m's response depends on
                seeds[m] and its own experience alone. No global random state is read or changed.

        Returns:
            The response; `steps` is that of the leader that took most.

        Raises:
            InputError: for a game that it cannot play, or as many seeds as there are no leaders.
        """
        self.check(game)
        if len(seeds) != len(commitment.policy):
            raise InputError(
                f"one seed for each of {len(commitment.policy)} leaders",
                f"{len(seeds)} seeds",
                "pass as many seeds as the commitment has leaders",
            )
        if self._game is not game or len(self._learners) != len(seeds):
            self._start(game, seeds)
        steps = []
        for m, (learner, seed) in enumerate(zip(self._learners, seeds, strict=True)):
            learner.face(commitment, m, _generator(seed, 1))
            steps.append(train(learner, self.report))
        return self._learners[0].respond(self._learners, commitment, max(steps))

    def _start(self, game: Game, seeds: Sequence[int]) -> None:
        """New learners, which take up a loaded state if there is one."""
        self._learners = [self.learner(game, _generator(seed, 2)) for seed in seeds]
        self._game = game
        saved, self._saved = self._saved, {}
        for m, learner in enumerate(self._learners if saved else []):
            learner.load({k.split(".", 1)[1]: v for k, v in saved.items() if k.startswith(f"{m}.")})

    def state(self) -> dict[str, Tensor]:
        """All that a later call depends on."""
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


def _generator(seed: int, purpose: int) -> torch.Generator:
    drawn = np.random.SeedSequence([seed, purpose]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(drawn >> 1))
