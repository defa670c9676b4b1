"""The room's subcommands. Light to import: `seqserve --help` imports them all."""

from __future__ import annotations

from typing import Annotated

import typer

from seqserve_client import defaults, flags
from seqserve_client.health_command import health
from seqserve_client.model_commands import models
from seqserve_client.on_invalid import OnInvalid
from seqserve_client.output import Output
from seqserve_client.service_class import ServiceClass

__all__ = ["classify", "health", "models"]

_DATA = "Data"


def classify(
    ctx: typer.Context,
    file: Annotated[
        str, typer.Argument(help="What `seqserve train` reads; labels are optional here.")
    ],
    model: Annotated[str, typer.Option(help="The model's name.")],
    server: flags.Server = defaults.ADDRESS,
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
    on_invalid: Annotated[
        OnInvalid,
        typer.Option(help="Refuse the file for a sequence that the model cannot take, or say so."),
    ] = OnInvalid.REJECT,
    timeout: flags.Timeout = 600.0,
    tls: flags.TLS = False,
    ca_file: flags.CAFile = None,
    certificate_file: flags.CertificateFile = None,
    key_file: flags.KeyFile = None,
    token_file: flags.TokenFile = None,
    token_in_plaintext: flags.TokenInPlaintext = False,
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
    standard error, and the answers alone to standard output. With --on-invalid answer-rest, json
    and csv give an `error` in place of an answer; the accuracy is that of the others.
    """
    from seqserve_data import Columns, DataError, read, split_names

    with flags.errors_in_a_line("classify", DataError):
        from seqserve_client.report import report
        from seqserve_client.scoring import score

        columns = Columns(id=id, order=order, label=label, features=split_names(features))
        dataset = read(file, columns)
        with flags.client_of(ctx, max_request_sequences=batch_size) as client:
            scored = score(
                dataset,
                client,
                model=model,
                version=version,
                top_k=top_k,
                service_class=service_class,
                on_invalid=on_invalid,
                reorder=not columns.features,
            )
        report(scored, output, with_confusion=confusion)
