"""What the leader learns: counts, the model made of them, and the follower as it believes it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from random_games import batches_of_play, committed, with_true_critics
from strategies import (
    Recipe,
    random_design_game,
    random_designs,
    random_game,
    random_policies,
)
from torch import Tensor

from games import discrete_toy
from games.tabular import TabularDesign
from stackelberg import estimators, exact
from stackelberg.access import PolicyAccess, TrajectoriesAccess, ValueAccess, restrict
from stackelberg.belief import likely_response
from stackelberg.critics import TabularMemory, believed_response
from stackelberg.errors import InputError
from stackelberg.game import Game
from stackelberg.rollout import Trajectories, play
from stackelberg.types import Commitment, TabularResponse

LEADERS = 2


def game_of(kind: str, seed: int = 0, **recipe) -> Game:
    given = {"states": 3, "leader_actions": 2, "follower_actions": 3, "temperature": 0.5} | recipe
    if kind.endswith("design"):
        return random_design_game(Recipe(seed=seed, **given))
    return random_game(Recipe(seed=seed, observes=kind != "blind", **given))


def commitment_of(game: Game, count: int = LEADERS) -> Commitment:
    if game.leader_moves == "once":
        return committed(game, random_designs(game, count))
    return Commitment(random_policies(count, game.states, int(game.leader_space.n)), None)


def seen_in(game: Game, commitment: Commitment, seed: int = 0, **options) -> Trajectories:
    """Play against the exact best response."""
    best = exact.best_response(game.model(commitment.design), commitment.policy)
    count = len(commitment.policy)
    return play(
        game,
        commitment,
        TabularResponse(best.policy, best),
        generators=[np.random.default_rng([seed, m]) for m in range(count)],
        **{"streams": 5, "steps": 40} | options,
    )


def listed(*steps: tuple, leaders: int = 1) -> Trajectories:
    """One stream from rows (s, a, b, r_L, r_F, s', terminated, time)."""
    columns = [torch.tensor(column).expand(leaders, 1, -1) for column in zip(*steps, strict=True)]
    s, a, b, r_leader, r_follower, after, over, time = columns
    return Trajectories(
        state=s,
        leader_action=a,
        follower_action=b,
        leader_reward=r_leader.double(),
        follower_reward=r_follower.double(),
        next_state=after,
        terminated=over,
        time=time,
    )


# ---------------------------------------------------------------- counts


@pytest.mark.parametrize("kind", ["observing", "blind", "design"])
@pytest.mark.parametrize("termination", ["never", "anywhere"])
def test_counts_are_those_of_a_loop(kind, termination):
    game = game_of(kind, termination=termination, moves_transition=False)
    commitment = commitment_of(game)
    memory = TabularMemory(game, LEADERS)
    expected = {k: np.zeros(v.shape) for k, v in memory.state().items()}
    for batch in range(2):
        seen = seen_in(game, commitment, batch)
        memory.update(seen)
        expected["recent"][:] = 0
        for m, n, k in np.ndindex(seen.state.shape):
            at = (m, n, k)
            cell = tuple(
                x[at].item() for x in (seen.state, seen.leader_action, seen.follower_action)
            )
            expected["visits"][m, *cell] += 1
            expected["recent"][m, *cell] += 1
            expected["leader_reward"][m, *cell] += seen.leader_reward[at].item()
            expected["follower_reward"][m, *cell] += seen.follower_reward[at].item()
            expected["starts"][m, cell[0]] += seen.time[at].item() == 0
            if not seen.terminated[at]:
                expected["arrivals"][m, *cell, seen.next_state[at].item()] += 1
    for name, table in memory.state().items():
        np.testing.assert_allclose(table, expected[name], rtol=1e-12, atol=1e-12, err_msg=name)
    assert memory.starts.sum() >= 2 * LEADERS * 5


def test_memory_is_saved_and_loaded():
    game = game_of("observing")
    commitment = commitment_of(game)
    memory, other = TabularMemory(game, LEADERS), TabularMemory(game, LEADERS)
    memory.update(seen_in(game, commitment))
    other.update(seen_in(game, commitment, 2))
    before = other.model(commitment).transition
    other.load({name: table.clone() for name, table in memory.state().items()})
    assert not torch.equal(other.model(commitment).transition, before)
    for seed in (1, 3):  # the model is that of the present counts after every change of them
        assert torch.equal(other.model(commitment).transition, memory.model(commitment).transition)
        memory.update(seen_in(game, commitment, seed))
        other.update(seen_in(game, commitment, seed))
    for name, table in memory.state().items():
        assert torch.equal(table, other.state()[name])
    fresh = TabularMemory(game, LEADERS)
    fresh.load(memory.state())
    for name in ("transition", "leader_reward", "follower_reward", "initial"):
        ours, theirs = (getattr(m.model(commitment), name) for m in (memory, fresh))
        assert torch.equal(ours, theirs)


def two_roads(ends: bool = False) -> TabularDesign:
    """From state 0 the follower gets to state 1 with probability x, else it stays (or it ends)."""

    def transition(x):
        there = torch.cat([1 - x, x], -1)
        home = torch.tensor([1.0, 0.0], dtype=x.dtype).expand(len(x), 2)
        return torch.stack([there, home], 1).unsqueeze(2)

    over = np.zeros((2, 1, 2))
    over[0, 0, 0] = ends
    return TabularDesign(spaces.Box(0.0, 1.0, (1,)), transition, 1.0, 1.0, termination=over)


@pytest.mark.parametrize("ends", [False, True])
def test_outcomes_weigh_by_what_was_seen_over_what_was_expected(ends):
    """40 times at x = 1/4 and 10 times at 3/4: expected 32.5 to stay and 17.5 to go."""
    game = two_roads(ends)
    memory = TabularMemory(game, 1)
    for x, stays, goes in ((0.25, 28, 12), (0.75, 4, 6)):
        batch = [(0, 0, 0, 1.0, 1.0, 0, ends, 0)] * stays
        batch += [(0, 0, 0, 1.0, 1.0, 1, False, 0)] * goes
        memory.update(replace(listed(*batch), design=torch.tensor([[[x]]]).double()))
    assert memory.expected[0, 0, 0, 0].tolist() == pytest.approx([0 if ends else 32.5, 17.5])
    for x in (0.0, 0.25, 0.5, 1.0):
        stay, go = (1 - x) * 32 / 32.5, x * 18 / 17.5
        found = memory.model(Commitment(torch.ones(1, 2, 1).double(), torch.tensor([[x]]).double()))
        expected = [0 if ends else stay / (stay + go), go / (stay + go)]
        assert found.transition[0, 0, 0, 0].tolist() == pytest.approx(expected)


def test_a_design_that_rules_out_all_that_was_seen_tells_no_more_of_it():
    """As at designs close by, and play does not end there."""
    game, step = two_roads(), (0, 0, 0, 1.0, 1.0, 0, False, 0)
    memory = TabularMemory(game, 1)
    memory.update(replace(listed(*[step] * 5), design=torch.tensor([[[0.25]]]).double()))
    for x in (0.999, 1.0):
        design = torch.tensor([[x]]).double().requires_grad_()
        row = memory.model(committed(game, design)).transition[0, 0, 0, 0]
        assert row.tolist() == pytest.approx([1.0, 0.0])
        assert not torch.autograd.grad(row[0], design)[0].any()


def test_an_untried_action_does_as_its_siblings_under_every_design():
    """Also where it never leads to where they do, as on a grid."""
    ways = torch.eye(3).double()[[1, 2, 2]]
    stay = torch.eye(3).double()[:, None]

    def transition(x):
        fails = x[:, :, None, None]
        return (1 - fails) * ways + fails * stay

    game = TabularDesign(spaces.Box(0.0, 1.0, (1,)), transition, 1.0, 1.0)
    memory = TabularMemory(game, 1)
    batch = [(0, 0, b, 1.0, 1.0, to, False, 0) for b, to in ((0, 1), (0, 1), (0, 0), (1, 2))]
    memory.update(replace(listed(*batch), design=torch.tensor([[[0.25]]]).double()))
    design = torch.tensor([[0.6]]).double().requires_grad_()
    rows = memory.model(committed(game, design)).transition[0, 0, 0]
    siblings = (3 * rows[0] + rows[1]) / 4
    torch.testing.assert_close(rows[2], siblings)
    slopes = [
        torch.autograd.grad(row[1], design, retain_graph=True)[0] for row in (rows[2], siblings)
    ]
    torch.testing.assert_close(*slopes)
    assert slopes[0] != 0


def test_every_stream_is_expected_to_go_where_its_own_design_leads():
    """Three designs to each leader in one batch, against a loop over steps."""
    game = game_of("design", moves_transition=True, termination="anywhere")
    designs = random_designs(game, 3 * LEADERS)
    seen = seen_in(game, committed(game, designs), streams=2).grouped(LEADERS)
    memory = TabularMemory(game, LEADERS)
    memory.update(seen, own=False)
    expected = np.zeros(memory.arrivals.shape)
    for m, n, k in np.ndindex(seen.state.shape):
        s, b = seen.state[m, n, k], seen.follower_action[m, n, k]
        design = designs[3 * m + n // 2]
        expected[m, s, 0, b] += game.model(design[None]).transition[0, s, 0, b].numpy()
    np.testing.assert_allclose(memory.expected, expected, rtol=1e-12)


def test_what_was_seen_under_earlier_designs_tells_of_the_present_one():
    """More than a short look alone, and more than the same counts as they are."""
    game = game_of("design", moves_transition=True, termination="on leaving")
    errors = np.zeros(3)
    for seed in range(10):
        here, earlier = random_designs(game, 2 * LEADERS, seed).chunk(2)
        before, now = (
            seen_in(game, committed(game, design), seed, streams=streams)
            for design, streams in ((earlier, 200), (here, 2))
        )
        as_they_are = replace(before, design=now.design[:, :1].expand(-1, 200, -1))
        for i, looks in enumerate(([now], [before, now], [as_they_are, now])):
            memory = TabularMemory(game, LEADERS)
            for look in looks:
                memory.update(look)
            learned, true = memory.model(committed(game, here)), game.model(here)
            errors[i] += (learned.transition - true.transition).abs().mean().item() / 10
    alone, weighed, plain = errors
    assert weighed < 0.75 * alone
    assert weighed < 0.75 * plain


# ---------------------------------------------------------------- the learned model


def exhaustive(game: Game, chances: Tensor) -> TabularMemory:
    """A memory that has met every (s, a, b, s') exactly as often as its probability says."""
    memory, model = TabularMemory(game, len(chances)), game.model()
    shape = memory.arrivals.shape
    visits = chances[:, None, None, None].expand(shape[:-1])
    memory.visits.copy_(visits)
    memory.recent.copy_(visits)
    memory.arrivals.copy_(visits.unsqueeze(-1) * model.transition.expand(shape))
    memory.leader_reward.copy_(visits * model.leader_reward)
    memory.follower_reward.copy_(visits * model.follower_reward)
    memory.starts.copy_(chances[:, None] * model.initial)
    return memory


@pytest.mark.parametrize("kind", ["observing", "blind"])
@pytest.mark.parametrize("termination", ["never", "anywhere"])
def test_model_of_exhaustive_data_is_the_true_one(kind, termination):
    game = game_of(kind, termination=termination)
    commitment = commitment_of(game)
    learned = exhaustive(game, torch.tensor([3.0, 1e4])).model(commitment)
    true = game.model()
    for name in ("transition", "leader_reward", "follower_reward", "initial"):
        found = getattr(learned, name)
        torch.testing.assert_close(found, getattr(true, name).expand_as(found))
    assert learned.follower_observes_action == true.follower_observes_action
    assert learned.ending is None  # the rows' missing mass says it
    value = exact.objective(learned, commitment.policy)
    torch.testing.assert_close(value, exact.objective(true, commitment.policy))


def test_model_of_a_deterministic_game_is_true_where_it_has_been():
    game = discrete_toy.game()
    commitment = Commitment(torch.full((1, 3, 2), 0.5, dtype=torch.float64), None)
    memory = TabularMemory(game, 1)
    memory.update(seen_in(game, commitment, streams=3, steps=150))
    learned, true = memory.model(commitment), game.model()
    been = memory.visits[0] > 0
    assert 6 < been.sum() < 18
    for name in ("transition", "leader_reward", "follower_reward"):
        torch.testing.assert_close(getattr(learned, name)[0][been], getattr(true, name)[been])
    assert learned.initial.tolist() == [[1.0, 0.0, 0.0]]


def test_model_has_the_frequencies_of_what_was_seen():
    """Endings take their share of the mass; an episode cut off by the time limit does not."""
    game = game_of("observing")
    memory = TabularMemory(game, 1)
    memory.update(
        listed(
            (0, 1, 2, 1.0, 5.0, 1, False, 0),
            (1, 0, 0, 0.0, 0.0, 0, False, 1),
            (0, 1, 2, 3.0, 5.0, 2, True, 2),
            (0, 1, 2, 2.0, 8.0, 1, False, 0),
            (1, 0, 0, 0.0, 0.0, 0, False, 1),
            (2, 0, 0, 7.0, 7.0, 2, False, 0),
        )
    )
    learned = memory.model(commitment_of(game, 1))
    assert learned.transition[0, 0, 1, 2].tolist() == pytest.approx([0, 2 / 3, 0])
    assert learned.leader_reward[0, 0, 1, 2].item() == pytest.approx(2)
    assert learned.follower_reward[0, 0, 1, 2].item() == pytest.approx(6)
    assert learned.initial[0].tolist() == pytest.approx([2 / 3, 0, 1 / 3])


def test_untried_actions_are_worth_what_their_siblings_are():
    """(s,a,b) unseen: the mean of (s,a,.), weighted by visits; (s,a,.) unseen: that of (s,.,.)."""
    game = game_of("observing")
    memory = TabularMemory(game, 1)
    memory.update(
        listed(
            (0, 0, 0, 1.0, 10.0, 1, False, 0),
            (0, 0, 0, 1.0, 10.0, 1, False, 0),
            (0, 0, 1, 4.0, 40.0, 2, False, 0),
            (1, 0, 0, 6.0, 60.0, 0, False, 0),
            (1, 1, 0, 8.0, 80.0, 1, False, 0),
            (1, 1, 0, 8.0, 80.0, 2, False, 0),
        )
    )
    learned = memory.model(commitment_of(game, 1))
    thirds = [0, 2 / 3, 1 / 3]
    for b, row, pay in ((0, [0, 1, 0], 1), (1, [0, 0, 1], 4), (2, thirds, 2)):
        assert learned.transition[0, 0, 0, b].tolist() == pytest.approx(row)
        assert learned.leader_reward[0, 0, 0, b].item() == pytest.approx(pay)
        assert learned.follower_reward[0, 0, 0, b].item() == pytest.approx(10 * pay)
    for b in range(3):  # (0, 1, .) has never been tried
        assert learned.transition[0, 0, 1, b].tolist() == pytest.approx(thirds)
        assert learned.leader_reward[0, 0, 1, b].item() == pytest.approx(2)
    assert learned.transition[0, 1, 0, 2].tolist() == pytest.approx([1, 0, 0])
    assert learned.transition[0, 1, 1, 2].tolist() == pytest.approx([0, 0.5, 0.5])
    assert learned.leader_reward[0, 1, 1, 1].item() == pytest.approx(8)
    assert learned.transition[0, 2].abs().max() == 0  # never seen: play ends with nothing
    assert learned.leader_reward[0, 2].abs().max() == 0
    policy = commitment_of(game, 1).policy
    value = exact.leader_values(learned, policy, torch.full((1, 3, 2, 3), 1 / 3).double())
    assert value[0, 2] == 0


def test_an_untried_follower_action_has_no_benefit():
    """Between two tried actions of equal value the third is worth no more and no less."""
    game = game_of("observing")
    memory = TabularMemory(game, 1)
    memory.update(listed(*[(0, a, b, 2.0, 3.0, 0, False, 0) for a in (0, 1) for b in (0, 1)]))
    commitment = Commitment(torch.full((1, 3, 2), 0.5, dtype=torch.float64), None)
    model = memory.model(commitment)
    best = exact.best_response(model, commitment.policy)
    third = torch.full((2, 3), 1 / 3, dtype=torch.float64)
    torch.testing.assert_close(best.policy[0, 0], third)


@pytest.mark.parametrize("termination", ["never", "on leaving"])
@pytest.mark.parametrize("moves", [True, False])
def test_a_designs_rewards_and_scores_are_known(moves, termination):
    """Rewards are the true ones with their gradient; frequencies carry the likelihood's."""
    game = game_of("design", moves_transition=moves, termination=termination)
    design = random_designs(game, LEADERS).requires_grad_()
    memory = TabularMemory(game, LEADERS)
    played = committed(game, design.detach())
    memory.update(seen_in(game, played, streams=50))
    learned, true = memory.model(committed(game, design)), game.model(design)
    for name in ("leader_reward", "follower_reward"):
        assert torch.equal(getattr(learned, name), getattr(true, name))
        assert getattr(learned, name).requires_grad
    assert learned.transition.requires_grad == moves
    plain = memory.model(played)
    torch.testing.assert_close(learned.transition.detach(), plain.transition)
    assert not plain.transition.requires_grad


# ---------------------------------------------------------------- believing the follower


def believed(
    game: Game, commitment: Commitment, follower: TrajectoriesAccess, batches: int = 1, **options
) -> tuple[TabularMemory, exact.SoftResponse]:
    memory = TabularMemory(game, len(commitment.policy))
    for batch in range(batches):
        memory.update(seen_in(game, commitment, batch, **options))
    model = memory.model(commitment)
    return memory, believed_response(memory, model, commitment.policy, follower)


def test_access_value_is_given():
    game = game_of("observing")
    commitment = commitment_of(game)
    best = exact.best_response(game.model(), commitment.policy)
    odd = exact.SoftResponse(*(1 + x for x in best))
    _, found = believed(game, commitment, ValueAccess(TabularResponse(best.policy, odd)))
    torch.testing.assert_close(found.policy, best.policy, rtol=1e-13, atol=0)
    assert torch.equal(found.value, odd.value)
    torch.testing.assert_close(found.state_value, (commitment.policy * odd.value).sum(-1))


@pytest.mark.parametrize("kind", ["observing", "blind"])
def test_access_policy_evaluates_the_given_policy(kind):
    """V_F of any behaviour on the learned model; on the true one with the best response, V_F*."""
    game = game_of(kind, termination="anywhere")
    commitment = commitment_of(game)
    policy = commitment.policy
    memory, model = exhaustive(game, torch.ones(LEADERS)), game.model()
    best = exact.best_response(model, policy)
    found = believed_response(memory, model, policy, PolicyAccess(TabularResponse(best.policy)))
    torch.testing.assert_close(found, best)

    behaviour = torch.full_like(best.policy, 1 / 3)
    found = believed_response(memory, model, policy, PolicyAccess(TabularResponse(behaviour)))
    assert torch.equal(found.policy, behaviour)
    states = exact.follower_values(model, policy, behaviour)
    torch.testing.assert_close(found.state_value, states)
    torch.testing.assert_close((policy * found.value).sum(-1), states)
    q = exact.follower_action_value(model, states)
    if kind == "blind":
        q = (policy.unsqueeze(-1) * q).sum(-2, keepdim=True).expand_as(q)
    torch.testing.assert_close(found.value, q.mean(-1) + game.temperature * np.log(3))


@pytest.mark.parametrize("kind", ["observing", "blind"])
def test_access_trajectories_goes_by_prediction_and_the_last_play(kind):
    """A blind follower's actions count over all a together."""
    game = game_of(kind)
    commitment = commitment_of(game)
    nothing = TrajectoriesAccess(TabularResponse(torch.full((LEADERS, 3, 2, 3), np.nan).double()))
    memory, found = believed(game, commitment, nothing, batches=2)
    model = memory.model(commitment)
    predicted = exact.best_response(model, commitment.policy).policy
    if kind == "blind":
        rows = predicted[:, :, :1], memory.recent.sum(-2, keepdim=True)
    else:
        rows = predicted, memory.recent
    torch.testing.assert_close(found.policy, likely_response(*rows).expand_as(predicted))
    assert (found.policy - predicted).abs().max() > 1e-3
    states = exact.follower_values(model, commitment.policy, found.policy)
    torch.testing.assert_close(found.state_value, states)
    assert memory.visits.sum() == 2 * memory.recent.sum()


def test_nothing_seen_leaves_the_predicted_response():
    game = game_of("observing")
    commitment = commitment_of(game)
    memory, model = TabularMemory(game, LEADERS), game.model()
    best = exact.best_response(model, commitment.policy)
    given = TrajectoriesAccess(TabularResponse(best.policy))
    found = believed_response(memory, model, commitment.policy, given)
    torch.testing.assert_close(found, best)


def test_responses_refuse_what_the_access_level_hides():
    policy = torch.full((1, 1, 1, 2), 0.5, dtype=torch.float64)
    values = exact.SoftResponse(policy, policy[..., 0], policy[..., 0, 0])
    response, where = (
        TabularResponse(policy, values),
        (torch.ones(1, 1, 1), torch.zeros(1, 1).long()),
    )
    open_, half, shut = (restrict(response, level) for level in ("value", "policy", "trajectories"))
    assert open_.value(*where).item() == 0.5
    for follower in (open_, half):
        torch.testing.assert_close(follower.log_prob(*where).exp(), policy[:, 0])
    for follower in (open_, half, shut):
        assert follower.sample(*where, torch.Generator()).shape == (1, 1)
    for follower, method in ((half, "value"), (shut, "value"), (shut, "log_prob")):
        with pytest.raises(InputError, match="access that includes the follower's"):
            getattr(follower, method)(*where)
    with pytest.raises(InputError, match="offers its values"):
        ValueAccess(TabularResponse(policy)).value(*where)


# ---------------------------------------------------------------- in the limit of much play


@pytest.mark.parametrize("access", ["value", "policy", "trajectories"])
@pytest.mark.parametrize("termination", ["never", "anywhere"])
@pytest.mark.parametrize("kind", ["observing", "blind", "design", "moving design"])
def test_hypergradients_become_exact_at_every_access_level(kind, access, termination):
    """Ever more play of one policy: the error falls by the root of it, to nothing."""
    errors = []
    for seed in range(4):
        game = game_of(
            kind,
            seed,
            leader_discount=0.8,
            follower_discount=0.7,
            moves_transition=kind == "moving design",
            termination=termination,
        )
        point = torch.from_numpy(np.random.default_rng(seed).normal(size=(3, 2)))
        if kind.endswith("design"):
            point = random_designs(game, 1, seed)[0]
        errors.append([])
        for streams in (1, 100):
            game.horizon = 30  # a learned model is not biased by cutting play off
            seen = batches_of_play(game, point, batches=12, streams=streams, steps=300, seed=seed)
            sample = with_true_critics(game, point, seen)
            evidence = sample.learned()
            evidence = replace(evidence, follower=restrict(evidence.follower._response, access))
            parts = estimators.expected_trace(evidence, sample.commitment)
            error = sample.gradients(*parts) - sample.exact
            errors[-1].append((error**2).sum(-1).mean() ** 0.5 / np.linalg.norm(sample.exact))
    few, many = np.median(errors, 0)
    assert many < 0.05
    assert few / many == pytest.approx(10, rel=0.5)
