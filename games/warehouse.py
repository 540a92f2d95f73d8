"""Warehouse: a leader lays out a floor so that a picker on its shortest way passes the scanner."""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from games.arrays import is_standard
from games.tabular import TabularDesign
from stackelberg.environment import Environment
from stackelberg.errors import InputError
from stackelberg.grid import Grid

MAP = """
#########
#       #
# # # # #
# # # # #
#       #
# # # # #
# # # # #
#       #
#########
""".strip().split("\n")
MOVES = [(-1, 0), (0, 1), (1, 0), (0, -1)]  # up, right, down, left
START, SCANNER, DESK = (7, 1), (4, 5), (1, 7)
GRID = Grid(MAP, MOVES, {START: "S", SCANNER: "C", DESK: "D"})
CELLS = GRID.cells
INDEX = {cell: i for i, cell in enumerate(CELLS)}
SLOWEST = 0.8  # the largest chance that a step fails

STANDARD = {"leader_discount": 0.95, "follower_discount": 0.95, "follower_observes_action": True}

# The best value that `stackelberg solve` has found with these settings, by temperature and price;
# most of its restarts agree. No proof of optimality.
BEST_KNOWN = {(0.1, 0.1): 0.648801, (0.2, 0.1): 0.613872, (0.5, 0.1): 0.402002}


def game(temperature: float = 0.2, price: float = 0.1, **settings: Any) -> TabularDesign:
    """A picker walks to the packing desk; the leader slows cells so that it passes the scanner.

    Description: aisles between racks, 37 cells. The follower moves up, right, down or left and
        wants to be at the desk soon. The leader makes cells slow (bumps, narrow lanes): it moves
        the transitions. It earns what the scanner counts, and pays for the slow cells.
    Action space: leader Box(0, 0.8, (37,)), the chance that a step from a cell fails; follower
        Discrete(4).
    Observation space: Box(37), one-hot of the cell.
    Start: cell (7, 1). End: with the step that is taken on the desk (1, 7), which moves nobody;
        episodes are cut after 100 steps.
    Reward: follower -1 per step until it is at the desk. Leader 1 for every passage of the scanner
        (4, 5), paid on leaving it, minus `price` times the sum of the design at the desk.
    Arguments: `temperature` of the follower; `price` of slowing, >= 0.
    Source: ours.
    Version history: v0.
    """
    if not 0 <= price < float("inf"):
        raise InputError("a finite price >= 0", f"{price}", "the default is 0.1")
    cells, scanner, desk = len(CELLS), INDEX[SCANNER], INDEX[DESK]
    moved = GRID.transition()
    moved[desk] = np.eye(cells)[desk]
    going, staying = torch.from_numpy(moved), torch.eye(cells, dtype=torch.float64).unsqueeze(1)
    passed = torch.zeros(cells, 4, dtype=torch.float64)
    passed[scanner] = 1 - going[scanner, :, scanner]
    at_desk = torch.zeros(cells, dtype=torch.float64)
    at_desk[desk] = 1
    start = torch.zeros_like(at_desk)
    start[INDEX[START]] = 1

    def transition(slow: Tensor) -> Tensor:
        fails = slow[:, :, None, None]
        return (1 - fails) * going + fails * staying

    def leader_reward(slow: Tensor) -> Tensor:
        spent = slow.sum(-1)[:, None, None] * at_desk.unsqueeze(-1)
        return (1 - slow.unsqueeze(-1)) * passed - price * spent

    setting = float(temperature), float(price)
    known = BEST_KNOWN.get(setting) if is_standard(settings, STANDARD) else None
    discounts = {name: STANDARD[name] for name in ("leader_discount", "follower_discount")}
    made = TabularDesign(
        spaces.Box(0.0, SLOWEST, (cells,), np.float64),
        transition,
        leader_reward,
        (at_desk - 1).unsqueeze(-1).expand(-1, 4),
        initial=start,
        termination=at_desk[:, None, None],
        temperature=temperature,
        name="warehouse",
        **discounts | {"horizon": 100, "optimum": known} | settings,
    )
    made.grid = GRID
    return made


def parallel_env(
    render_mode: str | None = None, max_cycles: int | None = None, **options: Any
) -> Environment:
    """`game(**options)` as a PettingZoo environment."""
    return Environment(game(**options), render_mode, max_cycles)
