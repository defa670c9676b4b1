"""The `seqserve` command: a frame that the rooms hang their subcommands in."""

from __future__ import annotations

import os
import sys
from importlib.metadata import EntryPoint, entry_points

import typer
from seqserve import __version__

COMMANDS = "seqserve.commands"


def main() -> None:
    """Runs the command line and exits."""
    # onnxruntime reads this at import; commands that never import it lose nothing.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    command = next((word for word in sys.argv[1:] if not word.startswith("-")), None)
    found = entry_points(group=COMMANDS)
    # Only the room that is called is imported; for help and for a misspelt name, all are.
    called = [entry for entry in found if entry.name == command] or list(found)
    app = _app(called)
    try:
        app()
    except ModuleNotFoundError as error:
        typer.echo(f"seqserve {command}: {_missing(error, called)}", err=True)
        sys.exit(1)


def _app(commands: list[EntryPoint]) -> typer.Typer:
    app = typer.Typer(
        name="seqserve",
        help="Train recurrent sequence classifiers, prove their conversion to ONNX, serve them.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
    )
    app.callback()(_root)
    for entry in sorted(commands, key=lambda entry: entry.name):
        app.command(entry.name)(entry.load())
    return app


def _root(
    version: bool = typer.Option(False, "--version", is_eager=True, help="Print the version."),
) -> None:
    if version:
        typer.echo(f"seqserve {__version__}")
        raise typer.Exit


def _missing(error: ModuleNotFoundError, called: list[EntryPoint]) -> str:
    extras = ",".join(extra for entry in called[:1] for extra in entry.extras)
    package = f"seqserve[{extras}]" if extras else "seqserve"
    return f"{error.name} is not installed. It comes with: pip install '{package}'"
