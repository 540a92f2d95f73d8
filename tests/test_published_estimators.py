"""The published estimators: against their own definitions in loops, and the exact hypergradient."""

import itertools
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from gymnasium import spaces
from random_games import (
    Rested,
    Sample,
    batches_of_play,
    layered_game,
    listed,
    paths_of,
    start_term,
    toy_case,
    with_true_critics,
)
from strategies import Recipe, random_design_game, random_designs, random_game, random_policies
from torch import Tensor

from agents import SoftQConfig, SoftQFollower
from agents.exact import ExactFollower
from agents.leaders import MLPCategorical, TabularSoftmax, default_leader
from games import discrete_toy, four_rooms
from games.tabular import TabularDesign
from stackelberg import Coordinator, InputError, TrainConfig, estimators, exact
from stackelberg.config import EstimatorName
from stackelberg.estimators import hpgd, sampled, zeroth_order
from stackelberg.hypergradient import remaining_sum
from stackelberg.probe import Probe
from stackelberg.rollout import Trajectories
from stackelberg.types import commit

KINDS = ("observing", "blind", "design")
SOBIRL = ("sobirl", "sobirl-modified")
PROBING = ("hpgd-oracle", "spsa", "es")


def parts_of(name: str, sample: Sample, **changes: Any) -> tuple[np.ndarray, np.ndarray]:
    """Gradients [M, coordinates] of the direct and of the indirect part."""
    evidence = with_evidence(sample, **changes)
    parts = estimators.estimator(name, evidence.game)(evidence, sample.commitment)
    return tuple(sample.gradients(part) for part in parts)


def with_evidence(sample: Sample, **changes: Any) -> estimators.Evidence:
    """The sample's evidence with other entries and the same critics."""
    evidence = replace(sample.evidence, **changes)
    evidence.__dict__["critics"] = sample.evidence.critics
    return evidence


def fresh_noise(sample: Sample) -> list[np.random.Generator]:
    return [np.random.default_rng([m, 8]) for m in range(len(sample.leaf))]


# ---------------------------------------------------------------- definitions, in loops


class Plain:
    """One batch of play in plain Python, with per-step signals as arrays of coordinates."""

    def __init__(self, sample: Sample, m: int, seen: Trajectories | None = None) -> None:
        evidence = sample.evidence
        seen = evidence.trajectories if seen is None else seen
        game, critics = evidence.game, evidence.critics
        self.game, self.sees = game, False
        self.gamma_l, self.gamma_f = game.leader_discount, game.follower_discount
        self.beta = game.temperature
        table = {name: getattr(critics, name)[m].numpy() for name in critics._fields}
        self.delta, self.g, self.table = table["benefit"], table["response"], table
        self.episodes: list[list[dict]] = []
        if sample.commitment.design is None:
            self.sees, signals = game.follower_observes_action, self._policy_signals
        else:
            self._jacobians(sample, m)
            signals = self._design_signals
        for n in range(seen.state.shape[1]):
            for t in range(seen.state.shape[2]):
                row = {k: getattr(seen, k)[m, n, t].item() for k in seen.parts()}
                s, a, b = row["state"], row["leader_action"], row["follower_action"]
                row |= {"cell": (s, a, b), "x": (s, a) if self.sees else (s,)}
                row["c"] = (*row["x"], b)
                row["own"], row["psi"] = signals(row)
                if row["time"] == 0:
                    self.episodes.append([])
                self.episodes[-1].append(row)
        self.rows = [row for episode in self.episodes for row in episode]
        first = 1 if self.sees else 0
        for episode in self.episodes:
            for t, row in enumerate(episode):
                rest = list(enumerate(episode))[t:]
                row["tail"] = sum(
                    (self.gamma_f ** (k - t) * later["psi"] for k, later in rest[first:]),
                    0 * row["psi"],
                )
                row["whole"] = sum(self.gamma_f ** (k - t) * later["psi"] for k, later in rest)
                row["return"] = sum(
                    self.gamma_l ** (k - t) * later["leader_reward"] for k, later in rest
                )
                row["weight"] = self.gamma_l**t

    def _policy_signals(self, row: dict) -> tuple[np.ndarray, np.ndarray]:
        """(direct, follower) signal: the score of a softmax times advantages."""
        (s, a, b), f = row["cell"], self.table["policy"]
        score = np.zeros_like(f)
        score[s] = (np.arange(f.shape[1]) == a) - f[s]
        v_leader, v_follower = self.table["leader_value"][s], self.table["follower_value"][s]
        q = self.table["follower_action_value"][s, :, b]
        worth = v_follower if self.sees else q
        own = score.ravel() * (v_leader[a] - f[s] @ v_leader)
        row["score"] = score.ravel()
        return own, score.ravel() * (worth[a] - f[s] @ worth)

    def _jacobians(self, sample: Sample, m: int) -> None:
        """Of rewards [2, S, B, d] and of transitions, going on and ending, [2, S, B, S, d]."""
        model = self.game.model

        def jacobian(name: str) -> np.ndarray:
            x = sample.leaf[m].detach()
            value = getattr(model(x[None]), name)
            if value is None:
                return np.zeros(1)
            return torch.autograd.functional.jacobian(
                lambda y: getattr(model(y[None]), name).flatten(), x
            ).numpy()

        one = model(sample.leaf[m : m + 1].detach())
        states, actions = one.states, one.follower_actions
        self.d_reward = [
            jacobian(name).reshape(states, actions, -1)
            for name in ("leader_reward", "follower_reward")
        ]
        self.kernels = [
            (
                part.numpy().reshape(states, actions, states),
                jacobian(name).reshape(states, actions, states, -1),
            )
            for name, part in (("transition", one.transition), ("ending", one.ending))
            if part is not None
        ]

    def _design_signals(self, row: dict) -> tuple[np.ndarray, np.ndarray]:
        s, _, b = row["cell"]
        chance, moved = self.kernels[-1 if row["terminated"] else 0]
        score = moved[s, b, row["next_state"]] / chance[s, b, row["next_state"]]
        found = []
        for who, slope, gamma in zip(
            ("leader", "follower"), self.d_reward, (self.gamma_l, self.gamma_f), strict=True
        ):
            value = self.table[f"{who}_state_value"]
            arrived = 0.0 if row["terminated"] else value[row["next_state"]]
            expected = self.kernels[0][0][s, b] @ value
            found.append(slope[s, b] + gamma * score * (arrived - expected))
        mean = (self.g[s, 0][:, None] * self.d_reward[1][s]).sum(0)
        row["met"] = self.d_reward[1][s, b] - mean
        return tuple(found)

    def mean(self, key: str, of: str) -> dict:
        """The mean of `of` over the visits of each value of `key`; 0 where there are none."""
        groups = defaultdict(list)
        for row in self.rows:
            groups[row[key]].append(row[of])
        return defaultdict(float, {k: sum(v) / len(v) for k, v in groups.items()})

    def over(self, terms: list) -> np.ndarray:
        return sum(terms) / len(self.episodes)

    @property
    def direct(self) -> np.ndarray:
        return self.over([row["weight"] * row["own"] for row in self.rows])


def define_hpgd_mc(batch: Plain, means: Plain | None = None) -> np.ndarray:
    from_ = batch if means is None else means
    q_l, v_l = from_.mean("c", "return"), from_.mean("x", "return")
    q_f, v_f = from_.mean("c", "tail"), from_.mean("x", "tail")
    return batch.over(
        [
            r["weight"] * (q_l[r["c"]] - v_l[r["x"]]) * (q_f[r["c"]] - v_f[r["x"]]) / batch.beta
            + 0 * r["tail"]
            for r in batch.rows
        ]
    )


def define_hpgd_sarsa(batch: Plain) -> np.ndarray:
    q, v = batch.mean("c", "tail"), batch.mean("x", "tail")
    return batch.over(
        [
            r["weight"] * batch.delta[r["cell"]] * (q[r["c"]] - v[r["x"]]) / batch.beta
            for r in batch.rows
        ]
    )


def define_hpgd_td(batch: Plain) -> np.ndarray:
    """The vector critic by repeated TD backups over the sample; it stands for what is cut."""
    states, table = len(batch.delta), batch.table
    critic = np.zeros((states, len(batch.rows[0]["psi"])))
    for _ in range(400):
        targets = defaultdict(list)
        for r in batch.rows:
            follows = 0 if r["terminated"] else critic[r["next_state"]]
            targets[r["state"]].append(r["psi"] + batch.gamma_f * follows)
        for s, found in targets.items():
            critic[s] = np.mean(found, 0)
    for r in batch.rows:
        follows = 0 * r["psi"] if r["terminated"] else critic[r["next_state"]]
        r["later"] = batch.gamma_f * follows
    later = batch.mean("x", "later")
    for episode in batch.episodes:
        end = episode[-1]
        left = 0 * end["psi"] if end["terminated"] else critic[end["next_state"]]
        for t, r in enumerate(episode):
            r["full tail"] = r["tail"] + batch.gamma_f ** (len(episode) - t) * left
    f, q_leader, terms = table["policy"], table["leader_action_value"], []
    for r in batch.rows:
        s, _, b = r["cell"]
        q = q_leader[r["cell"]] if batch.sees else f[s] @ q_leader[s, :, b]
        baseline = later[r["x"]] if batch.sees else critic[s]
        terms.append(r["weight"] * q * (r["full tail"] - baseline) / batch.beta)
    return batch.over(terms)


def define_bc_hg(batch: Plain) -> np.ndarray:
    """Of designs."""
    q = batch.mean("c", "tail")
    return batch.over(
        [r["weight"] * batch.delta[r["cell"]] * q[r["c"]] / batch.beta for r in batch.rows]
    )


def define_sobirl(batch: Plain) -> np.ndarray:
    q = batch.mean("c", "return")
    return batch.over(
        [q[e[0]["c"]] * sum(r["met"] for r in e) / batch.beta for e in batch.episodes]
    )


def define_sobirl_modified(batch: Plain) -> np.ndarray:
    q = batch.mean("c", "return")
    return batch.over([r["weight"] * q[r["c"]] * r["met"] / batch.beta for r in batch.rows])


DEFINITIONS = {
    "hpgd-mc": define_hpgd_mc,
    "hpgd-sarsa": define_hpgd_sarsa,
    "hpgd-td": define_hpgd_td,
    "bc-hg": define_bc_hg,
    "sobirl": define_sobirl,
    "sobirl-modified": define_sobirl_modified,
}
DEFINED = [
    (name, kind)
    for name, kind in itertools.product(DEFINITIONS, KINDS)
    if kind == "design" or not name.startswith(("bc-hg", "sobirl"))
]


def some_play(kind: str, seed: int, ends: bool = True, moves: bool = True) -> Sample:
    """Two batches of three streams in which states and choices recur."""
    recipe = Recipe(
        seed=seed,
        states=3,
        follower_actions=3,
        termination="anywhere" if ends else "never",
        leader_discount=0.9,
        follower_discount=0.7,
        observes=kind == "observing",
        moves_transition=moves,
    )
    if kind == "design":
        game = random_design_game(recipe)
        point = random_designs(game, 1, seed)[0]
    else:
        game = random_game(recipe)
        point = random_policies(1, 3, 2, seed=seed)[0].clamp(min=0.05).log()
    game.horizon = 7
    seen = batches_of_play(game, point, batches=2, streams=3, steps=20, seed=seed)
    return with_true_critics(game, point, seen)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("name", "kind"), DEFINED)
def test_estimators_are_their_definitions(name, kind, seed):
    """Sums over visits and tails, exactly as they are written down."""
    sample = some_play(kind, seed, ends=seed % 2 > 0, moves=name not in SOBIRL)
    direct, indirect = parts_of(name, sample)
    for m in range(2):
        batch = Plain(sample, m)
        np.testing.assert_allclose(direct[m], batch.direct, rtol=1e-9, atol=1e-12)
        expected = DEFINITIONS[name](batch)
        assert np.abs(expected).max() > 1e-6
        np.testing.assert_allclose(indirect[m], expected, rtol=1e-8, atol=1e-11)


class Given:
    """In place of a probe: other play that is already there."""

    def __init__(self, far: Trajectories) -> None:
        self.far = far

    def play(self, steps: int, initial: Tensor) -> Trajectories:
        assert steps == 10_000
        torch.testing.assert_close(initial, torch.full_like(initial, 1 / len(initial)))
        return self.far


@pytest.mark.parametrize("kind", KINDS)
def test_hpgd_oracle_is_its_definition(kind):
    """Also where the other play is shorter than the play and has not been everywhere."""
    for seed in range(3):
        sample = some_play(kind, seed)
        game, point = sample.evidence.game, sample.leaf[0].detach()
        far = batches_of_play(game, point, batches=2, streams=2, steps=6, seed=seed + 50)
        direct, indirect = parts_of("hpgd-oracle", sample, probe=Given(far))
        for m in range(2):
            batch, means = Plain(sample, m), Plain(sample, m, far)
            assert {r["c"] for r in batch.rows} - {r["c"] for r in means.rows}
            expected = define_hpgd_mc(batch, means)
            np.testing.assert_allclose(direct[m], batch.direct, rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(indirect[m], expected, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("kind", KINDS[:2])
def test_bc_hg_of_policies_is_its_definition(kind):
    """Sixty-four steps drawn by inversion of the discounts, each with its recorded tail."""
    for seed in range(3):
        sample = some_play(kind, seed)
        direct, indirect = parts_of("bc-hg", sample, noise=fresh_noise(sample))
        for m, noise in enumerate(fresh_noise(sample)):
            batch = Plain(sample, m)
            total = sum(r["weight"] for r in batch.rows)
            bounds = list(itertools.accumulate(r["weight"] for r in batch.rows))
            drawn = []
            for u in noise.random(64):
                drawn.append(
                    next(r for r, b in zip(batch.rows, bounds, strict=True) if b > u * total)
                )
            scale = total / len(batch.episodes) / 64
            expected = scale * sum(batch.delta[r["cell"]] * r["whole"] for r in drawn) / batch.beta
            own = scale * sum(r["own"] for r in drawn)
            np.testing.assert_allclose(direct[m], own, rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(indirect[m], expected, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("kind", KINDS[:2])
def test_bi_ac_is_its_definition(kind):
    """Its critic by repeated backups over s, a, b; no indirect part."""
    for seed in range(3):
        sample = some_play(kind, seed)
        model, g = sample.evidence.game.model(), sample.evidence.critics.response[0].numpy()
        reward, kernel = model.leader_reward.numpy(), model.transition.numpy()
        states, leader_actions, _ = reward.shape
        q = np.zeros(reward.shape)
        for _ in range(400):
            best = [
                max(q[t, a, g[t, a].argmax()] for a in range(leader_actions)) for t in range(states)
            ]
            for s, a, b in np.ndindex(*reward.shape):
                q[s, a, b] = reward[s, a, b] + 0.9 * sum(
                    kernel[s, a, b, t] * best[t] for t in range(states)
                )
        f, worth = sample.evidence.critics.policy[0].numpy(), (g * q).sum(-1)
        direct, indirect = parts_of("bi-ac", sample)
        assert not indirect.any()
        for m in range(2):
            batch = Plain(sample, m)
            expected = batch.over(
                [
                    r["weight"] * r["score"] * (worth[s][a] - f[s] @ worth[s])
                    for r in batch.rows
                    for s, a, _ in [r["cell"]]
                ]
            )
            np.testing.assert_allclose(direct[m], expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("seed", range(20))
def test_remaining_sum_is_its_recursion(seed):
    rng = np.random.default_rng(seed)
    length, decay = int(rng.integers(1, 400)), float(rng.choice([0.0, 0.7, 0.99, 1.0]))
    drive, fresh = rng.normal(size=(2, length)), rng.random((2, length)) < rng.choice([0.0, 0.1])
    fresh[:, 0] = True
    time, expected = np.zeros((2, length), int), np.zeros((2, length))
    for n in range(2):
        for k in range(1, length):
            time[n, k] = 0 if fresh[n, k] else time[n, k - 1] + 1
        for k in reversed(range(length)):
            goes_on = k + 1 < length and not fresh[n, k + 1]
            expected[n, k] = drive[n, k] + (decay * expected[n, k + 1] if goes_on else 0)
    found = remaining_sum(torch.from_numpy(drive), torch.from_numpy(time), decay)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-11)


# ---------------------------------------------------------------- against the exact hypergradient


def whole(sample: Sample, *parts: np.ndarray) -> np.ndarray:
    """The parts together, with what a moved start adds."""
    total = sum(parts)
    if sample.evidence.game.leader_moves == "once":
        total = total + sample.gradients(start_term(sample))
    return total


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_bc_hg_is_unbiased_to_the_last_digit(kind, seed, monkeypatch):
    """Over all paths; the drawn shares are replaced by their expectation."""
    monkeypatch.setattr(
        sampled, "_drawn_shares", lambda _, weight: weight / weight.sum((1, 2), keepdim=True)
    )
    sample, chance = listed(kind, seed)
    found = chance @ whole(sample, *parts_of("bc-hg", sample))
    np.testing.assert_allclose(found, sample.exact, atol=1e-9 * np.abs(sample.exact).max())


def test_drawn_shares_have_the_weights_as_their_mean():
    """64 draws a leader, 4000 leaders: |z| < 4 at every step of play."""
    sample = some_play("observing", 0)
    weight = torch.rand(1, 3, 20, dtype=torch.float64, generator=torch.manual_seed(0)) + 0.2
    noise = [np.random.default_rng([m, 8]) for m in range(4000)]
    evidence = with_evidence(sample, noise=noise)
    shares = sampled._drawn_shares(evidence, weight.expand(4000, -1, -1))
    torch.testing.assert_close(shares.sum((1, 2)), torch.ones(4000, dtype=torch.float64))
    expected = weight[0] / weight.sum()
    z = (shares.mean(0) - expected) / (shares.std(0) / 4000**0.5)
    assert z.abs().max() < 4


@pytest.mark.parametrize("kind", KINDS[:2])
def test_bc_hg_is_unbiased_with_its_draws(kind):
    """On every coordinate of five games, |z| < 4."""
    for seed in range(5):
        sample, _ = sampled_paths(kind, seed, batches=2000, episodes=4)
        found = whole(sample, *parts_of("bc-hg", sample))
        spread = found.std(0, ddof=1) / len(found) ** 0.5
        error = np.abs(found.mean(0) - sample.exact)
        assert (error <= 4 * spread + 1e-12).all(), (seed, error / spread)


@pytest.mark.parametrize("seed", range(3))
def test_modified_sobirl_is_unbiased_for_a_follower_that_lives_for_the_moment(seed):
    """Single episodes, in which qhat_L is the episode's own return: to the last digit."""
    game, point = layered_game("design", seed)
    moving = game.inner.model
    game.follower_discount = game.inner.follower_discount = 0.0

    def still(design: Tensor) -> Any:  # only rewards move
        model = moving(design)
        fixed = moving(torch.zeros_like(design[:1]))
        return replace(
            model, transition=fixed.transition, ending=fixed.ending, follower_discount=0.0
        )

    game.inner.model, game.start = still, None
    game.inner.simulated_model = still
    paths = paths_of(game, point)
    sample = with_true_critics(game, point, paths.trajectories)
    direct, indirect = parts_of("sobirl-modified", sample)
    scale = np.abs(sample.exact).max()
    assert np.abs(paths.chance @ indirect).max() > 0.01 * scale
    np.testing.assert_allclose(paths.chance @ (direct + indirect), sample.exact, atol=1e-9 * scale)


def sampled_paths(
    kind: str, seed: int, *, batches: int, episodes: int
) -> tuple[Sample, tuple[Rested, Tensor]]:
    """Batches of whole episodes of a layered game, drawn from the list of its paths."""
    game, point = layered_game(kind, seed)
    paths = paths_of(game, point)
    rng = np.random.default_rng([seed, 10])
    drawn = rng.choice(len(paths.chance), (batches, episodes), p=paths.chance / paths.chance.sum())
    seen = paths.trajectories.map(lambda part: part[:, 0][drawn])
    return with_true_critics(game, point, seen), (game, point)


CONSISTENT = [
    *itertools.product(("hpgd-mc", "hpgd-sarsa", "hpgd-td"), KINDS),
    ("bc-hg", "design"),
]


@pytest.mark.parametrize(("name", "kind"), CONSISTENT)
def test_averages_over_visits_lead_to_the_exact_hypergradient(name, kind):
    """True critics: from 16 to 1024 episodes the error falls as the root of their number."""
    ratios, left = [], []
    for seed in range(4):
        errors = []
        for episodes in (16, 1024):
            sample, _ = sampled_paths(kind, seed, batches=24, episodes=episodes)
            found = whole(sample, *parts_of(name, sample))
            errors.append(((found - sample.exact) ** 2).sum(-1).mean() ** 0.5)
        ratios.append(errors[0] / errors[1])
        left.append(errors[1] / np.linalg.norm(sample.exact))
    assert 4 < np.median(ratios) < 16, ratios
    assert np.median(left) < 0.35, left


@pytest.mark.parametrize("kind", KINDS)
def test_hpgd_td_bootstraps_what_is_cut(kind):
    """The follower looks beyond the cut: the error falls as the root of the streams."""
    errors = np.zeros((2, 4))
    for seed in range(4):
        recipe = Recipe(seed=seed, states=3, leader_discount=0.6, follower_discount=0.95)
        if kind == "design":
            game = random_design_game(recipe)
            point = random_designs(game, 1, seed)[0]
        else:
            game = random_game(replace(recipe, observes=kind == "observing"))
            point = random_policies(1, 3, 2, seed=seed)[0].clamp(min=0.05).log()
        game.horizon = 20
        for i, streams in enumerate((30, 960)):
            seen = batches_of_play(game, point, batches=16, streams=streams, steps=20, seed=seed)
            sample = with_true_critics(game, point, seen)
            found = sum(parts_of("hpgd-td", sample))
            errors[i, seed] = ((found - sample.exact) ** 2).sum(-1).mean() ** 0.5
        errors[:, seed] /= np.linalg.norm(sample.exact)
    assert np.median(errors[1]) < 0.3, errors
    assert 3 < np.median(errors[0] / errors[1]) < 10, errors


@pytest.mark.parametrize("kind", KINDS)
def test_hpgd_oracle_leads_to_the_exact_hypergradient(kind, monkeypatch):
    """With a real probe; both kinds of play grow."""
    ratios = []
    for seed in range(3):
        errors = []
        for episodes in (16, 1024):
            sample, (game, _) = sampled_paths(kind, seed, batches=16, episodes=episodes)
            monkeypatch.setattr(hpgd, "ORACLE_STEPS", 60 * episodes)
            game.horizon = 4
            found = whole(sample, *parts_of("hpgd-oracle", sample, probe=probe_of(sample)))
            errors.append(((found - sample.exact) ** 2).sum(-1).mean() ** 0.5)
        ratios.append(errors[0] / errors[1])
    assert 4 < np.median(ratios) < 16, ratios


def probe_of(sample: Sample, follower: Any = None, **settings: Any) -> Probe:
    evidence = sample.evidence
    count = len(sample.leaf)
    return Probe(
        game=evidence.game,
        leader=evidence.leader,
        follower=ExactFollower() if follower is None else follower,
        response=evidence.follower._response,
        access="value",
        generators=lambda draw: [np.random.default_rng([m, 11, draw]) for m in range(count)],
        **{"streams": 3, "length": evidence.game.horizon} | settings,
    )


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_gradient_critic_is_the_expected_trace(kind, learned):
    """The forward and the backward form of one derivative, whatever the model."""
    for seed in range(6):
        sample = some_play(kind, seed, ends=seed % 2 > 0, moves=seed % 3 > 0)
        evidence = sample.learned() if learned else sample.evidence
        forward = estimators.gradient_critic(evidence, sample.commitment)
        backward = estimators.expected_trace(evidence, sample.commitment)
        scale = np.abs(sample.gradients(*backward)).max()
        for one, other in zip(forward, backward, strict=True):
            found, expected = sample.gradients(one), sample.gradients(other)
            assert np.abs(expected).max() > 1e-3 * scale
            np.testing.assert_allclose(found, expected, atol=1e-8 * scale)
        if not learned:
            found = sample.gradients(*forward)
            np.testing.assert_allclose(found, [sample.exact] * 2, atol=1e-8 * scale)


def test_gradient_critic_is_the_expected_trace_in_four_rooms():
    game = four_rooms.game()
    point = torch.full((len(four_rooms.CELLS),), 0.2 / 105, dtype=torch.float64)
    seen = batches_of_play(game, point, batches=1, streams=3, steps=200)
    sample = with_true_critics(game, point, seen)
    evidence = sample.learned()
    forward, backward = (
        sample.gradients(*estimate(evidence, sample.commitment))
        for estimate in (estimators.gradient_critic, estimators.expected_trace)
    )
    np.testing.assert_allclose(forward, backward, atol=1e-8 * np.abs(backward).max())


@pytest.mark.parametrize("name", ["expected-trace", "sampled-trace", "gae", *DEFINITIONS])
def test_a_design_is_evaluated_once(name, monkeypatch):
    """However many terms an estimate has."""
    sample, asked = some_play("design", 0, moves=name not in SOBIRL), []
    model = sample.evidence.game.model
    monkeypatch.setattr(
        sample.evidence.game, "model", lambda design: asked.append(design) or model(design)
    )
    estimators.estimator(name, sample.evidence.game)(sample.evidence, sample.commitment)
    assert len(asked) == 1


# ---------------------------------------------------------------- biased ones


def indifferent_design(moves: bool) -> tuple[TabularDesign, Tensor]:
    """The design adds to follower rewards, the same for all actions, or not."""
    rng = np.random.default_rng(0)
    base, slope = rng.normal(size=(4, 3)), rng.normal(size=(2, 4, 3 if moves else 1))
    shift = torch.from_numpy(np.broadcast_to(slope, (2, 4, 3)).copy())
    game = TabularDesign(
        spaces.Box(-1.0, 1.0, (2,), np.float64),
        rng.dirichlet(np.ones(4), (4, 3)),
        rng.normal(size=(4, 3)),
        lambda x: torch.from_numpy(base) + torch.tensordot(x, shift, 1),
        temperature=0.5,
    )
    return game, torch.tensor([0.3, -0.2], dtype=torch.float64)


@pytest.mark.parametrize("name", SOBIRL)
def test_sobirl_is_naive_where_rewards_move_alike_for_all_actions(name):
    """Though the exact indirect term is not 0; where they move apart it is not naive."""
    for moves in (False, True):
        game, point = indifferent_design(moves)
        seen = batches_of_play(game, point, batches=3, streams=3, steps=40)
        sample = with_true_critics(game, point, seen)
        direct, indirect = parts_of(name, sample)
        assert np.abs(sample.exact).max() > 0.1
        assert not direct.any()  # leader rewards do not move
        if moves:
            assert np.abs(indirect).max() > 0.1
        else:
            np.testing.assert_allclose(indirect, 0, atol=1e-12)
    game, point = four_rooms.game(), torch.zeros(len(four_rooms.CELLS), dtype=torch.float64)
    sample = with_true_critics(
        game, point + 1e-3, batches_of_play(game, point + 1e-3, batches=1, streams=3, steps=200)
    )
    np.testing.assert_allclose(parts_of(name, sample)[1], 0, atol=1e-9)


def test_bi_ac_is_biased_on_discrete_toy():
    """At the uniform leader it finds no reason to open A, where the exact slope is 4.3."""
    game, point = toy_case(0.5)
    seen = batches_of_play(game, point, batches=200, streams=4, steps=930)
    sample = with_true_critics(game, point, seen)
    row = 2 * discrete_toy.A + discrete_toy.CLOSE
    found = sum(parts_of("bi-ac", sample))[:, row]
    assert sample.exact[row] == pytest.approx(-4.3385, abs=1e-3)
    assert abs(found.mean() - sample.exact[row]) > 20 * found.std() / len(found) ** 0.5
    assert abs(found.mean()) < 0.1 * abs(sample.exact[row])


def test_bi_ac_is_unbiased_where_nothing_follows():
    """Both discounts 0, and a follower that sees the leader's action."""
    game = random_game(Recipe(seed=3, states=3, leader_discount=0.0, follower_discount=0.0))
    point = random_policies(1, 3, 2, seed=3)[0].clamp(min=0.05).log()
    game.horizon = 1
    seen = batches_of_play(game, point, batches=500, streams=2, steps=30)
    sample = with_true_critics(game, point, seen)
    found = sum(parts_of("bi-ac", sample))
    spread = found.std(0, ddof=1) / len(found) ** 0.5
    assert (np.abs(found.mean(0) - sample.exact) <= 4 * spread + 1e-12).all()


# ---------------------------------------------------------------- differences of returns


class Smooth:
    """In place of a probe: the exact objective, or any function, of the displaced leader."""

    def __init__(self, sample: Sample, value: Callable[[Tensor], Tensor] | None = None) -> None:
        self.sample, self.value, self.asked = sample, value, []

    @torch.no_grad()
    def returns(self, displacements: list[Tensor], draw: int = 0) -> Tensor:
        evidence, (u,) = self.sample.evidence, displacements
        self.asked.append((u, draw))
        point = evidence.leader.point + u
        if self.value is not None:
            return self.value(point)
        design = point if evidence.commitment.design is not None else None
        policy = torch.softmax(point, -1) if design is None else evidence.commitment.policy
        return exact.objective(evidence.game.model(design), policy)


def many(kind: str, seed: int, count: int) -> Sample:
    """As many leaders at the same point, with noise of their own."""
    sample = some_play(kind, seed)
    seen = sample.evidence.trajectories.map(lambda part: part[:1].expand(count, -1, -1))
    return with_true_critics(sample.evidence.game, sample.leaf[0].detach(), seen)


@pytest.mark.parametrize("name", ["spsa", "es"])
@pytest.mark.parametrize("kind", KINDS)
def test_differences_are_unbiased_for_small_steps(name, kind, monkeypatch):
    """Of the exact objective, 3000 leaders: |z| < 4 on every coordinate."""
    monkeypatch.setattr(zeroth_order, "SPSA_STEP", 1e-4)
    monkeypatch.setattr(zeroth_order, "ES_STEP", 1e-4)
    sample = many(kind, 1, 3000)
    direct, indirect = parts_of(name, sample, probe=Smooth(sample))
    assert not indirect.any()
    error = np.abs(direct.mean(0) - sample.exact)
    assert (error < 4 * direct.std(0) / len(direct) ** 0.5 + 1e-6).all()


@pytest.mark.parametrize(
    ("name", "directions", "draw"),
    [
        ("spsa", 1, lambda g, shape: g.choice([-1.0, 1.0], shape)),
        ("es", 8, lambda g, shape: g.normal(size=shape)),
    ],
)
def test_differences_are_their_definitions(name, directions, draw):
    """On a cubic, with steps of 0.1; both sides of a pair draw the same."""
    sample = many("design", 0, 3)
    slope = torch.randn(2, dtype=torch.float64, generator=torch.manual_seed(1))
    probe = Smooth(sample, lambda x: (x @ slope + 2.0) ** 3)
    noise = [np.random.default_rng([m, 8]) for m in range(3)]
    direct, _ = parts_of(name, sample, probe=probe, noise=noise)
    again, point = [np.random.default_rng([m, 8]) for m in range(3)], sample.leaf[0].detach()
    for m, g in enumerate(again):
        expected = np.zeros(2)
        for _ in range(directions):
            u = draw(g, (2,))
            sides = [
                float((point.numpy() + sign * 0.1 * u) @ slope.numpy() + 2.0) ** 3
                for sign in (1, -1)
            ]
            expected += u * (sides[0] - sides[1]) / 0.2 / directions
        np.testing.assert_allclose(direct[m], expected, rtol=1e-9)
    assert [draw for _, draw in probe.asked] == [k for k in range(directions) for _ in "+-"]
    for (ahead, _), (behind, _) in itertools.pairwise(probe.asked[:2]):
        torch.testing.assert_close(ahead, -behind)


# ---------------------------------------------------------------- the probe


@pytest.mark.parametrize("kind", KINDS)
def test_probe_estimates_the_objective_of_the_displaced_leader(kind):
    """Within 4 standard errors in episodes long enough."""
    sample = many(kind, 2, 1500)
    sample.evidence.game.horizon = 60
    probe = probe_of(sample, streams=2, length=60)
    displacement = 0.4 * torch.ones_like(sample.leaf[:1]).cumsum(1).expand(sample.leaf.shape)
    displacement = displacement * torch.linspace(-1, 1, sample.leaf.shape[-1]).double()
    found = probe.returns([displacement])
    expected = Smooth(sample).returns([displacement])[0]
    still = Smooth(sample).returns([0 * displacement])[0]
    spread = found.std() / len(found) ** 0.5
    assert abs(found.mean() - expected) < 4 * spread
    assert abs(still - expected) > 8 * spread
    assert probe.steps == {"leader": 120, "follower": 0}


def small_soft_q() -> SoftQFollower:
    return SoftQFollower(SoftQConfig(first_steps=512, later_steps=256, copies=16, updates=30))


@pytest.mark.parametrize("make", [ExactFollower, lambda: ExactFollower(2), small_soft_q])
def test_probe_leaves_leader_and_follower_as_they_were(make):
    """Also when the displaced leader fails; equal draws give equal returns, others do not."""
    game, follower = discrete_toy.game(), make()
    leader = TabularSoftmax(3, 2, (0,), std=1.0)
    commitment = commit(game, leader).detach()
    response = follower.best_respond(game, commitment, [1])
    probe = Probe(
        game=game,
        leader=leader,
        follower=follower,
        response=response,
        access="value",
        streams=2,
        length=50,
        generators=lambda draw: [np.random.default_rng([5, draw])],
    )
    before = [p.clone() for p in leader.parameters()]
    state = {k: v.clone() for k, v in follower.state().items()}
    assert state
    u = [torch.full_like(leader.logits, 1.0).cumsum(-1).flip(-1)]  # opens
    first, again, other = (probe.returns(u, draw) for draw in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    with pytest.raises(RuntimeError):
        probe.returns([torch.ones(7, 7)])
    assert all(torch.equal(p, q) for p, q in zip(leader.parameters(), before, strict=True))
    now = follower.state()
    assert state.keys() == now.keys()
    assert all(torch.equal(state[k], now[k]) for k in state)
    assert probe.steps["leader"] == 300
    assert (probe.steps["follower"] > 0) == (make is small_soft_q)


def test_probe_plays_from_elsewhere():
    sample = many("observing", 0, 2)
    probe = probe_of(sample)
    seen = probe.play(3000, torch.tensor([0.0, 0.25, 0.75], dtype=torch.float64))
    assert seen.steps == probe.steps["leader"] == 3003  # whole episodes of 7 steps
    starts = seen.state[seen.time == 0]
    shares = torch.bincount(starts, minlength=3) / len(starts)
    assert shares[0] == 0
    assert shares[2] == pytest.approx(0.75, abs=4 * (0.19 / len(starts)) ** 0.5)


def test_estimators_that_need_a_probe_say_so():
    sample = some_play("observing", 0)
    for name in PROBING:
        with pytest.raises(InputError, match=r"expected a probe .*; got evidence without one"):
            parts_of(name, sample)


# ---------------------------------------------------------------- all of them, in training


@dataclass(frozen=True)
class Setting:
    game: Any
    follower: Callable = ExactFollower
    seeds: tuple[int, ...] = (3, 4)
    leader: Callable = default_leader

    def run(self, name: str, iterations: int = 2, stop: int | None = None, **options: Any):
        config = TrainConfig(
            iterations=iterations,
            estimator=name,
            steps=30,
            evaluation_episodes=2,
            radius=0.01,
            checkpoint_every=1,
        )
        leader = self.leader(self.game, self.seeds)
        coordinator = Coordinator(
            self.game, leader, self.follower(), config, seeds=self.seeds, **options
        )

        def report(row: dict) -> None:
            if row["iteration"] == stop:
                raise Crash

        result = coordinator.run(report)
        return result, [p.detach().clone() for p in leader.parameters()]


class Crash(Exception):
    pass


POLICY = Setting(random_game(Recipe(seed=2)))
REWARDS = Setting(random_design_game(Recipe(seed=4, moves_transition=False)))
MOVING = Setting(random_design_game(Recipe(seed=4)))


def network(game: Any, seeds: tuple[int, ...]) -> MLPCategorical:
    return MLPCategorical(game.states, game.leader_space.n, (8,), seeds)


NETWORK = replace(POLICY, leader=network)
REFUSED = {
    "policy": (POLICY, dict.fromkeys(SOBIRL, "a design of follower rewards")),
    "network": (NETWORK, dict.fromkeys(SOBIRL, "a design of follower rewards")),
    "rewards": (REWARDS, {"bi-ac": "the leader moves at every step"}),
    "moving": (
        MOVING,
        {"bi-ac": "the leader moves at every step"} | dict.fromkeys(SOBIRL, "no transitions"),
    ),
}


@pytest.mark.parametrize("setting", REFUSED)
@pytest.mark.parametrize("name", list(estimators.ESTIMATORS))
def test_every_estimator_trains_or_is_refused(name, setting, monkeypatch):
    monkeypatch.setattr(hpgd, "ORACLE_STEPS", 200)
    where, refused = REFUSED[setting]
    if name in refused:
        with pytest.raises(InputError, match=f"(?s)^expected .*{refused[name]}.*; got .+; use"):
            where.run(name)
        return
    result, parameters = where.run(name)
    start = list(where.leader(where.game, where.seeds).parameters())
    for now, then in zip(parameters, start, strict=True):
        assert torch.isfinite(now).all()
        assert not torch.equal(now, then)
    per_iteration = 90 + {"hpgd-oracle": 200, "spsa": 2 * 90, "es": 16 * 90}.get(name, 0)
    assert [row["leader_steps"] for row in result.metrics] == [per_iteration, 2 * per_iteration]
    assert result.summary["env_steps"] == {"leader": 2 * per_iteration, "follower": 0}


def test_the_followers_own_steps_in_a_probe_count():
    """The same run with and without probing: spsa trains the follower three times an iteration."""
    setting = replace(POLICY, follower=small_soft_q, seeds=(1,))
    steps = {
        name: setting.run(name, iterations=1)[0].summary["env_steps"]["follower"]
        for name in ("naive", "spsa")
    }
    assert steps["spsa"] > steps["naive"] > 0


@pytest.mark.parametrize("name", ["bc-hg", *PROBING])
@pytest.mark.parametrize("setting", [POLICY, REWARDS], ids=["policy", "design"])
def test_a_resumed_run_draws_what_an_uninterrupted_one_does(tmp_path, name, setting, monkeypatch):
    monkeypatch.setattr(hpgd, "ORACLE_STEPS", 200)
    _, expected = setting.run(name, iterations=3)
    with pytest.raises(Crash):
        setting.run(name, iterations=3, stop=2, out=tmp_path)
    _, found = setting.run(name, iterations=3, out=tmp_path, resume=True)
    for now, then in zip(found, expected, strict=True):
        assert torch.equal(now, then)


def test_leaders_side_by_side_draw_each_its_own(monkeypatch):
    monkeypatch.setattr(hpgd, "ORACLE_STEPS", 200)
    for name in ("bc-hg", *PROBING):
        _, together = POLICY.run(name)
        for m, seed in enumerate(POLICY.seeds):
            _, alone = replace(POLICY, seeds=(seed,)).run(name)
            torch.testing.assert_close(together[0][m], alone[0][0])


def test_the_command_line_and_the_registry_name_the_same_estimators():
    every = [*estimators.ESTIMATORS, *estimators.REMEMBERING]
    assert list(get_args(EstimatorName)) == every
