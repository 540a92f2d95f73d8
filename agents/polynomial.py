"""The polynomial part of values: its features, and how its coefficients are found."""

import torch
from torch import Tensor

RANK = 1e-9  # of the largest eigenvalue, below which a combination of features is not seen to vary


def monomials(x: Tensor, degree: int) -> Tensor:
    """The products of 1 to `degree` entries of x [..., d], degree <= 2."""
    if degree < 2:
        return x[..., : degree * x.shape[-1]]
    i, j = torch.triu_indices(x.shape[-1], x.shape[-1])
    return torch.cat([x, x[..., i] * x[..., j]], -1)


def temporal_differences(
    here: Tensor,
    ahead: Tensor,
    discount: float,
    q: Tensor,
    target: Tensor,
    weight: Tensor,
    missing: float,
) -> Tensor | None:
    """The change [p] of a polynomial's coefficients by which TD errors are smallest.

    Regressing the errors e = target - q on features phi moves the coefficients of Q by w, and the
    errors to e - (phi - gamma phi') w. Where repeating that converges the limit is taken (LSTD-Q),
    else one regression.

    Source: Lagoudakis and Parr, Least-squares policy iteration, JMLR 4, 2003.

    Args:
        here, ahead: phi, and the mean of phi' [n, p], the constant first. discount: gamma.
        q, target, weight: of transitions, [n].
        missing: share of the targets' variance that may be left.

    Returns:
        None where one regression leaves more.
    """
    error = target - q
    size = here.square().mean(0).sqrt().clamp(min=1e-12)
    here, ahead = here / size, ahead / size
    weighed = weight.unsqueeze(-1) * here
    inverse = torch.linalg.pinv(weighed.mT @ here, rtol=RANK, hermitian=True)
    change = inverse @ (weighed.mT @ error)
    share = weighed[:, 0] / weighed[:, 0].sum()
    left = share @ (error - here @ change).square()
    told = share @ (target - share @ target).square()
    if left > missing * told:
        return None
    passed = discount * inverse @ (weighed.mT @ ahead)
    if torch.linalg.eigvals(passed).abs().max() < 1:
        change = torch.linalg.solve(torch.eye(len(passed)).to(passed) - passed, change)
    return change / size
