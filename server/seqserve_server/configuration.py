"""Where the settings of a subcommand come from: flag > environment > file > default.

The ranking is typer's own: what the file says becomes the context's `default_map`. The file is
TOML, and its keys are the flags' names without the leading dashes, as `max-queue-steps = 100000`;
the repository's is `repository`.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin

import typer

from seqserve_server.errors import InvalidSetting

_NO_SETTINGS = frozenset({"ctx", "config", "print_config", "help", "return"})
_CREDENTIALS = re.compile(r"://[^/@]*@")
_MISSPELT = 0.9
"""How like a name of a setting one is that was meant for it."""
_FLAG = re.compile(r"--([a-z][a-z-]*)")


def read(path: Path, hints: Mapping[str, Any]) -> dict[str, Any]:
    """What a file says, by the names of the parameters.

    Args:
        path: The TOML file.
        hints: The types of all parameters that there are, by name.

    Raises:
        InvalidSetting: it cannot be read, has a key that is no setting, or a value of another type.
    """
    try:
        found = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InvalidSetting(f"--config {path}: {error.strerror}") from error
    except ValueError as error:  # no TOML, or no text
        raise InvalidSetting(f"{path}: {error}") from error
    names = {_key(name): name for name in hints if name not in _NO_SETTINGS}
    for key in found.keys() - names.keys():
        near = get_close_matches(key.replace("_", "-"), names, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else "see seqserve serve --help"
        raise InvalidSetting(f"{path}: there is no setting {key!r}; {hint}")
    return {names[key]: _checked(path, key, value, hints) for key, value in found.items()}


def use(ctx: typer.Context, path: Path, hints: Mapping[str, Any]) -> None:
    """Takes a file's values where neither flag nor environment give one.

    Args:
        ctx: The subcommand's, before any other parameter is processed.
        path: The TOML file.
        hints: The types of all parameters that may stand there, beyond those of this subcommand.

    Raises:
        InvalidSetting: one of them cannot be.
    """
    values = read(path, hints)
    for parameter in ctx.command.params:
        if parameter.name in values:
            try:
                parameter.process_value(ctx, values[parameter.name])
            except typer.BadParameter as error:
                text = error.message.rstrip(".")
                raise InvalidSetting(f"{path}: {_key(parameter.name)}: {text}") from error
    ctx.default_map = values


def shown(ctx: typer.Context, **resolved: object) -> Iterator[str]:
    """Every setting and where it came from, a line each: a file that can be read again.

    Args:
        ctx: The subcommand's.
        resolved: Values that were found where none was given, by name.
    """
    for parameter in ctx.command.params:
        name = str(parameter.name)
        if name in _NO_SETTINGS:
            continue
        value, source = ctx.params[name], _source(ctx, name)
        if value is None or value in ([], ()):
            value = resolved.get(name)
        if value is None:
            yield f"# {_key(name)} is not set"
        else:
            yield f"{f'{_key(name)} = {_toml(value)}':<44} # {source or 'command line'}"


def misspelt(ctx: typer.Context, environment: Iterable[str]) -> Iterator[str]:
    """What looks like a setting and is none, a line each.

    No error: others set variables too. Kubernetes sets SEQSERVE_PORT for a service named seqserve.

    Args:
        ctx: The subcommand's.
        environment: Names of variables.
    """
    names = [str(parameter.envvar) for parameter in ctx.command.params if parameter.envvar]
    for variable in sorted({*environment} - {*names}):
        if near := get_close_matches(variable, names, n=1, cutoff=_MISSPELT):
            yield f"{variable} is no setting; did you mean {near[0]}?"


def explained(ctx: typer.Context, error: Exception) -> str:
    """An error's words, with where the settings that it names were set, if not by a flag."""
    text = str(error)
    names = dict.fromkeys(flag.replace("-", "_") for flag in _FLAG.findall(text))
    places = [
        f"{_key(name)} is set by {source}"
        for name in names
        if (source := _source(ctx, name)) not in ("", "default")
    ]
    return f"{text} ({', '.join(places)})" if places else text


def _source(ctx: typer.Context, name: str) -> str:
    """Where a value came from; empty where from the command line, or where there is none."""
    source = ctx.get_parameter_source(name)
    if source is None or source.name == "COMMANDLINE":
        return ""
    if source.name == "ENVIRONMENT":
        [variable] = [each.envvar for each in ctx.command.params if each.name == name]
        return str(variable)
    return str(ctx.params["config"]) if source.name == "DEFAULT_MAP" else "default"


def _checked(path: Path, key: str, value: object, hints: Mapping[str, Any]) -> object:
    """The value as the command line takes it."""
    hint = hints[key.replace("-", "_")]
    kinds = {get_origin(each) or each for each in get_args(hint) or (hint,)} - {NoneType}
    if bool in kinds:
        good, needed = isinstance(value, bool), "true or false is"
    elif int in kinds:
        good, needed = type(value) is int, "a whole number is"
    elif float in kinds:
        good, needed = type(value) in (int, float), "a number is"
    elif list in kinds:
        value = [value] if isinstance(value, str) else value
        good = isinstance(value, list) and all(isinstance(each, str) for each in value)
        needed = "a string, or a list of strings, is"
    else:
        good, needed = isinstance(value, str), "a string is"
    if not good:  # without the value: it may be something that was meant for nobody's eyes
        raise InvalidSetting(f"{path}: {key} is of the wrong type; {needed} needed")
    return value


def _key(name: str | None) -> str:
    return str(name).replace("_", "-")


def _toml(value: object) -> str:
    """A value in TOML, whose strings, lists and numbers are those of JSON, but for infinity."""
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, str):
        value = _CREDENTIALS.sub("://…@", value)
    return json.dumps(value, ensure_ascii=False).replace("Infinity", "inf")
