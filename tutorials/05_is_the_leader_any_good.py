# %% [markdown]
# # Is the leader any good?
#
# What a leader earns while it trains is what it earns against the follower that it trains with. If
# that follower stops short of its best response, the leader may come to live on its mistakes. So
# freeze the leader, train followers from scratch, and see. The city and the driver of DiscreteToy
# are two agents who meet in three states; `stackelberg games` says more.

# %%
import sys
from pathlib import Path

import numpy as np
import torch

from agents import ExactFollower, TabularSoftmax
from games import discrete_toy
from stackelberg import Coordinator, TrainConfig, evaluate

torch.set_num_threads(1)
out = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/tutorials/05_is_the_leader_any_good")
game = discrete_toy.game()

# %% [markdown]
# ## Two ways to train
# `full` meets a follower that best-responds. `short` meets one that begins anew each time and stops
# after a single sweep over its values. Five leaders of each kind, from five seeds.

# %%
seeds, config = range(5), TrainConfig(iterations=60)
followers = {"full": ExactFollower(), "short": ExactFollower(sweeps=1, restart="reset")}
leaders, promised = {}, {}
for name, follower in followers.items():
    leaders[name] = TabularSoftmax(3, 2, seeds)
    result = Coordinator(game, leaders[name], follower, config, seeds=seeds).run()
    promised[name] = np.mean(result.summary["leader_return"]["mean"])

# %% [markdown]
# ## A rule of thumb
# Anything that maps an observation to an action, or to the probabilities of all actions, is a
# leader, too. This one closes A, the state that is observed as (0, 1, 0), every sixth time.


# %%
def sixth(observation: np.ndarray) -> np.ndarray:
    closes = observation[1] / 6
    return np.array([1 - closes, closes])


# %% [markdown]
# ## Fresh followers
# Two kinds, two seeds of each; one of them has learned from its own play alone. Nothing is
# chosen: every training is a row.

# %%
found = evaluate(leaders | {"sixth": sixth}, game, ["exact", "soft-q"], seeds=range(2))
for group in found.groups():
    ends = "" if group["interval"] is None else "[{:.2f}, {:.2f}]".format(*group["interval"])
    print(f"{group['group']:6} interquartile mean {group['iqm']:.2f} {ends}")
for name, value in promised.items():
    print(f"{name:6} was promised {value:.2f}")
worst = max(standing["regret"] for standing in found.standings if "full" in standing["leader"])
print(f"the worst of the full leaders falls {worst:.2g} short of {game.optimum:.2f}")

# %% [markdown]
# ## How special are answers?
# In cross-play every follower meets the leaders that it was not trained against: down the rows
# whom it was trained against, along the columns whom it meets. The folder takes all rows as JSON
# and CSV, and the matrix as a heat map.

# %%
two = {"always close": np.eye(2)[[0, 1, 0]], "sixth": sixth}
crossed = evaluate(two, game, ["exact"], seeds=range(3), cross_play=True)
(matrix,) = crossed.cross_play()
for name, row in zip(matrix["leaders"], matrix["leader_discounted"], strict=True):
    print(f"trained against {name:12}", " ".join(f"{value:7.2f}" for value in row))
crossed.write(out)
print("picture:", out / "figures" / "cross_play.png")
