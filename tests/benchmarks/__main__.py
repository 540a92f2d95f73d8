"""All measured claims, one table after the other: `make benchmarks`."""

from tests.benchmarks import (
    discrete_toy,
    estimator_accuracy,
    four_rooms,
    hypergradient_cost,
    leader_steps,
    speed,
)

for benchmark in (
    discrete_toy,
    speed,
    hypergradient_cost,
    estimator_accuracy,
    leader_steps,
    four_rooms,
):
    print(f"\n## {(benchmark.__doc__ or '').splitlines()[0]}\n", flush=True)
    benchmark.main()
