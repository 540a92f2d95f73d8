# %% [markdown]
# # Continuous games
#
# A utility announces the price of power; a household sees it and heats. The utility wants the load
# near what its lines carry, without prices far from the usual. Price and load are real numbers, so
# there are no tables. But dynamics are linear and costs quadratic, and for those there are oracles:
# the household's exact soft best response, the exact objective and its exact hypergradient.

# %%
import sys

import numpy as np
import torch

from agents import ExactFollower, LearningConfig, SACFollower, default_leader
from games.linear import LinearGame, product, squared_error
from stackelberg import Coordinator, TrainConfig, solve

# %% [markdown]
# ## The game
# One row and column for each number in z = (1, temperature, price, power): the constant first, then
# the state, the leader's action and the follower's. Rewards are the negative costs z' cost z, sums
# of products z_i z_j and of squared errors (z_i - aim)^2.

# %%
SIZE = 4
ONE, TEMPERATURE, PRICE, POWER = range(SIZE)  # temperature: degrees above what is comfortable


def heating(**settings) -> LinearGame:
    """It is cold outside: without power the temperature falls to 3 degrees below comfort."""
    usual, capacity = 1.0, 0.5
    return LinearGame(
        transition=[[-0.3, 0.9, 0.0, 0.5]],  # temperature' = -0.3 + 0.9 temperature + 0.5 power
        leader_cost=squared_error(SIZE, POWER, capacity) + 0.1 * squared_error(SIZE, PRICE, usual),
        follower_cost=squared_error(SIZE, TEMPERATURE)
        + product(SIZE, PRICE, POWER)
        + 0.5 * squared_error(SIZE, POWER),
        noise=[[0.04]],
        initial_covariance=[[1.0]],
        name="heating",
        **{"leader_discount": 0.9, "follower_discount": 0.9, "horizon": 50} | settings,
    )


# %% [markdown]
# ## The optimum
# The leader's default rule here is linear-Gaussian: price = constant + gain temperature + noise.
# `solve` climbs the exact objective from many starts.

# %%
torch.set_num_threads(1)
game = heating()
best = solve(game, default_leader(game, range(16), std=1.0))
constant, gain, spread = best.parameters[0]
print(f"optimum {best.value:.3f}: price {constant:.2f} {gain:+.2f} temperature, +- {spread:.2f}")

# %% [markdown]
# ## Training from play
# Nothing of the oracles goes into training. The leader regresses dynamics and rewards on the play
# that it has seen, and foresees the follower on that. `naive` takes the follower's rule as it is: a
# higher price means less power at once, but not a household that heats ahead of it.

# %%
seeds, curves = range(5), {}
for estimator in ("expected-trace", "naive"):
    leader = default_leader(game, seeds)
    config = TrainConfig(iterations=40, streams=10, steps=20, estimator=estimator)
    result = Coordinator(game, leader, ExactFollower(), config, seeds=seeds).run()
    curves[estimator] = np.array([row["leader_objective"] for row in result.metrics])
    reached = np.array(result.summary["leader_return"]["exact"])
    mean, worst = best.value - reached.mean(), best.value - reached.min()
    print(f"{estimator:14} regret {mean:.3f}, worst {worst:.3f}")

# %% [markdown]
# ## A follower that learns
# Against a black box, here Tianshou's SAC, the same leader sees nothing but states, actions and
# rewards. Its answer is not quite the best response, and neither is the leader's.

# %%
black_box = SACFollower(LearningConfig(first_steps=16_384, later_steps=2_048))
leader = default_leader(game, (0,))
config = TrainConfig(iterations=8, streams=10, steps=20, access="trajectories", radius=0.1)
result = Coordinator(game, leader, black_box, config, seeds=(0,)).run()
reached = result.summary["leader_return"]["exact"]
start = curves["naive"][0].mean()
print(f"against SAC    regret {best.value - reached:.3f}, at the start {best.value - start:.3f}")

# %% [markdown]
# ## Look at it

# %%
from matplotlib.figure import Figure  # noqa: E402 - only now is it needed

figure = Figure(figsize=(6, 3.5), layout="constrained")
axes = figure.add_subplot()
for estimator, values in curves.items():
    axes.plot(values.mean(1), label=estimator)
    axes.fill_between(range(len(values)), values.min(1), values.max(1), alpha=0.2)
axes.axhline(best.value, color="black", linestyle=":", label="optimum")
axes.set(xlabel="outer iteration", ylabel="leader's objective, five seeds")
axes.legend()
folder = sys.argv[1] if len(sys.argv) > 1 else "."
figure.savefig(f"{folder}/04_continuous_games.png", dpi=150)
