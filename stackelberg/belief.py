"""What a leader makes of the actions that it has seen its follower take, in tables.

Two estimates of maximum likelihood, each leader its own: the temperature at which a soft best
response makes them likely, and how far the follower keeps to the response that is predicted for it.
"""

from dataclasses import replace

import torch
from torch import Tensor

from stackelberg import exact
from stackelberg.model import TabularModel

FADE = 0.98  # of what older play says of the temperature, from one batch of play to the next

WIDEST = 9.2  # log 10,000: how far from the first guess a temperature is looked for
POINTS = 13  # of a grid over log beta, in every round of the search
FINEST = 0.02  # log beta between two points at which the search ends
ROUNDS = 30
UNKNOWN = 0.05  # certainty of the first guess: a standard deviation of log beta of 4.5
TINY = 1e-300  # probability of an action below which its logarithm is not trusted

KEPT = tuple(4.0**k for k in range(-1, 9))  # actions that outweigh a predicted response
LEAST = 1e-12  # of a predicted probability
STEPS = 25  # of expectation maximisation
SPARE = 0.1, 1.0  # rows' worth of every weight, and of the greatest, before anything is seen


@torch.no_grad()
def likely_temperature(
    model: TabularModel,
    policy: Tensor,
    counts: Tensor,
    tried: Tensor,
    guess: Tensor,
    certainty: Tensor,
) -> tuple[Tensor, Tensor]:
    """The temperature [M] that makes follower actions most likely, and how much they tell of it.

        beta = argmax  sum_sab n(s,a,b) log h_beta(b|s,a) - (c / 2) (log beta - log beta_0)^2

    h_beta is the soft best response to the model at that temperature, among the actions that have
    been tried: the model does not know what others are worth, and takes them to be worth the same.
    Found on grids over log beta, ever finer around the best point.

    Args:
        model: what the leaders have learned; its own temperature is left out of account.
        policy: f [M, S, A]. counts: n [M, S, A, B]. tried: [M, S, A, B] bool.
        guess: beta_0 [M]. certainty: c [M] > 0, 1 / variance of log beta_0.

    Returns:
        beta, and the curvature of the first sum at it, >= 0: what to add to the certainty.

    Exact when: the model is and the follower best-responds, in the limit of many actions. Where
    they are the same action every time, or rewards do not differ, every temperature explains them
    alike, and sure ones of several every small one: then it stays bounded, at the guess or at the
    highest temperature that is likely.
    """
    origin, every = guess.log(), torch.arange(len(guess))
    centre, width = origin, (4 / certainty.sqrt()).clamp(min=6 * FINEST, max=WIDEST)
    offsets = torch.linspace(-1, 1, POINTS, dtype=torch.float64).unsqueeze(-1)
    start: Tensor | None = None
    for _ in range(ROUNDS):
        grid = centre + offsets * width  # [K, M]
        at = replace(model, temperature=grid.exp())
        found = exact.best_response(at, policy.expand(POINTS, *policy.shape), start)
        chance = (found.policy * tried).clamp(min=TINY)
        likelihood = (counts * (chance / chance.sum(-1, keepdim=True)).log()).sum((-3, -2, -1))
        value = likelihood - 0.5 * certainty * (grid - origin).square()
        best = value.argmax(0)
        edge = (best == 0) | (best == POINTS - 1)
        best = best.clamp(1, POINTS - 2)
        step = 2 * width / (POINTS - 1)
        slope, bend = _parabola(value, best)
        centre = grid[best, every] + (slope / bend.clamp(min=TINY)).clamp(-1, 1) * step
        if (step <= FINEST).all() and not edge.any():
            break
        width = torch.where(edge, width, (1.5 * step).clamp(min=6 * FINEST * 0.99))
        start = found.state_value[best, every].expand_as(found.state_value)
    return centre.exp(), (_parabola(likelihood, best)[1] / step.square()).clamp(min=0)


def _parabola(values: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """Slope and downward curvature [M], per point, of values [K, M] at the rows `at` [M]."""
    every = torch.arange(len(at))
    before, here, after = (values[at + k, every] for k in (-1, 0, 1))
    return (after - before) / 2, 2 * here - before - after


@torch.no_grad()
def likely_response(predicted: Tensor, counts: Tensor) -> Tensor:
    """The follower's behaviour g [M, S, A, B]: what it did, on top of what is predicted for it.

        g(b|s,a) = sum_j w_j(s,a) [n(s,a,b) + k_j p(b|s,a)] / [n(s,a) + k_j]

    The mean of a posterior whose prior mixes Dirichlet distributions around the predicted response
    p, of weights k_j from 1/4 to 65,536 actions. How common each weight is among the rows (s,a) of
    a leader is what makes all actions n most likely, by expectation maximisation, one row more
    being counted as predicted; w_j(s,a) is its posterior probability in the row. So a follower that
    does as predicted is believed to do so everywhere, and one that keeps to a rule of its own is
    known by what it does.

    Args:
        predicted: p [M, S, A, B]. counts: n [M, S, A, B].

    Exact when: the prediction is, or in the limit of many actions.
    Source: empirical Bayes, Robbins (1956).
    """
    base = predicted.clamp(min=LEAST)
    weight = torch.tensor(KEPT, dtype=torch.float64)[(..., *[None] * base.dim())]
    prior = weight * base  # [J, M, S, A, B]
    size, number = prior.sum(-1), counts.sum(-1)
    likelihood = torch.lgamma(size) - torch.lgamma(size + number)
    likelihood += (torch.lgamma(prior + counts) - torch.lgamma(prior)).sum(-1)  # [J, M, S, A]
    been = (number > 0).to(likelihood)
    spare = torch.full_like(weight[..., 0], SPARE[0])  # [J, 1, 1, 1]
    spare[-1] = SPARE[1]
    common = spare / spare.sum()
    for _ in range(STEPS):
        share = torch.softmax(likelihood + common.log(), 0) * been
        rows = share.sum((-2, -1), keepdim=True) + spare
        common = rows / rows.sum(0)
    share = torch.softmax(likelihood + common.log(), 0)
    return ((share / (size + number)).unsqueeze(-1) * (prior + counts)).sum(0)
