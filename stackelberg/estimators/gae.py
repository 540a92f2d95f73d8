"""The sampled trace with generalised advantage estimates."""

import torch
from torch import Tensor

from stackelberg.estimators.evidence import Evidence
from stackelberg.estimators.signals import Signals
from stackelberg.hypergradient import remaining_sum
from stackelberg.model import spread
from stackelberg.types import Commitment


def gae(evidence: Evidence, commitment: Commitment) -> tuple[Tensor, Tensor]:
    """The sampled trace with both advantages from lambda-weighted TD errors of state values.

        A_k^(lambda) = sum_l (gamma lambda)^l delta_{k+l}, to the episode's last sampled step,
        delta^L_k = r_L + gamma_L V_L(s_{k+1}) - V_L(s_k),
        delta^F_k = r_F - beta log g(b_k|s_k,a_k) + gamma_F V_F(s_{k+1}) - V_F(s_k),

    V(s_{k+1}) = 0 after an ending by the rules; where a stream or the time limit cuts an episode,
    V(s_{k+1}) stands for the rest. Given s_{k+l} every delta_{k+l} has mean zero, so only delta_k
    carries an advantage. The follower's surprise -beta log g is its entropy in expectation, and
    r_F - beta log g + gamma_F E V_F(s') is the same for every b of a soft best response: it takes
    noise off. The one delta^F serves both kinds of followers:

    - one that sees a_k: E[delta^F | s,a] = V_F(s,a) - E_f V_F(s,.), met by the exclusive trace;
    - one that does not: E[delta^F | s,a,b] = q_F(s,a,b) - V_F(s) - beta log g(b|s), which is
      q_F(s,a,b) - Q_F(s,b) at the best response and differs from it by a function of (s,b) at any
      other; a_k is drawn apart from b_k, so that takes no part. The inclusive trace, as it
      contains b_k, is independent of what delta_{k+1} and later ones add.

    A design has no actions to weigh; there V(s_{k+1}) + lambda A_{k+1}^(lambda) takes the place of
    V(s_{k+1}). One that moves rewards alone has no such values, and lambda does nothing.

    Bias and variance: with true values unbiased at any lambda; with learned ones lambda = 1 has
    none of their bias (but for cut episodes and the benefit trace, which is the critics' own) and
    the noise of whole returns, lambda = 0 all of it and the noise of one step.

    Source: Schulman et al., ICLR 2016, arXiv:1506.02438, eq. 16, for one player's advantage.
    """
    signals = Signals(evidence, commitment)
    game, critics, seen, weight = signals.game, signals.critics, signals.seen, signals.discounts
    summed = signals.trace(weight * signals.benefits)
    temperature = spread(evidence.temperature, 2)
    surprise = -temperature * critics.response.take(signals.cell).log()
    surprise = surprise * signals.playing[1]
    goes_on = seen.time[..., 1:] != 0

    def term(who: str, reward: Tensor, value: Tensor, discount: float, weight: Tensor) -> Tensor:
        arrived = torch.where(seen.terminated, 0.0, value.take(signals.arrival))
        error = reward + discount * arrived - value.take(signals.state)
        advantage = remaining_sum(error, seen.time, discount * evidence.gae_lambda)
        if commitment.design is None:
            return signals.score(weight * advantage)
        tail = torch.nn.functional.pad(goes_on * advantage[..., 1:], (0, 1))
        return signals.design(who, weight, evidence.gae_lambda * tail)

    direct = term(
        "leader", seen.leader_reward, critics.leader_state_value, game.leader_discount, weight
    )
    indirect = term(
        "follower",
        seen.follower_reward + surprise,
        critics.follower_state_value,
        game.follower_discount,
        summed / temperature,
    )
    return direct, indirect
