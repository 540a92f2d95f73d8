"""A model-based leader of linear-quadratic games."""

from typing import ClassVar, cast

import torch
from torch import Tensor

from stackelberg import linear, search
from stackelberg.access import TrajectoriesAccess
from stackelberg.estimators.evidence import Evidence
from stackelberg.estimators.linear import expected_trace
from stackelberg.estimators.model_based import ModelBased
from stackelberg.linear_model import LinearAnswer, LinearModel, linear_policy
from stackelberg.probe import Probe
from stackelberg.regression import LinearMemory
from stackelberg.rollout import Trajectories
from stackelberg.search import Model
from stackelberg.types import Commitment, Leader, commit


class LinearModelBased(ModelBased):
    """The expected trace, and a search of the regressed game for higher hills.

    As `ModelBased`, but little exploring is called for: a few directions tell everything. In the
    first outer iteration the 32 scouts of a leader are scattered, in the two after it they climb on
    the learned model, from scattered starts, then from recombinations of the best scouts so far
    and a bump ten times as wide. The transitions may be the design's.

    Source: this project.
    """

    exploring, searching, climbing = 1, 2, 120
    warmth: ClassVar[tuple[float, ...]] = (search.WARM, 1.0)

    def _gradient(self, evidence: Evidence, commitment: Commitment) -> tuple[Tensor, Tensor]:
        return expected_trace(evidence, commitment)

    def _propose(self, evidence: Evidence, m: int) -> list[Tensor]:
        """Scouts whose returns are foretold to be finite, the leader itself in place of others."""
        born = super()._propose(evidence, m)
        crew = search.replicate(evidence.leader, born)
        worth = self._worth(evidence, m, commit(evidence.game, crew), [])
        fits = torch.isfinite(worth)
        own = [p.detach()[m] for p in evidence.leader.parameters()]
        return [
            torch.where(fits.view(-1, *[1] * (b.dim() - 1)), b, p)
            for b, p in zip(born, own, strict=True)
        ]

    def _model(self, evidence: Evidence, m: int) -> Model:
        memory = _memory(evidence).of(m)
        return lambda commitment: memory.model(commitment)

    def _learn(
        self, evidence: Evidence, crew: Leader, response: TrajectoriesAccess, seen: Trajectories
    ) -> None:
        evidence.memory.update(seen, own=False)

    def _answers(
        self, evidence: Evidence, follower: TrajectoriesAccess, leaders: int
    ) -> list[Tensor]:
        return [] if follower.answer is None else [part.detach() for part in follower.answer]

    @torch.no_grad()
    def _worth(
        self, evidence: Evidence, m: int, commitment: Commitment, answers: list[Tensor]
    ) -> Tensor:
        model: LinearModel = _memory(evidence).of(m).model(commitment).detach()
        policy = linear_policy(len(commitment.policy), model.states, commitment.box)
        if answers:
            return linear.leader_return(model, policy, LinearAnswer(*answers))
        return linear.objective(model, policy)

    def _checked(self, evidence: Evidence) -> Probe:
        return evidence.probe_for("model-based", "expected-trace")


def _memory(evidence: Evidence) -> LinearMemory:
    return cast(LinearMemory, evidence.memory)
