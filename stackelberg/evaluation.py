"""Honest evaluation: frozen leaders against followers that are trained afresh.

A leader's return against the follower that it was trained with says little: that follower may have
fallen short of its best response in the leader's favour. Here followers of any kind, seed and
temperature train from scratch against the frozen leader; nothing is chosen, all are reported.
"""

import functools
import json
import math
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from stackelberg import registry
from stackelberg.access import blamed
from stackelberg.best_known import BestKnown, beats, own_optimum
from stackelberg.errors import InputError, told
from stackelberg.evaluation_result import COLUMNS, EvaluationResult, Row
from stackelberg.frozen import Frozen, SavedLeader, frozen
from stackelberg.game import Game
from stackelberg.identity import content_key, game_identity, settings_of
from stackelberg.oracle import oracle, rows_of
from stackelberg.progress import told_steps
from stackelberg.retraining import Kind, Training, Watch, retuned
from stackelberg.run_directory import check_writable, to_json, unwritable, write_atomically
from stackelberg.types import Follower, is_follower

Report = Callable[[int, int, str], None]  # trainings done, of how many, and the last that told
Make = str | Callable[[], Follower]
DIFFER = 3  # settings by which an error tells two games apart, at most


def evaluate(
    leader: Any,
    game: Game | None = None,
    followers: Sequence[Make] | Mapping[str, Make] | None = None,
    *,
    seeds: Sequence[int] = range(5),
    temperatures: Sequence[float] | None = None,
    episodes: int = 1000,
    half_width: float | None = None,
    cross_play: bool = False,
    jobs: int = 1,
    kept: str | Path | None = None,
    fresh: bool = False,
    best_known: BestKnown | None = None,
    report: Report = lambda done, total, which: None,
) -> EvaluationResult:
    """Frozen leaders against followers of every kind, seed and temperature, trained from scratch.

    Args:
        leader: a run directory, or of a run that was started from Python
            `load_leader(path, game, leader)`; a leader object, of M leaders each; a function of one
            observation [d] that returns an action or, in a Discrete space, the probabilities [A] of
            all; a table f(a|s) [S, A]; in a linear-quadratic game gains [k, 1 + n], the constants
            first, played with the game's `leader_std` (0 if it has none) and with all exact
            numbers, which a function there lacks; where the leader moves once, a design [d]. Or
            several of these by name, a mapping. Of a run it is the newest checkpoint, also if
            unfinished.
        game: may be left out with runs, and is theirs if it is not: in another game the leader of
            a run is `load_leader(path).leader`.
        followers: names as `stackelberg train --follower` takes them, or functions that make one,
            or a mapping to these by other names; what suits the game unless given, see
            `default_followers`.
        seeds: of the followers, one training each.
        temperatures: of the followers; the game's own unless given. At another one it is another
            game, with another optimum.
        episodes: in which leader and follower then meet.
        half_width: of the 95 % interval of the leader's discounted return, in which more episodes
            are played until it is reached, up to a hundredfold. It is looked at as episodes come,
            so the interval holds the truth a little less often than 95 %, unless episodes are many.
        cross_play: let every follower meet the leaders that it was not trained against as well.
        jobs: processes at once.
        kept: a folder for finished trainings, from which an evaluation that was interrupted goes
            on. Each is kept for its leader, game, follower and settings alone, as far as these can
            be told, see `stackelberg.identity.content_key`. Nothing is kept of a leader given as a
            function where there are no tables, nor of what was typed in at a prompt.
        fresh: train anew also what is kept.
        best_known: what regret is measured by, beside the game's own optimum.
        report: called after every training, and alone (jobs=1) as followers tell of theirs.

    Raises:
        InputError: for parts that do not fit, before anything is trained.
        KeyboardInterrupt: on Ctrl-C; what is finished is kept.
    """
    leaders = _leaders(leader, game)
    kinds = _kinds(default_followers(leaders[0].game) if followers is None else followers)
    _check(leaders, kinds, seeds, episodes, jobs, half_width)
    if cross_play and len(leaders) < 2:
        raise InputError("at least two leaders for cross-play", "one", "name several runs")
    own = leaders[0].game.temperature
    levels = _temperatures([own] if temperatures is None else temperatures)
    for level in levels:
        for kind in kinds:
            fits = getattr(kind.make(), "check", None)
            if callable(fits):
                fits(retuned(leaders[0], level))
    trainings = [
        Training(
            leader=one,
            opponents=tuple(leaders) if cross_play else (one,),
            follower=kind,
            temperature=level,
            seed=int(seed),
            episodes=episodes,
            half_width=half_width,
        )
        for level in levels
        for kind in kinds
        for one in leaders
        for seed in seeds
    ]
    folder = None if kept is None else Path(kept)
    if folder is not None:
        check_writable(folder)
    rows = [row for found in _run(trainings, jobs, folder, fresh, report) for row in found]
    standings = [_standing(one, level, best_known) for one in leaders for level in levels]
    return EvaluationResult(
        about=_about(leaders[0].game, kinds) | {"half_width": half_width},
        leaders=[{"name": one.name} | one.about for one in leaders],
        standings=[json.loads(to_json(one)) for one in standings],
        rows=rows,
    )


def _about(game: Game, kinds: Sequence[Kind]) -> dict[str, Any]:
    return {
        "game": game.name,
        "game_temperature": game.temperature,
        "leader_discount": game.leader_discount,
        "follower_discount": game.follower_discount,
        "undiscounted_horizon": game.horizon,
        "followers": [{"name": kind.name} | kind.settings for kind in kinds],
    }


@torch.no_grad()
def _standing(leader: Frozen, temperature: float, best_known: BestKnown | None) -> dict[str, Any]:
    """The leader's exact objective at a temperature, beside the best that is known there."""
    game, commitment = retuned(leader, temperature), leader.commitment
    found: dict[str, Any] = {"leader": leader.name, "temperature": temperature}
    truth = oracle(game, commitment)
    store = None if truth is None else best_known
    optimum, source = own_optimum(game) if store is None else store.optimum(game)
    found |= {"optimum": optimum, "optimum_source": source, "optimum_is_own": False}
    if truth is None:
        return found | {"objective": None, "diverges": False, "regret": None}
    best = store.best(game) if store is not None and source == "best known" else None
    if best is not None:
        found["optimum_is_own"] = torch.allclose(best.parameters, rows_of(commitment)[0])
    value = truth.objective.item()
    regret = None if optimum is None else optimum - value
    if optimum is not None and not (beats(value, optimum) or beats(optimum, value)):
        regret = 0.0
    return found | {"objective": value, "diverges": value == -math.inf, "regret": regret}


def default_followers(game: Game) -> tuple[str, ...]:
    """What suits the game: exact where it can be, and what learns the follower's kind of action."""
    if isinstance(game.follower_space, spaces.Discrete):
        return ("exact", "soft-q") if game.tabular else ("soft-q", "discrete-sac")
    return ("exact",) if game.linear else ("sac",)


def _leaders(leader: Any, game: Game | None) -> list[Frozen]:
    named = dict(leader) if isinstance(leader, Mapping) else {_name(leader): leader}
    if not named:
        raise InputError("at least one leader", "none", "name a run directory")
    found = [one for name, given in named.items() for one in frozen(str(name), given, game)]
    names = [one.name for one in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError("leaders, each of another name", f"'{twice}' twice", "rename one of them")
    for one in found[1:]:
        if differ := _told_apart(found[0], one):
            raise InputError(
                f"leaders of one game, '{found[0].game.name}' as '{found[0].name}' has it",
                f"'{one.name}' of '{one.game.name}' with another {', '.join(differ[:DIFFER])}",
                "evaluate them apart",
            )
    return found


def _told_apart(one: Frozen, other: Frozen) -> list[str]:
    """What differs between the games of two leaders, as far as it is known.

    That is what their runs have asked for, too, where a game shows neither tables nor matrices.
    """
    here, there = game_identity(one.game), game_identity(other.game)
    if not (one.game.tabular or one.game.linear):
        options = [leader.about.get("game_options") for leader in (one, other)]
        if None not in options:
            here["game_options"], there["game_options"] = options
    return [key for key in {**here, **there} if here.get(key) != there.get(key)]


def _name(leader: Any) -> str:
    if isinstance(leader, (str, Path)):
        return str(leader)
    if isinstance(leader, SavedLeader):
        return str(leader.path)
    return getattr(leader, "__name__", "leader")


def _kinds(followers: Sequence[Make] | Mapping[str, Make]) -> list[Kind]:
    if isinstance(followers, Mapping):
        kinds = [_kind(make)._replace(name=str(name)) for name, make in followers.items()]
    else:
        alone = not isinstance(followers, Sequence) or isinstance(followers, str)
        kinds = [_kind(make) for make in ([followers] if alone else followers)]
    names = [kind.name for kind in kinds]
    if not names or len(set(names)) < len(names):
        got = ", ".join(names) or "none"
        raise InputError("followers, each of another name", got, "name each of them once")
    return kinds


def _kind(one: Any) -> Kind:
    if isinstance(one, str):
        named = functools.partial(registry.make_follower, one)
        return _described(one, named, named())
    if callable(one) and (isinstance(one, type) or not is_follower(one)):
        with blamed("a function that makes a follower"):
            made = one()
        if is_follower(made) and not isinstance(made, type):
            return _described(str(made.name), one, made)
    raise InputError(
        "followers by name, or functions that make one",
        f"{one!r}",
        "pass its class: one that has trained before would not be fresh",
    )


def _described(name: str, make: Callable[[], Follower], made: Follower) -> Kind:
    settings = {"class": type(made).__name__} | settings_of(made)
    return Kind(name, make, json.loads(to_json(settings)), content_key(made))


def _check(
    leaders: Sequence[Frozen],
    kinds: Sequence[Kind],
    seeds: Sequence[int],
    episodes: int,
    jobs: int,
    half_width: float | None,
) -> None:
    whole = np.iterable(seeds) and all(
        isinstance(s, (int, np.integer)) and type(s) is not bool and s >= 0 for s in seeds
    )
    if not whole or not len(seeds) or len(set(seeds)) < len(seeds):
        raise InputError(
            "at least one seed >= 0, each another", f"{seeds!r}", "use for example range(5)"
        )
    for name, value in (("episodes", episodes), ("jobs", jobs)):
        if type(value) is not int or value < 1:
            raise InputError(f"{name}: an integer >= 1", f"{value!r}", "give a count")
    if half_width is None:
        return
    if not _is_number(half_width) or not 0 < half_width < math.inf:
        raise InputError("a half-width > 0", f"{half_width!r}", "use for example 0.05")
    if episodes < 2:
        raise InputError("episodes >= 2 to tell a half-width", f"{episodes}", "use the default")


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _temperatures(given: Sequence[float]) -> list[float]:
    levels: list[float] = []
    for one in given if np.iterable(given) else [given]:
        if not _is_number(one) or not 0 < one < math.inf:
            raise InputError("finite temperatures > 0", f"{one!r}", "use for example 0.01 and 0.1")
        levels.append(float(one))
    if not levels or len(set(levels)) < len(levels):
        raise InputError("at least one temperature, each once", f"{levels}", "leave the others out")
    return levels


# ---------------------------------------------------------------- doing it


def _run(
    trainings: Sequence[Training], jobs: int, folder: Path | None, fresh: bool, report: Report
) -> list[list[Row]]:
    """The rows of every training, from the folder where they are kept or made now."""
    files = [None if folder is None else t.file for t in trainings]
    rows = [
        None if fresh else _read(folder, file, len(t.opponents))
        for t, file in zip(trainings, files, strict=True)
    ]
    open_ = [i for i, found in enumerate(rows) if found is None]
    done, total = len(trainings) - len(open_), len(trainings)

    def watch(index: int, steps: int, most: int, gap: float | None) -> None:
        report(done, total, f"{trainings[index].said}, {told_steps(steps, most, gap)}")

    try:
        if open_ and jobs > 1:
            report(done, total, "")
        for i, found in _results(trainings, open_, jobs, watch):
            rows[i] = found
            if folder is not None and files[i] is not None:
                _keep(folder, str(files[i]), found)
            done += 1
            report(done, total, trainings[i].said)
    except KeyboardInterrupt:
        if folder is None or not done:
            raise KeyboardInterrupt from None
        said = f"after {done} of {len(trainings)} trainings"
        raise KeyboardInterrupt(said, "the same command goes on") from None
    return [found for found in rows if found is not None]


def _keep(folder: Path, file: str, rows: list[Row]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / file, to_json(rows, indent=1) + "\n")
    except OSError as error:
        raise unwritable(folder, error) from error


def _read(folder: Path | None, file: str | None, count: int) -> list[Row] | None:
    """The rows that are kept; None unless they are whole."""
    if folder is None or file is None:
        return None
    try:
        found = json.loads((folder / file).read_text())
    except (OSError, ValueError):
        return None
    whole = isinstance(found, list) and len(found) == count
    whole = whole and all(isinstance(row, dict) and row.keys() == set(COLUMNS) for row in found)
    return found if whole else None


def _results(
    trainings: Sequence[Training], which: Sequence[int], jobs: int, watch: Callable[..., None]
) -> Iterator[tuple[int, list[Row]]]:
    """What trainings find, as they are done; alone in this process they are watched."""
    from joblib import Parallel, delayed

    workers = min(jobs, max(1, len(which)))
    pool = Parallel(n_jobs=workers, return_as="generator_unordered")
    eyes = {i: functools.partial(watch, i) if workers == 1 else None for i in which}
    try:
        yield from pool(delayed(_numbered)(i, trainings[i], eyes[i]) for i in which)
    except pickle.PicklingError as error:
        raise InputError(
            "a game, leader and followers that other processes can be sent",
            told(error),
            "use jobs=1, or evaluate a run directory",
        ) from error
    except BrokenProcessPool as error:
        raise InputError(
            "processes that live until they are done",
            "one that was ended from outside, for want of memory or by a crash",
            "use fewer jobs, or jobs=1 to see where it ends",
        ) from error


def _numbered(index: int, training: Training, watch: Watch | None) -> tuple[int, list[Row]]:
    return index, training.run(watch)
