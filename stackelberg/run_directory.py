"""A run on disk: config, metrics, checkpoints, summary; every file whole or not there."""

import contextlib
import json
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


class RunDirectory:
    """The files of one run.

    Args:
        path: the folder. config: what the run is, JSON-able; `iterations` may grow on resuming.
        resume: go on with the run that is there.

    Raises:
        InputError: if the folder holds something else, another run, or (resuming) no run.
    """

    def __init__(self, path: str | Path, config: dict[str, Any], resume: bool = False) -> None:
        self.path = Path(path)
        self._writer: Any = None
        if resume:
            self._check_same(config)
        else:
            self._check_empty()
        try:
            (self.path / "checkpoints").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                "a folder that can be written", f"{self.path}", f"choose another one ({error})"
            ) from error
        write_atomically(self.path / "config.json", json.dumps(config, indent=2) + "\n")

    def _check_empty(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise InputError("a folder to write to", f"the file {self.path}", "choose another name")
        if self.path.is_dir() and any(self.path.iterdir()):
            what = "another run" if (self.path / "config.json").exists() else "other files"
            raise InputError(
                "a new or empty output folder",
                f"{self.path}, which holds {what}",
                "choose another folder, or --resume to go on with a run",
            )

    def _check_same(self, config: dict[str, Any]) -> None:
        there = read_json(self.path / "config.json", "a run to resume")
        if self.latest() is None:
            raise InputError(
                "a run to resume", f"{self.path}, which has no checkpoint yet", "start it anew"
            )
        for key in sorted(config.keys() | there.keys()):
            if key != "iterations" and config.get(key) != there.get(key):
                raise InputError(
                    f"the run's own {key} = {there.get(key)!r}",
                    f"{config.get(key)!r}",
                    "resume with the options it was started with (only iterations may change)",
                )

    def latest(self) -> Path | None:
        """The newest checkpoint."""
        found = sorted((self.path / "checkpoints").glob("iteration_*.safetensors"))
        return found[-1] if found else None

    def checkpoint(self, iteration: int, tensors: dict[str, Tensor], notes: dict[str, Any]) -> None:
        """Write a checkpoint and drop all but the newest ones."""
        folder = self.path / "checkpoints"
        tensors = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
        data = save(tensors, metadata={"notes": json.dumps(notes)})
        write_atomically(folder / f"iteration_{iteration:08d}.safetensors", data)
        for old in sorted(folder.glob("iteration_*.safetensors"))[:-KEEP]:
            old.unlink()

    def restore(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The newest checkpoint's tensors and notes; metrics written after it are dropped."""
        newest = self.latest()
        if newest is None:
            raise InputError("a run with a checkpoint", f"{self.path}", "start it anew")
        tensors, notes = read_checkpoint(newest)
        rows = self.path / "metrics.jsonl"
        if rows.exists():
            lines = rows.read_text().splitlines(keepends=True)
            write_atomically(rows, "".join(lines[: notes["iteration"]]))
        return tensors, notes

    def log(self, row: dict[str, Any]) -> None:
        """Append one outer iteration to metrics.jsonl and to TensorBoard."""
        with open(self.path / "metrics.jsonl", "a") as file:
            file.write(json.dumps(row) + "\n")
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            purge = row["iteration"]
            self._writer = SummaryWriter(str(self.path / "tensorboard"), purge_step=purge)
        for name, value in row.items():
            if isinstance(value, (int, float)) and name != "iteration":
                self._writer.add_scalar(name, value, row["iteration"])

    def summarise(self, summary: dict[str, Any]) -> None:
        write_atomically(self.path / "summary.json", json.dumps(summary, indent=2) + "\n")

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


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


def read_json(path: Path, what: str) -> Any:
    """The JSON in a file. Raises InputError if there is none."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(what, f"{path.parent}", f"check the folder's name ({error})") from error


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl."""
    lines = (Path(path) / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


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
        os.unlink(name)
        raise
