"""What a leader reaches against a follower that falls short of its best response."""

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from stackelberg import exact
from stackelberg.best_known import BestKnown
from stackelberg.config import TrainConfig
from stackelberg.coordinator import Coordinator
from stackelberg.figures import draw_study
from stackelberg.game import Game
from stackelberg.process import interrupts
from stackelberg.run_directory import to_json, write_atomically
from stackelberg.summary import half_widths
from stackelberg.types import Commitment, Follower, Leader, TabularResponse

WINDOW = 10  # a result is the median over the last one in so many commitments

Measures = dict[str, np.ndarray]  # [M] by name, as in `study`
Report = Callable[[int, int, str], None]  # told steps done, of how many, and what they are


class Kind(NamedTuple):
    """How far from its best response a follower stops."""

    restart: str  # "carry" (from its last values) or "reset" (from 0); "exact": does not stop
    sweeps: int | None = None  # None: all

    def __str__(self) -> str:
        return self.restart if self.sweeps is None else f"{self.restart}, k = {self.sweeps}"


def study(
    game: Game,
    leaders: Callable[[Sequence[int]], Leader],
    followers: Mapping[Kind, Follower],
    config: TrainConfig,
    seeds: Sequence[int],
    report: Report = lambda done, total, kind: None,
    best_known: BestKnown | None = None,
) -> dict[Kind, Measures]:
    """Train the same M leaders against each follower, all seeds in one batch.

    The measures of a leader are medians over the last tenth of its commitments, the final one
    included, each read from the true model:

    - `gap`: V* - V, what the follower's behaviour falls short of its best response at the start,
      in units of its entropy-regularised return; `relative_gap`: (V* - V) / |V*|;
    - `against_response`: the leader's discounted return against the response that it met;
    - `exact`: its objective, against the exact best response. A follower that errs in the leader's
      favour makes the former the larger.

    Args:
        game: tabular. leaders: makes the leaders of the seeds. followers: fresh ones.
        report: called after every outer iteration.
        best_known: as for the coordinator.

    Raises:
        KeyboardInterrupt: on Ctrl-C.
        InputError: if the parts do not fit, or the game has no tables.
    """
    game.require_tables()
    config = replace(config, evaluation_episodes=1)  # nothing here is read from episodes
    steps = config.iterations
    found: dict[Kind, Measures] = {}
    with interrupts() as interrupted:
        for kind, follower in followers.items():
            measured, before = Measured(follower), len(found) * steps

            def show(row: dict[str, Any], before: int = before, kind: Kind = kind) -> None:
                report(before + row["iteration"] + 1, len(followers) * steps, str(kind))

            options: Any = {"seeds": seeds, "best_known": best_known}
            Coordinator(game, leaders(seeds), measured, config, **options).run(show)
            if interrupted():
                raise KeyboardInterrupt
            found[kind] = measured.medians()
    return found


class Measured:
    """A follower, each of whose answers is measured against the exact best response.

    An answer that is taken back by `load`, as a probe does, does not count.
    """

    def __init__(self, follower: Follower) -> None:
        self.follower: Any = follower  # that responds in tables and has a state
        self.name = follower.name
        self.rows: list[dict[str, Tensor]] = []  # measures [M] of every answer
        self._best: Tensor | None = None
        self._kept = 0  # answers before the last `state`

    @torch.no_grad()
    def best_respond(
        self, game: Game, commitment: Commitment, seeds: Sequence[int]
    ) -> TabularResponse:
        response: TabularResponse = self.follower.best_respond(game, commitment, seeds)
        model, policy = game.model(commitment.design), commitment.policy
        start = self._best
        if start is not None and start.shape != policy.shape[:-1]:
            start = None
        best = exact.best_response(model, policy, start)
        self._best = best.state_value
        own = exact.follower_values(model, policy, response.policy)
        value, highest = ((model.initial * v).sum(-1) for v in (own, best.state_value))
        gap = (highest - value).clamp(min=0.0)
        self.rows.append(
            {
                "gap": gap,
                "relative_gap": gap / highest.abs(),
                "against_response": exact.leader_return(model, policy, response.policy),
                "exact": exact.leader_return(model, policy, best.policy),
            }
        )
        return replace(response, gap=gap)

    def state(self) -> dict[str, Tensor]:
        self._kept = len(self.rows)
        return self.follower.state()

    def load(self, state: dict[str, Tensor]) -> None:
        del self.rows[self._kept :]
        self.follower.load(state)

    def medians(self) -> Measures:
        last = self.rows[-math.ceil(len(self.rows) / WINDOW) :]
        return {name: np.median([row[name].numpy() for row in last], 0) for name in last[0]}


def findings(found: Mapping[Kind, Measures], optimum: float | None) -> dict[str, Any]:
    """A study in JSON: of every measure its mean, 95 % interval and seeds; regret if it is known.

    The regret is the optimum less `exact`, whatever the follower's gap.
    """
    rows = []
    for kind, measures in found.items():
        known = {} if optimum is None else {"regret": optimum - measures["exact"]}
        rows.append(kind._asdict() | {n: _spread(v) for n, v in (measures | known).items()})
    return {"optimum": optimum, "discounted": True, "followers": rows}


def _spread(values: np.ndarray) -> dict[str, Any]:
    half = half_widths(torch.from_numpy(values)[None])[0]
    return {"mean": values.mean().item(), "ci95": half, "seeds": values.tolist()}


def write(folder: Path, findings: dict[str, Any]) -> None:
    """study.csv, study.json, study.png and study.svg; Ctrl-C waits until they are there.

    Args:
        findings: with `game` (its name) and `seeds`.
    """
    with interrupts():
        folder.mkdir(parents=True, exist_ok=True)
        for form in ("png", "svg"):
            draw_study(folder / f"study.{form}", findings)
        write_atomically(folder / "study.csv", _csv(findings))
        write_atomically(folder / "study.json", to_json(findings, indent=2) + "\n")


def _csv(findings: dict[str, Any]) -> str:
    """A row for every follower and seed."""
    text, rows = io.StringIO(), findings["followers"]
    names = [name for name, value in rows[0].items() if isinstance(value, dict)]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["restart", "sweeps", "seed", *names])
    for row in rows:
        for i, seed in enumerate(findings["seeds"]):
            values = [row[name]["seeds"][i] for name in names]
            writer.writerow([row["restart"], row["sweeps"], seed, *values])
    return text.getvalue()


def print_table(findings: dict[str, Any]) -> None:
    """One row for every follower on stdout, in Markdown; intervals beside the leader's returns."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    heads = {"gap": "gap", "relative_gap": "(V*-V)/|V*|", "against_response": "return met"}
    heads |= {"exact": "exact return", "regret": "regret"}
    shown = [name for name in heads if name in findings["followers"][0]]
    table = Table("restart", "k", *(heads[name] for name in shown), box=box.MARKDOWN)
    for row in findings["followers"]:
        cells = [f"{row[name]['mean']:.3g}" for name in shown[:2]]
        cells += [_with_interval(**row[name]) for name in shown[2:]]
        table.add_row(row["restart"], "" if row["sweeps"] is None else str(row["sweeps"]), *cells)
    Console(width=120).print(table)


def _with_interval(mean: float, ci95: float | None, seeds: list[float]) -> str:
    return f"{mean:.5g}" + ("" if ci95 is None else f" +- {ci95:.2g}")
