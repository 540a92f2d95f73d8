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
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    goal = "" if optimum is None else f" of {optimum:.4g}"
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[value]}"),
    )
    bar = Progress(*columns, console=Console(stderr=True))
    task = bar.add_task(title, total=iterations, value="")

    def report(row: dict[str, Any]) -> None:
        bar.start()  # with the first row: a run that cannot start says so and nothing else
        value = row["leader_objective"]
        mean = sum(value) / len(value) if isinstance(value, list) else value
        text = f"leader return {mean:.4g}{goal}"
        bar.update(task, completed=row["iteration"] + 1, value=text)

    try:
        yield report
    finally:
        if bar.live.is_started:
            bar.stop()


@contextmanager
def counting_bar(title: str, hidden: bool) -> Iterator[Callable[[int, int, float], None]]:
    """A bar on stderr for a search: step, number of steps, best value so far."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[value]}"),
    )
    bar = Progress(*columns, console=Console(stderr=True), disable=hidden)
    task = bar.add_task(title, value="")

    def report(step: int, total: int, value: float) -> None:
        bar.start()
        bar.update(task, completed=step + 1, total=total, value=f"best {value:.6g}")

    try:
        yield report
    finally:
        if bar.live.is_started:
            bar.stop()
