"""What a leader makes of a hypergradient: steps inside one trust region, along other directions.

A `TrustRegion` decides how far the leader goes, and is all that has a state; an optimiser decides
where to. All read the gradient and the leader's position [M, n, K] in its geometry: the logarithms
of probabilities p_nk (the policy in every state, the shares of a budget, the two sides of a place
in a box), or means and log standard deviations of Gaussians. So every optimiser serves every
estimator, and every leader, but ppo, which needs probabilities to clip.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from stackelberg.config import Optimiser
from stackelberg.errors import InputError
from stackelberg.trust_region import CATEGORICAL, Geometry, TrustRegion, inner, norm, scale

CLIP = 0.2  # by which a probability may change, relative to itself, before it gains no more
EPOCHS = 10  # gradient steps on one clipped surrogate
PRODUCTS = 50  # Fisher-vector products for one direction, at most
RESIDUAL = 1e-5  # of the gradient, that conjugate gradients may leave
UNSEEN = 1e-3  # of the mean visits: what a state that is never visited counts

Step = Callable[[TrustRegion, Sequence[Tensor], Callable[[], Tensor], Tensor, Tensor | float], None]
"""Moves the leader: region, gradient, position, visits [M, n] (or [1]), floor (`judge`)."""


def along_the_gradient(
    region: TrustRegion,
    gradient: Sequence[Tensor],
    position: Callable[[], Tensor],
    visits: Tensor,
    floor: Tensor | float = 0.0,
) -> None:
    """theta + length * gradient, KL(old || new) = radius."""
    region.step(gradient, position, floor)


def natural_gradient(
    region: TrustRegion,
    gradient: Sequence[Tensor],
    position: Callable[[], Tensor],
    visits: Tensor,
    floor: Tensor | float = 0.0,
) -> None:
    """theta + length * F^-1 gradient, KL(old || new) = radius.

    Where the leader goes does not depend on how it is parametrised, only on its position. With
    two choices a row (a table of two actions, a place in a box) it is where the gradient goes.

    Source: Kakade, NeurIPS 2001; conjugate gradients as in Schulman et al., arXiv:1502.05477.
    """
    push = region.judge(gradient, floor)
    region.advance(Fisher(region, position(), visits).solve(push), position)


def ppo(
    region: TrustRegion,
    gradient: Sequence[Tensor],
    position: Callable[[], Tensor],
    visits: Tensor,
    floor: Tensor | float = 0.0,
) -> None:
    """Several epochs of gradient steps on the clipped surrogate, never beyond the radius.

        L = sum_n w_n sum_k p_nk min(rho A, clip(rho, 1 - CLIP, 1 + CLIP) A),  rho = p'_nk / p_nk.

    A = J F^-1 gradient, J the derivative of the position: the compatible advantage, whose surrogate
    has the very gradient that was given, by whatever estimator. For a tabular policy it is the
    Stackelberg advantage of (s,a), less its mean; samples of one (s,a) are clipped as one. For a
    design it is what a share of the budget, or a side of the box, is worth.

    Each epoch's step is that of L's gradient, in the proportion in which EPOCHS steps of the given
    gradient make up the trust region's own step; so the clip bends and shortens that step, and
    does nothing where the radius is too small for it.

    Source: Schulman et al., arXiv:1707.06347, eq. 7; compatible advantages: Sutton et al., NIPS
    1999, and Kakade, NeurIPS 2001.

    Raises:
        InputError: if the leader's position is not of probabilities.
    """
    require_probabilities(region.geometry)
    push, before = region.judge(gradient, floor), position()
    fisher = Fisher(region, before, visits)
    advantage = fisher.along(fisher.solve(push))
    origin, before = region.snapshot(), before.detach()
    region.advance(push, position)
    size = norm(push)
    rate = norm(region.last) / (EPOCHS * torch.where(size > 0, size, 1.0))
    region.place(origin)
    for _ in range(EPOCHS):
        ratio = (position() - before).exp()
        gain = (fisher.weight * clipped(ratio, advantage)).sum()
        uphill = _gradient(gain, region.leaves)
        here = zip(region.snapshot(), region.by_unit(uphill), strict=True)
        region.place([p + scale(g.to(torch.float64), rate) for p, g in here])
    bent = [p.double() - q for p, q in zip(region.snapshot(), origin, strict=True)]
    region.place(origin)
    region.advance(bent, position, furthest=norm(bent))


def clipped(ratio: Tensor, advantage: Tensor) -> Tensor:
    """min(rho A, clip(rho, 1 - CLIP, 1 + CLIP) A): no gain beyond the clip, every loss in full."""
    return torch.minimum(ratio * advantage, ratio.clamp(1 - CLIP, 1 + CLIP) * advantage)


OPTIMISERS: dict[Optimiser, Step] = {
    "trust-region": along_the_gradient,
    "natural-gradient": natural_gradient,
    "ppo": ppo,
}


def optimiser(name: Optimiser, geometry: Geometry) -> Step:
    """The optimiser of that name. Raises InputError if it does not serve the geometry."""
    if name == "ppo":
        require_probabilities(geometry)
    return OPTIMISERS[name]


def require_probabilities(geometry: Geometry) -> None:
    """Raise InputError unless positions are log-probabilities, whose ratios ppo clips."""
    if geometry is not CATEGORICAL:
        raise InputError(
            "a leader of finitely many choices, a budget or a place in a box for ppo, which clips "
            "ratios of probabilities",
            "a leader whose position is a Gaussian",
            "use the optimiser trust-region or natural-gradient",
        )


class Fisher:
    """The Fisher information of M leaders, known by its products with vectors alone.

        F = J' W J = sum_n w_n sum_k p_nk grad log p_nk (grad log p_nk)'

    of log-probabilities; of Gaussians the weight p_nk is 1 / std^2 of a mean, 2 of a log std.
    w_n are the visits (a state without any counts UNSEEN of the mean, so that F binds it too), J
    the derivative of the position. F falls into a block for each unit of the region (`by_unit`);
    products and solutions are those of all blocks at once. No matrix is formed.

    Args:
        region: for the parameters and their units.
        position: attached, [M, n, K].
        visits: [M, n], or [1] where every n counts the same.
    """

    def __init__(self, region: TrustRegion, position: Tensor, visits: Tensor) -> None:
        self.region, self.position = region, position
        visits = visits + UNSEEN * visits.mean(-1, keepdim=True)
        self.weight = visits.unsqueeze(-1) * region.geometry.weights(position.detach())  # w_n p_nk
        self._dual = torch.zeros_like(position, requires_grad=True)
        self._pulled = _gradient(position, region.leaves, self._dual, create_graph=True)

    def along(self, vector: Sequence[Tensor]) -> Tensor:
        """J v: how the position changes along v, [M, n, K]."""
        pairs = [(g, v.reshape(g.shape).to(g)) for g, v in zip(self._pulled, vector, strict=True)]
        with torch.enable_grad():
            paired = torch.stack([(g * v).sum().to(torch.float64) for g, v in pairs]).sum()
        return _gradient(paired, [self._dual])[0]  # J' u is linear in u, so this is J v

    def product(self, vector: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """F v by unit, and v' F v >= 0 of every unit [M R], from v by unit."""
        change = self.along(vector)
        found = _gradient(self.position, self.region.leaves, self.weight * change)
        curvature = (self.weight * change**2).reshape(len(vector[0]), -1).sum(-1)
        return self.region.by_unit([g.to(torch.float64) for g in found]), curvature

    @torch.no_grad()
    def solve(self, gradient: Sequence[Tensor]) -> list[Tensor]:
        """F^-1 gradient by unit, by conjugate gradients.

        Within PRODUCTS products; a solution cut off there lies between the gradient and the natural
        one, and ascends as they do. The smallest solution where F is singular, as along directions
        that do not move the leader: there the gradient is rounding error, which must not be divided
        by next to nothing. So a unit is done when its residual is RESIDUAL of its gradient, or
        sqrt(eps) if that is more, and when it heads where F is eps of what it was elsewhere; eps is
        the precision that the leader computes in.
        """
        eps = max(torch.finfo(leaf.dtype).eps for leaf in self.region.leaves)
        found = [torch.zeros_like(g) for g in gradient]
        residual = heading = list(gradient)
        square = inner(residual, residual)
        goal, steepest = max(RESIDUAL**2, eps) * square, torch.zeros_like(square)
        going = square > 0
        for _ in range(PRODUCTS):
            pushed, curvature = self.product(heading)
            length = inner(heading, heading)
            steepest = torch.maximum(steepest, curvature / torch.where(going, length, 1.0))
            going = going & (curvature > eps * steepest * length)
            share = torch.where(going, square / torch.where(going, curvature, 1.0), 0.0)
            found = [x + scale(h, share) for x, h in zip(found, heading, strict=True)]
            residual = [r - scale(f, share) for r, f in zip(residual, pushed, strict=True)]
            left = inner(residual, residual)
            again = left / torch.where(going, square, 1.0)
            heading = [r + scale(h, again) for r, h in zip(residual, heading, strict=True)]
            going, square = going & (left > goal), left
            if not going.any():
                break
        return found


def _gradient(
    value: Tensor,
    inputs: Sequence[Tensor],
    dual: Tensor | None = None,
    create_graph: bool = False,
) -> list[Tensor]:
    """d value / d inputs, zeros where there is no dependence; the graph is kept."""
    with torch.enable_grad():
        found = torch.autograd.grad(
            value,
            inputs,
            dual,
            retain_graph=True,
            create_graph=create_graph,
            allow_unused=True,
            materialize_grads=True,
        )
    return list(found)
