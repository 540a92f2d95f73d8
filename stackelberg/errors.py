"""The one error that bad input gets: what was expected, what came, what to do."""

import difflib
import traceback
from collections.abc import Iterable
from pathlib import Path


class InputError(ValueError):
    """Input that cannot be used, said in three parts.

    Args:
        expected: what the receiver takes.
        got: what it was given.
        fix: what the caller can do about it.
    """

    def __init__(self, expected: str, got: str, fix: str) -> None:
        super().__init__(f"expected {expected}; got {got}; {fix}")
        self._parts = expected, got, fix

    def __reduce__(self) -> tuple[type["InputError"], tuple[str, str, str]]:
        """How it travels from one process to another."""
        return InputError, self._parts


def nearest(given: str, known: Iterable[str], otherwise: str = "check the spelling") -> str:
    """What to do about a name that is none of those known: take the nearest, if one is near."""
    near = difflib.get_close_matches(given, known, 1)
    return f"did you mean {near[0]}?" if near else otherwise


def told(error: BaseException) -> str:
    """An exception of somebody's own code in a line: its kind, what it says, and where it arose."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{where}"
