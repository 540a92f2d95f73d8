"""Episodes of one leader and its follower: recorded, and drawn over time."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from stackelberg.access import Response, blamed
from stackelberg.charts import COLOURS
from stackelberg.game import Game
from stackelberg.induced import announced
from stackelberg.types import Commitment

NAMED = 16  # curves or bars side by side at most that a legend names
LISTED = 8  # choices at most that are named above each other
LABELLED = 20  # bars at most whose places are labelled
WRITTEN = 12  # bars at most at which their numbers are written
WORD, NAME = 16, 28  # letters of a line beside an axis, and of a name in a legend, at most
CROWDED = 40  # letters beside each other on an axis, beyond which labels are turned
TURNED = {"rotation": 40, "ha": "right", "rotation_mode": "anchor", "fontsize": "small"}


class Moment(NamedTuple):
    """What there is to draw of a step, for one leader and its follower."""

    time: int  # steps since the episode's start
    observation: np.ndarray  # [d] after the step
    moves: tuple[np.ndarray, np.ndarray] | None  # of leader and follower; None at the start
    returns: tuple[float, float]  # discounted so far
    over: bool


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


class Record(NamedTuple):
    """Numbers of an episode by time, or of a design."""

    title: str
    names: list[str]  # [d], or of the choices
    values: np.ndarray  # [T, d] from the start on, or [d]
    style: Mapping[str, Any]  # of matplotlib's plot


HELD = {"drawstyle": "steps-pre"}  # a step's action, drawn at its end
ONE_OF = {"linestyle": "none", "marker": ".", "markersize": 4, "clip_on": False}  # finitely many


def verbatim(name: Any) -> str:
    """A name as Matplotlib is to be given it, so that it takes no dollars for mathematics."""
    return str(name).replace("$", r"\$")


def cut(name: str, most: int) -> str:
    """A name without what is beyond so many letters."""
    return name if len(name) <= most else name[: most - 1].rstrip("\\ ") + "…"


def wrapped(name: str) -> str:
    """A name in two short lines at most."""
    lines = [cut(line, WORD) for line in textwrap.wrap(name, WORD, break_long_words=False)]
    return "\n".join(lines[:2]) + ("…" if len(lines) > 2 and not lines[1].endswith("…") else "")


def names_of(game: Game, kind: str, count: int) -> list[str]:
    """What the game calls `count` numbers or choices of a kind, "state", "leader" or "follower"."""
    own = [verbatim(name) for name in game.names.get(kind, ())]
    if len(own) == count:
        return own
    if _choices(game, kind):
        return [str(i) for i in range(count)]
    what = "state" if kind == "state" else f"{kind}'s action"
    return [what] if count == 1 else [f"{what} {i + 1}" for i in range(count)]


def _choices(game: Game, kind: str) -> int:
    """How many states there are, or actions of a player; 0 where they are vectors."""
    if kind == "state":
        return game.observation_space.shape[0] if game.one_hot else 0
    space = game.leader_space if kind == "leader" else game.follower_space
    return int(getattr(space, "n", 0))


def numbers(game: Game, moments: Sequence[Moment]) -> list[Record]:
    """State, leader's and follower's action of an episode, from its second moment on the actions.

    Of a one-hot observation which state it is of.
    """
    moves = [moment.moves for moment in moments if moment.moves is not None]
    found = []
    for kind, title, steps in (
        ("state", "state", [moment.observation for moment in moments]),
        ("leader", "leader's action", [leader for leader, _ in moves]),
        ("follower", "follower's action", [follower for _, follower in moves]),
    ):
        values = np.stack([np.atleast_1d(one) for one in steps])  # [T, d]
        names = names_of(game, kind, _choices(game, kind) or values.shape[1])
        if kind == "leader" and game.leader_moves == "once":
            found.append(Record("leader's design", names, values[0], {}))
        elif _choices(game, kind):
            start = np.full((1, 1), np.nan)
            values = values.argmax(1, keepdims=True) if kind == "state" else values
            values = values if kind == "state" else np.concatenate([start, values])
            found.append(Record(title, names, values, ONE_OF))
        elif kind == "state":
            found.append(Record(title, names, values, {}))
        else:
            found.append(Record(title, names, np.concatenate([values[:1], values]), HELD))
    return found


def draw_numbers(
    rows: Any,
    episodes: Sequence[Sequence[Record]],
    scales: Sequence[Sequence[Record]] | None = None,
) -> list[Any]:
    """Draw episodes side by side on common scales. Returns what grows with time.

    Args:
        rows: axes, a row for each record and a column for each episode. scales: the episodes that
            the scales are of, these unless given.
    """
    grown = []
    last = max(len(episode[0].values) for episode in scales or episodes) - 1
    for r, axes in enumerate(rows):
        every = [episode[r] for episode in scales or episodes]
        for panel, episode in zip(axes, episodes, strict=True):
            one = episode[r]
            panel.set_ylim(_extent(every))
            if one.values.ndim == 1:
                places = [cut(name, NAME) for name in one.names]
                draw_bars(panel, places, one.values[:, None], written=True)
                continue
            for i, values in enumerate(one.values.T):
                turn, which = divmod(i, len(COLOURS))
                look = {"linestyle": ("-", "--")[turn % 2], **one.style}
                grown += panel.plot(values, color=COLOURS[which], **look)
            panel.set_xlim(0, last)
            panel.locator_params(axis="x", integer=True, nbins=6)
            if one.style is ONE_OF and len(one.names) <= LISTED:
                panel.set_yticks(range(len(one.names)), [cut(name, WORD) for name in one.names])
            else:
                whole = {"integer": True, "min_n_ticks": 1} if one.style is ONE_OF else {}
                panel.locator_params(axis="y", nbins=4, **whole)
            panel.tick_params(labelbottom=r == len(rows) - 1)
            panel.grid(alpha=0.3)
        names, values = every[0].names, every[0].values
        lone = len(names) == 1 and every[0].style is not ONE_OF
        title = names[0] if lone else every[0].title
        axes[0].set_ylabel(wrapped(title) if len(title) > WORD else title.replace(" ", "\n", 1))
        if values.ndim == 2 and 1 < values.shape[1] <= NAMED:
            place = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5), "frameon": False}
            size = "small" if len(names) <= 5 else "x-small"
            look = {"fontsize": size, "handlelength": 1.5, "labelspacing": 0.3}
            told = [cut(name, NAME) for name in names]
            axes[-1].legend(axes[-1].lines, told, ncols=-(-len(names) // 8), **look, **place)
    for panel in rows[-1]:
        panel.set_xlabel("step")
    return grown


def _extent(every: Sequence[Record]) -> tuple[float, float]:
    """Lowest and highest number, with some room."""
    low, high = (bound([bound(one.values) for one in every]) for bound in (np.nanmin, np.nanmax))
    if every[0].values.ndim == 1:
        low, high = min(low, 0.0), max(high, 0.0)
    share = 0.25 if every[0].values.ndim == 1 else 0.06  # the bars' numbers are written there
    room = share * (high - low) or 0.5
    return float(low - room), float(high + room)


def draw_bars(
    axes: Any,
    places: Sequence[str],
    values: np.ndarray,
    names: Sequence[str] = ("",),
    title: str | None = None,
    written: bool = False,
) -> None:
    """Bars [P, A] at named places, A side by side, named in a legend if there are several.

    Args:
        written: with the number at every bar, where there are few.
    """
    count, several = values.shape
    width = 0.8 / several
    bars = []
    for a in range(several):
        at = np.arange(count) + (a - (several - 1) / 2) * width
        bars.append(axes.bar(at, values[:, a], width, color=COLOURS[a % len(COLOURS)]))
    if written and count * several <= WRITTEN:
        for one in bars:
            axes.bar_label(one, fmt="{:.3g}", fontsize="x-small", padding=1)
        axes.margins(y=0.12)
    if count <= LABELLED:
        crowded = sum(map(len, places)) > CROWDED
        axes.set_xticks(range(count), places, **(TURNED if crowded else {}))
    if 1 < several <= NAMED:
        columns = min(several, max(1, CROWDED // (4 + max(map(len, names)))))
        low, high = axes.get_ylim()
        room = 0.09 * (-(-several // columns) + (title is not None))
        axes.set_ylim(low, high + (high - low) * (0.03 + room))
        axes.legend(bars, names, title=title, fontsize="small", loc="upper center", ncols=columns)
