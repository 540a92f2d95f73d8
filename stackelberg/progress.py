"""Progress of a run: a bar with the leader's live return, or silence."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

BESIDE = 11  # columns for the time and for what parts them
WIDEST = 40  # columns of a bar, which gives way to what is said

Report = Callable[[dict[str, Any]], None]


def silent(row: dict[str, Any]) -> None:
    """Say nothing."""


class Progress:
    """What a bar shows of a run: the leader's return, and how far a long-training follower is.

    Args:
        show: of a `counting_bar`. iterations: how many there will be. optimum: what to reach.
    """

    def __init__(
        self, show: Callable[[int, int, str], None], iterations: int, optimum: float | None
    ) -> None:
        self._show, self._iterations = show, iterations
        self._goal = "" if optimum is None else f" of {optimum:.4g}"
        self._done, self._said = 0, ""

    def __call__(self, row: dict[str, Any]) -> None:
        """A row of metrics."""
        value = row["leader_objective"]
        value = row["leader_return"] if value is None else value
        mean = sum(value) / len(value) if isinstance(value, list) else value
        self._done, self._said = row["iteration"] + 1, f"return {mean:.4g}{self._goal}"
        self._show(self._done, self._iterations, self._said)

    def follower(self, steps: int, most: int, gap: float | None) -> None:
        """A follower has trained for so many steps, of at most so many, and has this gap left."""
        said = f"follower {told_steps(steps, most, gap)}"
        self._show(self._done, self._iterations, ", ".join(filter(None, (self._said, said))))


def told_steps(steps: int, most: int, gap: float | None) -> str:
    """How far a follower is in its training, in words."""
    known = "" if gap is None else f", gap {gap:.2g}"
    return f"at {steps / most:.0%}{known}"


@contextmanager
def progress_bar(title: str, iterations: int, optimum: float | None = None) -> Iterator[Progress]:
    """A bar on stderr that shows every iteration's leader return."""
    with counting_bar(title, counted=True) as show:
        yield Progress(show, iterations, optimum)


@contextmanager
def counting_bar(
    title: str, counted: bool = False, hidden: bool = False
) -> Iterator[Callable[[int, int, str], None]]:
    """A bar on stderr, told how many steps are done, of how many, and what to say beside it.

    It appears with the first step: work that cannot start says so and nothing else.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    line = BarColumn()
    columns = (
        TextColumn("{task.description}"),
        line,
        *([MofNCompleteColumn()] if counted else []),
        TimeElapsedColumn(),
        TextColumn("{task.fields[value]}"),
    )
    bar = Progress(*columns, console=Console(stderr=True), disable=hidden)
    task = bar.add_task(title, value="")

    def show(done: int, total: int, value: str) -> None:
        bar.start()
        taken = len(title) + counted * (2 * len(str(total)) + 1) + BESIDE
        room = max(bar.console.width - taken - 1, 1)
        value = value if len(value) <= room else value[: room - 1] + "…"
        line.bar_width = min(WIDEST, room + 1 - len(value))
        bar.update(task, completed=done, total=total, value=value)

    try:
        yield show
    finally:
        if bar.live.is_started:
            bar.stop()
