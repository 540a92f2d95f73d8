"""A run on disk: config, metrics, checkpoints, summary; every file whole or not there."""

import contextlib
import json
import math
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from stackelberg.errors import InputError

KEEP = 2  # checkpoints
NAMED = 3  # runs in an error, at most


class RunDirectory:
    """The files of one run.

    Making one only looks; the folder appears with the first thing that there is to write, so a
    run that fails before its first iteration is over leaves nothing behind.

    Args:
        path: the folder.
        config: what the run is, JSON-able; `iterations` may grow on resuming.
        resume: go on with the run that is there.

    Raises:
        InputError: if the folder holds something else, another run, or (resuming) no run.
    """

    def __init__(self, path: str | Path, config: dict[str, Any], resume: bool = False) -> None:
        self.path = Path(path)
        self.config = json.loads(to_json(config))  # as it will be read again
        self._resumes, self._open = resume, False
        self._kept: list[str] = []  # lines of metrics.jsonl that a resumed run goes on from
        self._writer: Any = None
        self._check()

    def _check(self) -> None:
        if self._resumes:
            self._check_same()
            check_writable(self.path)
        else:
            check_new_folder(self.path)

    def _check_same(self) -> None:
        there, config = flat(read_config(self.path)), flat(self.config)
        for key in {**config, **there}:
            own: Any = there.get(key)
            asked: Any = config.get(key)
            grows = key == "iterations" and _counts(own, asked) and asked > own
            if own != asked and not grows:
                raise InputError(
                    f"the run's own {key} = {own!r}",
                    f"{asked!r}",
                    "resume with what it was started with (only iterations may grow)",
                )

    def _begin(self) -> None:
        """Make the folder and its config.json; drop metrics that no checkpoint stands for."""
        if self._open:
            return
        if not self._resumes:
            check_new_folder(self.path)  # again: another run may have come first
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path / "config.json", to_json(self.config, indent=2) + "\n")
            write_atomically(self.path / "metrics.jsonl", "".join(self._kept))
            (self.path / "checkpoints").mkdir(exist_ok=True)
        except OSError as error:
            raise unwritable(self.path, error) from error
        self._open = True

    def latest(self) -> Path | None:
        """The newest checkpoint."""
        return newest_checkpoint(self.path)

    def checkpoint(self, iteration: int, tensors: dict[str, Tensor], notes: dict[str, Any]) -> None:
        """Write a checkpoint and drop all but the newest ones."""
        self._begin()
        folder = self.path / "checkpoints"
        tensors = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
        data = save(tensors, metadata={"notes": json.dumps(notes)})
        write_atomically(folder / f"iteration_{iteration:08d}.safetensors", data)
        for old in sorted(folder.glob("iteration_*.safetensors"))[:-KEEP]:
            old.unlink()

    def restore(self) -> tuple[dict[str, Tensor], dict[str, Any], list[dict[str, Any]]] | None:
        """The newest checkpoint's tensors and notes, and the metrics up to it; None without one.

        Raises:
            InputError: if the checkpoint or the metrics are damaged.
        """
        newest = self.latest()
        if newest is None:
            return None
        tensors, notes = read_checkpoint(newest)
        rows = read_metrics(self.path, notes["iteration"])
        self._kept = [to_json(row) + "\n" for row in rows]
        return tensors, notes, rows

    def log(self, row: dict[str, Any]) -> None:
        """Append one outer iteration to metrics.jsonl and to TensorBoard."""
        self._begin()
        with open(self.path / "metrics.jsonl", "a") as file:
            file.write(to_json(row) + "\n")
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            purge = row["iteration"]
            self._writer = SummaryWriter(str(self.path / "tensorboard"), purge_step=purge)
        for name, value in row.items():
            if value is None:  # not known
                continue
            many = value if isinstance(value, list) else None
            for i, number in enumerate(many or [value]):
                tag = name if many is None else f"{name}/{i}"
                if number is not None:
                    self._writer.add_scalar(tag, number, row["iteration"])

    def summarise(self, summary: dict[str, Any]) -> None:
        self._begin()
        write_atomically(self.path / "summary.json", to_json(summary, indent=2) + "\n")

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def newest_checkpoint(path: Path) -> Path | None:
    """The newest checkpoint of the run in a folder."""
    found = sorted((path / "checkpoints").glob("iteration_*.safetensors"))
    return found[-1] if found else None


def check_new_folder(path: Path) -> None:
    """Raise InputError unless the folder is new or empty, and can be written."""
    try:
        if path.exists() and not path.is_dir():
            raise InputError("a folder to write to", f"the file {path}", "choose another name")
        if path.is_dir() and any(path.iterdir()):
            run = (path / "config.json").exists()
            raise InputError(
                "a new or empty output folder",
                f"{path}, which holds {'another run' if run else 'other files'}",
                "choose another folder" + (", or --resume to go on with that run" if run else ""),
            )
    except OSError as error:
        raise unwritable(path, error) from error
    check_writable(path)


def check_writable(path: Path) -> None:
    """Raise InputError unless the folder is there or can be made, and can be written."""
    there = next(p for p in (path, *path.parents) if os.path.exists(p))
    if not (os.path.isdir(there) and os.access(there, os.W_OK | os.X_OK)):
        raise unwritable(path, f"{there} is not one")


def unwritable(path: Path, why: object) -> InputError:
    """What there is to say of a folder that cannot be written."""
    return InputError("a folder that can be written", f"{path}", f"choose another one ({why})")


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and notes of a checkpoint; nothing in the file is executed.

    Raises:
        InputError: if the file is damaged.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            notes = json.loads(file.metadata()["notes"])
            return {name: file.get_tensor(name) for name in file.keys()}, notes  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            "a whole checkpoint", f"{path}", f"remove it to use the one before ({error})"
        ) from error


def require_run(path: Path) -> None:
    """Raise InputError unless there is a config.json, as every run has one."""
    if os.path.isfile(path / "config.json"):
        return
    there = "a file" if os.path.isfile(path) else "a folder without config.json"
    what = there if os.path.exists(path) else "which is not there"
    inside = [str(one.parent) for one in sorted(path.glob("*/config.json"))]
    more = ", ..." if len(inside) > NAMED else ""
    raise InputError(
        "the folder of a run, as `stackelberg train --out` writes it",
        f"{path}, {what}",
        f"name a run inside: {', '.join(inside[:NAMED])}{more}" if inside else "check the name",
    )


def read_json(path: Path, what: str) -> Any:
    """The JSON in a file. Raises InputError if there is none."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(what, f"{path.parent}", f"check the folder's name ({error})") from error


def read_config(path: str | Path) -> dict[str, Any]:
    """What a run was started with. Raises InputError if there is none to resume."""
    file = Path(path) / "config.json"
    there = read_json(file, "a run to resume")
    if not isinstance(there, dict):
        raise InputError("a run to resume", f"{file} with {there!r}", "put the file back")
    return there


def from_python(config: Any) -> bool:
    """Was the run started from Python, so that its game and leader have no names to go by?"""
    return config.get("leader") is None or config.get("game_options") is None


def read_metrics(path: str | Path, count: int | None = None) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl, or its first `count`.

    Raises:
        InputError: if they are not one for each iteration.
    """
    file = Path(path) / "metrics.jsonl"
    try:
        rows = [json.loads(line) for line in file.read_text().splitlines()[:count]]
        iterations = [row["iteration"] for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            "the metrics of a run", f"{file}", f"put the file back or start anew ({error})"
        ) from error
    if iterations != list(range(len(rows) if count is None else count)):
        raise InputError(
            "one row of metrics for each iteration",
            f"{len(rows)} rows in {file}",
            "put the file back or start anew",
        )
    return rows


def flat(config: dict[str, Any], head: str = "") -> dict[str, Any]:
    """Settings inside settings by dotted names, so that an error can name the one that differs."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        found |= flat(value, f"{head}{key}.") if isinstance(value, dict) else {head + key: value}
    return found


def _counts(*values: Any) -> bool:
    return all(isinstance(value, int) for value in values)


def to_json(value: Any, **layout: Any) -> str:
    """Strict JSON: null where a number is not finite, text for what JSON does not know."""
    return json.dumps(_finite(value), allow_nan=False, default=str, **layout)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_atomically(path: Path, data: str | bytes) -> None:
    """Write the whole file or leave what was there."""
    with _replacing(path) as temporary:
        temporary.write(data.encode() if isinstance(data, str) else data)


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Any]:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise
