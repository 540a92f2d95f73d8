"""What the leader learns where an action lies in a Box and the game is of no known form.

    Q_L(x,a,b) -> r_L + gamma_L E_a' V_L(x',a'),    V_L(x,a) = E_b Q_L(x,a,b)
    q_F(x,a,b) -> r_F + gamma_F E_a' V_F(x',a'),    V_F(x,a) = E_b [ q_F(x,a,b) - beta log g ]

x is what both observe and who of them has left; a' ~ f(.|x') is the leader's present policy and
b ~ g(.|x,a) the follower's, as it was seen to behave. Expectations over Gaussians are sums over the
nodes of a quadrature, those over Discrete actions are exact: nothing is drawn, so that differences
between a and a' have no noise of their own. All values are differentiable in a, and in x.

A value is quadratic in (x,a,b) plus what a network says (`stackelberg.box_values`), a Gaussian
behaviour linear plus a network (`stackelberg.box_behaviour`).

A follower that sees less of the state than the leader is cloned from what it sees, but its values
are those of x. Where a leader commits to a design, values hold for the present design and are
learned from its own play alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from stackelberg.access import TrajectoriesAccess
from stackelberg.backward import expected_trace
from stackelberg.box_behaviour import Behaviour
from stackelberg.box_features import Code, nodes, quadratic
from stackelberg.box_values import Backups, Values
from stackelberg.errors import InputError
from stackelberg.game import Game
from stackelberg.induced import announced
from stackelberg.networks import Fitted, part_of
from stackelberg.replay import Draws, Replay, Rows, active, after, points_of
from stackelberg.rollout import Trajectories
from stackelberg.types import Commitment


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How values and behaviour are fitted; one setting for all games."""

    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers."""
    capacity: int = 50_000
    """Transitions of each leader that are kept."""
    working: int = 4096
    """Transitions that one call fits values to, half of them from the newest if more are kept.
    Under a design it is all of the newest play."""
    recent: tuple[int, int] = (1024, 8192)
    """Steps of own play that one call fits the behaviour to, at least and at most."""
    forget: float = 0.1
    """How much less they count with every call since."""
    rounds: int = 8
    """Fitted evaluations in a call, each of targets made from the values of the one before."""
    sweeps: int = 20
    """Of the quadratic part in each round, with what follows held within what can be earned."""
    updates: int = 20
    """Steps of Adam on values in each round."""
    cloning: int = 100
    """Steps of Adam on the behaviour in a call."""
    batch: int = 256
    """Transitions in a step of Adam."""
    rate: float = 2e-3
    """Adam's, at a call's beginning; it falls to 0 by its end."""
    average: float = 0.1
    """By how much the averaged parameters, whose values are used, follow at every step."""
    ridge: float = 1e-5
    """Of the quadratic part, relative to the features' mean square."""
    depart: float = 0.1
    """Price of a Gaussian behaviour's departure from linear, squared and in its own units."""


SETTINGS = Settings()
RANDOM = 32  # features of the state beside the quadratic ones, for the trace


class Situation(NamedTuple):
    """What n points are to M leaders and followers."""

    rows: Rows  # what is observed there, and who has left
    inputs: Tensor  # [M, n, d] of the values
    shown: Tensor  # [M, n, d'] of the behaviour
    active: Tensor  # [2, M, n] 1, or 0 where the leader, the follower has left

    def each(self, count: int) -> "Situation":
        """Every point `count` times, one after the other."""
        rows = {name: part.repeat_interleave(count, 1) for name, part in self.rows.items()}
        inputs, shown = (x.repeat_interleave(count, 1) for x in (self.inputs, self.shown))
        return Situation(rows, inputs, shown, self.active.repeat_interleave(count, 2))

    def part(self, which: slice) -> "Situation":
        """Some of the points."""
        rows = {name: part[:, which] for name, part in self.rows.items()}
        inputs, shown = self.inputs[:, which], self.shown[:, which]
        return Situation(rows, inputs, shown, self.active[..., which])


class Grid(NamedTuple):
    """Values at n points for J actions of the leader, at the L nodes of the follower's."""

    action_value: Tensor  # [2, M, n, J, L] Q_L and q_F
    value: Tensor  # [2, M, n, J] V_L(x,a) and V_F(x,a)
    odds: Tensor  # [M, n, J, L] of the nodes, under g

    @property
    def benefit(self) -> Tensor:
        """Q_L - V_L(x,a) [M, n, J, L]."""
        return self.action_value[0] - self.value[0].unsqueeze(-1)


class BoxMemory:
    """Critics of M leaders, fitted to all transitions that each leader has seen; a `Memory`.

    They are trained on from call to call. Leader m's depend on its seed and on its play alone.

    Args:
        game: with Discrete or Box actions. seeds: one for each leader.
        estimate_temperature: not to be had here.

    Raises:
        InputError: for an action that is neither, or a temperature that is to be estimated.
    """

    temperature: float | Tensor

    def __init__(
        self, game: Game, seeds: Sequence[int], estimate_temperature: bool = False
    ) -> None:
        if estimate_temperature:
            raise InputError(
                "a known temperature where actions lie in a Box and the game has no matrices",
                "estimate_temperature",
                "leave it out; the game's own temperature is used",
            )
        self.game, self.seeds, self.temperature = game, tuple(seeds), game.temperature
        self.commits = game.leader_moves == "once"
        self.leader = Code(None if self.commits else game.leader_space)
        self.follower = Code(game.follower_space)
        self.sees = game.follower_observes_action and not self.commits
        self.calls, self.replay = 0, Replay(game, SETTINGS.capacity)
        own, count = game.follower_observation_space.shape[0], len(self.seeds)
        width = game.observation_space.shape[0] + 2 + (own if game.observes_apart else 0)
        size = width + self.leader.width + self.follower.width
        smooth = torch.nn.functional.silu

        def fitted(*parts: int, inputs: int, outputs: int) -> Fitted:
            widths = [inputs, *SETTINGS.hidden, outputs]
            draws = [np.random.default_rng([s, 1, part]) for part in parts for s in self.seeds]
            average = SETTINGS.average
            return Fitted(draws, widths, rate=SETTINGS.rate, average=average, activation=smooth)

        networks = fitted(0, 1, inputs=size, outputs=1)  # the leaders', then the followers'
        self.values = Values(size, networks, count)
        met = own + 2 + self.leader.width * self.sees
        cloned = fitted(2, inputs=met, outputs=self.follower.outputs)
        self.behaviour = Behaviour(self.follower, met, cloned, count)
        draws = [np.random.default_rng([s, 3]) for s in self.seeds]
        self.bends = torch.from_numpy(np.stack([d.normal(size=(width + 1, RANDOM)) for d in draws]))

    def update(self, seen: Trajectories, own: bool = True) -> None:
        """Keep one batch of trajectories [M, N, T] with its points.

        Args:
            own: of the M leaders themselves. Other leaders' play tells as much of the game, but
                not how these leaders' followers behave, and of designs nothing.
        """
        if self.commits and not own:
            return
        if self.commits:
            self.replay.load({})
        self.replay.add(seen, own, self.calls)

    def critics(
        self, commitment: Commitment, follower: TrajectoriesAccess, seen: Trajectories
    ) -> Any:
        """Train on, and evaluate at the points of `seen`: `BoxCritics`."""
        draws = [np.random.default_rng([seed, 2, self.calls]) for seed in self.seeds]
        rows = self.replay.rows
        self.leader.measure(rows["leader_action"])
        self.follower.measure(rows["follower_action"])
        recent = self.replay.recent(draws, SETTINGS.recent, SETTINGS.forget, self.calls)
        self._clone(recent, draws)
        found = rows if self.commits else self.replay.working(draws, SETTINGS.working)
        self.values.fit(
            self._backups(commitment, follower, found),
            draws,
            rounds=SETTINGS.rounds,
            sweeps=SETTINGS.sweeps,
            updates=SETTINGS.updates,
            batch=SETTINGS.batch,
            rate=SETTINGS.rate,
            ridge=SETTINGS.ridge,
        )
        self.calls += 1
        return self._evaluated(commitment, follower, seen, found)

    # ------------------------------------------------------------ the follower's behaviour

    def _clone(self, recent: Rows, draws: Draws) -> None:
        """Fit g to what the follower did, by maximum likelihood."""
        at = self.situation(recent)
        met = self._met(at, self._coded(recent, "leader"))
        self.behaviour.fit(
            met,
            recent["follower_action"],
            at.active[1],
            draws,
            steps=SETTINGS.cloning,
            batch=SETTINGS.batch,
            rate=SETTINGS.rate,
            depart=SETTINGS.depart,
            ridge=SETTINGS.ridge,
        )

    def _met(self, at: Situation, leader_action: Tensor) -> Tensor:
        """What the behaviour is told of points [M, n, d'] and of encoded actions [M, n, k]."""
        shown = at.shown.double()
        return torch.cat([shown, leader_action], -1) if self.sees else shown

    # ------------------------------------------------------------ values

    @torch.no_grad()
    def _backups(
        self, commitment: Commitment, follower: TrajectoriesAccess, found: Rows
    ) -> Backups:
        """What values of transitions are made of, both players going on as they do now."""
        game = self.game
        here, there = self.situation(found), self.situation(after(found))
        taken = (self._coded(found, who) for who in ("leader", "follower"))
        z = torch.cat([here.inputs.double(), *taken], -1)
        action, chance = self.moves(commitment, there)
        arrival, odds, log_g = self._arrivals(there, action, follower)
        odds = odds * chance.unsqueeze(-1)
        discounts = torch.tensor([game.leader_discount, game.follower_discount]).double()
        goes_on = discounts.view(2, 1, 1) * ~found["terminated"] * there.active
        reward = found["reward"].movedim(-1, 0).clone()
        lever = goes_on.clone()
        if follower.level == "value":
            value = (chance * self._shown_value(follower, there, action)).sum(-1)
            reward[1] += goes_on[1] * value
            lever[1] = 0.0
        else:
            reward[1] -= goes_on[1] * self.temperature * (odds * log_g).sum((-2, -1))
        arrival, odds = arrival.flatten(2, 3), odds.flatten(2)
        return Backups(z, reward, lever, arrival, odds, here.active, discounts)

    def grid(
        self, at: Situation, action: Tensor, follower: TrajectoriesAccess | None = None
    ) -> Grid:
        """Values where the leader takes J actions [M, n, J, ..]; attached to them and to x."""
        z, odds, log_g = self._arrivals(at, action, follower)
        said = self.values(z.flatten(1, 3)).unflatten(-1, odds.shape[1:])
        said = said * at.active[..., None, None]
        surprise = self.temperature * log_g * at.active[1][..., None, None]
        value = (odds * torch.stack([said[0], said[1] - surprise])).sum(-1)
        if follower is not None and follower.level == "value":
            shown = self._shown_value(follower, at, action)
            if not shown.requires_grad:  # a number alone: how it moves is learned
                shown = shown + value[1] - value[1].detach()
            value = torch.stack([value[0], shown])
        return Grid(said, value, odds)

    def _arrivals(
        self, at: Situation, action: Tensor, follower: TrajectoriesAccess | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(x,a,b) [M, n, J, L, d] of J leader actions and L nodes, odds and log g [M, n, J, L]."""
        ours = self.leader(action) * at.active[0][..., None, None]
        count = ours.shape[2]
        wide = at.each(count)
        theirs, odds, log_g = self.behaviour.answers(self._met(wide, ours.flatten(1, 2)))
        if follower is not None and follower.level != "trajectories":
            log_g = self._shown_density(follower, wide, action.flatten(1, 2), theirs, log_g)
        eb = self.follower(theirs).unflatten(1, (-1, count))
        x = at.inputs.double()[:, :, None, None].expand(*eb.shape[:-1], -1)
        z = torch.cat([x, ours.unsqueeze(3).expand(*eb.shape[:-1], -1), eb], -1)
        return z, *(part.unflatten(1, (-1, count)) for part in (odds, log_g))

    def _shown_density(
        self,
        follower: TrajectoriesAccess,
        at: Situation,
        action: Tensor,
        theirs: Tensor,
        cloned: Tensor,
    ) -> Tensor:
        """log g(b|x,a) [M, n, L] as the follower shows it; the clone's slope."""
        seen, told = self._told(at, action)
        with torch.no_grad():
            if self.follower.squash is None:
                return follower.log_prob(seen, told).double()
            shown = [
                follower.log_density(seen, told, b.to(seen)).double() for b in theirs.unbind(2)
            ]
            return torch.stack(shown, 2) + (cloned - cloned.detach())

    def _shown_value(self, follower: TrajectoriesAccess, at: Situation, action: Tensor) -> Tensor:
        """V_F(x,a) [M, n, J] as the follower shows it."""
        count = action.shape[2]
        wide = at.each(count)
        value = follower.value(*self._told(wide, action.flatten(1, 2))).double()
        return (value * wide.active[1]).unflatten(1, (-1, count))

    def _told(self, at: Situation, action: Tensor) -> tuple[Tensor, Tensor]:
        """What followers observe, and what they are told of the leader's actions [M, n, ..]."""
        return self.replay.seen_by(at.rows["observation"])[1], announced(action, at.active[0] == 0)

    # ------------------------------------------------------------ points and moves

    def situation(self, rows: Rows) -> Situation:
        """What points are to both players."""
        inputs, plays = self.replay.inputs(rows), active(rows)
        shown = self.game.follower_observation_space.shape[0]
        return Situation(rows, inputs, inputs[..., -shown - 2 :], plays)

    def moves(self, commitment: Commitment, at: Situation) -> tuple[Tensor, Tensor]:
        """J actions of the leader at each point [M, n, J, ..], and their odds [M, n, J]."""
        seen, _ = self.replay.seen_by(at.rows["observation"])
        count, points = seen.shape[:2]
        if commitment.design is not None:
            action = commitment.design[:, None, None].expand(-1, points, -1, -1)
            return action, torch.ones(count, points, 1, dtype=torch.float64)
        if commitment.box is not None:
            spread, odds = nodes(commitment.box.actions)
            wide = seen.repeat_interleave(len(spread), 1)
            action = commitment.box.act(wide, spread.repeat(points, 1).expand(count, -1, -1))
            return action.unflatten(1, (points, -1)), odds.expand(count, points, -1)
        assert commitment.rule is not None
        chance = commitment.rule(seen).exp()
        return torch.arange(chance.shape[-1]).expand_as(chance), chance

    def _coded(self, rows: Rows, who: str) -> Tensor:
        """The recorded actions of one player as numbers [M, n, k]."""
        coded: Tensor = getattr(self, who)(rows[f"{who}_action"])
        playing = active(rows)[0 if who == "leader" else 1]
        return coded * playing.unsqueeze(-1)

    # ------------------------------------------------------------ critics

    @torch.no_grad()
    def _evaluated(
        self,
        commitment: Commitment,
        follower: TrajectoriesAccess,
        seen: Trajectories,
        rows: Rows,
    ) -> "BoxCritics":
        game, taken = self.game, seen.state[0].numel()
        at = self.situation(self.replay.at(points_of(seen)))
        action, chance = self.moves(commitment, at)
        found = self.grid(at, action, follower)
        state_value = (chance * found.value).sum(-1)
        time, discounts = seen.time.flatten(1), (game.leader_discount, game.follower_discount)
        weight, lasting = torch.zeros_like(state_value).unbind()
        weight[:, :taken] = game.leader_discount ** time.double()
        lasting[:, :taken] = max(discounts) ** time.double()
        features, share = self._features(at), 1 / seen.episodes.double().unsqueeze(-1)
        worth = self._worth(at, rows, found, chance, action, weight)
        arrived = self._features(self.situation(after(rows)))
        arrived = arrived * ~rows["terminated"].unsqueeze(-1)
        drive = game.follower_discount * (worth.unsqueeze(-1) * arrived).sum(1)
        trace = lasting * expected_trace(features, seen, drive, discounts)
        return BoxCritics(
            objective=(state_value[0][:, :taken] * (time == 0)).sum(-1) / seen.episodes,
            leader_state_value=state_value[0],
            follower_state_value=state_value[1],
            visitation=share * weight * at.active[0],
            trace=share * trace * at.active[0],
            worth=share * worth,
            drive=share * drive,
            features=features,
            memory=self,
            follower=follower,
            commitment=commitment,
            here=at.part(slice(taken)),
            there=at.part(slice(taken, 2 * taken)),
        )

    def _worth(
        self,
        at: Situation,
        rows: Rows,
        found: Grid,
        chance: Tensor,
        action: Tensor,
        weight: Tensor,
    ) -> Tensor:
        """u [M, W] of the transitions `rows`: sum_W u h is sum_k gamma_L^k E[ delta(s_k,a,b) h ].

        For what transitions bring, h, that is quadratic in (x,a,b) in the mean, by ridge
        regression: a sum over nodes in place of the one b_k that was drawn.
        """
        taken = (self._coded(rows, who) for who in ("leader", "follower"))
        here = quadratic(torch.cat([self.situation(rows).inputs.double(), *taken], -1))
        system = here.mT @ here
        size = SETTINGS.ridge * here.square().mean((1, 2)) * here.shape[1]
        system.diagonal(dim1=1, dim2=2).add_(size.unsqueeze(-1))
        benefit = self.benefit(found, chance) * at.active.prod(0)[..., None, None]
        push = (weight[..., None, None] * chance.unsqueeze(-1) * found.odds * benefit).flatten(2)
        z = self._arrivals(at, action, None)[0].flatten(2, 3)
        total = torch.zeros(len(here), here.shape[-1], dtype=torch.float64)
        for k in range(push.shape[-1]):
            total = total + (push[..., k, None] * quadratic(z[:, :, k])).sum(1)
        return (here @ torch.linalg.solve(system, total.unsqueeze(-1))).squeeze(-1)

    def benefit(self, found: Grid, chance: Tensor) -> Tensor:
        """delta [M, n, J, L]: of b given a, or of b alone where the follower does not see a."""
        if self.sees:
            return found.benefit
        return (chance.unsqueeze(-1) * found.benefit).sum(2, keepdim=True).expand_as(found.benefit)

    def _features(self, at: Situation) -> Tensor:
        """Of the state, for the trace: quadratic, and random bends [M, n, K]."""
        x = at.inputs.double()
        return torch.cat([quadratic(x), torch.tanh(x @ self.bends[:, 1:] + self.bends[:, :1])], -1)

    # ------------------------------------------------------------ checkpoints

    def state(self) -> dict[str, Tensor]:
        state = {"calls": torch.tensor(self.calls)} | self.values.state() | self.behaviour.state()
        return state | {f"replay.{name}": part for name, part in self.replay.rows.items()}

    def load(self, state: dict[str, Tensor]) -> None:
        self.calls = int(state["calls"])
        self.values.load(state)
        self.behaviour.load(state)
        rows = {name: tensor.clone() for name, tensor in part_of(state, "replay").items()}
        self.replay.load(rows)


@dataclass(frozen=True, kw_only=True)
class BoxCritics:
    """Values, visitation and expected trace at the points of a batch, and values anywhere.

    As of `stackelberg.hypergradient.Critics`, at the n = 2 N T points of M leaders; nothing of that
    has a gradient. What `grid` tells of the N T states that were met has.
    """

    objective: Tensor  # [M] the mean of V_L(s_0)
    leader_state_value: Tensor  # [M, n] V_L(s)
    follower_state_value: Tensor  # [M, n] E_f V_F(s,.)
    visitation: Tensor  # [M, n] d
    trace: Tensor  # [M, n] c
    worth: Tensor  # [M, W] of transitions, under a design those met, see `BoxMemory._worth`
    drive: Tensor  # [M, K] gamma_F sum_W worth phi(s')
    features: Tensor  # [M, n, K] phi
    memory: BoxMemory
    follower: TrajectoriesAccess
    commitment: Commitment
    here: Situation = field(repr=False)  # the N T states that were met
    there: Situation = field(repr=False)  # where they led

    def grid(self, action: Tensor) -> Grid:
        """Values at the N T states for J leader actions [M, N T, J, ..], attached to them."""
        return self.memory.grid(self.here, action, self.follower)

    def next_value(self, observation: Tensor) -> Tensor:
        """V_L and V_F [2, M, N T] where the steps led, attached to what is observed there.

        Under a design, which is held fixed.
        """
        at = self.memory.situation(self.there.rows | {"observation": observation})
        action, chance = self.memory.moves(self.commitment, at)
        return (chance * self.memory.grid(at, action).value).sum(-1)

    def recorded_value(self, action: Tensor | None = None) -> Tensor:
        """Q_L and q_F [2, M, N T, J] of the b's that were met, at J leader actions there.

        At the action that was taken, [2, M, N T], unless some are given [M, N T, J, ..].
        """
        memory, taken = self.memory, self.here.inputs.shape[1]
        rows = {name: part[:, -taken:] for name, part in memory.replay.rows.items()}
        ours = memory.leader(rows["leader_action"] if action is None else action)
        theirs = memory.follower(rows["follower_action"])
        plays = self.here.active.unsqueeze(-1)
        if action is not None:
            theirs, plays = theirs.unsqueeze(2), plays.unsqueeze(-1)
        x = self.here.inputs.double()
        x, theirs = (part.view(*theirs.shape[:-1], -1) for part in (x, theirs * plays[1]))
        z = torch.cat(
            [part.expand(*ours.shape[:-1], -1) for part in (x, ours * plays[0], theirs)], -1
        )
        return memory.values(z.flatten(1, -2)).unflatten(-1, z.shape[1:-1]) * plays.squeeze(-1)

    def benefits(self) -> Tensor:
        """delta_k [M, N T] of what was done."""
        memory = self.memory
        if memory.sees:
            rows = memory.replay.rows["leader_action"][:, -self.here.inputs.shape[1] :]
            return self.recorded_value()[0] - self.grid(rows.unsqueeze(2)).value[0].squeeze(-1)
        action, chance = memory.moves(self.commitment, self.here)
        expected = self.grid(action).value[0]
        return (chance * (self.recorded_value(action)[0] - expected)).sum(-1)
