"""Leaders in a Box: their densities, their geometry, and how far they step."""

import numpy as np
import pytest
import torch
from box_games import Aim
from gymnasium import spaces
from torch import Tensor

from agents import (
    BoxDesign,
    FreeDesign,
    LinearGaussian,
    MLPDeterministic,
    MLPGaussian,
    default_leader,
)
from agents.leaders import deterministic_leader, mlp_leader, spread_leader
from stackelberg.errors import InputError
from stackelberg.optimisers import OPTIMISERS, Fisher
from stackelberg.squash import Squash
from stackelberg.trust_region import GAUSSIAN, TrustRegion, divergence
from stackelberg.types import BoxLeader, DesignLeader, LinearLeader

BOX = spaces.Box(np.array([-1.0, 2.0]), np.array([1.0, 5.0]), dtype=np.float64)
FREE = spaces.Box(-np.inf, np.inf, (2,), dtype=np.float64)
HALF = spaces.Box(np.array([0.0]), np.array([np.inf]), dtype=np.float64)
MAKERS = {
    "linear": lambda seeds: LinearGaussian(3, 2, seeds, 1.0, noise=(0.2, 0.5)),
    "gains": lambda seeds: LinearGaussian(3, 2, seeds, 1.0, affine=False, noise=1e-3),
    "noisy": lambda seeds: LinearGaussian(3, 2, seeds, 1.0, learns_noise=True, unit=0.0),
    "mlp": lambda seeds: MLPGaussian(3, BOX, (8,), seeds),
    "free mlp": lambda seeds: MLPGaussian(3, FREE, (8,), seeds, activation=torch.relu),
    "deterministic": lambda seeds: MLPDeterministic(3, BOX, (8,), seeds),
}
DENSE = [kind for kind in sorted(MAKERS) if kind != "deterministic"]
SEEN = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))


def draws(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("kind", sorted(MAKERS))
def test_box_leaders_fit_the_contract(kind):
    leader = MAKERS[kind]((0, 5))
    assert isinstance(leader, BoxLeader)
    assert not isinstance(leader, DesignLeader)
    assert isinstance(leader, LinearLeader) == (kind in ("linear", "gains", "noisy"))
    own = SEEN.expand(2, -1, -1)
    action = leader.act(SEEN, draws(2, 6, 2))
    assert action.dtype == torch.float64
    torch.testing.assert_close(action, leader.act(own, draws(2, 6, 2)))
    assert action.shape == (2, 6, 2)
    assert action.requires_grad
    if kind in ("mlp", "deterministic"):
        assert all(BOX.contains(row) for row in action.detach().flatten(0, 1).numpy())
    alone = MAKERS[kind]((5,))
    torch.testing.assert_close(alone.act(SEEN, draws(2, 6, 2)[1:]), action[1:])


@pytest.mark.parametrize("kind", DENSE)
def test_densities_are_those_of_what_is_drawn(kind):
    """By change of variables: log N(noise) - log |da / d noise|, from autograd's Jacobian."""
    leader, noise = MAKERS[kind]((0, 1)), draws(2, 6, 2)
    found = leader.log_density(SEEN, leader.act(SEEN, noise))
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(noise).sum(-1)
    rows = []
    for m in range(2):
        for n in range(6):

            def act(x, m=m, n=n):
                spread = torch.zeros(2, 6, 2, dtype=torch.float64)
                return leader.act(SEEN, spread + x)[m, n]

            jacobian = torch.autograd.functional.jacobian(act, noise[m, n])
            rows.append(torch.linalg.det(jacobian).abs().log())
    torch.testing.assert_close(found, normal - torch.stack(rows).view(2, 6), rtol=1e-5, atol=1e-5)


def test_a_deterministic_leader_has_no_density_and_needs_no_noise():
    leader = MAKERS["deterministic"]((0,))
    assert torch.equal(leader.act(SEEN, draws(1, 6, 2)), leader.act(SEEN, 0 * draws(1, 6, 2)))
    with pytest.raises(InputError, match="expected a leader with a density"):
        leader.log_density(SEEN, leader.act(SEEN, draws(1, 6, 2)))


def test_gains_have_constants_or_not():
    assert (MAKERS["gains"]((0, 1)).gain()[..., 0] == 0).all()
    leader = MAKERS["linear"]((0, 1))
    assert leader.gain().shape == (2, 2, 4)
    assert leader.std()[1].tolist() == pytest.approx([0.2, 0.5])
    by_hand = leader.gain() @ torch.cat([torch.ones(6, 1), SEEN], -1).double().mT
    torch.testing.assert_close(leader.act(SEEN, 0 * draws(2, 6, 2)), by_hand.mT)


def test_half_a_bound_is_no_box_and_no_noise_no_density():
    with pytest.raises(InputError, match="two finite bounds or with none"):
        Squash(HALF)
    with pytest.raises(InputError, match="expected noise > 0"):
        LinearGaussian(1, 1, noise=0.0)


# ---------------------------------------------------------------- geometry


def test_divergence_is_the_kl_of_gaussians():
    old, new = draws(2, 3, 4, 6).unbind(0)

    def gaussians(position):
        mean, log_std = position.chunk(2, -1)
        return torch.distributions.Normal(mean, log_std.exp())

    expected = torch.distributions.kl_divergence(gaussians(old), gaussians(new)).sum(-1)
    torch.testing.assert_close(GAUSSIAN.divergence(old, new), expected)


def test_weights_are_the_curvature_of_the_divergence():
    at = draws(6)
    curvature = torch.autograd.functional.hessian(lambda x: GAUSSIAN.divergence(at, x), at)
    torch.testing.assert_close(curvature, torch.diag(GAUSSIAN.weights(at)))


def region_of(leader, radius=1e-3) -> TrustRegion:
    return TrustRegion(list(leader.parameters()), radius, 0.3, leader.rows, leader.geometry)


def random_gradient(leader) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(p.shape, generator=generator).double() for p in leader.parameters()]


STEPPERS = MAKERS | {"design": lambda seeds: FreeDesign(3, seeds, 1.0, unit=(0.1, 1.0, 10.0))}


@pytest.mark.parametrize("optimiser", ["trust-region", "natural-gradient"])
@pytest.mark.parametrize("kind", sorted(STEPPERS))
@pytest.mark.parametrize("radius", [1e-4, 0.05])
def test_steps_reach_the_radius(kind, optimiser, radius):
    leader = STEPPERS[kind]((0, 1))
    region = region_of(leader, radius)
    before = leader.position(SEEN).detach()
    visits = torch.ones(1)
    OPTIMISERS[optimiser](
        region, random_gradient(leader), lambda: leader.position(SEEN), visits, 0.0
    )
    moved = leader.geometry.divergence(before, leader.position(SEEN).detach())
    if kind == "design":  # every number by itself
        torch.testing.assert_close(moved, torch.full_like(moved, radius), rtol=0.03, atol=0.0)
        return
    furthest = moved.amax(-1)
    assert (furthest <= 1.011 * radius).all()
    # the search for a length is short, and the natural direction of a network is far from even
    assert (furthest > (0.25 if optimiser == "trust-region" else 0.0) * radius).all()


def test_the_fisher_matrix_is_that_of_gaussian_gains():
    """Of fixed noise: sum_n w_n (1, s_n)(1, s_n)' / (noise^2 + unit^2) for each action."""
    leader = LinearGaussian(3, 1, (0,), 1.0, noise=0.2, unit=0.4)
    weight = torch.rand(1, 6, generator=torch.Generator().manual_seed(3)).double()
    region = region_of(leader)
    fisher = Fisher(region, leader.position(SEEN), weight)
    rows = torch.cat([torch.ones(6, 1), SEEN], -1).double()
    counted = weight[0] + 1e-3 * weight.mean()
    expected = (rows * counted[:, None]).mT @ rows / (0.2**2 + 0.4**2)
    along = draws(1, 4)
    found, _ = fisher.product([along])
    torch.testing.assert_close(found[0], along @ expected, rtol=1e-5, atol=1e-6)
    (back,) = fisher.solve(found)
    torch.testing.assert_close(back, along, rtol=1e-2, atol=1e-2)


def test_hardly_any_noise_does_not_forbid_steps():
    """Of noise 1e-3 alone, a step of KL 1e-3 moves means by 5e-5."""

    def length(unit: float) -> float:
        leader = LinearGaussian(3, 2, (0,), noise=1e-3, unit=unit)
        region = region_of(leader)
        region.step(random_gradient(leader), lambda: leader.position(SEEN))
        return region.last[0].norm().item()

    assert length(0.3) == pytest.approx(300 * length(0.0), rel=0.02)


def test_ppo_refuses_gaussians():
    leader = MAKERS["mlp"]((0,))
    with pytest.raises(InputError, match="for ppo"):
        OPTIMISERS["ppo"](
            region_of(leader),
            random_gradient(leader),
            lambda: leader.position(SEEN),
            torch.ones(1),
            0.0,
        )


def test_a_free_design_is_what_it_is():
    leader = FreeDesign(2, (0, 1), 1.0)
    assert isinstance(leader, DesignLeader)
    assert torch.equal(leader.design(), leader.x)
    assert torch.equal(leader.parameters_at(leader.x[0])[0], leader.x[0])
    position = leader.position(SEEN)
    step = torch.tensor([[3.0, 1.0]]).double()
    moved = torch.stack([position[..., 0] + step, position[..., 1]], -1)
    torch.testing.assert_close(
        divergence(position, moved, GAUSSIAN), torch.full((2,), 4.5).double()
    )


# ---------------------------------------------------------------- which leader a game has


class Linear(Aim):
    """As a linear-quadratic game says of its leader."""

    affine, leader_std = False, 1e-3
    linear = True


class Design(Aim):
    leader_moves = "once"


def game_of(kind: type[Aim], space: spaces.Box) -> Aim:
    game = kind()
    game.leader_space = space
    return game


def test_the_default_leader_fits_the_space():
    linear = default_leader(game_of(Linear, FREE), (0, 1))
    assert isinstance(linear, LinearGaussian)
    assert (linear.gain() == 0).all()
    assert linear.gains.shape == (2, 2, 1)
    torch.testing.assert_close(linear.std(), torch.full((2, 2), 1e-3).double())
    assert spread_leader(game_of(Linear, FREE), (0,)).gains.std() > 0.1
    for make in (default_leader, mlp_leader, spread_leader):
        assert isinstance(make(game_of(Aim, BOX), (0,)), MLPGaussian)
    assert isinstance(deterministic_leader(game_of(Aim, BOX)), MLPDeterministic)
    assert isinstance(default_leader(game_of(Design, BOX)), BoxDesign)
    assert isinstance(default_leader(game_of(Design, FREE)), FreeDesign)
    for make in (mlp_leader, deterministic_leader):
        with pytest.raises(InputError):
            make(game_of(Design, BOX))


@pytest.mark.parametrize("space", [HALF, spaces.Box(np.array([0.0, -np.inf]), np.ones(2))])
@pytest.mark.parametrize("kind", [Aim, Design])
def test_half_bounded_boxes_have_no_default_leader(kind, space):
    with pytest.raises(InputError, match=r"two finite bounds|with both bounds"):
        default_leader(game_of(kind, space))
