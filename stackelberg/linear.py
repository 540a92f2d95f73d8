"""Oracles on linear-quadratic games, in the matrices of `stackelberg.linear_model`.

With a leader a ~ N(gain y, diag(std^2)) all is closed under one step: values are quadratic forms of
y, the follower's soft best response is linear with Gaussian noise, and second moments of y obey a
linear recursion.

    G     = C_F + gamma_F F' X F                      q_F = -z' G z, X of the follower's mean value
    b     ~ N(-G_bb^-1 G_b(ya) (y, a), (beta / 2) G_bb^-1)              the soft best response
    V_F   = -(y, a)' [G_(ya)(ya) - G_(ya)b G_bb^-1 G_b(ya)] (y, a) + (beta / 2) log det(pi beta
            G_bb^-1)

All is batched over M leaders and differentiable. The gradient of X through the fixed point is that
of one evaluation at the fixed best response (the envelope theorem: no choice of the follower's own
can raise its value to first order), a linear system of (1 + n)^2 unknowns.

Source: maximum-entropy linear-quadratic control as in Kudo et al., arXiv:2603.14867; on discounted
Riccati equations, Bertsekas, Dynamic Programming and Optimal Control.
"""

import math
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stackelberg.linear_model import (
    FAR,
    LinearAnswer,
    LinearModel,
    LinearPolicy,
    Loop,
    are_near,
    close,
    constant_form,
    padded,
    radius,
)
from stackelberg.model import spread

SWEEPS = 2000  # of value iteration until a follower has its system in hand
WARY = 64  # sweeps at least where costs are not convex
NEWTON = 30  # Newton steps on the Riccati equation after that
EXACT = 1e-13  # relative change of the value at which they end
SETTLED = 1e-6  # relative change that they may end with
NEGLIGIBLE = 1e-12  # share of a discounted bump that is left when the sum over time ends


class LinearBest(NamedTuple):
    """The best answers, and what the followers make of them; 0 where there is none."""

    answer: LinearAnswer
    value: Tensor  # [M, 1 + n + k, 1 + n + k]: V_F(s,a) = -(y, a)' value (y, a)
    state_value: Tensor  # [M, 1 + n, 1 + n] X: E_a V_F(s,a) = -y' X y
    solved: Tensor  # [M] bool: there is a best response, and it was found


# ---------------------------------------------------------------- the follower


def best_response(
    model: LinearModel, policy: LinearPolicy, start: Tensor | None = None
) -> LinearBest:
    """The soft best response to M leaders, attached to model and policy.

    Value iteration until the follower has its system in hand, Newton steps (evaluations of what
    would be best against the last value) to rounding, one attached evaluation. Where the leader
    pays its follower for going astray, so that costs are no longer convex, the Riccati equation may
    have a solution although returns have no bound: there value iteration starts from 0 and has to
    stay convex in b, for `WARY` sweeps at least. Where there is no solution Newton steps do not
    settle.

    Args:
        start: X [M, 1 + n, 1 + n] to begin with, where costs are convex.

    Returns:
        The answers; where there is none `solved` is False, and all else is 0.
    """
    with torch.no_grad():
        still, moves = model.detach(), policy.detach()
        shape = len(policy.gain), model.states + 1, model.states + 1
        convex = _convex(still, moves)
        value = torch.zeros(shape, dtype=policy.gain.dtype)
        if start is not None:
            value = torch.where(convex.view(-1, 1, 1), start, value)
        solved, sound = torch.zeros_like(convex), torch.ones_like(convex)
        for sweep in range(SWEEPS):
            best = soft_response(still, moves, value)
            sound = sound & best.solved
            if sweep % 8 == 0 and (sweep >= WARY or convex.all()):
                loop = close(still, moves, best.answer)
                near = are_near(value) & are_near(loop.system) & sound
                solved = near & (still.follower_discount**0.5 * radius(loop) < 1)
                if (solved | ~near).all():
                    break
            value = best.state_value
        for _ in range(NEWTON):
            before = value
            value = _evaluated(still, moves, _kept(best, solved).answer)
            best = soft_response(still, moves, value)
            solved = solved & best.solved
            change = (value - before).abs().amax((1, 2))
            size = value.abs().amax((1, 2))
            if ((change <= EXACT * size) | ~solved).all():
                break
        solved = solved & (change <= SETTLED * size)  # else there is no solution to go to
        answer = _kept(best, solved).answer
    return _kept(soft_response(model, policy, _evaluated(model, policy, answer)), solved)


def _convex(model: LinearModel, policy: LinearPolicy) -> Tensor:
    """Is the follower's cost positive semidefinite in s and b, the leader in place? [M]."""
    eye = torch.eye(model.states + 1, dtype=policy.gain.dtype).expand(len(policy.gain), -1, -1)
    span = _stacked(torch.cat([eye, policy.gain], 1), model.follower_actions)
    cost = (span.mT @ model.follower_cost @ span)[:, 1:, 1:]
    near = are_near(cost)
    values = torch.linalg.eigvalsh(torch.where(near.view(-1, 1, 1), (cost + cost.mT) / 2, 0.0))
    return near & (values[:, 0] >= -1e-9 * values[:, -1].abs())


def _kept(best: LinearBest, solved: Tensor) -> LinearBest:
    """What is solved, 0 in place of the rest."""
    keep = solved.view(-1, 1, 1)
    answer = LinearAnswer(*(torch.where(keep, x, 0.0) for x in best.answer))
    value, state_value = (torch.where(keep, x, 0.0) for x in best[1:3])
    return LinearBest(answer, value, state_value, solved)


def action_value(model: LinearModel, state_value: Tensor) -> Tensor:
    """G of q_F(s,a,b) = -z' G z, [M, K, K], from X [M, 1 + n, 1 + n].

    What rounding makes of X beside its symmetric part would grow from sweep to sweep: it is left
    out.
    """
    step, discount = model.step, model.follower_discount
    state_value = (state_value + state_value.mT) / 2
    noise = (state_value[..., 1:, 1:] * model.noise).sum((-2, -1))
    cost = model.follower_cost + discount * step.mT @ state_value @ step
    return cost + discount * constant_form(noise, cost.shape[-1])


def soft_response(model: LinearModel, policy: LinearPolicy, state_value: Tensor) -> LinearBest:
    """What is best against X, and its value: one sweep of soft value iteration.

    Args:
        state_value: X [M, 1 + n, 1 + n].

    Returns:
        The answers; `solved` tells where the cost of b is positive definite, so that there is one.
    """
    cost, beta = action_value(model, state_value), model.temperature
    states, actions = model.states + 1, policy.gain.shape[1]
    eye = torch.eye(states, dtype=cost.dtype).expand(len(policy.gain), -1, -1)
    situation = torch.cat([eye, policy.gain], 1)  # [M, 1 + n + k, 1 + n]
    scatter = torch.diag_embed(policy.std.square())
    seen = states + actions if model.follower_observes_action else states
    if not model.follower_observes_action:
        blind = _stacked(situation, model.follower_actions)
        rest = (cost[:, states : states + actions, states : states + actions] * scatter).sum((1, 2))
        cost = blind.mT @ cost @ blind + constant_form(rest, blind.shape[-1])
    across, own = cost[:, seen:, :seen], cost[:, seen:, seen:]
    solid, factor = _definite(own)
    gain = -torch.cholesky_solve(across, factor)
    covariance = spread(beta, 2) / 2 * torch.cholesky_inverse(factor)
    sharp = factor.diagonal(dim1=1, dim2=2).log().sum(-1)  # log det own / 2
    single = torch.as_tensor(math.pi * beta, dtype=cost.dtype).log()
    freedom = beta * (own.shape[-1] / 2 * single - sharp)
    value = cost[:, :seen, :seen] + across.mT @ gain - constant_form(freedom, seen)
    if not model.follower_observes_action:
        state_value = value
        gain = torch.nn.functional.pad(gain, (0, actions))
        value = torch.nn.functional.pad(value, (0, actions, 0, actions))
    else:
        rest = (value[:, states:, states:] * scatter).sum((1, 2))
        state_value = situation.mT @ value @ situation + constant_form(rest, states)
    return LinearBest(LinearAnswer(gain, covariance), value, state_value, solid)


def sweep(
    model: LinearModel, policy: LinearPolicy, state_value: Tensor, sweeps: int, backups: int = 1
) -> Tensor:
    """X [M, 1 + n, 1 + n] after `sweeps` soft policy sweeps of `backups` backups each.

    A sweep fixes the answer that is best against X and backs X up under it `backups` times; with
    one backup this is soft value iteration.
    """
    for _ in range(sweeps):
        best = soft_response(model, policy, state_value)
        state_value = best.state_value  # the first backup under the fresh answer
        loop, size = close(model, policy, best.answer), model.states + 1
        bonus = model.temperature * _entropy(best.answer.covariance)
        for _ in range(backups - 1):
            cost = action_value(model, state_value)
            at_once = (cost * loop.scatter).sum((-2, -1)) - bonus
            state_value = loop.span.mT @ cost @ loop.span + constant_form(at_once, size)
    return state_value


def _definite(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Which of the matrices [M, m, m] are positive definite, and Cholesky factors (1 elsewhere)."""
    symmetric = (matrices + matrices.mT) / 2
    fits = are_near(symmetric)
    eye = torch.eye(matrices.shape[-1], dtype=matrices.dtype)
    safe = torch.where(fits.view(-1, 1, 1), symmetric, eye)
    failed = torch.linalg.cholesky_ex(safe.detach()).info != 0
    safe = torch.where(failed.view(-1, 1, 1), eye, safe)
    return fits & ~failed, torch.linalg.cholesky(safe)


def _stacked(situation: Tensor, follower_actions: int) -> Tensor:
    """(y, b) -> (y, E a, b)."""
    own = torch.eye(follower_actions, dtype=situation.dtype).expand(len(situation), -1, -1)
    left = torch.nn.functional.pad(situation, (0, 0, 0, follower_actions))
    right = torch.nn.functional.pad(own, (0, 0, situation.shape[1], 0))
    return torch.cat([left, right], -1)


def _evaluated(model: LinearModel, policy: LinearPolicy, answer: LinearAnswer) -> Tensor:
    """X of the follower's soft value if it goes on with an answer: [M, 1 + n, 1 + n].

    0 where that diverges.
    """
    entropy = _entropy(answer.covariance)
    return _form(
        close(model, policy, answer),
        model.follower_cost,
        model.follower_discount,
        -model.temperature * entropy,
    )


def _entropy(covariance: Tensor) -> Tensor:
    """Of N(., covariance), [M]; 0 where there is none."""
    solid, factor = _definite(covariance)
    log_det = 2 * factor.diagonal(dim1=1, dim2=2).log().sum(-1)
    size = covariance.shape[-1] * math.log(2 * math.pi * math.e)
    return torch.where(solid, (size + log_det) / 2, 0.0)


def follower_gap(model: LinearModel, policy: LinearPolicy, answer: LinearAnswer) -> Tensor:
    """How much soft return from the start the answer leaves to the best response, [M] >= 0.

    Infinite where the answer lets the follower's own return diverge.
    """
    best = best_response(model, policy)
    loop = close(model, policy, answer)
    stable = model.follower_discount**0.5 * radius(loop) < 1
    lost = ((_evaluated(model, policy, answer) - best.state_value) * model.start).sum((-2, -1))
    return torch.where(stable & best.solved, lost.clamp(min=0.0), torch.inf)


# ---------------------------------------------------------------- returns


def _form(loop: Loop, cost: Tensor, discount: float, constant: Tensor | float) -> Tensor:
    """X of E sum_t discount^t (z_t' cost z_t + constant) = y_0' X y_0: [M, 1 + n, 1 + n].

    X = span' cost span + discount system' X system + e e' (<cost, scatter> + discount <X, arrival>
    + constant), e the first unit vector; 0 where the sum diverges.
    """
    stable = discount**0.5 * radius(loop) < 1
    keep = stable.view(-1, 1, 1)
    system, arrival = (torch.where(keep, x, 0.0) for x in (loop.system, loop.arrival))
    size = system.shape[-1]
    at_once = (cost * loop.scatter).sum((-2, -1)) + constant
    drive = loop.span.mT @ cost @ loop.span + constant_form(at_once, size)
    passage = torch.einsum("mki,mlj->mijkl", system, system).flatten(3).flatten(1, 2)
    unit = torch.zeros(size * size, 1, dtype=system.dtype)
    unit[0] = 1
    passage = passage + unit * arrival.flatten(1).unsqueeze(1)
    whole = torch.eye(size * size, dtype=system.dtype) - discount * passage
    found = torch.linalg.solve(whole, drive.flatten(1).unsqueeze(-1))
    return torch.where(keep, found.view_as(system), 0.0)


def leader_return(
    model: LinearModel,
    policy: LinearPolicy,
    answer: LinearAnswer,
    horizon: int | None = None,
    discount: float | None = None,
    negligible: float = NEGLIGIBLE,
) -> Tensor:
    """E sum_t gamma_L^t r_L against an answer, [M]; attached.

    Args:
        horizon: of the sum; unbounded unless given.
        discount: gamma_L, the model's own unless given.
        negligible: share of a bump's discounted sum that may be left where it ends unbounded.

    Returns:
        -inf where the quadratic part diverges.
    """
    gamma = model.leader_discount if discount is None else discount
    loop = close(model, policy, answer)
    known = torch.ones_like(loop.span[:, 0, 0], dtype=torch.bool)
    total = torch.zeros_like(loop.span[:, 0, 0])
    if model.leader_cost.any():
        if horizon is None:
            known = known & (gamma**0.5 * radius(loop) < 1)
            form = _form(loop, model.leader_cost, gamma, 0.0)
            total = total - (form * model.start).sum((-2, -1))
        else:
            everything = torch.eye(loop.system.shape[-1]).to(loop.system).expand_as(loop.system)
            mean, covariance, near = _moments(model, loop, everything, horizon)
            known = known & near.all(-1)
            second = covariance + mean.unsqueeze(2) * mean.unsqueeze(1)
            cost = loop.span.mT @ model.leader_cost @ loop.span
            at_once = (model.leader_cost * loop.scatter).sum((-2, -1)).unsqueeze(1)
            paid = torch.einsum("mij,mijt->mt", cost, second) + at_once
            total = total - (paid * _weights(gamma, horizon)).sum(-1)
    if model.bump is not None:
        steps = horizon
        if steps is None:
            steps = 1 if gamma == 0 else math.ceil(math.log(negligible) / math.log(gamma))
        total = total + (_bumps(model, loop, steps) * _weights(gamma, steps)).sum(-1)
    return torch.where(known, total, -torch.inf)


def action_values(
    model: LinearModel, policy: LinearPolicy, answer: LinearAnswer
) -> tuple[Tensor, Tensor]:
    """Q_L(s,a,b) = z' Q z and, but for what entropies add, q_F, [M, K, K] each.

    0 where they diverge. Without the leader's bump, whose values are no quadratic forms.
    """
    loop, step = close(model, policy, answer), model.step
    found = []
    for cost, discount in (
        (model.leader_cost, model.leader_discount),
        (model.follower_cost, model.follower_discount),
    ):
        later = _form(loop, cost, discount, 0.0)
        noise = (later[..., 1:, 1:] * model.noise).sum((-2, -1))
        worth = cost + discount * (step.mT @ later @ step + constant_form(noise, step.shape[-1]))
        found.append(-worth)
    return found[0], found[1]


def objective(model: LinearModel, policy: LinearPolicy, **given: Any) -> Tensor:
    """The leader's objective against the exact best response, [M]; see `leader_return`.

    -inf where there is no best response.
    """
    best = best_response(model, policy)
    return torch.where(best.solved, leader_return(model, policy, best.answer, **given), -torch.inf)


def surrogates(
    model: LinearModel, policy: LinearPolicy, answer: LinearAnswer
) -> tuple[Tensor, Tensor]:
    """[M] each, whose gradients are the direct and the indirect term of the hypergradient.

    direct = d J(theta, g) at the answer g that is given, indirect = dJ/dg dg*/dtheta, g* the best
    response. Together the exact hypergradient where model and answer are exact.
    """
    best = best_response(model, policy)
    given = LinearAnswer(*(part.detach().requires_grad_() for part in answer))
    direct = leader_return(model, policy, given)
    slopes = torch.autograd.grad(direct.sum(), given, retain_graph=True)
    moved = [(g * x).sum((-2, -1)) for g, x in zip(slopes, best.answer, strict=True)]
    return direct, torch.where(best.solved, torch.stack(moved).sum(0), -torch.inf)


def _moments(
    model: LinearModel, loop: Loop, head: Tensor, horizon: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean [M, r, T] and covariance [M, r, r, T] of head y_t, and which are near [M, T].

    With L_t = head A^t: mean_t = L_t y, cov_t = L_t C_0 L_t' + sum_{i<t} L_i W L_i'. Where they are
    too far to be followed they are 0.

    Args:
        head: [M, r, 1 + n].
    """
    reach, near = _powers(head, loop.system, horizon)
    first = _around(reach, padded(model.initial_covariance).expand_as(loop.arrival))
    added = _around(reach, loop.arrival)
    covariance = first + added.cumsum(-1) - added
    mean = (model.begin.view(-1, reach.shape[1], 1, 1) * reach).sum(1)
    return mean, torch.where(near[:, None, None], covariance, 0.0), near


def _around(reach: Tensor, covariance: Tensor) -> Tensor:
    """L C L' [M, r, r, T] of L' [M, p, r, T] and C [M, p, p]."""
    half = (covariance @ reach.flatten(2)).view_as(reach)
    return (half.unsqueeze(3) * reach.unsqueeze(2)).sum(1)


def _powers(head: Tensor, system: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(head system^t)' for t < count, [M, p, r, count], and which of them are near [M, count].

    By doubling. From the first that is not near on they are 0.
    """
    reach, jump = head.mT.unsqueeze(-1), system.mT
    near = torch.ones(len(head), 1, dtype=torch.bool)
    while near.shape[1] < count:
        fits = are_near(jump)
        jump = torch.where(fits.view(-1, 1, 1), jump, 0.0)
        more = (jump @ reach.flatten(2)).view_as(reach)
        small = fits.unsqueeze(-1) & (more.abs() < FAR).all(2).all(1)
        reach = torch.cat([reach, torch.where(small[:, None, None], more, 0.0)], -1)
        near = torch.cat([near, small], 1)
        jump = jump @ jump
    near = near[:, :count].long().cumprod(1).bool()
    return torch.where(near[:, None, None], reach[..., :count], 0.0), near


def _bumps(model: LinearModel, loop: Loop, horizon: int) -> Tensor:
    """height E exp(-|bump z_t|^2 / 2) for t < horizon, [M, T]; 0 where z_t is too far away.

    Of u = bump z ~ N(mean, cov): |1 + cov|^-1/2 exp(-mean' (1 + cov)^-1 mean / 2), by Gaussian
    elimination.
    """
    assert model.bump is not None
    mean, width, near = _moments(model, loop, model.bump @ loop.span, horizon)
    own = model.bump @ loop.scatter @ model.bump.mT
    width = width + (own + torch.eye(own.shape[-1], dtype=own.dtype)).unsqueeze(-1)
    log_value = torch.zeros_like(mean[:, 0])
    while width.shape[1]:
        pivot = width[:, 0, 0].clamp(min=1.0)  # which it is but for rounding
        column, first = width[:, 1:, 0], mean[:, 0]
        log_value = log_value - (first.square() / pivot + pivot.log()) / 2
        ratio = column / pivot.unsqueeze(1)
        mean = mean[:, 1:] - ratio * first.unsqueeze(1)
        width = width[:, 1:, 1:] - ratio.unsqueeze(2) * column.unsqueeze(1)
    return torch.where(near, spread(model.height, 1) * log_value.exp(), 0.0)


def _weights(discount: float, horizon: int) -> Tensor:
    return discount ** torch.arange(horizon, dtype=torch.float64)


@torch.no_grad()
def ascending(model: LinearModel, tried: int = 8) -> Tensor | None:
    """A direction [k] in which the leader's objective grows without end, if one is found.

    With its gains of the state held fixed, the objective is a quadratic function of the leader's
    constant action c, apart from a bump, which is bounded: it has no maximum if the quadratic form
    is positive in some direction, or zero where the linear one is not. So that is a proof, up to
    rounding; gains of the state that make it so, other than those tried, are not found.

    Args:
        tried: how many gains, the first 0 and the others drawn from N(0, 1/4).
    """
    count, still = model.leader_actions, replace(model, bump=None)
    draw = torch.Generator().manual_seed(0)
    feedback = 0.5 * torch.randn(tried, count, model.states, generator=draw, dtype=torch.float64)
    feedback[0] = 0.0
    eye = torch.eye(count, dtype=torch.float64)
    pairs = (eye[:, None] + eye).flatten(0, 1)
    points = torch.cat([torch.zeros_like(eye[:1]), eye, -eye, pairs])  # [P, k] values of c
    gain = torch.cat(
        [
            points.expand(tried, -1, -1).unsqueeze(-1),
            feedback.unsqueeze(1).expand(-1, len(points), -1, -1),
        ],
        -1,
    ).flatten(0, 1)
    worth = objective(still, LinearPolicy(gain, torch.zeros_like(gain[..., 0])))
    for row in worth.unflatten(0, (tried, -1)):
        if not row.isfinite().all():
            continue
        base, ahead, behind, both = row.split([1, count, count, count**2])
        slope = (ahead - behind) / 2
        bend = both.view(count, count) - ahead[:, None] - ahead + base
        values, ways = torch.linalg.eigh((bend + bend.mT) / 2)
        rise, none = ways.mT @ slope, 1e-9 * row.abs().max()
        free = (values > none) | ((values.abs() <= none) & (rise.abs() > none))
        if free.any():
            best = int(torch.where(free, values, -torch.inf).argmax())
            return ways[:, best] * (1 if rise[best] >= 0 else -1)
    return None
