"""A model-based leader: it searches the model that it has learned, and scouts what it finds."""

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from stackelberg import exact, search
from stackelberg.access import TrajectoriesAccess, policy_table, value_table
from stackelberg.estimators.evidence import Evidence
from stackelberg.estimators.expected import expected_trace
from stackelberg.exact import SoftResponse
from stackelberg.model import TabularModel
from stackelberg.rollout import Trajectories
from stackelberg.search import Elite, Model
from stackelberg.trust_region import divergence, geometry_of
from stackelberg.types import Commitment, Leader, commit

SCOUTS = 32  # other leaders that a generation tries, each in one episode
EXPLORING = 10  # generations of scouts that go where little has been seen
SEARCHING = 6  # generations of scouts that go where the leader would be paid
CLIMB = 40  # steps of their climbs on the learned model
ARRIVED = 1e-3  # KL in nats from where the search has sent a leader


class ModelBased:
    """The expected trace, and a search of the learned model for higher hills.

    In each of the first 16 outer iterations every leader sends out 32 scouts, leaders of its kind.
    Each plays one episode against a follower of its own, which best-responds from no earlier
    answer. What they see is counted into the leader's learned model; at access `value` so is what
    their followers' values reveal (`stackelberg.revealed`).

    The first scouts are scattered. Those after them climb from scattered starts on the learned
    model, predicting the follower's response: up to the 10th iteration to be led where little has
    been seen, for a reward of (1 + visits of (s,a,b))^(-1/2), from then on for the leader's own
    reward, and soon from recombinations of the best scouts so far.

    What a scout is worth is judged on the learned model with the response that its follower really
    gave; at access `trajectories`, which does not show it, with the predicted one. The leader walks
    to the best scout, unless it is better itself, and on arrival climbs by `expected_trace`.

    Source: this project. The search is `stackelberg.search`; on rewards for the unseen see Strehl
    and Littman (2008).
    """

    exploring, searching, climbing = EXPLORING, SEARCHING, CLIMB
    warmth: ClassVar[tuple[float, ...]] = (1.0,)  # of climbs, generation after generation

    def __init__(self) -> None:
        self.generation = 0
        self.elites: list[Elite] = []  # of each leader; tables: parameters, then answers if seen
        self.walking = torch.zeros(0, dtype=torch.bool)  # [M] to the first of its elite

    def __call__(self, evidence: Evidence, commitment: Commitment) -> tuple[Tensor, Tensor]:
        """Surrogates of the walk, or of the hypergradient.

        Raises:
            InputError: without a probe.
        """
        if self.generation < self.exploring + self.searching:
            self._explore(evidence)
            self.generation += 1
        direct, indirect = self._gradient(evidence, commitment)
        if self.generation <= self.exploring or not self.walking.any():
            return direct, indirect
        observed, parameters = search.landmarks(evidence.game), list(evidence.leader.parameters())
        best = [torch.stack(rows) for rows in zip(*map(_first, self.elites), strict=True)]
        target = best[: len(parameters)]
        with torch.no_grad():
            there = search.replicate(evidence.leader, target).position(observed)
            here, geometry = evidence.leader.position(observed), geometry_of(evidence.leader)
            self.walking &= divergence(there, here, geometry) > ARRIVED
        ways = [(goal - p).detach() * p for goal, p in zip(target, parameters, strict=True)]
        towards = torch.stack([way.double().flatten(1).sum(1) for way in ways]).sum(0)
        rest = torch.zeros_like(indirect)
        return torch.where(self.walking, towards, direct), torch.where(self.walking, rest, indirect)

    def _gradient(self, evidence: Evidence, commitment: Commitment) -> tuple[Tensor, Tensor]:
        return expected_trace(evidence, commitment)

    # ------------------------------------------------------------ scouting

    def _explore(self, evidence: Evidence) -> None:
        """One generation of scouts, and where the best sends the leaders."""
        probe = evidence.probe_for("model-based", "expected-trace")
        leader = evidence.leader
        born = [self._propose(evidence, m) for m in range(leader.count)]
        everyone = [torch.cat(rows) for rows in zip(*born, strict=True)]
        crew = search.replicate(leader, everyone)
        response, seen = probe.scout(crew)
        tables = everyone + self._answers(evidence, response, crew.count)
        self._learn(evidence, crew, response, seen)
        own = [p.detach() for p in leader.parameters()]
        own += self._answers(evidence, evidence.follower, leader.count)
        scouts = [table.unflatten(0, (-1, SCOUTS)) for table in tables]
        tables = [torch.cat([a, b.unsqueeze(1)], 1) for a, b in zip(scouts, own, strict=True)]
        self.elites = [
            self._judged(evidence, m, [table[m] for table in tables]) for m in range(leader.count)
        ]
        self.walking = torch.ones(leader.count, dtype=torch.bool)

    def _propose(self, evidence: Evidence, m: int) -> list[Tensor]:
        """The parameters [SCOUTS, ...] of one leader's next scouts."""
        parameters, noise = list(evidence.leader.parameters()), evidence.noise[m]
        if self.generation <= self.exploring:
            shapes = [(SCOUTS, *p.shape[1:]) for p in parameters]
            born = [torch.from_numpy(noise.normal(size=shape)) for shape in shapes]
            born = [b.to(p.dtype) for b, p in zip(search.scatter(born), parameters, strict=True)]
        else:
            born = self.elites[m].offspring(len(parameters), SCOUTS, noise)
        if self.generation == 0:
            return born
        family, model = search.replicate(evidence.leader, born), self._model(evidence, m)
        best = search.Best(family)
        warmth = self.warmth[self.generation % len(self.warmth)]
        for _ in search.climb(evidence.game, family, model, best, self.climbing, warmth):
            pass
        return best.parameters

    def _model(self, evidence: Evidence, m: int) -> Model:
        """What one leader makes of commitments: where they lead it, or what they earn."""
        memory = evidence.tables.of(m)

        def model(commitment: Commitment) -> TabularModel:
            learned = memory.model(commitment)
            if self.generation >= self.exploring:
                return learned
            return replace(learned, leader_reward=(1 + memory.visits).rsqrt())

        return model

    def _learn(
        self, evidence: Evidence, crew: Leader, response: TrajectoriesAccess, seen: Trajectories
    ) -> None:
        """From the scouts' play and, where it is shown, from their followers' values."""
        evidence.tables.update(seen, own=False)
        if response.level == "value":
            with torch.no_grad():
                commitment = commit(evidence.game, crew)
            policy = commitment.policy
            value = value_table(response, evidence.game, *policy.shape[::2])
            (shown,) = self._answers(evidence, response, crew.count)
            mean = (policy * value).sum(-1)
            evidence.tables.reveal(commitment, SoftResponse(shown, value, mean))

    def _judged(self, evidence: Evidence, m: int, tables: list[Tensor]) -> Elite:
        """The best of one leader's elite and newcomers, by what the model says of them now."""
        if self.elites:
            tables = [torch.cat(pair) for pair in zip(self.elites[m].tables, tables, strict=True)]
        count = len(list(evidence.leader.parameters()))
        crew = search.replicate(evidence.leader, tables[:count])
        with torch.no_grad():
            commitment = commit(evidence.game, crew)
        elite = Elite()
        worth = self._worth(evidence, m, commitment, tables[count:])
        elite.add(tables, search.moves_of(evidence.game, crew), worth)
        return elite

    def _worth(
        self, evidence: Evidence, m: int, commitment: Commitment, answers: list[Tensor]
    ) -> Tensor:
        """Returns on one leader's model, with the answers that were shown or those predicted."""
        model, policy = evidence.tables.of(m).model(commitment).detach(), commitment.policy
        answer = answers[0] if answers else exact.best_response(model, policy).policy
        return exact.leader_return(model, policy, answer)

    def _answers(
        self, evidence: Evidence, follower: TrajectoriesAccess, leaders: int
    ) -> list[Tensor]:
        """How the followers act [M, S, A, B], where the leaders may see it."""
        if follower.level == "trajectories":
            return []
        return [policy_table(follower, evidence.game, leaders, evidence.tables.shape[2])]

    # ------------------------------------------------------------ checkpoints

    def state(self) -> dict[str, Tensor]:
        """All that the next call depends on."""
        state = {"generation": torch.tensor(self.generation), "walking": self.walking}
        for m, elite in enumerate(self.elites):
            rows = [elite.value, elite.moves, *elite.tables]
            state |= {f"{m}.{i}": row for i, row in enumerate(rows)}
        return state

    def load(self, state: dict[str, Tensor]) -> None:
        """Take up a saved state."""
        self.generation = int(state["generation"])
        self.walking = state["walking"].clone()
        self.elites = []
        while f"{(m := len(self.elites))}.0" in state:
            rows = [state[f"{m}.{i}"] for i in range(sum(k.startswith(f"{m}.") for k in state))]
            self.elites.append(Elite())
            self.elites[m].add(rows[2:], rows[1], rows[0])


def _first(elite: Elite) -> list[Tensor]:
    return [table[0] for table in elite.tables]
