"""A follower trained from scratch against a frozen leader, and what comes of their meeting."""

import hashlib
import json
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from stackelberg.access import (
    Response,
    blamed,
    check_shows,
    gap_of,
    policy_table,
    restrict,
    steps_of,
)
from stackelberg.errors import InputError
from stackelberg.evaluation_result import RETURNS, Row
from stackelberg.frozen import Frozen
from stackelberg.game import Game
from stackelberg.identity import content_key, game_identity
from stackelberg.oracle import oracle
from stackelberg.process import single_thread
from stackelberg.rollout import play
from stackelberg.run_directory import to_json
from stackelberg.summary import Cut, evaluation_cut, half_widths, plain, versions
from stackelberg.types import Commitment, Follower, TabularResponse

FORMAT = 3  # of trainings that are kept
TRAIN, PLAY = 11, 12  # what random numbers are for
BATCH = 1_000_000  # steps of play at once
SIDE_BY_SIDE = 64  # copies of a game that steps them one by one
FURTHER = 100  # times the episodes asked for that may be played to reach a half-width

Watch = Callable[[int, int, float | None], None]  # a follower's steps, of at most how many, its gap


class Kind(NamedTuple):
    """A follower by the name under which its results stand, and what makes a fresh one."""

    name: str
    make: Callable[[], Follower]
    settings: dict[str, Any]  # of it, in JSON
    key: str | None  # what tells it from others; None where that is unknown


@dataclass(frozen=True)
class Training:
    """A follower that best-responds to one leader, and is then met by that one and others."""

    leader: Frozen
    opponents: tuple[Frozen, ...]  # that meet it
    follower: Kind
    temperature: float
    seed: int
    episodes: int
    half_width: float | None = None  # of the interval of the leader's discounted return

    @property
    def place(self) -> dict[str, Any]:
        return {
            "leader": self.leader.name,
            "follower": self.follower.name,
            "temperature": self.temperature,
            "seed": self.seed,
        }

    @property
    def said(self) -> str:
        """Which it is."""
        return f"{self.leader.name}: {self.follower.name}, seed {self.seed}"

    @property
    def file(self) -> str | None:
        """Where its rows are kept: a name that changes with all that they depend on.

        None where that cannot be told.
        """
        leaders = [one.key for one in (self.leader, *self.opponents)]
        rules = content_key(self.leader.game)
        if None in (*leaders, rules, self.follower.key):
            return None
        whole = self.place | {
            "format": FORMAT,
            "versions": versions(),
            "game": [game_identity(self.leader.game), rules],
            "leaders": leaders,
            "names": [one.name for one in self.opponents],
            "follower": [self.follower.name, self.follower.key],
            "episodes": [self.episodes, self.half_width],
        }
        digest = hashlib.sha256(to_json(whole, sort_keys=True).encode()).hexdigest()[:16]
        return f"{digest}.json"

    def run(self, watch: Watch | None = None) -> list[Row]:
        """Train and play: a row for every opponent, see `EvaluationResult`.

        Args:
            watch: called as training goes on, by followers that tell.
        """
        with single_thread():
            game = retuned(self.leader, self.temperature)
            follower: Any = self.follower.make()
            if watch is not None and hasattr(follower, "report"):
                follower.report = watch
            seed = int(self._generator(TRAIN).integers(2**31))
            with blamed(f"a follower '{self.follower.name}' whose best_respond() succeeds"):
                response = follower.best_respond(game, self.leader.commitment, [seed])
            check_shows(response, "trajectories")
            return [self._meet(game, response, other) for other in self.opponents]

    def _generator(self, purpose: int, *also: str) -> np.random.Generator:
        """Independent of those of all other trainings, as their intervals suppose."""
        place = zlib.crc32(repr([*self.place.values(), *also]).encode())
        return np.random.default_rng([self.seed, purpose, place])

    @torch.no_grad()
    def _meet(self, game: Game, response: Response, other: Frozen) -> Row:
        own = other.name == self.leader.name
        generator = self._generator(PLAY, other.name)
        cut = evaluation_cut(game, other.commitment, response)
        returns = self._returns(game, other.commitment, response, cut, generator)
        row = self.place | {"against": other.name, "episodes": len(returns[RETURNS[0]])}
        row |= {"discounted_horizon": cut.horizon, "discounted_rest": plain(cut.rest)}
        for name, found in returns.items():
            row |= {name: found.mean().item(), f"{name}_ci95": half_widths(found[None])[0]}
        gap, source = (gap_of(response, 1), "follower") if own else (None, None)
        truth, met = oracle(game, other.commitment), None
        if truth is not None:
            shown = _in_tables(game, other.commitment, response)
            met, true_gap = truth.leader_return(shown), truth.follower_gap(shown)
            gap, source = (gap, source) if true_gap is None else (true_gap, "exact")
        row |= {"leader_exact": _one(met), "follower_gap": _one(gap)}
        row |= {"gap_source": None if gap is None else source}
        whole: Row = json.loads(to_json(row | {"follower_steps": steps_of(response)}))
        return whole

    def _returns(
        self,
        game: Game,
        commitment: Commitment,
        response: Response,
        cut: Cut,
        generator: np.random.Generator,
    ) -> dict[str, Tensor]:
        """Returns of as many fresh episodes as were asked for, or as the half-width takes."""
        found: dict[str, Tensor] = {}
        more = self.episodes
        while more:
            new = _played(game, commitment, response, cut, more, generator)
            found = {name: torch.cat([found.get(name, x[:0]), x]) for name, x in new.items()}
            more = self._missing(found["leader_discounted"])
        return found

    def _missing(self, returns: Tensor) -> int:
        """How many episodes are still to be played, by the spread of those that were."""
        (half,) = half_widths(returns[None])
        if self.half_width is None or half is None or half <= self.half_width:
            return 0
        asked = len(returns) * (half / self.half_width) ** 2
        return max(0, math.ceil(min(FURTHER * self.episodes, asked)) - len(returns))


def retuned(leader: Frozen, temperature: float) -> Game:
    """The leader's game with a follower of this temperature."""
    game = leader.game
    if temperature == game.temperature:
        return game
    other = game.at_temperature(temperature)
    for has, model in ((other.tabular, other.model), (other.linear, other.matrices)):
        if has and model(leader.commitment.design).temperature != temperature:
            raise InputError(
                f"a game whose model follows the temperature {temperature}",
                f"'{game.name}', whose model does not",
                "write its at_temperature(), or evaluate at its own temperature",
            )
    return other


def _in_tables(game: Game, commitment: Commitment, response: Response) -> Response:
    """The response in tables, where the game has tables and the response tells what it does."""
    if not game.tabular or isinstance(response, TabularResponse):
        return response
    if not hasattr(response, "log_prob"):
        return response
    actions = commitment.policy.shape[-1]
    return TabularResponse(policy_table(restrict(response, "policy"), game, 1, actions).double())


def _one(values: Tensor | None) -> float | None:
    return None if values is None else values[0].item()


def _played(
    game: Game,
    commitment: Commitment,
    response: Response,
    cut: Cut,
    episodes: int,
    generator: np.random.Generator,
) -> dict[str, Tensor]:
    """Returns of fresh episodes [episodes], of rewards alone.

    Discounted ones run for `cut.horizon` steps, undiscounted ones to the game's own time limit.
    """
    steps = max(cut.horizon, game.horizon)
    most = SIDE_BY_SIDE if game.one_by_one else max(1, BATCH // steps)
    found: dict[str, list[Tensor]] = {name: [] for name in RETURNS}
    for start in range(0, episodes, most):
        seen = play(
            game,
            commitment,
            response,
            streams=min(most, episodes - start),
            steps=steps,
            generators=[generator],
            horizon=steps,
            once=True,
        )
        for who, reward, discount in (
            ("leader", seen.leader_reward, game.leader_discount),
            ("follower", seen.follower_reward, game.follower_discount),
        ):
            settled = reward * (seen.time < cut.horizon)
            limited = reward * (seen.time < game.horizon)
            found[f"{who}_discounted"].append(seen.first_returns(settled, discount)[0])
            found[f"{who}_undiscounted"].append(seen.first_returns(limited, 1.0)[0])
    return {name: torch.cat(parts) for name, parts in found.items()}
