"""What the leader learns of a linear-quadratic game: its matrices, by least squares."""

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from gymnasium import spaces
from torch import Tensor

from stackelberg import linear
from stackelberg.access import TrajectoriesAccess
from stackelberg.game import Game
from stackelberg.linear_model import LinearAnswer, LinearModel, LinearPolicy, linear_policy
from stackelberg.rollout import Trajectories
from stackelberg.types import Commitment

RESOLVED = 1e-6  # of a feature's size: along what varies less, observations in single precision err
ROUNDING = 1e-9  # of it: what varies less is rounding error itself
TINY = 1e-300
WIDE = 10.0  # how many times the target the prior has it that a feature may make
DOUBT = 10.0  # steps of play that outweigh what the follower is predicted to do
CURVED = 1e-6  # of a bump's largest curvature: what curves less is rounding


class Fit(NamedTuple):
    """Least squares for each of M leaders."""

    weights: Tensor  # [M, p, q]
    residual: Tensor  # [M, q, q] sum of the residuals' products
    rank: Tensor  # [M] of the features that were told apart


class Regression:
    """Least squares of q targets on p features over all rows that M leaders have ever seen.

    Kept is the triangular factor R with R'R = sum of x x' over rows x = (features, targets):
    rounding is that of the data, not that of their squares.
    """

    def __init__(self, leaders: int, features: int, targets: int) -> None:
        size = features + targets
        self.features = features
        self.factor = torch.zeros(leaders, size, size, dtype=torch.float64)
        self.rows = torch.zeros(leaders, dtype=torch.float64)

    def add(self, features: Tensor, targets: Tensor, told: Tensor | None = None) -> None:
        """Take in rows [M, n, p] and [M, n, q], all or those that are `told` [M, n]."""
        rows = torch.cat([features, targets], -1)
        told = torch.ones_like(rows[..., 0]) if told is None else told.to(rows)
        rows = torch.where(told.unsqueeze(-1) > 0, rows, 0.0)
        self.factor = torch.linalg.qr(torch.cat([self.factor, rows], 1), mode="r").R
        self.rows = self.rows + told.sum(-1)

    def solve(self) -> Fit:
        """Ridge regression, by as much as the residuals call for.

            min |target - features w|^2 + lambda |size w|^2,   lambda = noise p / (100 |target|^2)

        with the size of each feature over all rows and the variance that plain least squares
        leaves: a normal prior, of weights that make every feature ten times the target. What
        varies too little to be told from noise is shared among the features that go with it.
        """
        p = self.features
        across, own = self.factor[:, :p, :p], self.factor[:, :p, p:]
        size = across.norm(dim=1).clamp(min=TINY)
        left, values, right = torch.linalg.svd(across / size.unsqueeze(1))
        kept = values > ROUNDING * values[:, :1]
        rank = kept.sum(-1)
        along = left.mT @ own
        rest = self.factor[:, p:, p:].square().sum(1)
        rest = rest + torch.where(kept.unsqueeze(-1), 0.0, along.square()).sum(1)
        noise = rest / (self.rows - rank).clamp(min=1).unsqueeze(-1)
        whole = self.factor[:, :, p:].square().sum(1).clamp(min=TINY)
        ridge = p * noise / (WIDE**2 * whole)  # [M, q]
        values = torch.where(kept, values, 0.0).unsqueeze(-1)
        shrunk = values / (values.square() + ridge.unsqueeze(1)).clamp(min=TINY)
        weights = right.mT @ (shrunk * along) / size.unsqueeze(-1)
        missed = torch.cat([own - across @ weights, self.factor[:, p:, p:]], 1)
        return Fit(weights, missed.mT @ missed, rank)

    def unexplained(self) -> Tensor:
        """The share of every target's variance that is left over, [M, q]; 1 if it has none.

        The first feature has to be constant.
        """
        p = self.features
        varied = self.factor[:, 1:, p:].square().sum(1)
        left = self.solve().residual.diagonal(dim1=1, dim2=2)
        return torch.where(varied > 0, left / torch.where(varied > 0, varied, 1.0), 1.0)


class LinearCritics(NamedTuple):
    """A linear-quadratic game as it is learned, or is, and what play in it is worth."""

    objective: Tensor  # [M]
    leader_state_value: Tensor  # [M, 1] its size, at which rounding errors are judged
    visitation: Tensor  # [M, n] gamma_L^t of the sampled points, per episode; 0 where play arrived
    model: LinearModel
    policy: LinearPolicy
    answer: LinearAnswer  # of the followers


class LinearMemory:
    """Regressions on all transitions that M leaders have seen, each its own.

    With z = (1, s, a, b), s' is regressed on z, and both rewards on the products of z. If the
    leader's is a bump, it is its logarithm that is quadratic: where it has never been paid less
    than 0, the form that leaves less of the variance unexplained is taken; a sum of the two is not
    found. Nothing is forgotten but what the follower did: it did so in answer to the leader of its
    time.

    A leader knows how its own design enters the game. What was seen under other designs is
    corrected by the known difference between them, so that it counts, too; a design's bump is its
    own and known.

    Not identified: what depends on directions of z that play has not spread over, as the actions of
    a leader without noise apart from its state, or their squares where the noise is small (1e-3).
    Their part is shared among the features that they go with (`Regression.solve`), which predicts
    the play that was seen. Observations are in single precision.

    Kept are triangular factors of (1 + K + n)^2 and of (K (K + 1) / 2 + 2)^2 numbers per leader.

    Args:
        estimate_temperature: the leaders are not told the follower's, and estimate it whenever they
            look for their critics.
    """

    temperature: float | Tensor

    def __init__(self, game: Game, leaders: int, estimate_temperature: bool = False) -> None:
        self.game, self.estimates = game, estimate_temperature
        self.temperature = game.temperature
        if estimate_temperature:
            self.temperature = torch.ones(leaders, dtype=torch.float64)
        self.reference = _middle(game)
        self.known = game.matrices(self.reference).map(torch.Tensor.detach)
        size = self.known.transition.shape[-1]
        self.states, self.chosen = self.known.states, self.known.follower_actions
        pairs = size * (size + 1) // 2
        self.transition = Regression(leaders, size, self.states)
        self.rewards = Regression(leaders, pairs, 2)  # the leader's, the follower's
        self.logarithm = Regression(leaders, pairs, 1)  # -2 log r_L
        self.losses = torch.zeros(leaders, dtype=torch.float64)  # steps that paid less than 0
        self.starts = Regression(leaders, 1, self.states)
        watched = size - self.chosen if self.known.follower_observes_action else 1 + self.states
        self.behaviour = Regression(leaders, watched, self.chosen)  # of the last own play

    @torch.no_grad()
    def update(self, seen: Trajectories, own: bool = True) -> None:
        """Take in one batch of trajectories; see `stackelberg.critics.Memory`."""
        situation, z, after = rows(seen)
        following = after[..., 1:]
        leader, follower = seen.leader_reward.flatten(1), seen.follower_reward.flatten(1)
        products = pairs_of(z)
        if seen.design is not None:
            then = _of_streams(self.game, seen.design, seen.time.shape[-1])
            following = following - _times(then.transition - self.known.transition, z)
            leader = leader + _form(then.leader_cost - self.known.leader_cost, z)
            follower = follower + _form(then.follower_cost - self.known.follower_cost, z)
            if then.bump is not None:
                leader = leader - then.height * (-_times(then.bump, z).square().sum(-1) / 2).exp()
        else:
            paid = leader > 0
            self.losses = self.losses + (leader < 0).sum(-1)
            logarithm = -2 * torch.where(paid, leader, 1.0).log()
            self.logarithm.add(products, logarithm.unsqueeze(-1), paid)
        self.transition.add(z, following)
        self.rewards.add(products, torch.stack([leader, follower], -1))
        first = seen.time.flatten(1) == 0
        self.starts.add(z[..., :1], z[..., 1 : 1 + self.states], first)
        if own:
            fresh = Regression(len(z), self.behaviour.features, self.chosen)
            fresh.add(situation[..., : fresh.features], z[..., situation.shape[-1] :])
            self.behaviour = fresh

    def model(self, commitment: Commitment) -> LinearModel:
        """The learned matrices, [M, ...] each, attached to a design where the commitment is one."""
        fit, paid = self.transition.solve(), self.rewards.solve()
        spare = (self.transition.rows - fit.rank).clamp(min=1).view(-1, 1, 1)
        start = self.starts.solve()
        leader, follower = (forms_of(paid.weights.mT[:, i]) for i in (0, 1))
        learned: dict[str, Any] = {
            "transition": fit.weights.mT,
            "noise": fit.residual / spare,
            "initial_mean": start.weights[:, 0],
            "initial_covariance": start.residual / self.starts.rows.clamp(min=1).view(-1, 1, 1),
            "leader_cost": -leader,
            "follower_cost": -follower,
            "temperature": self.temperature,
        }
        true = self.game.matrices(commitment.design)
        if commitment.design is None:
            return replace(true, **learned | self._bump(-leader))
        for name in ("transition", "leader_cost", "follower_cost"):
            learned[name] = learned[name] + (getattr(true, name) - getattr(self.known, name))
        return replace(true, **learned)

    def _bump(self, cost: Tensor) -> dict[str, Any]:
        """The leader's cost, bump and height: a bump where it explains more, else none."""
        told = (self.losses == 0) & (self.logarithm.rows > self.logarithm.features)
        bumpy = told & (self.logarithm.unexplained() < self.rewards.unexplained())[:, 0]
        if not bumpy.any():
            return {"leader_cost": cost, "bump": None}
        weights = self.logarithm.solve().weights
        bump, rest = _squares(forms_of(weights.mT[:, 0]))
        held = bumpy.view(-1, 1, 1)
        return {
            "leader_cost": torch.where(held, 0.0, cost),
            "bump": torch.where(held, bump, 0.0),
            "height": torch.where(bumpy, (-rest / 2).exp(), 0.0),
        }

    @torch.no_grad()
    def foresees(self, commitment: Commitment) -> Tensor:
        """Where the learned game has a best response and the leader a finite return, [M]."""
        policy = linear_policy(len(commitment.policy), self.states, commitment.box)
        return torch.isfinite(linear.objective(self.model(commitment), policy))

    @torch.no_grad()
    def critics(
        self, commitment: Commitment, follower: TrajectoriesAccess, seen: Trajectories
    ) -> LinearCritics:
        """The learned game, the followers' behaviour, and the objective that follows from them."""
        policy = linear_policy(len(commitment.policy), self.states, commitment.box).detach()
        model = self.model(commitment).detach()
        answer = self._behaviour(model, policy, follower)
        if self.estimates:
            self.temperature = likely_temperature(model, policy, answer)
            model = replace(model, temperature=self.temperature)
        objective = linear.leader_return(model, policy, answer)
        weight = self.game.leader_discount ** seen.time.double().flatten(1)
        visits = weight / seen.episodes.double().unsqueeze(-1)
        return LinearCritics(
            objective,
            objective.unsqueeze(-1),
            torch.cat([visits, torch.zeros_like(visits)], -1),
            model,
            policy,
            answer,
        )

    def _behaviour(
        self, model: LinearModel, policy: LinearPolicy, follower: TrajectoriesAccess
    ) -> LinearAnswer:
        """How the followers act: as they show it, or as they were seen to in the last own play.

        The latter is a ridge regression towards the soft best response to the learned model,
        which counts as `DOUBT` steps in every direction, a feature's size apart.
        """
        if follower.answer is not None:
            return follower.answer.detach()
        best = linear.best_response(model, policy).answer
        factor, p = self.behaviour.factor, self.behaviour.features
        across, own = factor[:, :p, :p], factor[:, :p, p:]
        count = self.behaviour.rows.view(-1, 1, 1)
        missed = own - across @ best.gain[..., :p].mT
        size = across.square().sum(1)
        gram = across.mT @ across + torch.diag_embed(size * DOUBT / count.squeeze(-1) + 1e-300)
        gain = best.gain[..., :p] + torch.linalg.solve(gram, across.mT @ missed).mT
        left = torch.cat([own - across @ gain.mT, factor[:, p:, p:]], 1)
        covariance = (left.mT @ left + DOUBT * best.covariance) / (count + DOUBT)
        blind = best.gain.shape[-1] - p
        return LinearAnswer(torch.nn.functional.pad(gain, (0, blind)), covariance)

    @property
    def _regressions(self) -> dict[str, Regression]:
        return {name: part for name, part in vars(self).items() if isinstance(part, Regression)}

    def of(self, leader: int) -> "LinearMemory":
        """What one leader has seen, a memory of its own that shares no later update."""
        one = LinearMemory(self.game, 1, self.estimates)
        one.load({name: value[leader : leader + 1] for name, value in self.state().items()})
        return one

    def state(self) -> dict[str, Tensor]:
        state = {"losses": self.losses}
        for name, part in self._regressions.items():
            state |= {f"{name}.factor": part.factor, f"{name}.rows": part.rows}
        if isinstance(self.temperature, Tensor):
            state["temperature"] = self.temperature
        return state

    def load(self, state: dict[str, Tensor]) -> None:
        self.losses = state["losses"].clone()
        for name, part in self._regressions.items():
            part.factor, part.rows = state[f"{name}.factor"].clone(), state[f"{name}.rows"].clone()
        if self.estimates:
            self.temperature = state["temperature"].clone()


def likely_temperature(model: LinearModel, policy: LinearPolicy, answer: LinearAnswer) -> Tensor:
    """The followers' temperature [M] of the greatest likelihood, 2 tr(G_bb covariance) / m.

    A soft best response has gains that do not depend on beta, and the covariance
    (beta / 2) G_bb^-1. Exact when: the model is, and the answer is a best response.
    """
    seen = answer.gain.shape[-1]
    best = linear.best_response(replace(model, temperature=1.0), policy)
    cost = linear.action_value(model, best.state_value)[:, seen:, seen:]
    found = 2 * (cost * answer.covariance).sum((1, 2)) / model.follower_actions
    return torch.where(best.solved & (found > 0), found, 1.0)


# ---------------------------------------------------------------- rows


def rows(seen: Trajectories) -> tuple[Tensor, Tensor, Tensor]:
    """(y, a) [M, n, 1 + S + k], z = (y, a, b) [M, n, K] and y' [M, n, 1 + S] of all n = N T steps.

    Under a design k = 0.
    """
    assert seen.points is not None
    steps = seen.state[0].numel()
    y = torch.nn.functional.pad(seen.points.leader.double(), (1, 0), value=1.0)
    parts = [y[:, :steps]]
    if seen.design is None:
        parts.append(seen.leader_action.flatten(1, 2).double())
    situation = torch.cat(parts, -1)
    z = torch.cat([situation, seen.follower_action.flatten(1, 2).double()], -1)
    return situation, z, y[:, steps:]


def pairs_of(z: Tensor) -> Tensor:
    """All products z_i z_j, i <= j, of [..., K]: [..., K (K + 1) / 2], the constant first."""
    i, j = torch.triu_indices(z.shape[-1], z.shape[-1])
    return z[..., i] * z[..., j]


def forms_of(weights: Tensor) -> Tensor:
    """The symmetric matrices Q [..., K, K] with z'Q z = weights' pairs_of(z)."""
    size = round(((8 * weights.shape[-1] + 1) ** 0.5 - 1) / 2)
    i, j = torch.triu_indices(size, size)
    half = torch.zeros(*weights.shape[:-1], size, size, dtype=weights.dtype)
    half[..., i, j] = weights / 2
    return half + half.mT


def _times(matrices: Tensor, z: Tensor) -> Tensor:
    """Q z [M, n, r] of Q [M, n, r, K], or of one [r, K]."""
    return (matrices @ z.unsqueeze(-1)).squeeze(-1)


def _form(matrices: Tensor, z: Tensor) -> Tensor:
    """z'Q z [M, n] of Q [M, n, K, K], or of one [K, K]."""
    return (_times(matrices, z) * z).sum(-1)


def _squares(forms: Tensor) -> tuple[Tensor, Tensor]:
    """z'Q z as |bump z|^2 + rest, bump [M, r, K] and rest [M]; what curves downwards is left out.

    The first coordinate of z is 1.
    """
    values, vectors = torch.linalg.eigh(forms[:, 1:, 1:])
    kept = values > CURVED * values[:, -1:].clamp(min=0)
    size = torch.where(kept, values, 0.0).sqrt()
    tilt = (vectors.mT @ forms[:, 1:, :1]).squeeze(-1)
    tilt = torch.where(kept, tilt / torch.where(kept, size, 1.0), 0.0)
    bump = torch.cat([tilt.unsqueeze(-1), size.unsqueeze(-1) * vectors.mT], -1)
    rank = int(kept.sum(-1).max())  # eigenvalues rise
    return bump[:, len(bump[0]) - rank :], forms[:, 0, 0] - tilt.square().sum(-1)


def _of_streams(game: Game, designs: Tensor, steps: int) -> LinearModel:
    """The known matrices under the designs [M, N, d] of streams, [M, N T, ...] each."""
    model = game.matrices(designs.flatten(0, 1)).detach()

    def along(part: Tensor) -> Tensor:
        if part.dim() < 3:
            return part
        own = part.unflatten(0, designs.shape[:2])
        return own.repeat_interleave(steps, 1)

    return model.map(along)


def _middle(game: Game) -> Tensor | None:
    """A design [1, d] to refer others to."""
    if game.leader_moves == "every step":
        return None
    assert isinstance(game.leader_space, spaces.Box)
    low, high = (
        torch.from_numpy(x).double() for x in (game.leader_space.low, game.leader_space.high)
    )
    bounded = torch.isfinite(low) & torch.isfinite(high)
    return torch.where(bounded, (low + high) / 2, 0.0)[None]
