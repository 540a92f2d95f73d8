"""One thread for every test: tables and networks this small are far slower with more."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, here and in subprocesses

import torch

torch.set_num_threads(1)
