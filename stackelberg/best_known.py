"""The best commitments found so far, game by game, in a file of the user's."""

import contextlib
import json
import math
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stackelberg.errors import InputError
from stackelberg.game import Game
from stackelberg.identity import game_key
from stackelberg.oracle import committed, oracle, without_maximum
from stackelberg.run_directory import to_json, write_atomically

FORMAT = "stackelberg best known 1"
ROUNDING = 1e-9  # of its size, by which one value must pass another to be better


class Known(NamedTuple):
    """A commitment and what it is worth to the leader against the exact best response."""

    value: float
    parameters: Tensor  # the policy f(a|s) [S, A], the design [d], or rows of gains [k, 2 + n]


def beats(value: float, other: float | None) -> bool:
    """Is the value better than the other, beyond rounding?"""
    return other is None or value - other > ROUNDING * max(1.0, abs(value))


class BestKnown:
    """Remembers the best commitment that solving or training has found in every exact game.

    A game, tabular or linear-quadratic, is known by its arrays or matrices and its settings,
    whatever its name. The values of commitments are computed from the game whenever they are read,
    so what the file says of them is for the eye. A file that cannot be read or written is left as
    it is, with one warning, and an entry that does not fit its game counts as none.

    Args:
        path: of the JSON file; `best_known.json` in the folder $STACKELBERG_DATA or else in
            `stackelberg` below $XDG_DATA_HOME or ~/.local/share.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = _default_path() if path is None else Path(path)
        self._warned = False

    def best(self, game: Game) -> Known | None:
        """The best commitment stored for the game; none where its objective has no maximum."""
        if without_maximum(game) is not None:
            return None
        found = self._read()
        return None if found is None else self._known(game, found.get(game_key(game)))

    def optimum(self, game: Game) -> tuple[float | None, str | None]:
        """The best value known and its source: "game" (its own `optimum`), "best known" or None."""
        kept = self.best(game)
        if kept is not None and beats(kept.value, game.optimum):
            return kept.value, "best known"
        return own_optimum(game)

    def offer(self, game: Game, parameters: Any, found_by: str) -> bool:
        """Store a commitment if it is better than what is there; was it?

        None is the best where the leader's objective grows without end.

        Args:
            parameters: as of `Known`. found_by: the command that found it, for the eye.
        """
        new = _value(game, parameters)
        if without_maximum(game) is not None:
            return False
        try:
            with self._locked():
                there = self._read()
                if there is None:
                    return False
                key = game_key(game)
                kept = self._known(game, there.get(key))
                if kept is not None and not beats(new.value, kept.value):
                    return False
                entry = {"game": game.name, "value": new.value, "found_by": found_by}
                there[key] = entry | {"parameters": new.parameters.tolist()}
                write_atomically(self.path, to_json({"format": FORMAT, "games": there}) + "\n")
        except OSError as error:
            self._warn(f"it cannot be written ({error})")
            return False
        return True

    def _read(self) -> dict[str, Any] | None:
        """The entries by key of their game; None where they cannot be read."""
        try:
            found = json.loads(self.path.read_text())
            if found["format"] != FORMAT or not isinstance(found["games"], dict):
                raise ValueError(f"its format is not '{FORMAT}'")
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            self._warn(f"it cannot be read ({error})")
            return None
        games: dict[str, Any] = found["games"]
        return games

    def _known(self, game: Game, entry: Any) -> Known | None:
        if entry is None:
            return None
        try:
            return _value(game, entry["parameters"])
        except (ValueError, TypeError, KeyError, RuntimeError, ArithmeticError) as error:
            self._warn(f"its entry of '{game.name}' does not fit the game ({error})")
            return None

    def _warn(self, why: str) -> None:
        if not self._warned:
            fix = "mend or remove it, or name another folder in STACKELBERG_DATA"
            warnings.warn(f"best-known values in {self.path}: {why}; {fix}", stacklevel=4)
        self._warned = True

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone among all processes, where the system has locks."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path.with_suffix(".lock"), "w") as file:
            with contextlib.suppress(ImportError):
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX)
            yield


def own_optimum(game: Game) -> tuple[float | None, str | None]:
    """The game's own `optimum`, and its source: "game", or None where it has none."""
    return game.optimum, None if game.optimum is None else "game"


@torch.no_grad()
def _value(game: Game, parameters: Any) -> Known:
    """The commitment that numbers stand for, see `stackelberg.oracle.rows_of`, and its worth.

    Raises:
        InputError, ValueError, TypeError: if the game has no such commitment.
    """
    rows = torch.as_tensor(parameters, dtype=torch.float64)
    commitment = committed(game, rows[None])
    truth = oracle(game, commitment)
    assert truth is not None
    value = truth.objective.item()
    if not math.isfinite(value):
        raise ValueError(f"a value of {value}")
    return Known(value, rows)


def _default_path() -> Path:
    own, data = (os.environ.get(name) for name in ("STACKELBERG_DATA", "XDG_DATA_HOME"))
    if own:
        return Path(own) / "best_known.json"
    try:
        shared = Path(data) if data and os.path.isabs(data) else Path.home() / ".local" / "share"
    except RuntimeError as error:
        raise InputError(
            "a home folder, where best-known values are kept",
            "none",
            f"name a folder in the environment variable STACKELBERG_DATA ({error})",
        ) from error
    return shared / "stackelberg" / "best_known.json"
