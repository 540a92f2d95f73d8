"""The estimator benchmark in small, and HPGD's published form, against which costs are compared."""

import csv

import numpy as np
import pytest
from benchmarks import access, black_box, collection, estimators, linear_accuracy, linear_training
from benchmarks import estimator_accuracy as accuracy
from benchmarks import estimator_cost as cost
from benchmarks import estimator_networks as networks
from benchmarks import estimator_training as training

from games import discrete_toy
from stackelberg import exact
from stackelberg.estimators import ESTIMATORS

TINY = estimators.Extent(
    seeds=1,
    sizes=(150,),
    batches=4,
    few=2,
    parameters=(100,),
    lengths=(10,),
    seconds=0.0,
    training_seeds=2,
    iterations=2,
    network_seeds=0,
    network_batches=2,
    network_sizes=(150,),
)


def read(path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_benchmark_in_small(tmp_path, monkeypatch):
    """Every estimator has its rows; the exact one has bias 0 and cosine 1, others have not."""
    chosen = ("discrete_toy R1, P(close) 0.25", "design")
    cases = [case for case in accuracy.cases(1) if case.label in chosen]
    monkeypatch.setattr(accuracy, "cases", lambda seeds: cases)
    monkeypatch.setattr(training, "TRAINED", ("expected-trace", "naive"))
    monkeypatch.setattr(estimators, "RANDOM", chosen[1:])
    monkeypatch.setattr(estimators, "ROOMS", chosen[:1])
    said = estimators.run(TINY, tmp_path)
    rows = read(tmp_path / "estimators.csv")
    assert tuple(rows[0]) == accuracy.COLUMNS
    assert {row["estimator"] for row in rows} == set(ESTIMATORS)
    assert {(row["game"], row["steps"]) for row in rows} == {(game, "150") for game in chosen}
    found = {(row["game"], row["estimator"]): row for row in rows if row["critics"] == "true"}
    for game in chosen:
        for name in ("exact", "expected-trace", "gradient-critic"):
            row = found[game, name]
            assert float(row["bias"]) < 1e-7
            assert float(row["error"]) < 1e-7
            assert float(row["cosine"]) == pytest.approx(1, abs=1e-9)
            assert float(row["uphill"]) == 1
        assert float(found[game, "sampled-trace"]["noise"]) > 0.01
    toy = found[chosen[0], "naive"]  # points the wrong way
    assert float(toy["bias"]) > 1
    assert float(toy["uphill"]) == 0
    assert found[chosen[0], "sobirl"]["bias"] == ""  # undefined
    assert float(found["design", "sobirl"]["ms"]) > 0
    for name, part in (("_cost", cost), ("_training", training), ("_networks", networks)):
        rows = read(tmp_path / f"estimators{name}.csv")
        assert tuple(rows[0]) == part.COLUMNS
        assert all(float(row["ms"]) > 0 for row in rows if name == "_cost")
    rows = read(tmp_path / "estimators_networks.csv")
    assert {(row["access"], row["critics"]) for row in rows} == {
        (access, critics) for access in networks.ACCESS for critics in ("neural", "tabular")
    }
    assert all(float(row["error"]) > 0 for row in rows)
    assert (tmp_path / "estimators.png").stat().st_size > 5000
    assert b"</svg>" in (tmp_path / "estimators.svg").read_bytes()
    for name in ESTIMATORS:
        assert f"\n| {name} | " in said


def test_access_levels_in_small():
    """Everywhere the error falls with the sample; less is seen, no less is missed."""
    said, rows = access.run(2, (450, 45_000), samples=4, games=("observing", "design"))
    assert len(rows) == 2 * 2 * 2 * len(access.LEVELS)
    assert said.count("\n") == 1 + 2 * len(access.LEVELS)
    found = {(r["game"], r["seed"], r["access"], r["estimated"], r["steps"]): r for r in rows}
    for (*case, steps), row in found.items():
        if steps == 45_000:
            assert row["cosine"] > 0.99
            assert row["error"] < 0.5 * found[*case, 450]["error"]
        assert (row["temperature"] == 0) != row["estimated"]
        assert row["bias"] <= row["error"] * (1 + 1e-9)
    for (game, seed, level, estimated, steps), row in found.items():
        if level == "trajectories" and steps == 45_000:
            assert row["error"] > 0.9 * found[game, seed, "value", estimated, steps]["error"]


@pytest.mark.slow
@pytest.mark.parametrize("estimate", [False, True])
@pytest.mark.parametrize("bonus", [1.0, 2.0])
def test_a_black_box_is_led_to_the_optimum(bonus, estimate):
    """Soft-Q follower, actions alone: three seeds, every one at 95 % of the optimum or more."""
    found = black_box.trained(bonus, estimate, range(3), 60)
    assert (found["shares"] >= black_box.AIM).all()
    assert found["leader_steps"] == 60 * 450
    if estimate:
        assert np.abs(np.log(found["temperature"])).max() < 0.3


def test_judged_knows_bias_from_noise():
    exact_gradient = np.array([3.0, 4.0])
    noise = np.random.default_rng(0).normal(size=(20_000, 2))
    found = accuracy.judged(exact_gradient + noise + [0.0, 0.5], exact_gradient)
    assert found["exact_norm"] == 5
    assert found["bias"] == pytest.approx(0.1, abs=4 * found["bias_se"])
    assert found["bias_se"] == pytest.approx(2**0.5 / 5 / 20_000**0.5, rel=0.02)
    assert found["noise"] == pytest.approx(2**0.5 / 5, rel=0.02)
    assert found["error"] == pytest.approx((2 / 25 + 0.01) ** 0.5, rel=0.02)
    assert found["cosine_low"] < found["cosine"] < found["cosine_high"] < 1
    uphill = accuracy.judged(np.array([[1.0, 0.0], [2.0, 0.0], [-1.0, 0.0]]), exact_gradient)
    assert uphill["uphill"] == pytest.approx(2 / 3)
    assert uphill["cosine"] == pytest.approx(0.6)


@pytest.mark.parametrize("dense", [False, True])
def test_hpgd_as_published_is_ours_by_another_way(dense):
    """Averages of gradient vectors, and one scan: the same gradient."""
    sample = cost.design_sample(20, dense, length=40)
    _, indirect = ESTIMATORS["hpgd-sarsa"](sample.evidence, sample.commitment)
    ours = sample.gradients(indirect)[0]
    theirs = cost.published_hpgd(sample.evidence, sample.commitment).detach().numpy()
    assert np.abs(ours).max() > 1e-3
    np.testing.assert_allclose(theirs, ours, atol=1e-12 * np.abs(ours).max() + 1e-15)


def test_episode_return_is_the_objective_of_long_episodes():
    """At a horizon at which the discounted rest is negligible."""
    game = discrete_toy.game(horizon=3000)
    leader = accuracy.Case("", 0, game, accuracy.toy_case(0.25)[1]).leader(2)
    policy = accuracy.commit(game, leader).policy
    objective = exact.objective(game.model(), policy).detach().numpy()
    found = training.episode_return(game, leader, game.leader_discount)
    np.testing.assert_allclose(found, objective, rtol=1e-9)
    game.horizon = 1
    g = exact.best_response(game.model(), policy.detach()).policy
    first = (policy.detach()[:, 0] * g[:, 0, :, discrete_toy.GO_A]).sum(-1)
    np.testing.assert_allclose(training.episode_return(game, leader, 1.0), first, rtol=1e-12)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_collection_in_small(monkeypatch, capsys):
    """Both ways are timed on both games, and ours is the faster one."""
    monkeypatch.setattr(collection, "COPIES", 8)
    collection.main(rounds=2, length=10)
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if "," in line]
    numbers = [[float(cell.replace(",", "")) for cell in row[1:]] for row in rows[1:]]
    assert len(numbers) == 2
    assert all(mine > other > 0 for mine, other, _ in numbers)


def test_linear_accuracy_in_small(tmp_path):
    """Few batches: the learned forms point where the exact hypergradient does, naive does not."""
    said, rows = linear_accuracy.run((200, 1000), 6, 2, (10,), ("building",))
    cosine = {(r["estimator"], r["critics"], r["steps"]): r["mean_cosine"] for r in rows}
    for name in ("expected-trace", "gradient-critic"):
        assert cosine[name, "learned", 1000] > 0.9
        assert f"| building | {name} | learned | " in said
    assert cosine["gradient-critic", "true", 1000] > cosine["gradient-critic", "true", 200] > 0.9
    assert cosine["naive", "learned", 1000] < 0.8
    assert np.isnan([r["cosine"] for r in rows]).sum() == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("label", "iterations", "share"), [("building", 20, 0.9), ("lqr", 80, 10.0)]
)
def test_linear_training_in_small(label, iterations, share):
    """Three seeds: nine tenths of Building's gap; ten times what BilevelLQR was published with."""
    found = linear_training.trained(label, "expected-trace", range(3), iterations)
    values = found["values"]
    aim = share * linear_training.PUBLISHED
    if label == "building":
        aim = values[0] + share * (linear_training.OPTIMUM - values[0])
    assert (values[-1] >= aim).all()
    assert np.isfinite(linear_training.reached(found, aim)).all()
    assert label in linear_training.said(label, "expected-trace", found)
