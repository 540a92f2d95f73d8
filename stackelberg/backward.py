"""A critic for the past on any features: the expected benefit trace by least-squares TD."""

import torch
from torch import Tensor

from stackelberg.rollout import Trajectories

RIDGE = 1e-4  # of the regression of the trace, relative to the features' mean square
COUNT = 1.0  # of that of arrivals: transitions that outweigh no difference between actions


def expected_trace(
    features: Tensor, seen: Trajectories, drive: Tensor, discounts: tuple[float, float]
) -> Tensor:
    """e-bar(s) = c(s) / d(s) in every row of the features, [M, n].

    c(s) = sum_k E[e_k; s_k = s] is the expected trace, and d(s) = sum_k w^k Pr(s_k = s), where
    w = max(gamma_L, gamma_F), as a trace lives on where a myopic leader's own visits count nothing.
    e-bar is 0 where an episode starts, with weight 1; with weight w^{k+1} its value at s_{k+1}
    regresses on (gamma_F / w) (e-bar(s_k) + (gamma_L / w)^k delta_k).

    Exact when: features tell states apart and episodes are long, so that what is cut is negligible.

    Args:
        features: [M, n, K] in float64; the first N T rows are of the steps, the next of where
            they led. seen: the play [M, N, T], on policy.
        drive: [M, K] gamma_F sum_k gamma_L^k delta_k phi(s_{k+1}), or a less noisy form of it:
            gamma_F times `arrivals`.
        discounts: gamma_L, gamma_F, in [0, 1).
    """
    taken = seen.state[0].numel()
    before, there = features[:, :taken], features[:, taken : 2 * taken]
    time = seen.time.flatten(1)
    weight = max(discounts) ** time.double()
    goes_on = (~seen.terminated.flatten(1)).double()
    begun = (time == 0).double()
    change = max(discounts) * there - discounts[1] * before
    system = (before * begun.unsqueeze(-1)).mT @ before
    system = system + (there * (goes_on * weight).unsqueeze(-1)).mT @ change
    size = features.square().mean((1, 2)) * (max(discounts) * goes_on * weight + begun).sum(-1)
    system.diagonal(dim1=1, dim2=2).add_(RIDGE * size.unsqueeze(-1))
    return (features @ torch.linalg.solve(system, drive.unsqueeze(-1))).squeeze(-1)


def arrivals(weights: Tensor, here: Tensor, there: Tensor, cell: Tensor) -> Tensor:
    """sum_sab w(s,a,b) E[phi(s') | s,a,b]: the features of where weights lead, [M, K].

    The expectation is linear in phi(s), a ridge regression of its own for each (a,b) on how their
    transitions depart from the mean over actions. So (a,b) never seen lead where the others do.

    Args:
        weights: sum_s w(s,a,b) phi(s) [M, K, A B]; for every s and a their sum over b is 0.
        here, there: phi of any transitions [M, W, K], there 0 after an ending.
        cell: their (a,b) [M, W], a B + b.
    """
    ridge = COUNT * here.square().mean((1, 2)).view(-1, 1, 1) * torch.eye(here.shape[-1]).double()
    there = there - here @ torch.linalg.solve(here.mT @ here + ridge, here.mT @ there)
    total = torch.zeros_like(weights[..., 0])
    for c in range(weights.shape[-1]):
        of = here * (cell == c).unsqueeze(-1)
        shares = of @ torch.linalg.solve(of.mT @ of + ridge, weights[..., c : c + 1])
        total += (there.mT @ shares).squeeze(-1)
    return total
