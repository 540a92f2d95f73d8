"""Play against the rules: what is sampled has the distribution that the arrays say."""

import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from strategies import (
    Recipe,
    design_games,
    random_design_game,
    random_designs,
    random_game,
    random_policies,
    recipes,
    tabular_games,
)

from games import four_rooms, matrix
from stackelberg import exact
from stackelberg.access import TrajectoriesAccess
from stackelberg.model import TabularModel
from stackelberg.rollout import Trajectories, play
from stackelberg.types import Commitment, TabularResponse

LEADERS = 3


def commitment_of(game, count=LEADERS, seed=0) -> Commitment:
    """Different policies, or different designs."""
    if game.leader_moves == "once":
        policy = torch.ones(count, game.states, 1, dtype=torch.float64)
        return Commitment(policy, random_designs(game, count, seed))
    return Commitment(
        random_policies(count, game.states, int(game.leader_space.n), seed=seed), None
    )


def response_of(game, commitment, seed=1) -> TabularResponse:
    """Any behaviour; for a follower that cannot see the leader's action, the same for all."""
    count, states, leader_actions = commitment.policy.shape
    actions = int(game.follower_space.n)
    if game.follower_observes_action:
        return TabularResponse(
            random_policies(count, states, leader_actions, actions, seed=seed), None
        )
    blind = random_policies(count, states, 1, actions, seed=seed)
    return TabularResponse(blind.expand(count, states, leader_actions, actions), None)


def generators(count=LEADERS, seed=0):
    return [np.random.default_rng([seed, m]) for m in range(count)]


PATHS = {"in tables": lambda response: response, "stepped": TrajectoriesAccess}  # which hides them
both_paths = pytest.mark.parametrize("path", PATHS)


def played(game, commitment, response, path="in tables", **options) -> Trajectories:
    response = PATHS[path](response)
    given = {"generators": generators(len(commitment.policy)), "streams": 50, "steps": 30}
    return play(game, commitment, response, **given | options)


def plain(model: TabularModel, commitment, response, m) -> dict[str, np.ndarray]:
    """The arrays of leader m in NumPy, without a leading dimension."""

    def of(tensor, *shape):
        return tensor.expand(len(commitment.policy), *shape)[m].numpy()

    shape = (model.states, model.leader_actions, model.follower_actions)
    going = of(model.transition, *shape, model.states)
    ending = np.zeros_like(going)
    if model.ending is not None:
        ending = of(model.ending, *shape, model.states)
    return {
        "going": going,
        "ending": ending,
        "leader_reward": of(model.leader_reward, *shape),
        "follower_reward": of(model.follower_reward, *shape),
        "initial": of(model.initial, model.states),
        "weight": commitment.policy[m].numpy()[..., None] * response.policy[m].numpy(),
    }


def expected_visits(arrays, steps, limit) -> np.ndarray:
    """P of (s, a, b, s', ended) over `steps` steps, by recursion over time: [S, A, B, S, 2]."""
    clocks = np.zeros((limit, len(arrays["initial"])))  # [time in the episode, s]
    clocks[0] = arrays["initial"]
    kinds = np.stack([arrays["going"], arrays["ending"]], -1)
    total = np.zeros_like(kinds)
    for _ in range(steps):
        flow = clocks.sum(0)[:, None, None] * arrays["weight"]
        total += flow[..., None, None] * kinds
        moved = np.einsum("ks,sab,sabt->kt", clocks, arrays["weight"], arrays["going"])
        clocks = np.zeros_like(clocks)
        clocks[1:] = moved[:-1]
        clocks[0] = (1 - moved[:-1].sum()) * arrays["initial"]
    return total


def expected_episode(arrays, steps) -> np.ndarray:
    """As `expected_visits`, for one episode that nothing follows."""
    kinds = np.stack([arrays["going"], arrays["ending"]], -1)
    total, now = np.zeros_like(kinds), arrays["initial"]
    for _ in range(steps):
        total += (now[:, None, None] * arrays["weight"])[..., None, None] * kinds
        now = np.einsum("s,sab,sabt->t", now, arrays["weight"], arrays["going"])
    return total


def counted(trajectories, shape, m) -> np.ndarray:
    """Per-stream counts of (s, a, b, s', ended): [N, S, A, B, S, 2]."""
    t = trajectories
    parts = (t.state, t.leader_action, t.follower_action, t.next_state, t.terminated.long())
    index = np.ravel_multi_index([part[m].numpy() for part in parts], shape)
    size = int(np.prod(shape))
    return np.stack([np.bincount(row, minlength=size).reshape(shape) for row in index])


def assert_unbiased(samples, expected):
    """The mean of independent counts [N, ...] is `expected`; what is impossible never comes."""
    error = np.abs(samples.mean(0) - expected)
    variance = np.maximum(samples.var(0, ddof=1), expected)  # of few events the first says little
    bound = 5 * np.sqrt(variance / len(samples)) + 8 / len(samples)
    assert (error <= np.where(expected > 0, bound, 0.0)).all(), (error / bound).max()


KINDS = {
    "going on": Recipe(seed=1, states=4, leader_actions=3, follower_actions=2),
    "ending anywhere": Recipe(seed=2, states=3, termination="anywhere", transitions="sparse"),
    "ending on arrival": Recipe(seed=3, states=5, termination="on arrival", observes=False),
    "deterministic": Recipe(seed=4, states=4, transitions="deterministic", follower_actions=4),
}
MAKERS = {"every step": random_game, "once": random_design_game}


@pytest.fixture(params=KINDS, ids=lambda kind: kind.replace(" ", "-"))
def recipe(request):
    return KINDS[request.param]


@pytest.fixture(params=MAKERS, ids=lambda kind: kind.replace(" ", "-"))
def game(request, recipe):
    return MAKERS[request.param](recipe)


@both_paths
def test_frequencies(game, path):
    """Every (s, a, b, s', ended) of every leader comes as often as its arrays say."""
    commitment = commitment_of(game)
    response = response_of(game, commitment)
    found = played(game, commitment, response, path, streams=4000, steps=11, horizon=4)
    model = game.model(commitment.design)
    shape = (*(model.states, model.leader_actions, model.follower_actions, model.states), 2)
    for m in range(LEADERS):
        expected = expected_visits(plain(model, commitment, response, m), 11, 4)
        assert expected.sum() == pytest.approx(11)
        assert_unbiased(counted(found, shape, m), expected)


def test_frequencies_of_step(game):
    """`Game.step` against the same recursion; the copies in one call face different leaders."""
    commitment = commitment_of(game, 2)
    response = response_of(game, commitment)
    model = game.model(commitment.design)
    shape = (model.states, model.leader_actions, model.follower_actions, model.states, 2)
    arrays = [plain(model, commitment, response, m) for m in range(2)]
    n, generator = 8000, torch.Generator().manual_seed(0)
    leader = torch.arange(n) % 2
    state, counts = game.initial(n, generator), np.zeros((n, *shape))
    alive = np.ones(n, bool)
    for _ in range(4):
        ours = torch.multinomial(commitment.policy[leader, state], 1, generator=generator)[:, 0]
        chances = response.policy[leader, state, ours]
        theirs = torch.multinomial(chances, 1, generator=generator)[:, 0]
        action = ours if commitment.design is None else commitment.design[leader]
        outcome = game.step(state, action, theirs, generator)
        index = (state, ours, theirs, outcome.state, outcome.terminated.long())
        np.add.at(counts, (np.arange(n)[alive], *(part.numpy()[alive] for part in index)), 1)
        for name in ("leader_reward", "follower_reward"):
            tables = np.stack([each[name] for each in arrays])
            paid = tables[leader.numpy(), state.numpy(), ours.numpy(), theirs.numpy()]
            np.testing.assert_allclose(getattr(outcome, name).numpy(), paid)
        alive &= ~outcome.terminated.numpy()
        state = outcome.state
    for m in range(2):
        assert_unbiased(counts[m::2], expected_episode(arrays[m], 4))


@pytest.mark.parametrize("termination", ["never", "anywhere", "on leaving"])
@pytest.mark.parametrize("observes", [True, False])
@both_paths
def test_returns_are_the_exact_objective(termination, observes, path):
    """The mean discounted return of episodes that are hardly cut is J, for all leaders at once."""
    recipe = Recipe(
        seed=7, states=4, termination=termination, leader_discount=0.7, observes=observes
    )
    game = random_game(recipe)
    commitment = commitment_of(game)
    model = game.model()
    best = exact.best_response(model, commitment.policy)
    response = TabularResponse(best.policy, best)
    found = played(game, commitment, response, path, streams=8000, steps=50, horizon=50)
    returns = found.first_returns(found.leader_reward, game.leader_discount)
    expected = exact.objective(model, commitment.policy)
    error = (returns.mean(1) - expected) / (returns.std(1) / 8000**0.5)
    assert error.abs().max() < 4
    assert expected.std() > 0.01  # the leaders do differ


@both_paths
def test_follower_returns_are_its_value(path):
    """The same for the follower, with the entropy that its value adds."""
    game = random_game(Recipe(seed=8, states=4, termination="anywhere", follower_discount=0.8))
    commitment = commitment_of(game)
    response = response_of(game, commitment)
    found = played(game, commitment, response, path, streams=8000, steps=60, horizon=60)
    leader = torch.arange(LEADERS)[:, None, None]
    chance = response.policy[leader, found.state, found.leader_action, found.follower_action]
    reward = found.follower_reward - game.temperature * chance.log()
    returns = found.first_returns(reward, game.follower_discount)
    value = exact.follower_values(game.model(), commitment.policy, response.policy)
    expected = (game.model().initial * value).sum(-1)
    error = (returns.mean(1) - expected) / (returns.std(1) / 8000**0.5)
    assert error.abs().max() < 4


@both_paths
def test_returns_of_a_matrix_game(path):
    game = matrix.game("commitment", temperature=0.2)
    commitment = Commitment(torch.tensor([[[0.6, 0.4]]], dtype=torch.float64), None)
    best = exact.best_response(game.model(), commitment.policy)
    response = TabularResponse(best.policy, best)
    found = played(game, commitment, response, path, streams=400, steps=100)
    assert found.terminated.all()
    assert found.episodes.tolist() == [40_000]
    error = found.leader_reward.mean() - exact.objective(game.model(), commitment.policy)
    assert error.abs() < 4 * found.leader_reward.std() / 200


def test_returns_keep_double_precision():
    """gamma^k is a double, also where single precision has no number that small."""
    ones = torch.ones(1, 1, 60, dtype=torch.float64)
    nought = torch.zeros(1, 1, 60, dtype=torch.long)
    found = Trajectories(
        state=nought,
        leader_action=nought,
        follower_action=nought,
        leader_reward=ones,
        follower_reward=ones,
        next_state=nought,
        terminated=nought > 0,
        time=torch.arange(60)[None, None],
    )
    expected = sum(0.97**k for k in range(60))
    assert found.first_returns(ones, 0.97).item() == pytest.approx(expected, rel=1e-13)


@both_paths
@settings(max_examples=40, deadline=None, derandomize=True)
@given(game=tabular_games() | design_games())
def test_bookkeeping(game, path):
    """Clocks, endings, continuations and rewards are consistent within every stream."""
    commitment = commitment_of(game)
    response = response_of(game, commitment)
    found = played(game, commitment, response, path, streams=6, steps=25, horizon=5)
    clock, state, over = found.time, found.state, found.terminated
    assert found.steps == 6 * 25
    assert (clock[..., 0] == 0).all()
    assert clock.max() <= 4
    fresh = over | (clock == 4)
    following = torch.where(fresh, 0, clock + 1)[..., :-1]
    assert torch.equal(clock[..., 1:], following)
    carried = ~fresh[..., :-1]
    assert torch.equal(state[..., 1:][carried], found.next_state[..., :-1][carried])
    assert torch.equal(found.episodes, (clock == 0).sum((1, 2)))

    model = game.model(commitment.design)
    assert (model.initial[state[clock == 0]] > 0).all()
    for m in range(LEADERS):
        arrays = plain(model, commitment, response, m)
        index = tuple(x[m].numpy() for x in (state, found.leader_action, found.follower_action))
        arrival = (*index, found.next_state[m].numpy())
        ended = over[m].numpy()
        assert (arrays["weight"][index] > 0).all()
        assert (np.where(ended, arrays["ending"][arrival], arrays["going"][arrival]) > 0).all()
        for who in ("leader_reward", "follower_reward"):
            np.testing.assert_allclose(getattr(found, who)[m], arrays[who][index], rtol=1e-12)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(recipe=recipes())
def test_a_leader_depends_on_its_own_generator_alone(recipe):
    for game in (random_game(recipe), random_design_game(recipe)):
        commitment = commitment_of(game)
        response = response_of(game, commitment)
        together = played(game, commitment, response, streams=5, steps=12)
        for m in range(LEADERS):
            design = commitment.design
            one = slice(m, m + 1)
            alone = play(
                game,
                Commitment(commitment.policy[one], None if design is None else design[one]),
                TabularResponse(response.policy[one], None),
                streams=5,
                steps=12,
                generators=generators()[one],
            )
            for name in together.parts():
                assert torch.equal(getattr(together, name)[m], getattr(alone, name)[0]), name


def test_play_goes_on_with_the_generators():
    game = random_game(Recipe(seed=5, states=6))
    commitment = commitment_of(game)
    response = response_of(game, commitment)
    first, again, rng = generators(), generators(), generators(seed=1)
    one = played(game, commitment, response, generators=first)
    two = played(game, commitment, response, generators=first)
    same = played(game, commitment, response, generators=again)
    other = played(game, commitment, response, generators=rng)
    assert torch.equal(one.state, same.state)
    assert not torch.equal(one.state, two.state)
    assert not torch.equal(one.state, other.state)


@pytest.mark.parametrize("termination", ["never", "anywhere"])
def test_play_draws_no_more_than_it_uses(termination):
    """Per step and stream one number each for a start, an outcome and an ending."""
    game = random_game(Recipe(seed=5, termination=termination))
    commitment = commitment_of(game)
    used, counted_off = generators(), generators()
    played(game, commitment, response_of(game, commitment), generators=used, streams=7, steps=5)
    for one, other in zip(used, counted_off, strict=True):
        other.random(3 * 7 * 5)
        assert one.random() == other.random()


@both_paths
def test_play_follows_the_simulated_kernel(path):
    """FourRooms "reference" is planned on one kernel and played on the other."""
    game = four_rooms.game(kernel="reference")
    commitment = Commitment(
        torch.ones(1, 104, 1, dtype=torch.float64), torch.zeros(1, 104, dtype=torch.float64)
    )
    right = torch.zeros(1, 104, 1, 4, dtype=torch.float64)
    right[..., 1] = 1
    found = played(game, commitment, TabularResponse(right, None), path, streams=5000, steps=1)
    start = torch.tensor(four_rooms.INDEX[(4, 1)])
    assert (found.state == start).all()
    moved = (found.next_state == four_rooms.INDEX[(4, 2)]).double().mean().item()
    assert moved == pytest.approx(0.67, abs=5 * (0.67 * 0.33 / 5000) ** 0.5)


@both_paths
def test_horizon_of_the_game_is_the_default(path):
    game = random_game(Recipe(seed=6))
    commitment = commitment_of(game)
    found = played(game, commitment, response_of(game, commitment), path)
    assert found.time.max() == game.horizon - 1 == 7


def test_play_is_vectorised():
    """A loose bound: a loop over streams in Python would miss it many times over."""
    game = random_game(Recipe(seed=9, states=6, termination="anywhere"))
    commitment = commitment_of(game)
    response = response_of(game, commitment)
    begun = time.perf_counter()
    found = played(game, commitment, response, streams=200, steps=500)
    assert LEADERS * found.steps / (time.perf_counter() - begun) > 100_000


def test_stepping_is_vectorised():
    game = random_game(Recipe(seed=9, states=6, termination="anywhere"))
    commitment = commitment_of(game)
    response = response_of(game, commitment)
    begun = time.perf_counter()
    found = played(game, commitment, response, "stepped", streams=500, steps=50)
    assert LEADERS * found.steps / (time.perf_counter() - begun) > 100_000


@pytest.mark.parametrize("path", ["tables", "steps"])
def test_playing_once_stops_when_all_first_episodes_are_over(path):
    """What was played until then is the same."""
    game = random_game(Recipe(seed=3, states=3, termination="anywhere"))
    commitment = Commitment(random_policies(2, 3, int(game.leader_space.n)))
    response = response_of(game, commitment)
    if path == "steps":
        response = TrajectoriesAccess(response)

    def played_once(once):
        generators = [np.random.default_rng(m) for m in range(2)]
        rules = {"streams": 5, "steps": 400, "horizon": 300, "once": once}
        return play(game, commitment, response, generators=generators, **rules)

    short, long = played_once(True), played_once(False)
    length = short.time.shape[-1]
    over = short.terminated.cumsum(-1) > 0
    assert over[..., -1].all()
    assert not over[..., -2].all()
    for name, part in short.parts().items():
        assert torch.equal(part, getattr(long, name)[..., :length])
