"""Transitions in columns: what a follower has seen."""

import torch
from torch import Tensor

LARGEST = 2**30  # bytes of experience that a follower keeps of each leader, at most

Columns = dict[str, Tensor]  # transitions [n, ...] by the name of what is told of each


def flat(columns: Columns) -> Columns:
    """Transitions [T n, ...] of play [T, n, ...]."""
    return {name: column.flatten(0, 1) for name, column in columns.items()}


class Experience:
    """Transitions in columns, in a ring: the oldest give way.

    Args:
        capacity: most transitions that are kept; fewer where they would take more than 1 GiB.
    """

    def __init__(self, capacity: int) -> None:
        self.most = self.capacity = capacity
        self.clear()

    def __len__(self) -> int:
        return self._count

    def clear(self) -> None:
        """Forget everything."""
        self._slots: Columns = {}
        self._room = self._count = self._next = 0

    def add(self, rows: Columns) -> None:
        """Append transitions, oldest first."""
        size = sum(column[:1].nbytes for column in rows.values())
        self.capacity = max(1, min(self.most, LARGEST // size))
        rows = {name: column[-self.capacity :] for name, column in rows.items()}
        fresh = len(next(iter(rows.values())))
        self._reserve(min(self.capacity, self._next + fresh), rows)
        where = (self._next + torch.arange(fresh)) % self.capacity
        for name, column in rows.items():
            self._slots[name][where] = column
        self._count = min(self.capacity, max(self._count, self._next + fresh))
        self._next = (self._next + fresh) % self.capacity

    def _reserve(self, room: int, like: Columns) -> None:
        if room <= self._room:
            return
        self._room = min(self.capacity, max(room, 2 * self._room))
        for name, column in like.items():
            grown = column.new_empty(self._room, *column.shape[1:])
            if name in self._slots:
                grown[: self._count] = self._slots[name][: self._count]
            self._slots[name] = grown

    def columns(self) -> Columns:
        """All that is kept, in the order of the slots."""
        return {name: slots[: self._count] for name, slots in self._slots.items()}

    def rows(self, which: Tensor) -> Columns:
        """Some of the slots, [n]."""
        return {name: slots[which] for name, slots in self._slots.items()}

    def state(self) -> dict[str, Tensor]:
        if not self._count:
            return {}
        kept = {name: column.clone() for name, column in self.columns().items()}
        return kept | {"next": torch.tensor(self._next)}

    def load(self, state: dict[str, Tensor]) -> None:
        self.clear()
        if state:
            rows = dict(state)
            following = int(rows.pop("next"))
            self.add(rows)
            self._next = following
