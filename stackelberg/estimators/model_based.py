"""A model-based leader: it searches the model that it has learned, and scouts what it finds."""

import torch
from torch import Tensor

from stackelberg import exact, search
from stackelberg.errors import InputError
from stackelberg.estimators.evidence import Evidence
from stackelberg.estimators.expected import expected_trace
from stackelberg.probe import Probe
from stackelberg.search import Elite
from stackelberg.trust_region import divergence
from stackelberg.types import Commitment, Response, commit, everywhere

SCOUTS = 32  # other leaders that a generation tries, each in one episode
SCATTERED = 10  # generations of scouts anywhere, to have a model to search
GENERATIONS = 16  # generations of scouts that the search proposes
FRESH=1000000
MIX=0
CLIMB = 60  # steps of their climb on the learned model
ARRIVED = 1e-3  # KL in nats from where the search has sent a leader


class ModelBased:
    """The expected trace, and a search of the learned model for higher hills.

    In each of the first 26 outer iterations every leader sends out 32 scouts, leaders of its kind
    that each play one episode against a follower that best-responds to them; what they see is
    counted into the leader's learned model. The scouts of 10 generations are scattered; later ones
    recombine the best scouts so far and climb on the learned model, predicting the follower's
    response. What a scout is worth is computed on the learned model, but with the response that its
    follower really gave (at access `trajectories`, which does not show it, with the predicted one).
    The leader then walks to the best scout, unless it is best itself, and climbs by the
    hypergradient of `expected_trace` once it has arrived.

    Source: this project; model-based search as in Dyna (Sutton, 1991), the search is
    `stackelberg.search`.
    """

    def __init__(self) -> None:
        self.generation = 0
        self.elites: list[Elite] = []  # of each leader; tables: parameters, then answers if seen
        self.target: Tensor | None = None  # [M, n, K] position to walk to
        self.walking = torch.zeros(0, dtype=torch.bool)  # [M]

    def __call__(self, evidence: Evidence, commitment: Commitment) -> tuple[Tensor, Tensor]:
        """Surrogates of the walk, or of the hypergradient.

        Raises:
            InputError: without a probe, or where a design moves the transitions.
        """
        if self.generation < SCATTERED + GENERATIONS:
            self._explore(evidence)
            self.generation += 1
        direct, indirect = expected_trace(evidence, commitment)
        if self.target is None:
            return direct, indirect
        position = evidence.leader.position(everywhere(evidence.game))
        self.walking &= divergence(self.target, position.detach()) > ARRIVED
        towards = (self.target.exp() * position).sum((-2, -1))  # -KL(target || position) + const
        rest = torch.zeros_like(indirect)
        return torch.where(self.walking, towards, direct), torch.where(self.walking, rest, indirect)

    def _explore(self, evidence: Evidence) -> None:
        """One generation of scouts, and where the best sends the leaders."""
        probe, leader = _checked(evidence), evidence.leader
        own = [p.detach() for p in leader.parameters()]
        born = [self._propose(evidence, m) for m in range(leader.count)]
        everyone = [torch.cat(rows) for rows in zip(*born, strict=True)]
        response, seen = probe.scout(search.replicate(leader, everyone))
        evidence.memory.update(seen, own=False)
        scouts = [table.unflatten(0, (-1, SCOUTS)) for table in everyone + _answers(response)]
        present = [table.unsqueeze(1) for table in own + _answers(evidence.response)]
        tables = [torch.cat(pair, 1) for pair in zip(scouts, present, strict=True)]
        self.elites = [
            self._judged(evidence, m, [table[m] for table in tables]) for m in range(leader.count)
        ]
        if self.generation >= SCATTERED:
            best = [torch.stack(rows) for rows in zip(*map(_first, self.elites), strict=True)]
            with torch.no_grad():
                found = search.replicate(leader, best[: len(own)])
                self.target = found.position(everywhere(evidence.game))
            self.walking = torch.ones(leader.count, dtype=torch.bool)

    def _propose(self, evidence: Evidence, m: int) -> list[Tensor]:
        """The parameters [SCOUTS, ...] of one leader's next scouts."""
        parameters, noise = list(evidence.leader.parameters()), evidence.noise[m]
        shapes = [(SCOUTS, *p.shape[1:]) for p in parameters]
        born = search.scatter([torch.from_numpy(noise.normal(size=shape)) for shape in shapes])
        if self.generation < SCATTERED:
            return born
        if self.generation % FRESH:
            bred = self.elites[m].offspring(len(parameters), SCOUTS, noise)
            born = [torch.cat([a[::2], b[::2]]) for a, b in zip(born, bred)] if MIX else bred
        family = search.replicate(evidence.leader, born)
        best = search.Best(family)
        for _ in search.climb(evidence.game, family, evidence.memory.of(m).model, best, CLIMB):
            pass
        return best.parameters

    def _judged(self, evidence: Evidence, m: int, tables: list[Tensor]) -> Elite:
        """The best of one leader's elite and newcomers, by what the model says of them now."""
        if self.elites:
            tables = [torch.cat(pair) for pair in zip(self.elites[m].tables, tables, strict=True)]
        count = len(list(evidence.leader.parameters()))
        with torch.no_grad():
            commitment = commit(evidence.game, search.replicate(evidence.leader, tables[:count]))
        model, policy = evidence.memory.of(m).model(commitment).detach(), commitment.policy
        answer = tables[count] if len(tables) > count else exact.best_response(model, policy).policy
        elite = Elite()
        elite.add(tables, exact.leader_return(model, policy, answer))
        return elite

    # ------------------------------------------------------------ checkpoints

    def state(self) -> dict[str, Tensor]:
        """All that the next call depends on."""
        state = {"generation": torch.tensor(self.generation)}
        if self.target is not None:
            state |= {"target": self.target, "walking": self.walking}
        for m, elite in enumerate(self.elites):
            state |= {f"{m}.{i}": table for i, table in enumerate([elite.value, *elite.tables])}
        return state

    def load(self, state: dict[str, Tensor]) -> None:
        """Take up a saved state."""
        self.generation = int(state["generation"])
        self.target = state.get("target")
        self.walking = state.get("walking", self.walking)
        self.elites = []
        while f"{(m := len(self.elites))}.0" in state:
            rows = [state[f"{m}.{i}"] for i in range(sum(k.startswith(f"{m}.") for k in state))]
            self.elites.append(Elite())
            self.elites[m].add(rows[1:], rows[0])


def _first(elite: Elite) -> list[Tensor]:
    return [table[0] for table in elite.tables]


def _answers(response: Response) -> list[Tensor]:
    """What the followers do, where the leader may see it."""
    return [] if response.access == "trajectories" else [response.policy]


def _checked(evidence: Evidence) -> Probe:
    """The probe of evidence that this estimator can use."""
    if evidence.game.moves_transition:
        raise InputError(
            "a game whose transitions a design does not move, for model-based",
            f"'{evidence.game.name}'",
            "use another estimator, for example expected-trace",
        )
    if evidence.probe is None:
        raise InputError(
            "a probe for model-based, which plays more",
            "evidence without one",
            "train by the Coordinator, or use expected-trace",
        )
    return evidence.probe
