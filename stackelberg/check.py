"""Is a game fit to train on? Item by item what is right, what to mend, and the numbers."""

import contextlib
import copy
import io
import math
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector.utils import batch_space
from pettingzoo.test import parallel_api_test
from torch import Tensor

from stackelberg import exact, registry
from stackelberg.access import restrict
from stackelberg.coordinator import memory_of
from stackelberg.environment import parallel_env
from stackelberg.errors import InputError, nearest
from stackelberg.estimators import Evidence, estimator
from stackelberg.flat_spaces import flat_observation_space, flatten, outside
from stackelberg.game import Game, Step, log_transitions, reenacted
from stackelberg.oracle import require_maximum
from stackelberg.parallel import ParallelGame, from_parallel_env, made
from stackelberg.rollout import play
from stackelberg.trust_region import inner, norm
from stackelberg.types import commit

Status = Literal["ok", "warn", "fail"]

WALK = 400  # steps in which an environment is watched
COPIES, LONGEST = 16, 200  # of sampled play, and the steps of its episodes
MOVES = 8  # actions of a player that are compared
STREAMS = 64  # of the play that a gradient is estimated from
NARROW, WIDE = 0.1, 1e3  # spread of action values in temperatures, where a follower learns little
BEYOND = 0.5  # share of a discounted return that the time limit may hide
ALIGNED = 0.5  # cosine to the exact hypergradient
SLOW = 300.0  # steps per second
TIMED = 0.2  # seconds in which they are counted
RECORDED = 25  # steps whose derivatives are compared with differences
NUDGE = 2e-3  # of a design's range, by which it is moved for them
OFF = 0.05  # of its size, by which a derivative may miss them; and the share of steps that may


@dataclass(frozen=True)
class Finding:
    """One item: what was found, in numbers, and what to do about it."""

    name: str
    status: Status  # "fail" must be mended, "warn" may be meant
    found: str
    advice: str = "nothing to do"


@dataclass
class _Walk:
    """An environment under random actions, episode after episode."""

    first: list[dict[Any, Any]] = field(default_factory=list)  # observations at every start
    steps: list[tuple[dict[Any, Any], ...]] = field(default_factory=list)  # what step() returned
    error: str = ""  # why it ended, if it did before `WALK` steps

    def observed(self) -> Iterator[tuple[Any, Any]]:
        for observations in (*self.first, *(step[0] for step in self.steps)):
            yield from observations.items()


def check_game(
    subject: Game | Callable[[], Any], leader: Any | None = None, **settings: Any
) -> list[Finding]:
    """Examine a game, or what makes one; a broken game is a finding, never an exception.

    Args:
        subject: a Game, or a function that returns one or a PettingZoo environment.
        leader, settings: of an environment, see `from_parallel_env`.
    """
    findings: list[Finding] = []
    game: Game | None = None
    make: Callable[[], Any]

    def note(name: str, item: Callable[..., Finding], *given: Any) -> None:
        findings.append(_guarded(name, item, *given))

    with _quiet():
        try:
            thing = subject if isinstance(subject, Game) else _called(subject)
            if isinstance(thing, ParallelGame):
                game, make = thing, thing.make_env
            elif isinstance(thing, Game):
                game, make = thing, lambda: parallel_env(thing)
            else:
                made(lambda: thing)  # an environment, or this says what it is
                assert callable(subject)
                make = subject
            for space in ("leader_space", "follower_space", "observation_space") * bool(game):
                getattr(game, space)  # or this says that it is missing
        except (Exception, SystemExit) as error:
            return [_failure("game", error)]
        note("api", _api, make)
        walk = _walk(make, 0)
        note("episodes", _episodes, walk)
        note("determinism", _determinism, make, walk)
        note("observations", _observations, make, walk)
        note("spaces", _spaces, make)
        note("rewards", _rewards, walk)
        if game is None:
            try:
                game = from_parallel_env(make, leader, **settings)
            except (Exception, SystemExit) as error:
                return [*findings, _failure("game", error)]
        findings.append(Finding("game", "ok", _described(game)))
        if game.grid is not None:
            note("grid", _grid, game)
        exactly = game.tabular
        note("influence", _exact_influence if exactly else _sampled_influence, game)
        note("temperature", _exact_scale if exactly else _sampled_scale, game)
        note("horizon", _horizon, game)
        if game.leader_moves == "once" and not exactly:
            note("derivative", _derivative_told, game)
        if game.names:
            note("names", _names, game)
        if exactly or game.linear:
            note("gradient", _gradient, game)
        if game.linear:
            note("bounds", _bounds, game)
        note("speed", _speed, game)
    return findings


def _called(subject: Any) -> Any:
    if callable(subject):
        return subject()
    raise InputError(
        "a Game, or a function that makes one or a PettingZoo environment",
        type(subject).__name__,
        "pass the function, not what it returns",
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What games and conformance tests print stays out of the report."""
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield


def _guarded(name: str, item: Callable[..., Finding], *given: Any) -> Finding:
    try:
        return item(*given)
    except (Exception, SystemExit) as error:
        return _failure(name, error)


def _grid(game: Game) -> Finding:
    """Is the map that the game is drawn on one of its states and its follower's moves?"""
    game.check_grid()
    assert game.grid is not None
    layers = game.observation_space.shape[0] // len(game.grid.cells)
    return Finding("grid", "ok", f"{len(game.grid.cells)} cells, layers of them: {layers}")


def _failure(name: str, error: BaseException) -> Finding:
    said = " ".join(str(error).split())
    if isinstance(error, InputError):
        found, _, advice = said.rpartition("; ")
        return Finding(name, "fail", found, advice)
    said = said[:300]
    return Finding(name, "fail", f"{type(error).__name__}: {said}", "mend what raises it")


def _described(game: Game) -> str:
    forms = {"given in arrays": game.tabular, "given in matrices": game.linear}
    kind = next((form for form, its in forms.items() if its), "stepped, with no tables to read")
    return (
        f"'{game.name}' is {kind}: leader {game.leader_space}, follower {game.follower_space}, "
        f"temperature {game.temperature:g}, horizon {game.horizon}"
    )


# ---------------------------------------------------------------- as an environment


EXPECTED = ("We recommend agents to be named", "Observation is a single number", "State is a")


def _api(make: Callable[[], Any]) -> Finding:
    """PettingZoo's own conformance test."""
    env = made(make)
    for i, agent in enumerate(env.possible_agents):
        env.action_space(agent).seed(i)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        parallel_api_test(env, num_cycles=WALK // 4)
    texts = [str(one.message) for one in said if issubclass(one.category, UserWarning)]
    told = [text for text in texts if not text.startswith(EXPECTED)]
    if told:
        return Finding("api", "warn", f"parallel_api_test warns: {told[0]}", "do what it asks for")
    return Finding("api", "ok", "it passes PettingZoo's own test, parallel_api_test")


def _walk(make: Callable[[], Any], seed: int) -> _Walk:
    walk = _Walk()
    try:
        env = made(make)
        actions = {agent: env.action_space(agent) for agent in env.possible_agents}
        for i, space in enumerate(actions.values()):
            space.seed(seed + i)
        while len(walk.steps) < WALK:
            start = env.reset(seed=seed + len(walk.first))[0]
            walk.first.append(copy.deepcopy(dict(start)))
            while env.agents and len(walk.steps) < WALK:
                found = env.step({agent: actions[agent].sample() for agent in env.agents})
                walk.steps.append(tuple(copy.deepcopy(dict(part)) for part in found[:4]))
            if len(walk.first) > len(walk.steps) + 1:
                walk.error = "two episodes in a row have no step: agents is empty after reset()"
                break
    except (Exception, SystemExit) as error:
        walk.error = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return walk


def _episodes(walk: _Walk) -> Finding:
    count = f"{len(walk.steps)} steps of random actions, in {_episodes_of(len(walk.first))}"
    if walk.error:
        return Finding("episodes", "fail", f"after {count}: {walk.error}", "mend reset() or step()")
    ended = sum(any(step[2].values()) for step in walk.steps)
    cut = sum(any(step[3].values()) for step in walk.steps)
    said = (
        f"{count}: {ended} ended by the rules (terminated), {cut} cut by a time limit (truncated)"
    )
    return Finding("episodes", "ok", said)


def _episodes_of(count: int) -> str:
    return "1 episode" if count == 1 else f"{count} episodes"


def _determinism(make: Callable[[], Any], walk: _Walk) -> Finding:
    """Do two fresh environments play the same episodes from the same seeds?"""
    again, name = _walk(make, 0), "determinism"
    if not walk.steps:
        return Finding(name, "fail", "there is no step to compare", "see episodes, above")
    for i, (one, other) in enumerate(
        [*zip(walk.first, again.first, strict=False), *zip(walk.steps, again.steps, strict=False)]
    ):
        try:
            np.testing.assert_equal(one, other)
        except AssertionError:
            step = i - min(len(walk.first), len(again.first))
            where = f"step {step + 1}" if step >= 0 else f"the start of episode {i + 1}"
            return Finding(
                name,
                "fail",
                f"two environments with the same seeds and actions differ at {where}",
                "draw all randomness from a generator that reset(seed=...) makes",
            )
    if len(walk.steps) != len(again.steps):
        counts = f"{len(walk.steps)} and {len(again.steps)} steps"
        return Finding(name, "fail", f"the same seeds give {counts}", "seed all randomness")
    said = f"two environments with the same seeds and actions play the same {len(walk.steps)} steps"
    return Finding(name, "ok", said)


def _observations(make: Callable[[], Any], walk: _Walk) -> Finding:
    """Is everything observed inside its space?"""
    env, name = made(make), "observations"
    own = {agent: env.observation_space(agent) for agent in env.possible_agents}
    boxes = {agent: flat_observation_space(agent, space) for agent, space in own.items()}
    count, loose = 0, ""
    for agent, observation in walk.observed():
        count += 1
        flat = flatten(own[agent], observation)
        if flat is None or outside(boxes[agent], flat[None]).any():
            return Finding(
                name,
                "fail",
                f"observation {count} of agent '{agent}' is not in {own[agent]}: "
                f"{' '.join(repr(observation).split())[:120]}",
                "mend it, or observation_space()",
            )
        if not loose and not own[agent].contains(observation):
            kind = getattr(observation, "dtype", type(observation).__name__)
            loose = f"agent '{agent}' observes {kind}, while its space is {own[agent]}"
    if not count:
        return Finding(name, "fail", "nothing was observed", "see episodes, above")
    if loose:
        return Finding(name, "warn", loose, "return the space's own dtype")
    return Finding(name, "ok", f"all {count} observations lie in the agents' spaces")


def _spaces(make: Callable[[], Any]) -> Finding:
    """Are the spaces of an agent always the same objects?"""
    env, name = made(make), "spaces"
    for agent in env.possible_agents:
        for method in (env.observation_space, env.action_space):
            one, other = method(agent), method(agent)
            what = f"{method.__name__}('{agent}')"
            if one != other:
                return Finding(name, "fail", f"{what} is {one}, then {other}", "keep it the same")
            if one is not other:
                advice = "make it once, in __init__: seeds of its samples are lost otherwise"
                return Finding(name, "warn", f"{what} is a new object with every call", advice)
    said = "observation_space() and action_space() return the same object at every call"
    return Finding(name, "ok", said)


def _rewards(walk: _Walk) -> Finding:
    """Are all rewards finite numbers?"""
    seen: dict[Any, list[float]] = {}
    for k, step in enumerate(walk.steps):
        for agent, reward in step[1].items():
            number = np.asarray(reward)
            fits = number.size == 1 and number.dtype.kind in "biuf"
            if not fits or not np.isfinite(number).all():
                said = f"agent '{agent}' is paid {reward!r} at step {k + 1}"
                return Finding("rewards", "fail", said, "pay finite numbers")
            seen.setdefault(agent, []).append(float(number.reshape(())))
    said = ", ".join(f"'{a}' from {min(r):.4g} to {max(r):.4g}" for a, r in seen.items())
    if not seen:
        return Finding("rewards", "fail", "nobody was paid in any step", "see episodes, above")
    return Finding("rewards", "ok", f"finite numbers in all {len(walk.steps)} steps: {said}")


# ---------------------------------------------------------------- as a game


def _exact_influence(game: Game) -> Finding:
    """Do the exact best responses to several leaders, and the leaders' returns, differ?"""
    leaders = registry.load("leaders", "spread")(game, range(MOVES))
    commitment = commit(game, leaders).detach()
    model = game.model(commitment.design)
    best = exact.best_response(model, commitment.policy).policy
    worth = exact.leader_return(model, commitment.policy, best)
    moved = (best.amax(0) - best.amin(0)).max().item()
    if game.follower_observes_action:
        moved = max(moved, (best.amax(2) - best.amin(2)).max().item())
    gain = (worth.max() - worth.min()).item() / max(1.0, worth.abs().max().item())
    said = (
        f"against {MOVES} random leaders the follower's best response differs by up to {moved:.2g} "
        "in the probability of an action, and the leader's return lies between "
        f"{worth.min():.4g} and {worth.max():.4g}"
    )
    return _influence(said, gain > 1e-9, moved > 1e-6)


def _sampled_influence(game: Game) -> Finding:
    """Do rewards and observations differ under different actions of the leader, seeds alike?"""
    played = [_played(game, leader=move) for move in _moves(game.leader_space)]
    base = played[0]
    paid = max((base.leader_reward - p.leader_reward).abs().max().item() for p in played)
    met = max((base.follower_reward - p.follower_reward).abs().max().item() for p in played)
    seen = max((base.observation - p.observation).abs().max().item() for p in played)
    parts = {
        "leader's reward": paid,
        "follower's reward": met,
        "state that the follower sees": seen,
    }
    changed = [f"the {what} by up to {by:.3g}" for what, by in parts.items() if by]
    same = [f"the {what}" for what, by in parts.items() if not by]
    told = [f"changes {' and '.join(changed)}"] * bool(changed)
    told += [f"does not change {' nor '.join(same)}"] * bool(same)
    said = (
        f"one action of the leader throughout instead of another, of {len(played)}, "
        f"{' and '.join(told)}"
    )
    if game.leader_moves == "every step" and game.follower_observes_action:
        said += "; besides, the follower is told that action"
    return _influence(said, paid > 0 or met > 0 or seen > 0, met > 0 or seen > 0)


def _influence(said: str, matters: bool, reacts: bool) -> Finding:
    if not matters:
        advice = "let rewards or transitions depend on the leader's moves"
        return Finding("influence", "fail", said, advice)
    if not reacts:
        advice = "let the leader's moves matter to the follower: else it has nothing to react to"
        return Finding("influence", "warn", said, advice)
    return Finding("influence", "ok", said)


def _exact_scale(game: Game) -> Finding:
    """The spread of the follower's exact action values against several leaders."""
    leaders = registry.load("leaders", "spread")(game, range(MOVES))
    commitment = commit(game, leaders).detach()
    model, policy = game.model(commitment.design), commitment.policy
    best = exact.best_response(model, policy)
    value = exact.follower_action_value(model, best.state_value)
    if not game.follower_observes_action:
        value = (policy.unsqueeze(-1) * value).sum(-2, keepdim=True).expand(value.shape)
    spread = (value.amax(-1) - value.amin(-1)) / game.temperature
    visits = exact.visitation(model, policy, best.policy).clamp(min=0).unsqueeze(-1) * policy
    mean = ((visits * spread).sum() / visits.sum()).item()
    most = spread[visits > 0].max().item()
    return _scale("between the best and the worst action the follower's exact values", mean, most)


def _sampled_scale(game: Game) -> Finding:
    """The spread of returns over the follower's first action, play being random and seeds alike."""
    returns = []
    for move in _moves(game.follower_space):
        played = _played(game, first=move)
        discount = game.follower_discount ** torch.arange(played.follower_reward.shape[1])
        returns.append((played.follower_reward * discount).sum(1))
    spread = (torch.stack(returns).amax(0) - torch.stack(returns).amin(0)) / game.temperature
    return _scale(
        f"between {len(returns)} first actions in {COPIES} episodes the follower's returns",
        spread.mean().item(),
        spread.max().item(),
        WIDE if isinstance(game.follower_space, spaces.Discrete) else math.inf,
    )


def _scale(what: str, mean: float, largest: float, wide: float = WIDE) -> Finding:
    """In a Box no spread is too wide: the best response moves smoothly however narrow it is."""
    said = f"{what} differ by {mean:.3g} times the temperature on average, {largest:.3g} at most"
    if largest < NARROW:
        advice = "the follower is nearly uniform: lower the temperature or raise its rewards"
        return Finding("temperature", "warn", said, advice)
    if mean > wide:
        advice = "the follower is nearly deterministic and gradients vanish: raise the temperature"
        return Finding("temperature", "warn", said, advice)
    return Finding("temperature", "ok", said)


def _horizon(game: Game) -> Finding:
    """What share of the weights of a discounted return lies behind the cuts of episodes."""
    lengths = torch.tensor([float(game.horizon)])
    cut = torch.tensor([True])
    if game.horizon <= 2 * LONGEST:
        played = _played(game, steps=game.horizon)
        lengths, cut = played.length, played.cut
    players = {"leader": game.leader_discount, "follower": game.follower_discount}
    shares = {who: (cut * rate**lengths).mean().item() for who, rate in players.items()}
    told = " and ".join(f"{share:.2g} of the {who}'s" for who, share in shares.items())
    said = (
        f"episodes end after {lengths.mean():.4g} steps on average; beyond a time limit lies "
        f"{told} discounted return, were all rewards alike"
    )
    if max(shares.values()) > BEYOND:
        needed = math.ceil(math.log(0.1) / math.log(max(players.values())))
        longer = f"allow longer episodes (after {needed} steps 0.1 is left) or lower the discounts"
        advice = f"{longer}; if the game really ends there, terminate it instead of truncating"
        return Finding("horizon", "warn", said, advice)
    return Finding("horizon", "ok", said)


def _gradient(game: Game) -> Finding:
    """The default estimate from some play, against the exact hypergradient."""
    leader = registry.load("leaders", "default")(game, (0,))
    attached = commit(game, leader)
    response = registry.make_follower("exact").best_respond(game, attached.detach(), (0,))
    seen = play(
        game,
        attached.detach(),
        response,
        streams=STREAMS,
        steps=min(game.horizon, 2 * LONGEST),
        generators=[np.random.default_rng(0)],
    )
    memory = memory_of(game, (0,))
    memory.update(seen)
    evidence = Evidence(
        game=game,
        leader=leader,
        commitment=attached.detach(),
        follower=restrict(response, "value"),
        trajectories=seen,
        memory=memory,
    )
    parameters = list(leader.parameters())
    estimate, true = (
        _derivative(sum(estimator(name, game)(evidence, attached)), parameters)
        for name in ("expected-trace", "exact")
    )
    size = norm(true).item()
    assert evidence.oracle is not None
    if size <= 1e-9 * evidence.oracle.scale.item():
        return Finding(
            "gradient",
            "warn",
            f"the exact hypergradient at the default leader has length {size:.2g}",
            "start from another leader (--leader spread), or see influence, above",
        )
    cosine = (inner(estimate, true) / (norm(estimate) * size).clamp(min=1e-300)).item()
    said = (
        f"the default estimate, learned from {seen.steps} steps of play, has a cosine of "
        f"{cosine:.3f} with the exact hypergradient, whose length is {size:.3g}"
    )
    if cosine < ALIGNED:
        return Finding("gradient", "warn", said, "play more per iteration (--streams, --steps)")
    return Finding("gradient", "ok", said)


def _bounds(game: Game) -> Finding:
    """Is there a bound that the oracles do not know, or none to the leader's objective?"""
    limit = getattr(game, "limit", math.inf)
    if limit < math.inf:
        return Finding(
            "bounds",
            "warn",
            f"the state is clipped to {limit:g} either way, which exact solutions (the follower "
            "exact, `solve`, optimum and regret) do not know",
            "leave the limit out, or see to it that good play stays well inside",
        )
    try:
        require_maximum(game)
    except InputError as error:
        return replace(_failure("bounds", error), status="warn")
    acting = {"follower": game.follower_space}
    if game.leader_moves == "every step":
        acting["leader"] = game.leader_space
    known = [
        f"the bounds of the {who}'s {space}"
        for who, space in acting.items()
        if isinstance(space, spaces.Box) and np.isfinite([space.low, space.high]).any()
    ]
    if not known:
        return Finding(
            "bounds", "ok", "actions at a step are unbounded, as exact solutions take it"
        )
    return Finding(
        "bounds",
        "warn",
        f"{' and '.join(known)} are kept by those who look for actions inside, as the follower sac "
        "and network leaders do, but neither by linear leaders nor by exact solutions (the "
        "follower exact, `solve`, optimum and regret)",
        "leave bounds out, or see to it that good actions lie well inside",
    )


@dataclass(frozen=True)
class _Recorded:
    """Steps of random play [n] under random designs, and what moving those would have changed."""

    told: tuple[Tensor, Tensor, Tensor, Tensor]  # as `Game.reenact` takes them
    made: Tensor  # [n, d + 2] the next observation, the leader's and the follower's reward
    way: Tensor  # [n, k] a direction of the design
    slope: Tensor  # [n, d + 2] along it, by central differences with the same chance
    floor: Tensor  # [d + 2] size below which slopes are rounding
    counts: Tensor  # [n, d + 2] bool: is there a slope, the same for two differences?
    repeats: bool  # does the same chance lead to the same step?


def _recorded(game: Game) -> _Recorded:
    space = game.leader_space
    if not isinstance(space, spaces.Box) or len(space.shape) != 1:
        raise InputError("designs in a Box (k,)", f"{space!r}", "flatten the design into a vector")
    generator, draw = _seeded(0), _seeded(1)
    low, high = (torch.as_tensor(end, dtype=torch.float64) for end in (space.low, space.high))
    width = torch.where(torch.isfinite(high - low), high - low, 1.0)
    rows: list[tuple[Tensor, ...]] = []
    state, repeats = game.initial(COPIES, generator), True
    for _ in range(min(game.horizon, RECORDED)):
        design = _random(space, draw).double()
        middle = torch.where(torch.isfinite(high - low), (low + high) / 2, design)
        design = middle + 0.99 * (design - middle)
        way = width * (2 * torch.rand(design.shape, generator=draw, dtype=torch.float64) - 1)
        act = _random(game.follower_space, draw)
        stepped = partial(_stepped, game, state, act, generator, generator.get_state())
        near, far = (
            (stepped(design + h * way)[1] - stepped(design - h * way)[1]) / (2 * h)
            for h in (NUDGE, 2 * NUDGE)
        )
        again = stepped(design)[1]
        moved, made = stepped(design)
        repeats = repeats and torch.equal(made, again)
        seen, there = (game.observe(s).float() for s in (state, moved.state))
        rows.append((seen, design, act, there, made, way, near, far, moved.terminated))
        state = moved.state
        if moved.terminated.any():
            state = state.clone()
            count = int(moved.terminated.sum())
            state[moved.terminated] = game.initial(count, generator).to(state)
    *told, made, way, near, far, ended = (torch.cat(column) for column in zip(*rows, strict=True))
    floor = 1e-6 * made.abs().amax(0) / NUDGE + 1e-3 * near.abs().mean(0)
    counts = ~_apart(near, far, floor)
    counts[:, :-2] &= ~ended.unsqueeze(-1)  # nothing follows
    seen, design, act, there = told
    return _Recorded((seen, design, act, there), made, way, near, floor, counts, repeats)


def _stepped(
    game: Game,
    state: Tensor,
    act: Tensor,
    generator: torch.Generator,
    chance: Tensor,
    design: Tensor,
) -> tuple[Step, Tensor]:
    """A step with the chance in it that the generator had in a state, and what it made."""
    generator.set_state(chance)
    moved = game.step(state, design, act, generator)
    paid = torch.stack([moved.leader_reward, moved.follower_reward], -1)
    return moved, torch.cat([game.observe(moved.state).double(), paid.double()], -1).detach()


def _apart(one: Tensor, other: Tensor, floor: Tensor) -> Tensor:
    """Where two slopes differ by more than their size allows."""
    return (one - other).abs() > OFF * torch.maximum(one.abs(), other.abs()) + floor


def _derivative_told(game: Game) -> Finding:
    """Is what a game tells of its steps, as functions of the design, what `step` does?"""
    scored = type(game).log_transition is not Game.log_transition
    if not (game.reenacts or scored):
        return Finding(
            "derivative",
            "fail",
            f"'{game.name}' tells how its design moves rewards and transitions neither by "
            "reenact() nor by log_transition()",
            "write Game.reenact, or Game.log_transition; without them only estimators of zeroth "
            "order (spsa, es) train its leader",
        )
    recorded = _recorded(game)
    return (_reenacted if game.reenacts else _scored)(game, recorded)


def _attached(recorded: _Recorded) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor, Tensor]]:
    """The designs as a leaf, and the steps attached to it."""
    seen, design, act, there = recorded.told
    leaf = design.clone().requires_grad_()
    return leaf, (seen, leaf, act, there)


def _along(made: Tensor, leaf: Tensor, way: Tensor) -> Tensor:
    """The derivative [n] of rows [n] along their directions [n, k]; 0 where there is none."""
    if not made.requires_grad:
        return torch.zeros(len(way), dtype=torch.float64)
    return (_derivative(made, [leaf])[0] * way).sum(-1)


def _reenacted(game: Game, recorded: _Recorded) -> Finding:
    leaf, steps = _attached(recorded)
    found = reenacted(game, *steps)
    columns = [*found.observation.unbind(-1), found.leader_reward, found.follower_reward]
    width = len(columns) - 2
    words = [f"number {i + 1} of the next observation" for i in range(width)]
    words = ["the next observation"] if width == 1 else words
    words += ["the leader's reward", "the follower's reward"]
    wrong: list[str] = []
    other: list[str] = []
    mend: list[str] = []
    size = recorded.made.abs().amax(0)
    for i, (what, column) in enumerate(zip(words, columns, strict=True)):
        counts, true, made = recorded.counts[:, i], recorded.slope[:, i], recorded.made[:, i]
        missed = ((column.detach() - made).abs() > 1e-3 * (size[i] + made.abs())) & counts
        if missed.sum() > OFF * counts.sum():
            k = int(missed.nonzero()[0])
            said = f"{what} is {made[k]:.4g} by step() and {column[k].item():.4g} by reenact()"
            (wrong if i < width else other).append(said)
            mend.append("return the values that were recorded")
        slope = _along(column, leaf, recorded.way)
        missed = _apart(slope, true, recorded.floor[i]) & counts
        if not recorded.repeats or missed.sum() <= OFF * counts.sum():
            continue
        k = int((true.abs() * missed).argmax())
        turned = missed & _apart(-slope, true, recorded.floor[i])
        if not slope[missed].any():
            how = "has no derivative"
            mend.append("let it depend on leader_action (recorded + moved - moved.detach())")
        elif turned.sum() <= OFF * counts.sum():
            how = "has a derivative of the wrong sign"
            mend.append("turn its sign")
        else:
            how = "has another derivative than step()"
            mend.append("differentiate what step() does, with the same chance in it")
        wrong.append(
            f"{what} {how}: along one direction of the design step() changes it by {true[k]:.3g}, "
            f"reenact() says {slope[k]:.3g}"
        )
    said = "; ".join([*wrong, *other][:4])
    advice = ", ".join(dict.fromkeys(mend))
    if wrong:
        return Finding("derivative", "fail", f"reenact() is not step(): {said}", advice)
    if other:
        said = f"{said}; only a difference that does not depend on the design does no harm"
        return Finding("derivative", "warn", said, advice)
    return _compared(recorded, "reenact() tells rewards and next observations")


def _compared(recorded: _Recorded, what: str) -> Finding:
    """Nothing is wrong, as far as could be seen."""
    count = len(recorded.made)
    if not recorded.repeats:
        said = "step() draws otherwise from the same generator: no derivative could be compared"
        return Finding("derivative", "warn", said, "draw all chance from the generator given")
    if recorded.counts.double().mean() < 0.5:
        said = f"in most of {count} steps step() jumps where the design moves a little"
        return Finding("derivative", "warn", said, "tell the density, by log_transition(), instead")
    return Finding("derivative", "ok", f"{what} of {count} steps as step() makes and moves them")


def _scored(game: Game, recorded: _Recorded) -> Finding:
    leaf, steps = _attached(recorded)
    chance = log_transitions(game, *steps)
    goes_on = recorded.counts[:, :-2].any(-1)
    lost = int((~chance.detach().isfinite() & goes_on).sum())
    if lost:
        return Finding(
            "derivative",
            "fail",
            f"log_transition() is not finite in {lost} of {len(chance)} steps that were made",
            "give the log density of what step() does",
        )
    moved = (recorded.slope.abs() > recorded.floor)[:, :-2].any() and recorded.repeats
    if moved and not _along(chance, leaf, recorded.way).any():
        return Finding(
            "derivative",
            "fail",
            "log_transition() has no derivative with respect to the design, which moves step()",
            "compute it from leader_action, in torch, and do not detach it",
        )
    said = f"log_transition() is finite in {len(chance)} steps and depends on the design"
    return Finding("derivative", "ok", said)


def _names(game: Game) -> Finding:
    """Are there words for everything, as pictures need them?"""
    sizes = {"state": game.observation_space, "leader": game.leader_space}
    sizes["follower"] = game.follower_space
    for key, words in game.names.items():
        if key not in sizes:
            keys = '"state", "leader" and "follower"'
            return Finding(
                "names",
                "warn",
                f"names has the key {key!r}, where {keys} are known",
                nearest(str(key), sizes, "leave it out"),
            )
        space = sizes[key]
        count = int(space.n) if isinstance(space, spaces.Discrete) else math.prod(space.shape or ())
        one = isinstance(words, str) and len(words) != count  # else a letter for each
        if one or not all(isinstance(word, str) for word in words):
            said = f"names[{key!r}] is {words!r}, and no sequence of strings"
            return Finding("names", "warn", said, 'write for example ["level", "speed"]')
        if len(words) != count:
            said = f"names[{key!r}] has {len(words)} words for {count} numbers or choices"
            return Finding("names", "warn", said, f"give a word for each, in {space}")
    return Finding("names", "ok", f"words for {', '.join(game.names)} fit their spaces")


def _derivative(surrogate: Any, parameters: list[Any]) -> list[Tensor]:
    found = torch.autograd.grad(surrogate.sum(), parameters, allow_unused=True, retain_graph=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


def _speed(game: Game) -> Finding:
    """Steps per second, in copies side by side: the fastest, as other programs run beside it."""
    vector, draw = game.vector(COPIES, torch.Generator().manual_seed(0)), _seeded(1)
    ends, least = time.perf_counter() + TIMED, float("inf")
    while (begun := time.perf_counter()) < ends or least == float("inf"):
        found = vector.step(*(_random(s, draw) for s in (game.leader_space, game.follower_space)))
        vector.reset(found.terminated | found.truncated)
        least = min(least, time.perf_counter() - begun)
    rate = COPIES / least
    said = f"{rate:,.0f} steps per second, in {COPIES} copies side by side"
    if rate < SLOW:
        return Finding("speed", "warn", said, "profile step(): a follower takes 10,000s of steps")
    return Finding("speed", "ok", said)


# ---------------------------------------------------------------- sampled play


@dataclass(frozen=True)
class _Played:
    """One episode in every copy [n] for T steps; nothing is paid once it is over."""

    leader_reward: Tensor  # [n, T]
    follower_reward: Tensor  # [n, T]
    observation: Tensor  # [n, T, d] of the follower
    cut: Tensor  # [n] bool: not ended by the rules
    length: Tensor  # [n] steps


def _played(
    game: Game, *, leader: Any = None, first: Any = None, steps: int | None = None
) -> _Played:
    """Random play from always the same seeds.

    Args:
        leader: its action at every step. first: the follower's first action. Random unless given.
    """
    vector, draw = game.vector(COPIES, _seeded(0)), _seeded(1)
    limit = min(game.horizon, LONGEST) if steps is None else steps
    over = ended = torch.zeros(COPIES, dtype=torch.bool)
    length, rows = torch.zeros(COPIES), []
    for k in range(limit):
        ours, theirs = (_random(s, draw) for s in (game.leader_space, game.follower_space))
        if leader is not None:
            ours = torch.as_tensor(leader).expand_as(ours)
        if first is not None and k == 0:
            theirs = torch.as_tensor(first).expand_as(theirs)
        found = vector.step(ours, theirs)
        now, length = ~over, length + (~over).float()
        rewards = found.leader_reward, found.follower_reward
        met = vector.follower_observation * now.unsqueeze(-1)
        rows.append((*(reward * now for reward in rewards), met))
        ended, over = ended | (found.terminated & now), over | found.terminated | found.truncated
    paid, earned, seen = (torch.stack(column, 1) for column in zip(*rows, strict=True))
    return _Played(paid, earned, seen, ~ended, length)


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _random(space: spaces.Space, generator: torch.Generator) -> Tensor:
    """Random actions of all copies."""
    if isinstance(space, spaces.Discrete):
        return torch.randint(int(space.n), (COPIES,), generator=generator)
    plain = type(space) is spaces.Box  # and no Budget, which a batch would forget
    own = batch_space(space, COPIES) if plain else copy.deepcopy(space)
    own.seed(int(torch.randint(2**31, (), generator=generator)))
    if plain:
        return torch.from_numpy(own.sample())
    return torch.from_numpy(np.stack([own.sample() for _ in range(COPIES)]))


def _moves(space: spaces.Space) -> list[Any]:
    """Some actions of a space, all of them if they are few."""
    if isinstance(space, spaces.Discrete):
        return sorted({round(x) for x in np.linspace(0, int(space.n) - 1, MOVES)})
    return list(_random(space, _seeded(2))[:MOVES])
