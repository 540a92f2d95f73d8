# %% [markdown]
# The main job: four leaders' tasks from start to end, one table, three pictures.
#
# Run it with `make run`, or `python tutorials/main_job.py [OUT]`; results go to a new folder
# below `runs/` unless OUT is given.

# %%
import sys
from itertools import count
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy import stats

from agents import ExactFollower, SoftmaxBudget, SoftQFollower, default_leader
from games import discrete_toy, four_rooms
from stackelberg import Coordinator, TrainConfig
from stackelberg.figures import draw_learning_curves, draw_states, visits
from stackelberg.progress import progress_bar
from stackelberg.types import commit

SEEDS = range(10)


def new_folder() -> Path:
    """runs/main-1, or the next one that is free."""
    return next(p for n in count(1) if not (p := Path(f"runs/main-{n}")).exists())


def train(title, game, leader, follower, config, seeds, out):
    """One task: a coordinator with its progress bar and its run directory."""
    coordinator = Coordinator(game, leader, follower, config, seeds=seeds, out=out / title)
    with progress_bar(title, config.iterations, game.optimum) as report:
        return coordinator.run(report)


# %% [markdown]
# Three times the DiscreteToy game: both bonuses with a follower that solves for its exact best
# response, and one with a Tianshou soft-Q follower that must learn it from play.

# %%
out = Path(sys.argv[1]) if len(sys.argv) > 1 else new_folder()
tasks = {}
for title, bonus, follower, seeds, iterations in (
    ("toy R=1, exact follower", 1.0, ExactFollower(), SEEDS, 60),
    ("toy R=2, exact follower", 2.0, ExactFollower(), SEEDS, 60),
    ("toy R=1, soft-Q follower", 1.0, SoftQFollower(), range(3), 25),
):
    game = discrete_toy.game(bonus=bonus)
    config = TrainConfig(iterations=iterations)
    result = train(title, game, default_leader(game, seeds), follower, config, seeds, out)
    tasks[title] = (game, result)

# %% [markdown]
# Incentive design in FourRooms: the leader spends penalties so that the walker passes its target.
# The landscape has a wide local optimum at "no penalties at all", so the leader does not trust its
# gradient alone: it sends out scouts, searches the model that it has learned, and walks to the best
# design it has found. The temperature is the highest of the published ones.

# %%
rooms = four_rooms.game(temperature=0.005)
designer = SoftmaxBudget(rooms.leader_space, range(2))
config = TrainConfig(estimator="model-based", iterations=50, streams=1)
with torch.no_grad():
    before = commit(rooms, designer)
    response_before = ExactFollower().best_respond(rooms, before, range(2))
result = train("four rooms", rooms, designer, ExactFollower(), config, range(2), out)
tasks["four rooms, model-based"] = (rooms, result)

# %%
head = ("task", "start", "trained", "+-", "optimum", "regret")
said = "leader's exact discounted return; +- is 95 % over seeds; steps are those of all leaders"
table = Table(*head, "leader steps", "follower steps", "s", caption=said)
for title, (game, result) in tasks.items():
    first = np.array(result.metrics[0]["leader_objective"])
    last = np.array(result.summary["leader_return"]["exact"])
    half = stats.t.ppf(0.975, len(last) - 1) * stats.sem(last)
    leaders = result.leader.count
    steps = {who: n * leaders for who, n in result.summary["env_steps"].items()}
    numbers = (first.mean(), last.mean(), half, game.optimum, game.optimum - last.mean())
    table.add_row(
        title,
        *(f"{x:.3f}" for x in numbers),
        *(f"{steps[who]:,}" for who in ("leader", "follower")),
        f"{result.summary['wall_seconds']:.1f}",
    )
Console(width=120).print(table)

# %%
figures = out / "figures"
draw_learning_curves(
    figures / "learning_curves.png",
    {title: result.metrics for title, (_, result) in tasks.items()},
    {title: game.optimum for title, (game, _) in tasks.items()},
)
with torch.no_grad():
    after = commit(rooms, designer)
draw_states(
    figures / "four_rooms.png",
    rooms,
    [
        ("penalties before", before.design[0].numpy()),
        ("visits before", visits(rooms, before, response_before, 0)),
        ("penalties after", after.design[0].numpy()),
        ("visits after", visits(rooms, after, result.response, 0)),
    ],
)
print(f"runs and pictures are in {out}")
