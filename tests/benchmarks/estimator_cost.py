"""What every hypergradient estimator costs, beside a plain policy gradient on the same batch.

Critics are given. Every group is timed by turns, on one thread; medians are reported. A plain
step is the commitment, the surrogate of the leader's own gradient, `Signals.direct`, and a backward
pass; an estimator's is the commitment, the sum of its two surrogates, and one backward pass. (The
coordinator, which also reports how long the two parts are, differentiates them one by one.)

*Policies*: a network that is evaluated at every step of the batch, each with an observation of its
own. *Designs*: both rewards move with d parameters, each through 8 of them ("local", as a penalty
on a cell) or through all ("dense"). `published_hpgd` is HPGD as it is published, with averages of
per-step gradient vectors: d numbers for every step of play.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from random_games import Free, Sample, batches_of_play, sample_of
from torch import Tensor

from agents.leaders import MLPCategorical
from games.tabular import TabularDesign
from stackelberg.access import ValueAccess
from stackelberg.estimators import ESTIMATORS, Estimator, Evidence
from stackelberg.estimators.signals import Signals
from stackelberg.hypergradient import Critics
from stackelberg.rollout import Trajectories
from stackelberg.types import Commitment, TabularResponse

HIDDEN = {100: (8,), 1000: (24, 24), 10_000: (96, 96), 100_000: (312, 312), 1_000_000: (1000, 1000)}
LENGTHS = (10, 100, 1000, 10_000)
INPUTS, LEADER_ACTIONS, FOLLOWER_ACTIONS = 8, 4, 3
OF_POLICIES = ("sampled-trace", "bc-hg", "hpgd-mc", "hpgd-sarsa")  # no model, no system to solve
OF_DESIGNS = (
    "expected-trace",
    "sampled-trace",
    "bc-hg",
    "hpgd-mc",
    "hpgd-td",
    "hpgd-sarsa",
    "sobirl",
    "sobirl-modified",
    "naive",
)
PLAIN, FORWARD, PUBLISHED = "plain policy gradient", "gradient-critic", "hpgd-sarsa, vectors"
MEMORY = 1.5e9  # bytes that the published form may take
COLUMNS = ("leader", "parameters", "steps", "estimator", "ms", "ratio")

Step = Callable[[], object]


def medians(*steps: Step, seconds: float, least: int = 5) -> list[float]:
    """Median seconds of each step, taken by turns for about `seconds` in all."""
    for step in steps:
        step()
    taken: list[list[float]] = [[] for _ in steps]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(taken[0]) < least:
        for step, times in zip(steps, taken, strict=True):
            start = time.perf_counter()
            step()
            times.append(time.perf_counter() - start)
    return [median(times) for times in taken]


def plain(evidence: Evidence, commitment: Commitment) -> tuple[Tensor, Tensor]:
    """The leader's own gradient from the sample."""
    signals = Signals(evidence, commitment)
    direct = signals.direct(signals.discounts)
    return direct, torch.zeros_like(direct)


# ---------------------------------------------------------------- policies


def batch(length: int) -> tuple[Tensor, Evidence]:
    """(observations [N T, d], evidence) in which every step of play is a state of its own."""
    streams = 3 if length <= 1000 else 1
    count, generator = streams * length, torch.Generator().manual_seed(0)
    shape = (1, streams, length)
    state = torch.arange(count).view(shape)

    def values(*inner: int) -> Tensor:
        return torch.randn(1, count, *inner, generator=generator, dtype=torch.float64)

    def actions(number: int) -> Tensor:
        return torch.randint(number, shape, generator=generator)

    seen = Trajectories(
        state=state,
        leader_action=actions(LEADER_ACTIONS),
        follower_action=actions(FOLLOWER_ACTIONS),
        leader_reward=values().view(shape),
        follower_reward=values().view(shape),
        next_state=(state + 1).clamp(max=count - 1),
        terminated=torch.zeros(shape, dtype=torch.bool),
        time=torch.arange(length).expand(shape),
    )
    rules = {"leader_discount": 0.99, "follower_discount": 0.95, "temperature": 0.05}
    tables = dict.fromkeys(Critics._fields, torch.zeros(1, dtype=torch.float64))
    tables |= {name: values(LEADER_ACTIONS) for name in ("leader_value", "follower_value")}
    tables |= {name: values() for name in ("leader_state_value", "follower_state_value")}
    tables |= {"benefit": values(LEADER_ACTIONS, FOLLOWER_ACTIONS)}
    evidence = Evidence(
        game=SimpleNamespace(  # type: ignore[arg-type]
            follower_observes_action=True, require_tables=lambda: None, **rules
        ),
        leader=None,  # type: ignore[arg-type]
        commitment=Commitment(values(LEADER_ACTIONS).softmax(-1), None),
        follower=ValueAccess(TabularResponse(tables["benefit"], None)),
        trajectories=seen,
        memory=SimpleNamespace(temperature=rules["temperature"]),  # type: ignore[arg-type]
        noise=[np.random.default_rng(0)],
    )
    evidence.__dict__["critics"] = Critics(**tables)
    return torch.randn(count, INPUTS, generator=generator), evidence


def cost(
    hidden: tuple[int, ...], length: int, seconds: float, names: Sequence[str] = ("sampled-trace",)
) -> list[float]:
    """Seconds of a policy-gradient step and of a step by each estimator on one batch."""
    leader = MLPCategorical(INPUTS, LEADER_ACTIONS, hidden)
    observation, evidence = batch(length)

    def step(estimate: Estimator) -> None:
        leader.zero_grad()
        commitment = Commitment(leader.log_policy(observation).exp(), None)
        sum(part.sum() for part in estimate(evidence, commitment)).backward()

    estimators = [plain, *(ESTIMATORS[name] for name in names)]
    return medians(*(partial(step, one) for one in estimators), seconds=seconds, least=2)


def policy_rows(parameters: int, length: int, seconds: float) -> list[dict[str, Any]]:
    found = cost(HIDDEN[parameters], length, seconds, OF_POLICIES)
    return rows("policy", parameters, length, (PLAIN, *OF_POLICIES), found)


def rows(
    leader: str, parameters: int, length: int, names: Sequence[str], found: Sequence[float]
) -> list[dict[str, Any]]:
    head = {"leader": leader, "parameters": parameters, "steps": length}
    return [
        head | {"estimator": name, "ms": 1e3 * taken, "ratio": taken / found[0]}
        for name, taken in zip(names, found, strict=True)
    ]


# ---------------------------------------------------------------- designs


def design_game(dimension: int, dense: bool, states: int = 8, actions: int = 3) -> TabularDesign:
    """Both rewards are linear in the design: through every parameter, or through 8 each."""
    rng = np.random.default_rng(0)
    cells = states * actions

    def reward() -> Callable[[Tensor], Tensor]:
        base = torch.from_numpy(rng.normal(size=(states, actions)))
        if dense:
            slope = torch.from_numpy(rng.normal(size=(dimension, cells)) / dimension**0.5)
            return lambda x: base + (x.to(slope) @ slope).view(-1, states, actions)
        weight = torch.from_numpy(rng.normal(size=(cells, 8)))
        index = torch.from_numpy(rng.integers(dimension, size=cells * 8))

        def local(x: Tensor) -> Tensor:
            read = x.gather(1, index.expand(len(x), -1)).view(-1, cells, 8)
            return base + (weight * read).sum(-1).view(-1, states, actions)

        return local

    return TabularDesign(
        spaces.Box(-1.0, 1.0, (dimension,), np.float64),
        rng.dirichlet(np.ones(states), (states, actions)),
        reward(),
        reward(),
        leader_discount=0.95,
        follower_discount=0.95,
        temperature=0.3,
    )


def design_sample(dimension: int, dense: bool, length: int) -> Sample:
    game = design_game(dimension, dense)
    point = torch.zeros(dimension, dtype=torch.float64)
    seen = batches_of_play(game, point, batches=1, streams=3, steps=length)
    return sample_of(game, Free(game, point[None].clone()), seen)


def published_hpgd(evidence: Evidence, commitment: Commitment) -> Tensor:
    """The indirect part of `hpgd_sarsa` [d] by averages of gradient vectors, for one leader.

    psi_k = grad r_F(s_k,b_k) and G_t = sum_{k>=t} gamma_F^{k-t} psi_k are vectors at every step,
    their means qhat_F(s,b) and vhat_F(s) vectors in every cell.
    """
    game, seen = evidence.game, evidence.trajectories
    model, design = game.model(commitment.design), commitment.design
    table = model.follower_reward[0, :, 0]  # [S, B]
    (slope,) = torch.autograd.grad(
        table.flatten(),
        design,
        torch.eye(table.numel(), dtype=table.dtype),
        is_grads_batched=True,
    )
    state = seen.state[0]
    cell = state * table.shape[1] + seen.follower_action[0]
    tail = slope[:, 0][cell]  # [N, T, d]
    for k in reversed(range(tail.shape[1] - 1)):
        tail[:, k] += game.follower_discount * tail[:, k + 1]

    def mean(where: Tensor, number: int) -> Tensor:
        total = torch.zeros(number, tail.shape[-1], dtype=tail.dtype)
        total.index_add_(0, where.flatten(), tail.flatten(0, 1))
        visits = torch.bincount(where.flatten(), minlength=number).clamp(min=1)
        return total / visits.unsqueeze(-1)

    baselined = mean(cell, table.numel())[cell] - mean(state, len(table))[state]
    signals = Signals(evidence, commitment)
    weight = signals.discounts * signals.benefits / game.temperature
    return torch.einsum("nt,ntd->d", weight[0], baselined) / seen.episodes


def design_rows(kind: str, dimension: int, length: int, seconds: float) -> list[dict[str, Any]]:
    """Every estimator's step, and the published form's where it fits into memory."""
    sample = design_sample(dimension, kind == "dense", length)
    evidence, leader = sample.evidence, sample.evidence.leader

    def step(estimate: Estimator) -> None:
        surrogate = sum(part.sum() for part in estimate(evidence, commitment()))
        torch.autograd.grad(surrogate, sample.leaf)

    def commitment() -> Commitment:
        return Commitment(evidence.commitment.policy, leader.design())  # type: ignore[attr-defined]

    def by_vectors() -> None:
        step(plain)
        published_hpgd(evidence, commitment())

    names, light = [PLAIN, *OF_DESIGNS], [plain, *(ESTIMATORS[name] for name in OF_DESIGNS)]
    found = medians(*(partial(step, one) for one in light), seconds=seconds, least=2)
    heavy: dict[str, Step] = {FORWARD: partial(step, ESTIMATORS[FORWARD])}
    if bytes_of_vectors(dimension, length) < MEMORY:
        heavy[PUBLISHED] = by_vectors
    for name, call in heavy.items():  # apart: what they allocate slows down what comes next
        names.append(name)
        found += medians(call, seconds=seconds / 4, least=1)
    return rows(f"{kind} design", dimension, length, names, found)


def bytes_of_vectors(dimension: int, length: int) -> float:
    """What the published form holds at once: tails, averages read at every step, a difference."""
    return 3 * 8.0 * 3 * length * dimension
