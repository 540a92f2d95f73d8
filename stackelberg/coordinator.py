"""The one training loop: the follower best-responds, both play, the leader takes one step."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stackelberg.access import (
    Response,
    blamed,
    check_shows,
    gap_of,
    keeps_state,
    restrict,
    steps_of,
)
from stackelberg.best_known import BestKnown
from stackelberg.config import TrainConfig
from stackelberg.critics import Foreseeing, Memory, TabularMemory
from stackelberg.errors import InputError
from stackelberg.estimators import Evidence, estimator, exact_oracle
from stackelberg.game import Game
from stackelberg.identity import identity
from stackelberg.optimisers import optimiser
from stackelberg.probe import Probe
from stackelberg.process import interrupts, single_thread
from stackelberg.progress import Report, silent
from stackelberg.rollout import Points, play
from stackelberg.run_directory import RunDirectory
from stackelberg.summary import (
    ROUNDING,
    VANISHED,
    evaluation,
    evaluation_cut,
    iteration_row,
    plain,
    versions,
    warn_of_divergence,
    warn_without_influence,
    warn_without_response,
)
from stackelberg.trust_region import SHRINK, TrustRegion, geometry_of, norm
from stackelberg.types import (
    Commitment,
    Follower,
    Leader,
    check_parts,
    commit,
    everywhere,
)

RETREATS = 6  # how often a step is shortened that leads astray, before it is not made

FOLLOWER, PLAY, EVALUATION, ESTIMATOR, PROBE = range(1, 6)  # what random numbers are for


@dataclass(frozen=True)
class Result:
    """What a training run leaves: the trained leader is the one that was given."""

    leader: Leader
    response: Response  # the follower's answer to the final leader
    metrics: list[dict[str, Any]]  # one row per outer iteration; lists where there are many leaders
    summary: dict[str, Any]


class Coordinator:
    """Trains M leaders side by side, each against its own follower.

    Per outer iteration: `follower.best_respond`, `play`, one estimate of the hypergradient, one
    step of the leader inside its trust region. All randomness comes from the seeds and the number
    of the iteration, so an interrupted run that resumes ends where an uninterrupted one does.

    Args:
        game: the game; with tables the leader learns in tables, elsewhere by networks.
        leader: M leaders. follower: the black box.
        config: settings.
        seeds: one per leader.
        out: run directory; nothing is written without one.
        resume: go on with the run that is in `out`.
        label: what config.json says beyond the settings (the command line's own arguments).
        best_known: what the summary's regret is measured by, beside the game's own optimum; it
            takes up the best of the trained leaders.

    Raises:
        InputError: for parts that do not fit, or an `out` that cannot be used.
    """

    def __init__(
        self,
        game: Game,
        leader: Leader,
        follower: Follower,
        config: TrainConfig | None = None,
        *,
        seeds: Sequence[int] = (0,),
        out: str | Path | None = None,
        resume: bool = False,
        label: dict[str, Any] | None = None,
        best_known: BestKnown | None = None,
    ) -> None:
        self.game, self.leader, self.follower = game, leader, follower
        self.config = TrainConfig() if config is None else config
        check_parts(game, leader, follower, self.config)
        self.seeds = tuple(int(seed) for seed in seeds)
        if len(self.seeds) != leader.count or any(seed < 0 for seed in self.seeds):
            raise InputError(
                f"one seed >= 0 for each of the {leader.count} leaders",
                f"{self.seeds}",
                "make the leader with the same seeds",
            )
        if resume and out is None:
            raise InputError("an output folder to resume", "none", "pass out")
        self.best_known = best_known
        self._estimator = estimator(self.config.estimator, game)
        self._advance = optimiser(self.config.optimiser, geometry_of(leader))
        self._commitment()  # the leader fits the game, or this says why not
        if hasattr(follower, "check"):  # a follower may say which games it plays
            follower.check(game)
        if hasattr(follower, "sample"):  # it is its own response; others are looked at when made
            check_shows(follower, self.config.access)
        known = {"game": game.name, "game_options": None, "follower": follower.name}
        self.label = known | (label or {})
        self.memory = memory_of(game, self.seeds, self.config.estimate_temperature)
        self._parameters = list(leader.parameters())
        self.region = TrustRegion(
            self._parameters,
            self.config.radius,
            self.config.max_radius,
            leader.rows,
            geometry_of(leader),
            self.config.min_radius,
        )
        self.iteration, self.seconds = 0, 0.0
        self._lacked = False  # has a leader been warned of a model without a best response?
        self.steps = {"leader": 0, "follower": 0}
        self.metrics: list[dict[str, Any]] = []
        self.directory = None
        if out is not None:
            settings = self.label | asdict(self.config) | {"seeds": list(self.seeds)}
            settings |= identity(game, leader, follower)
            self.directory = RunDirectory(out, settings, resume)
            if resume:
                self._restore()

    # ------------------------------------------------------------ the loop

    def run(self, report: Report = silent) -> Result:
        """Train to the end of `config.iterations`, then meet the final leader's best response.

        Args:
            report: called with every row of metrics.

        Raises:
            KeyboardInterrupt: on Ctrl-C, after the running iteration and its checkpoint.
            InputError: if rewards are so large that the hypergradient is not finite, or the game
                or the follower fails; there is a checkpoint of the last whole iteration then.
        """
        with single_thread(), interrupts() as interrupted:
            try:
                while self.iteration < self.config.iterations:
                    with self._checkpointed():
                        row = self._iterate()
                    self.metrics.append(row)
                    if self.directory is not None:
                        self.directory.log(row)
                    report(row)
                    last = self.iteration == self.config.iterations
                    stop = interrupted()
                    if last or stop or self.iteration % self.config.checkpoint_every == 0:
                        self._checkpoint()
                    if stop and not last:
                        raise KeyboardInterrupt(f"after {self.iteration} outer iterations")
                return self._conclude()
            finally:
                if self.directory is not None:
                    self.directory.close()

    @contextmanager
    def _checkpointed(self) -> Iterator[None]:
        """A step inside that somebody's game or follower may fail: nothing before it is lost."""
        risky = self.directory is not None and self.iteration > 0
        before = {k: t.detach().clone() for k, t in self._tensors().items()} if risky else None
        try:
            yield
        except InputError as error:
            if before is not None:
                self._checkpoint(before)
                error.add_note(f"{self.iteration} outer iterations are kept, --resume goes on")
            raise

    def _iterate(self) -> dict[str, Any]:
        began = time.perf_counter()
        commitment = self._commitment().detach()
        response = self._respond(commitment)
        seen = play(
            self.game,
            commitment,
            response,
            streams=self.config.streams,
            steps=self._length,
            generators=self._generators(PLAY),
        )
        self.memory.update(seen)
        observed = everywhere(self.game) if seen.points is None else _met(seen.points)
        attached = commit(self.game, self.leader, observed)
        probe = self._probe(response)
        evidence = Evidence(
            game=self.game,
            leader=self.leader,
            commitment=commitment._replace(policy=attached.policy.detach()),
            follower=restrict(response, self.config.access),
            trajectories=seen,
            memory=self.memory,
            noise=self._generators(ESTIMATOR),
            probe=probe,
            gae_lambda=self.config.gae_lambda,
        )
        surrogates = self._estimator(evidence, attached)
        direct, indirect = self._gradients(surrogates)
        if self.iteration == 0:
            warn_of_divergence(evidence.critics.objective)
        self._lacked = self._lacked or warn_without_response(surrogates[1])
        if self.iteration == 0 and evidence.oracle is not None:
            exact_parts = self._gradients(exact_oracle(evidence, attached))
            true = [part for parts in exact_parts for part in parts]
            scale = evidence.oracle.scale
            warn_without_influence(scale, [*direct, *indirect], true)
        gradient = [a + b for a, b in zip(direct, indirect, strict=True)]
        values = evidence.critics.leader_state_value.abs().amax(-1)
        floor = VANISHED * (norm(direct) + norm(indirect)) + ROUNDING * values
        visits = evidence.critics.visitation if attached.design is None else torch.ones(1)
        if not self.game.tabular and len(self.leader.position(observed)[0]) < visits.shape[-1]:
            visits = (visits.unsqueeze(-1) * observed).sum(-2)  # of a table's rows, met one-hot
        before, sound = self.region.snapshot(), self._foreseen()
        self._advance(self.region, gradient, lambda: self.leader.position(observed), visits, floor)
        self._stay_sound(before, sound)
        self.steps["leader"] += seen.steps + probe.steps["leader"]
        self.steps["follower"] += steps_of(response) + probe.steps["follower"]
        row = {"iteration": self.iteration} | iteration_row(evidence, response, direct, indirect)
        row |= {"radius": plain(self.region.largest)}
        row |= {f"{who}_steps": count for who, count in self.steps.items()}
        self.iteration += 1
        elapsed = time.perf_counter() - began
        self.seconds += elapsed
        return row | {"seconds": elapsed}

    def _foreseen(self) -> Tensor:
        """Where, by what was learned, followers have a best response, [M]; nowhere if not told."""
        if isinstance(self.memory, Foreseeing):
            return self.memory.foresees(self._commitment())
        return torch.zeros(self.leader.count, dtype=torch.bool)

    def _stay_sound(self, before: list[Tensor], sound: Tensor) -> None:
        """Take steps back that lead from where a best response is foreseen to where none is.

        Where none was foreseen before the step either, what was learned is wrong: the follower has
        just answered.
        """
        for attempt in range(RETREATS):
            astray = sound & ~self._foreseen() if sound.any() else sound
            if not astray.any():
                return
            self.region.retreat(before, astray, 0.0 if attempt == RETREATS - 1 else SHRINK)

    def _gradients(self, surrogates: tuple[Tensor, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Direct and indirect part of the hypergradient, a tensor per parameter of the leader."""
        direct, indirect = (_gradient(surrogate, self._parameters) for surrogate in surrogates)
        return direct, indirect

    def _commitment(self) -> Commitment:
        with torch.no_grad():
            return commit(self.game, self.leader)

    def _respond(self, commitment: Commitment) -> Response:
        seeds = [int(generator.integers(2**31)) for generator in self._generators(FOLLOWER)]
        with blamed(f"a follower '{self.follower.name}' whose best_respond() succeeds"):
            response = self.follower.best_respond(self.game, commitment, seeds)
        check_shows(response, self.config.access)
        gap_of(response, len(seeds))  # or this says what is wrong with it
        return response

    def _probe(self, response: Response) -> Probe:
        return Probe(
            game=self.game,
            leader=self.leader,
            follower=self.follower,
            response=response,
            access=self.config.access,
            streams=self.config.streams,
            length=self._length,
            generators=lambda draw: self._generators(PROBE, draw),
        )

    def _generators(self, *purpose: int) -> list[np.random.Generator]:
        return [np.random.default_rng([seed, self.iteration, *purpose]) for seed in self.seeds]

    @property
    def _length(self) -> int:
        """Steps of a stream of play."""
        return self.config.steps or self.game.horizon

    # ------------------------------------------------------------ measuring

    def _conclude(self) -> Result:
        """Evaluate the final leader against the follower's final response and write the summary.

        `env_steps` of training are per leader: M leaders took M times as many.
        """
        commitment = self._commitment()
        response = self._respond(commitment)
        cut = evaluation_cut(self.game, commitment, response)
        seen = play(
            self.game,
            commitment,
            response,
            streams=self.config.evaluation_episodes,
            steps=cut.horizon,
            generators=self._generators(EVALUATION),
            horizon=cut.horizon,
            once=True,
        )
        summary = (
            self.label
            | {
                "estimator": self.config.estimator,
                "access": self.config.access,
                "seed": self.seeds[0] if len(self.seeds) == 1 else list(self.seeds),
                "outer_iterations": self.iteration,
                "env_steps": dict(self.steps),
                "wall_seconds": self.seconds,
            }
            | evaluation(self.game, commitment, response, seen, cut, self.best_known)
            | {"versions": versions()}
        )
        if self.directory is not None:
            self.directory.summarise(summary)
        return Result(self.leader, response, self.metrics, summary)

    # ------------------------------------------------------------ checkpoints

    def _parts(self) -> dict[str, Any]:
        parts = {"memory": self.memory, "region": self.region}
        own = {"follower": self.follower, "estimator": self._estimator}
        return parts | {name: part for name, part in own.items() if keeps_state(part)}

    def _tensors(self) -> dict[str, Tensor]:
        """All that the next iteration depends on."""
        tensors = {f"leader.{name}": t for name, t in self.leader.state_dict().items()}
        for part, owner in self._parts().items():
            tensors |= {f"{part}.{name}": tensor for name, tensor in owner.state().items()}
        return tensors

    def _checkpoint(self, tensors: dict[str, Tensor] | None = None) -> None:
        """Write the present state, or the tensors of the last iteration's end."""
        if self.directory is None:
            return
        notes = {"iteration": self.iteration, "seconds": self.seconds, "steps": self.steps}
        tensors = self._tensors() if tensors is None else tensors
        self.directory.checkpoint(self.iteration, tensors, notes)

    def _restore(self) -> None:
        assert self.directory is not None
        found = self.directory.restore()
        if found is None:  # stopped before its first checkpoint: the same run from its start
            return
        tensors, notes, self.metrics = found
        for name, tensor in self._tensors().items():
            there = tensors.get(name)
            if name.startswith(("follower.", "estimator.")):  # their states are their own affair
                continue
            if there is None or there.shape != tensor.shape:
                raise InputError(
                    f"a checkpoint with {name} of shape {list(tensor.shape)}",
                    "none" if there is None else f"shape {list(there.shape)}",
                    "resume with the game and the leader that the run was started with",
                )

        def of(part: str) -> dict[str, Tensor]:
            head = part + "."
            return {k.removeprefix(head): v for k, v in tensors.items() if k.startswith(head)}

        with torch.no_grad():
            for name, tensor in self.leader.state_dict().items():
                tensor.copy_(of("leader")[name])
        for part, owner in self._parts().items():
            owner.load(of(part))
        self.iteration, self.seconds = notes["iteration"], notes["seconds"]
        self.steps = notes["steps"]


def _met(points: Points) -> Tensor:
    """Observations [M, n, d] of the leaders; where one has left, that of the first point."""
    return torch.where(points.leader_out.unsqueeze(-1), points.leader[:, :1], points.leader)


def memory_of(game: Game, seeds: Sequence[int], estimate_temperature: bool = False) -> Memory:
    """What the leaders of the seeds learn by: counts, regressions or networks, as the game is."""
    if game.tabular:
        return TabularMemory(game, len(seeds), estimate_temperature)
    if game.linear:
        from stackelberg.regression import LinearMemory

        return LinearMemory(game, len(seeds), estimate_temperature)
    if not game.finite:
        from stackelberg.continuous import BoxMemory

        return BoxMemory(game, seeds, estimate_temperature)
    from stackelberg.neural import ReplayMemory

    return ReplayMemory(game, seeds, estimate_temperature)


def _gradient(surrogate: Tensor, parameters: list[Any]) -> list[Tensor]:
    """d surrogate / d parameters, zeros where there is no dependence."""
    if not surrogate.requires_grad:
        return [torch.zeros_like(p) for p in parameters]
    found = torch.autograd.grad(surrogate.sum(), parameters, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
