"""What the estimators of linear-quadratic games share: signals along play, and quadratic critics.

With y = (1, s), z = (1, s, a, b), values of actions are quadratic forms of z. The signal of step k
is what the leader's own move there did, at once and by where it led,

    psi_k = grad [ r(z_k) + gamma V(s_{k+1}) ],

for the one and the other player. Its pathwise form follows the recorded chance (`Game.reenact`);
leaders that move at every step have it by their action, a = gain y + std xi, designs are that
action. Gradients are with respect to entries: the design, or gain and std.
"""

from functools import cached_property
from typing import NamedTuple, cast

import torch
from torch import Tensor

from stackelberg import linear
from stackelberg.estimators.evidence import Evidence
from stackelberg.hypergradient import restarting_sum
from stackelberg.linear_model import close, linear_policy
from stackelberg.model import spread
from stackelberg.regression import RESOLVED, LinearCritics, forms_of, pairs_of, rows
from stackelberg.types import Commitment

ENOUGH = 2  # steps for each regressor, for control variates to take more noise than they bring


class Forms(NamedTuple):
    """Values of actions as quadratic forms of z; what the follower's entropies add is left out."""

    leader: Tensor  # [M, K, K] Q_L(s,a,b) = z' leader z
    follower: Tensor  # [M, K, K] q_F(s,a,b)


class LinearSignals:
    """One estimate's signals along the iteration's play, n = N T steps for each of M leaders."""

    def __init__(self, evidence: Evidence, commitment: Commitment) -> None:
        self.evidence, self.game, self.seen = evidence, evidence.game, evidence.trajectories
        self.critics = cast(LinearCritics, evidence.critics)
        self.situation, self.z, self.after = rows(self.seen)
        self.states = self.after.shape[-1]  # 1 + S
        model, policy, answer = self.critics.model, self.critics.policy, self.critics.answer
        self.answer, self.loop = answer, close(model, policy, answer)
        self.inclusive = commitment.design is not None or not self.game.follower_observes_action
        if commitment.design is not None:
            self.entries = commitment.design
        else:
            own = linear_policy(len(self.z), model.states, commitment.box)
            self.entries = torch.cat([own.gain.flatten(1), own.std], 1)  # [M, q]

    @cached_property
    def discounts(self) -> Tensor:
        """gamma_L^k [M, n]."""
        return self.game.leader_discount ** self.seen.time.double().flatten(1)

    @cached_property
    def temperature(self) -> float | Tensor:
        return spread(self.evidence.temperature, 2)

    # ------------------------------------------------------------ the leader's own moves

    def by_entry(self, slope: Tensor) -> Tensor:
        """Slopes in the leader's actions [M, n, k] as slopes in its entries [M, n, q]."""
        if self.seen.design is not None:
            return slope
        y = self.z[..., : self.states]
        gains = (slope.unsqueeze(-1) * y.unsqueeze(-2)).flatten(2)
        return torch.cat([gains, slope * self.shocks], -1)

    @cached_property
    def shocks(self) -> Tensor:
        """xi [M, n, k] of a = gain y + std xi."""
        policy = self.critics.policy
        own = self.z[..., self.states : self.states + policy.std.shape[1]]
        return (own - self.z[..., : self.states] @ policy.gain.mT) / policy.std.unsqueeze(1)

    def pathwise(self, forms: Forms) -> tuple[Tensor, Tensor]:
        """psi of leader and follower [M, n, q] along the recorded paths.

        The leader's follows b, too, as the follower goes along with the action that it sees.
        """
        action = self._actions().requires_grad_()
        with torch.enable_grad():
            reward = self.game.reenact(*self._recorded(action))
            led = torch.nn.functional.pad(reward.observation, (1, 0), value=1.0)
            led = led.unflatten(0, self.z.shape[:2])
            found = []
            for who, form, discount in (
                (reward.leader_reward, forms.leader, self.game.leader_discount),
                (reward.follower_reward, forms.follower, self.game.follower_discount),
            ):
                worth = who.view(led.shape[:2]) + discount * self._state_value(form, led)
                (slope,) = torch.autograd.grad(
                    worth.sum(), action, retain_graph=True, materialize_grads=True
                )
                found.append(slope.double().unflatten(0, self.z.shape[:2]))
        leader, follower = found
        if self.seen.design is None:
            going = self.answer.gain[..., self.states :]  # along with a
            chosen = self.situation.shape[-1]
            leader = leader + 2 * self.z @ forms.leader[:, :, chosen:] @ going
        return self.by_entry(leader), self.by_entry(follower)

    def scores(self, forms: Forms) -> tuple[Tensor, Tensor]:
        """psi of leader and follower [M, n, q] as scores, of the transition or of the action.

        grad r + gamma grad log P(s_{k+1}|s_k,b_k) V(s_{k+1}) of designs; grad log f(a_k|s_k) A of
        others, A_L and A_F (q_F - E_f q_F for a follower that does not see a_k).
        """
        if self.seen.design is None:
            return self._action_scores(forms)
        action = self._actions().requires_grad_()
        with torch.enable_grad():
            recorded = self._recorded(action)
            reward, density = self.game.reenact(*recorded), self.game.log_transition(*recorded)
            found = []
            for who, form, discount in (
                (reward.leader_reward, forms.leader, self.game.leader_discount),
                (reward.follower_reward, forms.follower, self.game.follower_discount),
            ):
                value = discount * self._state_value(form, self.after).flatten()
                worth = (who + value * density).sum()
                (slope,) = torch.autograd.grad(worth, action, retain_graph=True)
                found.append(slope.double().unflatten(0, self.z.shape[:2]))
        return found[0], found[1]

    def _action_scores(self, forms: Forms) -> tuple[Tensor, Tensor]:
        inverse = 1 / self.critics.policy.std.unsqueeze(1)
        y, xi = self.z[..., : self.states], self.shocks
        gains = ((xi * inverse).unsqueeze(-1) * y.unsqueeze(-2)).flatten(2)
        score = torch.cat([gains, (xi.square() - 1) * inverse], -1)
        leader = self._value_of(forms.leader, self.answered) - self._state_value(forms.leader, y)
        if self.inclusive:  # the follower does not see a
            follower = _at(forms.follower, self.z) - self._blind_value(forms.follower)
        else:
            follower = self._value_of(forms.follower, self.answered)
            follower = follower - self._state_value(forms.follower, y)
        return score * leader.unsqueeze(-1), score * follower.unsqueeze(-1)

    def _actions(self) -> Tensor:
        """What the leader did at every step, [M n, k]."""
        if self.seen.design is not None:
            each = self.seen.design.repeat_interleave(self.seen.time.shape[-1], 1)
            return each.flatten(0, 1).detach().clone()
        return self.z[..., self.states : self.situation.shape[-1]].flatten(0, 1).clone()

    def _recorded(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        y, chosen = self.z[..., 1 : self.states], self.z[..., self.situation.shape[-1] :]
        return y.flatten(0, 1), action, chosen.flatten(0, 1), self.after[..., 1:].flatten(0, 1)

    # ------------------------------------------------------------ quadratic forms

    def _state_value(self, form: Tensor, y: Tensor) -> Tensor:
        """E[z' form z | y] [M, n]."""
        rest = (form * self.loop.scatter).sum((1, 2))
        return _at(form, y @ self.loop.span.mT) + rest.unsqueeze(1)

    @property
    def answered(self) -> Tensor:
        """(y, a, E b) [M, n, K]."""
        return torch.cat([self.situation, self.situation @ self.answer.gain.mT], -1)

    def _value_of(self, form: Tensor, answered: Tensor) -> Tensor:
        """E_b z' form z [M, n], where b is as expected in `answered`."""
        b = self.situation.shape[-1]
        rest = (form[:, b:, b:] * self.answer.covariance).sum((1, 2))
        return _at(form, answered) + rest.unsqueeze(1)

    def _blind_value(self, form: Tensor) -> Tensor:
        """E_a z' form z [M, n], b as it was."""
        k = slice(self.states, self.situation.shape[-1])
        mean = self.z.clone()
        mean[..., k] = self.z[..., : self.states] @ self.critics.policy.gain.mT
        rest = (form[:, k, k] * torch.diag_embed(self.critics.policy.std.square())).sum((1, 2))
        return _at(form, mean) + rest.unsqueeze(1)

    def benefits(self, form: Tensor) -> Tensor:
        """delta [M, n] of Q_L = z' form z."""
        if not self.inclusive:
            return _at(form, self.z) - self._value_of(form, self.answered)
        worth = _at(form, self.z) if self.seen.design is not None else self._blind_value(form)
        return worth - self._state_value(form, self.z[..., : self.states])

    def covariance(self, form: Tensor, others: Tensor) -> Tensor:
        """Cov_b(z' form z, z' other z) [M, n, q] in the situations met, others [M, q, K, K].

        Of b ~ N(m, C): 4 z' form_.b C other_b. z + 2 tr(form_bb C other_bb C) at b = m; a follower
        that does not see a meets the mean over a of both forms.
        """
        b, spreading = self.situation.shape[-1], self.answer.covariance
        where = self.answered
        if self.inclusive and self.seen.design is None:
            where = where.clone()
            y = self.z[..., : self.states]
            where[..., self.states : b] = y @ self.critics.policy.gain.mT
        slope = 4 * where @ form[:, :, b:] @ spreading  # [M, n, m]
        tilts = torch.einsum("mqbk,mnk->mnqb", others[:, :, b:], where)
        bent = spreading @ form[:, b:, b:] @ spreading
        curved = 2 * torch.einsum("mij,mqij->mq", bent, others[:, :, b:, b:])
        return torch.einsum("mnb,mnqb->mnq", slope, tilts) + curved.unsqueeze(1)

    # ------------------------------------------------------------ sums along play

    def trace(self, weight: Tensor) -> Tensor:
        """sum_{t<=k} gamma_F^{k-t} w_t [M, n]; for a follower that sees a_k over t < k."""
        drive = weight.view(self.seen.time.shape)
        total = restarting_sum(drive, self.seen.time, self.game.follower_discount).flatten(1)
        return total if self.inclusive else total - weight

    def summed(self, weight: Tensor, signal: Tensor) -> Tensor:
        """(1/N) sum_k w_k psi_k as the gradient of [M]."""
        total = (weight.unsqueeze(-1) * signal).sum(1)
        return self.surrogate(total / self.seen.episodes.double().unsqueeze(-1))

    def surrogate(self, gradient: Tensor) -> Tensor:
        """[M] with this gradient [M, q] with respect to the entries."""
        return (gradient.detach() * self.entries).sum(-1)


class TemporalDifferences:
    """Least-squares TD on the products of z, whose expectation over the next a and b is closed.

        E h (f(z) - gamma E[f(z')|s'])' w = E h signal,   f(z) = (z_i z_j)

    What chance adds to s' is taken off: with u what the linear regression of s' on z leaves, h is
    f(z) less its least-squares share in u_i z_j and u_i u_j - mean. Of those, signals and f(z') are
    linear combinations beside f(z), and their expectation given z is 0: a control variate. In a
    short sample, which they would use up, they are left alone.
    Features that the play does not tell apart are left out together (`regression.RESOLVED`).
    """

    def __init__(self, signals: LinearSignals) -> None:
        loop, z = signals.loop, signals.z
        features = pairs_of(z)
        i, j = torch.triu_indices(z.shape[-1], z.shape[-1])
        self.scatter = loop.scatter[:, i, j]
        after = pairs_of(signals.after @ loop.span.mT) + self.scatter.unsqueeze(1)
        after = torch.where(signals.seen.terminated.flatten(1).unsqueeze(-1), 0.0, after)
        self.basis = _whitening(features)
        self.after, now = after, features @ self.basis  # [M, n, p], now orthonormal
        noise = _chance(z, signals.after[..., 1:])
        if noise.shape[1] < ENOUGH * (noise.shape[2] + now.shape[2]):
            noise = noise[..., :0]
        noise = noise @ _whitening(noise)
        self.instruments = now - noise @ (noise.mT @ now)
        whole = self.instruments.mT @ now
        left_out = (self.basis == 0).all(1)  # [M, p] of the basis
        self.whole = whole + torch.diag_embed(left_out.to(whole))

    def weights(self, signal: Tensor, discount: float) -> Tensor:
        """w [M, p, q] of what signals [M, n, q] add up to, discounted."""
        within = self.instruments.mT @ (self.after @ self.basis)
        found = torch.linalg.solve(self.whole - discount * within, self.instruments.mT @ signal)
        return self.basis @ found

    def fitted(self, signal: Tensor) -> Tensor:
        """w [M, p, q] of least squares."""
        return self.weights(signal, 0.0)

    def forms(self, signal: Tensor, discount: float) -> Tensor:
        """As quadratic forms [M, q, K, K]."""
        return forms_of(self.weights(signal, discount).mT)


def _chance(z: Tensor, led: Tensor) -> Tensor:
    """u_i z_j and u_i u_j - mean [M, n, ...], u what the regression of s' on z leaves."""
    told = z @ _whitening(z)
    left = led - told @ (told.mT @ led)
    i, j = torch.triu_indices(led.shape[-1], led.shape[-1])
    squares = left[..., i] * left[..., j]
    products = (left.unsqueeze(-1) * z.unsqueeze(-2)).flatten(2)
    return torch.cat([products, squares - squares.mean(1, keepdim=True)], -1)


def _whitening(features: Tensor) -> Tensor:
    """W [M, p, p] that makes features [M, n, p] orthonormal; 0 where they are not told apart."""
    size = features.norm(dim=1).clamp(min=1e-300).unsqueeze(1)
    triangle = torch.linalg.qr(features / size, mode="r").R
    _, values, right = torch.linalg.svd(triangle, full_matrices=False)
    kept = values > RESOLVED * values[:, :1]
    inverse = torch.where(kept, 1 / torch.where(kept, values, 1.0), 0.0)
    return right.mT * inverse.unsqueeze(1) / size.mT


def learned_forms(signals: LinearSignals, differences: TemporalDifferences) -> Forms:
    """Q_L and q_F by least-squares TD on the sampled rewards, without a model."""
    seen, game = signals.seen, signals.game
    leader, follower = (
        differences.forms(reward.flatten(1).unsqueeze(-1), discount).squeeze(1)
        for reward, discount in (
            (seen.leader_reward, game.leader_discount),
            (seen.follower_reward, game.follower_discount),
        )
    )
    return Forms(leader, follower)


def model_forms(critics: LinearCritics) -> Forms:
    """Q_L and q_F on the model of the critics."""
    return Forms(*linear.action_values(critics.model, critics.policy, critics.answer))


def _at(form: Tensor, z: Tensor) -> Tensor:
    """z' form z [M, n]."""
    return ((z @ form) * z).sum(-1)
