"""Games on a grid: where their states lie, and how such games draw themselves."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Integral
from typing import Any

import numpy as np

from stackelberg.errors import InputError

WALL = "0.25"


@dataclass(frozen=True)
class Grid:
    """The map of a game whose states are its floor cells, in the order of `cells`.

    In a row a space is a floor cell, anything else a wall; cells are counted as they are read. A
    game may have several layers of the map, one after the other (an episode's goal, a load): state
    s is the cell s modulo the number of cells. Any game takes one, `game.grid = grid`:

        grid = Grid(["####", "#  #", "####"], moves=[(0, 1), (0, -1)], marks={(1, 2): "G"})
        transition = grid.transition()  # P(s'|s,b) [S, B, S]

    Args:
        rows: of the map, all of one length.
        moves: of the follower's actions in their order, as (rows down, columns to the right).
        marks: a letter for cells (row, column) of note.

    Raises:
        InputError: if rows are no equally long strings with a floor cell among them, if moves are
            not pairs of integers, or if a mark lies off the map.
    """

    rows: Sequence[str]
    moves: Sequence[tuple[int, int]]
    marks: Mapping[tuple[int, int], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rows = _members(self.rows)
        lengths = {len(row) if isinstance(row, str) else None for row in rows}
        if len(lengths) != 1 or None in lengths:
            raise InputError(
                "rows of a map: a sequence of strings of one length",
                f"{self.rows!r:.100}",
                "write a wall as # and floor as a space, to the end of every row",
            )
        if not self.cells:
            raise InputError("a map with floor cells", "rows without a space", "a space is floor")
        moves = [_members(move) for move in _members(self.moves)]
        whole = all(isinstance(step, Integral) for move in moves for step in move)
        if not moves or {len(move) for move in moves} != {2} or not whole:
            raise InputError(
                "moves: pairs of integers, one for each of the follower's actions",
                f"{self.moves!r:.100}",
                "give (rows down, columns to the right), as (0, 1) for a step to the right",
            )
        if not isinstance(self.marks, Mapping):
            got = f"{self.marks!r:.100}"
            raise InputError("marks: letters by (row, column)", got, "write {(row, column): 'G'}")
        everywhere = {(r, c) for r in range(len(rows)) for c in range(len(rows[0]))}
        for place, mark in self.marks.items():
            if place not in everywhere or not isinstance(mark, str):
                raise InputError(
                    f"marks: a letter for a (row, column) of the {len(rows)} x {len(rows[0])} map",
                    f"{mark!r} for {place!r}",
                    "count rows and columns from 0, walls included",
                )

    @cached_property
    def cells(self) -> list[tuple[int, int]]:
        """(row, column) of every cell."""
        return [(r, c) for r, row in enumerate(self.rows) for c, x in enumerate(row) if x == " "]

    def transition(self) -> np.ndarray:
        """Where moves lead, P(s'|s,b) [cells, moves, cells]; a wall holds who walks into it."""
        index = {cell: s for s, cell in enumerate(self.cells)}
        to = [[index.get((r + i, c + j), s) for i, j in self.moves] for (r, c), s in index.items()]
        return np.eye(len(index))[np.array(to)]

    def layered(self, values: np.ndarray) -> np.ndarray:
        """Values of states [S, ...] by layer and cell [layers, cells, ...].

        Raises:
            InputError: unless S is a multiple of the number of cells.
        """
        values = np.asarray(values)
        self._check_states(len(values))
        return values.reshape(-1, len(self.cells), *values.shape[1:])

    def check(self, states: int, moves: int | None) -> None:
        """Raise InputError unless the map is one of so many states and follower's moves.

        Args:
            moves: None where they are not finitely many.
        """
        self._check_states(states)
        if moves != len(self.moves):
            raise InputError(
                "as many moves in the game's grid as the follower has actions",
                f"{len(self.moves)} for {'a continuous action' if moves is None else moves}",
                "give Grid.moves one (rows down, columns to the right) for each of its actions",
            )

    def _check_states(self, states: int) -> None:
        if states < 1 or states % len(self.cells):
            raise InputError(
                f"states that are the {len(self.cells)} cells of the game's grid, or layers of it",
                f"{states} states",
                "a space in Grid.rows is a floor cell: as many as there are states, see Grid.cells",
            )

    def draw(
        self, axes: Any, values: np.ndarray, title: str, bar: bool = True, **style: Any
    ) -> Any:
        """Draw one number per state; over several layers their sum. Returns the image.

        Args:
            values: [S]. bar: beside a colour bar. style: of matplotlib's imshow.
        """
        from matplotlib.patheffects import withStroke

        grid = self._mapped(self.layered(values).sum(0))
        axes.set_facecolor(WALL)
        image = axes.imshow(grid, **{"cmap": "viridis"} | style)
        if bar:
            axes.figure.colorbar(image, ax=axes, shrink=0.8)
        for (row, column), mark in self.marks.items():
            letter: dict[str, Any] = {
                "ha": "center",
                "va": "center",
                "parse_math": False,
                "color": "white",
                "weight": "bold",
            }
            outline = withStroke(linewidth=2.5, foreground="black")
            axes.text(column, row, mark, path_effects=[outline], **letter)
        axes.set(title=title, xticks=[], yticks=[])
        return image

    def shade(self, axes: Any, design: np.ndarray, most: float) -> None:
        """Draw over it the design's number in every cell, red above zero and blue below.

        Args:
            design: [cells]. most: where the colour is full.
        """
        share = self._mapped(np.clip(np.asarray(design, float) / most, -1, 1))
        alpha = np.nan_to_num(np.abs(share))
        axes.imshow(np.sign(share), cmap="bwr", vmin=-1, vmax=1, alpha=alpha)

    def _mapped(self, values: np.ndarray) -> np.ndarray:
        """Numbers of cells on the map [rows, columns], NaN at walls."""
        grid = np.full((len(self.rows), len(self.rows[0])), np.nan)
        grid[tuple(np.array(self.cells).T)] = values
        return grid

    def draw_place(self, axes: Any, state: int, title: str) -> None:
        """Draw where the follower is in the state."""
        self.draw(axes, np.zeros(len(self.cells)), title, bar=False, cmap="Greys", vmin=0, vmax=1)
        row, column = self.cells[state % len(self.cells)]
        axes.plot(column, row, "o", color="tab:blue", markersize=16)

    def draw_moves(self, axes: Any, policy: np.ndarray) -> None:
        """Draw over it the follower's mean move in every cell without a mark, as an arrow.

        Args:
            policy: probabilities of the follower's actions by cell [cells, B].
        """
        bare = np.array([cell not in self.marks for cell in self.cells])
        down, right = (policy @ np.array(self.moves, float))[bare].T
        row, column = np.array(self.cells)[bare].T
        ends = {"angles": "xy", "scale_units": "xy", "scale": 1.0, "pivot": "mid"}
        shape = {"width": 0.006, "headwidth": 4, "headlength": 4, "headaxislength": 3.5}
        axes.quiver(column, row, 0.85 * right, 0.85 * down, color="C0", **ends, **shape)


def _members(given: Any) -> list[Any]:
    """What a sequence holds; of a string, or what is no sequence, nothing."""
    return list(given) if isinstance(given, Iterable) and not isinstance(given, str) else []
