"""Where training by each hypergradient estimator ends, on the published setting of DiscreteToy.

Exact follower, 3 x 150 steps per outer iteration, a 64-64 network as the leader, the coordinator's
own steps (published: several Adam steps per outer iteration). The published metric is the return of
an episode of 150 steps, discounted for R1 and not for R2; `episode_return` is its expectation,
computed exactly for the final leader and its best response.
"""

from collections.abc import Sequence
from typing import Any
from unittest import mock

import numpy as np
import torch
from scipy import stats

from agents import ExactFollower
from agents.leaders import mlp_leader
from games import discrete_toy
from stackelberg import Coordinator, TrainConfig, exact
from stackelberg.estimators import sampled
from stackelberg.game import Game
from stackelberg.types import Leader, commit

PUBLISHED = {  # episode return (after 100 outer iterations, at the end of 500), by bonus
    1.0: {"bc-hg": (22.7, 27.04), "naive": (3.2, 11.4), "bi-ac": (4.0, 3.4)},
    2.0: {"bc-hg": (58.0, 58.9), "naive": (38.0, 32.7), "bi-ac": (34.9, 30.9)},
}
TRAINED = (
    "exact",
    "expected-trace",
    "gradient-critic",
    "sampled-trace",
    "bc-hg",
    "hpgd-oracle",
    "hpgd-sarsa",
    "hpgd-mc",
    "hpgd-td",
    "bi-ac",
    "naive",
)
COLUMNS = (
    "bonus",
    "estimator",
    "iterations",
    "seeds",
    "start",
    "objective",
    "ci95",
    "share",
    "lowest_share",
    "episode_return",
    "published_100",
    "published_500",
)


@torch.no_grad()
def episode_return(game: Game, leader: Leader, discount: float) -> np.ndarray:
    """[M] expected return of an episode of the game's horizon against the exact best response."""
    policy = commit(game, leader).policy
    model = game.model()
    response = exact.best_response(model, policy).policy
    kernel = exact.joint_kernel(model, policy, response)
    paid = (policy * (response * model.leader_reward).sum(-1)).sum(-1)
    value = torch.zeros_like(paid)
    for _ in range(game.horizon):
        value = paid + discount * torch.einsum("mst,mt->ms", kernel, value)
    return (model.initial * value).sum(-1).numpy()


def trained(
    bonus: float, name: str, seeds: Sequence[int], iterations: int, draws: int = sampled.BATCH
) -> dict[str, Any]:
    """One row: final objectives of all seeds, none left out.

    Args:
        draws: steps that bc-hg draws; published are ten leader steps of 64 draws an iteration.
    """
    game = discrete_toy.game(bonus)
    leader = mlp_leader(game, seeds)
    config = TrainConfig(iterations=iterations, estimator=name, evaluation_episodes=2)
    with mock.patch.object(sampled, "BATCH", draws):
        result = Coordinator(game, leader, ExactFollower(), config, seeds=seeds).run()
    final = np.atleast_1d(result.summary["leader_return"]["exact"])
    spread = stats.t.ppf(0.975, len(final) - 1) * stats.sem(final)
    returns = episode_return(game, leader, game.leader_discount if bonus == 1 else 1.0)
    at_100, at_500 = PUBLISHED[bonus].get(name, (float("nan"), float("nan")))
    return {
        "bonus": bonus,
        "estimator": name if draws == sampled.BATCH else f"{name}, {draws} draws",
        "iterations": iterations,
        "seeds": len(seeds),
        "start": np.mean(result.metrics[0]["leader_objective"]),
        "objective": final.mean(),
        "ci95": spread,
        "share": final.mean() / game.optimum,
        "lowest_share": final.min() / game.optimum,
        "episode_return": returns.mean(),
        "published_100": at_100,
        "published_500": at_500,
    }
