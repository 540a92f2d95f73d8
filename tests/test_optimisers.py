"""Leader steps along other directions: against explicit Fisher matrices, and what clipping does."""

from typing import get_args

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from agents.leaders import BoxDesign, MLPCategorical, SoftmaxBudget, TabularSoftmax
from stackelberg import optimisers
from stackelberg.config import Optimiser
from stackelberg.game import Budget
from stackelberg.optimisers import CLIP, OPTIMISERS, UNSEEN, Fisher
from stackelberg.process import single_thread
from stackelberg.trust_region import LONGEST, TrustRegion, divergence


@pytest.fixture(autouse=True)
def _one_thread():
    with single_thread():
        yield


STATES = 4
EVERYWHERE = torch.eye(STATES)


class Turned(nn.Module):
    """A tabular softmax whose logits are an invertible map of its parameters.

    Args:
        turn: [S A, S A].
    """

    def __init__(self, turn: np.ndarray, seeds: range) -> None:
        super().__init__()
        self.count, self.rows = len(seeds), 1
        self.turn = torch.from_numpy(turn)
        logits = TabularSoftmax(STATES, 3, seeds, std=1.0).logits.detach().flatten(1)
        self.x = nn.Parameter(logits @ self.turn.inverse().T)

    def position(self, observation: Tensor) -> Tensor:
        logits = self.x @ self.turn.T
        return torch.log_softmax(logits.unflatten(-1, (STATES, 3)), -1)


def turned(seed: int, seeds: range) -> Turned:
    return Turned(np.random.default_rng(seed).normal(size=(STATES * 3, STATES * 3)), seeds)


LEADERS = {
    "tabular": lambda seeds: TabularSoftmax(STATES, 3, seeds, std=1.0),
    "turned": lambda seeds: turned(0, seeds),
    "mlp": lambda seeds: MLPCategorical(STATES, 3, (5,), seeds),
    "budget": lambda seeds: SoftmaxBudget(Budget(10, 1.0), seeds, std=1.0),
    "box": lambda seeds: BoxDesign(spaces.Box(0.0, 1.0, (3,)), seeds, std=1.0),
}
every_leader = pytest.mark.parametrize("kind", sorted(LEADERS))
every_optimiser = pytest.mark.parametrize("name", sorted(OPTIMISERS))


class Bench:
    """A leader in a region of its own, and the gradient of a random linear function of p."""

    def __init__(self, leader, radius: float = 1e-3, seed: int = 0) -> None:
        self.leader = leader
        self.region = TrustRegion(list(leader.parameters()), radius, 0.3, leader.rows)
        self.before = self.position().detach()
        states = self.before.shape[1]
        draws = np.random.default_rng(seed)
        worth = torch.from_numpy(draws.normal(size=self.before.shape[1:]))
        rates = draws.uniform(0.1, 2.0, states) if isinstance(leader, policies) else [1.0]
        self.visits = torch.tensor(np.array(rates)).expand(leader.count, -1)
        self.worth = worth - (self.before.exp() * worth).sum(-1, keepdim=True)  # an advantage
        value = (self.visits.unsqueeze(-1) * self.position().exp() * worth).sum()
        self.gradient = torch.autograd.grad(value, list(leader.parameters()))

    def position(self) -> Tensor:
        return self.leader.position(EVERYWHERE)

    def fisher(self) -> Fisher:
        return Fisher(self.region, self.position(), self.visits)

    def push(self) -> list[Tensor]:
        return self.region.judge(self.gradient)

    def step(self, name: str) -> Tensor:
        """By how much log p changed in a step, [M, n, K]."""
        before = self.position().detach()
        OPTIMISERS[name](self.region, self.gradient, self.position, self.visits)
        return self.position().detach() - before


policies = (TabularSoftmax, MLPCategorical, Turned)


def explicit(bench: Bench) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(J [n K, d], F [d, d], gradient [d]) of every leader, entry by entry."""
    leader, parameters = bench.leader, list(bench.leader.parameters())
    weight = bench.visits + UNSEEN * bench.visits.mean(-1, keepdim=True)
    weight = weight.expand(bench.before.shape[:2])
    position, found = bench.position(), []
    for m in range(leader.count):
        rows = []
        for entry in position[m].flatten():
            parts = torch.autograd.grad(entry, parameters, retain_graph=True)
            rows.append(torch.cat([g[m].double().flatten() for g in parts]))
        jacobian = torch.stack(rows).numpy()
        share = (weight[m].unsqueeze(-1) * bench.before[m].exp()).flatten().numpy()
        gradient = torch.cat([g[m].double().flatten() for g in bench.gradient]).numpy()
        found.append((jacobian, jacobian.T @ (share[:, None] * jacobian), gradient))
    return found


def vectors(bench: Bench, by_unit: list[Tensor]) -> np.ndarray:
    """[M, d] from what is given by unit."""
    count = bench.leader.count
    return torch.cat([v.reshape(count, -1) for v in by_unit], -1).numpy()


@every_leader
def test_directions_solve_the_explicit_fisher_matrix(kind):
    bench = Bench(LEADERS[kind](range(3)))
    fisher = bench.fisher()
    solved = fisher.solve(bench.push())
    found, change = vectors(bench, solved), fisher.along(solved)
    tolerance = 1e-3
    for m, (jacobian, matrix, gradient) in enumerate(explicit(bench)):
        expected = np.linalg.pinv(matrix, rcond=1e-6) @ gradient
        scale = np.abs(expected).max()
        np.testing.assert_allclose(found[m], expected, atol=tolerance * scale)
        moved = jacobian @ expected
        np.testing.assert_allclose(change[m].flatten(), moved, atol=tolerance * np.abs(moved).max())
        assert np.linalg.matrix_rank(matrix, 1e-6) < len(matrix) or kind == "box"


@every_leader
def test_products_are_those_of_the_explicit_fisher_matrix(kind):
    bench = Bench(LEADERS[kind](range(2)))
    draws = np.random.default_rng(1)
    vector = [torch.from_numpy(draws.normal(size=p.shape)) for p in bench.region.parameters]
    product, curvature = bench.fisher().product(vector)
    given, found = (vectors(bench, v) for v in (vector, product))
    for m, (_, matrix, _) in enumerate(explicit(bench)):
        expected = matrix @ given[m]
        np.testing.assert_allclose(found[m], expected, atol=1e-5 * np.abs(expected).max())
        whole = curvature.view(bench.leader.count, -1)[m].sum().item()
        assert whole == pytest.approx(given[m] @ expected, rel=1e-5)


def test_of_a_table_the_direction_is_the_advantage():
    bench = Bench(LEADERS["tabular"](range(3)))
    fisher = bench.fisher()
    share = bench.visits / (bench.visits + UNSEEN * bench.visits.mean(-1, keepdim=True))
    advantage = share.unsqueeze(-1) * bench.worth
    torch.testing.assert_close(fisher.along(fisher.solve(bench.push())), advantage)


@every_leader
def test_rounding_error_that_moves_nothing_is_not_blown_up(kind):
    """Of 1e-7 of the gradient, as where its terms all but cancel."""
    bench = Bench(LEADERS[kind](range(3)))
    push = bench.push()
    clean = bench.fisher().solve(push)
    noise = np.random.default_rng(0)
    dirty = [g + 1e-7 * g.norm() * torch.from_numpy(noise.normal(size=g.shape)) for g in push]
    found = bench.fisher().solve(dirty)
    for one, two in zip(clean, found, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-2 * one.abs().max().item())


def test_the_natural_step_does_not_depend_on_the_parametrisation():
    """Whichever way the logits are parametrised, the policy moves alike; by the gradient not."""
    seeds, ways = range(3), {}
    for name in ("natural-gradient", "trust-region"):
        ways[name] = [Bench(turned(turn, seeds), 1e-5).step(name) for turn in (0, 1)]
    one, two = (w / w.flatten(1).norm(dim=1)[:, None, None] for w in ways["natural-gradient"])
    torch.testing.assert_close(one, two, atol=1e-3, rtol=0)
    one, two = (w / w.flatten(1).norm(dim=1)[:, None, None] for w in ways["trust-region"])
    assert (one - two).abs().max() > 0.1


def test_with_two_choices_a_row_natural_and_plain_steps_are_one():
    for make in (LEADERS["box"], lambda seeds: TabularSoftmax(STATES, 2, seeds, std=1.0)):
        plain, natural = (
            Bench(make(range(3))).step(name) for name in ("trust-region", "natural-gradient")
        )
        torch.testing.assert_close(plain, natural)
        assert plain.abs().max() > 0.01


def test_with_three_they_differ():
    plain, natural = (
        Bench(LEADERS["tabular"](range(3))).step(name)
        for name in ("trust-region", "natural-gradient")
    )
    assert (plain - natural).abs().max() > 0.01


# ---------------------------------------------------------------- every optimiser


@every_optimiser
@every_leader
@pytest.mark.parametrize("sharpness", [1.0, 40.0, 300.0])
@pytest.mark.parametrize("radius", [1e-6, 0.3])
def test_no_step_is_longer_than_the_radius(name, kind, sharpness, radius):
    leader = LEADERS[kind](range(4))
    with torch.no_grad():
        for p in leader.parameters():
            p.mul_(sharpness)
    bench = Bench(leader, radius)
    old = [p.detach().clone() for p in leader.parameters()]
    bench.step(name)
    assert (divergence(bench.before, bench.position().detach()) <= 1.011 * radius + 1e-12).all()
    for p, q in zip(leader.parameters(), old, strict=True):
        assert torch.isfinite(p).all()
        assert (p - q).abs().max() <= LONGEST * 1.001


@every_optimiser
@every_leader
def test_every_step_gains(name, kind):
    """Its surrogate rises, and rises more where the radius is larger."""
    gains = []
    for radius in (1e-5, 1e-3):
        bench = Bench(LEADERS[kind](range(4)), radius)
        bench.step(name)
        after, before = bench.position().detach().exp(), bench.before.exp()
        gain = (bench.visits.unsqueeze(-1) * (after - before) * bench.worth).sum((1, 2))
        assert (gain > 0).all()
        gains.append(gain)
    assert (gains[1] > 3 * gains[0]).all()


@every_optimiser
@pytest.mark.parametrize("kind", ["tabular", "mlp", "budget"])
def test_leaders_of_one_batch_do_not_touch_each_other(name, kind):
    together = Bench(LEADERS[kind](range(3)), 0.05)
    together.step(name)
    for m in range(3):
        alone = Bench(LEADERS[kind](range(m, m + 1)), 0.05)
        alone.step(name)
        for p, q in zip(together.leader.parameters(), alone.leader.parameters(), strict=True):
            torch.testing.assert_close(p[m : m + 1], q, rtol=1e-4, atol=1e-5)


@every_optimiser
@every_leader
def test_no_gradient_no_movement(name, kind):
    bench = Bench(LEADERS[kind](range(2)))
    bench.gradient = [torch.zeros_like(g) for g in bench.gradient]
    assert not bench.step(name).any()


@every_optimiser
def test_a_gradient_of_rounding_error_moves_only_who_has_more(name):
    bench = Bench(LEADERS["tabular"](range(2)))
    bench.gradient[0][0] *= 1e-14
    floor = torch.full((2,), 1e-9, dtype=torch.float64)
    OPTIMISERS[name](bench.region, bench.gradient, bench.position, bench.visits, floor)
    moved = divergence(bench.before, bench.position().detach())
    assert moved[0] == 0
    assert moved[1] == pytest.approx(1e-3, rel=0.02)


@every_optimiser
@pytest.mark.parametrize("kind", ["tabular", "mlp"])
def test_a_state_that_is_never_visited_does_no_harm(name, kind):
    bench = Bench(LEADERS[kind](range(2)))
    visits = bench.visits.clone()
    visits[:, 0] = 0.0
    value = (visits.unsqueeze(-1) * bench.position().exp() * bench.worth).sum()
    bench.visits = visits
    bench.gradient = torch.autograd.grad(value, list(bench.leader.parameters()))
    step = bench.step(name)
    assert torch.isfinite(step).all()
    assert step[:, 1:].abs().max() > 0.01
    if kind == "tabular":
        assert not step[:, 0].any()


@every_optimiser
def test_a_saved_state_goes_on_as_it_would_have(name):
    benches = [Bench(LEADERS["budget"](range(2))) for _ in range(2)]
    for bench in benches:
        bench.step(name)
    saved = {key: tensor.clone() for key, tensor in benches[1].region.state().items()}
    benches[1].region = TrustRegion(list(benches[1].leader.parameters()), 0.1, 0.3)
    benches[1].region.load(saved)
    for bench in benches:
        bench.step(name)
    assert torch.equal(benches[0].leader.x, benches[1].leader.x)


def test_the_names_are_those_of_the_settings():
    assert list(OPTIMISERS) == list(get_args(Optimiser))


# ---------------------------------------------------------------- clipping


@every_leader
def test_the_clipped_surrogate_has_the_given_gradient(kind):
    """So that one epoch is one step of the trust region, by any leader."""
    bench = Bench(LEADERS[kind](range(3)))
    push, fisher = bench.push(), bench.fisher()
    again, _ = fisher.product(fisher.solve(push))
    tolerance = 1e-3 if kind == "mlp" else 1e-5
    for g, h in zip(push, again, strict=True):
        torch.testing.assert_close(g, h, atol=tolerance * g.abs().max().item(), rtol=0)


@every_leader
def test_one_epoch_is_a_step_of_the_trust_region(kind, monkeypatch):
    monkeypatch.setattr(optimisers, "EPOCHS", 1)
    plain, clipped = (Bench(LEADERS[kind](range(3))).step(name) for name in ("trust-region", "ppo"))
    torch.testing.assert_close(clipped, plain, rtol=1e-3, atol=1e-5)


@every_leader
def test_a_small_radius_leaves_nothing_to_clip(kind):
    plain, clipped = (
        Bench(LEADERS[kind](range(3)), 1e-7).step(name) for name in ("trust-region", "ppo")
    )
    one, two = (w / w.flatten(1).norm(dim=1)[:, None, None] for w in (plain, clipped))
    torch.testing.assert_close(one, two, rtol=0, atol=5e-3)


def test_beyond_the_clip_there_is_nothing_to_gain_but_all_to_lose():
    ratio = torch.tensor([0.5, 0.9, 1.0, 1.1, 1.5] * 2, dtype=torch.float64, requires_grad=True)
    advantage = torch.tensor([2.0] * 5 + [-2.0] * 5, dtype=torch.float64)
    value = optimisers.clipped(ratio, advantage)
    (slope,) = torch.autograd.grad(value.sum(), ratio)
    assert value.tolist() == [1.0, 1.8, 2.0, 2.2, 2.4, -1.6, -1.8, -2.0, -2.2, -3.0]
    assert slope.tolist() == [2.0, 2.0, 2.0, 2.0, 0.0, 0.0, -2.0, -2.0, -2.0, -2.0]


EVEN = {
    "tabular": lambda seeds: TabularSoftmax(STATES, 2, seeds),
    "box": lambda seeds: BoxDesign(spaces.Box(0.0, 1.0, (3,)), seeds, std=0.0),
}


@pytest.mark.parametrize("kind", sorted(EVEN))
def test_probabilities_gain_no_more_than_the_clip(kind, monkeypatch):
    """Between two even choices, however large the radius; but for one short step."""
    monkeypatch.setattr(optimisers, "EPOCHS", 200)
    beyond = {}
    for name in ("trust-region", "ppo"):
        change = Bench(EVEN[kind](range(20)), radius=0.3).step(name).exp() - 1
        beyond[name] = change.abs().amax((1, 2))
    assert (beyond["trust-region"] > 3 * CLIP).all()
    assert (beyond["ppo"] > 0.99 * CLIP).all()
    assert (beyond["ppo"] < 1.05 * CLIP).all()
