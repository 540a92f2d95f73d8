"""What a follower's values tell of transitions that nobody has taken."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from strategies import Recipe, random_design_game, random_designs, random_game

from agents import ExactFollower
from games.tabular import TabularGame
from stackelberg import exact
from stackelberg.critics import TabularMemory, means
from stackelberg.exact import SoftResponse
from stackelberg.game import Game
from stackelberg.types import Commitment

ONES = {"states": 4, "leader_actions": 2, "follower_actions": 3}


def policies(game: Game, count: int, seed: int = 0) -> Commitment:
    shape = (count, game.observation_space.shape[0], game.model().leader_actions)
    logits = np.random.default_rng(seed).normal(size=shape)
    return Commitment(torch.softmax(torch.from_numpy(logits), -1), None)


def designs(game: Game, count: int) -> Commitment:
    x = random_designs(game, count, 0)
    return Commitment(torch.ones(count, game.states, 1, dtype=torch.float64), x)


def counted(game: Game, commitment: Commitment, tried: torch.Tensor, times: int) -> TabularMemory:
    """A memory in which the pairs `tried` [S, A, B] have been seen often, all others never."""
    model = game.model(commitment.design)
    memory = TabularMemory(game, 1)
    rng = np.random.default_rng(1)
    shape = memory.shape[1:]
    transition = model.transition.expand(len(commitment.policy), *shape, shape[0])[0].numpy()
    for index in zip(*np.nonzero(tried.numpy()), strict=True):
        row = transition[index]
        drawn = rng.multinomial(times, np.append(row, max(0.0, 1 - row.sum())))
        memory.arrivals[(0, *index)] = torch.from_numpy(drawn[:-1]).double()
        memory.visits[(0, *index)] = times
        for name in ("leader_reward", "follower_reward"):
            reward = getattr(model, name).expand(len(commitment.policy), *shape)[0]
            getattr(memory, name)[(0, *index)] = times * reward[index]
    memory.starts += 1
    return memory


def errors(game: Game, commitment: Commitment, memory: TabularMemory) -> torch.Tensor:
    """Summed absolute error of every row of P, [S, A, B]."""
    one = Commitment(*(part if part is None else part[:1] for part in commitment))
    true = game.model(one.design).transition
    return (memory.model(one).transition - true).abs().sum(-1).expand(memory.shape)[0]


def supported(game: Game, commitment: Commitment, memory: TabularMemory) -> torch.Tensor:
    """[S]: have all successors of a state, whatever the action, been seen?"""
    true = game.model(commitment.design).transition.expand(*memory.arrivals.shape)[0]
    reached = memory.arrivals[0].sum((1, 2)) > 0
    return (reached | ((true > 0).sum((1, 2)) == 0)).all(-1)


def first_tried(game: Game) -> torch.Tensor:
    shape = TabularMemory(game, 1).shape[1:]
    tried = torch.zeros(shape, dtype=torch.bool)
    tried[..., 0] = True
    return tried


@pytest.mark.parametrize("seed", range(5))
def test_a_design_tells_of_actions_never_taken(seed):
    """Rewards are known, one action of each state was seen: exact responses give all of P."""
    recipe = Recipe(seed=seed, states=4, follower_actions=3, dimension=5, moves_transition=False)
    game = random_design_game(recipe)
    commitment = designs(game, 40)
    memory = counted(game, commitment, first_tried(game), 200)
    before = errors(game, commitment, memory)
    memory.reveal(commitment, exact.best_response(game.model(commitment.design), commitment.policy))
    after = errors(game, commitment, memory)[supported(game, commitment, memory)]
    assert len(after) >= 2
    assert before.mean() > 0.1
    assert after.max() < 1e-3


@pytest.mark.parametrize("seed", range(3))
def test_a_policy_game_tells_where_rewards_were_seen(seed):
    game = random_game(Recipe(seed=seed, **ONES))
    commitment = policies(game, 40)
    tried = first_tried(game)
    tried[..., 1] = True
    memory = counted(game, commitment, tried, 10)
    before = errors(game, commitment, memory)
    memory.reveal(commitment, exact.best_response(game.model(), commitment.policy))
    after = errors(game, commitment, memory)
    assert before[tried].mean() > 0.2
    assert after[tried].max() < 1e-3
    unseen = means(memory.arrivals, memory.visits)[0][~tried]  # no reward, no equation
    assert torch.equal(memory.model(commitment).transition[0][~tried], unseen)


def test_a_confused_follower_is_hardly_listened_to():
    """Values that no response explains leave the counts as they are."""
    game = random_game(Recipe(seed=1, **ONES))
    commitment = policies(game, 40)
    memory = counted(game, commitment, torch.ones(4, 2, 3, dtype=torch.bool), 200)
    before = errors(game, commitment, memory)
    best = exact.best_response(game.model(), commitment.policy)
    noise = torch.from_numpy(np.random.default_rng(0).normal(size=best.value.shape))
    memory.reveal(commitment, SoftResponse(best.policy, best.value + noise, best.state_value))
    after = errors(game, commitment, memory)
    assert after.mean() < 1.3 * before.mean()


def test_small_errors_of_the_follower_cost_little():
    game = random_game(Recipe(seed=1, **ONES))
    commitment = policies(game, 100)
    found = []
    for size in (0.0, 1e-3, 1e-2):
        memory = counted(game, commitment, torch.ones(4, 2, 3, dtype=torch.bool), 20)
        best = exact.best_response(game.model(), commitment.policy)
        noise = torch.from_numpy(np.random.default_rng(0).normal(size=best.value.shape))
        memory.reveal(commitment, best._replace(value=best.value + size * noise))
        found.append(errors(game, commitment, memory).mean().item())
    memory = counted(game, commitment, torch.ones(4, 2, 3, dtype=torch.bool), 20)
    assert found == sorted(found)
    assert found[2] < errors(game, commitment, memory).mean()


def test_successors_never_seen_spoil_their_own_state_alone():
    recipe = Recipe(seed=2, states=4, follower_actions=3, dimension=5, moves_transition=False)
    game = random_design_game(recipe)
    commitment = designs(game, 40)
    memory = counted(game, commitment, first_tried(game), 500)
    lost = memory.arrivals[0, 0, :, :, 1].sum()
    assert lost > 0
    memory.visits[0, 0] -= memory.arrivals[0, 0, :, :, 1]
    memory.arrivals[0, 0, :, :, 1] = 0
    before = errors(game, commitment, memory)
    memory.reveal(commitment, exact.best_response(game.model(commitment.design), commitment.policy))
    after = errors(game, commitment, memory)
    assert after[1:].max() < 1e-3
    assert torch.equal(after[0], before[0])


def test_a_follower_that_cannot_see_the_action_does_not_tell():
    game = random_game(Recipe(seed=0, observes=False))
    commitment = policies(game, 4)
    memory = TabularMemory(game, 1)
    memory.reveal(commitment, exact.best_response(game.model(), commitment.policy))
    assert memory.revealed is None


def test_what_was_told_is_kept():
    game = random_game(Recipe(seed=3, **ONES))
    commitment = policies(game, 20)
    memory = counted(game, commitment, torch.ones(4, 2, 3, dtype=torch.bool), 5)
    memory.reveal(commitment, exact.best_response(game.model(), commitment.policy))
    other = TabularMemory(game, 1)
    other.load(memory.state())
    one, two = (m.model(commitment).transition for m in (memory, other))
    assert torch.equal(one, two)


@pytest.mark.parametrize("restart", ["carry", "reset"])
@pytest.mark.parametrize("sweeps", [1, 2, 3, 5])
def test_a_follower_that_stops_short_is_not_believed(sweeps, restart):
    """Its values solve another equation than those of a best response, and smoothly so."""
    game = random_game(Recipe(seed=1, **ONES, follower_discount=0.95))
    commitment = policies(game, 40)
    memory = counted(game, commitment, torch.ones(4, 2, 3, dtype=torch.bool), 200)
    before = errors(game, commitment, memory)
    follower = ExactFollower(sweeps, restart=restart)
    memory.reveal(commitment, follower.best_respond(game, commitment, ()).values)
    after = errors(game, commitment, memory)
    assert after.mean() <= 1.05 * before.mean()


def test_few_responses_are_not_believed():
    game = random_game(Recipe(seed=1, **ONES))
    for count in (1, 2, 4, 8):
        commitment = policies(game, count)
        memory = counted(game, commitment, torch.ones(4, 2, 3, dtype=torch.bool), 200)
        before = errors(game, commitment, memory)
        best = exact.best_response(game.model(), commitment.policy)
        noise = torch.from_numpy(np.random.default_rng(0).normal(size=best.value.shape))
        memory.reveal(commitment, best._replace(value=best.value + 0.003 * noise))
        assert torch.equal(errors(game, commitment, memory), before)


@pytest.mark.parametrize("seed", range(3))
def test_a_follower_that_plans_by_another_model_is_not_believed(seed):
    game = random_game(Recipe(seed=seed, **ONES))
    other = random_game(Recipe(seed=seed + 100, **ONES)).model()
    commitment = policies(game, 40)
    memory = counted(game, commitment, torch.ones(4, 2, 3, dtype=torch.bool), 100)
    before = errors(game, commitment, memory)
    planned = replace(game.model(), transition=other.transition)
    memory.reveal(commitment, exact.best_response(planned, commitment.policy))
    assert errors(game, commitment, memory).mean() <= 1.05 * before.mean()


def test_rewards_may_become_known_later():
    game = random_game(Recipe(seed=3, **ONES))
    commitment = policies(game, 40)
    memory = counted(game, commitment, first_tried(game), 100)
    memory.reveal(commitment, exact.best_response(game.model(), commitment.policy))
    later = counted(game, commitment, torch.ones(4, 2, 3, dtype=torch.bool), 100)
    later.revealed = memory.revealed
    assert errors(game, commitment, later).max() < 1e-3


def test_leaders_learn_each_from_its_own_followers():
    """Side by side as alone, though their supports are of different sizes."""
    recipe = Recipe(seed=2, states=4, follower_actions=3, dimension=5, moves_transition=False)
    game = random_design_game(recipe)
    commitment = designs(game, 80)
    memory = TabularMemory(game, 2)
    alone = [counted(game, commitment, first_tried(game), times) for times in (4, 300)]
    memory.load({k: torch.cat([one.state()[k] for one in alone]) for k in alone[0].state()})
    memory.reveal(commitment, exact.best_response(game.model(commitment.design), commitment.policy))
    pair = Commitment(commitment.policy[:2], commitment.design[:2])
    both = memory.model(pair).transition
    for m in range(2):
        one = memory.of(m).model(Commitment(pair.policy[[m]], pair.design[[m]])).transition
        torch.testing.assert_close(one[0], both[m], rtol=0, atol=1e-9)
    copy = memory.of(0)
    half = Commitment(commitment.policy[:40], commitment.design[:40])
    kept = {name: value.clone() for name, value in memory.state().items()}
    copy.reveal(half, exact.best_response(game.model(half.design), half.policy))
    for name, value in memory.state().items():
        assert torch.equal(value, kept[name]), name


@pytest.mark.parametrize("discount", [0.9, 0.99])
def test_the_level_of_values_tells_nothing(discount):
    """All rewards higher by 1000: the same rows."""
    base = random_game(Recipe(seed=4, **ONES, follower_discount=discount)).model()
    game = TabularGame(
        base.transition,
        base.leader_reward,
        base.follower_reward + 1000,
        follower_discount=discount,
        temperature=base.temperature,
    )
    commitment = policies(game, 60)
    tried = first_tried(game)
    tried[..., 1] = True
    memory = counted(game, commitment, tried, 300)
    memory.reveal(commitment, exact.best_response(game.model(), commitment.policy))
    assert errors(game, commitment, memory)[tried].max() < 1e-3
