"""Games, leaders and followers by name: entry points of installed packages, or a user's own file."""

import importlib
import importlib.util
import inspect
import json
import typing
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from stackelberg.errors import InputError


def names(kind: str) -> list[str]:
    """Registered names of a kind: games, leaders or followers."""
    return sorted(point.name for point in metadata.entry_points(group=f"stackelberg.{kind}"))


def load(kind: str, name: str) -> Callable[..., Any]:
    """The registered factory. Raises InputError for an unknown name."""
    found = [p for p in metadata.entry_points(group=f"stackelberg.{kind}") if p.name == name]
    if not found:
        hint = " (or path/to/file.py:factory, or module:factory)" if kind == "games" else ""
        raise InputError(
            f"one of the {kind} {', '.join(names(kind))}{hint}", f"'{name}'", "check the spelling"
        )
    factory: Callable[..., Any] = found[0].load()
    return factory


def make_game(reference: str, options: Sequence[str] = ()) -> Any:
    """The game that a command line names.

    Args:
        reference: a registered name, `path/to/file.py:factory`, or `module:factory`.
        options: `KEY=VALUE` strings for the factory.

    Raises:
        InputError: for an unknown game or option, a factory that raises, or one that returns
            something else.
    """
    from stackelberg.game import Game

    factory = _own(reference) if ":" in reference else load("games", reference)
    game = _call(f"the factory of '{reference}'", factory, options, [Game.__init__])
    if not isinstance(game, Game):
        raise InputError(
            f"a factory '{reference}' that returns a stackelberg Game",
            f"{type(game).__name__}",
            "return a games.tabular.TabularGame or TabularDesign, or a subclass of Game",
        )
    return game


def make_follower(name: str, options: Sequence[str] = ()) -> Any:
    """The registered follower with `KEY=VALUE` options. Raises InputError as `make_game` does."""
    return _call(f"follower '{name}'", load("followers", name), options, [])


def _own(reference: str) -> Callable[..., Any]:
    """The factory in a user's file or module."""
    place, _, attribute = reference.rpartition(":")
    try:
        if place.endswith(".py"):
            path = Path(place)
            if not path.is_file():
                raise InputError("an existing file", f"{place}", "check the path")
            spec = importlib.util.spec_from_file_location(path.stem, path)
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(place)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"a module that can be imported from '{place}'",
            f"{type(error).__name__}: {error}",
            "run it alone to see where it fails",
        ) from error
    factory = getattr(module, attribute, None)
    if not callable(factory):
        public = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise InputError(
            f"a function '{attribute}' in {place}",
            f"these: {', '.join(public) or 'none'}",
            "name the function that returns the game",
        )
    return typing.cast(Callable[..., Any], factory)


def _call(
    what: str, factory: Callable[..., Any], options: Sequence[str], more: Sequence[Any]
) -> Any:
    """Call a factory with KEY=VALUE options, read by the types of its parameters."""
    known = _parameters(factory, more)
    given = dict(_parse(what, option, known) for option in options)
    try:
        return factory(**given)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{what} to return what it makes",
            f"{type(error).__name__}: {error}",
            "call it alone in Python to see where it fails",
        ) from error


def _parameters(factory: Callable[..., Any], more: Sequence[Any]) -> Mapping[str, Any]:
    """Parameter names of a factory and their types; `**settings` stands for those of `more`."""
    found: dict[str, Any] = {}
    pending = [factory, *more]
    for i, function in enumerate(pending):
        try:
            signature = inspect.signature(function)
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


def _parse(what: str, option: str, known: Mapping[str, Any]) -> tuple[str, Any]:
    key, equals, text = option.partition("=")
    if not equals:
        raise InputError("an option KEY=VALUE", f"'{option}'", "write for example bonus=2")
    if key not in known:
        raise InputError(
            f"an option of {what}: {', '.join(known) or 'it has none'}",
            f"'{key}'",
            "check the spelling",
        )
    return key, _value(key, text, known[key])


def _value(key: str, text: str, annotation: Any) -> Any:
    """The text as JSON where it is JSON, checked against a plain type, else as it stands."""
    try:
        value = json.loads({"True": "true", "False": "false", "None": "null"}.get(text, text))
    except ValueError:
        value = text
    if annotation is str:
        return text
    plain = {bool: (bool,), int: (int,), float: (int, float)}.get(annotation)
    if plain is None:
        return value
    if not isinstance(value, plain) or (isinstance(value, bool) and annotation is not bool):
        raise InputError(f"{key}: {annotation.__name__}", f"'{text}'", "give a value of that type")
    return annotation(value)
