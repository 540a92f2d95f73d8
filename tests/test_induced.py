"""The follower's induced MDP against the arrays of the game it is built from."""

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from games import discrete_toy, four_rooms
from games.tabular import TabularDesign, TabularGame
from stackelberg.errors import InputError
from stackelberg.game import Budget, Game
from stackelberg.induced import InducedEnv, InducedMDP, freeze, induced_observation_space
from stackelberg.types import Commitment

S, A, B = 4, 2, 3


def random_game(**settings) -> TabularGame:
    draw = np.random.default_rng(0)
    return TabularGame(
        draw.dirichlet(np.ones(S), (S, A, B)),
        draw.normal(size=(S, A, B)),
        draw.normal(size=(S, A, B)),
        initial=[0.7, 0.3, 0, 0],
        **{"termination": draw.uniform(0, 0.3, (S, A, B, S)), "horizon": 6} | settings,
    )


def random_commitment(leaders: int = 2) -> Commitment:
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(leaders, S, A, generator=draw, dtype=torch.float64)
    return Commitment(torch.softmax(logits, -1), None)


def design_commitment(states: int, items: int, spent: float) -> Commitment:
    design = torch.full((1, items), spent / items, dtype=torch.float64)
    return Commitment(torch.ones(1, states, 1, dtype=torch.float64), design)


def induced(game: Game, commitment: Commitment, copies: int = 64, leader: int = 0) -> InducedMDP:
    return InducedMDP(game, freeze(commitment, leader), copies, torch.Generator().manual_seed(1))


def test_transitions_follow_the_model_and_the_committed_leader():
    game, commitment = random_game(), random_commitment()
    play = induced(game, commitment, copies=4096, leader=1)
    model = game.model()
    arrived = torch.zeros(S, A, B, S)
    going = torch.zeros(S, A, B, S)
    moves = torch.zeros(3, S, A)  # the leader's: at a start, on the way, where it was cut off
    draw = torch.Generator().manual_seed(2)
    moves[0].index_put_(_pair(play.observation), torch.ones(4096), accumulate=True)
    for _ in range(60):
        pair = _pair(play.observation)
        action = torch.randint(B, (4096,), generator=draw)
        found = play.step(action)
        following = _pair(found.observation)
        index = (*pair, action, following[0])
        assert torch.equal(found.reward, model.follower_reward[*pair, action])
        arrived.index_put_(index, torch.ones(4096), accumulate=True)
        going.index_put_(index, (~found.terminated).float(), accumulate=True)
        for row, mask in ((1, ~found.truncated), (2, found.truncated)):
            moves[row].index_put_(following, mask.float(), accumulate=True)
        play.reset(found.terminated | found.truncated)
    total = model.transition + model.ending
    assert _agrees(arrived, arrived.sum(-1, keepdim=True), total)
    assert _agrees(going, arrived, model.transition / total)
    for row in moves:
        assert row.sum() > 1000
        assert _agrees(row, row.sum(-1, keepdim=True), commitment.policy[1])


def _agrees(count: torch.Tensor, tries: torch.Tensor, chance: torch.Tensor) -> bool:
    """Are binomial counts within five standard deviations of their chances?"""
    spread = (tries * chance * (1 - chance)).sqrt()
    return bool(((count - tries * chance).abs() <= 5 * spread + 1).all())


def _pair(observation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return observation[:, :S].argmax(-1), observation[:, S:].argmax(-1)


def test_time_limit_truncates_and_only_finished_copies_restart():
    game = discrete_toy.game(horizon=3)
    commitment = Commitment(torch.full((1, 3, 2), 0.5, dtype=torch.float64), None)
    play = induced(game, commitment, copies=2)
    stay = torch.zeros(2, dtype=torch.long)
    for step in range(1, 4):
        found = play.step(stay)
        assert found.truncated.tolist() == [step == 3] * 2
        assert not found.terminated.any()
    kept = play.observation[0].clone()
    play.reset(torch.tensor([False, True]))
    assert torch.equal(play.observation[0], kept)
    assert play.step(stay).truncated.tolist() == [True, False]


def test_termination_is_not_truncation():
    game = random_game(termination=np.ones(S), horizon=1)
    found = induced(game, random_commitment()).step(torch.zeros(64, dtype=torch.long))
    assert found.terminated.all()
    assert not found.truncated.any()


def test_the_follower_sees_the_leader_only_where_it_observes_it():
    shown = induced_observation_space(random_game())
    hidden = induced_observation_space(random_game(follower_observes_action=False))
    assert shown.shape == (S + A,)
    assert hidden.shape == (S,)
    play = induced(random_game(follower_observes_action=False), random_commitment())
    assert play.observation.shape == (64, S)


def test_a_design_reaches_every_step():
    def reward(design: torch.Tensor) -> torch.Tensor:
        return design.unsqueeze(-1).expand(-1, S, B)

    kernel = np.full((S, B, S), 1 / S)
    game = TabularDesign(Budget(S, 1.0), kernel, np.zeros((S, B)), reward)
    commitment = Commitment(
        torch.ones(1, S, 1, dtype=torch.float64), torch.tensor([[0.1, 0.2, 0.3, 0.4]]).double()
    )
    play = induced(game, commitment)
    for _ in range(3):
        state = play.observation.argmax(-1)
        found = play.step(torch.zeros(64, dtype=torch.long))
        assert torch.allclose(found.reward, (state + 1).double() / 10)


@pytest.mark.parametrize(
    ("game", "commitment"),
    [
        (random_game(), random_commitment()),
        (random_game(follower_observes_action=False), random_commitment()),
        (four_rooms.game(), design_commitment(104, 104, 0.1)),
    ],
    ids=["shown", "hidden", "design"],
)
@pytest.mark.filterwarnings("ignore:.*alternative render modes.*")
def test_gymnasium_accepts_the_environment(game, commitment):
    check_env(InducedEnv(game, freeze(commitment)))


def test_an_environment_repeats_itself_under_its_seed():
    def episode(env: InducedEnv, seed: int | None) -> list:
        rows = [env.reset(seed=seed)[0].tolist()]
        for _ in range(6):
            observation, reward, terminated, truncated, _ = env.step(1)
            rows.append((observation.tolist(), reward, terminated, truncated))
            if terminated or truncated:
                break
        return rows

    env = InducedEnv(random_game(), freeze(random_commitment()))
    first = [episode(env, 5), episode(env, None)]
    again = [episode(env, 5), episode(env, None)]
    assert first == again
    assert episode(env, 6) != first[0]


def test_bad_number_of_copies_is_refused():
    with pytest.raises(InputError, match="expected copies >= 1; got 0"):
        induced(random_game(), random_commitment(), copies=0)
