"""What a follower's values say of transitions that nobody has taken."""

import torch
from torch import Tensor

from stackelberg.exact import SoftResponse

PRIOR = 1.0  # pseudo-counts of a row of P: what the sibling actions did
LEAST = 1e-250  # probability of an action below which its logarithm is not trusted
PRECISION = 1e-12  # of the follower's values, squared and relative


class Revealed:
    """Linear observations of every row of P, for M leaders.

    A soft best response shows the worth of all actions, also of those that it hardly ever takes:

        Q_F(s,a,b) = V_F(s,a) + beta log g(b|s,a) = r_F(s,a,b) + gamma_F P(.|s,a,b) v,

    so each response that shows its values is an observation y(s,a,b) = P(.|s,a,b) v of the same
    rows from another angle v. A row's counts give it the mean m and covariance C of a Dirichlet
    posterior, whose prior mean is what the actions tried in s did; conditioned on the observations
    as a Gaussian would be, with G = sum v v', h = sum y v and their noise sigma^2,

        P = m + (sigma^2 I + C G)^-1 C (h - G m).

    sigma^2 is what a least-squares fit of the row leaves unexplained, so that a follower far from
    its best response is hardly listened to, nor any where a successor has never been seen. Only for
    followers that observe the leader's action.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        leaders, states = shape[0], shape[1]
        self.count = torch.zeros(leaders, dtype=torch.float64)
        self.outer = torch.zeros(leaders, states, states, dtype=torch.float64)  # G
        self.product = torch.zeros(*shape, states, dtype=torch.float64)  # h
        self.square = torch.zeros(shape, dtype=torch.float64)  # sum y^2

    def add(self, response: SoftResponse, reward: Tensor, discount: float, beta: float) -> None:
        """Take in K responses to each of the M leaders.

        Args:
            response: [M, K, ...]. reward: r_F [M, K, S, A, B], or what broadcasts to it.
        """
        known = response.policy.flatten(2).amin(-1) > LEAST  # [M, K]
        log_policy = response.policy.clamp(min=LEAST).log()
        seen = (response.value.unsqueeze(-1) + beta * log_policy - reward) / discount
        seen = seen * known[..., None, None, None]
        angle = response.state_value * known.unsqueeze(-1)
        self.count += known.sum(-1)
        self.outer += angle.mT @ angle
        self.product += torch.einsum("mksab,mkt->msabt", seen, angle)
        self.square += seen.square().sum(1)

    def refine(self, arrivals: Tensor, visits: Tensor, usable: Tensor) -> Tensor:
        """P [M, S, A, B, S] from counts and observations.

        Args:
            arrivals: [M, S, A, B, S]. visits: [M, S, A, B].
            usable: [M, S, A, B], where r_F is known.
        """
        pooled = arrivals.sum((2, 3)) / visits.sum((2, 3)).clamp(min=1).unsqueeze(-1)  # [M, S, S]
        size = int((pooled > 0).sum(-1).max().clamp(min=1))
        support = pooled.topk(size, -1).indices  # [M, S, k]
        wide = support[:, :, None, None].expand(*visits.shape, size)
        prior = pooled.gather(-1, support)[:, :, None, None]
        weight = (visits + PRIOR).unsqueeze(-1)
        mean = (arrivals.gather(-1, wide) + PRIOR * prior) / weight  # [M, S, A, B, k]
        cov = torch.diag_embed(mean) - mean.unsqueeze(-1) * mean.unsqueeze(-2)
        cov = cov / (weight + 1).unsqueeze(-1)
        outer = _block(self.outer, support)[:, :, None, None]  # [M, S, 1, 1, k, k]
        product = self.product.gather(-1, wide)
        identity = torch.eye(size, dtype=cov.dtype)
        scale = torch.diagonal(outer, dim1=-2, dim2=-1).mean(-1)[..., None, None] + PRECISION
        fit = torch.linalg.solve(outer + PRECISION * scale * identity, product.unsqueeze(-1))
        unexplained = self.square[..., None, None] - product.unsqueeze(-2) @ fit
        freedom = (self.count - size).clamp(min=1)[:, None, None, None, None, None]
        noise = (unexplained / freedom).maximum(PRECISION * scale)
        residual = product.unsqueeze(-1) - outer @ mean.unsqueeze(-1)
        change = torch.linalg.solve(noise * identity + cov @ outer, cov @ residual).squeeze(-1)
        row = (mean + change * usable.unsqueeze(-1)).clamp(min=0)
        row = row / row.sum(-1, keepdim=True).clamp(min=1)
        return torch.zeros_like(arrivals).scatter_(-1, wide, row)


def _block(matrix: Tensor, index: Tensor) -> Tensor:
    """matrix [M, S, S] at the rows and columns index [M, S, k]: [M, S, k, k]."""
    m = torch.arange(len(matrix))[:, None, None, None]
    return matrix[m, index.unsqueeze(-1), index.unsqueeze(-2)]
