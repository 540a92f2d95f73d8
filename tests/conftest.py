"""One thread for every test: tables and networks this small are far slower with more.

And best-known values of its own, never those of the user who runs the tests.
"""

import itertools
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, here and in subprocesses

import pytest
import torch

torch.set_num_threads(1)
_numbers = itertools.count()


@pytest.fixture(scope="session")
def _data(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(autouse=True)
def _own_data(_data, monkeypatch) -> None:
    monkeypatch.setenv("STACKELBERG_DATA", str(_data / str(next(_numbers))))
