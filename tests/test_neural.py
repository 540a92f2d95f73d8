"""Critics by networks, against the exact ones of tabular games whose tables are hidden."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hidden import Hidden, HidingFollower, Lookup, Shown, best_response
from random_games import accuracy_case
from strategies import Recipe, random_game, random_policies
from torch import Tensor

from agents.leaders import TabularSoftmax, mlp_leader
from games import discrete_toy
from stackelberg import Coordinator, InputError, TrainConfig, backward, exact, hypergradient
from stackelberg.access import restrict
from stackelberg.critics import TabularMemory
from stackelberg.estimators import ESTIMATORS, Evidence
from stackelberg.game import Game, Step
from stackelberg.hypergradient import Critics
from stackelberg.neural import ReplayMemory
from stackelberg.replay import Replay, active, after
from stackelberg.rollout import Trajectories, play
from stackelberg.types import Commitment, TabularResponse, commit
from stackelberg.vector import Outcome, VectorGame


class Setting(NamedTuple):
    game: Hidden
    leader: Lookup
    commitment: Commitment
    response: Shown

    def seen(self, batch: int = 0, streams: int = 10, steps: int = 150) -> Trajectories:
        return play(
            self.game,
            self.commitment,
            self.response,
            streams=streams,
            steps=steps,
            generators=[np.random.default_rng([m, batch]) for m in range(self.leader.count)],
        )


def setting(kind: str = "observing", leaders: int = 1, discounts=None, seed=1) -> Setting:
    inner = discounted(accuracy_case(kind, seed)[0], discounts)
    inner.horizon = 150
    game = Hidden(inner)
    logits = TabularSoftmax(inner.states, int(inner.leader_space.n), (1,), 1.0).logits.detach()
    leader = Lookup(game, logits.repeat(leaders, 1, 1))
    with torch.no_grad():
        commitment = commit(game, leader)
    return Setting(game, leader, commitment, best_response(game, commitment))


def discounted(game, discounts: tuple[float, float] | None):
    """The same tabular game of other discounts of leader and follower."""
    if discounts is not None:
        leader, follower = discounts
        new = {"leader_discount": leader, "follower_discount": follower}
        game._model = replace(game._model, **new)
        game.leader_discount, game.follower_discount = discounts
    return game


def learned(
    of: Setting, access: str, calls: int, memory: ReplayMemory | None = None, **options
) -> tuple[ReplayMemory, Trajectories, Critics]:
    memory = memory or ReplayMemory(of.game, range(of.leader.count), **options)
    for batch in range(memory.calls, memory.calls + calls):
        seen = of.seen(batch)
        memory.update(seen)
        critics = memory.critics(of.commitment, restrict(of.response, access), seen)
    return memory, seen, critics


TABLES = [name for name in Critics._fields[1:] if name not in ("visitation", "trace")]


def true_critics(of: Setting) -> Critics:
    model, policy = of.game.inner.model(), of.game.policy(of.commitment)
    return hypergradient.tabular_critics(model, policy, exact.best_response(model, policy))


def counted(of: Setting, access: str, calls: int) -> Critics:
    """What a leader that is shown the states learns in tables from the same play."""
    memory = TabularMemory(of.game.inner, of.leader.count)
    for batch in range(calls):
        seen = of.seen(batch)
        states = of.game.states(seen.points.leader).unflatten(1, (2, *seen.state.shape[1:]))
        state, after = states.unbind(1)
        seen = replace(seen, state=state, next_state=after, points=None)
        memory.update(seen)
    shown = restrict(of.response.tables, access)
    return memory.critics(Commitment(of.game.policy(of.commitment)), shown, seen)


def errors(found: dict[str, Tensor], true: dict[str, Tensor], visits: Tensor) -> dict[str, float]:
    """Of critics at points [1, n], relative to what they differ by; visits sum up to 1."""
    pairs = visits.unsqueeze(-1) * true["policy"]
    cells = pairs.unsqueeze(-1) * true["response"]
    weights = {"leader_action_value": cells, "follower_action_value": cells}
    weights |= {"leader_value": pairs, "follower_value": pairs}

    def centred(values: Tensor, weight: Tensor) -> Tensor:
        return values - (weight * values).sum()

    result = {
        name: away(centred(found[name], weight), centred(true[name], weight), weight)
        for name, weight in weights.items()
    }
    apart = (found["response"] - true["response"]).abs().sum(-1)
    result["response"] = (pairs * apart).sum().item() / 2
    result["trace"] = away(found["trace"], true["trace"], visits)
    return result


def away(found: Tensor, true: Tensor, weight: Tensor) -> float:
    """Root of the weighted mean square of the difference, over that of the truth."""
    missed, size = ((weight * part**2).sum().item() for part in (found - true, true))
    return (missed / size) ** 0.5


# ---------------------------------------------------------------- against the truth

CASES = [
    ("observing", "value"),
    ("observing", "policy"),
    ("observing", "trajectories"),
    ("blind", "value"),
    ("blind", "trajectories"),
    ("ending", "trajectories"),
]


@pytest.mark.parametrize(("kind", "access"), CASES)
def test_networks_learn_the_exact_critics(kind, access):
    """Hardly worse than counting in tables does from the same 3,000 steps.

    What a hypergradient depends on is how values differ, so they are compared less their mean.
    """
    of = setting(kind)
    _, seen, critics = learned(of, access, 2)
    states, true = of.game.states(seen.points.leader)[0], true_critics(of)

    def at_points(tables: Critics) -> dict[str, Tensor]:
        rate = (tables.trace / tables.visitation.clamp(min=1e-12))[:, states]
        return {name: getattr(tables, name)[:, states] for name in Critics._fields[1:]} | {
            "trace": rate
        }

    truth, visits = at_points(true), critics.visitation / critics.visitation.sum()
    found = critics._asdict() | {"trace": critics.trace / critics.visitation.clamp(min=1e-12)}
    ours = errors(found, truth, visits)
    for name, theirs in errors(at_points(counted(of, access, 2)), truth, visits).items():
        assert ours[name] < 3 * theirs + 0.05, (name, ours[name], theirs)
    if access != "trajectories":
        torch.testing.assert_close(critics.response, truth["response"])
    if access == "value":
        torch.testing.assert_close(critics.follower_value, truth["follower_value"])
    spread = (visits * truth["leader_state_value"] ** 2).sum() ** 0.5
    assert abs(critics.objective - true.objective) < 0.3 * spread
    assert cosine(of, seen, critics) > 0.97


def cosine(
    of: Setting, seen: Trajectories, critics: Critics, name: str = "expected-trace"
) -> float:
    """Of the estimated hypergradient of the logits and the exact one."""
    objective = exact.objective(of.game.inner.model(), torch.softmax(of.leader.logits, -1))
    (goal,) = torch.autograd.grad(objective.sum(), of.leader.logits)
    found = gradient(of, seen, critics, name)
    return torch.cosine_similarity(found.flatten(), goal.flatten(), 0).item()


def gradient(of: Setting, seen: Trajectories, critics: Critics, name: str) -> Tensor:
    """The estimated hypergradient of the logits."""
    evidence = evidence_of(of, seen, critics)
    attached = commit(of.game, of.leader, seen.points.leader)
    (found,) = torch.autograd.grad(
        sum(ESTIMATORS[name](evidence, attached)).sum(), of.leader.logits
    )
    return found


def evidence_of(of: Setting, seen: Trajectories, critics: Critics, access: str = "value"):
    evidence = Evidence(
        game=of.game,
        leader=of.leader,
        commitment=commit(of.game, of.leader, seen.points.leader).detach(),
        follower=restrict(of.response, access),
        trajectories=seen,
        memory=ReplayMemory(of.game, range(of.leader.count)),
        noise=[np.random.default_rng(m) for m in range(of.leader.count)],
    )
    evidence.__dict__["critics"] = critics
    return evidence


@pytest.mark.parametrize("kind", ["observing", "blind"])
@pytest.mark.parametrize("discounts", [(0.0, 0.8), (0.8, 0.0), (0.0, 0.0)])
def test_players_may_look_no_step_ahead(kind, discounts):
    """A myopic leader is paid by first steps alone, which the follower chooses for what follows."""
    of = setting(kind, discounts=discounts)
    of.game.horizon = 20
    memory = ReplayMemory(of.game, (0,))
    for batch in range(3):  # many short episodes, as most of it is about first steps
        seen = of.seen(batch, streams=150, steps=20)
        memory.update(seen)
        critics = memory.critics(of.commitment, restrict(of.response, "policy"), seen)
    states, true = of.game.states(seen.points.leader)[0], true_critics(of)
    traces = torch.zeros_like(true.trace[0]).index_add(0, states, critics.trace[0])
    assert (true.trace.abs().max() > 0.01) == (discounts[1] > 0)
    assert (traces - true.trace[0]).norm() <= 0.35 * true.trace.norm()
    assert cosine(of, seen, critics) > 0.97


@pytest.mark.slow
def test_more_play_tells_more():
    """Of ten times as much, in one call, the errors of Q_L are smaller: a mean over four games."""
    ratios = []
    for kind, seed in [("observing", 1), ("observing", 2), ("ending", 1), ("ending", 2)]:
        of, found = setting(kind, seed=seed), []
        true = true_critics(of)
        for streams in (30, 300):
            seen = of.seen(streams=streams)
            memory = ReplayMemory(of.game, (0,))
            memory.update(seen)
            critics = memory.critics(of.commitment, restrict(of.response, "trajectories"), seen)
            states = of.game.states(seen.points.leader)[0]
            truth = {name: getattr(true, name)[:, states] for name in Critics._fields[1:]}
            visits = critics.visitation / critics.visitation.sum()
            found.append(errors(critics._asdict(), truth, visits)["leader_action_value"])
        ratios.append(found[1] / found[0])
    assert np.exp(np.mean(np.log(ratios))) < 0.8


def test_naive_and_sampling_estimators_take_these_critics():
    """They point where they do with exact critics; those that need tables say so."""
    of = setting()
    seen = of.seen(streams=20)
    memory = ReplayMemory(of.game, (0,))
    memory.update(seen)
    critics = memory.critics(of.commitment, restrict(of.response, "value"), seen)
    states, true = of.game.states(seen.points.leader)[0], true_critics(of)
    known = critics._replace(
        **{name: getattr(true, name)[:, states] for name in TABLES},
        trace=critics.visitation * (true.trace / true.visitation)[:, states],
    )
    for name in ("sampled-trace", "gae", "bc-hg", "naive"):
        ours, theirs = (gradient(of, seen, c, name).flatten() for c in (critics, known))
        assert torch.cosine_similarity(ours, theirs, 0) > 0.97, name
        assert (ours - theirs).norm() < 0.2 * theirs.norm(), name
    assert cosine(of, seen, critics, "sampled-trace") > 0.7
    evidence = evidence_of(of, seen, critics)
    attached = commit(of.game, of.leader, seen.points.leader)
    for name in ("gradient-critic", "hpgd-mc", "bi-ac", "exact"):
        with pytest.raises(InputError, match="expected a tabular game"):
            ESTIMATORS[name](evidence, attached)


@pytest.mark.parametrize("actions", [2, 8])
@pytest.mark.parametrize("observes", [True, False])
def test_a_follower_unlike_the_soft_best_response_is_seen_to_be_so(observes, actions):
    """Its behaviour is what it does, not what would be best, however many the leader's actions."""
    recipe = Recipe(seed=2, leader_actions=actions, follower_actions=3, observes=observes)
    inner = random_game(recipe)
    inner.horizon = 150
    game = Hidden(inner)
    leader = Lookup(game, torch.zeros(1, inner.states, actions).double())
    commitment = commit(game, leader).detach()
    odd = random_policies(1, inner.states, actions if observes else 1, 3, seed=3)
    odd = odd.expand(-1, -1, actions, -1)
    of = Setting(game, leader, commitment, Shown(game, TabularResponse(odd)))
    _, seen, found = learned(of, "trajectories", 2)
    states = of.game.states(seen.points.leader)[0]
    pairs = (found.visitation / found.visitation.sum()).unsqueeze(-1) * found.policy
    assert (pairs * (found.response - odd[0][states]).abs().sum(-1)).sum() / 2 < 0.06


@pytest.mark.parametrize("kind", ["observing", "blind"])
def test_temperature_is_estimated(kind):
    of = setting(kind)
    memory, _, _ = learned(of, "trajectories", 3, estimate_temperature=True)
    assert memory.temperature.shape == (1,)
    assert memory.temperature.item() == pytest.approx(of.game.temperature, rel=0.25)
    assert ReplayMemory(of.game, (0,)).temperature == of.game.temperature


def test_temperature_of_a_given_response_owes_nothing_to_which_actions_were_drawn():
    """At the learned values, actions drawn anew move the estimate only where g is not given."""
    of = setting()
    memory, _, _ = learned(of, "policy", 3, estimate_temperature=True)
    assert memory.temperature.item() == pytest.approx(of.game.temperature, rel=0.1)
    recent = memory.replay.recent([np.random.default_rng(0)], (1024, 1024), 0.5, memory.calls)
    redrawn = recent | {"action": recent["action"].clone()}
    redrawn["action"][..., 1] = redrawn["action"][..., 1].roll(1, -1)
    for access, same in (("policy", True), ("trajectories", False)):
        deeds = memory._situation(of.commitment, restrict(of.response, access), recent)
        found = []
        for rows in (recent, redrawn):
            memory.temperature = torch.ones(1).double()
            for _ in range(4):
                memory._estimate_temperature(deeds, rows)
            found.append(memory.temperature)
        assert torch.equal(*found) == same


def test_scale_of_rewards_does_not_matter():
    """Rewards 1,000 times as large and observations in other units: values as much larger."""
    found = []
    for scale in (1.0, 1000.0):
        inner = random_game(Recipe(seed=2, follower_actions=3))
        model = inner._model
        inner._model = replace(model, leader_reward=scale * model.leader_reward + scale)
        features = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
        of = setting()._replace(game=Hidden(inner, scale * features + scale))
        leader = Lookup(of.game, torch.zeros(1, 3, 2).double())
        commitment = commit(of.game, leader).detach()
        of = Setting(of.game, leader, commitment, best_response(of.game, commitment))
        _, _, critics = learned(of, "value", 1)
        found.append(critics.leader_action_value / scale)
    assert found[0].std() > 0.1
    torch.testing.assert_close(found[0], found[1], rtol=0.01, atol=0.02)


def test_new_units_change_no_value():
    """Targets of another size do not undo what the networks have learned."""
    of = setting(leaders=2)
    memory, _, _ = learned(of, "value", 1)
    inputs = torch.cat([memory.replay.inputs(memory.replay.rows)] * 2)
    for network in (memory.values.online, memory.values.averaged):
        before = network(inputs)
        memory.values.rescale(torch.tensor([2.0, 3.0, 4.0, 5.0]))
        factors = torch.tensor([2.0, 3.0, 4.0, 5.0]).view(-1, 1, 1)
        torch.testing.assert_close(network(inputs), factors * before)
        memory.values.rescale(1 / factors.flatten())
    level, scale = memory.level, memory.scale
    differences = memory._said(inputs) - level.unsqueeze(-1)
    rows = memory.replay.rows
    scaled = rows | {"reward": 10 * rows["reward"]}
    follower = restrict(of.response, "value")
    arrival = memory._situation(of.commitment, follower, after(rows))
    cell = memory._cell(rows).repeat(2, 1)
    memory._settled(scaled, arrival, arrival, inputs, cell, active(rows))
    assert (memory.scale > 2 * scale).all()
    torch.testing.assert_close(
        memory._said(inputs) - memory.level.unsqueeze(-1), differences, rtol=1e-3, atol=1e-4
    )


# ---------------------------------------------------------------- players that leave


class Quitting(VectorGame):
    """One state, in which one of the players leaves with chance 0.3 at every step."""

    def __init__(self, copies: int, generator: torch.Generator, who: str) -> None:
        self.copies, self.generator, self.who = copies, generator, who
        self.leader_observation = self.follower_observation = torch.ones(copies, 1)
        self.reset()

    def reset(self, which: Tensor | None = None) -> None:
        assert which is None
        self.leader_out = self.follower_out = torch.zeros(self.copies, dtype=torch.bool)

    def step(self, leader_action: Tensor, follower_action: Tensor) -> Outcome:
        paid = [(~out).double() for out in (self.leader_out, self.follower_out)]
        leaves = torch.rand(self.copies, generator=self.generator) < 0.3
        out = getattr(self, f"{self.who}_out") | leaves
        setattr(self, f"{self.who}_out", out)
        never = torch.zeros(self.copies, dtype=torch.bool)
        return Outcome(*paid, never, never)


class QuittingGame(Hidden):
    """Both earn 1 a step until they leave."""

    def __init__(self, who: str) -> None:
        inner = random_game(Recipe(states=1, leader_discount=0.9, follower_discount=0.8))
        super().__init__(inner, torch.ones(1, 1))
        self.who = who

    def vector(self, copies, generator, limit=None):
        return Quitting(copies, generator, self.who)


@pytest.mark.parametrize("who", ["leader", "follower"])
def test_who_has_left_earns_nothing(who):
    game = QuittingGame(who)
    leader = Lookup(game, torch.zeros(1, 1, 2).double())
    commitment = commit(game, leader).detach()
    response = Shown(game, TabularResponse(torch.full((1, 1, 2, 2), 0.5).double()))
    seen = play(
        game,
        commitment,
        response,
        streams=40,
        steps=10,
        generators=[np.random.default_rng(0)],
    )
    memory = ReplayMemory(game, (0,))
    for _ in range(3):
        memory.update(seen)
        found = memory.critics(commitment, restrict(response, "trajectories"), seen)
    out = getattr(seen.points, f"{who}_out")
    assert 0.2 < out.double().mean() < 0.8
    stays = {"leader": 1.0, "follower": 1.0} | {who: 0.7}
    entropy = game.temperature * np.log(2)
    truth = {
        "leader": 1 / (1 - 0.9 * stays["leader"]),
        "follower": (1 + entropy) / (1 - 0.8 * stays["follower"]),
    }
    for name, value in truth.items():
        values = getattr(found, f"{name}_state_value")
        assert (values[~out] - value).abs().max() < 0.1 * value
        assert (values[out] == 0).all() == (name == who)
    assert (found.benefit[out] == 0).all()
    taken = seen.state[0].numel()
    assert (
        (found.visitation == 0) == (seen.points.leader_out | (torch.arange(2 * taken) >= taken))
    ).all()
    assert found.visitation[0, :10].tolist() == pytest.approx(
        [0.0 if gone else 0.9**k / 40 for k, gone in enumerate(out[0, :10] & (who == "leader"))]
    )


# ---------------------------------------------------------------- what the leader alone sees


class Private(Game):
    """One step. The leader sees a type and a sign; the follower sees the sign, and not a."""

    name, one_hot = "private", True
    odds = torch.tensor([0.1, 0.3, 0.4, 0.2]).double()  # of (type, sign)

    def __init__(self, leader_reward: Tensor, follower_reward: Tensor) -> None:
        super().__init__(temperature=1.0, horizon=1, follower_observes_action=False)
        self.rewards = leader_reward, follower_reward  # [type, sign, A, B]
        self.leader_space = self.follower_space = spaces.Discrete(2)
        self.observation_space = spaces.Box(0.0, 1.0, (4,), np.float32)
        self.follower_observation_space = spaces.Box(0.0, 1.0, (1,), np.float32)

    def initial(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.multinomial(self.odds, n, True, generator=generator)

    def step(self, state, leader_action, follower_action, generator) -> Step:
        index = state // 2, state % 2, leader_action, follower_action
        over = torch.ones(len(state), dtype=torch.bool)
        return Step(state, *(reward[index] for reward in self.rewards), over)

    def observe(self, state: Tensor) -> Tensor:
        return torch.eye(4)[state]

    def follower_observe(self, state: Tensor) -> Tensor:
        return (state % 2).float().unsqueeze(-1)

    def response(self, policy: Tensor) -> Tensor:
        """g(b|sign) [2, B] to f [4, A]."""
        odds = self.odds.view(2, 2)
        joint = torch.einsum("ts,tsa,tsab->sb", odds, policy.view(2, 2, 2), self.rewards[1])
        return torch.softmax(joint / odds.sum(0).unsqueeze(-1), -1)


class Signed:
    """g(b|sign) [2, B]."""

    def __init__(self, policy: Tensor) -> None:
        self.policy = policy

    def sample(self, observation, leader_action, generator) -> Tensor:
        odds = self.policy[observation[..., 0].long()].flatten(0, -2)
        return torch.multinomial(odds, 1, generator=generator).view(leader_action.shape)

    def log_prob(self, observation, leader_action) -> Tensor:
        return self.policy.log()[observation[..., 0].long()]


@pytest.mark.parametrize("access", ["policy", "trajectories"])
@pytest.mark.parametrize("case", ["one type", "random"])
def test_a_follower_chooses_by_what_it_sees(access, case):
    """In "one type", b = 1 is good for a leader of one type, bad for one of the other.

    The follower answers the mean of what both do, so that each counts what both get of it.
    """
    draw = torch.Generator().manual_seed(0)
    ours, theirs = (2 * torch.randn(2, 2, 2, 2, generator=draw).double() for _ in range(2))
    if case == "one type":
        sign = torch.tensor([-1.0, 1.0]).double()
        worth = torch.tensor([1.0, -1.5]).double().view(2, 1, 1, 1)
        ours = (worth * sign).expand(2, 2, 2, 2)
        theirs = (sign.view(2, 1) * sign).expand(2, 2, 2, 2)
    game = Private(ours, theirs)
    leader = TabularSoftmax(4, 2, (0,), 0.5)
    policy = torch.softmax(leader.logits[0], -1)
    response = game.response(policy)
    rewards = torch.einsum("tsa,sb,tsab->ts", policy.view(2, 2, 2), response, ours)
    (truth,) = torch.autograd.grad((game.odds.view(2, 2) * rewards).sum(), leader.logits)
    shown, memory = Signed(response.detach()), ReplayMemory(game, (0,))
    for batch in range(3):
        commitment = commit(game, leader).detach()
        draws = [np.random.default_rng(batch)]
        seen = play(game, commitment, shown, streams=4000, steps=1, generators=draws)
        memory.update(seen)
    attached = commit(game, leader, seen.points.leader)
    evidence = Evidence(
        game=game,
        leader=leader,
        commitment=attached.detach(),
        follower=restrict(shown, access),
        trajectories=seen,
        memory=memory,
    )
    parts = sum(ESTIMATORS["expected-trace"](evidence, attached))
    (found,) = torch.autograd.grad(parts.sum(), leader.logits)
    assert (found - truth).norm() < 0.15 * truth.norm()
    found, states = evidence.critics.response[0, :, 0], seen.points.leader[0].argmax(-1)
    torch.testing.assert_close(found, shown.policy[states % 2], rtol=0, atol=0.05)


# ---------------------------------------------------------------- the trace on any features


def exhaustive(model, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Transitions in which s' follows every (s,a,b) about as often as its probability says."""
    counts = (2000 * model.transition).round().long()
    s, a, b, after = counts.nonzero(as_tuple=True)
    times = counts[s, a, b, after]
    rows = [torch.repeat_interleave(x, times) for x in (s, a * counts.shape[2] + b, after)]
    return features[rows[0]][None], features[rows[2]][None], rows[1][None]


def test_arrivals_are_the_expectation():
    model = random_game(Recipe(seed=3, follower_actions=3)).model()
    features = torch.eye(3).double()
    weight = torch.randn(3, 2, 3, generator=torch.Generator().manual_seed(1)).double()
    weight = weight - weight.mean(-1, keepdim=True)
    expected = torch.einsum("sab,sabt->t", weight, model.transition)
    found = backward.arrivals(weight.flatten(1)[None], *exhaustive(model, features))
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(found[0], expected, rtol=0.01, atol=2e-3)


def test_what_was_never_tried_is_taken_to_lead_where_all_else_does():
    here, there = torch.eye(2).double().repeat(1, 50, 1), torch.rand(1, 100, 2).double()
    cell = torch.zeros(1, 100, dtype=torch.long)
    weight = torch.tensor([[[1.0, -1.0], [2.0, -2.0]]]).double()
    found = backward.arrivals(weight, here, there, cell)
    assert found.abs().max() < 0.1 * (weight[..., 0].abs().sum())


@pytest.mark.parametrize(
    ("kind", "discounts"),
    [("observing", None), ("ending", None), ("observing", (0.0, 0.8)), ("blind", (0.8, 0.0))],
)
def test_expected_trace_on_one_hot_features_is_the_exact_one(kind, discounts):
    """Up to what is cut off: 3 % in the game that ends, whose last episodes are."""
    inner = discounted(accuracy_case(kind, 1)[0], discounts)
    inner.horizon = 40
    model = inner.model()
    policy = random_policies(1, inner.states, model.leader_actions, seed=2)
    best = exact.best_response(model, policy)
    true = hypergradient.tabular_critics(model, policy, best)
    response = TabularResponse(best.policy)
    seen = play(
        inner,
        Commitment(policy),
        response,
        streams=2000,
        steps=40,
        generators=[np.random.default_rng(0)],
    )
    features = inner.observe(torch.cat([seen.state, seen.next_state], -1)).double()
    features = torch.cat(features.split(40, 2), 1).flatten(1, 2)
    weight = policy.unsqueeze(-1) * best.policy * true.benefit
    time = seen.time.flatten(1).double()
    visits = (features[:, : time.shape[1]] * (inner.leader_discount**time).unsqueeze(-1)).sum(1)
    moved = torch.einsum("ms,msab,sabt->mt", visits, weight, model.transition)
    discounts = inner.leader_discount, inner.follower_discount
    found = backward.expected_trace(features, seen, inner.follower_discount * moved, discounts)
    lasting = replace(model, leader_discount=max(discounts))
    shares = (true.trace / exact.visitation(lasting, policy, best.policy))[0]
    where = seen.state.flatten()
    assert (shares.abs().max() > 0.02) == (inner.follower_discount > 0)
    error = (found[0, : len(where)] - shares[where]).square().mean().sqrt()
    assert error <= 0.06 * shares[where].square().mean().sqrt()


# ---------------------------------------------------------------- the replay


def test_replay_keeps_the_newest_in_order():
    of = setting(leaders=2)
    replay = Replay(of.game, 400)
    batches = [of.seen(batch, streams=2) for batch in range(2)]
    for call, seen in enumerate(batches):
        replay.add(seen, call == 1, call)
    assert len(replay) == 400
    first, second = batches
    whole = torch.cat([first.points.leader[:, :300], second.points.leader[:, :300]], 1)
    assert torch.equal(replay.rows["observation"], whole[:, -400:])
    whole = torch.cat([first.points.leader[:, 300:], second.points.leader[:, 300:]], 1)
    assert torch.equal(replay.rows["next_observation"], whole[:, -400:])
    rewards = torch.cat([b.follower_reward.flatten(1) for b in batches], 1)
    assert torch.equal(replay.rows["reward"][..., 1], rewards[:, -400:])
    draws = [np.random.default_rng(m) for m in range(2)]
    assert replay.recent(draws, (100, 100), 0.5, 1)[
        "own"
    ].all()  # other leaders' play does not count
    replay.rows["own"][:] = True
    ages = replay.recent(draws, (4000, 4000), 0.5, 1)["call"].double().mean()
    assert ages == pytest.approx(300 / 350, abs=0.02)  # 100 older ones at half the weight
    assert replay.recent(draws, (1, 4000), 0.5, 1)["own"].shape == (2, 350)
    some = replay.working(draws, 300)["call"]  # half of the last call's 300, half of the 100 before
    assert some.shape == (2, 300)
    assert (some == 0).sum(-1).tolist() == [100, 100]
    assert replay.working(draws, 400)["call"].shape == (2, 400)


# ---------------------------------------------------------------- state


def test_resumed_equals_uninterrupted():
    of = setting("blind", leaders=2)
    options = {"estimate_temperature": True}
    memory, _, _ = learned(of, "trajectories", 1, **options)
    other = ReplayMemory(of.game, range(2), **options)
    other.load({name: tensor.clone() for name, tensor in memory.state().items()})
    ours, theirs = (learned(of, "trajectories", 1, one)[2] for one in (memory, other))
    for name, one, two in zip(Critics._fields, ours, theirs, strict=True):
        assert torch.equal(one, two), name
    assert memory.state().keys() == other.state().keys()
    for name, tensor in memory.state().items():
        assert torch.equal(tensor, other.state()[name]), name


def test_resumed_run_equals_uninterrupted(tmp_path):
    def coordinator(iterations: int, **options) -> Coordinator:
        game = Hidden(discrete_toy.game(2.0, horizon=40))
        config = TrainConfig(
            iterations=iterations,
            access="trajectories",
            evaluation_episodes=2,
            checkpoint_every=1,
            estimate_temperature=True,
        )
        leader = mlp_leader(game, (0,))
        return Coordinator(game, leader, HidingFollower(), config, seeds=(0,), **options)

    whole = coordinator(2).run()
    coordinator(1, out=tmp_path).run()
    resumed = coordinator(2, out=tmp_path, resume=True).run()
    for name, tensor in whole.leader.state_dict().items():
        assert torch.equal(tensor, resumed.leader.state_dict()[name]), name


def test_leaders_learn_apart():
    """Leader m's critics are those that it learns alone, up to rounding, and its seed matters."""
    of = setting(leaders=2)
    seen = of.seen(0, streams=3)

    def critics(rows: list[int], seeds: tuple[int, ...]) -> Tensor:
        points = type(seen.points)(*(part[rows] for part in seen.points))
        some = replace(seen.map(lambda part: part[rows]), points=points)
        leader = Lookup(of.game, of.leader.logits.detach()[rows])
        commitment = commit(of.game, leader).detach()
        memory = ReplayMemory(of.game, seeds)
        memory.update(some)
        shown = best_response(of.game, commitment)
        return memory.critics(commitment, restrict(shown, "trajectories"), some).benefit

    both = critics([0, 1], (0, 7))
    size = both.square().mean().sqrt()
    alone, reseeded = critics([1], (7,))[0], critics([1], (8,))[0]
    assert (both[1] - alone).square().mean().sqrt() < 0.02 * size
    assert (both[1] - reseeded).square().mean().sqrt() > 0.04 * size


# ---------------------------------------------------------------- refusals


def test_errors():
    game = Hidden(random_game(Recipe()))
    for who in ("leader", "follower"):
        boxed = Hidden(random_game(Recipe()))
        setattr(boxed, f"{who}_space", spaces.Box(0.0, 1.0, (1,)))
        with pytest.raises(InputError, match=rf"(?s)^expected a {who} space Discrete.+; got .+; "):
            ReplayMemory(boxed, (0,))
    seen = setting().seen()
    with pytest.raises(InputError, match=r"expected trajectories with points.+; got .+; "):
        ReplayMemory(game, (0,)).update(replace(seen, points=None))


# ---------------------------------------------------------------- training


@pytest.mark.slow
@pytest.mark.parametrize("bonus", [1.0, 2.0])
def test_training_against_a_hidden_follower_comes_near_the_optimum(bonus):
    """By actions alone; two of three leaders at least (one may start where nothing is seen)."""
    seeds = range(3)
    game = Hidden(discrete_toy.game(bonus))
    leader = mlp_leader(game, seeds)
    config = TrainConfig(iterations=40, access="trajectories", evaluation_episodes=2)
    Coordinator(game, leader, HidingFollower(), config, seeds=seeds).run()
    policy = game.policy(commit(game, leader))
    value = exact.objective(game.inner.model(), policy)
    assert value.sort().values[1] > 0.995 * game.optimum
