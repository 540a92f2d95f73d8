"""The process around a run: its threads and its Ctrl-C."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch

STOPS = signal.SIGINT, signal.SIGTERM


@contextlib.contextmanager
def single_thread() -> Iterator[None]:
    """One torch thread inside: for networks and tables this small, more are far slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def interruptible() -> None:
    """Let Ctrl-C raise KeyboardInterrupt, as Python does by default, and SIGTERM as well."""
    if threading.current_thread() is threading.main_thread():
        for kind in STOPS:
            signal.signal(kind, signal.default_int_handler)


class _Pressed:
    """A handler of Ctrl-C that remembers the first and lets a second one pass."""

    def __init__(self, before: Any) -> None:
        self.before, self.yes = before, False

    def __call__(self, *_: Any) -> None:
        self.yes = True
        if isinstance(self.before, _Pressed):
            self.before()
        for kind in STOPS:
            signal.signal(kind, signal.default_int_handler)


@contextlib.contextmanager
def interrupts() -> Iterator[Callable[[], bool]]:
    """Tells whether Ctrl-C was pressed, here or in one of these inside; a second one passes.

    The signal by which schedulers stop a process counts as well.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {kind: signal.getsignal(kind) for kind in STOPS}
    pressed = _Pressed(before[signal.SIGINT])
    for kind in STOPS:
        signal.signal(kind, pressed)
    try:
        yield lambda: pressed.yes
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
