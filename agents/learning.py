"""Followers that learn from play: one loop, whatever the algorithm.

A follower meets the game only as the induced MDP, by sampling. The leader's commitment is public:
what is stored is where play arrived, and the leader's move there is drawn, or averaged over, under
its present commitment whenever a target is computed, so experience outlives a change of the leader.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from stackelberg.access import Response
from stackelberg.errors import InputError
from stackelberg.game import Game
from stackelberg.induced import FrozenLeader, InducedMDP, freeze
from stackelberg.types import Commitment

LARGEST = 2**30  # bytes of experience that a follower keeps of each leader, at most

Report = Callable[[int, int, float | None], None]  # steps so far, most steps, gap
Columns = dict[str, Tensor]  # transitions [n, ...] by the name of what is told of each


@dataclass(frozen=True, kw_only=True)
class LearningConfig:
    """How much a learning follower plays."""

    copies: int = 64  # most episodes that run side by side in a call's first round; in all rounds
    # where a game steps its copies one by one
    first_steps: int | None = None  # most environment steps of the first call: unless given
    # 4,194,304 with a table, 131,072 with networks
    afresh_steps: int | None = None  # of a later one that cannot use earlier experience: unless
    # given 131,072 with a table, 65,536 with networks
    later_steps: int = 16_384  # of a later one that can

    def __post_init__(self) -> None:
        check_counts(self, "copies", "first_steps", "afresh_steps", "later_steps")


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """How a learning follower trains networks.

    Of each leader at most `capacity` transitions are kept, and of large ones fewer: with
    observations of d numbers, what fits into 1 GiB, about 2^30 / (8 d) of them.
    """

    width: int = 64  # of the two hidden layers
    step_size: float = 1e-3  # of Adam
    capacity: int = 1_048_576  # transitions kept; the oldest give way
    batch: int = 512  # transitions in an update
    replays: float = 16.0  # how often a transition is drawn for updates, on average
    lag: float = 0.01  # in (0, 1], by which target networks move towards the trained ones
    tolerance: float = 0.02  # stop where the gap is surely below it, in temperatures per
    # discounted step

    def __post_init__(self) -> None:
        check_counts(self, "width", "capacity", "batch")
        for name in ("step_size", "replays", "lag", "tolerance"):
            if not 0 < getattr(self, name) < float("inf"):
                raise InputError(f"{name} > 0", f"{getattr(self, name)}", "use the default")
        if self.lag > 1:
            raise InputError("lag in (0, 1]", f"{self.lag}", "use for example 0.01")


def check_counts(config: object, *names: str) -> None:
    """Raise InputError unless these settings, where given, are integers >= 1."""
    for name in names:
        value = getattr(config, name)
        if value is not None and value < 1:
            raise InputError(f"{name} >= 1", f"{value}", "give a positive count")


def require_choices(name: str, game: Game) -> None:
    """Raise InputError unless the follower's actions are Discrete."""
    if not isinstance(game.follower_space, spaces.Discrete):
        raise InputError(
            f"a game with a Discrete follower space for '{name}'",
            f"{game.follower_space!r}",
            "use the follower sac for actions in a Box",
        )


class Experience:
    """Transitions in columns, in a ring: the oldest give way.

    Args:
        capacity: most transitions that are kept; fewer where they would take more than 1 GiB.
    """

    def __init__(self, capacity: int) -> None:
        self.most = self.capacity = capacity
        self.clear()

    def __len__(self) -> int:
        return self._count

    def clear(self) -> None:
        """Forget everything."""
        self._slots: Columns = {}
        self._room = self._count = self._next = 0

    def add(self, rows: Columns) -> None:
        """Append transitions, oldest first."""
        size = sum(column[:1].nbytes for column in rows.values())
        self.capacity = max(1, min(self.most, LARGEST // size))
        rows = {name: column[-self.capacity :] for name, column in rows.items()}
        fresh = len(next(iter(rows.values())))
        self._reserve(min(self.capacity, self._next + fresh), rows)
        where = (self._next + torch.arange(fresh)) % self.capacity
        for name, column in rows.items():
            self._slots[name][where] = column
        self._count = min(self.capacity, max(self._count, self._next + fresh))
        self._next = (self._next + fresh) % self.capacity

    def _reserve(self, room: int, like: Columns) -> None:
        if room <= self._room:
            return
        self._room = min(self.capacity, max(room, 2 * self._room))
        for name, column in like.items():
            grown = column.new_empty(self._room, *column.shape[1:])
            if name in self._slots:
                grown[: self._count] = self._slots[name][: self._count]
            self._slots[name] = grown

    def columns(self) -> Columns:
        """All that is kept, in the order of the slots."""
        return {name: slots[: self._count] for name, slots in self._slots.items()}

    def rows(self, which: Tensor) -> Columns:
        """Some of the slots, [n]."""
        return {name: slots[which] for name, slots in self._slots.items()}

    def state(self) -> dict[str, Tensor]:
        if not self._count:
            return {}
        kept = {name: column.clone() for name, column in self.columns().items()}
        return kept | {"next": torch.tensor(self._next)}

    def load(self, state: dict[str, Tensor]) -> None:
        self.clear()
        if state:
            rows = dict(state)
            following = int(rows.pop("next"))
            self.add(rows)
            self._next = following


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


def flat(columns: Columns) -> Columns:
    """Transitions [T n, ...] of play [T, n, ...]."""
    return {name: column.flatten(0, 1) for name, column in columns.items()}


class Gap(NamedTuple):
    """A best-response gap."""

    value: float  # in units of the follower's return
    error: float  # its standard error
    time: float  # discounted steps of the play that it was measured by


def gap_of(error: Tensor, slack: Tensor, over: Tensor, strays: Tensor, discount: float) -> Gap:
    """A follower's best-response gap, as fresh play measures it.

    Let V(x) = E_g[ Q(x, b) - beta log g(b|x) ], and for any behaviour h

        e(h) = E_h sum_t gamma^t [ r_t + gamma V(x_{t+1}) - Q(x_t, b_t) ],
        k(h) = beta E_h sum_t gamma^t KL( g(.|x_t) || softmax(Q(x_t, .) / beta) ),

    the soft TD errors met, and what the actor g makes less of Q than it could. Whatever Q is, g
    falls short of the best response g* by at most e(g*) - e(g) + k(g*). So the gap is taken to be
    |e(h) - e(g)| + k(h), where h strays from g, in some copies hardly ever and in others always:
    0 where Q and g are right, whatever the level of Q, and large where g is not worth what Q says,
    or something else is worth more.

    In units of the follower's return (entropies included), from the start states, cut at the time
    limit. An estimate, and no bound where g* goes where straying copies do not.

    Args:
        error: soft TD errors of play [T, n]. slack: beta KL where straying copies were, [T, n'].
        over: [T, n] bool, an episode ends; what follows is left out.
        strays: [n], how often each copy does; g are those that never do.
    """
    weight = discount ** torch.arange(len(over), dtype=torch.float64).unsqueeze(-1)
    weight = weight * (torch.cat([torch.zeros_like(over[:1]), over[:-1]]).cumsum(0) == 0)
    sums, own = (weight * error).sum(0), strays == 0
    known, other, less = sums[own], sums[~own], (weight[:, ~own] * slack).sum(0)
    gap = (other.mean() - known.mean()).abs() + less.mean()
    doubt = (known.var() / len(known) + (other.abs() + less).var() / len(other)).sqrt()
    return Gap(gap.item(), doubt.item(), weight.expand_as(over).sum(0).mean().item())


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
