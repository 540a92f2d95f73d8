"""Oracles of tabular games: soft best response, exact objective, exact hypergradient.

Everything is differentiable in the model and in the leader's policy, and batched over
leading dimensions. The oracles read the true model, so they judge methods and solve small
games; no sample-based method calls them to learn.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from stackelberg.model import TabularModel, spread


class SoftResponse(NamedTuple):
    """A follower's behaviour and the values it attaches to it."""

    policy: Tensor  # [M, S, A, B] g(b | s, a); constant over a where the follower cannot see a
    value: Tensor  # [M, S, A] V_F(s, a); constant over a where the follower cannot see a
    state_value: Tensor  # [M, S] E_{a ~ f} V_F(s, a)


def joint_kernel(model: TabularModel, policy: Tensor, response: Tensor) -> Tensor:
    """P_fg(s' | s) = sum_ab f(a|s) g(b|s,a) P(s'|s,a,b): [M, S, S]."""
    weight = (policy.unsqueeze(-1) * response).flatten(-2)  # [M, S, AB]
    return torch.einsum("...sk,...skt->...st", weight, model.transition.flatten(-3, -2))


def expected_next(model: TabularModel, state_value: Tensor) -> Tensor:
    """sum_s' P(s'|s,a,b) v(s'): [M, S, A, B] from v [M, S]."""
    return torch.einsum("...sabt,...t->...sab", model.transition, state_value)


def solve_values(kernel: Tensor, discount: float, reward: Tensor, classes: int = 1) -> Tensor:
    """v = reward + discount kernel v, for reward [M, S]; see `resolvent` for classes."""
    system = resolvent(kernel, discount, classes)
    return torch.linalg.solve(system, split(reward, classes)).flatten(-3)


def resolvent(kernel: Tensor, discount: float, classes: int = 1) -> Tensor:
    """1 - discount kernel, whose inverse sums over a discounted future: [M, K, S/K, S/K].

    Args:
        kernel: [M, S, S]. classes: K of `TabularModel`; only what leads from each to itself is 1's
            and the kernel's.
    """
    size = kernel.shape[-1] // classes
    blocks = kernel.unflatten(-1, (classes, size)).unflatten(-3, (classes, size))
    system = -discount * blocks.diagonal(dim1=-4, dim2=-2).movedim(-1, -3)
    system.diagonal(dim1=-2, dim2=-1).add_(1)
    return system


def split(values: Tensor, classes: int) -> Tensor:
    """Values [M, S] as the right-hand side of a `resolvent`: [M, K, S/K, 1]."""
    return values.unflatten(-1, (classes, -1)).unsqueeze(-1)


def follower_action_value(model: TabularModel, state_value: Tensor) -> Tensor:
    """q_F(s,a,b) = r_F + gamma_F sum_s' P v(s'): [M, S, A, B] from v [M, S]."""
    return model.follower_reward + model.follower_discount * expected_next(model, state_value)


def soft_response(model: TabularModel, policy: Tensor, action_value: Tensor) -> SoftResponse:
    """The Boltzmann response to q_F(s,a,b).

    g(b|s,a) = softmax_b(q_F(s,a,b) / beta), V_F(s,a) = beta log sum_b exp(q_F(s,a,b) / beta); a
    follower that cannot see a averages q_F over f(a|s) first.
    """
    if not model.follower_observes_action:
        seen = (policy.unsqueeze(-1) * action_value).sum(-2, keepdim=True)
        action_value = seen.expand(action_value.shape)
    scaled = action_value / spread(model.temperature, 3)
    value = spread(model.temperature, 2) * torch.logsumexp(scaled, -1)  # [M, S, A]
    return SoftResponse(torch.softmax(scaled, -1), value, (policy * value).sum(-1))


def follower_values(model: TabularModel, policy: Tensor, response: Tensor) -> Tensor:
    """The follower's soft value of any behaviour g: v [M, S].

    v(s) = sum_ab f g [ r_F - beta log g + gamma_F sum_s' P v(s') ].
    """
    entropy = torch.special.entr(response)  # -g log g, with 0 log 0 = 0
    per_action = response * model.follower_reward + spread(model.temperature, 3) * entropy
    reward = (policy * per_action.sum(-1)).sum(-1)
    kernel = joint_kernel(model, policy, response)
    return solve_values(kernel, model.follower_discount, reward, model.classes)


def leader_values(model: TabularModel, policy: Tensor, response: Tensor) -> Tensor:
    """V_L(s) under f and g: [M, S]."""
    reward = (policy * (response * model.leader_reward).sum(-1)).sum(-1)
    kernel = joint_kernel(model, policy, response)
    return solve_values(kernel, model.leader_discount, reward, model.classes)


def visitation(model: TabularModel, policy: Tensor, response: Tensor) -> Tensor:
    """d(s) = E sum_k gamma_L^k 1[s_k = s] under f and g: [M, S]."""
    kernel = joint_kernel(model, policy, response)
    initial = model.initial.expand(policy.shape[:-1])
    return solve_values(kernel.mT, model.leader_discount, initial, model.classes)


def leader_return(model: TabularModel, policy: Tensor, response: Tensor) -> Tensor:
    """sum_s mu(s) V_L(s) under f and g: [M]."""
    return (model.initial * leader_values(model, policy, response)).sum(-1)


@torch.no_grad()
def best_response(
    model: TabularModel,
    policy: Tensor,
    start: Tensor | None = None,
    tolerance: float = 1e-8,
    max_steps: int = 200,
) -> SoftResponse:
    """The follower's exact soft best response g*, by soft policy iteration.

    Evaluating the present policy exactly and responding softly to its values is Newton's
    method on the soft Bellman equation: monotone, quadratic near the solution, independent of
    the discount.

    Args:
        model: the game. policy: f [M, S, A].
        start: state values [M, S] to start from, for example of the last response.
        tolerance: largest last change of a state value, relative to max(1, |v|); the error that is
            left is of the order of its square.
        max_steps: bound on the Newton steps; a handful is the rule.

    Raises:
        ArithmeticError: if the iteration has not converged (not seen with finite arrays).
    """
    if start is None:
        start = torch.zeros_like(policy[..., 0])
    found = soft_response(model, policy, follower_action_value(model, start))
    for _ in range(max_steps):
        value = follower_values(model, policy, found.policy)
        change = (value - start).abs().max()
        found = soft_response(model, policy, follower_action_value(model, value))
        if change <= tolerance * value.abs().max().clamp(min=1.0):
            return found
        start = value
    raise ArithmeticError(f"no soft best response after {max_steps} Newton steps")


def sweep(
    model: TabularModel, policy: Tensor, value: Tensor, sweeps: int, backups: int = 1
) -> Tensor:
    """The state values [M, S] after `sweeps` soft policy sweeps of `backups` backups each.

    A sweep fixes g = softmax(q_F / beta) and applies v <- E_fg[r_F - beta log g + gamma_F P v]
    `backups` times; with one backup this is soft value iteration.
    """
    for _ in range(sweeps):
        found = soft_response(model, policy, follower_action_value(model, value))
        value = found.state_value  # the first backup under the fresh policy
        entropy = spread(model.temperature, 3) * torch.special.entr(found.policy)
        for _ in range(backups - 1):
            action_value = follower_action_value(model, value)
            value = (policy * (found.policy * action_value + entropy).sum(-1)).sum(-1)
    return value


def attached_best_response(
    model: TabularModel, policy: Tensor, start: Tensor | None = None
) -> SoftResponse:
    """The exact best response, with its implicit derivative in the model and the policy.

    One Newton step with everything attached: at the solution the step changes no value, and
    since d/dg of the soft value vanishes there, evaluating the *fixed* g* gives the derivative
    of the optimal value.
    """
    found = best_response(model.detach(), policy.detach(), start)
    value = follower_values(model, policy, found.policy)
    return soft_response(model, policy, follower_action_value(model, value))


def objective(model: TabularModel, policy: Tensor, start: Tensor | None = None) -> Tensor:
    """J [M] = sum_s mu(s) V_L(s) against the exact best response, differentiable.

    The discounted return over an unbounded horizon; differentiate it to have the exact
    hypergradient of any parametrisation of the policy or the model.
    """
    response = attached_best_response(model, policy, start)
    return leader_return(model, policy, response.policy)


@torch.no_grad()
def follower_gap(model: TabularModel, policy: Tensor, response: Tensor) -> Tensor:
    """What the follower loses by `response` against its best response: [M], >= 0.

    sum_s mu(s) [v*(s) - v_g(s)], in units of the follower's entropy-regularised return; rounding
    that would make it negative is cut off.
    """
    best = best_response(model, policy).state_value
    lost = best - follower_values(model, policy, response)
    return (model.initial * lost).sum(-1).clamp(min=0.0)
