"""Games on a grid: where their states lie, and how such games draw themselves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

WALL = "0.25"


@dataclass(frozen=True)
class Grid:
    """The map of a game whose states are cells, in the order in which they are read.

    A game may have several layers of the map, one after the other (an episode's goal, a load):
    state s is the cell s modulo the number of cells.

    Args:
        rows: of the map, all of one length; a space is a cell, anything else a wall.
        moves: of the follower's actions, as (rows down, columns to the right).
        marks: a letter for cells (row, column) of note.
    """

    rows: Sequence[str]
    moves: Sequence[tuple[int, int]]
    marks: Mapping[tuple[int, int], str] = field(default_factory=dict)

    @cached_property
    def cells(self) -> list[tuple[int, int]]:
        """(row, column) of every cell."""
        return [(r, c) for r, row in enumerate(self.rows) for c, x in enumerate(row) if x == " "]

    def layered(self, values: np.ndarray) -> np.ndarray:
        """Values of states [S, ...] by layer and cell [layers, cells, ...]."""
        values = np.asarray(values)
        return values.reshape(-1, len(self.cells), *values.shape[1:])

    def draw(
        self, axes: Any, values: np.ndarray, title: str, bar: bool = True, **style: Any
    ) -> Any:
        """Draw one number per state; over several layers their sum. Returns the image.

        Args:
            values: [S]. bar: beside a colour bar. style: of matplotlib's imshow.
        """
        from matplotlib.patheffects import withStroke

        grid = np.full((len(self.rows), len(self.rows[0])), np.nan)
        for cell, value in zip(self.cells, self.layered(values).sum(0), strict=True):
            grid[cell] = value
        axes.set_facecolor(WALL)
        image = axes.imshow(grid, **{"cmap": "viridis"} | style)
        if bar:
            axes.figure.colorbar(image, ax=axes, shrink=0.8)
        for (row, column), mark in self.marks.items():
            letter: dict[str, Any] = {
                "ha": "center",
                "va": "center",
                "color": "white",
                "weight": "bold",
            }
            outline = withStroke(linewidth=2.5, foreground="black")
            axes.text(column, row, mark, path_effects=[outline], **letter)
        axes.set(title=title, xticks=[], yticks=[])
        return image

    def draw_place(self, axes: Any, state: int, title: str) -> None:
        """Draw where the follower is in the state."""
        self.draw(axes, np.zeros(len(self.cells)), title, bar=False, cmap="Greys", vmin=0, vmax=1)
        row, column = self.cells[state % len(self.cells)]
        axes.plot(column, row, "o", color="tab:blue", markersize=16)

    def draw_moves(self, axes: Any, policy: np.ndarray) -> None:
        """Draw over it the follower's mean move in every cell, an arrow half a cell long at most.

        Args:
            policy: probabilities of the follower's actions by cell [cells, B].
        """
        down, right = (policy @ np.array(self.moves, float)).T
        row, column = np.array(self.cells).T
        ends = {"angles": "xy", "scale_units": "xy", "scale": 1.0, "pivot": "mid"}
        shape = {"width": 0.006, "headwidth": 4, "headlength": 4, "headaxislength": 3.5}
        axes.quiver(column, row, 0.85 * right, 0.85 * down, color="C0", **ends, **shape)
