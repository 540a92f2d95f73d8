"""The forward form of the hypergradient: learn how the follower's value moves, not the past."""

import torch
from torch import Tensor

from stackelberg import hypergradient
from stackelberg.estimators.evidence import Evidence
from stackelberg.exact import follower_action_value, joint_kernel, resolvent
from stackelberg.hypergradient import Critics
from stackelberg.model import TabularModel
from stackelberg.types import Commitment


def gradient_critic(evidence: Evidence, commitment: Commitment) -> tuple[Tensor, Tensor]:
    """Vector critic H(s) = grad E_f V_F(s,.), and the covariance with Q_L at the same state.

        H        = psi + gamma_F P_fg H
        indirect = (1/beta) sum_sab d(s) f(a|s) g(b|s,a) delta(s,a,b) grad Q_F(s,a,b),
        grad Q_F = grad r_F + gamma_F sum_s' [ grad P v(s') + P H(s') ]

    psi(s) is the gradient of the follower's one-step value with its values held fixed,
    sum_a f V_F(s,a) + sum_ab f g q_F(s,a,b), and grad is with respect to the entries of the
    commitment, f(a|s) or the design; f moves grad Q_F itself where the follower cannot see a. On
    the learned model this is `expected_trace` to rounding: the forward mode of the same derivative,
    dearer by the number of entries.

    Exact when: as `expected_trace`. Source: this project.
    """
    critics, model = evidence.critics, evidence.tables.model(commitment)
    sees = model.follower_observes_action
    policy = critics.policy if sees else commitment.policy  # what grad Q_F moves with
    action_value = follower_action_value(model, critics.follower_state_value)
    part = policy.unsqueeze(-1) * critics.response * action_value
    one_step = part.sum((-2, -1))  # [M, S]
    if sees:
        one_step = one_step + (commitment.policy * critics.follower_value).sum(-1)
    entries = commitment.policy if commitment.design is None else commitment.design
    sensitivity = _solve(model.detach(), critics, _jacobian(one_step, entries))  # [M, S, entries]
    worth = critics.visitation[..., None, None] * critics.benefit
    at_once = (worth * part).sum((-3, -2, -1))
    met = critics.policy.unsqueeze(-1) * critics.response * worth
    arrivals = torch.einsum("...sab,...sabt->...t", met, model.transition.detach())
    later = model.follower_discount * torch.einsum("ms,msn->mn", arrivals, sensitivity)
    indirect = at_once + (later * entries.flatten(1)).sum(-1)
    direct, _ = hypergradient.surrogates(critics, model, commitment.policy)
    return direct, indirect / model.temperature


def _jacobian(values: Tensor, entries: Tensor) -> Tensor:
    """d values[m, s] / d entries[m, n] as [M, S, n], reverse mode over all s at once."""
    linked = values + 0 * entries.flatten(1).sum(
        -1, keepdim=True
    )  # also if nothing depends on them
    (rows,) = torch.autograd.grad(
        linked.sum(0),
        entries,
        torch.eye(values.shape[1], dtype=values.dtype),
        retain_graph=True,
        is_grads_batched=True,
    )
    return rows.flatten(2).movedim(0, 1)


def _solve(model: TabularModel, critics: Critics, signal: Tensor) -> Tensor:
    """H = signal + gamma_F P_fg H, [M, S, n]."""
    kernel = joint_kernel(model, critics.policy, critics.response)
    return torch.linalg.solve(resolvent(kernel, model.follower_discount)[..., 0, :, :], signal)
