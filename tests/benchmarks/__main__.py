"""All measured claims, one table after the other: `make benchmarks`."""

from tests.benchmarks import discrete_toy, estimator_accuracy, four_rooms, hypergradient_cost, speed

for benchmark in (discrete_toy, speed, hypergradient_cost, estimator_accuracy, four_rooms):
    print(f"\n## {(benchmark.__doc__ or '').splitlines()[0]}\n", flush=True)
    benchmark.main()
