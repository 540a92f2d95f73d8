"""Episodes of a run on film: before and after training, side by side."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import TightLayoutEngine

from stackelberg import registry
from stackelberg.access import Response, blamed
from stackelberg.errors import InputError
from stackelberg.frozen import frozen, load_leader
from stackelberg.game import Game
from stackelberg.induced import announced
from stackelberg.process import single_thread
from stackelberg.run_directory import check_writable, unwritable, write_atomically
from stackelberg.types import Commitment

LONGEST = 120  # pictures in a film; of longer episodes only every n-th step is drawn
PAUSE = 10  # pictures that an episode's end is shown for
SECOND = 10  # pictures
SIZE, DOTS = (7.2, 4.2), 80  # inches, dots in each
COLOURS = 256

Show = Callable[[int, int, str], None]  # told how many pictures are done, of how many


class Moment(NamedTuple):
    """What there is to draw of a step, for one leader and its follower."""

    time: int  # steps since the episode's start
    observation: np.ndarray  # [d] after the step
    moves: tuple[np.ndarray, np.ndarray] | None  # of leader and follower; None at the start
    returns: tuple[float, float]  # discounted so far
    over: bool


def film(
    run: str | Path,
    gif: str | Path,
    *,
    episodes: int = 1,
    seed: int = 0,
    show: Show = lambda done, total, said: None,
) -> Path:
    """Record episodes of a run's leader before and after training, side by side, as a GIF.

    Left the leader as it started, right as the newest checkpoint has it; of several leaders the
    first. To each of them a fresh follower of the run's kind best-responds. Both sides start alike:
    in every episode they have the same random numbers.

    Args:
        run: a run directory that `stackelberg train` has made. gif: the file to write.
        episodes: how many, one after the other. seed: of followers and play.
        show: called after every picture.

    Raises:
        InputError: if the folder is no run, has no checkpoint yet, or was started from Python, or
            if the file cannot be written. Nothing is written then.
    """
    target = Path(gif)
    _check(target, episodes, seed)
    saved = load_leader(run)
    game, config = saved.game, saved.config
    first = registry.load("leaders", config["leader"])(game, config["seeds"])
    options = [f"{key}={value}" for key, value in (config.get("follower_options") or {}).items()]
    sides = []
    with single_thread():
        for leader in (first, saved.leader):
            commitment = frozen("leader", leader, game)[0].commitment
            follower = registry.make_follower(config["follower"], options)
            if hasattr(follower, "report"):
                follower.report = lambda steps, most, gap: show(steps, most, "follower's steps")
            with blamed(f"a follower '{follower.name}' whose best_respond() succeeds"):
                response = follower.best_respond(game, commitment, [seed])
            sides.append([record(game, commitment, response, [seed, e]) for e in range(episodes)])
        data = _animated(_pictures(game, sides, show))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, data)
    except OSError as error:
        raise unwritable(target.parent, error) from error
    return target


@torch.no_grad()
def record(
    game: Game, commitment: Commitment, response: Response, seed: Sequence[int]
) -> list[Moment]:
    """One episode of one leader, to its end or the game's time limit."""
    drawn = np.random.SeedSequence(list(seed)).generate_state(1, np.uint64)[0]
    vector = game.vector(1, torch.Generator().manual_seed(int(drawn >> 1)))
    earned, weights = np.zeros(2), np.ones(2)
    discounts = np.array([game.leader_discount, game.follower_discount])
    moments = [Moment(0, vector.leader_observation[0].numpy().copy(), None, (0.0, 0.0), False)]
    while not moments[-1].over:
        seen = [part[None] for part in (vector.leader_observation, vector.follower_observation)]
        ours = commitment.act(seen[0], vector.generator)
        told = announced(ours, vector.leader_out[None])
        with blamed(f"a follower whose sample() acts, as {type(response).__name__}'s should"):
            theirs = response.sample(seen[1], told, vector.generator)
        moved = vector.step(ours[0], theirs[0])
        earned = earned + weights * [moved.leader_reward.item(), moved.follower_reward.item()]
        weights = weights * discounts
        moments.append(
            Moment(
                len(moments),
                vector.leader_observation[0].numpy().copy(),
                (ours[0, 0].numpy().copy(), theirs[0, 0].numpy().copy()),
                (float(earned[0]), float(earned[1])),
                bool((moved.terminated | moved.truncated).item()),
            )
        )
    return moments


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
    made = []
    for episode, pair, tenths in pairs:
        made.append((draw(game, pair, episode if len(sides[0]) > 1 else None), tenths))
        show(len(made), len(pairs), "pictures")
    return made


def draw(game: Game, pair: Sequence[Moment], episode: int | None = None) -> np.ndarray:
    """One picture [height, width, 3] of what is the case before and after training."""
    figure = Figure(figsize=SIZE, dpi=DOTS, layout=TightLayoutEngine(rect=(0, 0.05, 1, 1)))
    canvas = FigureCanvasAgg(figure)
    for i, (title, moment) in enumerate(zip(("before", "after"), pair, strict=True)):
        axes = figure.add_subplot(1, 2, i + 1)
        game.picture(axes, moment.observation, f"{title} training, step {moment.time}")
        if moment.moves is not None:
            game.picture_moves(axes, moment.observation, *moment.moves)
        said = [f"{w} {r:.4g}" for w, r in zip(("leader", "follower"), moment.returns, strict=True)]
        figure.text(0.25 + 0.5 * i, 0.02, "return: " + ", ".join(said), ha="center", size=9)
    about = game.name if episode is None else f"{game.name}, episode {episode + 1}"
    figure.suptitle(about, size=10)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _animated(pictures: Sequence[tuple[np.ndarray, int]]) -> bytes:
    """The GIF."""
    from PIL import Image

    frames = [
        Image.fromarray(picture).quantize(COLOURS, dither=Image.Dither.NONE)
        for picture, _ in pictures
    ]
    buffer = io.BytesIO()
    durations = [tenths * 1000 // SECOND for _, tenths in pictures]
    options: dict[str, Any] = {"save_all": True, "append_images": frames[1:], "loop": 0}
    frames[0].save(buffer, "GIF", duration=durations, **options)
    return buffer.getvalue()


def _check(target: Path, episodes: int, seed: int) -> None:
    if target.suffix.lower() != ".gif" or target.is_dir():
        raise InputError("a file name that ends in .gif", f"{target}", "write for example out.gif")
    check_writable(target.parent)
    for name, value, least in (("episodes", episodes, 1), ("seed", seed, 0)):
        if value < least:
            raise InputError(f"{name} >= {least}", f"{value}", "use the default")
