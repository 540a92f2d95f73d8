"""Files of a run: whole or not there, and never another run's."""

import json
import math
import os
from pathlib import Path

import pytest
import torch

from stackelberg.errors import InputError
from stackelberg.run_directory import (
    KEEP,
    RunDirectory,
    read_checkpoint,
    read_metrics,
    to_json,
    write_atomically,
)

CONFIG = {"game": "toy", "iterations": 10, "seeds": (0,)}


def made(path: Path, rows: int = 4, every: int = 2) -> RunDirectory:
    """A run of some iterations, a checkpoint every so often."""
    run = RunDirectory(path, CONFIG)
    for i in range(rows):
        run.log({"iteration": i, "value": float(i)})
        if (i + 1) % every == 0:
            run.checkpoint(i + 1, {"x": torch.full((2,), float(i + 1))}, {"iteration": i + 1})
    run.close()
    return run


def everything(path: Path) -> dict:
    return {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}


def test_looking_writes_nothing(tmp_path):
    RunDirectory(tmp_path / "new" / "run", CONFIG)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("first", ["log", "checkpoint", "summarise"])
def test_the_folder_appears_with_its_config(tmp_path, first):
    run = RunDirectory(tmp_path / "run", CONFIG)
    {
        "log": lambda: run.log({"iteration": 0}),
        "checkpoint": lambda: run.checkpoint(1, {}, {"iteration": 1}),
        "summarise": lambda: run.summarise({"done": True}),
    }[first]()
    run.close()
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config == {"game": "toy", "iterations": 10, "seeds": [0]}


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    tensors = {
        "a": torch.randn(3, 4, dtype=torch.float64),
        "b": torch.randn(4, 3).t(),
        "flag": torch.tensor([True, False]),
        "zero": torch.tensor(7),
    }
    run = RunDirectory(tmp_path / "run", CONFIG)
    run.checkpoint(3, tensors, {"iteration": 3, "steps": {"leader": 5}})
    found, notes = read_checkpoint(run.latest())
    assert notes == {"iteration": 3, "steps": {"leader": 5}}
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_only_the_newest_checkpoints_stay(tmp_path):
    run = made(tmp_path / "run", rows=20)
    names = sorted(p.name for p in (run.path / "checkpoints").iterdir())
    assert names == ["iteration_00000018.safetensors", "iteration_00000020.safetensors"]
    assert len(names) == KEEP


@pytest.mark.parametrize("damage", ["truncated", "empty", "noise", "no notes"])
def test_a_damaged_checkpoint_is_an_error_and_the_one_before_still_works(tmp_path, damage):
    path = made(tmp_path / "run").path
    newest = path / "checkpoints" / "iteration_00000004.safetensors"
    whole = newest.read_bytes()
    if damage == "no notes":
        from safetensors.torch import save

        newest.write_bytes(save({"x": torch.zeros(2)}))
    else:
        newest.write_bytes({"truncated": whole[:-5], "empty": b"", "noise": b"\xff" * 99}[damage])
    before = everything(path)
    with pytest.raises(InputError, match=r"expected a whole checkpoint; got .*remove it"):
        RunDirectory(path, CONFIG, resume=True).restore()
    assert everything(path) == before
    newest.unlink()
    run = RunDirectory(path, CONFIG, resume=True)
    tensors, notes, rows = run.restore()
    assert notes["iteration"] == 2
    assert tensors["x"].tolist() == [2.0, 2.0]
    assert [row["iteration"] for row in rows] == [0, 1]
    run.log({"iteration": 2})
    assert [row["iteration"] for row in read_metrics(path)] == [0, 1, 2]


def test_rows_after_the_checkpoint_are_dropped_only_when_new_ones_come(tmp_path):
    path = made(tmp_path / "run", rows=3).path
    with open(path / "metrics.jsonl", "a") as file:
        file.write('{"iteration": 3, "val')
    before = everything(path)
    run = RunDirectory(path, CONFIG, resume=True)
    _, _, rows = run.restore()
    assert len(rows) == 2
    assert everything(path) == before
    run.log({"iteration": 2, "value": math.pi})
    run.close()
    assert [row["iteration"] for row in read_metrics(path)] == [0, 1, 2]
    assert read_metrics(path)[2]["value"] == math.pi


@pytest.mark.parametrize("damage", ["gone", "short", "torn", "repeated"])
def test_metrics_that_do_not_reach_the_checkpoint_are_an_error(tmp_path, damage):
    path = made(tmp_path / "run").path
    file = path / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    if damage == "gone":
        file.unlink()
    else:
        text = {
            "short": lines[:3],
            "torn": [lines[0], lines[1][:9], *lines[2:]],
            "repeated": [lines[0], *lines],
        }[damage]
        file.write_text("".join(text))
    with pytest.raises(InputError, match=r"put the file back or start anew"):
        RunDirectory(path, CONFIG, resume=True).restore()


def test_a_run_without_a_checkpoint_is_resumed_from_its_start(tmp_path):
    path = made(tmp_path / "run", rows=3, every=9).path
    run = RunDirectory(path, CONFIG, resume=True)
    assert run.restore() is None
    run.log({"iteration": 0})
    run.close()
    assert [row["iteration"] for row in read_metrics(path)] == [0]


@pytest.mark.parametrize("content", ["run", "files", "file"])
def test_a_folder_that_holds_something_is_an_error(tmp_path, content):
    path = tmp_path / "run"
    if content == "run":
        made(path)
    elif content == "files":
        path.mkdir()
        (path / "thesis.tex").write_text("precious")
    else:
        path.write_text("precious")
    before = everything(tmp_path)
    with pytest.raises(InputError, match=r"^expected .+; got .+; choose another"):
        RunDirectory(path, CONFIG)
    assert everything(tmp_path) == before


def test_an_empty_folder_will_do(tmp_path):
    RunDirectory(tmp_path, CONFIG).log({"iteration": 0})
    assert len(read_metrics(tmp_path)) == 1


@pytest.mark.parametrize("content", ["missing", "empty", "other", "broken", "list"])
def test_nothing_to_resume_is_an_error(tmp_path, content):
    path = tmp_path / "run"
    if content != "missing":
        path.mkdir()
    if content == "other":
        (path / "thesis.tex").write_text("precious")
    if content in ("broken", "list"):
        (path / "config.json").write_text({"broken": "{", "list": "[]"}[content])
    before = everything(tmp_path)
    with pytest.raises(InputError, match=r"^expected a run to resume; got .+; .+"):
        RunDirectory(path, CONFIG, resume=True)
    assert everything(tmp_path) == before
    assert path.exists() == (content != "missing")


def test_a_folder_below_a_file_is_an_error(tmp_path):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(InputError, match=r"expected a folder that can be written; got .+; choose"):
        RunDirectory(tmp_path / "file" / "run", CONFIG)


def test_a_parent_that_cannot_be_written_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(InputError, match=r"expected a folder that can be written; got .+; choose"):
        RunDirectory(tmp_path / "run", CONFIG)


def test_a_folder_that_cannot_be_made_is_an_error():
    run = RunDirectory("/proc/no/such/run", CONFIG)
    with pytest.raises(InputError, match=r"expected a folder that can be written; got .+; choose"):
        run.log({"iteration": 0})


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    file = tmp_path / "summary.json"
    write_atomically(file, "old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_atomically(file, "new")
    assert file.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["summary.json"]


def test_json_is_strict():
    value = {"a": float("nan"), "b": [1.0, float("inf")], "c": (None, True), "d": Path("x")}
    assert to_json(value) == '{"a": null, "b": [1.0, null], "c": [null, true], "d": "x"}'
