"""What Tianshou's algorithms are given in place of its own parts. Importing it takes seconds."""

from collections.abc import Callable

import numpy as np
import torch
from tianshou.data import Batch

from agents.experience import Columns


class Replay:
    """Stands where Tianshou expects a replay buffer.

    Its own vector buffer seeds all sub-buffers alike, so that minibatches repeat; this one draws
    uniformly over all that is kept.

    Args:
        columns: what is kept. generator: draws the samples.
        complete: makes a batch's columns of those kept.
    """

    def __init__(
        self,
        columns: Columns,
        generator: torch.Generator,
        complete: Callable[[Columns], Columns] = lambda columns: columns,
    ) -> None:
        self.columns, self.generator, self.complete = columns, generator, complete
        self.size = len(columns["act"])

    def sample(self, size: int) -> tuple[Batch, np.ndarray]:
        """`size` transitions with replacement, or all if 0, and their places."""
        if not size:
            return Batch(self.complete(self.columns)), np.arange(self.size)
        which = torch.randint(self.size, (size,), generator=self.generator)
        rows = {name: column[which] for name, column in self.columns.items()}
        return Batch(self.complete(rows)), which.numpy()


class SeededPolicy:
    """Stands before a policy of Tianshou's: draws by a generator that it is handed, no global one.

    Tianshou compiles advantage estimators when a policy is made, which takes seconds; no follower
    calls them.
    """

    generator: torch.Generator

    @staticmethod
    def _compile() -> None: ...
