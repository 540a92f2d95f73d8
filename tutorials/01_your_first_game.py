# %% [markdown]
# # Your first game
#
# A city inspects parked cars; a driver decides day by day whether to pay for parking. The city is
# the *leader*: it commits to how often it inspects. The driver is the *follower*: it does not see
# today's inspection coming, but it learns how often there is one, and answers with what is best
# for itself. You will define this game, solve it exactly, train on it from samples, and see what
# goes wrong when a leader forgets that followers react.

# %%
import sys
from pathlib import Path

import numpy as np
import torch

from agents import ExactFollower, TabularSoftmax
from games.tabular import TabularGame
from stackelberg import Coordinator, TrainConfig, parallel_env, solve
from stackelberg.figures import draw_learning_curves
from stackelberg.types import commit

# %% [markdown]
# ## Define
# A game is four arrays. Two states: the driver parks in town (0) or has been towed and walks (1).
# The leader's actions: rest (0), inspect (1). The follower's: pay (0), cheat (1).

# %%
PARKED, TOWED = 0, 1
REST, INSPECT = 0, 1
PAY, CHEAT = 0, 1

transition = np.zeros((2, 2, 2, 2))  # [state, leader action, follower action, next state]
transition[PARKED, :, :, PARKED] = 1.0
transition[PARKED, INSPECT, CHEAT] = [0.0, 1.0]  # caught
transition[TOWED, :, :] = [0.1, 0.9]  # the car comes back after ten days or so

leader_reward = np.zeros((2, 2, 2))  # [state, leader action, follower action]
leader_reward[PARKED, :, PAY] = 1.0  # the fee
leader_reward[:, INSPECT, :] -= 0.4  # what an inspection costs

follower_reward = np.zeros((2, 2, 2))
follower_reward[PARKED, :, PAY] = 0.5  # parking is worth 1.5 to the driver, the fee is 1
follower_reward[PARKED, :, CHEAT] = 1.5


def inspections() -> TabularGame:
    """The game. In a file of its own, `stackelberg train FILE.py:inspections` finds it."""
    return TabularGame(
        transition,
        leader_reward,
        follower_reward,
        follower_observes_action=False,
        leader_discount=0.95,
        follower_discount=0.95,
        temperature=0.1,
        horizon=100,
        name="inspections",
    )


# %% [markdown]
# The same game is a PettingZoo environment, for whatever else speaks that language.

# %%
env = parallel_env(inspections())
observations, _ = env.reset(seed=0)
print("agents", env.agents, "first observation", observations["leader"])

# %% [markdown]
# ## Solve
# The game has tables, so its optimum can be computed: exact ascent from 32 restarts.

# %%
game = inspections()
torch.set_num_threads(1)
solution = solve(game, TabularSoftmax(2, 2, seeds=range(32), std=1.0))
print(f"optimum {solution.value:.4f}, reached by {solution.reached_by} of 32 restarts")
print("P(inspect | parked) at the optimum:", round(solution.parameters[PARKED][INSPECT], 3))
game.optimum = solution.value

# %% [markdown]
# ## Train
# Now as a learner would: from 300 steps of play per outer iteration, ten seeds side by side.
# `naive` follows the leader's own policy gradient, as if the driver would not react.

# %%
seeds = range(10)
runs = {}
for estimator in ("expected-trace", "naive"):
    leader = TabularSoftmax(2, 2, seeds)
    config = TrainConfig(estimator=estimator, iterations=60)
    result = Coordinator(game, leader, ExactFollower(), config, seeds=seeds).run()
    runs[estimator] = result.metrics
    with torch.no_grad():
        inspect = commit(game, leader).policy[:, PARKED, INSPECT]
    regret = np.mean(result.summary["regret"])
    print(f"{estimator:15s} P(inspect | parked) {inspect.mean():.3f}, mean regret {regret:.4f}")

# %% [markdown]
# ## Compare
# The naive leader sees inspections as a cost and stops them; then nobody pays. The hypergradient
# foresees that, and settles where inspecting is just worth it.

# %%
out = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/tutorials")
draw_learning_curves(out / "01_your_first_game.png", runs, dict.fromkeys(runs, solution.value))
print("picture:", out / "01_your_first_game.png")
