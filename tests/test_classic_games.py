"""Cart-pole and pendulum: against Gymnasium's own, against their formulas; derivatives."""

import gymnasium
import numpy as np
import pytest
import torch
from conformance import conform_shipped

from games import cart_pole, pendulum
from stackelberg.check import check_game
from stackelberg.errors import InputError
from stackelberg.registry import make_game

SHIPPED = {"cart_pole": cart_pole, "pendulum": pendulum}
N = 300


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def uniform(low, high, n=N, seed=0) -> torch.Tensor:
    """[n, d] between bounds [d]."""
    low, high = torch.tensor(low).double(), torch.tensor(high).double()
    return low + (high - low) * torch.rand(n, len(low), generator=seeded(seed)).double()


def carts(n=N, seed=0):
    return uniform([-2.45, -3.0, -0.22, -3.0], [2.45, 3.0, 0.22, 3.0], n, seed)


def pendula(n=N, seed=0, fastest=8.0):
    return uniform([-9.0, -fastest], [9.0, fastest], n, seed)


def actions(scale=1.0, n=N, seed=1):
    return uniform([-scale], [scale], n, seed)


# ---------------------------------------------------------------- against Gymnasium


def test_cart_pole_without_wind_is_gymnasiums():
    env = gymnasium.make("CartPole-v1").unwrapped
    game, states = cart_pole.game(), carts()
    pushes = actions().sign()
    step = game.step(states, torch.zeros(N, 1), pushes, seeded())
    for i in range(N):
        env.reset()
        env.state, env.steps_beyond_terminated = states[i].numpy(), None
        _, reward, terminated, _, _ = env.step(int(pushes[i] > 0))
        np.testing.assert_allclose(step.state[i].numpy(), env.state, rtol=1e-12, atol=1e-12)
        assert bool(step.terminated[i]) == terminated
        assert step.follower_reward[i].item() == reward == 1.0
    assert 30 < step.terminated.sum() < N - 30
    assert (game.observation_space, game.horizon) == (env.observation_space, 200)
    starts = game.initial(2000, seeded())
    assert starts.abs().amax(0).numpy() == pytest.approx(np.full(4, 0.05), abs=1e-3)
    assert starts.abs().max() <= 0.05


def test_pendulum_without_wind_is_gymnasiums():
    """Also the clipped torque; only where the speed is clipped does the angle move on as it was."""
    env = gymnasium.make("Pendulum-v1").unwrapped
    env.reset()
    game, states, torques = pendulum.game(), pendula(), actions(scale=3.0)
    step = game.step(states, torch.zeros(N, 1), torques, seeded())
    clipped = 0
    for i in range(N):
        env.state = states[i].numpy()
        observation, reward, *_ = env.step(torques[i].numpy())
        assert step.follower_reward[i].item() == pytest.approx(reward, rel=1e-12)
        assert step.state[i, 1].item() == pytest.approx(env.state[1], rel=1e-12)
        if abs(env.state[1]) < 8:
            np.testing.assert_allclose(step.state[i].numpy(), env.state, rtol=1e-12, atol=1e-12)
            np.testing.assert_allclose(game.observe(step.state)[i].numpy(), observation, atol=1e-6)
        else:
            clipped += 1
            assert abs(step.state[i, 0] - states[i, 0]) > abs(env.state[0] - states[i, 0].numpy())
    assert clipped > 10
    assert not step.terminated.any()
    assert (game.observation_space, game.horizon) == (env.observation_space, 200)
    starts = game.initial(5000, seeded())
    assert starts.abs().amax(0).numpy() == pytest.approx([np.pi, 1.0], abs=1e-2)


# ---------------------------------------------------------------- wind and the leaders' rewards


def test_wind_turns_the_pole_and_nothing_else():
    game, states, pushes = cart_pole.game(wind=0.5), carts(), actions()
    winds = actions(scale=1.5, seed=2)
    still = game.step(states, 0 * winds, pushes, seeded()).state
    blown = game.step(states, winds, pushes, seeded()).state
    torch.testing.assert_close(blown[:, :3], still[:, :3])
    gain = 0.02 * 20 * 0.5 * winds[:, 0].clamp(-1, 1) * states[:, 2].cos() ** 2
    torch.testing.assert_close(blown[:, 3] - still[:, 3], gain)


def test_wind_turns_the_pendulum():
    game, states, torques = pendulum.game(wind=0.5), pendula(fastest=6.0), actions(2.0)
    winds = actions(scale=1.5, seed=2)
    still = game.step(states, 0 * winds, torques, seeded()).state
    blown = game.step(states, winds, torques, seeded()).state
    gain = 0.05 * 2 * 0.5 * winds[:, 0].clamp(-1, 1) * states[:, 0].cos() ** 2
    torch.testing.assert_close(blown[:, 1] - still[:, 1], gain)
    torch.testing.assert_close(blown[:, 0] - still[:, 0], 0.05 * gain)


def test_leaders_are_paid_as_published():
    states, none = carts(), torch.zeros(N, 1)
    for options, low, high in (({}, 0.25, 0.75), ({"target": (-0.25, 0.25)}, -0.25, 0.25)):
        step = cart_pole.game(**options).step(states, none, none, seeded())
        inside = [float(low < x < high) for x in step.state[:, 0].tolist()]
        assert step.leader_reward.tolist() == inside
        assert 0 < sum(inside) < N
    swung = pendula()
    paid = pendulum.game().step(swung, none, none, seeded()).leader_reward
    expected = np.clip(np.sin(swung[:, 0].numpy() + np.pi), -np.inf, 0)
    np.testing.assert_allclose(paid.numpy(), expected, atol=1e-12)


def test_pushes_beyond_the_bounds_are_clipped():
    game, states = cart_pole.game(), carts(n=5)
    one = torch.ones(5, 1)
    for far, near in ((3 * one, one), (-3 * one, -one)):
        for there, here in zip(
            game.step(states, far, far, seeded()),
            game.step(states, near, near, seeded()),
            strict=True,
        ):
            torch.testing.assert_close(there, here)


def test_settings():
    game = cart_pole.game()
    assert (game.temperature, game.follower_discount, game.leader_discount) == (0.005, 0.99, 0.99)
    assert game.follower_observes_action
    assert pendulum.game(temperature=0.3, horizon=9).temperature == 0.3


def test_options_in_text():
    assert make_game("games.cart_pole:game", ["target=[-0.25, 0.25]"]).target == (-0.25, 0.25)
    assert make_game("games.pendulum:game", ["wind=2"]).wind == 2.0


# ---------------------------------------------------------------- derivatives


@pytest.mark.parametrize(
    ("game", "states", "scale"),
    [(cart_pole.game(), carts(), 1.0), (pendulum.game(), pendula(fastest=6.0), 2.0)],
    ids=SHIPPED,
)
def test_pathwise_derivatives(game, states, scale):
    """Values are those recorded, derivatives those of new steps; observations are float32."""
    seen = game.observe(states)
    states = game.place(seen.double())
    torch.testing.assert_close(game.observe(states), seen)
    winds, pushes = actions(0.9, seed=2), actions(scale)
    recorded = game.step(states, winds, pushes, seeded())
    attached = winds.clone().requires_grad_()
    again = game.reenact(seen, attached, pushes, game.observe(recorded.state))
    torch.testing.assert_close(again.observation.detach(), game.observe(recorded.state))
    torch.testing.assert_close(again.leader_reward.detach(), recorded.leader_reward)
    torch.testing.assert_close(again.follower_reward.detach(), recorded.follower_reward)

    def there(wind):
        state = game.step(states, wind, pushes, seeded()).state
        if isinstance(game, cart_pole.CartPole):
            return state
        return torch.stack([state[:, 0].cos(), state[:, 0].sin(), state[:, 1]], -1)

    h = 1e-5
    expected = (there(winds + h) - there(winds - h)) / (2 * h)
    for k in range(seen.shape[1]):
        column = again.observation[:, k].sum()
        found = torch.autograd.grad(column, attached, retain_graph=True)[0][:, 0]
        torch.testing.assert_close(found, expected[:, k], rtol=1e-4, atol=1e-6)
    assert expected.abs().max() > 0.05


# ---------------------------------------------------------------- as environments


EXPECTED_WARNINGS = (
    "Environment's (minimum|maximum) state space value is -?infinity",
    "Agent's (minimum|maximum) observation space value is -?infinity",
)


@pytest.mark.parametrize("name", SHIPPED)
def test_conformance(name):
    conform_shipped(SHIPPED[name], *EXPECTED_WARNINGS)


@pytest.mark.parametrize("name", SHIPPED)
def test_pictures(name):
    """The state shows, and so do the moves."""
    pictures = []
    for wind in (0.9, -0.9):
        env = SHIPPED[name].parallel_env(render_mode="rgb_array")
        env.reset(seed=0)
        before = env.render()
        env.step({"leader": [wind], "follower": [0.5]})
        pictures.append(env.render())
        assert before.dtype == np.uint8
        assert not np.array_equal(before[60:], pictures[-1][60:])
    assert not np.array_equal(*pictures)


@pytest.mark.parametrize("name", SHIPPED)
def test_check(name):
    found = {item.name: item for item in check_game(SHIPPED[name].game())}
    assert "fail" not in {item.status for item in found.values()}
    assert found["influence"].status == "ok"


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (cart_pole.game, {"target": (0.5, 0.5)}, r"a target \(low, high\).*; got target = \(0.5"),
        (cart_pole.game, {"target": (0.5,)}, r"a target \(low, high\) with low < high"),
        (cart_pole.game, {"target": (0.0, np.nan)}, r"got target = \(0.0, nan\)"),
        (cart_pole.game, {"wind": 0.0}, r"a wind > 0; got .*wind = 0.0; give"),
        (pendulum.game, {"wind": np.inf}, r"a finite wind > 0; got inf; give"),
        (pendulum.game, {"temperature": -1.0}, r"temperature"),
    ],
)
def test_bad_options(make, options, message):
    with pytest.raises(InputError, match=message):
        make(**options)
