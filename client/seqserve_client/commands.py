"""The room's subcommands. Light to import: `seqserve --help` imports them all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from seqserve_client import defaults
from seqserve_client.output import Output
from seqserve_client.service_class import ServiceClass

_DATA = "Data"

Server = Annotated[
    str,
    typer.Option(envvar="SEQSERVE_SERVER", help="HOST:PORT, or several with commas between."),
]
Timeout = Annotated[float, typer.Option(min=0.001, help="Seconds for each question asked.")]


def classify(
    file: Annotated[
        str, typer.Argument(help="What `seqserve train` reads; labels are optional here.")
    ],
    model: Annotated[str, typer.Option(help="The model's name.")],
    server: Server = defaults.ADDRESS,
    version: Annotated[
        int, typer.Option(min=0, help="The model's version; 0 for the newest that is served.")
    ] = 0,
    output: Annotated[Output, typer.Option(help="What to print.")] = Output.TABLE,
    top_k: Annotated[
        int,
        typer.Option(
            min=0, help="Name so many classes a sequence.", show_default="the best; in json, all"
        ),
    ] = 0,
    confusion: Annotated[
        bool, typer.Option("--confusion", help="Print the confusion matrix too.")
    ] = False,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Sequences of a request, at most.")
    ] = defaults.MAX_REQUEST_SEQUENCES,
    # A file can wait: on an idle server it loses nothing, and on a busy one somebody else waits.
    service_class: Annotated[
        ServiceClass, typer.Option(help="Go before other calls, or take what they leave.")
    ] = ServiceClass.BULK,
    timeout: Timeout = 600.0,
    id: Annotated[
        str | None, typer.Option(help="Column of the sequence's id.", rich_help_panel=_DATA)
    ] = None,
    order: Annotated[
        str | None, typer.Option(help="Column to sort the steps by.", rich_help_panel=_DATA)
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="Column of the class.", rich_help_panel=_DATA)
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            help="Columns of the features, with commas between.",
            show_default="all others, in the model's order",
            rich_help_panel=_DATA,
        ),
    ] = None,
) -> None:
    """Classify the sequences of a file.

    Where the file has labels, the last line is `accuracy: …`. With json and csv the figures go to
    standard error, and the answers alone to standard output.
    """
    from seqserve_data import Columns, DataError, read, split_names

    with _errors_in_a_line("classify", DataError):
        from seqserve_client.client import Client
        from seqserve_client.report import report
        from seqserve_client.scoring import score

        columns = Columns(id=id, order=order, label=label, features=split_names(features))
        dataset = read(file, columns)
        with Client(server, timeout_s=timeout, max_request_sequences=batch_size) as client:
            scored = score(
                dataset,
                client,
                model=model,
                version=version,
                top_k=top_k,
                service_class=service_class,
                reorder=not columns.features,
            )
        report(scored, output, with_confusion=confusion)


def models(server: Server = defaults.ADDRESS, timeout: Timeout = defaults.TIMEOUT_S) -> None:
    """List the models of a server: versions, state, labels, execution provider."""
    with _errors_in_a_line("models"):
        from seqserve_client.client import Client
        from seqserve_client.report import print_models

        with Client(server, timeout_s=timeout) as client:
            listed = [
                (status, client.describe(status.name, status.version).manifest.labels)
                if status.state == "ready"
                else (status, ())
                for status in client.models()
            ]
        print_models(listed)


@contextmanager
def _errors_in_a_line(command: str, *others: type[Exception]) -> Iterator[None]:
    """Ends the command with one line on standard error where its user can mend something.

    Args:
        command: Its name, for the line.
        others: Kinds of error that count as such, beside those of this package.
    """
    from seqserve_client.errors import InvalidOptions, SeqserveError

    try:
        yield
    except Exception as error:
        if not isinstance(error, (SeqserveError, *others)):
            raise
        typer.echo(f"seqserve {command}: {error}", err=True)
        raise typer.Exit(2 if isinstance(error, InvalidOptions) else 1) from error
