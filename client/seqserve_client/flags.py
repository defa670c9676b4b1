"""What every subcommand that calls a server is told about the way there, and how it ends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seqserve_client import defaults

if TYPE_CHECKING:
    from seqserve_client.client import Client

_ACCESS = "Access"

Server = Annotated[
    str,
    typer.Option(envvar="SEQSERVE_SERVER", help="HOST:PORT, or several with commas between."),
]
Timeout = Annotated[float, typer.Option(min=0.001, help="Seconds for each question asked.")]
TLS = Annotated[
    bool,
    typer.Option(
        "--tls",
        envvar="SEQSERVE_TLS",
        help="Go by TLS, to a certificate that a public authority has signed.",
        rich_help_panel=_ACCESS,
    ),
]
CAFile = Annotated[
    Path | None,
    typer.Option(
        envvar="SEQSERVE_CA_FILE",
        metavar="FILE",
        help="Go by TLS, to a certificate that one of these has signed; in PEM.",
        rich_help_panel=_ACCESS,
    ),
]
CertificateFile = Annotated[
    Path | None,
    typer.Option(
        envvar="SEQSERVE_CERTIFICATE_FILE",
        metavar="FILE",
        help="The certificate to show, for mutual TLS; in PEM.",
        rich_help_panel=_ACCESS,
    ),
]
KeyFile = Annotated[
    Path | None,
    typer.Option(
        envvar="SEQSERVE_KEY_FILE",
        metavar="FILE",
        help="The private key of that certificate, in PEM.",
        rich_help_panel=_ACCESS,
    ),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        envvar="SEQSERVE_TOKEN_FILE",
        metavar="FILE",
        help="Holds the token to show.",
        rich_help_panel=_ACCESS,
    ),
]
TokenInPlaintext = Annotated[
    bool,
    typer.Option(
        "--token-in-plaintext",
        envvar="SEQSERVE_TOKEN_IN_PLAINTEXT",
        help="Let the token leave this host without TLS: where the network is to be trusted.",
        rich_help_panel=_ACCESS,
    ),
]

_PASSED_ON = ("tls", "ca_file", "certificate_file", "key_file", "token_file", "token_in_plaintext")


def client_of(
    ctx: typer.Context,
    server: str | None = None,
    max_request_sequences: int = defaults.MAX_REQUEST_SEQUENCES,
) -> Client:
    """A client of the server that a subcommand was told.

    Args:
        ctx: The subcommand's, with all of the above among its parameters.
        server: One of those that it was told; all of them by default.
        max_request_sequences: Where a batch is cut.

    Raises:
        InvalidOptions: one of them cannot be.
    """
    return client_told(ctx.params, server, max_request_sequences)


def client_told(
    told: Mapping[str, Any],
    server: str | None = None,
    max_request_sequences: int = defaults.MAX_REQUEST_SEQUENCES,
) -> Client:
    """The same of a subcommand's parameters by name, wherever they have been sent."""
    from seqserve_client.client import Client

    passed_on = {name: told[name] for name in _PASSED_ON}
    return Client(
        server or told["server"],
        timeout_s=told["timeout"],
        max_request_sequences=max_request_sequences,
        **passed_on,
    )


@contextmanager
def errors_in_a_line(command: str, *others: type[Exception]) -> Iterator[None]:
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
