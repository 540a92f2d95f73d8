"""Games and plain-NumPy oracles that the tests of the hypergradient share.

`Family` moves everything at once, arrays and policy, with one parameter vector; `Rested` pads a
game with a state in which nothing happens, so that sampled episodes can be cut at their ending.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from gymnasium import spaces
from strategies import Recipe, random_design_game, random_designs, random_game
from torch import Tensor, nn
from wrapped import Wrapped

from games import discrete_toy
from games.tabular import TabularDesign, TabularGame
from stackelberg import exact, hypergradient
from stackelberg.access import ValueAccess
from stackelberg.critics import TabularMemory
from stackelberg.estimators import Evidence
from stackelberg.game import Game
from stackelberg.model import TabularModel
from stackelberg.rollout import Trajectories, play
from stackelberg.types import Commitment, Leader, TabularResponse, commit

# ---------------------------------------------------------------- families of games


@dataclass(frozen=True, kw_only=True)
class Family:
    """A game and a policy that depend on a parameter vector x [M, d]."""

    seed: int = 0
    states: int = 4
    leader_actions: int = 3
    follower_actions: int = 3
    dimension: int = 5
    leader_discount: float = 0.9
    follower_discount: float = 0.8
    temperature: float = 0.5
    observes: bool = True
    ends: bool = True  # is there a chance that play ends?
    moves: frozenset[str] = frozenset({"policy", "rewards", "transition", "initial"})

    def at(self, x: Tensor) -> tuple[TabularModel, Tensor]:
        """The model and the policy under x [M, d], attached to it."""
        rng = np.random.default_rng(self.seed)
        cells = (self.states, self.leader_actions, self.follower_actions)

        def array(part: str, *shape: int) -> Tensor:
            base, slope = rng.normal(size=shape), rng.normal(size=(self.dimension, *shape))
            moved = torch.tensordot(x, torch.from_numpy(slope), 1)
            return torch.from_numpy(base) + moved * (part in self.moves)

        policy = torch.softmax(array("policy", self.states, self.leader_actions), -1)
        kernel = torch.softmax(2 * array("transition", *cells, self.states), -1)
        stop = 0.4 * torch.sigmoid(array("transition", *cells, self.states)) * self.ends
        model = TabularModel(
            transition=kernel * (1 - stop),
            ending=kernel * stop if self.ends else None,
            leader_reward=array("rewards", *cells),
            follower_reward=array("rewards", *cells),
            initial=torch.softmax(array("initial", self.states), -1),
            leader_discount=self.leader_discount,
            follower_discount=self.follower_discount,
            temperature=self.temperature,
            follower_observes_action=self.observes,
        )
        return model, policy

    def point(self, count: int = 1) -> Tensor:
        """Somewhere to differentiate at: [count, d]."""
        rng = np.random.default_rng([self.seed, 1])
        return torch.from_numpy(0.3 * rng.normal(size=(count, self.dimension)))


PARTS = ("policy", "rewards", "transition", "initial")


KINDS = {"policy": PARTS[:1], "design": PARTS[1:], "both": PARTS}
FLAGS = (True, False)


def families(count: int, first: int = 0) -> list[Family]:
    """All kinds in turn: policies, designs, both; followers; (un)equal discounts; endings."""
    kinds = list(itertools.product(KINDS, FLAGS, FLAGS, FLAGS))
    return [_family(seed, *kinds[seed % len(kinds)]) for seed in range(first, first + count)]


def _family(seed: int, kind: str, observes: bool, equal: bool, ends: bool) -> Family:
    rng = np.random.default_rng([seed, 2])
    leader_discount = float(rng.choice([0.5, 0.8, 0.95]))
    return Family(
        seed=seed,
        states=int(rng.integers(1, 7)),
        leader_actions=1 if kind == "design" else int(rng.integers(2, 5)),
        follower_actions=int(rng.integers(2, 5)),
        leader_discount=leader_discount,
        follower_discount=leader_discount if equal else float(rng.choice([0.0, 0.6, 0.9])),
        temperature=float(rng.choice([0.1, 0.3, 1.0])),
        observes=observes,
        ends=ends,
        moves=frozenset(KINDS[kind]),
    )


def gradient(value: Tensor, x: Tensor) -> Tensor:
    """d(sum value)/dx, zero where value does not depend on x."""
    if not value.requires_grad:
        return torch.zeros_like(x)
    found = torch.autograd.grad(value.sum(), x, allow_unused=True, retain_graph=True)[0]
    return torch.zeros_like(x) if found is None else found


# ---------------------------------------------------------------- plain NumPy, loops


def bellman(model: TabularModel, policy: Tensor, value: np.ndarray) -> np.ndarray:
    """Q_F(s,a,b) = r_F + gamma_F E_s' E_a' V_F(s',a') from V_F [S, A]; one leader, loops."""
    states, leader_actions, follower_actions = model.follower_reward.shape
    transition, reward, f = (
        t.numpy() for t in (model.transition, model.follower_reward, policy.detach())
    )
    result = np.zeros((states, leader_actions, follower_actions))
    for s in range(states):
        for a in range(leader_actions):
            for b in range(follower_actions):
                future = 0.0
                for t in range(states):
                    for c in range(leader_actions):
                        future += transition[s, a, b, t] * f[t, c] * value[t, c]
                result[s, a, b] = reward[s, a, b] + model.follower_discount * future
    if not model.follower_observes_action:
        for s in range(states):
            result[s] = sum(f[s, a] * result[s, a] for a in range(leader_actions))
    return result


def log_sum_exp(values: np.ndarray, temperature: float) -> np.ndarray:
    top = values.max(-1)
    return top + temperature * np.log(np.exp((values - top[..., None]) / temperature).sum(-1))


def iterated_response(
    model: TabularModel, policy: Tensor, iterations: int
) -> tuple[np.ndarray, np.ndarray]:
    """g [S, A, B] and V_F [S, A] of one leader by value iteration, vectorised."""
    transition, reward, f = (
        t.detach().numpy() for t in (model.transition, model.follower_reward, policy)
    )
    value = np.zeros(f.shape)
    for _ in range(iterations + 1):
        action_value = reward + model.follower_discount * transition @ (f * value).sum(-1)
        if not model.follower_observes_action:
            mean = (f[..., None] * action_value).sum(1, keepdims=True)
            action_value = np.broadcast_to(mean, action_value.shape)
        value = log_sum_exp(action_value, model.temperature)
    return np.exp((action_value - value[..., None]) / model.temperature), value


def iterated_objective(model: TabularModel, policy: Tensor, iterations: int = 1000) -> float:
    """J of one leader, every value by iteration from 0."""
    transition, reward, f, start = (
        t.detach().numpy() for t in (model.transition, model.leader_reward, policy, model.initial)
    )
    g, _ = iterated_response(model, policy, iterations)
    value = np.zeros(len(f))
    for _ in range(iterations):
        action_value = reward + model.leader_discount * transition @ value
        value = (f[..., None] * g * action_value).sum((1, 2))
    return float(start @ value)


# ---------------------------------------------------------------- sampling in batches


class Rested(Wrapped):
    """A tabular game with one more state, never reached, in which nothing happens.

    Steps after an episode's ending are moved there by `first_episodes`; they contribute nothing to
    any estimator, so that the mean over streams is a mean over whole episodes.

    Args:
        start: log mu(s) as a function of the designs; the game's own initial distribution if None.
    """

    def __init__(self, game: Game, start: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__(game)
        self.start, self.optimum = start, None
        self.states = game.observation_space.shape[0] + 1
        self.observation_space = spaces.Box(0.0, 1.0, (self.states,), np.float32)

    def model(self, design: Tensor | None = None) -> TabularModel:
        model = self.inner.model(design)
        if self.start is not None:
            assert design is not None
            model = replace(model, initial=self.start(design).softmax(-1))
        kernel = _with_rest(model.transition)
        loop = torch.zeros_like(kernel)
        loop[..., -1, :, :, -1] = 1.0
        return replace(
            model,
            transition=kernel + loop,
            ending=None if model.ending is None else _with_rest(model.ending),
            leader_reward=_with_rest(model.leader_reward, arrival=False),
            follower_reward=_with_rest(model.follower_reward, arrival=False),
            initial=torch.nn.functional.pad(model.initial, (0, 1)),
        )

    def extend(self, point: Tensor) -> Tensor:
        """Logits [S, A] with a row for the state more; a design as it is."""
        if self.leader_moves == "once":
            return point
        return torch.nn.functional.pad(point, (0, 0, 0, 1))

    def observe(self, state: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(state, self.states).float()


def _with_rest(array: Tensor, arrival: bool = True) -> Tensor:
    """[..., S, A, B, S] or [..., S, A, B] with a row (and column) of zeros more."""
    return torch.nn.functional.pad(array, (0, 1) * arrival + (0, 0, 0, 0, 0, 1))


def first_episodes(seen: Trajectories, rest: int) -> Trajectories:
    """Every stream's first episode; the steps after its ending lie in the state `rest`."""
    after = seen.terminated.cumsum(-1) - seen.terminated.long() > 0
    clock = torch.arange(seen.time.shape[-1]).expand_as(seen.time)

    def still(values: Tensor, filler: float = 0) -> Tensor:
        return torch.where(after, torch.full_like(values, filler), values)

    return replace(
        seen,
        state=still(seen.state, rest),
        leader_action=still(seen.leader_action),
        follower_action=still(seen.follower_action),
        leader_reward=still(seen.leader_reward),
        follower_reward=still(seen.follower_reward),
        next_state=still(seen.next_state, rest),
        terminated=seen.terminated & ~after,
        time=torch.where(after, clock, seen.time),
    )


@dataclass(frozen=True, kw_only=True)
class Sample:
    """M independent batches of play of one leader, with a leaf of its own for each."""

    evidence: Evidence  # with the true model and critics, see `learned`
    commitment: Commitment  # attached to `leaf`
    leaf: Tensor  # [M, ...] logits or designs
    exact: np.ndarray  # [coordinates] the exact hypergradient at one row of `leaf`

    def gradients(self, *surrogates: Tensor) -> np.ndarray:
        """The batches' gradients of the sum of the surrogates [M, coordinates]."""
        found = gradient(sum(surrogates), self.leaf)
        return found.flatten(1).numpy()

    def learned(self) -> Evidence:
        """The same play, with the critics that each batch's own model gives."""
        memory = TabularMemory(self.evidence.game, len(self.leaf))
        memory.update(self.evidence.trajectories)
        return replace(self.evidence, memory=memory)


def committed(game: Game, leaf: Tensor) -> Commitment:
    """Logits [M, S, A] or designs [M, d] as a commitment."""
    if game.leader_moves == "once":
        states = game.model(leaf[:1]).states
        return Commitment(torch.ones(len(leaf), states, 1, dtype=torch.float64), leaf)
    return Commitment(torch.softmax(leaf, -1), None)


class Free(nn.Module):
    """A leader whose parameters are its logits [M, S, A] or its designs [M, d] themselves."""

    rows = 1

    def __init__(self, game: Game, point: Tensor) -> None:
        super().__init__()
        self.count, self.point = len(point), nn.Parameter(point)
        if game.leader_moves == "once":
            self.design = lambda: self.point
        else:
            self.log_policy = lambda observation: torch.log_softmax(self.point, -1)

    def position(self, observation: Tensor) -> Tensor:
        return self.point.unsqueeze(1)


class Knowing:
    """In place of a memory: the true model."""

    def __init__(self, game: Game) -> None:
        self.game, self.temperature = game, game.temperature

    def model(self, commitment: Commitment) -> TabularModel:
        return self.game.model(commitment.design)


def with_true_critics(game: Game, point: Tensor, seen: Trajectories) -> Sample:
    """M batches of play [M, N, T] of the leader at `point` (logits [S, A] or a design [d])."""
    return sample_of(game, Free(game, point.expand(len(seen.time), *point.shape).clone()), seen)


def sample_of(game: Game, leader: Leader, seen: Trajectories) -> Sample:
    """M batches of play [M, N, T] of M leaders that are all the same, of one parameter tensor."""
    (leaf,) = leader.parameters()
    commitment = commit(game, leader)
    first = Commitment(
        commitment.policy[:1], None if commitment.design is None else commitment.design[:1]
    )
    model = game.model(first.design)
    goal = gradient(exact.objective(model, first.policy), leaf)[0]
    model, policy = model.detach(), first.policy.detach()
    best = exact.best_response(model, policy)
    critics = hypergradient.tabular_critics(model, policy, best)

    def shared(tables: tuple[Tensor, ...]) -> list[Tensor]:
        return [table.expand(len(leaf), *table.shape[1:]) for table in tables]

    response = exact.SoftResponse(*shared(best))
    evidence = Evidence(
        game=game,
        leader=leader,
        commitment=commitment.detach(),
        follower=ValueAccess(TabularResponse(response.policy, response)),
        trajectories=seen,
        memory=Knowing(game),
        noise=[np.random.default_rng([m, 8]) for m in range(len(leaf))],
    )
    evidence.__dict__["critics"] = hypergradient.Critics(*shared(critics))
    return Sample(evidence=evidence, commitment=commitment, leaf=leaf, exact=goal.flatten().numpy())


def batches_of_play(
    game: Game, point: Tensor, *, batches: int, streams: int, steps: int, seed: int = 0
) -> Trajectories:
    """[batches, streams, steps] of one leader against the exact best response."""
    alone = committed(game, point[None])
    best = exact.best_response(game.model(alone.design), alone.policy)
    seen = play(
        game,
        alone,
        TabularResponse(best.policy, best),
        streams=batches * streams,
        steps=steps,
        generators=[np.random.default_rng([seed, 3])],
    )
    return seen.map(lambda part: part.view(batches, streams, -1))


def sampled(
    game: Game, point: Tensor, *, batches: int, streams: int, steps: int, seed: int = 0
) -> Sample:
    """Whole episodes: two of `steps` steps a stream, or the first one in a game that ends."""
    rested = game if isinstance(game, Rested) else Rested(game)
    rested.horizon = steps
    point = rested.extend(point)
    ends = rested.model(point[None] if game.leader_moves == "once" else None).ending is not None
    seen = batches_of_play(
        rested,
        point,
        batches=batches,
        streams=streams,
        steps=steps if ends else 2 * steps,
        seed=seed,
    )
    return with_true_critics(
        rested, point, first_episodes(seen, rested.states - 1) if ends else seen
    )


# ---------------------------------------------------------------- where estimators are compared


def toy_case(close: float, bonus: float = 1.0) -> tuple[Game, Tensor]:
    point = torch.zeros(3, 2, dtype=torch.float64)
    point[discrete_toy.A, discrete_toy.CLOSE] = np.log(close / (1 - close))
    return discrete_toy.game(bonus), point


def accuracy_case(kind: str, seed: int) -> tuple[Game, Tensor]:
    """A random game with discounts of 0.9 and more, and a point in it.

    Args:
        kind: "observing", "blind", "design", "moving design" (which moves the transition, too) or
            "ending" (as "observing", in short episodes); all others never end.
    """
    rng = np.random.default_rng([seed, 7])
    recipe = Recipe(
        seed=seed,
        states=int(rng.integers(2, 7)),
        leader_actions=int(rng.integers(2, 4)),
        follower_actions=int(rng.integers(2, 4)),
        transitions=("dirichlet", "sparse", "deterministic")[seed % 3],
        termination="anywhere" if kind == "ending" else "never",
        leader_discount=float(rng.choice([0.9, 0.95, 0.99])),
        follower_discount=float(rng.choice([0.9, 0.95, 0.99])),
        temperature=float(rng.choice([0.1, 0.3, 1.0])),
        observes=kind != "blind",
        moves_transition=kind == "moving design",
    )
    if kind.endswith("design"):
        game = random_design_game(recipe)
        return game, random_designs(game, 1, seed)[0]
    point = rng.normal(size=(recipe.states, recipe.leader_actions))
    return random_game(recipe), torch.from_numpy(point)


# ---------------------------------------------------------------- every path of a short game


LAYERS, WIDTH, ACTIONS = 3, 2, 2


def layered_game(kind: str, seed: int = 0) -> tuple[Rested, Tensor]:
    """A game that surely ends, and a point in it, short enough to list all that can happen.

    Play goes from layer to layer and ends with the last one, if not by chance before.

    Args:
        kind: "observing", "blind" or "design"; the design moves rewards, transitions and starts.
    """
    rng = np.random.default_rng([seed, 5])
    states = LAYERS * WIDTH
    shape = (states, ACTIONS, states) if kind == "design" else (states, ACTIONS, ACTIONS, states)
    layer = np.arange(states) // WIDTH
    kernel = rng.dirichlet(np.ones(states), shape[:-1])
    kernel *= (layer == layer.reshape(-1, *[1] * (len(shape) - 1)) + 1).astype(float)
    kernel[-WIDTH:, ..., 0] = 1.0
    kernel /= kernel.sum(-1, keepdims=True)
    stop = 0.5 * rng.random(shape)
    stop[-WIDTH:] = 1.0
    first = np.where(layer == 0, rng.random(states), 0.0)
    settings = {"leader_discount": 0.9, "follower_discount": 0.6, "temperature": 0.3}
    leader_reward, follower_reward = rng.normal(size=(2, *shape[:-1]))
    if kind != "design":
        game = TabularGame(
            kernel,
            leader_reward,
            follower_reward,
            first / first.sum(),
            stop,
            follower_observes_action=kind == "observing",
            **settings,
        )
        rested = Rested(game)
        return rested, rested.extend(torch.from_numpy(rng.normal(size=(states, ACTIONS))))

    def moved(base: np.ndarray) -> Callable[[Tensor], Tensor]:
        slope = torch.from_numpy(rng.normal(size=(3, *base.shape)))
        return lambda x: torch.from_numpy(base) + torch.tensordot(x.to(slope), slope, 1)

    with np.errstate(divide="ignore"):
        logits, start = moved(np.log(kernel)), moved(np.log(first))
    design = TabularDesign(
        spaces.Box(-1.0, 1.0, (3,), np.float64),
        lambda x: torch.softmax(logits(x), -1),
        moved(leader_reward),
        moved(follower_reward),
        termination=stop,
        **settings,
    )
    return Rested(design, start), torch.from_numpy(rng.uniform(-1, 1, 3))


@dataclass(frozen=True, kw_only=True)
class Paths:
    """Every way that a game can be played, with its probability."""

    model: TabularModel
    policy: Tensor  # [1, S, A]
    chance: np.ndarray  # [n]
    steps: list[list[tuple[int, int, int]]]  # (s, a, b) up to the ending
    trajectories: Trajectories  # [n, 1, T], in the state of rest after the ending

    def mean(self, values: np.ndarray) -> np.ndarray:
        """The expectation of values [n, ...]."""
        return np.tensordot(self.chance, values, 1)


def paths_of(game: Rested, point: Tensor) -> Paths:
    """All paths of a layered game against the exact best response."""
    alone = committed(game, point[None])
    model = game.model(alone.design)
    best = exact.best_response(model, alone.policy)
    full = (1, model.states, model.leader_actions, model.follower_actions, model.states)
    weight = (alone.policy.unsqueeze(-1) * best.policy).numpy()[0]
    kinds = [
        weight[..., None] * part.expand(full)[0].numpy()
        for part in (model.transition, model.ending)
    ]
    whole: list[tuple[float, list[tuple[int, int, int, int]]]] = []
    start = model.initial.expand(1, -1)[0].numpy()
    going = [(start[s], s, []) for s in np.flatnonzero(start)]
    while going:
        chance, s, past = going.pop()
        for a, b, t in np.argwhere(kinds[0][s] > 0):
            going.append((chance * kinds[0][s, a, b, t], t, [*past, (s, a, b, t)]))
        for a, b, t in np.argwhere(kinds[1][s] > 0):
            whole.append((chance * kinds[1][s, a, b, t], [*past, (s, a, b, t)]))
    rest = game.states - 1
    table = np.full((len(whole), 1, LAYERS, 4), (rest, 0, 0, rest))
    over = np.zeros(table.shape[:-1], dtype=bool)
    for i, (_, steps) in enumerate(whole):
        table[i, 0, : len(steps)] = steps
        over[i, 0, len(steps) - 1] = True
    s, a, b, t = torch.from_numpy(table).unbind(-1)
    seen = Trajectories(
        state=s,
        leader_action=a,
        follower_action=b,
        leader_reward=model.leader_reward.expand(full[:-1])[0, s, a, b],
        follower_reward=model.follower_reward.expand(full[:-1])[0, s, a, b],
        next_state=t,
        terminated=torch.from_numpy(over),
        time=torch.arange(LAYERS).expand(s.shape),
    )
    return Paths(
        model=model,
        policy=alone.policy,
        chance=np.array([chance for chance, _ in whole]),
        steps=[[step[:3] for step in steps] for _, steps in whole],
        trajectories=seen,
    )


def listed(kind: str, seed: int) -> tuple[Sample, np.ndarray]:
    """A sample in which batch i is path i, and the paths' probabilities."""
    game, point = layered_game(kind, seed)
    paths = paths_of(game, point)
    return with_true_critics(game, point, paths.trajectories), paths.chance


def start_term(sample: Sample) -> Tensor:
    """[M] what a design that moves the first state adds: log mu(s_0) V_L(s_0) at each start."""
    seen, value = sample.evidence.trajectories, sample.evidence.critics.leader_state_value
    initial = sample.evidence.game.model(sample.commitment.design).initial
    m = torch.arange(len(value))[:, None, None]
    begun = seen.time == 0
    chance = torch.where(begun, initial.expand(value.shape)[m, seen.state], 1.0)
    paid = chance.log() * value[m, seen.state] * begun
    return paid.sum((1, 2)) / seen.episodes


def start_mover(game: TabularDesign, seed: int) -> Callable[[Tensor], Tensor]:
    """Logits of the first state that depend on the design."""
    rng = np.random.default_rng([seed, 4])
    slope = torch.from_numpy(rng.normal(size=(game.leader_space.shape[0], game.states)))
    return lambda design: design @ slope
