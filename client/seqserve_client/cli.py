"""The `seqserve` command: a frame that the rooms hang their subcommands in."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint, entry_points

import typer

from seqserve import __version__

COMMANDS = "seqserve.commands"

_INTERRUPTED = 130


def main() -> None:
    """Runs the command line and exits."""
    if os.getpid() == 1:
        # A container's first process: the kernel drops a signal that has no handler there.
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        _run()
    except KeyboardInterrupt:  # while importing; later, typer sees to it
        sys.exit(_INTERRUPTED)


def _run() -> None:
    # onnxruntime reads this at import; commands that never import it lose nothing.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    command = next((word for word in sys.argv[1:] if not word.startswith("-")), None)
    found = entry_points(group=COMMANDS)
    # Only the room that is called is imported; for help and for a misspelt name, all are.
    called = [entry for entry in found if entry.name == command] or list(found)
    try:
        command_line(called)()
    except ModuleNotFoundError as error:
        typer.echo(f"seqserve {command}: {_missing(error, called[0])}", err=True)
        sys.exit(1)


def command_line(commands: Sequence[EntryPoint]) -> typer.Typer:
    """The command line with these subcommands, each imported now."""
    app = typer.Typer(
        name="seqserve",
        help="Train recurrent sequence classifiers, prove their conversion to ONNX, serve them.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
    )
    app.callback()(_root)
    for entry in sorted(commands, key=lambda entry: entry.name):
        try:
            command = entry.load()
        except ModuleNotFoundError as error:  # the others are offered all the same
            anything = {"ignore_unknown_options": True, "allow_extra_args": True}
            app.command(entry.name, context_settings=anything)(_absent(entry, error))
        else:
            if isinstance(command, typer.Typer):
                app.add_typer(command, name=entry.name)
            else:
                app.command(entry.name)(command)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"seqserve {__version__}")
        raise typer.Exit


def _root(
    version: bool = typer.Option(
        False, "--version", is_eager=True, callback=_print_version, help="Print the version."
    ),
) -> None:
    pass


def _absent(entry: EntryPoint, error: ModuleNotFoundError) -> Callable[[], None]:
    """Stands in for a subcommand that cannot be imported."""
    text = _missing(error, entry)

    def absent() -> None:
        typer.echo(f"seqserve {entry.name}: {text}", err=True)
        raise typer.Exit(1)

    absent.__doc__ = "Not installed: call it to see what it needs."
    return absent


def _missing(error: ModuleNotFoundError, entry: EntryPoint) -> str:
    package = f"seqserve[{','.join(entry.extras)}]" if entry.extras else "seqserve"
    return f"{error.name} is not installed. It comes with: pip install '{package}'"
