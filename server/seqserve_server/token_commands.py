"""`seqserve token`: what callers show to be let in."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

token = typer.Typer(no_args_is_help=True)


@token.callback()
def _token() -> None:
    """Make the tokens that callers of a server with --access-file show."""


@token.command()
def new(
    name: Annotated[str, typer.Argument(help="Whose it is: it stands in the server's log.")],
    rights: Annotated[
        str,
        typer.Option(help="What it is good for, with commas between: classify, describe, operate."),
    ],
    expires: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%SZ"],
            help="When it ends, in UTC.",
            show_default="never",
        ),
    ] = None,
) -> None:
    """Make a token: it is shown this once.

    Standard output gets the lines for the access file, which know the token by its sha256 alone;
    standard error the token.
    """
    from seqserve_server.security import access

    made = access.new_token()
    try:
        lines = access.entry(
            access.Grant(
                access.checked_name(name),
                access.sha256(made),
                access.checked_rights(part.strip() for part in rights.split(",")),
                expires and expires.replace(tzinfo=UTC),
            )
        )
    except ValueError as error:
        typer.echo(f"seqserve token new: {error}", err=True)
        raise typer.Exit(2) from None
    typer.echo(
        f"The token of {name}; it is not kept anywhere, so give it away now:\n{made}", err=True
    )
    typer.echo(f"{lines}\n")
