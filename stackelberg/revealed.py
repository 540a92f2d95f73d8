"""What a follower's values say of transitions that nobody has taken."""

import torch
from torch import Tensor

from stackelberg.exact import SoftResponse

PRIOR = 1.0  # pseudo-counts of a row of P: what the actions tried in its state did
LEAST = 1e-250  # probability of an action below which its logarithm is not trusted
RESOLUTION = 1e-12  # of a row's variance that is taken for rounding
EXPLAINED = 0.01  # of a row's variance that it may leave when it is believed
CONSISTENT = 2.0  # times its variance, by which values may contradict a typical counted row


class Revealed:
    """Linear observations of every row of P, for M leaders.

    A soft best response shows the worth of all actions, also of those that it hardly ever takes:

        Q_F(s,a,b) = V_F(s,a) + beta log g(b|s,a) = r_F(s,a,b) + gamma_F P(.|s,a,b) v,

    so each response that shows its values is an observation y(s,a,b) = P(.|s,a,b) v of the same
    rows from another angle v. A row's counts give it the mean m and covariance C of a Dirichlet
    posterior, whose prior mean is what the actions tried in s did; conditioned on the observations
    as a Gaussian would be, with C = L L', G = sum v v', h = sum y v and noise of rounding alone,

        P = m + L (sigma^2 I + L' G L)^-1 L' (h - G m).

    Values are not taken on trust. A row is believed if it then explains its observations, of which
    there must be twice as many as successors; so not where a successor has never been seen. And a
    leader believes none while the typical row that it has counted contradicts them by more than the
    noise of its counts: so not those of a follower that is far from its best response, or plans by
    another model.

    A response with an action less likely than 1e-250 does not count. Only for followers that
    observe the leader's action.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        leaders, outcomes = shape[0], shape[1] + 1  # a state, or the end
        self.count = torch.zeros(leaders, dtype=torch.float64)
        self.angle = torch.zeros(leaders, outcomes, dtype=torch.float64)  # sum v
        self.outer = torch.zeros(leaders, outcomes, outcomes, dtype=torch.float64)  # sum v v'
        self.worth = torch.zeros(shape, dtype=torch.float64)  # sum u, u = y + r_F / gamma_F
        self.square = torch.zeros(shape, dtype=torch.float64)  # sum u^2
        self.product = torch.zeros(*shape, outcomes, dtype=torch.float64)  # sum u v

    def add(
        self, response: SoftResponse, beta: float, discount: float, reward: Tensor | float = 0.0
    ) -> None:
        """Take in K responses to each of the M leaders.

        Values are counted from their mean over all states, as only their differences tell.

        Args:
            response: [M, K, ...]. beta: temperature. discount: gamma_F.
            reward: r_F [M, K, S, A, B] where it is known and differs from response to response, as
                under designs: u is without it then.
        """
        known = response.policy.flatten(2).amin(-1) > LEAST  # [M, K]
        log_policy = response.policy.clamp(min=LEAST).log()
        level = response.state_value.mean(-1, keepdim=True)  # [M, K, 1]
        worth = (response.value.unsqueeze(-1) + beta * log_policy - reward) / discount
        worth = (worth - level[..., None, None]) * known[..., None, None, None]
        angle = torch.cat([response.state_value - level, -level], -1) * known.unsqueeze(-1)
        self.count += known.sum(-1)
        self.angle += angle.sum(1)
        self.outer += angle.mT @ angle
        self.worth += worth.sum(1)
        self.square += worth.square().sum(1)
        self.product += torch.einsum("mksab,mkt->msabt", worth, angle)

    def refine(
        self, rows: Tensor, arrivals: Tensor, visits: Tensor, reward: Tensor, discount: float
    ) -> Tensor:
        """P [M, S, A, B, S]: `rows`, and what is believed in their place.

        Args:
            rows: as estimated from counts alone. arrivals: [M, S, A, B, S].
            visits: [M, S, A, B].
            reward: r_F [M, S, A, B] that `add` was not given; nan where it is not known.
        """
        pooled = arrivals.sum((2, 3)) / visits.sum((2, 3)).clamp(min=1).unsqueeze(-1)  # [M, S, S]
        size = int((pooled > 0).sum(-1).max().clamp(min=1))
        support = pooled.topk(size, -1).indices  # [M, S, k]; successors never seen have m = C = 0
        wide = support[:, :, None, None].expand(*visits.shape, size)
        weight = (visits + PRIOR).unsqueeze(-1)
        prior = pooled.gather(-1, support)[:, :, None, None]
        mean = (arrivals.gather(-1, wide) + PRIOR * prior) / weight
        over = (1 - mean.sum(-1, keepdim=True)).clamp(min=0)
        mean = torch.cat([mean, over], -1)  # m
        root = mean.sqrt()
        half = torch.diag_embed(root) - mean.unsqueeze(-1) * root.unsqueeze(-2)
        half = half / (weight + 1).unsqueeze(-1).sqrt()  # L of C = L L', columns that sum to 0

        end = torch.full_like(support[..., :1], pooled.shape[-1])
        outcomes = torch.cat([support, end], -1)
        every = outcomes[:, :, None, None].expand(*visits.shape, size + 1)
        known, reward = torch.isfinite(reward), reward.nan_to_num() / discount
        count = self.count.clamp(min=1)[:, None, None, None]
        angle = self.angle.gather(-1, outcomes.flatten(1)).view_as(outcomes)[:, :, None, None]
        outer = _block(self.outer, outcomes)[:, :, None, None]  # G [M, S, 1, 1, k + 1, k + 1]
        product = self.product.gather(-1, every) - reward.unsqueeze(-1) * angle  # h
        square = self.square - 2 * reward * self.worth + count * reward.square()  # sum y^2

        def unexplained(row: Tensor) -> Tensor:
            """Mean of (y - row v)^2, [M, S, A, B]."""
            fitted = (outer @ row.unsqueeze(-1)).squeeze(-1)
            return ((square - (row * (2 * product - fitted)).sum(-1)) / count).clamp(min=0)

        inner = half.mT @ outer @ half  # L' G L
        spread = torch.diagonal(inner, dim1=-2, dim2=-1).sum(-1) / count  # expected (y - m v)^2
        contradiction = unexplained(mean) / torch.where(spread > 0, spread, torch.nan)
        contradiction = torch.where(known & (visits > 0), contradiction, torch.nan)
        typical = contradiction.flatten(1).nanmedian(-1).values[:, None, None, None]
        trusted = ~(typical > CONSISTENT)

        noise = (RESOLUTION * count * spread + 1e-300)[..., None, None]
        system = inner + noise * torch.eye(size + 1, dtype=inner.dtype)
        residual = half.mT @ (product.unsqueeze(-1) - outer @ mean.unsqueeze(-1))
        row = mean + (half @ torch.linalg.solve(system, residual)).squeeze(-1)
        row = row.clamp(min=0)
        row = row / row.sum(-1, keepdim=True)
        explains = unexplained(row) <= EXPLAINED * spread
        enough = self.count[:, None, None, None] > 2 * (prior > 0).sum(-1)
        believed = known & trusted & explains & enough & (spread > 0)
        revealed = torch.zeros_like(arrivals).scatter_(-1, wide, row[..., :-1])
        return torch.where(believed.unsqueeze(-1), revealed, rows)

    def state(self) -> dict[str, Tensor]:
        return dict(vars(self))

    def load(self, state: dict[str, Tensor]) -> None:
        vars(self).update({name: value.clone() for name, value in state.items()})


def _block(matrix: Tensor, index: Tensor) -> Tensor:
    """matrix [M, S, S] at the rows and columns index [M, S, k]: [M, S, k, k]."""
    m = torch.arange(len(matrix))[:, None, None, None]
    return matrix[m, index.unsqueeze(-1), index.unsqueeze(-2)]
