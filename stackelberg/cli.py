"""The command line. Only what a command needs is imported, so `--help` answers at once."""

import contextlib
import dataclasses
import io
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import tyro

from stackelberg.config import Access, EstimatorName, TrainConfig
from stackelberg.errors import InputError
from stackelberg.usage import usage_error


def _out_of(kind: str) -> Callable[[str], str]:
    """What help says behind an option that names something registered; read when help is asked."""

    def hint(default: str) -> str:
        from stackelberg import registry

        return f"(out of {', '.join(registry.names(kind))}; default: {default})"

    return hint


def _optional(metavar: str) -> Any:
    """An option that says itself what is done without it."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint="")


GameReference = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="GAME")]
Options = Annotated[tuple[str, ...], tyro.conf.UseAppendAction, _optional("KEY=VALUE")]
Agent = Annotated[str | None, _optional("AGENT")]
Folder = Annotated[Path | None, _optional("PATH")]
LeaderName = Annotated[str, tyro.conf.arg(help_behavior_hint=_out_of("leaders"))]
FollowerName = Annotated[str, tyro.conf.arg(help_behavior_hint=_out_of("followers"))]


@dataclasses.dataclass(frozen=True)
class Games:
    """List the shipped games with their known optima, and the leaders, followers and estimators."""

    json: bool = False
    """Print one JSON object."""

    def run(self) -> None:
        from stackelberg import registry
        from stackelberg.best_known import BestKnown
        from stackelberg.estimators import ESTIMATORS, REMEMBERING

        rows, best_known = [], BestKnown()
        for name in registry.names("games"):
            factory = registry.load("games", name)
            about = (factory.__doc__ or "").strip().partition("\n")[0]
            optimum, source = best_known.optimum(factory())
            row = {"name": name, "about": about, "optimum": optimum, "optimum_source": source}
            rows.append(row)
        parts = {kind: registry.names(kind) for kind in ("leaders", "followers")}
        parts["estimators"] = [*ESTIMATORS, *REMEMBERING]
        if self.json:
            print(json.dumps({"games": rows} | parts))
            return
        for row in rows:
            known = _known(row) or "optimum unknown"
            print(f"{row['name']:<14} {known:<20} {row['about']}")
        print()
        for kind, names in parts.items():
            print(f"{kind + ':':<12}{', '.join(names)}")


@dataclasses.dataclass(frozen=True)
class Train:
    """Train a leader against a best-responding follower."""

    game: GameReference
    """A shipped game (see `stackelberg games`), path/to/file.py:factory, or module:factory."""
    game_option: Options = ()
    """An option of the game, as bonus=2; repeatable. A wrong KEY lists them all."""
    leader_agent: Agent = None
    """The agent of a PettingZoo environment that leads, unless its metadata name it."""
    leader: LeaderName = "default"
    """default fits the game, spread starts it from N(0, 1), the others are networks."""
    follower: FollowerName = "exact"
    """What best-responds: a name, or your own: path/to/file.py:Class, or module:Class."""
    follower_option: Options = ()
    """An option of the follower, as sweeps=1; repeatable."""
    seed: int = 0
    """Decides all randomness."""
    out: Folder = None
    """Run directory, new or empty; runs/GAME unless given."""
    resume: bool = False
    """Go on with the run in --out, by its own options; only --iterations may be new: more."""
    quiet: bool = False
    """No progress bar, nothing on stdout."""
    config: tyro.conf.OmitArgPrefixes[TrainConfig] = dataclasses.field(default_factory=TrainConfig)

    def run(self) -> None:
        from stackelberg import registry
        from stackelberg.best_known import BestKnown
        from stackelberg.coordinator import Coordinator
        from stackelberg.process import interruptible, single_thread
        from stackelberg.progress import progress_bar, silent

        if self.seed < 0:
            raise InputError("seed >= 0", f"{self.seed}", "give a non-negative integer")
        game = registry.make_game(self.game, self.game_option, self.leader_agent)
        follower = registry.make_follower(self.follower, self.follower_option)
        with single_thread():
            leader = registry.load("leaders", self.leader)(game, (self.seed,))
        label = {
            "game": self.game,
            "game_options": _pairs(self.game_option),
            "leader_agent": self.leader_agent,
            "follower": self.follower,
            "follower_options": _pairs(self.follower_option),
            "leader": self.leader,
        }
        out, best_known = self.folder(game), BestKnown()
        coordinator = Coordinator(
            game,
            leader,
            follower,
            self.config,
            seeds=(self.seed,),
            out=out,
            resume=self.resume,
            label=label,
            best_known=best_known,
        )
        interruptible()
        if self.quiet:
            coordinator.run(silent)
            return
        goal, _ = best_known.optimum(game)
        with progress_bar(game.name, self.config.iterations, goal) as progress:
            if hasattr(follower, "report"):
                follower.report = progress.follower
            summary = coordinator.run(progress).summary
        print(_sentence(summary, out))

    def folder(self, game: Any) -> Path:
        """The run directory."""
        return self.out or Path("runs") / game.name

    def as_started(self) -> "Train":
        """The command that started the run in the run directory."""
        from stackelberg import registry
        from stackelberg.run_directory import from_python, read_config

        out = self.out or self.folder(
            registry.make_game(self.game, self.game_option, self.leader_agent)
        )
        there = read_config(out)
        if from_python(there):
            raise InputError(
                "a run that was started by `stackelberg train`",
                f"{out}, started from Python",
                f"go on with it from Python: Coordinator(..., out='{out}', resume=True).run()",
            )
        known = {field.name for field in dataclasses.fields(TrainConfig)}

        def pairs(options: str) -> tuple[str, ...]:
            return tuple(f"{key}={value}" for key, value in (there.get(options) or {}).items())

        return dataclasses.replace(
            self,
            game_option=pairs("game_options"),
            follower_option=pairs("follower_options"),
            **{key: there[key] for key in _NAMES if key in there},
            seed=there.get("seeds", [self.seed])[0],
            config=TrainConfig(**{key: there[key] for key in known & there.keys()}),
            out=out,
            resume=False,  # flags are read again
            quiet=False,
        )


@dataclasses.dataclass(frozen=True)
class Solve:
    """Find the leader's exact optimum where a game shows tables or matrices, from many restarts."""

    game: GameReference
    """A shipped game (see `stackelberg games`), path/to/file.py:factory, or module:factory."""
    game_option: Options = ()
    """An option of the game, as bonus=2; repeatable. A wrong KEY lists them all."""
    restarts: int = 64
    """Starting points, from nearly uniform to nearly deterministic leaders."""
    steps: int = 100
    """Ascent steps of each of the two climbs that every restart makes."""
    seed: int = 0
    """Of the starting points."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> None:
        from statistics import median

        import numpy as np

        from stackelberg import registry
        from stackelberg.best_known import BestKnown
        from stackelberg.oracle import require_oracle
        from stackelberg.process import interruptible, single_thread
        from stackelberg.progress import counting_bar
        from stackelberg.run_directory import to_json
        from stackelberg.search import solve

        for name, least in (("restarts", 1), ("steps", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name} >= {least}", f"{getattr(self, name)}", "use the default")
        game = registry.make_game(self.game, self.game_option, oracle=True)
        require_oracle(game)
        draws = np.random.SeedSequence(self.seed).generate_state(self.restarts)
        leader = registry.load("leaders", "spread")(game, draws.tolist())
        best_known = BestKnown()
        kept = best_known.best(game)
        start = None if kept is None else leader.parameters_at(kept.parameters)
        interruptible()
        with single_thread(), counting_bar(game.name, hidden=self.json) as show:

            def report(step: int, total: int, value: float) -> None:
                show(step + 1, total, f"best {value:.6g}")

            found = solve(game, leader, self.steps, report=report, start=start, seed=self.seed)
        best_known.offer(game, found.parameters, "solve")
        local = {"best": found.values[0], "median": median(found.values), "worst": found.values[-1]}
        answer: dict[str, Any] = {
            "game": self.game,
            "value": found.value,
            "parameters": found.parameters,
            "restarts": self.restarts,
            "reached_by": found.reached_by,
            "local_optima": local | {"populations": found.populations},
            "best_known_before": None if kept is None else kept.value,
            "discounted": True,
            "horizon": None,
        }
        if self.json:
            print(to_json(answer))
            return
        moves = (
            "gains (constant, of the state) and standard deviation"
            if game.linear
            else "policy f(action | state)"
        )
        what = "design" if game.leader_moves == "once" else moves
        print(f"value {found.value:.8g} (discounted, unbounded horizon)")
        count = len(found.populations)
        few = "; few agree, so more --restarts may find better" if found.reached_by < 2 else ""
        print(f"reached by {found.reached_by} of {self.restarts + count} searches{few}")
        spread = ", ".join(f"{name} {v:.6g}" for name, v in local.items())
        print(f"{self.restarts} restarts, each alone: {spread}")
        if count:
            recombined = ", ".join(f"{value:.6g}" for value in found.populations)
            print(f"{count} populations that recombine what restarts found: {recombined}")
        if kept is not None:
            print(f"one of them began at the best known so far, {kept.value:.8g}")
        print(f"{what}:")
        for line in _listed(found.parameters):
            print(f"  {line}")


def _listed(parameters: list[Any]) -> list[str]:
    """A policy's rows, or the entries of a design that are not next to nothing, by their index."""
    if isinstance(parameters[0], list):
        return [" ".join(f"{p:.6g}" for p in row) for row in parameters]
    small = 1e-3 * max(map(abs, parameters))
    lines = [f"[{i}] {p:.6g}" for i, p in enumerate(parameters) if abs(p) > small or not small]
    rest = len(parameters) - len(lines)
    return lines + [f"{rest} others below {small:.1g}"] * (rest > 0)


@dataclasses.dataclass(frozen=True)
class Study:
    """Measure what a leader reaches against followers that stop short of their best response."""

    game: GameReference
    """A shipped game (see `stackelberg games`), path/to/file.py:factory, or module:factory."""
    game_option: Options = ()
    """An option of the game, as bonus=2; repeatable. A wrong KEY lists them all."""
    sweeps: tuple[int, ...] = (1, 2, 5, 10, 20, 50)
    """Soft policy sweeps after which a follower stops, one follower for each number."""
    restart: tuple[Literal["carry", "reset"], ...] = ("carry", "reset")
    """Each follower starts from its last values (carry), from 0 (reset), or both in turn."""
    backups: int = 1
    """Evaluation backups in a sweep."""
    leader: LeaderName = "default"
    """default fits the game, spread starts it from N(0, 1), the others are networks."""
    seeds: int = 10
    """Leaders side by side against every follower, from the seeds 0, 1, ..."""
    iterations: int = TrainConfig.iterations
    """Outer iterations of every training."""
    streams: int = TrainConfig.streams
    """Parallel streams of play per outer iteration."""
    steps: Annotated[int | None, _optional("INT")] = TrainConfig.steps
    """Steps of each stream per outer iteration; the game's horizon unless given."""
    estimator: EstimatorName = TrainConfig.estimator
    """Hypergradient estimator; naive leaves out that followers react."""
    access: Access = TrainConfig.access
    """What the leader sees of the follower: values and policy, policy, or what it does alone."""
    out: Folder = None
    """Folder for table and figure, new or empty; runs/GAME_study unless given."""
    json: bool = False
    """Print one JSON object, what study.json holds."""
    quiet: bool = False
    """No progress bar, no table."""

    def run(self) -> None:
        from stackelberg import registry
        from stackelberg.best_known import BestKnown
        from stackelberg.process import interruptible, single_thread
        from stackelberg.progress import counting_bar
        from stackelberg.run_directory import check_new_folder, to_json
        from stackelberg.study import findings, print_table, study, write
        from stackelberg.summary import versions

        if self.seeds < 1:
            raise InputError("seeds >= 1", f"{self.seeds}", "give how many leaders to train")
        if not self.restart:
            raise InputError("restart carry, reset or both", "none", "name at least one")
        settings = ("iterations", "streams", "steps", "estimator", "access")
        config = TrainConfig(**{name: getattr(self, name) for name in settings})
        game = registry.make_game(self.game, self.game_option, oracle=True)
        followers = self.followers()
        make, seeds = registry.load("leaders", self.leader), range(self.seeds)
        out = self.out or Path("runs") / f"{game.name}_study"
        check_new_folder(out)
        best_known = BestKnown()

        def leaders(seeds: Sequence[int]) -> Any:
            return make(game, seeds)

        interruptible()
        try:
            with single_thread(), counting_bar(game.name, hidden=self.quiet or self.json) as show:
                measures = study(game, leaders, followers, config, seeds, show, best_known)
        except KeyboardInterrupt:
            raise KeyboardInterrupt from None  # nothing to resume
        label = {name: value for name, value in vars(self).items() if name not in _NO_LABEL}
        label |= {"game_options": _pairs(self.game_option), "seeds": list(seeds)}
        optimum, source = best_known.optimum(game)
        label |= findings(measures, optimum) | {"optimum_source": source}
        found = label | {"versions": versions()}
        write(out, found)
        if self.json:
            print(to_json(found))
        elif not self.quiet:
            print_table(found)
            print(f"written to {out}")

    def followers(self) -> dict[Any, Any]:
        """The exact follower, then one for every restart and number of sweeps."""
        from stackelberg.registry import make_follower
        from stackelberg.study import Kind

        made = {Kind("exact"): make_follower("exact")}
        for restart in dict.fromkeys(self.restart):
            for sweeps in dict.fromkeys(self.sweeps):
                options = (f"sweeps={sweeps}", f"backups={self.backups}", f"restart={restart}")
                made[Kind(restart, sweeps)] = make_follower("exact", options)
        return made


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Measure frozen leaders against freshly trained followers."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="DIR [DIR ...]")]
    """Run directories; the first one takes evaluation.json and evaluation.csv. Of an unfinished run
    it is the newest checkpoint that is evaluated."""
    followers: str | None = None
    """Kinds of followers, A,B,...: as `train --follower` takes them; what suits the game unless
    given."""
    follower_option: Options = ()
    """An option of the follower that --followers names, repeatable; where it names several,
    FOLLOWER.KEY=VALUE, for example sac.first_steps=8192."""
    seeds: int = 5
    """Trainings of every kind, from the seeds 0, 1, ..."""
    temperatures: str | None = None
    """At which followers best-respond, X,Y,...; the game's own unless given."""
    episodes: int = 1000
    """In which leader and follower meet after each training."""
    half_width: float | None = None
    """Go on with episodes until the 95 % interval of the leader's discounted return is no wider to
    either side, up to a hundredfold; unless given, the interval is what it is."""
    cross_play: bool = False
    """Let every follower meet the leaders of the other runs as well, and draw a heat map."""
    jobs: int = 1
    """Trainings at once, each in a process of its own."""
    fresh: bool = False
    """Train all followers anew, also those whose results the run keeps."""
    json: bool = False
    """Print one JSON object, what evaluation.json holds."""
    quiet: bool = False
    """No progress bar, no table."""

    def run(self) -> None:
        from stackelberg.best_known import BestKnown
        from stackelberg.evaluation import evaluate
        from stackelberg.process import interruptible
        from stackelberg.progress import counting_bar

        if self.seeds < 1:
            raise InputError("seeds >= 1", f"{self.seeds}", "give how many followers of each kind")
        if not self.runs or len(set(self.runs)) < len(self.runs):
            got = ", ".join(map(str, self.runs)) or "none"
            raise InputError("run directories, each named once", got, "name what train has written")
        first = self.runs[0]
        interruptible()
        with counting_bar("evaluate", counted=True, hidden=self.quiet or self.json) as show:
            result = evaluate(
                {str(path): path for path in self.runs},
                None,
                self.kinds(),
                seeds=range(self.seeds),
                temperatures=None if self.temperatures is None else _numbers(self.temperatures),
                episodes=self.episodes,
                half_width=self.half_width,
                cross_play=self.cross_play,
                jobs=self.jobs,
                kept=first / "evaluations",
                fresh=self.fresh,
                best_known=BestKnown(),
                report=show,
            )
        result.write(first)
        if self.json:
            print(result.to_json(), end="")
        elif not self.quiet:
            print(result)
            print(f"written to {first}/evaluation.json and evaluation.csv")

    def kinds(self) -> dict[str, Any] | None:
        """What makes the followers that are named; None where that is left to the game."""
        from functools import partial

        from stackelberg.registry import make_follower

        if self.followers is None and not self.follower_option:
            return None
        names = (self.followers or "").split(",")
        if len(set(names)) < len(names) or "" in names:
            got = f"'{self.followers}'" if self.followers else "options alone"
            raise InputError(
                "--followers A,B,..., each named once", got, "for example exact,soft-q"
            )
        own: dict[str, list[str]] = {name: [] for name in names}
        for option in self.follower_option:
            heads = [name for name in names if option.startswith(f"{name}.")]
            if len(names) > 1 and not heads:
                raise InputError(
                    f"FOLLOWER.KEY=VALUE for one of {', '.join(names)}",
                    f"'{option}'",
                    f"write for example {names[-1]}.{option}",
                )
            name = max(heads, key=len, default=names[0])
            own[name].append(option.removeprefix(f"{name}."))
        return {name: partial(make_follower, name, options) for name, options in own.items()}


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError("numbers X,Y,...", f"'{text}'", "write for example 0.01,0.1") from error


@dataclasses.dataclass(frozen=True)
class Report:
    """Write figures and one self-contained page of a run, or of several runs of one game."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="DIR [DIR ...]")]
    """Run directories; those that differ in their seeds alone are drawn as one."""
    out: Path | None = None
    """Folder for report.html and figures/; the first run's unless given."""
    quiet: bool = False
    """Nothing on stdout."""

    def run(self) -> None:
        from stackelberg.process import interruptible, single_thread
        from stackelberg.report import report

        interruptible()
        with single_thread():
            page = report(self.runs, self.out, tell=lambda said: print(said, file=sys.stderr))
        if not self.quiet:
            print(f"written to {page} and {page.parent / 'figures'}")


@dataclasses.dataclass(frozen=True)
class Play:
    """Record episodes before and after training, side by side, as an animated GIF."""

    run_directory: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """Of a run; a fresh follower of its kind best-responds to the leader that it started with, and
    to the one that it has trained."""
    gif: Path | None = None
    """The file; DIR/figures/play.gif unless given, where `stackelberg report` looks for it."""
    episodes: int = 1
    """One after the other."""
    seed: int = 0
    """Of followers and play."""
    quiet: bool = False
    """No progress bar, nothing on stdout."""

    def run(self) -> None:
        from stackelberg.film import film
        from stackelberg.process import interruptible
        from stackelberg.progress import counting_bar

        gif = self.run_directory / "figures" / "play.gif" if self.gif is None else self.gif
        interruptible()
        with counting_bar("play", counted=True, hidden=self.quiet) as show:
            film(self.run_directory, gif, episodes=self.episodes, seed=self.seed, show=show)
        if not self.quiet:
            print(f"written to {gif}")


@dataclasses.dataclass(frozen=True)
class Check:
    """Examine a game or a PettingZoo environment: what is right, and what to mend."""

    game: GameReference
    """A shipped game (see `stackelberg games`), path/to/file.py:factory, or module:factory."""
    game_option: Options = ()
    """An option of the game, as bonus=2; repeatable. A wrong KEY lists them all."""
    leader_agent: Agent = None
    """The agent of a PettingZoo environment that leads, unless its metadata name it."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> int:
        from stackelberg import registry
        from stackelberg.check import check_game
        from stackelberg.game import Game
        from stackelberg.process import interruptible, single_thread

        game, make, settings = registry.make_subject(self.game, self.game_option)
        if isinstance(game, Game):
            registry.check_leader_agent(game, self.leader_agent)
        interruptible()
        with single_thread():
            findings = check_game(make, self.leader_agent, **settings)
        bad = [one for one in findings if one.status == "fail"]
        if self.json:
            rows = [dataclasses.asdict(one) for one in findings]
            print(json.dumps({"game": self.game, "fit": not bad, "findings": rows}))
            return 2 if bad else 0
        for one in findings:
            print(f"{one.status:<5}{one.name:<14}{one.found}")
            if one.status != "ok":
                print(f"{'':<19}to do: {one.advice}")
        doubts = sum(one.status == "warn" for one in findings)
        items = "1 item" if len(findings) == 1 else f"{len(findings)} items"
        print(f"{items}: {len(bad)} to mend, {doubts} to look at")
        return 2 if bad else 0


_NAMES = ("leader_agent", "leader", "follower")  # what a run names beside its game
_NO_LABEL = ("game_option", "sweeps", "restart", "out", "json", "quiet")  # not what a study is


def _pairs(options: tuple[str, ...]) -> dict[str, str]:
    return dict(option.split("=", 1) for option in options)


def _known(found: dict[str, Any]) -> str:
    """The optimum in words; nothing where it is not known."""
    words = {"game": "optimum", "best known": "best known", None: ""}[found["optimum_source"]]
    return words and f"{words} {found['optimum']:.6g}"


NEAR = 0.05  # of its return, by which a follower may fall short unmentioned


def _sentence(summary: dict[str, Any], out: Path) -> str:
    leader, regret = summary["leader_return"], summary["regret"]
    known = "" if regret is None else f", {_known(summary)}, regret {regret:.2g}"
    known += ": better than any before" if summary["new_best"] else ""
    spread = "" if leader["ci95"] is None else f" +- {leader['ci95']:.2g}"
    exact = "" if leader["exact"] is None else f"exact {leader['exact']:.6g}"
    beside = f"{exact}{known}".removeprefix(", ")
    beside = beside and f" ({beside})"
    gap = summary["follower_gap"]
    short = ""
    if isinstance(gap, float) and gap > NEAR * max(1.0, abs(summary["follower_return"]["mean"])):
        short = f"; the follower falls {gap:.2g} short of its best response"
    return f"leader return {leader['mean']:.6g}{spread}{beside}{short}; written to {out}"


Command = Games | Train | Solve | Study | Evaluate | Report | Play | Check


def _options(command: type) -> dict[str, Any]:
    """The options of a command, as --name, with the types of their values."""
    found: dict[str, Any] = {"--help": bool}
    for field in dataclasses.fields(command):
        if field.name == "config":
            found |= _options(TrainConfig)
        else:
            found[f"--{field.name.replace('_', '-')}"] = field.type
    return found


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit status is 0, 2 (wrong usage or input) or 130 (interrupted)."""
    try:
        return _parse(sys.argv[1:] if arguments is None else arguments).run() or 0
    except InputError as error:
        return _refuse(error)
    except ArithmeticError as error:
        if type(error) is not ArithmeticError:
            raise  # a slip in a user's own code
        return _refuse(
            InputError(
                "rewards and a temperature that floating point can relate",
                str(error),
                "scale the rewards down or raise the temperature",
            )
        )
    except KeyboardInterrupt as stop:
        parts = [*stop.args, "--resume goes on"][:2] if stop.args else []
        print(f"stackelberg: interrupted {'; '.join(parts)}".rstrip(), file=sys.stderr)
        return 130


def _refuse(error: InputError) -> int:
    said = "; ".join([str(error), *getattr(error, "__notes__", ())])
    print(f"stackelberg: {' '.join(said.split())}", file=sys.stderr)
    return 2


def _parse(arguments: list[str]) -> Any:
    """The command. Where it resumes a run, that run's own options stand in for those not given."""
    command = _read(
        Command,
        arguments,
        prog="stackelberg",
        description="Leader-follower (bi-level) reinforcement learning.",
    )
    if not (isinstance(command, Train) and command.resume):
        return command
    return _read(Train, arguments[1:], prog="stackelberg train", default=command.as_started())


def _read(kind: Any, arguments: list[str], **options: Any) -> Any:
    """An instance of the kind; wrong usage becomes one line instead of a box."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(kind, args=arguments, config=(tyro.conf.FlagCreatePairsOff,), **options)
    except SystemExit as stop:
        if not stop.code:
            raise
        lines = [line.strip("╭╮╰╯│+| ") for line in said.getvalue().splitlines()]
        parts = "\n".join(line.strip("─-") for line in lines[1:]).strip().split("\n\n")
        commands = {one.__name__.lower(): _options(one) for one in get_args(Command)}
        told = " ".join(parts[0].split()).rstrip(".")
        raise _own_error(stop) or usage_error(arguments, commands, told) from None


def _own_error(error: BaseException | None) -> InputError | None:
    """The InputError behind an error, where there is one."""
    while error is not None and not isinstance(error, InputError):
        error = error.__context__
    return error


if __name__ == "__main__":
    sys.exit(main())
