"""The leader's optimum in a tabular game, by exact ascent from many restarts in one batch."""

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

from stackelberg import exact, hypergradient
from stackelberg.game import Game
from stackelberg.trust_region import TrustRegion, scale
from stackelberg.types import Leader, commit, everywhere

SPREAD = 0.01, 4.0  # factors on the leader's initial parameters, from the first restart to the last
WARM = 10.0  # how much warmer than the follower's own temperature a climb starts
FINISHED = 4  # restarts that L-BFGS brings to the top of their hills
RATE = 0.3  # Adam's first step
SAME = 1e-4  # relative difference below which two restarts have reached the same value


@dataclass(frozen=True)
class Solution:
    """The best that a search has found.

    `values` holds every restart's final value, best first.
    """

    value: float
    parameters: list[Any]  # the policy f(a|s) [S, A], or the design [d]
    values: list[float]

    @property
    def reached_by(self) -> int:
        """How many restarts ended within `SAME` of the best."""
        return sum(v >= self.value - SAME * max(1.0, abs(self.value)) for v in self.values)


class _Ascent:
    """Exact objective and hypergradient of M leaders, warm-started from call to call."""

    def __init__(self, game: Game, leader: Leader) -> None:
        self.game, self.leader = game, leader
        self.parameters = list(leader.parameters())
        self.start: Tensor | None = None

    def __call__(self, warmth: float = 1.0) -> tuple[Tensor, tuple[Tensor, ...]]:
        """J [M] and its gradient, with the follower's temperature `warmth` times its own."""
        commitment = commit(self.game, self.leader)
        model = self.game.model(commitment.design)
        model = replace(model, temperature=model.temperature * warmth)
        policy = commitment.policy.detach()
        best = exact.best_response(model.detach(), policy, self.start)
        self.start = best.state_value
        critics = hypergradient.tabular_critics(model.detach(), policy, best)
        surrogate = hypergradient.direct_surrogate(critics, model, commitment.policy)
        surrogate = surrogate + hypergradient.indirect_surrogate(critics, model, commitment.policy)
        value = (model.initial.detach() * critics.leader_state_value).sum(-1)
        return value, torch.autograd.grad(surrogate.sum(), self.parameters)


class _Best:
    """The best parameters that each restart has had, and their values."""

    def __init__(self, leader: Leader) -> None:
        self.parameters = list(leader.parameters())
        self.kept = [p.detach().clone() for p in self.parameters]
        self.value = torch.full((leader.count,), -torch.inf, dtype=torch.float64)

    @torch.no_grad()
    def keep(self, value: Tensor) -> None:
        """Remember the present parameters where `value` [M] is the best so far."""
        better = value > self.value
        self.value = torch.where(better, value, self.value)
        for kept, p in zip(self.kept, self.parameters, strict=True):
            kept[better] = p[better]

    @torch.no_grad()
    def replace(self, restart: int, value: float, parameters: Sequence[Tensor]) -> None:
        """Take over one restart's parameters [1, ...] if they are better."""
        if value > self.value[restart]:
            self.value[restart] = value
            for kept, p in zip(self.kept, parameters, strict=True):
                kept[restart] = p[0]

    @torch.no_grad()
    def restore(self) -> None:
        """Put the best parameters back."""
        for kept, p in zip(self.kept, self.parameters, strict=True):
            p.copy_(kept)


def solve(
    game: Game,
    leader: Leader,
    steps: int = 200,
    polish: int = 100,
    report: Callable[[int, int, float], None] = lambda step, total, value: None,
    start: Sequence[Tensor] | None = None,
) -> Solution:
    """Maximise the exact objective from `leader.count` restarts.

    Every restart climbs twice, once on the objective itself and once from ten times the follower's
    temperature, which smooths the landscape, cooling down to its own. It climbs by Adam, whose
    steps do not shrink where the objective is flat; its best point is then polished by trust-region
    steps, the best few by L-BFGS. Not a proof of optimality unless the objective is unimodal:
    `reached_by` says how many restarts agree.

    Args:
        game: tabular. leader: one row per restart, initialised N(0, 1); changed in place.
        steps: of each climb. polish: steps of the polishing.
        report: called with the step, the number of all steps and the best value so far.
        start: parameters of one leader, from which the first restart climbs as they are.

    Raises:
        InputError: if the game has no tables.
    """
    game.require_tables()
    best = _Best(leader)
    _widen(leader)
    if start is not None:
        _place(leader, start)
    total = 2 * steps + polish
    first = [p.detach().clone() for p in leader.parameters()]
    for climb, warmth in enumerate((1.0, WARM)):
        with torch.no_grad():
            for p, origin in zip(leader.parameters(), first, strict=True):
                p.copy_(origin)
        for step in _climb(_Ascent(game, leader), best, steps, warmth):
            report(climb * steps + step, total, best.value.max().item())
    best.restore()
    for step in _polish(_Ascent(game, leader), best, polish):
        report(2 * steps + step, total, best.value.max().item())
    for restart in best.value.argsort(descending=True)[:FINISHED].tolist():
        best.replace(restart, *_finish(game, leader, best, restart))
    best.restore()
    with torch.no_grad():
        found = commit(game, leader)
    rows = found.policy if found.design is None else found.design
    order = best.value.argsort(descending=True)
    return Solution(
        best.value[order[0]].item(), rows[order[0]].tolist(), best.value[order].tolist()
    )


@torch.no_grad()
def _widen(leader: Leader) -> None:
    """Scale the restarts' parameters by factors from SPREAD."""
    low, high = (math.log(factor) for factor in SPREAD)
    factors = torch.linspace(low, high, leader.count, dtype=torch.float64).exp()
    for p in leader.parameters():
        p.copy_(scale(p, factors))


@torch.no_grad()
def _place(leader: Leader, start: Sequence[Tensor]) -> None:
    """Put one leader's parameters in the place of the first restart."""
    for p, row in zip(leader.parameters(), start, strict=True):
        p[0] = row


def _climb(ascent: _Ascent, best: _Best, steps: int, warmth: float) -> Iterator[int]:
    """Adam on the exact objective, at the follower's own temperature from half-time on."""
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
        yield step


def _polish(ascent: _Ascent, best: _Best, steps: int) -> Iterator[int]:
    """Trust-region steps along the exact hypergradient, whose radius settles to the optimum."""
    region = TrustRegion(ascent.parameters, 1e-4, 0.3, ascent.leader.rows)
    observed = everywhere(ascent.game)
    for step in range(steps):
        value, gradient = ascent()
        best.keep(value)
        region.step(gradient, lambda: ascent.leader.position(observed))
        yield step
    best.keep(ascent()[0])


def _finish(game: Game, leader: Leader, best: _Best, restart: int) -> tuple[float, list[Tensor]]:
    """One restart's best parameters, improved by L-BFGS, and their value."""
    alone = copy.deepcopy(leader)
    alone.count = 1
    for p, kept in zip(alone.parameters(), best.kept, strict=True):
        p.data = kept[[restart]].clone()
    ascent = _Ascent(game, alone)

    def downhill(x: np.ndarray) -> tuple[float, np.ndarray]:
        vector_to_parameters(torch.from_numpy(x).to(ascent.parameters[0]), ascent.parameters)
        value, gradient = ascent()
        return -value.item(), -parameters_to_vector(gradient).double().numpy()

    start = parameters_to_vector(ascent.parameters).detach().double().numpy()
    options = {"maxiter": 200, "ftol": 1e-15, "gtol": 1e-10}
    found = optimize.minimize(downhill, start, jac=True, method="L-BFGS-B", options=options)
    value = -downhill(found.x)[0]
    return value, [p.detach() for p in ascent.parameters]
