"""Leaders in games without tables: what they commit to, who has left, how they step."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hidden import Hidden, HidingFollower, Lookup, best_response
from random_games import gradient
from strategies import Recipe, random_game

from agents import TabularSoftmax, default_leader
from agents.leaders import MLPCategorical
from stackelberg import Coordinator, TrainConfig
from stackelberg.access import ValueAccess
from stackelberg.estimators import Evidence, gae
from stackelberg.estimators.signals import Signals
from stackelberg.hypergradient import Critics
from stackelberg.rollout import play
from stackelberg.types import Commitment, commit

GAME = Hidden(random_game(Recipe(seed=1, states=3, leader_actions=2, follower_actions=3)))
STREAMS, STEPS, STAY = 2, 6, 2


def test_a_commitment_stays_what_it_was():
    """Whatever becomes of its leader; and no gradient runs through it."""
    leader, seen = MLPCategorical(4, 2, seeds=(0, 1)), torch.randn(2, 5, 4)
    kept = commit(GAME, leader).detach()
    before = kept.rule(seen)
    assert torch.equal(before, leader.log_policy(seen))
    assert not before.requires_grad
    with torch.no_grad():
        for parameter in leader.parameters():
            parameter.mul_(2.0)
    assert torch.equal(kept.rule(seen), before)
    assert torch.equal(kept.detach().rule(seen), before)
    assert not torch.equal(commit(GAME, leader).rule(seen), before)


def test_a_commitment_does_not_copy_what_the_leader_refers_to():
    leader = Lookup(GAME, torch.zeros(1, 3, 2).double())
    kept = commit(GAME, leader).detach()
    with torch.no_grad():
        leader.logits.add_(torch.tensor([0.0, 3.0]))
    assert (kept.rule(GAME.features[None]).exp() == 0.5).all()
    assert kept.rule.__wrapped__.__self__.game is GAME


# ---------------------------------------------------------------- who has left


def evidence(*out: str, response: float | None = None) -> tuple[Evidence, Commitment]:
    """Of play with random critics, in which players have left after two steps."""
    leader = Lookup(GAME, torch.zeros(1, 3, 2).double())
    commitment, rng = commit(GAME, leader).detach(), [np.random.default_rng(0)]
    best = best_response(GAME, commitment)
    seen = play(GAME, commitment, best, streams=STREAMS, steps=STEPS, generators=rng)
    gone = (torch.arange(2 * STREAMS * STEPS) % STEPS >= STAY)[None]
    seen = replace(seen, points=seen.points._replace(**{f"{who}_out": gone for who in out}))
    attached = commit(GAME, leader, seen.points.leader)
    found = Evidence(
        game=GAME,
        leader=leader,
        commitment=attached.detach(),
        follower=ValueAccess(best),
        trajectories=seen,
        memory=type("Knowing", (), {"temperature": GAME.temperature})(),
        noise=rng,
    )
    draw, count = torch.Generator().manual_seed(0), gone.shape[1]
    shapes = {"benefit": (2, 3), "leader_value": (2,), "follower_value": (2,)}
    shapes |= dict.fromkeys(("response", "follower_action_value", "leader_action_value"), (2, 3))
    tables = {
        name: 0.1 + torch.rand(1, count, *shapes.get(name, ()), generator=draw).double()
        for name in Critics._fields
    }
    if response is not None:
        tables["response"][gone] = response
    found.__dict__["critics"] = Critics(**tables | {"policy": attached.policy.detach()})
    return found, attached


def graded(found: Evidence, surrogate: torch.Tensor) -> torch.Tensor:
    return gradient(surrogate, found.leader.logits)


def test_a_leader_that_has_left_has_no_scores():
    weight = torch.rand(1, STREAMS, STEPS, generator=torch.Generator().manual_seed(1)).double()

    def score(weight: torch.Tensor, *out: str) -> torch.Tensor:
        found, attached = evidence(*out)
        return graded(found, Signals(found, attached).score(weight))

    expected = score(weight * (torch.arange(STEPS) < STAY))
    torch.testing.assert_close(score(weight, "leader"), expected)
    assert (score(weight) - expected).norm() > 0.1 * expected.norm()


def test_a_follower_that_has_left_is_not_surprised():
    """-beta log g counts nothing then, as if it had done what it always does."""
    found, sure, plain = (
        graded(e, gae(e, attached)[1])
        for e, attached in (evidence("follower"), evidence(response=1.0), evidence())
    )
    torch.testing.assert_close(found, sure)
    assert (plain - sure).norm() > 1e-3 * sure.norm()


# ---------------------------------------------------------------- whole runs


@pytest.mark.parametrize("optimiser", ["trust-region", "natural-gradient", "ppo"])
@pytest.mark.parametrize("states", [1, 3])
def test_tables_of_leaders_that_observe_one_hot_meet_every_optimiser(states, optimiser):
    inner = random_game(Recipe(seed=2, states=states, leader_actions=2, follower_actions=2))
    game = Hidden(inner, torch.eye(states))
    game.one_hot = True
    leader = default_leader(game, (0, 1))
    assert isinstance(leader, TabularSoftmax)
    before = leader.logits.detach().clone()
    rules = {"access": "trajectories", "evaluation_episodes": 2, "steps": 20}
    config = TrainConfig(iterations=2, optimiser=optimiser, **rules)
    Coordinator(game, leader, HidingFollower(), config, seeds=(0, 1)).run()
    assert not torch.equal(leader.logits, before)
