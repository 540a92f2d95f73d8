"""Episodes of a run on film: before and after training, side by side."""

import copy
import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from stackelberg import registry
from stackelberg.access import blamed
from stackelberg.episode import Moment, draw_numbers, numbers, record, verbatim
from stackelberg.errors import InputError
from stackelberg.frozen import frozen, load_leader
from stackelberg.game import Game
from stackelberg.process import single_thread
from stackelberg.run_directory import (
    check_writable,
    from_python,
    read_json,
    require_run,
    unwritable,
    write_atomically,
)
from stackelberg.types import Follower, Leader

LONGEST = 80  # pictures in a film; of longer episodes only every n-th step is drawn
PAUSE = 10  # pictures that an episode's end is shown for
SECOND = 10  # pictures
DOTS = 80  # per inch
WIDTH, SCENE, HEAD = 8.4, 4.4, 0.9  # inches: of all, the height with the game's picture, or without
ROW = 1.5  # inches, the height of a row of curves
BLANK = 16  # blank rows of dots that stay together, at most
EDGE = 2  # dots, by which a point reaches beyond its place
SIDES = (0.06, 0.48), (0.54, 0.96)  # where before and after lie, in shares of the width
COLOURS, SAMPLED = 256, 8  # of a film, found in so many of its pictures

Places = Sequence[tuple[float, float]]
Show = Callable[[int, int, str], None]  # told how many pictures are done, of how many


def film(
    run: str | Path,
    gif: str | Path,
    *,
    episodes: int = 1,
    seed: int = 0,
    show: Show = lambda done, total, said: None,
    game: Game | None = None,
    leader: Leader | None = None,
    follower: Follower | None = None,
) -> Path:
    """Record episodes of a run's leader before and after training, side by side, as a GIF.

    Left the leader as it started, right as the newest checkpoint has it; of several leaders the
    first. To each of them a fresh follower of the run's kind best-responds. Both sides start alike:
    in every episode they have the same random numbers.

    Args:
        run: a run directory that `stackelberg train` has made. gif: the file to write.
        episodes: how many, one after the other. seed: of followers and play.
        show: called after every picture.
        game, leader: of a run that was started from Python, its game and a leader as it was at the
            start. follower: one of the kind that it was trained with, made anew from its name
            unless given.

    Raises:
        InputError: if the folder is no run, has no checkpoint yet, or was started from Python and
            game or leader are missing, if the game's grid does not fit it, or if the file cannot be
            written. Nothing is written then.
    """
    target = Path(gif)
    _check(target, episodes, seed)
    _check_known(run, game, leader)
    saved = load_leader(run, game, leader)
    saved.game.check_grid()
    _prepare(target)
    game, config = saved.game, saved.config
    first = leader or registry.load("leaders", config["leader"])(game, config["seeds"])
    options = [f"{key}={value}" for key, value in (config.get("follower_options") or {}).items()]
    sides = []
    with single_thread():
        for one in (first, saved.leader):
            commitment = frozen("leader", one, game)[0].commitment
            fresh = copy.deepcopy(follower) or registry.make_follower(config["follower"], options)
            if hasattr(fresh, "report"):
                fresh.report = lambda steps, most, gap: show(steps, most, "follower's steps")
            with blamed(f"a follower '{fresh.name}' whose best_respond() succeeds"):
                response = fresh.best_respond(game, commitment, [seed])
            sides.append([record(game, commitment, response, [seed, e]) for e in range(episodes)])
        data = _animated(_pictures(game, sides, show))
    try:
        write_atomically(target, data)
    except OSError as error:
        raise unwritable(target.parent, error) from error
    return target


def _pictures(
    game: Game, sides: Sequence[Sequence[list[Moment]]], show: Show
) -> list[tuple[np.ndarray, int]]:
    """Pictures [height, width, 3] and how long each is shown, in tenths of a second."""
    pairs = []
    for episode, both in enumerate(zip(*sides, strict=True)):
        longest = max(len(moments) for moments in both)
        every = -(-longest * len(sides[0]) // LONGEST)
        last = longest - 1
        for k in sorted({*range(0, longest, every), last}):
            pair = [moments[min(k, len(moments) - 1)] for moments in both]
            pairs.append((episode, pair, PAUSE if k == last else 1))
    curves, places = _curves(game, sides)
    several = len(sides[0]) > 1
    scenes = [scene(game, pair, e if several else None, places) for e, pair, _ in pairs]
    common_scales([axes for figure in scenes for axes in figure.axes])
    made = []
    for figure, (episode, pair, tenths) in zip(scenes, pairs, strict=True):
        made.append((np.concatenate([_drawn(figure), *curves(episode, pair)]), tenths))
        show(len(made), len(pairs), "pictures")
    return _closed(made)


def _closed(pictures: list[tuple[np.ndarray, int]]) -> list[tuple[np.ndarray, int]]:
    """The pictures without most of the rows that are blank in all of them."""
    blank = np.all([(picture == picture[0, 0]).all((1, 2)) for picture, _ in pictures], 0)
    kept, run = [], 0
    for row in blank:
        run = run + 1 if row else 0
        kept.append(run <= BLANK)
    return [(picture[kept], tenths) for picture, tenths in pictures]


def scene(
    game: Game, pair: Sequence[Moment], episode: int | None = None, places: Places = SIDES
) -> Figure:
    """What is the case before and after training, in the game's own picture if it has one."""
    height = SCENE if game.drawn else HEAD
    figure = Figure(figsize=(WIDTH, height), dpi=DOTS)
    about = verbatim(game.name) + (f", episode {episode + 1}" if episode is not None else "")
    figure.text(0.5, 1 - 0.05 / height, about, ha="center", va="top", size=10)
    for (left, right), when, moment in zip(places, ("before", "after"), pair, strict=True):
        middle, title = (left + right) / 2, f"{when} training, step {moment.time}"
        if game.drawn:
            axes = figure.add_axes((left, 0.75 / height, right - left, 1 - 1.3 / height))
            game.picture(axes, moment.observation, title)
            if moment.moves is not None:
                game.picture_moves(axes, moment.observation, *moment.moves)
            if when == "after":  # the scales are those beside
                axes.set_ylabel("")
                axes.tick_params(labelleft=False)
        else:
            figure.text(middle, 0.32 / height, title, ha="center", size=11)
        said = [f"{w} {r:.4g}" for w, r in zip(("leader", "follower"), moment.returns, strict=True)]
        earned = "discounted return: " + ", ".join(said)
        figure.text(middle, 0.1 / height, earned, ha="center", size=9)
    return figure


def common_scales(every: Sequence[Any]) -> None:
    """Give axes, where their ranges differ, one that holds them all."""
    for way in ("x", "y"):
        limits = np.array([getattr(axes, f"get_{way}lim")() for axes in every])
        if len(limits) and np.ptp(limits, 0).any():
            low, high = limits.min(1).min(), limits.max(1).max()
            ends = (low, high) if limits[0, 0] < limits[0, 1] else (high, low)
            for axes in every:
                getattr(axes, f"set_{way}lim")(ends)


def _curves(
    game: Game, sides: Sequence[Sequence[list[Moment]]]
) -> tuple[Callable[[int, Sequence[Moment]], list[np.ndarray]], Places]:
    """States and actions of the episodes up to a moment each, as a picture; of grids none.

    An episode is drawn twice, with its curves and without them: every picture shows the one to the
    left of the moment, the other to the right. Beside it, where before and after lie.
    """
    if game.grid is not None:
        return lambda episode, pair: [], SIDES
    scales = [numbers(game, moments) for side in sides for moments in side]
    drawn = []
    for both in zip(*sides, strict=True):
        records = [numbers(game, moments) for moments in both]
        figure = Figure(figsize=(WIDTH, ROW * len(records[0])), dpi=DOTS, layout="constrained")
        rows = figure.subplots(len(records[0]), 2, squeeze=False)
        grown = draw_numbers(rows, records, scales)
        whole = _drawn(figure)
        for line in grown:
            line.set_visible(False)
        drawn.append((whole, _drawn(figure), rows[-1]))

    def until(episode: int, pair: Sequence[Moment]) -> list[np.ndarray]:
        whole, empty, last = drawn[episode]
        picture = empty.copy()
        for moment, axes in zip(pair, last, strict=True):
            first, now = (int(axes.transData.transform((t, 0))[0]) for t in (0, moment.time))
            picture[:, first - EDGE : now + EDGE] = whole[:, first - EDGE : now + EDGE]
        return [picture]

    return until, [(box.x0, box.x1) for box in (axes.get_position() for axes in drawn[0][2])]


def _drawn(figure: Figure) -> np.ndarray:
    """[height, width, 3]"""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _animated(pictures: list[tuple[np.ndarray, int]]) -> bytes:
    """The GIF."""
    from PIL import Image

    some = pictures[:: -(-len(pictures) // SAMPLED)] + pictures[-1:]
    whole = Image.fromarray(np.concatenate([picture for picture, _ in some]))
    palette = whole.quantize(COLOURS, method=Image.Quantize.MAXCOVERAGE)
    plain = Image.Dither.NONE
    frames = [Image.fromarray(one).quantize(palette=palette, dither=plain) for one, _ in pictures]
    buffer = io.BytesIO()
    durations = [tenths * 1000 // SECOND for _, tenths in pictures]
    options: dict[str, Any] = {"save_all": True, "append_images": frames[1:], "loop": 0}
    frames[0].save(buffer, "GIF", duration=durations, **options)
    return buffer.getvalue()


def _check(target: Path, episodes: int, seed: int) -> None:
    if target.suffix.lower() != ".gif" or os.path.isdir(target):
        raise InputError("a file name that ends in .gif", f"{target}", "write for example out.gif")
    check_writable(target.parent)
    for name, value, least in (("episodes", episodes, 1), ("seed", seed, 0)):
        if value < least:
            raise InputError(f"{name} >= {least}", f"{value}", "use the default")


def _check_known(run: str | Path, game: Game | None, leader: Leader | None) -> None:
    """Raise InputError if only Python knows what the run was made of, and has not said it."""
    require_run(Path(run))
    config = read_json(Path(run) / "config.json", "the folder of a run")
    if from_python(config) and (game is None or leader is None):
        raise InputError(
            "a run started by `stackelberg train`, or its game and leader beside it",
            f"{run}, started from Python",
            "record it in Python: stackelberg.film.film(run, gif, game=game, leader=leader), the "
            "leader made anew as at the start",
        )


def _prepare(target: Path) -> None:
    """Make the folder of a file and see that the file can be written, before it costs anything."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}."):
            pass
    except OSError as error:
        raise unwritable(target.parent, error) from error
