"""The training loop: what it measures, writes, resumes, and how it refuses."""

import json
import signal
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from strategies import Recipe, random_design_game, random_game

from agents import SoftQConfig, SoftQFollower
from agents.exact import ExactFollower
from agents.leaders import TabularSoftmax, default_leader, mlp_leader
from games import discrete_toy, four_rooms, matrix
from games.tabular import TabularDesign, TabularGame
from stackelberg import Budget, Coordinator, InputError, TrainConfig, exact
from stackelberg.process import single_thread
from stackelberg.types import commit

pytestmark = pytest.mark.filterwarnings("ignore:the leader's hypergradient by")
THREE_PARTS = r"(?s)^expected .+; got .+; .+"


@pytest.fixture(autouse=True)
def _one_thread():
    with single_thread():
        yield


@dataclass(frozen=True)
class Setting:
    """A game, and how to make a leader and a follower for it."""

    game: Any
    leader: Callable = default_leader
    follower: Callable = ExactFollower
    config: Any = None
    seeds: tuple[int, ...] = (3,)

    def coordinator(self, iterations: int = 10, **options) -> Coordinator:
        settings = {"checkpoint_every": 4, "evaluation_episodes": 20, "radius": 0.01}
        config = TrainConfig(iterations=iterations, **settings | (self.config or {}))
        options = {"seeds": self.seeds} | options
        leader = self.leader(self.game, options["seeds"])
        return Coordinator(self.game, leader, self.follower(), config, **options)


def small_soft_q() -> SoftQFollower:
    return SoftQFollower(
        SoftQConfig(
            **{"first_steps": 1024, "later_steps": 256, "afresh_steps": 512},
            **{"copies": 16, "updates": 20},
        )
    )


TOY = discrete_toy.game()
HIDDEN = random_game(Recipe(seed=2, observes=False, termination="on arrival"))
DESIGN = random_design_game(Recipe(seed=4))
SETTINGS = {
    "exact": Setting(TOY),
    "three leaders": Setting(TOY, seeds=(0, 1, 2)),
    "sweeps, carried": Setting(TOY, follower=lambda: ExactFollower(3, backups=2)),
    "sweeps, reset": Setting(TOY, follower=lambda: ExactFollower(3, restart="reset")),
    "soft-q": Setting(TOY, follower=small_soft_q, config={"access": "policy"}),
    "temperature unknown": Setting(
        TOY, config={"access": "trajectories", "estimate_temperature": True}
    ),
    "soft-q, many designs": Setting(DESIGN, follower=small_soft_q, seeds=(0, 1)),
    "design": Setting(DESIGN),
    "mlp": Setting(TOY, mlp_leader),
    "hidden action": Setting(HIDDEN, config={"access": "trajectories"}),
    "sampled trace": Setting(TOY, config={"estimator": "sampled-trace"}),
    "natural gradient": Setting(DESIGN, config={"optimiser": "natural-gradient"}),
    "natural gradient, mlp": Setting(TOY, mlp_leader, config={"optimiser": "natural-gradient"}),
    "ppo": Setting(TOY, config={"optimiser": "ppo", "estimator": "gae"}),
    "ppo, mlp": Setting(TOY, mlp_leader, config={"optimiser": "ppo"}),
}


class Crash(Exception):
    pass


def crash_at(iteration: int) -> Callable:
    def report(row) -> None:
        if row["iteration"] == iteration:
            raise Crash

    return report


def interrupt_at(*iterations: int) -> Callable:
    def report(row) -> None:
        if row["iteration"] in iterations:
            signal.raise_signal(signal.SIGINT)

    return report


def rows_of(path: Path) -> list[dict]:
    return [strict(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def strict(text: str) -> Any:
    def refuse(token: str):
        raise ValueError(f"{token} is not JSON")

    return json.loads(text, parse_constant=refuse)


def without_time(rows: list[dict]) -> list[dict]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def parameters(result) -> list:
    return [p.detach().clone() for p in result.leader.parameters()]


def assert_same(one, two) -> None:
    assert without_time(one.metrics) == without_time(two.metrics)
    for p, q in zip(parameters(one), parameters(two), strict=True):
        assert torch.equal(p, q)
    time = {"wall_seconds"}
    for key in one.summary.keys() - time:
        assert one.summary[key] == two.summary[key], key


# ---------------------------------------------------------------- resume


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(tmp_path, name):
    setting = SETTINGS[name]
    whole = setting.coordinator().run()
    with pytest.raises(KeyboardInterrupt, match="after 6 outer iterations"):
        setting.coordinator(out=tmp_path).run(interrupt_at(5))
    assert [row["iteration"] for row in rows_of(tmp_path)] == list(range(6))
    resumed = setting.coordinator(out=tmp_path, resume=True)
    assert resumed.iteration == 6
    assert_same(resumed.run(), whole)
    assert without_time(rows_of(tmp_path)) == without_time(whole.metrics)


@pytest.mark.parametrize("name", ["exact", "sweeps, carried", "soft-q", "design", "mlp"])
def test_a_killed_run_goes_on_from_its_last_checkpoint(tmp_path, name):
    setting = SETTINGS[name]
    with pytest.raises(Crash):
        setting.coordinator(out=tmp_path).run(crash_at(6))
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"iteration": 7, "leader_ret')  # killed while it wrote
    resumed = setting.coordinator(out=tmp_path, resume=True)
    assert resumed.iteration == 4
    assert_same(resumed.run(), setting.coordinator().run())
    assert [row["iteration"] for row in rows_of(tmp_path)] == list(range(10))


def test_a_run_killed_before_its_first_checkpoint_starts_over(tmp_path):
    setting = SETTINGS["exact"]
    with pytest.raises(Crash):
        setting.coordinator(out=tmp_path).run(crash_at(2))
    assert not list((tmp_path / "checkpoints").iterdir())
    resumed = setting.coordinator(out=tmp_path, resume=True)
    assert resumed.iteration == 0
    assert_same(resumed.run(), setting.coordinator().run())
    assert [row["iteration"] for row in rows_of(tmp_path)] == list(range(10))


@pytest.mark.parametrize("name", ["exact", "sweeps, carried", "soft-q"])
def test_iterations_may_grow_on_resuming(tmp_path, name):
    setting = SETTINGS[name]
    setting.coordinator(5, out=tmp_path).run()
    longer = setting.coordinator(10, out=tmp_path, resume=True).run()
    assert_same(longer, setting.coordinator(10).run())
    assert strict((tmp_path / "config.json").read_text())["iterations"] == 10
    assert strict((tmp_path / "summary.json").read_text())["outer_iterations"] == 10


def test_resuming_a_finished_run_just_reports(tmp_path):
    setting = SETTINGS["sweeps, carried"]
    first = setting.coordinator(out=tmp_path).run()
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    reported: list = []
    again = setting.coordinator(out=tmp_path, resume=True).run(reported.append)
    assert reported == []
    assert_same(first, again)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    "changed",
    [
        {"estimator": "naive"},
        {"streams": 4},
        {"checkpoint_every": 5},
        {"radius": 0.02},
        {"access": "policy"},
        {"optimiser": "ppo"},
        {"gae_lambda": 0.9},
    ],
)
def test_other_options_on_resuming_are_an_error(tmp_path, changed):
    SETTINGS["exact"].coordinator(4, out=tmp_path).run()
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    name = next(iter(changed))
    with pytest.raises(InputError, match=f"expected the run's own {name} = .*only iterations"):
        Setting(TOY, config=changed).coordinator(4, out=tmp_path, resume=True)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_another_seed_game_or_fewer_iterations_on_resuming_are_an_error(tmp_path):
    SETTINGS["exact"].coordinator(4, out=tmp_path).run()
    for coordinator, match in (
        (lambda: Setting(TOY, seeds=(4,)).coordinator(4, out=tmp_path, resume=True), "seeds"),
        (lambda: Setting(HIDDEN).coordinator(4, out=tmp_path, resume=True), "game = "),
        (lambda: SETTINGS["exact"].coordinator(3, out=tmp_path, resume=True), "iterations = 4"),
    ):
        with pytest.raises(InputError, match=match):
            coordinator()


def base_game(states: int = 3, **changes) -> Any:
    return random_game(replace(Recipe(states=states), **changes))


@pytest.mark.parametrize(
    ("first", "then", "differs"),
    [
        (Setting(base_game()), Setting(base_game(4)), "game_model.transition"),
        (Setting(base_game()), Setting(base_game(seed=9)), "game_model.transition"),
        (
            Setting(base_game()),
            Setting(base_game(leader_discount=0.5)),
            "game_model.leader_discount",
        ),
        (Setting(base_game()), Setting(base_game(), mlp_leader), "leader_model.class"),
        (
            Setting(base_game()),
            Setting(base_game(), follower=small_soft_q, config={"access": "value"}),
            "follower = 'exact'",
        ),
        (
            Setting(base_game(), follower=lambda: ExactFollower(3)),
            Setting(base_game(), follower=lambda: ExactFollower(4)),
            "follower_settings.sweeps = 3; got 4",
        ),
        (
            Setting(base_game(), follower=small_soft_q),
            Setting(base_game(), follower=SoftQFollower),
            "follower_settings.config.copies = 16",
        ),
        (
            Setting(four_rooms.game(kernel="sim")),
            Setting(four_rooms.game(kernel="reference")),
            "game_model.transition",
        ),
        (
            Setting(four_rooms.game(kernel="model")),
            Setting(four_rooms.game(kernel="reference")),
            "game_model.simulated_transition",
        ),
        (
            Setting(four_rooms.game(penalty=5.0)),
            Setting(four_rooms.game(penalty=4.0)),
            "game_model.leader_reward",
        ),
        (Setting(DESIGN), Setting(random_design_game(Recipe(seed=5))), "game_model.transition"),
    ],
)
def test_another_game_leader_or_follower_on_resuming_is_an_error(tmp_path, first, then, differs):
    first.coordinator(1, out=tmp_path).run()
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(InputError, match=f"expected the run's own {differs}"):
        then.coordinator(1, out=tmp_path, resume=True)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    first.coordinator(1, out=tmp_path, resume=True).run()


def test_resuming_without_a_folder_is_an_error():
    with pytest.raises(InputError, match="an output folder to resume"):
        SETTINGS["exact"].coordinator(resume=True)


# ---------------------------------------------------------------- Ctrl-C


def test_ctrl_c_in_the_last_iteration_lets_the_run_finish(tmp_path):
    result = SETTINGS["exact"].coordinator(5, out=tmp_path).run(interrupt_at(4))
    assert result.summary["outer_iterations"] == 5
    assert (tmp_path / "summary.json").exists()


def test_a_second_ctrl_c_does_not_wait(tmp_path):
    reached = []

    def twice(row) -> None:
        signal.raise_signal(signal.SIGINT)
        reached.append("first")
        signal.raise_signal(signal.SIGINT)
        reached.append("second")

    with pytest.raises(KeyboardInterrupt):
        SETTINGS["exact"].coordinator(out=tmp_path).run(twice)
    assert reached == ["first"]


@pytest.mark.parametrize("before", [signal.SIG_IGN, signal.default_int_handler])
def test_the_handler_of_ctrl_c_is_put_back(before):
    old = signal.signal(signal.SIGINT, before)
    try:
        with pytest.raises(KeyboardInterrupt):
            SETTINGS["exact"].coordinator().run(interrupt_at(1, 2))
        assert signal.getsignal(signal.SIGINT) is before
    finally:
        signal.signal(signal.SIGINT, old)


# ---------------------------------------------------------------- randomness


@pytest.mark.parametrize("name", ["exact", "design", "mlp", "soft-q"])
def test_two_runs_with_one_seed_are_identical(name):
    np.random.seed(0)  # noqa: NPY002  the global states must not matter
    torch.manual_seed(0)
    one = SETTINGS[name].coordinator(4).run()
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    assert_same(one, SETTINGS[name].coordinator(4).run())


@pytest.mark.parametrize("name", ["exact", "design"])
def test_seeds_differ(name):
    returns = [
        [row["leader_return"] for row in SETTINGS[name].coordinator(4, seeds=(s,)).run().metrics]
        for s in (0, 1)
    ]
    assert returns[0] != returns[1]


@pytest.mark.parametrize(
    "name",
    [
        *("exact", "design", "hidden action", "mlp", "sweeps, carried", "soft-q"),
        *("natural gradient", "ppo"),
    ],
)
def test_many_leaders_in_one_batch_are_as_many_single_runs(name):
    seeds = (0, 5, 9)
    together = SETTINGS[name].coordinator(15, seeds=seeds).run()
    for m, seed in enumerate(seeds):
        alone = SETTINGS[name].coordinator(15, seeds=(seed,)).run()
        tolerance = 1e-4 if name == "mlp" else 1e-9  # a network computes in float32
        for p, q in zip(parameters(together), parameters(alone), strict=True):
            torch.testing.assert_close(p[m : m + 1], q, rtol=tolerance, atol=tolerance)
        for many, one in zip(together.metrics, alone.metrics, strict=True):
            for key in ("leader_return", "leader_objective", "direct_norm", "radius", "entropy"):
                assert many[key][m] == pytest.approx(one[key], rel=tolerance, abs=tolerance), key


# ---------------------------------------------------------------- what it learns and measures


@pytest.mark.parametrize("bonus", [1.0, 2.0])
def test_discrete_toy_is_learned(bonus):
    setting = Setting(discrete_toy.game(bonus), config={"radius": 1e-3}, seeds=(0, 1))
    summary = setting.coordinator(60).run().summary
    exact_return = np.array(summary["leader_return"]["exact"])
    assert (exact_return >= 0.999 * summary["optimum"]).all()
    assert summary["regret"] == pytest.approx(summary["optimum"] - exact_return)


@pytest.mark.parametrize("name", ["exact", "design", "hidden action"])
def test_a_row_says_what_happened(name):
    setting = SETTINGS[name]
    coordinator = setting.coordinator(3)
    leader, game = coordinator.leader, coordinator.game
    with torch.no_grad():
        start = commit(game, leader)
    row = coordinator.run().metrics[0]
    assert row["iteration"] == 0
    model = game.model(start.design)
    assert row["leader_objective"] == pytest.approx(exact.objective(model, start.policy).item())
    assert row["follower_gap"] == pytest.approx(0.0, abs=1e-9)
    assert row["entropy"] == pytest.approx(np.log(start.policy.shape[-1]))
    assert -1 <= row["cosine"] <= 1
    assert row["direct_norm"] >= 0
    assert row["leader_steps"] == 3 * game.horizon
    assert row["follower_steps"] == 0
    assert row["seconds"] > 0
    for key in ("leader_return", "follower_return", "indirect_norm", "radius"):
        assert isinstance(row[key], float)


def test_returns_agree_with_the_exact_ones():
    setting = Setting(HIDDEN, config={"evaluation_episodes": 4000})
    summary = setting.coordinator(3).run().summary
    found = summary["leader_return"]
    assert abs(found["mean"] - found["exact"]) < 2 * found["ci95"]
    assert found["against_response"] == pytest.approx(found["exact"])
    assert 0 < found["ci95"] < 0.1
    assert found["episodes"] == 4000
    assert found["discounted"] is True


def test_metrics_of_a_cut_off_follower_tell_its_gap():
    setting = Setting(TOY, follower=lambda: ExactFollower(1, restart="reset"))
    result = setting.coordinator(3).run()
    assert all(row["follower_gap"] > 0.1 for row in result.metrics)
    assert result.summary["follower_gap"] > 0.1


def test_returns_against_a_cut_off_follower_are_told_beside_the_objective():
    follower = lambda: ExactFollower(1, restart="reset")  # noqa: E731
    setting = Setting(TOY, follower=follower, config={"evaluation_episodes": 2000})
    result = setting.coordinator(3).run()
    with torch.no_grad():
        commitment = commit(TOY, result.leader)
    found, behaviour = result.summary["leader_return"], result.response.policy
    met = exact.leader_return(TOY.model(), commitment.policy, behaviour).item()
    assert found["exact"] == pytest.approx(exact.objective(TOY.model(), commitment.policy).item())
    assert found["against_response"] == pytest.approx(met)
    assert abs(found["mean"] - met) < 2 * found["ci95"] < abs(found["exact"] - met)


def test_steps_of_many_leaders_are_told_per_leader():
    many, one = (Setting(TOY, seeds=seeds).coordinator(3).run() for seeds in ((0, 1, 2), (0,)))
    assert many.summary["env_steps"] == one.summary["env_steps"] == {"leader": 1350, "follower": 0}


def test_rounding_makes_no_negative_gap():
    for seed in range(10):
        game = random_game(Recipe(seed=seed))
        policy = torch.full((1, 3, 2), 0.5, dtype=torch.float64)
        best = exact.best_response(game.model(), policy).policy
        assert 0 <= exact.follower_gap(game.model(), policy, best) < 1e-9


def test_the_naive_estimator_has_no_indirect_term():
    rows = Setting(TOY, config={"estimator": "naive"}).coordinator(3).run().metrics
    assert all(row["indirect_norm"] == 0 and row["cosine"] == 0 for row in rows)


# ---------------------------------------------------------------- the run directory's contract


def test_the_run_directory_holds_what_it_promises(tmp_path):
    out = tmp_path / "deep" / "run"
    label = {"game_options": {"bonus": "1"}}
    SETTINGS["exact"].coordinator(5, out=out, label=label).run()
    names = {p.name for p in out.iterdir()}
    assert names == {"config.json", "metrics.jsonl", "checkpoints", "summary.json", "tensorboard"}
    config = strict((out / "config.json").read_text())
    assert config["game"] == "discrete_toy"
    assert (config["iterations"], config["seeds"]) == (5, [3])
    summary = strict((out / "summary.json").read_text())
    assert summary.keys() >= {
        *("game", "game_options", "estimator", "follower", "access", "seed", "outer_iterations"),
        *("env_steps", "wall_seconds", "leader_return", "follower_return", "optimum", "regret"),
        *("follower_gap", "versions"),
    }
    assert summary["game_options"] == {"bonus": "1"}
    assert summary["env_steps"] == {"leader": 5 * 450, "follower": 0}
    assert summary["seed"] == 3
    for who in ("leader_return", "follower_return"):
        assert summary[who].keys() >= {"mean", "ci95", "episodes", "discounted"}
    assert [row["iteration"] for row in rows_of(out)] == list(range(5))
    kept = sorted(p.name for p in (out / "checkpoints").iterdir())
    assert kept == ["iteration_00000004.safetensors", "iteration_00000005.safetensors"]


@pytest.mark.parametrize("name", ["exact", "three leaders"])
def test_tensorboard_can_read_the_run(tmp_path, name):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with pytest.raises(Crash):
        SETTINGS[name].coordinator(out=tmp_path).run(crash_at(6))
    result = SETTINGS[name].coordinator(out=tmp_path, resume=True).run()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    tags = ["leader_return"] if name == "exact" else [f"leader_return/{m}" for m in range(3)]
    for m, tag in enumerate(tags):
        scalars = events.Scalars(tag)
        assert [one.step for one in scalars] == list(range(10))
        for one, row in zip(scalars, result.metrics, strict=True):
            expected = row["leader_return"] if name == "exact" else row["leader_return"][m]
            assert one.value == pytest.approx(expected, rel=1e-6)


def test_one_episode_has_no_interval_and_everything_stays_json(tmp_path):
    for seeds, none in (((0,), None), ((0, 1), [None, None])):
        out = tmp_path / str(len(seeds))
        setting = Setting(TOY, config={"evaluation_episodes": 1}, seeds=seeds)
        setting.coordinator(2, out=out).run()
        summary = strict((out / "summary.json").read_text())
        assert summary["leader_return"]["ci95"] == none
        assert len(rows_of(out)) == 2


def test_without_out_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    SETTINGS["exact"].coordinator(2).run()
    assert not list(tmp_path.iterdir())


def test_a_run_that_fails_in_its_first_iteration_leaves_nothing(tmp_path):
    class Failing(ExactFollower):
        def best_respond(self, *arguments):
            raise Crash

    out = tmp_path / "run"
    coordinator = Setting(TOY, follower=Failing).coordinator(2, out=out)
    assert not out.exists()
    with pytest.raises(InputError, match=r"'exact' whose best_respond\(\) succeeds; got Crash"):
        coordinator.run()
    assert not out.exists()
    SETTINGS["exact"].coordinator(2, out=out).run()


def test_a_run_does_not_go_into_a_folder_that_another_took_meanwhile(tmp_path):
    first, second = (SETTINGS["exact"].coordinator(2, out=tmp_path / "run") for _ in range(2))
    first.run()
    with pytest.raises(InputError, match="which holds another run"):
        second.run()
    assert len(rows_of(tmp_path / "run")) == 2


# ---------------------------------------------------------------- refusals and warnings


@pytest.mark.parametrize(
    "options",
    [
        {"iterations": 0},
        {"iterations": -1},
        {"iterations": 2.5},
        {"iterations": True},
        {"iterations": None},
        {"streams": 0},
        {"steps": 0},
        {"checkpoint_every": "often"},
        {"evaluation_episodes": 0},
        {"radius": 0.0},
        {"radius": float("nan")},
        {"radius": 0.5},
        {"max_radius": float("inf")},
        {"gae_lambda": 1.5},
        {"access": "everything"},
        {"optimiser": "adam"},
        {"access": "policy", "estimator": "exact"},
        {"access": "trajectories", "estimator": "exact"},
        {"estimate_temperature": True, "estimator": "exact"},
    ],
)
def test_settings_out_of_range_are_an_error(options):
    with pytest.raises(InputError, match=THREE_PARTS):
        TrainConfig(**options)


def test_parts_that_do_not_fit_are_an_error(tmp_path):
    out = tmp_path / "run"
    for setting in (
        Setting(TOY, leader=lambda game, seeds: default_leader(DESIGN, seeds)),
        Setting(DESIGN, leader=lambda game, seeds: default_leader(TOY, seeds)),
        Setting(TOY, config={"estimator": "magic"}),
        Setting(TOY, leader=lambda game, seeds: default_leader(game, (0, 1))),
        Setting(TOY, seeds=(-1,), leader=lambda game, seeds: default_leader(game)),
    ):
        with pytest.raises(InputError, match=THREE_PARTS):
            setting.coordinator(out=out)
    assert not out.exists()


def test_a_follower_without_values_is_told_which_access_suits_it():
    class Silent(ExactFollower):
        def best_respond(self, *arguments):
            return replace(super().best_respond(*arguments), values=None)

    with pytest.raises(InputError, match=r"expected a follower that offers its values.*policy"):
        Setting(TOY, follower=Silent).coordinator(1).run()
    for access in ("policy", "trajectories"):
        Setting(TOY, follower=Silent, config={"access": access}).coordinator(1).run()


def test_rewards_beyond_floating_point_are_an_error_and_leave_nothing(tmp_path):
    game = discrete_toy.game(temperature=1e308)
    with pytest.raises(InputError, match="expected a finite gradient"):
        Setting(game).coordinator(3, out=tmp_path / "run").run()
    assert not (tmp_path / "run").exists()


def test_a_leader_without_influence_is_warned_of():
    draw = np.random.default_rng(0)
    kernel = np.repeat(draw.dirichlet(np.ones(3), (3, 1, 2)), 2, axis=1)
    powerless = TabularGame(kernel, draw.normal(size=(3, 1, 2)), draw.normal(size=(3, 1, 2)))
    idle = TabularDesign(Budget(2, 1.0), np.full((2, 2, 2), 0.5), np.eye(2), np.eye(2))
    for game in (powerless, idle):
        with pytest.warns(UserWarning, match="exact hypergradient is 0 at the start"):
            Setting(game).coordinator(2).run()


def test_a_leader_that_has_seen_no_reward_is_warned_of():
    """Rewards lie behind a door that two steps of play cannot have opened."""
    kernel = np.zeros((4, 2, 1, 4))
    for s in range(3):
        kernel[s, 0, 0, s + 1] = kernel[s, 1, 0, 0] = 1.0
    kernel[3, ..., 3] = 1.0
    reward = np.array([0.0, 0.0, 0.0, 1.0])[:, None, None]
    setting = Setting(TabularGame(kernel, reward, 0.0), config={"steps": 2})
    with pytest.warns(UserWarning, match="in what it has seen"):
        setting.coordinator(1).run()


def test_a_leader_with_influence_is_not_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for game in (TOY, DESIGN, HIDDEN, matrix.game()):
            Setting(game).coordinator(2).run()


@pytest.mark.parametrize(
    "part",
    [
        {"game": discrete_toy.game},
        {"leader": "default"},
        {"leader": TabularSoftmax},
        {"follower": "exact"},
        {"follower": ExactFollower},
        {"config": {"iterations": 3}},
    ],
    ids=["game", "leader name", "leader class", "follower name", "follower class", "config"],
)
def test_what_is_not_a_part_is_refused(part):
    parts = {
        "game": discrete_toy.game(),
        "leader": TabularSoftmax(3, 2),
        "follower": ExactFollower(),
        "config": TrainConfig(),
    } | part
    with pytest.raises(InputError, match=f"a {next(iter(part))} object"):
        Coordinator(**parts)


def test_rounding_errors_lead_nowhere():
    """A toll that no reward of the leader depends on, and no choice: the gradient is rounding."""
    game = TabularDesign(
        spaces.Box(0.0, 1.0, (3,), np.float64),
        np.full((3, 2, 3), 1 / 3),
        np.random.default_rng(0).normal(size=(3, 2)),
        lambda x: -x.unsqueeze(-1).expand(-1, -1, 2),
        temperature=0.3,
    )
    leader = default_leader(game, (0,))
    start = leader.x.detach().clone()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = TrainConfig(iterations=20, estimator="exact")
        Coordinator(game, leader, ExactFollower(), config).run()
    torch.testing.assert_close(leader.x.detach(), start, rtol=0, atol=1e-12)
