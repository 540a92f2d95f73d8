"""Steps of the trust region: their length, its growth, and when there is none."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.exact import ExactFollower
from agents.leaders import BoxDesign, MLPCategorical, SoftmaxBudget, TabularSoftmax
from games import discrete_toy
from stackelberg import Coordinator, TrainConfig
from stackelberg.errors import InputError
from stackelberg.game import Budget
from stackelberg.process import single_thread
from stackelberg.trust_region import LONGEST, SMALLEST, TrustRegion, divergence, inner, scale


@pytest.fixture(autouse=True)
def _one_thread():
    with single_thread():
        yield


LEADERS = {
    "tabular": lambda seeds: TabularSoftmax(4, 3, seeds, std=1.0),
    "mlp": lambda seeds: MLPCategorical(4, 3, seeds=seeds),
    "budget": lambda seeds: SoftmaxBudget(Budget(10, 1.0), seeds, std=1.0),
    "box": lambda seeds: BoxDesign(spaces.Box(0.0, 1.0, (3,)), seeds, std=1.0),
}
EVERYWHERE = torch.eye(4)


def region_of(leader, radius=1e-3, limit=0.3) -> TrustRegion:
    return TrustRegion(list(leader.parameters()), radius, limit)


def random_gradient(leader, seed: int) -> list:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in leader.parameters()
    ]


@torch.no_grad()
def moved(leader, region, gradient, floor=0.0) -> torch.Tensor:
    """KL(old || new), [M], of one step."""
    before = leader.position(EVERYWHERE).clone()
    region.step(gradient, lambda: leader.position(EVERYWHERE), floor)
    return divergence(before, leader.position(EVERYWHERE))


def copy_of(leader) -> list:
    return [p.detach().clone() for p in leader.parameters()]


def same(leader, parameters) -> bool:
    return all(torch.equal(p, q) for p, q in zip(leader.parameters(), parameters, strict=True))


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(sorted(LEADERS)),
    sharpness=st.sampled_from([0.01, 1.0, 10.0, 40.0, 300.0]),
    radius=st.sampled_from([1e-6, 1e-3, 0.05, 0.3]),
    seed=st.integers(0, 1000),
)
def test_no_step_is_longer_than_the_radius(kind, sharpness, radius, seed):
    leader = LEADERS[kind](range(seed, seed + 4))
    with torch.no_grad():
        for p in leader.parameters():
            p.mul_(sharpness)
    before = copy_of(leader)
    step = moved(leader, region_of(leader, radius), random_gradient(leader, seed))
    assert (step <= 1.011 * radius + 1e-12).all()
    for p, q in zip(leader.parameters(), before, strict=True):
        assert torch.isfinite(p).all()
        assert (p - q).abs().max() <= LONGEST * 1.001


@pytest.mark.parametrize("kind", sorted(LEADERS))
@pytest.mark.parametrize("radius", [1e-6, 1e-3, 0.05])
def test_an_ordinary_step_reaches_the_radius(kind, radius):
    leader = LEADERS[kind](range(4))
    step = moved(leader, region_of(leader, radius), random_gradient(leader, 0))
    assert (step >= (0.25 if kind == "mlp" else 0.98) * radius).all()


def test_a_step_goes_along_the_gradient():
    leader = LEADERS["tabular"]([0, 1])
    before, gradient = copy_of(leader), random_gradient(leader, 3)
    moved(leader, region_of(leader), gradient)
    step = [p.detach() - q for p, q in zip(leader.parameters(), before, strict=True)]
    cosine = inner(step, gradient) / (inner(step, step) * inner(gradient, gradient)).sqrt()
    torch.testing.assert_close(cosine, torch.ones(2, dtype=torch.float64))


def test_the_radius_doubles_along_and_quarters_against_the_last_step():
    leader = LEADERS["tabular"]([0, 1, 2])
    region = region_of(leader, 1e-3)
    gradient = random_gradient(leader, 0)
    moved(leader, region, gradient)
    assert region.radius.tolist() == [1e-3] * 3
    turned = [scale(g, torch.tensor([1.0, -1.0, 0.0])) for g in gradient]
    moved(leader, region, turned)
    assert region.radius.tolist() == [2e-3, 0.25e-3, 1e-3]


def test_the_radius_stays_within_its_limits():
    leader = LEADERS["tabular"]([0])
    region = region_of(leader, 0.1, limit=0.3)
    gradient = random_gradient(leader, 0)
    for _ in range(4):
        moved(leader, region, gradient)
    assert region.radius.item() == 0.3
    for i in range(40):
        moved(leader, region, [(-1) ** i * g for g in gradient])
    assert region.radius.item() == SMALLEST


@pytest.mark.parametrize("kind", sorted(LEADERS))
def test_no_gradient_no_movement(kind):
    leader = LEADERS[kind](range(2))
    before = copy_of(leader)
    zero = [torch.zeros_like(p, dtype=torch.float64) for p in leader.parameters()]
    assert (moved(leader, region_of(leader), zero) == 0).all()
    assert same(leader, before)


def test_a_gradient_of_rounding_error_moves_only_who_has_more():
    leader = LEADERS["tabular"]([0, 1])
    before = copy_of(leader)[0]
    gradient = random_gradient(leader, 0)
    gradient[0][0] *= 1e-14
    step = moved(leader, region_of(leader), gradient, floor=torch.tensor([1e-9, 1e-9]))
    assert torch.equal(leader.logits[0], before[0])
    assert step[0] == 0
    assert step[1] == pytest.approx(1e-3, rel=0.02)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_is_an_error_and_moves_nothing(bad):
    leader = LEADERS["tabular"]([0, 1])
    before, region = copy_of(leader), region_of(leader)
    gradient = random_gradient(leader, 0)
    gradient[0][1, 0, 0] = bad
    with pytest.raises(InputError, match=r"expected a finite gradient; got .*; check the scale"):
        moved(leader, region, gradient)
    assert same(leader, before)
    assert region.radius.tolist() == [1e-3] * 2


def test_a_deterministic_leader_stays_finite():
    leader = LEADERS["tabular"]([0])
    with torch.no_grad():
        leader.logits.zero_()
        leader.logits[..., 0] = 800.0  # exp(-800) is 0
    region = region_of(leader, 0.3)
    for _ in range(20):
        parameters = list(leader.parameters())
        gain = leader.log_policy(EVERYWHERE).exp()[..., 1].sum()
        gradient = torch.autograd.grad(gain, parameters)
        assert (moved(leader, region, gradient) <= 0.3033).all()
        assert torch.isfinite(leader.logits).all()
    outward = torch.zeros_like(leader.logits)
    outward[..., 0] = 1.0
    moved(leader, region, [outward])
    assert torch.isfinite(leader.logits).all()


def test_leaders_of_one_batch_do_not_touch_each_other():
    together = LEADERS["mlp"]([0, 1, 2])
    gradient = random_gradient(together, 0)
    region = region_of(together, 0.05)
    moved(together, region, gradient)
    for m in range(3):
        alone = LEADERS["mlp"]([m])
        lonely = region_of(alone, 0.05)
        moved(alone, lonely, [g[m : m + 1] for g in gradient])
        for p, q in zip(together.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(p[m : m + 1], q, rtol=1e-5, atol=1e-7)


def test_a_saved_state_goes_on_as_it_would_have():
    leaders = [LEADERS["tabular"]([0]) for _ in range(2)]
    regions = [region_of(leader) for leader in leaders]
    for leader, region in zip(leaders, regions, strict=True):
        moved(leader, region, random_gradient(leader, 0))
    fresh = region_of(leaders[1])
    fresh.load({name: tensor.clone() for name, tensor in regions[1].state().items()})
    for leader, region in zip(leaders, (regions[0], fresh), strict=True):
        moved(leader, region, random_gradient(leader, 1))
    assert torch.equal(leaders[0].logits, leaders[1].logits)


def test_a_row_that_turned_back_does_not_hold_the_others():
    leader = TabularSoftmax(2, 2)
    region = TrustRegion(list(leader.parameters()), radius=1e-3, limit=0.3, rows=leader.rows)
    ahead = torch.tensor([[[1.0, -1.0], [1.0, -1.0]]], dtype=torch.float64)
    turned = torch.tensor([[[1.0, -1.0], [-1.0, 1.0]]], dtype=torch.float64)
    everywhere = torch.eye(2)
    for gradient in (ahead, turned):
        region.step([gradient], lambda: leader.position(everywhere))
    torch.testing.assert_close(region.radius, torch.tensor([2e-3, 2.5e-4], dtype=torch.float64))
    torch.testing.assert_close(region.largest, torch.tensor([2e-3], dtype=torch.float64))


@pytest.mark.parametrize("share", [0.25, 0.0])
def test_a_retreat_leaves_a_share_of_the_step_to_those_who_went_astray(share):
    leader = TabularSoftmax(4, 3, range(2), std=1.0)
    leaves = list(leader.parameters())
    region = TrustRegion(leaves, 0.01, 0.3, leader.rows, smallest=1e-4)
    origin, before = region.snapshot(), copy_of(leader)
    region.step(random_gradient(leader, 0), lambda: leader.position(EVERYWHERE))
    after, radius, last = copy_of(leader), region.radius.clone(), region.last[0].clone()
    region.retreat(origin, torch.tensor([True, False]), share)
    kept = before[0][0] + share * (after[0][0] - before[0][0])
    torch.testing.assert_close(leaves[0][0], kept, rtol=0, atol=0 if share == 0 else 1e-12)
    assert torch.equal(leaves[0][1], after[0][1])
    shares = torch.tensor([share, 1.0], dtype=torch.float64).repeat_interleave(leader.rows)
    torch.testing.assert_close(region.radius, (shares * radius).clamp(min=1e-4))
    torch.testing.assert_close(region.last[0], shares.unsqueeze(-1) * last)


def test_noise_does_not_freeze_a_leader():
    """The sampled trace is so noisy that its sign often turns; the leader arrives all the same."""
    game, seeds = discrete_toy.game(), range(8)
    config = TrainConfig(estimator="sampled-trace", iterations=200)
    leader = TabularSoftmax(3, 2, seeds)
    result = Coordinator(game, leader, ExactFollower(), config, seeds=seeds).run()
    shares = np.array(result.summary["leader_return"]["exact"]) / game.optimum
    assert shares.mean() > 0.95
    assert shares.min() > 0.85
