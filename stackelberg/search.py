"""Global search of the leader's optimum on a model, the true one or one that was learned.

Many starting points climb at once; then the best of them are recombined and climb again. A climb
finds the top of its hill; recombining finds hills that no start was on, because what one leader has
got right in one state, or with one part of a design, goes with what another has got right elsewhere
(a memetic algorithm; Moscato, 1989).
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy import optimize
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from stackelberg import exact, hypergradient, linear
from stackelberg.errors import InputError
from stackelberg.game import Game
from stackelberg.linear_model import LinearModel, linear_policy
from stackelberg.model import TabularModel
from stackelberg.oracle import require_maximum, require_oracle, rows_of
from stackelberg.process import single_thread
from stackelberg.trust_region import TrustRegion, geometry_of, scale
from stackelberg.types import Commitment, Leader, commit, everywhere

SPREAD = 0.01, 8.0  # factors on N(0, 1) parameters, from the first start to the last
WARM = 10.0  # how much warmer than the follower's own temperature a climb starts, or wider a bump
RATE = 0.3  # Adam's first step
CLOSE = 1e-5  # to which a climb knows the players' values
ELITE = 12  # of a population, from which the next generation is made
GENERATIONS = 6  # that a population lives through
POPULATIONS = 2  # that recombine apart from each other
FIRST = 0.01  # length of a quasi-Newton climb's first step
FINISHED = 3  # leaders of a population that L-BFGS brings to the top of their hills
ALIKE = 0.01  # largest difference of a probability between leaders that move alike
SAME = 1e-4  # relative difference below which two searches have reached the same value

Model = Callable[[Commitment], TabularModel | LinearModel]  # what commitments make of the game


@dataclass(frozen=True)
class Solution:
    """The best that a search has found.

    `values` holds what every restart reached alone, best first: the spread of the local optima.
    `populations` holds what each population reached by recombining; empty where more than half of
    the restarts had agreed before.
    """

    value: float
    parameters: list[Any]  # what stands for the leader in `stackelberg.oracle.rows_of`
    values: list[float]
    populations: list[float]

    @property
    def reached_by(self) -> int:
        """How many searches ended within `SAME` of the best: restarts alone, and populations."""
        return sum(_reaches(v, self.value) for v in [*self.values, *self.populations])


def _reaches(value: float, best: float) -> bool:
    return value >= best - SAME * max(1.0, abs(best))


class Elite:
    """The best leaders so far, best first: rows of tables, and their values.

    Args:
        size: how many are kept.
    """

    def __init__(self, size: int = ELITE) -> None:
        self.size = size
        self.tables: list[Tensor] = []  # [E, ...], the leaders' parameters first
        self.moves = torch.empty(0, dtype=torch.float64)  # [E, n], see `moves_of`
        self.value = torch.empty(0, dtype=torch.float64)

    def add(self, tables: Sequence[Tensor], moves: Tensor, value: Tensor) -> None:
        """Take in leaders with values [K]; of those alike in moves and value stays one."""
        if self.tables:
            tables = [torch.cat(pair) for pair in zip(self.tables, tables, strict=True)]
            moves, value = torch.cat([self.moves, moves]), torch.cat([self.value, value])
        best: list[int] = []
        for i in value.argsort(descending=True, stable=True).tolist():
            alike = (moves[best] - moves[i]).abs().amax(-1) < ALIKE
            if not any(_reaches(value[i].item(), v) for v in value[best][alike].tolist()):
                best.append(i)
            if len(best) == self.size:
                break
        self.tables = [table[best] for table in tables]
        self.moves, self.value = moves[best], value[best]

    def offspring(self, parameters: int, count: int, noise: np.random.Generator) -> list[Tensor]:
        """`count` new starting points [count, ...] from the first `parameters` tables.

        In turn two with every entry from one of two parents (the better a leader, the likelier a
        parent), one parent with noise, and one flattened, which is less sure of itself.
        """
        ranks = noise.exponential(self.size / 4, (2, count)).astype(int)
        first, second = torch.from_numpy(ranks.clip(max=len(self.value) - 1))
        kind = torch.arange(count) % 4
        strength = torch.from_numpy(noise.choice([0.5, 1.0, 2.0, 4.0], count)) * (kind == 2)
        flat = torch.from_numpy(noise.choice([0.3, 0.5, 0.7], count))
        flat = torch.where(kind == 3, flat, 1.0)
        born = []
        for table in self.tables[:parameters]:
            one, other = table[first], table[second]
            taken = torch.from_numpy(noise.random(one.shape) < 0.5)
            taken[kind >= 2] = False
            moved = scale(torch.from_numpy(noise.normal(size=one.shape)), strength)
            born.append(scale(torch.where(taken, other, one), flat) + moved.to(one))
        return born


def scatter(parameters: Sequence[Tensor]) -> list[Tensor]:
    """Parameters [K, ...] of N(0, 1), scaled from nearly 0 to nearly deterministic leaders."""
    low, high = (math.log(factor) for factor in SPREAD)
    factors = torch.linspace(low, high, len(parameters[0]), dtype=torch.float64).exp()
    return [scale(p.detach(), factors.to(p)) for p in parameters]


@torch.no_grad()
def place(leader: Leader, parameters: Sequence[Tensor]) -> None:
    """Give the leaders these parameters [K, ...]."""
    for p, given in zip(leader.parameters(), parameters, strict=True):
        p.copy_(given)


def replicate(leader: Leader, parameters: Sequence[Tensor]) -> Leader:
    """As many leaders of the same kind as there are rows of parameters [K, ...]."""
    many = copy.deepcopy(leader)
    many.count = len(parameters[0])
    for p, given in zip(many.parameters(), parameters, strict=True):
        p.data = given.to(p.dtype).clone()
    return many


def landmarks(game: Game) -> Tensor:
    """Observations that tell all of a leader: every state, or of linear ones 0 and the units."""
    if not game.linear:
        return everywhere(game)
    states = game.observation_space.shape[0]
    return torch.cat([torch.zeros(1, states), torch.eye(states)])


@torch.no_grad()
def moves_of(game: Game, leader: Leader) -> Tensor:
    """How K leaders move: probabilities, shares of their designs, or gains, [K, n]."""
    if game.linear:
        return rows_of(commit(game, leader)).flatten(1)
    return leader.position(everywhere(game)).exp().flatten(1)


class _Ascent:
    """Objective and hypergradient of K leaders on a model, warm-started from call to call."""

    def __init__(self, game: Game, leader: Leader, model: Model, tolerance: float = 1e-8) -> None:
        self.game, self.leader, self.model, self.tolerance = game, leader, model, tolerance
        self.parameters = list(leader.parameters())
        self.start: Tensor | None = None

    def __call__(self, warmth: float = 1.0) -> tuple[Tensor, tuple[Tensor, ...]]:
        """J [K] and its gradient on a landscape that warmth > 1 smooths.

        In tables the follower's temperature is `warmth` times its own, in matrices the bump as much
        wider.
        """
        commitment = commit(self.game, self.leader)
        model = self.model(commitment)
        if isinstance(model, LinearModel):
            value, surrogate = self._linear(model, commitment, warmth)
        else:
            value, surrogate = self._tabular(model, commitment, warmth)
        return value, torch.autograd.grad(surrogate.sum(), self.parameters)

    def _linear(
        self, model: LinearModel, commitment: Commitment, warmth: float
    ) -> tuple[Tensor, Tensor]:
        if model.bump is not None:
            model = replace(model, bump=model.bump / warmth)
        policy = linear_policy(self.leader.count, model.states, commitment.box)
        best = linear.best_response(model, policy, self.start)
        self.start = best.state_value.detach()
        value = linear.leader_return(model, policy, best.answer, negligible=self.tolerance)
        value = torch.where(best.solved, value, -torch.inf)
        return value.detach(), value

    def _tabular(
        self, model: TabularModel, commitment: Commitment, warmth: float
    ) -> tuple[Tensor, Tensor]:
        model = replace(model, temperature=model.temperature * warmth)
        known, policy = model.detach(), commitment.policy.detach()
        best = exact.best_response(known, policy, self.start, self.tolerance)
        self.start = best.state_value
        critics = hypergradient.tabular_critics(known, policy, best)
        direct, indirect = hypergradient.surrogates(critics, model, commitment.policy)
        return critics.objective, direct + indirect


class Best:
    """The best parameters that each of K leaders has had, and their values [K]."""

    def __init__(self, leader: Leader) -> None:
        self.leader = leader
        self.parameters = [p.detach().clone() for p in leader.parameters()]
        self.value = torch.full((leader.count,), -torch.inf, dtype=torch.float64)

    @torch.no_grad()
    def keep(self, value: Tensor) -> None:
        """Remember the leaders as they are now where `value` [K] is the best so far."""
        better = value > self.value
        self.value = torch.where(better, value, self.value)
        for kept, p in zip(self.parameters, self.leader.parameters(), strict=True):
            kept[better] = p[better]


def climb(
    game: Game, leader: Leader, model: Model, best: Best, steps: int, warmth: float = 1.0
) -> Iterator[None]:
    """Adam on the objective, whose steps do not shrink where it is flat; yields after every step.

    Args:
        leader: K leaders, changed in place; `best` keeps their best.
        warmth: at the start, see `_Ascent`; it has come down to 1 at half-time.
    """
    ascent = _Ascent(game, leader, model, CLOSE)
    adam = torch.optim.Adam(ascent.parameters, betas=(0.9, 0.99), eps=1e-30)
    for step in range(steps):
        warm = max(1.0, warmth ** (1 - 2 * step / steps))
        value, gradient = ascent(warm)
        if warm == 1.0:
            best.keep(value)
        for p, g in zip(ascent.parameters, gradient, strict=True):
            p.grad = -g
        adam.param_groups[0]["lr"] = RATE * (1.01 - step / steps)
        adam.step()
        yield
    place(leader, best.parameters)


@single_thread()
def solve(
    game: Game,
    leader: Leader,
    steps: int = 100,
    polish: int = 60,
    report: Callable[[int, int, float], None] = lambda step, total, value: None,
    start: Sequence[Tensor] | None = None,
    seed: int = 0,
) -> Solution:
    """Maximise the exact objective from `leader.count` restarts.

    Every restart climbs twice, once on the objective itself and once from ten times the follower's
    temperature (or a bump ten times as wide); its best point is polished by trust-region steps, in
    matrices by BFGS as well, the best few by L-BFGS. Unless more than half of the restarts agree by
    then, two populations, apart from each other, recombine what the first climbs have found and
    climb again. Not a proof of optimality unless the objective is unimodal: `reached_by` says how
    many searches ended at the same value.

    Args:
        game: tabular, or linear-quadratic.
        leader: one row per restart, initialised N(0, 1); left at the restarts' best.
        steps: of each of a restart's two climbs. polish: steps of the polishing.
        report: called with the step, the number of all steps and the best value so far.
        start: parameters [...] of one leader, from which the first restart climbs as they are.
        seed: of the recombinations.

    Raises:
        InputError: if the game has neither tables nor matrices, if the objective is found to grow
            without end, or if no restart has a finite value.
    """
    require_oracle(game)
    require_maximum(game)
    count = leader.count
    shorter = max(1, steps // 2)  # the climbs of those who do not start from nothing
    polishing = polish * (2 if game.linear else 1)
    done, total = 0, 2 * steps + polishing + POPULATIONS * GENERATIONS * shorter
    top = -math.inf

    def watch(climbing: Iterator[None], best: Best) -> None:
        nonlocal done, top
        for _ in climbing:
            top = max(top, best.value.max().item())
            report(done, total, top)
            done += 1

    first = scatter(list(leader.parameters()))
    if start is not None:
        for table, given in zip(first, start, strict=True):
            table[0] = given
    alone = Best(leader)
    elites = [Elite() for _ in range(min(POPULATIONS, count))]
    for warmth in (1.0, WARM):
        place(leader, first)
        watch(climb(game, leader, true_model(game), alone, steps, warmth), alone)
        if warmth == 1.0:  # where the hills that are climbed are not yet few
            for i, elite in enumerate(elites):
                elite.add(*_found(game, leader, alone.value, slice(i, None, POPULATIONS)))
    watch(_polish(game, leader, alone, polish), alone)
    if game.linear:
        watch(_quasi_newton(game, leader, alone, polish), alone)
    single = Elite()
    single.add(*_found(game, leader, alone.value))
    _finish(game, leader, single)
    best = single.value[0].item()
    if not math.isfinite(best):
        raise InputError(
            "a leader from which to start, against which both players' returns are finite",
            f"none in {count} restarts",
            "try more restarts, or smaller discounts or steps of the state",
        )
    disagree = sum(_reaches(value, best) for value in alone.value.tolist()) <= count // 2
    noise = np.random.default_rng(seed)
    for elite in elites * disagree:
        for _ in range(GENERATIONS):
            family = replicate(leader, elite.offspring(len(first), -(-count // POPULATIONS), noise))
            found = Best(family)
            watch(climb(game, family, true_model(game), found, shorter), found)
            elite.add(*_found(game, family, found.value))
        _finish(game, leader, elite)
    winner = max([single, *elites * disagree], key=lambda elite: elite.value[0].item())
    with torch.no_grad():
        chosen = commit(game, replicate(leader, [table[:1] for table in winner.tables]))
    return Solution(
        value=winner.value[0].item(),
        parameters=rows_of(chosen)[0].tolist(),
        values=alone.value.sort(descending=True).values.tolist(),
        populations=[elite.value[0].item() for elite in elites * disagree],
    )


def true_model(game: Game) -> Model:
    """What commitments make of the game itself."""
    made = game.matrices if game.linear else game.model
    return lambda commitment: made(commitment.design)


def _polish(game: Game, leader: Leader, best: Best, steps: int) -> Iterator[None]:
    """Trust-region steps along the exact hypergradient, whose radius settles to the optimum."""
    ascent = _Ascent(game, leader, true_model(game))
    region = TrustRegion(ascent.parameters, 1e-4, 0.3, leader.rows, geometry_of(leader))
    observed = landmarks(game)
    for _ in range(steps):
        value, gradient = ascent()
        best.keep(value)
        region.step(gradient, lambda: leader.position(observed))
        yield
    best.keep(ascent()[0])
    place(leader, best.parameters)


def _quasi_newton(game: Game, leader: Leader, best: Best, steps: int) -> Iterator[None]:
    """BFGS of K leaders side by side, one evaluation a step; for few parameters and narrow ridges.

    A step that does not lead up is taken back and shortened; the curvature on its way counts.
    """
    ascent = _Ascent(game, leader, true_model(game))
    shapes = [p.shape for p in ascent.parameters]
    sizes = [shape[1:].numel() for shape in shapes]

    def at(point: Tensor) -> tuple[Tensor, Tensor]:
        parts = [x.view(s) for x, s in zip(point.split(sizes, 1), shapes, strict=True)]
        place(leader, parts)
        value, gradient = ascent()
        best.keep(value)
        return value, torch.cat([g.double().flatten(1) for g in gradient], 1)

    point = torch.cat([p.detach().double().flatten(1) for p in ascent.parameters], 1)
    value, slope = at(point)
    size = slope.norm(dim=1).clamp(min=1e-300)
    eye = torch.eye(point.shape[1], dtype=torch.float64)
    inverse = eye * (FIRST / size)[:, None, None]  # of the curvature, which is taken for negative
    length = torch.ones_like(value)
    for _ in range(steps):
        way = length[:, None] * (inverse @ slope[..., None]).squeeze(-1)
        found, new = at(point + way)
        bent = slope - new
        curved = (way * bent).sum(1)
        sound = (curved > 1e-12 * way.norm(dim=1) * bent.norm(dim=1)) & found.isfinite()
        weight = torch.where(sound, 1 / torch.where(sound, curved, 1.0), 0.0)[:, None, None]
        keep = eye - weight * way[:, :, None] * bent[:, None, :]
        inverse = keep @ inverse @ keep.mT + weight * way[:, :, None] * way[:, None, :]
        better = found > value
        point = torch.where(better[:, None], point + way, point)
        slope = torch.where(better[:, None], new, slope)
        value = torch.where(better, found, value)
        length = torch.where(better, (2 * length).clamp(max=1.0), length / 4)
        length = torch.where(sound, length.clamp(min=0.25), length)
        yield
    place(leader, best.parameters)


def _finish(game: Game, leader: Leader, elite: Elite) -> None:
    """L-BFGS from the best few."""
    few = [table[:FINISHED] for table in elite.tables]
    for i in range(len(few[0])):
        alone = replicate(leader, [table[i : i + 1] for table in few])
        ascent = _Ascent(game, alone, true_model(game))

        def downhill(x: np.ndarray, ascent: _Ascent = ascent) -> tuple[float, np.ndarray]:
            vector_to_parameters(torch.from_numpy(x).to(ascent.parameters[0]), ascent.parameters)
            value, gradient = ascent()
            return -value.item(), -parameters_to_vector(gradient).double().numpy()

        start = parameters_to_vector(ascent.parameters).detach().double().numpy()
        options = {"maxiter": 200, "ftol": 1e-15, "gtol": 1e-10}
        found = optimize.minimize(downhill, start, jac=True, method="L-BFGS-B", options=options)
        value = torch.tensor([-downhill(found.x)[0]], dtype=torch.float64)
        elite.add(*_found(game, alone, value))


def _found(
    game: Game, leader: Leader, value: Tensor, rows: slice = slice(None)
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Leaders as an elite takes them in."""
    parameters = [p.detach()[rows].clone() for p in leader.parameters()]
    return parameters, moves_of(game, leader)[rows], value[rows]
