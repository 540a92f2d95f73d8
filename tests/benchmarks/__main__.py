"""All measured claims, one table after the other: `make benchmarks`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import (
    access,
    black_box,
    collection,
    discrete_toy,
    estimators,
    four_rooms,
    leader_steps,
    linear_accuracy,
    linear_training,
    speed,
)

for benchmark in (
    discrete_toy,
    black_box,
    access,
    speed,
    collection,
    estimators,
    leader_steps,
    linear_accuracy,
    linear_training,
    four_rooms,
):
    print(f"\n## {(benchmark.__doc__ or '').splitlines()[0]}\n", flush=True)
    benchmark.main()
