"""How much less than its best response a follower gets, as fresh play measures it."""

from typing import NamedTuple

import torch
from torch import Tensor


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
