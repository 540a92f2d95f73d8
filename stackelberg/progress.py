"""Progress of a run: a bar with the leader's live return, or silence."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Report = Callable[[dict[str, Any]], None]


def silent(row: dict[str, Any]) -> None:
    """Say nothing."""


@contextmanager
def progress_bar(title: str, iterations: int, optimum: float | None = None) -> Iterator[Report]:
    """A bar on stderr that shows every iteration's leader return."""
    goal = "" if optimum is None else f" of {optimum:.4g}"

    with counting_bar(title, counted=True) as show:

        def report(row: dict[str, Any]) -> None:
            value = row["leader_objective"]
            value = row["leader_return"] if value is None else value
            mean = sum(value) / len(value) if isinstance(value, list) else value
            show(row["iteration"] + 1, iterations, f"leader return {mean:.4g}{goal}")

        yield report


@contextmanager
def counting_bar(
    title: str, counted: bool = False, hidden: bool = False
) -> Iterator[Callable[[int, int, str], None]]:
    """A bar on stderr, told how many steps are done, of how many, and what to say beside it.

    It appears with the first step: work that cannot start says so and nothing else.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        *([MofNCompleteColumn()] if counted else []),
        TimeElapsedColumn(),
        TextColumn("{task.fields[value]}"),
    )
    bar = Progress(*columns, console=Console(stderr=True), disable=hidden)
    task = bar.add_task(title, value="")

    def show(done: int, total: int, value: str) -> None:
        bar.start()
        bar.update(task, completed=done, total=total, value=value)

    try:
        yield show
    finally:
        if bar.live.is_started:
            bar.stop()
