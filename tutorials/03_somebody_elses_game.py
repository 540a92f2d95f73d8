# %% [markdown]
# # Somebody else's game
#
# You have an environment that was not written for leaders and followers: a PettingZoo environment
# between two agents, with observations of its own kind and no tables of probabilities. And you
# have a follower of which you see nothing but what it does. Here it is the parking town of the
# first tutorial, where inspections have become dear: 1.5 fees each. So you can compare what a
# leader learns in the dark with what there is to be had.

# %%
import sys

import numpy as np
import torch
from parking import CHEAT, COST, INSPECT, Town

from agents import SoftQConfig, SoftQFollower, TabularSoftmax, default_leader
from games.tabular import TabularGame
from stackelberg import Coordinator, TrainConfig, exact, from_parallel_env, solve

# %% [markdown]
# ## The environment
# A city and a driver act at once. The city sees a number, the driver a dict; nothing of it is
# special to this project: see `parking.py`, beside this file. What is wrong with it, if anything,
# `stackelberg check tutorials/parking.py:Town --leader-agent city` says.
#
# ## The game
# Who leads, how far both look ahead, how sharply the driver tells better from worse: that is all
# there is to say. The driver does not see the city move: agents of PettingZoo move at once.

# %%
rules = {"temperature": 0.1, "leader_discount": 0.95, "follower_discount": 0.95}
game = from_parallel_env(Town, leader="city", **rules)

# %% [markdown]
# ## Train in the dark
# The driver learns by soft Q-learning with a network, from 16,384 days of its own after every move
# of the city. The city knows what both see, do and are paid, and no more: from that it learns, by
# networks of its own, what its states are worth to itself and to the driver, how the driver
# behaves, and what made it behave so. Cars are seldom towed, so it looks at 32 streams at once.

# %%
iterations = 2 if "--quick" in sys.argv else 40
budget = SoftQConfig(first_steps=65_536, afresh_steps=16_384)
config = TrainConfig(iterations=iterations, access="trajectories", streams=32)
leader = default_leader(game)
result = Coordinator(game, leader, SoftQFollower(budget), config).run()
returns = [row["leader_return"] for row in result.metrics]
print("city, by iteration:", *(f"{value:.2f}" for value in returns[:: max(1, iterations // 8)]))

# %% [markdown]
# ## What there was to be had
# For once we know better than the leader: the same town in arrays.

# %%
transition, ours, theirs = np.zeros((2, 2, 2, 2)), np.zeros((2, 2, 2)), np.zeros((2, 2, 2))
transition[0, :, :, 0], transition[0, INSPECT, CHEAT], transition[1] = 1, [0, 1], [0.1, 0.9]
ours[0, :, 0], theirs[0] = 1, [0.5, 1.5]
ours[:, INSPECT] -= COST
town = TabularGame(transition, ours, theirs, follower_observes_action=False, **rules)
best = solve(town, TabularSoftmax(2, 2, seeds=range(16), std=1.0)).value
policies = [default_leader(game), leader]  # untrained, trained
start, end = (exact.objective(town.model(), p.log_policy(torch.eye(2)).exp()) for p in policies)
print(f"worth at the start {start.item():.2f}, trained {end.item():.2f}, optimum {best:.2f}")
share = leader.log_policy(torch.eye(2)).exp()[0, :, INSPECT].tolist()
print(f"inspects parked cars {share[0]:.2f} and empty places {share[1]:.2f} of the time")
print("environment steps:", result.summary["env_steps"])

# %% [markdown]
# Worth is against a driver who answers best; the one in training does not always, so that what the
# city is paid in an iteration goes up and down. It has learned to inspect parked cars just often
# enough to be feared, and is giving up on empty places.
