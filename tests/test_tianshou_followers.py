"""Followers with networks, and those without tables, against exact and known best responses.

Shortfalls are best-response gaps in temperatures per discounted step: 0.05 is what a policy loses
whose KL divergence from the best one is 0.05 nats at every step.
"""

import gc
import subprocess
import sys

import numpy as np
import pytest
import torch
from box_games import Aim, Regulator
from gymnasium import spaces
from hidden import Hidden, coded
from small_envs import Closing

from agents import (
    DiscreteSACFollower,
    LearningConfig,
    NetworkConfig,
    SACFollower,
    SoftQConfig,
    SoftQFollower,
    experience,
)
from agents.experience import Experience
from agents.gap import gap_of
from games import discrete_toy
from games.tabular import TabularDesign, TabularGame
from stackelberg import exact, from_parallel_env
from stackelberg.errors import InputError
from stackelberg.game import Budget, Game
from stackelberg.types import Commitment, TabularResponse

NEAR = 0.05


def random_game(seed: int = 2, **settings) -> TabularGame:
    draw = np.random.default_rng(seed)
    return TabularGame(
        draw.dirichlet(np.ones(6), (6, 2, 3)),
        draw.normal(size=(6, 2, 3)),
        draw.uniform(-1, 1, (6, 2, 3)),
        **{"follower_discount": 0.9, "temperature": 0.3, "horizon": 30} | settings,
    )


def leaders(*shares: float, states: int = 6) -> Commitment:
    """One leader for each probability of its first action."""
    first = torch.tensor(shares, dtype=torch.float64).view(-1, 1, 1).expand(-1, states, 1)
    return Commitment(torch.cat([first, 1 - first], -1))


def soft_q(**settings) -> SoftQFollower:
    return SoftQFollower(SoftQConfig(**{"first_steps": 16_384} | settings))


def discrete_sac(**settings) -> DiscreteSACFollower:
    return DiscreteSACFollower(LearningConfig(**{"first_steps": 16_384} | settings))


def sac(**settings) -> SACFollower:
    return SACFollower(LearningConfig(**{"first_steps": 16_384} | settings))


FAMILY = {"soft-q": soft_q, "discrete-sac": discrete_sac}
SLOW = pytest.param("discrete-sac", marks=pytest.mark.slow)


@pytest.mark.parametrize("name", FAMILY)
def test_networks_come_near_the_best_response(name):
    game, commitment = coded(random_game()), leaders(0.5)
    response = FAMILY[name]().best_respond(game, game.hide(commitment), [0])
    assert not isinstance(response, TabularResponse)
    assert game.shortfall(commitment, response).item() < NEAR
    assert game.policy_error(commitment, response) < 0.05
    best = exact.best_response(game.inner.model(), commitment.policy)
    values = game.tables(commitment, response)[1]
    assert (values - best.value).abs().max() < 0.3  # of values that span 2.9
    assert response.gap.shape == (1,)
    assert response.steps <= 16_384


KINDS = {
    "blind": {"follower_observes_action": False},
    "ends": {"termination": np.full((6, 1, 1, 1), 0.2)},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["soft-q", SLOW])
def test_blind_followers_and_games_that_end(name, kind):
    game, commitment = coded(random_game(3, **KINDS[kind])), leaders(0.3)
    response = FAMILY[name]().best_respond(game, game.hide(commitment), [0])
    assert game.shortfall(commitment, response).item() < NEAR


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("kind", ["plain", *KINDS])
def test_every_seed_comes_near_and_knows_it(name, kind, seed):
    """With the default budget; the measured gap is no smaller than the exact one."""
    game, commitment = coded(random_game(10 + seed, **KINDS.get(kind, {}))), leaders(0.3)
    follower = {"soft-q": SoftQFollower, "discrete-sac": DiscreteSACFollower}[name]()
    response = follower.best_respond(game, game.hide(commitment), [seed])
    assert game.shortfall(commitment, response).item() < NEAR
    policy = game.tables(commitment, response)[0]
    gap = exact.follower_gap(game.inner.model(), commitment.policy, policy)
    assert response.gap.item() > gap.item() - 0.02 * game.temperature


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("bonus", [1.0, 2.0])
def test_discrete_toy(name, bonus):
    inner = discrete_toy.game(bonus)
    game, commitment = coded(inner), leaders(0.5, 0.2, states=3)
    follower = {"soft-q": SoftQFollower, "discrete-sac": DiscreteSACFollower}[name]()
    response = follower.best_respond(game, game.hide(commitment), [0, 1])
    assert (game.shortfall(commitment, response) < NEAR).all()


def test_one_hot_observations_without_tables_are_learned_in_a_table():
    game, commitment = Hidden(random_game(), torch.eye(6)), leaders(0.5, 0.2)
    response = soft_q().best_respond(game, game.hide(commitment), [0, 1])
    assert isinstance(response, TabularResponse)
    assert (game.shortfall(commitment, response) < 0.01).all()


def incentive_game() -> TabularDesign:
    def reward(design: torch.Tensor) -> torch.Tensor:
        return torch.stack([design, torch.zeros_like(design)], -1)

    kernel = np.full((3, 2, 3), 1 / 3)
    settings = {"temperature": 0.3, "horizon": 20, "follower_discount": 0.9}
    return TabularDesign(Budget(3, 1.0), kernel, np.zeros((3, 2)), reward, **settings)


@pytest.mark.parametrize("name", ["soft-q", SLOW])
def test_designs_are_tracked_without_old_rewards(name):
    game, follower = coded(incentive_game()), FAMILY[name](afresh_steps=8192)
    for spent in ([0.1, 0.2, 0.7], [0.7, 0.1, 0.1]):
        design = torch.tensor([spent], dtype=torch.float64)
        commitment = Commitment(torch.ones(1, 3, 1, dtype=torch.float64), design)
        response = follower.best_respond(game, commitment, [0])
        assert game.shortfall(commitment, response).item() < NEAR


def contrary_game(states: int = 6) -> TabularGame:
    """Cycles of states in which the follower's way is worth what the leader does at its end."""
    kernel = np.zeros((states, 2, 2, states))
    for s in range(states):
        kernel[s, :, 0, (s + 1) % states] = 1
        kernel[s, :, 1, s] = 1
    reward = np.zeros((states, 2, 2))
    reward[:, 0, 0], reward[:, 1, 0] = 1.0, -1.0  # moving on pays or costs, as the leader says
    settings = {"temperature": 0.3, "horizon": 30, "follower_discount": 0.9}
    return TabularGame(kernel, np.zeros_like(reward), reward, **settings)


@pytest.mark.parametrize("name", ["soft-q", SLOW])
def test_a_leader_that_changed_is_answered_as_well_with_fewer_steps(name):
    game, follower = coded(contrary_game()), FAMILY[name](later_steps=8192)
    old, new = leaders(0.9), leaders(0.1)
    follower.best_respond(game, game.hide(old), [0])
    scratch = FAMILY[name]().best_respond(game, game.hide(new), [1])
    second = follower.best_respond(game, game.hide(new), [1])
    best = [exact.best_response(game.inner.model(), c.policy).value for c in (old, new)]
    assert (best[0] - best[1]).abs().min() > 1  # the leaders differ in what they are worth
    values = game.tables(new, second)[1]
    assert (values - best[1]).abs().max() < 0.3
    assert game.shortfall(new, second).item() < NEAR
    assert game.shortfall(new, scratch).item() < NEAR
    assert second.steps < scratch.steps


def test_a_follower_that_is_near_stops_at_once():
    game, follower = coded(contrary_game()), soft_q(first_steps=32_768)
    follower.best_respond(game, game.hide(leaders(0.5)), [0])
    again = follower.best_respond(game, game.hide(leaders(0.49)), [1])
    assert again.steps == 64 * game.horizon
    assert game.shortfall(leaders(0.49), again).item() < NEAR


# ---------------------------------------------------------------- actions in a Box


def idle(choices: int) -> Commitment:
    """A leader that knows nothing and acts uniformly."""

    def rule(observation: torch.Tensor) -> torch.Tensor:
        return torch.full((1, *observation.shape[-2:-1], choices), 1 / choices).log()

    return Commitment(torch.ones(1, 0, choices), None, rule)


def moments(response, state: float, action: int) -> tuple[float, float]:
    """Mean and variance of what the follower does."""
    seen, draw = torch.full((1, 20_000, 1), state), torch.Generator().manual_seed(1)
    done = response.sample(seen, torch.full((1, 20_000), action), draw)
    assert done.shape == (1, 20_000, 1)
    return done.mean().item(), done.var().item()


def check_aim(follower: SACFollower, seed: int) -> None:
    game = Aim()
    response = follower.best_respond(game, idle(2), [seed])
    for action, target in enumerate(game.targets.tolist()):
        mean, variance = moments(response, 0.0, action)
        assert mean == pytest.approx(target, abs=0.1)
        assert variance == pytest.approx(game.variance, rel=0.3)
    value = response.value(torch.zeros(1, 2, 1), torch.tensor([[0, 1]]))
    assert (value - game.value).abs().max() < 0.05  # without its shift: off by 0.11
    near = torch.distributions.Normal(game.targets, game.variance**0.5)
    at = torch.tensor([0.0, 0.5]).view(1, 2, 1)
    density = response.log_density(torch.zeros(1, 2, 1), torch.tensor([[0, 1]]), at)
    assert (density - near.log_prob(at[0, :, 0])).abs().max() < 0.7


def test_sac_aims_as_the_soft_best_response_does():
    check_aim(sac(), 0)


def check_regulator(follower: SACFollower, seed: int) -> None:
    game = Regulator()
    response = follower.best_respond(game, idle(1), [seed])
    gain, variance, p, constant = game.solution()
    for state in (-0.8, 0.0, 0.8):
        mean, spread = moments(response, state, 0)
        assert mean == pytest.approx(-gain * state, abs=0.2)
        assert spread == pytest.approx(variance, rel=0.4)
        value = response.value(torch.full((1, 1, 1), state), torch.zeros(1, 1).long()).item()
        assert value == pytest.approx(constant - p * state**2, abs=0.4)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_sac_every_seed(seed):
    check_aim(SACFollower(), seed)
    check_regulator(SACFollower(), seed)


def test_the_density_is_one():
    """Over the Box, in its own units."""
    response = sac(first_steps=128).best_respond(Aim(), idle(2), [0])
    grid = torch.linspace(-2, 4, 20_001, dtype=torch.float64)[1:-1].view(1, -1, 1)
    seen, action = torch.zeros(1, 19_999, 1), torch.zeros(1, 19_999).long()
    mass = response.log_density(seen, action, grid).exp().mean() * 6
    assert mass.item() == pytest.approx(1, abs=0.01)


# ---------------------------------------------------------------- the adapter


def tiny(name: str):
    config = {"first_steps": 256, "later_steps": 128, "afresh_steps": 128, "copies": 8}
    network = NetworkConfig(replays=8.0, batch=64, width=16, capacity=300)
    if name == "soft-q":
        return SoftQFollower(SoftQConfig(**config), network)
    kind = {"discrete-sac": DiscreteSACFollower, "sac": SACFollower}[name]
    return kind(LearningConfig(**config), network)


def case(name: str, shown: bool = True) -> tuple[Game, Commitment, Commitment]:
    """A game and two commitments of two leaders."""
    if name == "sac":
        game = Regulator(horizon=10)
        both = Commitment(torch.ones(2, 0, 1), None, lambda o: torch.zeros(2, o.shape[-2], 1))
        return game, both, both
    game = coded(random_game(follower_observes_action=shown, horizon=10))
    return game, game.hide(leaders(0.5, 0.2)), game.hide(leaders(0.4, 0.7))


def answers(response, game: Game) -> list[torch.Tensor]:
    seen = torch.linspace(-1, 1, 6).view(1, 6, 1).expand(2, 6, *game.observation_space.shape)
    action, draw = torch.zeros(2, 6).long(), torch.Generator().manual_seed(0)
    return [response.sample(seen, action, draw), response.value(seen, action), response.gap]


def same(one, other, game: Game) -> bool:
    pairs = zip(answers(one, game), answers(other, game), strict=True)
    return one.steps == other.steps and all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("shown", [True, False], ids=["shown", "hidden"])
@pytest.mark.parametrize("name", ["soft-q", "discrete-sac", "sac"])
def test_an_interrupted_run_continues_identically(name, shown):
    game, first, later = case(name, shown)
    follower, resumed = tiny(name), tiny(name)
    follower.best_respond(game, first, [0, 1])
    resumed.load(follower.state())
    for seeds in ([2, 3], [4, 5]):
        expected = follower.best_respond(game, later, seeds)
        assert same(expected, resumed.best_respond(game, later, seeds), game)
    assert all(isinstance(value, torch.Tensor) for value in resumed.state().values())


@pytest.mark.parametrize("name", ["soft-q", "discrete-sac", "sac"])
def test_the_seeds_alone_decide_and_no_global_state_is_touched(name):
    game, commitment, _ = case(name)
    torch.manual_seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002 - left alone?
    first = tiny(name).best_respond(game, commitment, [4, 5])
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()  # noqa: NPY002
    torch.manual_seed(99)
    assert same(first, tiny(name).best_respond(game, commitment, [4, 5]), game)
    other = answers(tiny(name).best_respond(game, commitment, [6, 7]), game)
    assert not torch.equal(answers(first, game)[1], other[1])


@pytest.mark.parametrize("name", ["soft-q", "discrete-sac"])
def test_what_a_follower_does_is_sampled(name):
    game, commitment, _ = case(name)
    response = tiny(name).best_respond(game, commitment, [0, 1])
    seen, action = torch.zeros(2, 4000, 4), torch.zeros(2, 4000).long()
    done = response.sample(seen, action, torch.Generator().manual_seed(0))
    share = torch.nn.functional.one_hot(done, 3).double().mean(1)
    odds = response.log_prob(seen, action).exp()[:, 0]
    assert (share - odds).abs().max() < 0.04
    assert odds.max() < 0.99


def test_a_response_does_not_change_when_its_follower_trains_on():
    game, first, later = case("soft-q")
    follower = tiny("soft-q")
    response = follower.best_respond(game, first, [0, 1])
    before = answers(response, game)
    follower.best_respond(game, later, [2, 3])
    assert all(torch.equal(a, b) for a, b in zip(before, answers(response, game), strict=True))


def test_progress_is_told():
    game, commitment, _ = case("soft-q")
    follower, told = tiny("soft-q"), []
    follower.report = lambda steps, most, gap: told.append((steps, most, gap))
    response = follower.best_respond(game, commitment, [0, 1])
    assert [steps for steps, _, _ in told if steps == response.steps]
    assert all(most == 256 for _, most, _ in told)
    assert told[-1][2] == response.gap[-1].item()


def test_experience_is_a_ring():
    kept = Experience(5)
    for start in range(0, 12, 3):
        kept.add({"x": torch.arange(start, start + 3)})
        assert sorted(kept.columns()["x"].tolist()) == list(range(max(0, start - 2), start + 3))
    again = Experience(5)
    again.load(kept.state())
    for one in (kept, again):
        one.add({"x": torch.tensor([12, 13])})
    assert torch.equal(kept.columns()["x"], again.columns()["x"])
    kept.add({"x": torch.arange(100)})
    assert sorted(kept.columns()["x"].tolist()) == list(range(95, 100))


def test_experience_is_bounded_in_bytes_too(monkeypatch):
    monkeypatch.setattr(experience, "LARGEST", 1000)
    kept = Experience(50)
    for start in range(0, 60, 7):
        rows = torch.arange(start, start + 7)
        kept.add({"image": torch.zeros(7, 6, 2, dtype=torch.float32), "x": rows})  # 56 bytes each
    assert sorted(kept.columns()["x"].tolist()) == list(range(63 - 17, 63))
    assert sum(column.nbytes for column in kept.columns().values()) <= 1000
    again = Experience(50)
    again.load(kept.state())
    for one in (kept, again):
        one.add({"image": torch.zeros(2, 6, 2), "x": torch.tensor([63, 64])})
    assert torch.equal(kept.columns()["x"], again.columns()["x"])
    single = Experience(50)
    single.add({"image": torch.zeros(3, 500), "x": torch.arange(3)})  # one row is too large
    assert single.columns()["x"].tolist() == [2]


def test_the_gap_by_hand():
    error = torch.tensor([[1.0, 1.0, 5.0, 3.0], [2.0, 2.0, 0.0, 8.0]])
    over = torch.tensor([[False, False, False, True], [True, True, True, True]])
    strays, slack = torch.tensor([0.0, 0.0, 0.5, 1.0]), torch.tensor([[1.0, 1.0], [1.0, 7.0]])
    gap = gap_of(error, slack, over, strays, 0.5)
    own, other, less = 1 + 0.5 * 2, (5 + 3) / 2, (1.5 + 1) / 2
    assert gap.value == pytest.approx(abs(other - own) + less)
    assert gap.time == pytest.approx((1.5 * 3 + 1) / 4)
    # A level that is off by c moves every error by c (gamma - 1), where episodes run alike.
    even = torch.zeros_like(over)
    moved = gap_of(error + 3, slack, even, strays, 0.5)
    assert moved.value == pytest.approx(gap_of(error, slack, even, strays, 0.5).value)


@pytest.mark.parametrize("follower", [SoftQFollower(), DiscreteSACFollower()])
def test_followers_that_choose_refuse_a_box(follower):
    with pytest.raises(
        InputError, match=r"expected .* Discrete .*; got Box.*; use the follower sac"
    ):
        follower.best_respond(Regulator(), idle(1), [0])


def test_sac_refuses_choices_and_empty_boxes():
    game = coded(random_game())
    with pytest.raises(InputError, match=r"expected .* Box .*; got Discrete.*; use soft-q"):
        SACFollower().best_respond(game, game.hide(leaders(0.5)), [0])
    game = Regulator()
    game.follower_space = spaces.Box(1.0, 1.0, (1,))
    with pytest.raises(InputError, match="low < high"):
        SACFollower().best_respond(game, idle(1), [0])
    with pytest.raises(InputError, match="expected a finite reach > 0; got 0"):
        SACFollower(reach=0.0)


def test_other_errors_are_said_in_three_parts():
    game = coded(random_game())
    with pytest.raises(InputError, match="expected one seed for each of 1 leaders; got 2 seeds"):
        discrete_sac().best_respond(game, game.hide(leaders(0.5)), [0, 1])
    with pytest.raises(InputError, match=r"expected copies >= 4 .*; got 3"):
        discrete_sac(copies=3).best_respond(game, game.hide(leaders(0.5)), [0])


@pytest.mark.parametrize(
    "setting", [{"width": 0}, {"batch": 0}, {"step_size": 0.0}, {"lag": 2.0}, {"replays": -1.0}]
)
def test_bad_settings_are_refused(setting):
    with pytest.raises(InputError, match=next(iter(setting))):
        NetworkConfig(**setting)


def test_environments_stepped_one_by_one_are_few():
    """However short the episodes, and all through a follower's life: rounds play some at a time."""
    kind = type("Counted", (Closing,), {})
    game = from_parallel_env(kind, horizon=6)
    config = SoftQConfig(copies=8, first_steps=1024, afresh_steps=1024)
    follower = SoftQFollower(config, NetworkConfig(replays=1.0, batch=64, width=16))
    for _ in range(2):
        response = follower.best_respond(game, idle(2), (0,))
        assert response.steps > 2 * 8 * 6  # later rounds have more episodes
        assert kind.made <= 8 + 1
    del game, follower, response
    gc.collect()
    assert kind.closed == kind.made


def test_importing_agents_does_not_import_tianshou():
    code = "import sys, agents, stackelberg.cli; assert 'tianshou' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
