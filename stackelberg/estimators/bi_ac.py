"""Bi-AC, Zhang et al., AAAI 2020, arXiv:1909.03510: a critic of Stackelberg stage games."""

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from stackelberg.errors import InputError
from stackelberg.estimators.evidence import Evidence
from stackelberg.estimators.signals import Signals
from stackelberg.exact import expected_next, leader_values
from stackelberg.model import TabularModel
from stackelberg.types import Commitment

SWEEPS = 1000  # of policy iteration at most; a handful is the rule


def bi_ac(evidence: Evidence, commitment: Commitment) -> tuple[Tensor, Tensor]:
    """Bi-level actor-critic: a policy gradient on values of Stackelberg play in every stage.

        direct   = (1/N) sum_t gamma_L^t grad log f(a_t|s_t) [ V(s_t,a_t) - sum_a f V(s_t,a) ]
        indirect = 0
        V(s,a)   = sum_b g(b|s,a) Q(s,a,b),   Q(s,a,b) = r_L + gamma_L E max_a' Q(s',a',b(s',a'))

    b(s,a) is the mode of g, and Q the fixed point of that backup on the learned model. The critic
    foresees how the follower answers a move, not how it answers a change of the policy.

    Exact when: both discounts are 0 and the follower sees a_t.
    Source: arXiv:1909.03510, as compared in arXiv:2603.14867.

    Raises:
        InputError: in a design, which has no stage games.
    """
    if commitment.design is not None:
        raise InputError(
            "a game in which the leader moves at every step for bi-ac",
            f"the design '{evidence.game.name}'",
            "use another estimator, for example expected-trace",
        )
    model, g = evidence.tables.model(commitment).detach(), evidence.critics.response
    value = (g * stackelberg_action_values(model, g)).sum(-1)
    advantage = value - (evidence.critics.policy * value).sum(-1, keepdim=True)
    signals = Signals(evidence, commitment)
    direct = signals.score(signals.discounts * advantage.take(signals.pair))
    return direct, torch.zeros_like(direct)


@torch.no_grad()
def stackelberg_action_values(model: TabularModel, response: Tensor) -> Tensor:
    """Q(s,a,b) = r_L + gamma_L sum_s' P max_a' Q(s',a',b(s',a')), b(s,a) the mode of g: [M,S,A,B].

    By policy iteration.

    Args:
        response: g [M, S, A, B].
    """
    mode = one_hot(response.argmax(-1), model.follower_actions).to(response)
    value = torch.zeros_like(response[..., 0, 0])
    for _ in range(SWEEPS):
        action_value = model.leader_reward + model.leader_discount * expected_next(model, value)
        best = (mode * action_value).sum(-1).argmax(-1)
        before, value = (
            value,
            leader_values(model, one_hot(best, model.leader_actions).to(mode), mode),
        )
        if (value - before).abs().max() <= 1e-12 * value.abs().max():
            break
    return model.leader_reward + model.leader_discount * expected_next(model, value)
