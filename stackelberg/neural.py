"""What the leader learns where there are no tables: networks, fitted to a replay of all play.

    Q_L(x,a,b) -> r_L + gamma_L sum_a' f(a'|x') sum_b' g(b'|x',a') Q_L(x',a',b')
    q_F(x,a,b) -> r_F + gamma_F sum_a' f(a'|x') V_F(x',a')
    V_F(x,a)    = sum_b g(b|x,a) [Q_F(x,a,b) - beta log g(b|x,a)]

x is what leader and follower observe and who of them has left; who has left earns nothing, and
nothing follows an ending by the rules. Q_F is q_F, or its average over f for a follower that does
not observe a. f is the leader's present policy; both policies enter by sums, so that old play tells
as much of rewards and transitions as new play. g and V_F are given, or learned:

    g(b|x,a) = softmax_b( Q_F(x,a,b) / beta + h(x,a,b) ),

h by maximum likelihood on what the follower recently did, at a price on its size. Without h this
is the soft best response to what was learned, which foresees how the follower answers a change of
f before that is seen often; h is how the follower departs from it.

A follower that sees of x only o, and not a, chooses by what it expects: in g, Q_F is

    Qbar_F(o,b) = E[ sum_a f(a|x) q_F(x,a,b) | o ],

h and the benefit of b are functions of o as well, and V_F(x) is what its choice is worth in x. That
is exact in one step; in more, how f moves the odds of what is hidden, given o, is left out. So is
how the leader's move reveals what it sees, if the follower sees a but less of x (signalling): such
a follower is taken to see x.

Values are level + scale * what the networks say. The level makes the mean residual 0, which moves
all values at once, as bootstrapping would in 1 / (1 - gamma) rounds. So the networks have only
differences to learn, and a hypergradient consists of those.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from stackelberg.access import TrajectoriesAccess
from stackelberg.backward import arrivals, expected_trace
from stackelberg.errors import InputError
from stackelberg.game import Game
from stackelberg.hypergradient import Critics, follower_benefit
from stackelberg.induced import announced
from stackelberg.networks import Fitted, part_of
from stackelberg.replay import Draws, Replay, Rows, active, after, noise, points_of
from stackelberg.rollout import Trajectories
from stackelberg.types import Commitment


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How the networks are fitted; one setting for all games."""

    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers."""
    capacity: int = 50_000
    """Transitions of each leader that are kept."""
    working: int = 4096
    """Transitions that one round fits values to; of more that are kept, each round draws its own,
    half of them from the newest."""
    recent: tuple[int, int] = (1024, 8192)
    """Steps of own play that one call fits the behaviour to, at least and at most."""
    forget: float = 0.1
    """How much less they count with every call since."""
    rounds: int = 12
    """Fitted evaluations in a call, each of targets made from the values of the one before."""
    updates: int = 20
    """Steps of Adam on values in each round; of n > `working` that are kept, by sqrt(n / working)
    times as many."""
    cloning: int = 12
    """Steps of Adam on the behaviour in each round."""
    batch: int = 256
    """Transitions in a step of Adam."""
    rate: float = 4e-3
    """Adam's on values, at a call's beginning; it falls to 0 by its end."""
    cloning_rate: float = 4e-3
    """Adam's on the behaviour."""
    average: float = 0.1
    """By how much the averaged parameters, whose values are used, follow at every step."""
    shrink: float = 1e-2
    """Price of the variance of action values over (a,b), in squared errors: (a,b) that were never
    tried in x, or hardly ever, are taken to be worth what the others are. Of n > `working`
    transitions that are kept it is working / n of that."""
    depart: float = 3e-2
    """Price of h(x,a,.) at an a drawn from f in nats, for each unit of it beyond the first."""


SETTINGS = Settings()
RIDGE = 1e-4  # of what a follower expects, relative to the features' variance
NEWTON = 3  # steps on the likelihood of the temperature in each round
RANGE = 1e-3, 1e3  # of an estimated temperature, in standard deviations of Q_F over b


class Situation(NamedTuple):
    """What n points are to M leaders and followers."""

    inputs: Tensor  # [M, n, d] of the networks
    active: Tensor  # [2, M, n] 1, or 0 where the leader, the follower has left
    policy: Tensor  # [M, n, A] f
    log_response: Tensor | None  # [M, n, A, B] log g where it is given
    value: Tensor | None  # [M, n, A] V_F(x,a) where it is given


class Worth(NamedTuple):
    """Values in a situation, [2, ...] of leader and follower."""

    action_value: Tensor  # [2, M, n, A, B] Q_L and q_F
    value: Tensor  # [2, M, n, A] V_L(x,a) and V_F(x,a)
    response: Tensor  # [M, n, A, B] g


class ReplayMemory:
    """Networks of M leaders, fitted to all transitions that each leader has seen; a `Memory`.

    They are trained on from call to call. Leader m's depend on its seed and on its play alone.

    Args:
        game: with Discrete actions of both. seeds: one for each leader.
        estimate_temperature: the follower's temperature is not known: it is the maximum-likelihood
            estimate from the follower's actions, or its policy, and the learned Q_F.

    Raises:
        InputError: for actions that are not Discrete.
    """

    temperature: float | Tensor
    _within: tuple[Tensor, Tensor]  # of the present call

    def __init__(
        self, game: Game, seeds: Sequence[int], estimate_temperature: bool = False
    ) -> None:
        self.game, self.seeds, self.estimates = game, tuple(seeds), estimate_temperature
        self.shape = _count(game, "leader"), _count(game, "follower")
        count = len(self.seeds)
        self.temperature = game.temperature
        if estimate_temperature:
            self.temperature = torch.ones(count, dtype=torch.float64)
        self.level = torch.zeros(2, count, 1, dtype=torch.float64)
        self.scale = torch.ones(2, count, 1, dtype=torch.float64)
        self.calls, self.replay = 0, Replay(game, SETTINGS.capacity)
        width = game.observation_space.shape[0] + 2
        if game.observes_apart:
            width += game.follower_observation_space.shape[0]
        self.hides = game.observes_apart and not game.follower_observes_action

        def fitted(*parts: int, width: int, rate: float) -> Fitted:
            widths = [width, *SETTINGS.hidden, self.shape[0] * self.shape[1]]
            draws = [np.random.default_rng([s, 1, part]) for part in parts for s in self.seeds]
            return Fitted(draws, widths, rate=rate, average=SETTINGS.average)

        # the leaders', then the followers'
        self.values = fitted(0, 1, width=width, rate=SETTINGS.rate)
        self.width = width - game.observation_space.shape[0] if self.hides else width
        self.behaviour = fitted(2, width=self.width, rate=SETTINGS.cloning_rate)

    def update(self, seen: Trajectories, own: bool = True) -> None:
        """Keep one batch of trajectories [M, N, T] with its points.

        Args:
            own: of the M leaders themselves. Other leaders' play tells as much of the game, but
                not how these leaders' followers behave.
        """
        self.replay.add(seen, own, self.calls)

    def critics(
        self, commitment: Commitment, follower: TrajectoriesAccess, seen: Trajectories
    ) -> Critics:
        """Train on, and evaluate at the points of `seen`; see `stackelberg.critics.Memory`."""
        self._within = self._earnable()
        draws = [np.random.default_rng([seed, 2, self.calls]) for seed in self.seeds]
        recent = self.replay.recent(draws, SETTINGS.recent, SETTINGS.forget, self.calls)
        deeds = self._situation(commitment, follower, recent)
        self._train(commitment, follower, draws, recent, deeds)
        self.calls += 1
        return self._evaluated(commitment, follower, seen, deeds)

    # ------------------------------------------------------------ training

    def _train(
        self,
        commitment: Commitment,
        follower: TrajectoriesAccess,
        draws: Draws,
        recent: Rows,
        deeds: Situation,
    ) -> None:
        """In rounds: behaviour, temperature, targets, values."""
        more = max(1.0, len(self.replay) / SETTINGS.working) ** 0.5
        shrink = SETTINGS.shrink / more**2
        for done in range(SETTINGS.rounds):
            if done == 0 or more > 1:
                found = self.replay.working(draws, SETTINGS.working)
                arrival = self._situation(commitment, follower, after(found))
                inputs, weight = self.replay.inputs(found).repeat(2, 1, 1), active(found)
                cell = self._cell(found).repeat(2, 1)
            if follower.level == "trajectories":
                self._clone(deeds, recent, draws)
            if self.estimates:
                self._estimate_temperature(deeds, recent)
            target = self._settled(found, arrival, deeds, inputs, cell, weight)
            self.values.rate(SETTINGS.rate * (1 - done / SETTINGS.rounds))
            for _ in range(round(SETTINGS.updates * more)):
                rows = self._batch(draws, inputs.shape[1]).repeat(2, 1)
                where = torch.arange(len(rows)).unsqueeze(-1), rows
                said = self.values.online(inputs[where])
                error = said.gather(-1, cell[where].unsqueeze(-1)).squeeze(-1) - target[where]
                price = error**2 + shrink * said.var(-1, correction=0)
                self.values.step((weight.flatten(0, 1)[where].float() * price).mean(-1).sum())
        if follower.level == "trajectories":
            self._clone(deeds, recent, draws)

    @torch.no_grad()
    def _settled(
        self,
        found: Rows,
        arrival: Situation,
        deeds: Situation,
        inputs: Tensor,
        cell: Tensor,
        weight: Tensor,
    ) -> Tensor:
        """What the networks are to say of transitions, [2 M, W], after level and scale are set.

        Of a level c more, the target grows by gamma c where it is bootstrapped, and the value by c.
        """
        discounts = torch.tensor([self.game.leader_discount, self.game.follower_discount])
        goes_on = discounts.double().view(2, 1, 1) * ~found["terminated"]
        known = torch.tensor([False, arrival.value is not None]).view(2, 1, 1)
        lever = goes_on * arrival.active * ~known
        weight = weight / weight.sum(-1, keepdim=True).clamp(min=1)

        def mean(of: Tensor) -> Tensor:
            return (weight * of).sum(-1, keepdim=True)

        value = (arrival.policy * self._worth(arrival, deeds).value).sum(-1)
        target = found["reward"].movedim(-1, 0) + goes_on * value
        believed = self._said(inputs).gather(-1, cell.unflatten(0, (2, -1)).unsqueeze(-1))
        shift = mean(target - believed.squeeze(-1)) / mean(1 - lever).clamp(min=1e-6)
        self.level = self.level + shift
        target = target + lever * shift - self.level
        spread = mean(target**2).sqrt()
        spread = torch.where(spread > 1e-9 * self.level.abs(), spread, 1.0)
        self.values.rescale((self.scale / spread).flatten())
        self.scale = spread
        return (target / spread).flatten(0, 1).float()

    def _clone(self, deeds: Situation, recent: Rows, draws: Draws) -> None:
        """Fit h to what the follower did, by maximum likelihood."""
        with torch.no_grad():
            best = self._met(deeds, deeds) / self._beta
            best = (best - best.amax(-1, keepdim=True)).float()
        m, plays = torch.arange(len(best)).unsqueeze(-1), deeds.active[1].float()
        cell, shown = self._cell(recent).unsqueeze(-1), deeds.inputs[..., -self.width :]
        for _ in range(SETTINGS.cloning):
            where = m, self._batch(draws, best.shape[1])
            departure = self._departure(self.behaviour.online(shown[where]))
            log_prob = torch.log_softmax(best[where] + departure, -1).flatten(2)
            missed = -log_prob.gather(-1, cell[where]).squeeze(-1)
            size = ((1 + departure**2).sqrt() - 1).sum(-1)
            size = (deeds.policy[where].float() * size).sum(-1)
            self.behaviour.step((plays[where] * (missed + SETTINGS.depart * size)).mean(-1).sum())

    @torch.no_grad()
    def _estimate_temperature(self, deeds: Situation, recent: Rows) -> None:
        """Newton steps on sum_k log softmax(Q_F / beta)(b_k), which is concave in 1 / beta.

        Where g is given, its expectation over b_k takes the place of the actions drawn.

        Where actions tell nothing of Q_F, or are always the best, the estimate stays in `RANGE`.
        """
        met = self._met(deeds, deeds)
        ours, theirs = recent["action"].unbind(-1)
        done = torch.nn.functional.one_hot(theirs, self.shape[1]).double()
        ours = ours[..., None, None].expand(-1, -1, 1, self.shape[1])
        met = met.gather(2, ours).squeeze(2)
        if deeds.log_response is not None:
            done = deeds.log_response.exp().gather(2, ours).squeeze(2)
        chosen, plays = (done * met).sum(-1), deeds.active[1]
        spread = met.std(-1, correction=0).mean(-1).clamp(min=1e-30)
        for _ in range(NEWTON):
            rate = 1 / torch.as_tensor(self.temperature)
            odds = torch.softmax(met * rate.view(-1, 1, 1), -1)
            mean = (odds * met).sum(-1)
            slope = (plays * (chosen - mean)).sum(-1)
            curve = (plays * ((odds * met**2).sum(-1) - mean**2)).sum(-1).clamp(min=1e-30)
            found = 1 / (rate + slope / curve).clamp(rate / 2, rate * 2)
            self.temperature = found.clamp(RANGE[0] * spread, RANGE[1] * spread)

    # ------------------------------------------------------------ values anywhere

    @torch.no_grad()
    def _situation(
        self, commitment: Commitment, follower: TrajectoriesAccess, rows: Rows
    ) -> Situation:
        assert commitment.rule is not None
        ours, theirs = self.replay.seen_by(rows["observation"])
        policy, plays = commitment.rule(ours).exp(), active(rows)
        gone, actions = plays[0] == 0, range(self.shape[0])
        told = [announced(torch.full(policy.shape[:2], a), gone) for a in actions]
        log_response = value = None
        if follower.level != "trajectories":
            log_response = torch.stack([follower.log_prob(theirs, a) for a in told], 2).double()
        if follower.level == "value" and not self.hides:
            value = torch.stack([follower.value(theirs, a) for a in told], 2).double()
            value = value * plays[1].unsqueeze(-1)
        return Situation(self.replay.inputs(rows), plays, policy, log_response, value)

    @torch.no_grad()
    def _worth(self, at: Situation, deeds: Situation) -> Worth:
        """What the averaged networks say."""
        action_value = self._action_values(at)
        log_response = at.log_response
        if log_response is None:
            departure = self._departure(self.behaviour.averaged(at.inputs[..., -self.width :]))
            met = self._met(at, deeds)
            log_response = torch.log_softmax(met / self._beta + departure.double(), -1)
        response, value = log_response.exp(), at.value
        if value is None:
            surprise = self._beta.squeeze(-1) * torch.special.entr(response).sum(-1)
            value = (response * self._averaged(at.policy, action_value[1])).sum(-1)
            value = value + at.active[1].unsqueeze(-1) * surprise
        leader = (response * action_value[0]).sum(-1)
        return Worth(action_value, torch.stack([leader, value]), response)

    def _action_values(self, at: Situation) -> Tensor:
        """Q_L and q_F [2, M, n, A, B], 0 for who has left."""
        said = self._said(at.inputs.repeat(2, 1, 1)).unflatten(-1, self.shape)
        return said * at.active[..., None, None]

    def _said(self, inputs: Tensor) -> Tensor:
        """Q_L and q_F [2, M, n, A B] from inputs [2 M, n, d], within what can be earned."""
        said = self.values.averaged(inputs).double().unflatten(0, (2, -1))
        said = self.level.unsqueeze(-1) + self.scale.unsqueeze(-1) * said
        return said.clamp(*self._within)

    def _earnable(self) -> tuple[Tensor, Tensor]:
        """The least and the largest discounted return of rewards as they were met, [2, M, 1, 1].

        Where episodes are always cut off in some state, nothing else tells what its value is.
        """
        low, high = self.replay.rows["reward"].movedim(-1, 0).aminmax(dim=-1)
        beta = torch.as_tensor(self.temperature).expand(len(self.seeds))
        entropy = torch.stack([torch.zeros_like(beta), beta * math.log(self.shape[1])])
        discounts = torch.tensor([self.game.leader_discount, self.game.follower_discount])
        time = 1 / (1 - discounts.double()).unsqueeze(-1)
        least, most = time * low.clamp(max=0), time * (high.clamp(min=0) + entropy)
        return least[..., None, None], most[..., None, None]

    def _met(self, at: Situation, deeds: Situation) -> Tensor:
        """Q_F [M, n, A, B], by which the follower chooses."""
        if not self.hides:
            return self._averaged(at.policy, self._action_values(at)[1])
        usual = self._averaged(deeds.policy, self._action_values(deeds)[1])
        return self._expected(at.inputs, deeds.inputs, usual, deeds.active[1])

    def _averaged(self, policy: Tensor, action_value: Tensor) -> Tensor:
        """q_F [M, n, A, B], or its average over f where the follower does not observe a."""
        if self.game.follower_observes_action:
            return action_value
        mean = (policy.unsqueeze(-1) * action_value).sum(-2, keepdim=True)
        return mean.expand_as(action_value)

    def _expected(self, at: Tensor, inputs: Tensor, values: Tensor, weight: Tensor) -> Tensor:
        """E[values | o], o what the follower sees, of values that are the same for all a.

        A weighted ridge regression on the behaviour's last hidden layer.

        Args:
            at: inputs [M, n, d] at which it is told. inputs: [M, k, d] of the values [M, k, A, B],
            which count by weight [M, k].
        """
        features = self.behaviour.averaged.features
        here, there = (features(x[..., -self.width :]).double() for x in (inputs, at))
        weight = (weight / weight.sum(-1, keepdim=True).clamp(min=1e-30)).unsqueeze(-1)
        shown, centre = values[..., 0, :], (weight * here).sum(1, keepdim=True)
        mean = (weight * shown).sum(1, keepdim=True)
        here, there = here - centre, there - centre
        system = (weight * here).mT @ here
        size = system.diagonal(dim1=1, dim2=2).mean(-1, keepdim=True)
        system.diagonal(dim1=1, dim2=2).add_(RIDGE * size + 1e-30)
        slope = torch.linalg.solve(system, (weight * here).mT @ (shown - mean))
        return (mean + there @ slope).unsqueeze(-2).expand(-1, -1, self.shape[0], -1)

    def _departure(self, said: Tensor) -> Tensor:
        """h [M, n, A, B] from what the behaviour's networks say."""
        departure = said.unflatten(-1, self.shape)
        if self.game.follower_observes_action:
            return departure
        return departure.mean(-2, keepdim=True).expand_as(departure)

    @property
    def _beta(self) -> Tensor:
        return torch.as_tensor(self.temperature).view(-1, 1, 1, 1)

    def _cell(self, rows: Rows) -> Tensor:
        """(a,b) as one index."""
        return rows["action"][..., 0] * self.shape[1] + rows["action"][..., 1]

    def _batch(self, draws: Draws, count: int) -> Tensor:
        """Rows [M, batch] out of `count`."""
        return (noise(draws, SETTINGS.batch) * count).long()

    # ------------------------------------------------------------ critics

    @torch.no_grad()
    def _evaluated(
        self,
        commitment: Commitment,
        follower: TrajectoriesAccess,
        seen: Trajectories,
        deeds: Situation,
    ) -> Critics:
        game, taken = self.game, seen.state[0].numel()
        at = self._situation(commitment, follower, self.replay.at(points_of(seen)))
        action_value, value, response = self._worth(at, deeds)
        state_value = (at.policy * value).sum(-1)
        benefit = follower_benefit(
            at.policy, action_value[0], value[0], game.follower_observes_action
        )
        time, discounts = seen.time.flatten(1), (game.leader_discount, game.follower_discount)
        weight, lasting = torch.zeros_like(state_value).unbind()
        weight[:, :taken] = game.leader_discount ** time.double()
        lasting[:, :taken] = max(discounts) ** time.double()
        if self.hides:
            count = weight * at.active.prod(0)
            benefit = self._expected(at.inputs, at.inputs, benefit, count)
            benefit = benefit - (response * benefit).sum(-1, keepdim=True)
        benefit = benefit * at.active.prod(0)[..., None, None]

        features, found = self._features(at.inputs), self.replay.rows
        moved = (at.policy * weight.unsqueeze(-1)).unsqueeze(-1) * response * benefit
        drive = game.follower_discount * arrivals(
            features.mT @ moved.flatten(2),
            self._features(self.replay.inputs(found)),
            self._features(self.replay.inputs(after(found))) * ~found["terminated"].unsqueeze(-1),
            self._cell(found),
        )
        share = at.active[0] / seen.episodes.unsqueeze(-1)
        return Critics(
            objective=(state_value[0][:, :taken] * (time == 0)).sum(-1) / seen.episodes,
            leader_state_value=state_value[0],
            leader_action_value=action_value[0],
            leader_value=value[0],
            follower_state_value=state_value[1],
            follower_value=value[1],
            follower_action_value=action_value[1],
            benefit=benefit,
            visitation=share * weight,
            trace=share * lasting * expected_trace(features, seen, drive, discounts),
            policy=at.policy,
            response=response,
        )

    def _features(self, inputs: Tensor) -> Tensor:
        """The last hidden layer of Q_L, and 1: [M, n, K]."""
        hidden = self.values.averaged.features(inputs.repeat(2, 1, 1))[: len(inputs)].double()
        return torch.cat([hidden, torch.ones_like(hidden[..., :1])], -1)

    # ------------------------------------------------------------ checkpoints

    def state(self) -> dict[str, Tensor]:
        state = {"calls": torch.tensor(self.calls), "level": self.level, "scale": self.scale}
        if isinstance(self.temperature, Tensor):
            state["temperature"] = self.temperature
        parts = {"values": self.values.state(), "behaviour": self.behaviour.state()}
        for part, tensors in (parts | {"replay": self.replay.rows}).items():
            state |= {f"{part}.{name}": tensor for name, tensor in tensors.items()}
        return state

    def load(self, state: dict[str, Tensor]) -> None:
        self.calls = int(state["calls"])
        self.level, self.scale = state["level"].clone(), state["scale"].clone()
        if self.estimates:
            self.temperature = state["temperature"].clone()
        self.values.load(part_of(state, "values"))
        self.behaviour.load(part_of(state, "behaviour"))
        rows = {name: tensor.clone() for name, tensor in part_of(state, "replay").items()}
        self.replay.load(rows)


def _count(game: Game, who: str) -> int:
    """How many actions a player has. Raises InputError if they are not Discrete."""
    space = getattr(game, f"{who}_space")
    if not isinstance(space, spaces.Discrete):
        raise InputError(
            f"a {who} space Discrete where the leader learns by networks",
            f"{space!r}",
            "let it choose among finitely many actions",
        )
    return int(space.n)
