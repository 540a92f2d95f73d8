"""Games, leaders and followers by name: entry points of packages, or a user's own file."""

import dataclasses
import importlib
import importlib.util
import inspect
import json
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, Union

from stackelberg.errors import InputError, nearest, told


def names(kind: str) -> list[str]:
    """Registered names of a kind: games, leaders or followers."""
    return sorted(point.name for point in metadata.entry_points(group=f"stackelberg.{kind}"))


def load(kind: str, name: str) -> Callable[..., Any]:
    """The registered factory. Raises InputError for an unknown name."""
    found = [p for p in metadata.entry_points(group=f"stackelberg.{kind}") if p.name == name]
    if not found:
        own = {"games": "factory", "followers": "Class"}.get(kind)
        hint = f" (or path/to/file.py:{own}, or module:{own})" if own else ""
        fix = f"name what it holds: {name}:{own}" if name.endswith(".py") else ""
        raise InputError(
            f"one of the {kind} {', '.join(names(kind))}{hint}",
            f"'{name}'",
            fix or nearest(name, names(kind)),
        )
    factory: Callable[..., Any] = found[0].load()
    return factory


def make_game(
    reference: str,
    options: Sequence[str] = (),
    leader_agent: str | None = None,
    *,
    oracle: bool = False,
) -> Any:
    """The game that a command line names.

    Args:
        reference: a registered name, `path/to/file.py:factory`, or `module:factory`; the factory
            returns a Game, or a PettingZoo environment between two agents.
        options: `KEY=VALUE` strings for the factory; what it does not take is a setting of the
            game that an environment is made into.
        leader_agent: the agent that leads in such an environment, see `from_parallel_env`.
        oracle: will tables or matrices be needed?

    Raises:
        InputError: for an unknown game or option, a factory that raises, one that returns something
            else, or an environment that has nothing to read an oracle from.
    """
    from stackelberg.game import Game

    game, make, settings = make_subject(reference, options)
    if _is_environment(game):
        from stackelberg.environment import Environment
        from stackelberg.parallel import from_parallel_env

        if oracle and type(game) is not Environment:
            raise InputError(
                "a game that shows tables or matrices",
                f"'{reference}', an environment of PettingZoo, which shows neither",
                "use `stackelberg train`, or write the game with games.tabular or games.linear",
            )
        return from_parallel_env(make, leader_agent, **settings)
    if not isinstance(game, Game):
        raise InputError(
            f"a factory '{reference}' that returns a stackelberg Game or a PettingZoo environment",
            f"the class {game.__name__}" if isinstance(game, type) else type(game).__name__,
            "return a games.tabular.TabularGame or TabularDesign, or a ParallelEnv",
        )
    check_leader_agent(game, leader_agent)
    return game


def check_leader_agent(game: Any, leader_agent: str | None) -> None:
    """Raise InputError if a leader is named where it is clear who leads."""
    if leader_agent is not None:
        raise InputError(
            "a leader agent of a PettingZoo environment alone",
            f"'{leader_agent}' for the game '{game.name}', where it is clear who leads",
            "leave --leader-agent out",
        )


def make_subject(
    reference: str, options: Sequence[str] = ()
) -> tuple[Any, Callable[[], Any], dict[str, Any]]:
    """What a factory returns, whatever it is, a function that makes another, and settings.

    The settings are the options that the factory of an environment does not take.
    """
    from stackelberg.game import Game

    factory = _own(reference) if ":" in reference else load("games", reference)
    what, general = f"the factory of '{reference}'", Game.__init__
    thing, held = _first_made(what, factory, options, general)
    taken, kinds = [o for o in options if o not in held], _parameters(general, [])
    settings = dict(_parse(what, option, kinds) for option in held)
    return thing, lambda: _call(what, factory, taken, [general]), settings


def _first_made(
    what: str, factory: Callable[..., Any], options: Sequence[str], general: Callable[..., Any]
) -> tuple[Any, list[str]]:
    """What the factory returns, and the options that it did not take.

    Those can only be settings of games in general, and only if it returns an environment.
    """
    own, settings = _parameters(factory, []), _parameters(general, [])
    keys = {option: option.partition("=")[0] for option in options}
    held = [o for o in options if keys[o] in settings and keys[o] not in own]
    try:
        return _call(what, factory, options, [general]), []
    except InputError as error:
        known = _parameters(factory, [general])
        unknown = [o for o in options if keys[o] not in known and o not in held]
        refused = isinstance(error.__cause__, TypeError) or any(keys[o] not in known for o in held)
        if not (unknown or (held and refused)):
            raise
        rest = [o for o in options if o not in held and o not in unknown]
        try:
            made = _call(what, factory, rest, [general])
        except InputError as other:
            raise (error if unknown else other) from None
        if not _is_environment(made):
            raise
        for option in unknown:  # is neither the factory's own nor a setting
            _parse(what, option, {**own, **settings})
        return made, held


def _is_environment(made: Any) -> bool:
    from stackelberg.parallel import is_environment

    return is_environment(made)


def make_follower(reference: str, options: Sequence[str] = ()) -> Any:
    """The follower that a command line names.

    Args:
        reference: a registered name, `path/to/file.py:Class`, or `module:Class`; a function that
            makes a follower will do for a class.
        options: `KEY=VALUE` strings for it.

    Raises:
        InputError: as `make_game`.
    """
    from stackelberg.types import is_follower

    make = _own(reference) if ":" in reference else load("followers", reference)
    follower = _call(f"follower '{reference}'", make, options, [])
    if isinstance(follower, type) or not is_follower(follower):
        raise InputError(
            f"a follower from '{reference}', with a name and best_respond(game, commitment, seeds)",
            f"the class {follower.__name__}"
            if isinstance(follower, type)
            else f"{type(follower).__name__}",
            "give the class what is missing; see stackelberg.types.Follower",
        )
    return follower


def _own(reference: str) -> Callable[..., Any]:
    """The factory or class in a user's file or module."""
    place, _, attribute = reference.rpartition(":")
    path = Path(place)
    if path.suffix == ".py" and not path.is_file():
        raise InputError("an existing file", f"{place}", "check the path")
    try:
        module = _file(path) if path.suffix == ".py" else _module(place)
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(
            f"a module that can be imported from '{place}'",
            told(error),
            "run it alone to see where it fails",
        ) from error
    factory = getattr(module, attribute, None)
    if not callable(factory):
        public = [n for n, v in vars(module).items() if _defined_in(v, module)]
        raise InputError(
            f"a function or class '{attribute}' in {place}",
            f"these: {', '.join(public) or 'none'}",
            nearest(attribute, public, "name the one that makes what is asked for"),
        )
    return typing.cast(Callable[..., Any], factory)


def _defined_in(value: Any, module: types.ModuleType) -> bool:
    kinds = type, types.FunctionType
    return isinstance(value, kinds) and value.__module__ == module.__name__


def _file(path: Path) -> types.ModuleType:
    """The module in a file, under a name that hides no other; it may import its neighbours."""
    _search_also(path.parent)
    spec = importlib.util.spec_from_file_location(f"_own_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their own module up
    spec.loader.exec_module(module)
    return module


def _module(name: str) -> types.ModuleType:
    """An installed module or one in the current directory."""
    _search_also(Path())
    return importlib.import_module(name)


def _search_also(folder: Path) -> None:
    if (place := str(folder.resolve())) not in sys.path:
        sys.path.append(place)


def _call(
    what: str, factory: Callable[..., Any], options: Sequence[str], more: Sequence[Any]
) -> Any:
    """Call a factory with KEY=VALUE options, read by the types of its parameters.

    A parameter that takes a dataclass of settings stands for the fields of that dataclass.
    """
    known = dict(_parameters(factory, more))
    settings = {name: kind for name in known if (kind := _dataclass(known[name]))}
    fields = {name: typing.get_type_hints(kind) for name, kind in settings.items()}
    for name, own in fields.items():
        del known[name]
        known |= own
    given = dict(_parse(what, option, known) for option in options)
    _check_required(what, factory, given)
    try:
        for name, own in fields.items():
            chosen = {key: given.pop(key) for key in own if key in given}
            if chosen:
                given[name] = settings[name](**chosen)
        return factory(**given)
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(
            f"{what} to return what it makes",
            told(error),
            "call it alone in Python to see where it fails",
        ) from error


def _check_required(what: str, factory: Callable[..., Any], given: Mapping[str, Any]) -> None:
    """Raise InputError if a parameter without a default has no value."""
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):  # built in
        return
    for name, parameter in parameters.items():
        named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        if named and parameter.default is parameter.empty and name not in given:
            raise InputError(
                f"a value of '{name}' for {what}", "none", f"add the option {name}=VALUE"
            )


def _parameters(factory: Callable[..., Any], more: Sequence[Any]) -> Mapping[str, Any]:
    """Parameter names of a factory and their types; `**settings` stands for those of `more`."""
    found: dict[str, Any] = {}
    pending = [factory, *more]
    for i, function in enumerate(pending):
        try:
            signature = _signature(function)
        except (TypeError, ValueError):
            continue
        for name, parameter in signature.parameters.items():
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                found.setdefault(name, parameter.annotation)
        kinds = {parameter.kind for parameter in signature.parameters.values()}
        if i == 0 and inspect.Parameter.VAR_KEYWORD not in kinds:
            break
    found.pop("self", None)
    return found


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(function, eval_str=True)
    except NameError:  # a type that was imported for the type checker alone
        return inspect.signature(function)


def _dataclass(kind: Any) -> type | None:
    """The dataclass that an annotation names, itself or as one of several."""
    for one in typing.get_args(kind) or (kind,):
        if isinstance(one, type) and dataclasses.is_dataclass(one):
            return one
    return None


def _parse(what: str, option: str, known: Mapping[str, Any]) -> tuple[str, Any]:
    key, equals, text = option.partition("=")
    if not equals:
        raise InputError("an option KEY=VALUE", f"'{option}'", "write for example bonus=2")
    if key not in known:
        raise InputError(
            f"an option of {what}: {', '.join(known) or 'it has none'}",
            f"'{key}'",
            nearest(key, known),
        )
    return key, _value(key, text, known[key])


def _value(key: str, text: str, kind: Any) -> Any:
    """The text as a value of the annotated type."""
    try:
        value = json.loads({"True": "true", "False": "false", "None": "null"}.get(text, text))
    except ValueError:
        value = text
    try:
        return _fit(value, text, kind)
    except (TypeError, OverflowError) as error:
        named = [str(one) for one in typing.get_args(kind) if isinstance(one, str)]
        fix = nearest(text, named, "give a value of that type")
        raise InputError(f"{key}: {_in_words(kind)}", f"'{text}'", fix) from error


WORDS = {bool: "true or false", int: "an integer", float: "a number", types.NoneType: "None"}


def _in_words(kind: Any) -> str:
    """An annotated type, in an error."""
    parts = typing.get_args(kind)
    if typing.get_origin(kind) is Literal:
        return " or ".join(map(str, parts))
    if typing.get_origin(kind) in (Union, types.UnionType):
        return " or ".join(map(_in_words, parts))
    return WORDS[kind] if kind in WORDS else inspect.formatannotation(kind)


def _fit(value: Any, text: str, kind: Any) -> Any:
    """What was read, JSON or else text, as `kind`. Raises TypeError if it is none."""
    origin, inner = typing.get_origin(kind) or kind, typing.get_args(kind)
    if origin is str:
        return text
    if origin in (Union, types.UnionType):
        return _first(value, text, sorted(inner, key=lambda one: one is str))
    if origin is Literal:
        found = [one for one in inner if text == str(one) or value is one]
    elif origin in (list, tuple, Sequence):
        parts = inner[:1] or (Any,)
        items = value if isinstance(value, list) else None
        found = [] if items is None else [[_fit(v, _text(v), parts[0]) for v in items]]
        found = [tuple(one) for one in found] if origin is tuple else found
    elif origin is float:
        found = [float(value)] if type(value) in (int, float) else []
    elif origin in (bool, int, dict, types.NoneType):
        found = [value] if type(value) is origin else []
    else:
        return value  # no plain type: the factory will judge
    if not found:
        raise TypeError(f"{text} is no {kind}")
    return found[0]


def _first(value: Any, text: str, kinds: Sequence[Any]) -> Any:
    """As the first of the kinds that fits."""
    for kind in kinds:
        try:
            return _fit(value, text, kind)
        except TypeError:
            continue
    raise TypeError(f"{text} is none of {kinds}")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
