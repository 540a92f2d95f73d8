# %% [markdown]
# # Designing incentives
#
# Sometimes the leader does not act at every step: it designs what the follower meets, once. Here
# a town sets road tolls for a driver that crosses it from corner to corner. The town wants its
# square quiet, and it dislikes tolls. MDP design is a game like any other, with a leader that moves
# once: same follower, same coordinator, same estimators.

# %%
import sys
from pathlib import Path

import numpy as np
import torch
from gymnasium import spaces

from agents import BoxDesign, ExactFollower
from games.tabular import TabularDesign
from stackelberg import Coordinator, Grid, TrainConfig, solve
from stackelberg.figures import draw_states, visits
from stackelberg.types import commit

# %% [markdown]
# ## The grid
# Five by five cells, a space in the map for each. The driver starts in one corner and the game ends
# with the step that it takes in the other, which moves it no more.

# %%
SIZE = 5
MOVES = [(-1, 0), (0, 1), (1, 0), (0, -1)]
MARKS = {(0, 0): "start", (2, 2): "square", (4, 4): "home"}
grid = Grid([" " * SIZE] * SIZE, MOVES, MARKS)
cells = len(grid.cells)
index = {cell: s for s, cell in enumerate(grid.cells)}
SQUARE, HOME = index[2, 2], index[4, 4]

transition = grid.transition()  # [cell, move, next cell]
transition[HOME] = np.eye(cells)[HOME]

at_home, at_square = torch.eye(cells, dtype=torch.float64)[[HOME, SQUARE]]

# %% [markdown]
# ## Rewards that depend on the design
# The design is one toll per cell, between 0 and 0.5. Rewards are functions of the designs of
# M leaders, `[M, cells]` in and `[M, cells, moves]` out, written in torch so that they have a
# derivative. The driver pays 0.1 for time and the toll of every cell it is on. The town earns 1 for
# a finished trip, less a fifth of all tolls set up, and loses 1 whenever the square is driven over.


# %%
def driver_reward(tolls: torch.Tensor) -> torch.Tensor:
    """[M, cells, moves]"""
    per_cell = at_home - (0.1 + tolls) * (1 - at_home)
    return per_cell.unsqueeze(-1).expand(-1, -1, 4)


def town_reward(tolls: torch.Tensor) -> torch.Tensor:
    """[M, cells, moves]"""
    per_cell = (1 - 0.2 * tolls.sum(-1, keepdim=True)) * at_home - at_square
    return per_cell.unsqueeze(-1).expand(-1, -1, 4)


def tolls() -> TabularDesign:
    """The game; its states are cells of a map, so it is drawn as one."""
    made = TabularDesign(
        spaces.Box(0.0, 0.5, (cells,)),
        transition,
        town_reward,
        driver_reward,
        termination=at_home[:, None, None],
        leader_discount=0.95,
        follower_discount=0.95,
        temperature=0.02,
        horizon=100,
        name="tolls",
    )
    made.grid = grid
    return made


# %% [markdown]
# ## Train and compare
# One leader learns from samples; the exact search gives the optimum to compare with.

# %%
torch.set_num_threads(1)
game = tolls()
game.optimum = solve(game, BoxDesign(game.leader_space, range(16), std=1.0)).value

leader, follower = BoxDesign(game.leader_space), ExactFollower()
with torch.no_grad():
    before = commit(game, leader)
response = follower.best_respond(game, before, (0,))
traffic_before = visits(game, before, response)
result = Coordinator(game, leader, follower, TrainConfig(iterations=150)).run()
with torch.no_grad():
    after = commit(game, leader)
start, end = result.metrics[0]["leader_objective"], result.summary["leader_return"]["exact"]
print(f"town's return: start {start:.4f}, trained {end:.4f}, optimum {game.optimum:.4f}")

# %%
out = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/tutorials")
draw_states(
    out / "02_designing_incentives.png",
    game,
    [
        ("tolls before", before.design[0].numpy()),
        ("traffic before", traffic_before),
        ("tolls after", after.design[0].numpy()),
        ("traffic after", visits(game, after, result.response)),
    ],
)
print("picture:", out / "02_designing_incentives.png")
