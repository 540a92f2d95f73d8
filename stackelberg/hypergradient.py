"""The leader's hypergradient: one formula a function, tensors in, tensors out.

Notation (M leaders, N streams, T steps; S states, A leader actions, B follower actions):
f(a|s) is the leader's policy, g(b|s,a) the follower's soft best response at temperature beta.

    delta(s,a,b) = Q_L(s,a,b) - V_L(s,a)            benefit: what the follower's choice was worth
    e_k          = sum_{t<k} gamma_F^{k-t} gamma_L^t delta_t           benefit trace, exclusive
    e+_k         = e_k + gamma_L^k delta_k                             benefit trace, inclusive
    grad J       = E sum_k grad log f(a_k|s_k) [gamma_L^k A_L(s_k,a_k) + e_k A_F(s_k,a_k) / beta]

Where it comes from: the policy gradient on both players has the factor grad log g = (grad Q_F -
grad V_F) / beta; benefits have mean zero given (s, a), so grad V_F drops out; grad Q_F is a sum of
scores over the rest of the same episode, and swapping the two sums leaves one scan over time.

*A follower that does not see a_k.* Its Q_F(s,b) = sum_a f(a|s) q_F(s,a,b) depends on f at the
present state too, so the sum over scores starts at k = t: the trace is e+, the benefit is
delta(s,b) = sum_a f(a|s) Q_L(s,a,b) - V_L(s), and A_F becomes q_F(s,a,b) - Q_F(s,b).

*A design x.* There are no scores of leader actions; r_L, r_F, P and mu depend on x, b_k meets
r_F(.; x) at its own step, so again the trace is e+ (`design_surrogate`).

Source: Kudo, Tanabe, Wachi, Akimoto, ICAPS 2026, arXiv:2603.14867 (covariance form of grad log g);
the one-scan form and the expected trace are this project's; on expected traces in general see
van Hasselt et al., arXiv:2007.01839.
"""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from stackelberg.exact import (
    SoftResponse,
    expected_next,
    follower_action_value,
    joint_kernel,
    resolvent,
    split,
)
from stackelberg.model import TabularModel, spread

BLOCK = 64  # steps that a long scan takes at once; a short one takes four times as many

# ---------------------------------------------------------------- from samples


def decaying_sum(drive: Tensor, decay: float) -> Tensor:
    """y_k = decay y_{k-1} + drive_k along the last dimension, y_{-1} = 0.

    Blocks of steps at once by a triangular matrix, the blocks' ends by the same recursion: no
    loop over time, no division, linear in T.

    Args:
        drive: [..., T]. decay: in [0, 1].
    """
    length = drive.shape[-1]
    if length <= 4 * BLOCK:
        return drive @ _powers(decay, length).to(drive)
    blocks = -(-length // BLOCK)
    padded = torch.nn.functional.pad(drive, (0, blocks * BLOCK - length))
    powers = _powers(decay, BLOCK).to(drive)
    inside = padded.unflatten(-1, (blocks, BLOCK)) @ powers
    ends = decaying_sum(inside[..., -1], decay**BLOCK)
    before = torch.nn.functional.pad(ends[..., :-1], (1, 0)).unsqueeze(-1)
    return (inside + before * (decay * powers[0])).flatten(-2)[..., :length]


@lru_cache(maxsize=64)
def _powers(decay: float, length: int) -> Tensor:
    """[length, length]: decay^(k - j) where j <= k, else 0."""
    lag = torch.arange(length) - torch.arange(length).unsqueeze(-1)
    return torch.where(lag >= 0, decay ** lag.clamp(min=0).double(), 0.0)


def restarting_sum(drive: Tensor, time: Tensor, decay: float) -> Tensor:
    """`decaying_sum` that starts anew wherever `time` is 0.

    Args:
        drive: [..., T]. decay: in [0, 1].
        time: step within the episode [..., T]; 0 starts a new one.
    """
    total = decaying_sum(drive, decay)
    if (time[..., 1:] != 0).all():
        return total
    start = torch.arange(time.shape[-1], device=time.device) - time  # of the episode
    earlier = total.gather(-1, (start - 1).clamp(min=0))  # what came before is taken off again
    return torch.where(start > 0, total - decay ** (time + 1).to(drive) * earlier, total)


def remaining_sum(drive: Tensor, time: Tensor, decay: float) -> Tensor:
    """y_k = drive_k + decay y_{k+1}, up to the end of the episode or of the sample.

    Args:
        drive: [..., T]. decay: in [0, 1].
        time: step within the episode [..., T]; 0 starts a new one.
    """
    total = decaying_sum(drive.flip(-1), decay).flip(-1)
    starts = time[..., 1:] == 0
    if not starts.any():
        return total
    length = time.shape[-1]
    step = torch.arange(length, device=time.device)
    ahead = torch.nn.functional.pad(torch.where(starts, step[1:], length), (0, 1), value=length)
    start = ahead.flip(-1).cummin(-1).values.flip(-1)  # of the next episode, whose sum comes off
    later = torch.nn.functional.pad(total, (0, 1)).gather(-1, start)
    return total - decay ** (start - step).to(drive) * later


def inclusive_benefit_trace(
    benefit: Tensor, time: Tensor, leader_discount: float, follower_discount: float
) -> Tensor:
    """e+_k = gamma_F e+_{k-1} + gamma_L^k delta_k, from 0 at every episode's start.

    Args:
        benefit: delta_k [..., T]. time: step within the episode [..., T]; 0 starts a new one.
    """
    return restarting_sum(leader_discount ** time.to(benefit) * benefit, time, follower_discount)


def benefit_trace(
    benefit: Tensor, time: Tensor, leader_discount: float, follower_discount: float
) -> Tensor:
    """e_0 = 0, e_{k+1} = gamma_F (e_k + gamma_L^k delta_k), from 0 at every episode's start.

    The step's own benefit is left out: given (s_k, a_k) it has mean zero.

    Args:
        benefit: delta_k [..., T]. time: step within the episode [..., T]; 0 starts a new one.
    """
    drive = leader_discount ** time.to(benefit) * benefit
    return restarting_sum(drive, time, follower_discount) - drive


def stackelberg_advantage(
    leader_advantage: Tensor,
    follower_advantage: Tensor,
    trace: Tensor,
    discount_weight: Tensor,
    temperature: float | Tensor,
) -> Tensor:
    """gamma_L^k A_L + e_k A_F / beta: what multiplies grad log f(a_k|s_k), all [..., T].

    Args:
        leader_advantage: V_L(s,a) - V_L(s).
        follower_advantage: V_F(s,a) - E_f V_F(s,.) with the exclusive trace; for a follower that
            does not see a_k, q_F(s,a,b) - E_f q_F(s,.,b) with the inclusive trace.
        trace: the benefit trace, sampled or expected. discount_weight: gamma_L^k.
        temperature: beta, or one for each of M leaders whose tensors are [M, N, T].
    """
    direct = discount_weight * leader_advantage
    return torch.addcmul(direct, trace, follower_advantage / spread(temperature, 2))


def policy_surrogate(log_prob: Tensor, advantage: Tensor, episodes: Tensor) -> Tensor:
    """[M] whose gradient is (1/episodes) sum_k grad log f(a_k|s_k) advantage_k.

    Args:
        log_prob: attached log f(a_k|s_k) [M, N, T]. advantage: [M, N, T], constant.
        episodes: [M] episodes begun in the sample.

    Exact when: critics are true and episodes last until gamma^T is negligible; then unbiased.
    """
    return (log_prob * advantage.detach()).sum((-2, -1)) / episodes


def design_surrogate(
    rewards: Tensor,
    log_transition: Tensor,
    next_value: Tensor,
    weight: Tensor,
    discount: float,
    episodes: Tensor,
) -> Tensor:
    """[M] whose gradient is E sum_k w_k [grad r + gamma grad log P(s_{k+1}|s_k,b_k) v(s_{k+1})].

    The direct term has w_k = gamma_L^k and the leader's r, gamma, v; the indirect term has
    w_k = e+_k / beta and the follower's. A design that moves the initial distribution adds
    log mu(s_0) V_L(s_0) at each start.

    Args:
        rewards: attached r(s_k, b_k; x) [M, N, T].
        log_transition: attached log P(s_{k+1} | s_k, b_k; x) [M, N, T].
        next_value: v(s_{k+1}) [M, N, T], 0 after an ending; any function of (s_k, b_k) may be
            subtracted, and its conditional mean makes the variance that of a TD error.
        weight: [M, N, T]. episodes: [M] episodes begun in the sample.
    """
    signal = rewards + discount * log_transition * next_value.detach()
    return (signal * weight.detach()).sum((-2, -1)) / episodes


def expected_trace_targets(
    trace: Tensor, benefit: Tensor, leader_discount: float, follower_discount: float
) -> Tensor:
    """TD targets, backwards in time, of the expected trace e-bar(s) = E[e_k | s_k = s].

    e-bar(s_{k+1}) regresses on (gamma_F / gamma_L) (e-bar(s_k) + delta_k) with weight
    gamma_L^{k+1}, and e-bar(s_0) on 0 with weight 1; e_k is then estimated by gamma_L^k e-bar(s_k).

    Args:
        trace: e-bar(s_k) as estimated so far [..., T]. benefit: delta_k [..., T].
        leader_discount: in (0, 1).
    Returns: the targets for s_{k+1} [..., T].
    """
    return follower_discount / leader_discount * (trace + benefit)


# ---------------------------------------------------------------- from a tabular model


class Critics(NamedTuple):
    """Everything that the expected hypergradient needs, as tables; nothing has a gradient."""

    objective: Tensor  # [M] sum_s mu(s) V_L(s)
    leader_state_value: Tensor  # [M, S] V_L(s)
    leader_action_value: Tensor  # [M, S, A, B] Q_L(s,a,b)
    leader_value: Tensor  # [M, S, A] V_L(s,a) = E_g Q_L
    follower_state_value: Tensor  # [M, S] E_f V_F(s,.)
    follower_value: Tensor  # [M, S, A] V_F(s,a)
    follower_action_value: Tensor  # [M, S, A, B] q_F(s,a,b)
    benefit: Tensor  # [M, S, A, B] delta; constant over a where the follower cannot see a
    visitation: Tensor  # [M, S] d(s) = E sum_k gamma_L^k 1[s_k = s]
    trace: Tensor  # [M, S] c(s) = E sum_k e_k 1[s_k = s]
    policy: Tensor  # [M, S, A] f
    response: Tensor  # [M, S, A, B] g


@torch.no_grad()
def tabular_critics(model: TabularModel, policy: Tensor, response: SoftResponse) -> Critics:
    """Values, visitation and expected benefit trace by adjoint solves with one S x S matrix.

        V_L = r_L + gamma_L P V_L,   d = mu + gamma_L P' d,
        c(s') = gamma_F sum_sab P(s'|s,a,b) f(a|s) g(b|s,a) [c(s) + d(s) delta(s,a,b)].

    Args:
        model: the true or a learned model. policy: f [M, S, A].
        response: the follower's behaviour, with its values.

    Exact when: the model is.
    """
    g = response.policy
    kernel = joint_kernel(model, policy, g)
    factors = torch.linalg.lu_factor(resolvent(kernel, model.leader_discount, model.classes))

    def solved(given: Tensor, adjoint: bool = False) -> Tensor:
        found = torch.linalg.lu_solve(*factors, split(given, model.classes), adjoint=adjoint)
        return found.flatten(-3)

    state_value = solved((policy * (g * model.leader_reward).sum(-1)).sum(-1))
    visitation = solved(model.initial.expand(state_value.shape), adjoint=True)
    action_value = model.leader_reward + model.leader_discount * expected_next(model, state_value)
    value = (g * action_value).sum(-1)
    benefit = follower_benefit(policy, action_value, value, model.follower_observes_action)

    if model.follower_discount != model.leader_discount:
        factors = torch.linalg.lu_factor(resolvent(kernel, model.follower_discount, model.classes))
    weight = policy.unsqueeze(-1) * g * benefit * visitation[..., None, None]
    arrivals = torch.einsum("...sab,...sabt->...t", weight, model.transition)
    trace = solved(model.follower_discount * arrivals, adjoint=True)
    return Critics(
        (model.initial * state_value).sum(-1),
        state_value,
        action_value,
        value,
        response.state_value,
        response.value,
        follower_action_value(model, response.state_value),
        benefit,
        visitation,
        trace,
        policy,
        g,
    )


def follower_benefit(policy: Tensor, action_value: Tensor, value: Tensor, observes: bool) -> Tensor:
    """delta [M, S, A, B]: Q_L(s,a,b) - V_L(s,a), or its f-average where the follower cannot see a.

    Args:
        action_value: Q_L [M, S, A, B]. value: V_L(s,a) [M, S, A].
        observes: does the follower see the leader's action?
    """
    benefit = action_value - value.unsqueeze(-1)
    if observes:
        return benefit
    return (policy.unsqueeze(-1) * benefit).sum(-2, keepdim=True).expand(benefit.shape)


def surrogates(critics: Critics, model: TabularModel, policy: Tensor) -> tuple[Tensor, Tensor]:
    """The direct and the indirect part of the hypergradient, as gradients of [M] each.

    `direct_surrogate` and `indirect_surrogate` with the action values of the model, values of s'
    held fixed, so that a design's rewards and transitions are attached; and sum_s mu(s) V_L(s).
    """
    state_value = critics.leader_state_value
    leader = model.leader_reward + model.leader_discount * expected_next(model, state_value)
    follower = follower_action_value(model, critics.follower_state_value)
    start = (model.initial * state_value).sum(-1)
    observes = model.follower_observes_action
    return (
        start + direct_surrogate(critics, policy, leader),
        indirect_surrogate(critics, policy, follower, model.temperature, observes),
    )


def direct_surrogate(critics: Critics, policy: Tensor, action_value: Tensor) -> Tensor:
    """[M] whose gradient is the leader's own policy (and design) gradient, the follower held fixed.

    sum_sab d(s) f(a|s) g(b|s,a) Q(s,a,b), where f and Q are attached to the leader's parameters and
    everything else is constant.

    Args:
        action_value: Q_L(s,a,b) = r_L + gamma_L sum_s' P V_L(s') [M, S, A, B].
    """
    per_state = (policy * (critics.response * action_value).sum(-1)).sum(-1)
    return (critics.visitation * per_state).sum(-1)


def indirect_surrogate(
    critics: Critics,
    policy: Tensor,
    action_value: Tensor,
    temperature: float | Tensor,
    observes: bool,
) -> Tensor:
    """[M] whose gradient is the part of the hypergradient that runs through the follower.

    With w(s,a,b) = g(b|s,a) [c(s) + d(s) delta(s,a,b)] and q_F = r_F + gamma_F sum_s' P V_F(s'),
    a follower that sees a_k gives

        (1/beta) { sum_sa c(s) f(a|s) V_F(s,a) + sum_sab fbar(a|s) w(s,a,b) q_F(s,a,b) },

    one that does not gives (1/beta) sum_sab f(a|s) w(s,a,b) q_F(s,a,b). Attached are f and q_F;
    fbar is the constant copy of f.

    Args:
        action_value: q_F(s,a,b) = r_F + gamma_F sum_s' P V_F(s') [M, S, A, B].
        temperature: beta, or one for each leader [M].
        observes: does the follower see the leader's action?
    """
    trace = critics.trace[..., None, None]
    visits = critics.visitation[..., None, None]
    weight = critics.response * (trace + visits * critics.benefit)
    if not observes:
        return (policy.unsqueeze(-1) * weight * action_value).sum((-3, -2, -1)) / temperature
    arrived = (critics.trace * (policy * critics.follower_value).sum(-1)).sum(-1)
    moved = (critics.policy.unsqueeze(-1) * weight * action_value).sum((-3, -2, -1))
    return (arrived + moved) / temperature


def exchange_rate(critics: Critics, temperature: float | Tensor) -> Tensor:
    """rho(s) = c(s) / (beta d(s)) [M, S]: the leader's price of a unit of the follower's value.

    The leader climbs V_L(s,a) + rho(s) V_F(s,a); where rho > 0 it pays to please the follower,
    where rho < 0 to displease it. 0 in states that are never visited.
    """
    visited = critics.visitation > 0
    rate = critics.trace / torch.where(visited, critics.visitation, 1.0) / spread(temperature, 1)
    return torch.where(visited, rate, 0.0)
