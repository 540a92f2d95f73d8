"""What the leader learns from everything it has seen: the game's model, and values on it."""

from copy import copy
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import torch
from gymnasium import spaces
from torch import Tensor

from stackelberg import exact, hypergradient
from stackelberg.access import TrajectoriesAccess, policy_table, value_table
from stackelberg.belief import FADE, UNKNOWN, likely_response, likely_temperature
from stackelberg.exact import SoftResponse
from stackelberg.game import Game
from stackelberg.hypergradient import Critics
from stackelberg.model import TabularModel, spread
from stackelberg.revealed import Revealed
from stackelberg.rollout import Trajectories
from stackelberg.types import Commitment


class Memory(Protocol):
    """All that M leaders have seen, and what they learn from it."""

    temperature: float | Tensor  # the follower's: the game's own, or the last estimate [M]

    def update(self, seen: Trajectories, own: bool = True) -> None:
        """Take in one batch of trajectories; `own` unless they are other leaders' play."""
        ...

    def critics(
        self, commitment: Commitment, follower: TrajectoriesAccess, seen: Trajectories
    ) -> Any:
        """The learned values, of every state, or of the points of the batch `seen`.

        What else there is depends on the kind of game, but always `objective` [M],
        `leader_state_value` [M, n] and `visitation` [M, n].

        Args:
            commitment: f there, constant. follower: what the leaders may see of the followers.
        """
        ...

    def state(self) -> dict[str, Tensor]: ...

    def load(self, state: dict[str, Tensor]) -> None: ...


@runtime_checkable
class Foreseeing(Protocol):
    """A memory that tells where a leader had better not go."""

    def foresees(self, commitment: Commitment) -> Tensor:
        """By what was learned, has the follower a best response, and the leader a return? [M]"""
        ...


COUNTS = ("arrivals", "visits", "leader_reward", "follower_reward", "starts", "recent")
ESTIMATE = ("temperature", "certainty")
IMPOSSIBLE = 1e-13  # probabilities below are rounding


class TabularMemory:
    """Counts of all transitions that M leaders have seen, each its own.

    How (s,a,b) leads to s' and to rewards does not change when the two policies do, so nothing is
    forgotten; where a design moves the transitions, what was expected under the designs that were
    played is counted beside what was seen. What the follower did is another matter: it did so in
    answer to the leader of its time.

    Args:
        estimate_temperature: the leaders are not told the follower's, and estimate it whenever they
            look for their critics (`belief.likely_temperature`).
    """

    temperature: float | Tensor
    certainty: Tensor  # [M] of an estimate: 1 / variance of log beta; 0 before the first

    def __init__(self, game: Game, leaders: int, estimate_temperature: bool = False) -> None:
        self.temperature, self.estimates = game.temperature, estimate_temperature
        if estimate_temperature:
            self.temperature = torch.ones(leaders, dtype=torch.float64)
            self.certainty = torch.zeros(leaders, dtype=torch.float64)
            self._before = self.temperature, self.certainty
        model = game.simulated_model(_any_design(game))
        self.game = game
        self.shape = (leaders, model.states, model.leader_actions, model.follower_actions)
        self.arrivals = torch.zeros(*self.shape, model.states, dtype=torch.float64)
        if game.moves_transition:
            self.expected = torch.zeros_like(self.arrivals)
        self.visits = torch.zeros(self.shape, dtype=torch.float64)
        self.leader_reward = torch.zeros_like(self.visits)
        self.follower_reward = torch.zeros_like(self.visits)
        self.starts = torch.zeros(self.shape[:2], dtype=torch.float64)
        self.recent = torch.zeros_like(self.visits)  # of the last own update alone
        self.revealed: Revealed | None = None
        self._means: tuple[Tensor, Tensor, Tensor] | None = None  # until the next update

    @torch.no_grad()
    def update(self, seen: Trajectories, own: bool = True) -> None:
        """Count one batch of trajectories [M, N, T].

        Args:
            own: of the M leaders themselves. Other leaders' play in the same game tells as much of
                the game, but not how these leaders' followers behave.
        """
        self._means = None
        m = torch.arange(self.shape[0])[:, None, None]
        states, leader_actions, follower_actions = self.shape[1:]
        row = (m * states + seen.state) * leader_actions + seen.leader_action
        cell = (row * follower_actions + seen.follower_action).flatten()
        if self.game.moves_transition:
            self._expect(seen, cell)
        went_on = (~seen.terminated).to(torch.float64).flatten()
        target = cell * states + seen.next_state.flatten()
        self.arrivals.view(-1).index_add_(0, target, went_on)
        counts = torch.zeros_like(self.visits)
        counts.view(-1).index_add_(0, cell, torch.ones_like(went_on))
        self.visits += counts
        if own:
            self.recent = counts
            if isinstance(self.temperature, Tensor):
                self._before = self.temperature, FADE * self.certainty
        self.leader_reward.view(-1).index_add_(0, cell, seen.leader_reward.flatten())
        self.follower_reward.view(-1).index_add_(0, cell, seen.follower_reward.flatten())
        first = (seen.time == 0).to(torch.float64).flatten()
        start = (m * states + seen.state).flatten()
        self.starts.view(-1).index_add_(0, start, first)

    def _expect(self, seen: Trajectories, cell: Tensor) -> None:
        """Count where steps from cells [n] were expected to lead, under their streams' designs."""
        assert seen.design is not None
        designs, which = seen.design.flatten(0, 1).double().unique(dim=0, return_inverse=True)
        which = which.view(*seen.state.shape[:2], 1).expand_as(seen.state).flatten()
        pair, times = (cell * len(designs) + which).unique(return_counts=True)
        cell, which = pair // len(designs), pair % len(designs)
        rows = self.game.simulated_model(designs).transition.flatten(1, 3)
        chance = rows[which, cell % rows.shape[1]]
        self.expected.view(-1, self.shape[1]).index_add_(0, cell, times.unsqueeze(-1) * chance)

    @torch.no_grad()
    def reveal(self, commitment: Commitment, response: SoftResponse) -> None:
        """Learn of transitions from responses that show their values, K to each of the M leaders.

        Where the follower does not observe the leader's action, they do not tell, nor where its
        temperature is not known or a design moves the transitions; see `Revealed`.

        Args:
            commitment: what was answered, all of the first leader's first, [M K, ...].
        """
        model = self.game.model(commitment.design)
        silent = self.estimates or self.game.moves_transition
        if silent or not model.follower_observes_action or not model.follower_discount:
            return
        if self.revealed is None:
            self.revealed = Revealed(self.shape)
        policy, value, state_value = (part.unflatten(0, (self.shape[0], -1)) for part in response)
        reward: Tensor | float = 0.0
        if commitment.design is not None:
            known = model.follower_reward.expand(response.policy.shape)
            reward = known.unflatten(0, (self.shape[0], -1))
        many = SoftResponse(policy, value, state_value)
        self.revealed.add(many, self.game.temperature, model.follower_discount, reward)
        self._means = None

    def model(self, commitment: Commitment) -> TabularModel:
        """The learned model [M, ...], attached to a design where the commitment is one.

        Frequencies where (s,a,b) has been seen; where not, what its siblings (s,a,.) and then
        (s,.,.) did on average, so that an untried action is worth no more and no less than the
        tried ones; or what followers' values reveal of it (`Revealed`). A state never seen ends
        play with nothing. A design's rewards are its own and known, and so is by how much it makes
        an outcome likelier than another design does: a transition that it moves is its own
        probability times what was seen over what was expected under the designs that were played.
        """
        if self._means is None:
            rewards = self.leader_reward.unsqueeze(-1), self.follower_reward.unsqueeze(-1)
            leader, follower = (means(reward, self.visits).squeeze(-1) for reward in rewards)
            self._means = self._transitions(), leader, follower
        transition, leader_reward, follower_reward = self._means
        true = self.game.model(commitment.design)
        if commitment.design is not None:
            leader_reward, follower_reward = true.leader_reward, true.follower_reward
            if self.game.moves_transition:
                transition = self._moved(transition, true)
        return replace(
            true,
            transition=transition,
            ending=None,
            leader_reward=leader_reward,
            follower_reward=follower_reward,
            initial=self.starts / self.starts.sum(-1, keepdim=True),
            temperature=self.temperature,
        )

    def _moved(self, frequency: Tensor, true: TabularModel) -> Tensor:
        """Frequencies times likelihood ratios, normalised over all outcomes of (s,a,b).

        The ratio is to the mixture of the designs that were played, by their visits (the balance
        heuristic of Veach and Guibas, 1995). Normalising subtracts from every score its mean over
        what was seen, so that the derivative of sum_s' P v(s') depends on differences of v alone.
        Where the design rules out all that was seen of (s,a,b), it tells no more of it.
        """
        mixture = _quotient(self.expected, self.visits.unsqueeze(-1))
        moved, over = frequency * _quotient(true.transition, mixture), 1 - frequency.sum(-1)
        if true.ending is not None:
            over = over * _quotient(true.ending.sum(-1), 1 - mixture.sum(-1))
        total = (moved.sum(-1) + over).unsqueeze(-1)
        rows = torch.where(total > IMPOSSIBLE, moved / total.clamp(min=IMPOSSIBLE), frequency)
        visits = self.visits.expand(rows.shape[:-1])
        return means(rows * visits.unsqueeze(-1), visits)  # an untried action does as its siblings

    def critics(
        self, commitment: Commitment, follower: TrajectoriesAccess, seen: Trajectories
    ) -> Critics:
        """Values, visitation and expected trace on the learned model, in every state."""
        if self.estimates:
            self._estimate(commitment, follower)
        model = self.model(commitment)
        believed = believed_response(self, model, commitment.policy, follower)
        return hypergradient.tabular_critics(model, commitment.policy, believed)

    def _estimate(self, commitment: Commitment, follower: TrajectoriesAccess) -> None:
        """The temperature, from the last own play and what was known before it.

        Play before that was an answer to other policies: it counts by what it told then, faded.
        Where the leaders may see the follower's policy, that is what is made most likely, in place
        of the actions drawn from it. The first guess is the range of the follower's rewards.
        """
        model, counts = self.model(commitment), self.recent
        if follower.level != "trajectories":
            g = policy_table(follower, self.game, self.shape[0], self.shape[2])
            counts = counts.sum(-1, keepdim=True) * g
        low, high = torch.aminmax(model.follower_reward.expand(self.shape).flatten(1), dim=-1)
        guess = torch.where(high > low, high - low, 1.0)
        known, certainty = self._before
        guess = torch.where(certainty > 0, known, guess)
        certainty = certainty.clamp(min=UNKNOWN)
        tried = self.visits > 0
        if not model.follower_observes_action:
            tried = tried.any(-2, keepdim=True).expand(self.shape)
        self.temperature, told = likely_temperature(
            model, commitment.policy, counts * tried, tried, guess, certainty
        )
        self.certainty = certainty + told

    def _transitions(self) -> Tensor:
        rows = means(self.arrivals, self.visits)
        if self.revealed is None:
            return rows
        reward = torch.zeros_like(self.visits)  # of a design it was known when it was answered
        if self.game.leader_moves == "every step":
            reward = self.follower_reward / self.visits  # nan where nobody has been
        discount = self.game.follower_discount
        return self.revealed.refine(rows, self.arrivals, self.visits, reward, discount)

    def of(self, leader: int) -> "TabularMemory":
        """What one leader has seen, a memory of its own that shares no later update."""
        one = copy(self)
        one.shape, one.revealed, one._means = (1, *self.shape[1:]), None, None
        one.load({name: value[leader : leader + 1] for name, value in self.state().items()})
        return one

    @property
    def _tables(self) -> tuple[str, ...]:
        moved = ("expected",) * self.game.moves_transition
        return COUNTS + moved + ESTIMATE * self.estimates

    def state(self) -> dict[str, Tensor]:
        state = {name: getattr(self, name) for name in self._tables}
        if self.revealed is not None:
            state |= {f"revealed.{name}": v for name, v in self.revealed.state().items()}
        return state

    def load(self, state: dict[str, Tensor]) -> None:
        self._means = self.revealed = None
        for name in self._tables:
            setattr(self, name, state[name].clone())
        if isinstance(self.temperature, Tensor):
            self._before = self.temperature, self.certainty
        told = {k.removeprefix("revealed."): v for k, v in state.items() if "." in k}
        if told:
            self.revealed = Revealed(self.shape)
            self.revealed.load(told)


def _any_design(game: Game) -> Tensor | None:
    if game.leader_moves == "every step":
        return None
    assert isinstance(game.leader_space, spaces.Box)
    return torch.as_tensor(game.leader_space.low, dtype=torch.float64)[None]


def _quotient(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole, 0 where the whole is 0 but for rounding."""
    return part / torch.where(whole > IMPOSSIBLE, whole, torch.inf)


def means(sums: Tensor, visits: Tensor) -> Tensor:
    """sums / visits [M, S, A, B, K], unseen (s,a,b) taking the mean of (s,a,.), then of (s,.,.)."""
    result = sums / visits.clamp(min=1).unsqueeze(-1)
    unseen = visits == 0
    if unseen.any():
        rows, counts = sums.sum(-2), visits.sum(-1)  # of (s,a,.)
        blind = counts == 0
        counts = torch.where(blind, counts.sum(-1, keepdim=True), counts).clamp(min=1)
        rows = torch.where(blind.unsqueeze(-1), rows.sum(-2, keepdim=True), rows)
        m, s, a, _ = unseen.nonzero(as_tuple=True)
        result[unseen] = (rows / counts.unsqueeze(-1))[m, s, a]
    return result


@torch.no_grad()
def believed_response(
    memory: TabularMemory, model: TabularModel, policy: Tensor, follower: TrajectoriesAccess
) -> SoftResponse:
    """The follower's behaviour and values as the leader knows or estimates them.

    At access `value` they are given. At access `policy` g is given and V_F follows from it by soft
    policy evaluation on the learned model. At access `trajectories` g, too, is estimated, from the
    soft best response to the learned model and from what the follower did in the last own play
    (`belief.likely_response`); in earlier play it answered other leaders.

    The evaluation is certainty equivalence: in tables the fixed point, on all transitions that were
    ever seen, of temporal differences corrected for the policies that they were sampled under.
    """
    leaders, _, actions, _ = memory.shape
    if follower.level != "trajectories":
        behaviour = policy_table(follower, memory.game, leaders, actions)
    if follower.level == "value":
        value = value_table(follower, memory.game, leaders, actions)
        return SoftResponse(behaviour, value, (policy * value).sum(-1))
    if follower.level == "trajectories":
        predicted, counts = exact.best_response(model, policy).policy, memory.recent
        if not model.follower_observes_action:  # all of the leader's actions together
            predicted, counts = predicted[:, :, :1], counts.sum(-2, keepdim=True)
        behaviour = likely_response(predicted, counts).expand(memory.shape)
    state_value = exact.follower_values(model, policy, behaviour)
    action_value = exact.follower_action_value(model, state_value)
    if not model.follower_observes_action:
        mean = (policy.unsqueeze(-1) * action_value).sum(-2, keepdim=True)
        action_value = mean.expand(action_value.shape)
    entropy = spread(model.temperature, 3) * torch.special.entr(behaviour)
    value = (behaviour * action_value + entropy).sum(-1)
    return SoftResponse(behaviour, value, state_value)
