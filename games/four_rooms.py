"""FourRooms: a leader spends a budget of penalties to lead a walker past a cell of its choice."""

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from games.arrays import is_standard
from games.tabular import TabularDesign
from stackelberg.environment import Environment
from stackelberg.errors import InputError
from stackelberg.game import Budget
from stackelberg.grid import Grid

MAP = """
#############
#     #     #
#     #     #
#           #
#     #     #
#     #     #
## ####     #
#     ### ###
#     #     #
#     #     #
#           #
#     #     #
#############
""".strip().split("\n")
MOVES = [(-1, 0), (0, 1), (1, 0), (0, -1)]  # up, right, down, left
GRID = Grid(MAP, MOVES)
CELLS = GRID.cells
INDEX = {cell: i for i, cell in enumerate(CELLS)}
START, TARGET = (4, 1), (8, 4)
GOALS = [(1, 9), (11, 11)]
TOTAL = 0.2  # the budget of penalties

STANDARD = {"leader_discount": 0.99, "follower_discount": 0.99, "follower_observes_action": True}

# The best value that any search of ours has found (`stackelberg solve` and longer ones) with these
# settings, by goals, kernel, temperature and penalty. No proof of optimality.
BEST_KNOWN = {
    (1, "sim", 0.001, 5.0): 0.6054,
    (1, "sim", 0.003, 5.0): 0.48763,
    (1, "sim", 0.005, 5.0): 0.61618,
    (1, "model", 0.001, 5.0): 0.76838,
    (1, "model", 0.003, 5.0): 0.61607,
    (1, "model", 0.005, 5.0): 1.62271,
}


def slippery(kept: float) -> np.ndarray:
    """P(next cell | cell, move) [104, 4, 104]; the chosen move happens with probability `kept`."""
    other = (1 - kept) / 3
    mix = np.full((4, 4), other) + (kept - other) * np.eye(4)
    return np.einsum("bm,smt->sbt", mix, GRID.transition())


def game(
    goals: int = 1,
    kernel: Literal["sim", "model", "reference"] = "sim",
    temperature: float = 0.003,
    penalty: float = 5.0,
    **settings: Any,
) -> TabularDesign:
    """A follower walks to a goal; the leader places penalties so that it passes the target cell.

    Description: four rooms of 104 cells. The follower moves up, right, down or left and slips to
        another direction. The leader designs penalties; it profits while the walker stands on the
        target and pays for its penalties when the walker reaches the goal.
    Action space: leader Budget(104, total 0.2), a penalty for every cell; follower Discrete(4).
    Observation space: Box(104 x goals), one-hot of the cell (and of the episode's goal).
    Start: cell (4, 1), the goal drawn uniformly. End: with the step that is taken on the goal,
        which moves nobody; episodes are cut after 200 steps.
    Reward: follower 1 on the goal, minus the penalty of the cell elsewhere; leader 1 on the target
        (8, 4), minus `penalty` times the sum of all penalties on the goal.
    Arguments: `goals` 1 ((1, 9)) or 2 (also (11, 11)). `kernel`: "sim" keeps the chosen move with
        probability 0.67, "model" with 0.56, "reference" plays "sim" while the follower plans and
        values are reported on "model", as the published code does. `temperature` of the follower,
        published at 0.001, 0.003, 0.005. `penalty`: the leader's weight, published at 1 to 5.
    Source: Thoma et al., arXiv:2406.01575 (HPGD), and Kudo et al., arXiv:2603.14867.
    Version history: v0.
    """
    _check(goals, kernel, penalty)
    cells, states = len(CELLS), goals * len(CELLS)
    at_goal = torch.zeros(states, dtype=torch.float64)
    at_target, start = torch.zeros_like(at_goal), torch.zeros_like(at_goal)
    for g in range(goals):
        at_goal[g * cells + INDEX[GOALS[g]]] = 1
        at_target[g * cells + INDEX[TARGET]] = 1
        start[g * cells + INDEX[START]] = 1 / goals

    def follower_reward(spent: Tensor) -> Tensor:
        per_state = at_goal - spent.repeat(1, goals) * (1 - at_goal)
        return per_state.unsqueeze(-1).expand(-1, -1, 4)

    def leader_reward(spent: Tensor) -> Tensor:
        per_state = at_target - penalty * spent.sum(-1, keepdim=True) * at_goal
        return per_state.unsqueeze(-1).expand(-1, -1, 4)

    simulated, planned = (
        _blocks(0.67 if which == "sim" else 0.56, goals)
        for which in {"reference": ("sim", "model")}.get(kernel, (kernel, kernel))
    )
    setting = (goals, kernel, float(temperature), float(penalty))
    known = BEST_KNOWN.get(setting) if is_standard(settings, STANDARD) else None
    made = TabularDesign(
        Budget(cells, TOTAL),
        planned,
        leader_reward,
        follower_reward,
        initial=start,
        termination=at_goal[:, None, None],
        simulated_transition=simulated if kernel == "reference" else None,
        temperature=temperature,
        name="four_rooms",
        **{"horizon": 200, "optimum": known} | settings,
    )
    marks = {START: "S", TARGET: "T"} | dict.fromkeys(GOALS[:goals], "G")
    made.grid = replace(GRID, marks=marks)
    return made


def parallel_env(
    render_mode: str | None = None, max_cycles: int | None = None, **options: Any
) -> Environment:
    """`game(**options)` as a PettingZoo environment."""
    return Environment(game(**options), render_mode, max_cycles)


def _blocks(kept: float, goals: int) -> np.ndarray:
    """The kernel of `goals` copies of the rooms, never left; the goal holds the walker."""
    one = slippery(kept)
    cells = len(CELLS)
    many = np.zeros((goals, cells, 4, goals, cells))
    for g in range(goals):
        many[g, :, :, g] = one
        goal = INDEX[GOALS[g]]
        many[g, goal, :, g] = np.eye(cells)[goal]
    return many.reshape(goals * cells, 4, goals * cells)


def _check(goals: int, kernel: str, penalty: float) -> None:
    if goals not in (1, 2):
        raise InputError("goals = 1 or 2", f"{goals!r}", "choose one of the published settings")
    if kernel not in ("sim", "model", "reference"):
        raise InputError(
            "kernel = sim, model or reference", f"{kernel!r}", "use sim unless you compare"
        )
    if not 0 <= penalty < float("inf"):
        raise InputError("a finite penalty >= 0", f"{penalty}", "published values are 1 to 5")
