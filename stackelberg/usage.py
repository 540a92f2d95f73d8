"""Wrong usage of the command line in one line: what was expected, what came, what to type."""

import re
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

from stackelberg.errors import InputError, nearest

KINDS = {"int": "an integer", "float": "a number", "Path": "a path"}


def usage_error(
    arguments: Sequence[str], commands: Mapping[str, Mapping[str, Any]], said: str
) -> InputError:
    """What is wrong with arguments that the parser refuses.

    Args:
        arguments: of the command line.
        commands: for each of them its options, as --name, with the types of their values.
        said: the parser's own words, for what is not seen here.
    """
    name = arguments[0] if arguments else ""
    if name not in commands:
        got, fix = f"'{name}'" if name else "none", "see `stackelberg --help`"
        return InputError(f"a command: {', '.join(commands)}", got, nearest(name, commands, fix))
    options, help_ = commands[name], f"see `stackelberg {name} --help`"
    for word in arguments[1:]:
        given = word.partition("=")[0].replace("_", "-")
        if re.match(r"--?[A-Za-z]", given) and given not in options:
            fix = nearest(given.lower(), options, help_)
            return InputError(f"an option of `stackelberg {name}`", f"'{given}'", fix)
    if found := re.search(r"choice '(.*?)' for argument '(--\S+)'.*? one of \((.*?)\)", said):
        given, option, listed = found.groups()
        known = re.findall(r"'(.*?)'", listed)
        fix = nearest(given, known, "choose one of them")
        return InputError(f"{option}: {', '.join(known)}", f"'{given}'", fix)
    if found := re.search(r"Error parsing (--[a-z-]+):", said):
        named = re.findall(r"\w+", str(options.get(found[1])))
        kind = next((KINDS[one] for one in named if one in KINDS), "another value")
        return InputError(f"{found[1]}: {kind}", f"'{_after(found[1], arguments)}'", help_)
    if found := re.search(r"Missing value for argument '(--[a-z-]+)'", said):
        return InputError(f"a value after {found[1]}", "none", help_)
    if found := re.search(r"Missing from stackelberg [a-z]+: ([A-Z]+)", said):
        return InputError(f"`stackelberg {name} {found[1]}`", f"no {found[1]}", help_)
    if found := re.search(r"Unrecognized.*? options: (.+?)(?= Arguments are|$)", said):
        more = re.sub(r",| \(applied to .*?\)", "", found[1])
        return InputError(f"what `stackelberg {name}` takes, no more", f"'{more}'", help_)
    return InputError(f"a command as `stackelberg {name} --help` shows it", said, help_)


def _after(option: str, arguments: Sequence[str]) -> str:
    """What is given to an option, which is among the arguments."""
    names, _, values = zip(*(word.partition("=") for word in arguments), strict=True)
    at = [name.replace("_", "-") for name in names].index(option)
    rest = takewhile(lambda word: not word.startswith("--"), arguments[at + 1 :])
    return values[at] or " ".join(rest)
