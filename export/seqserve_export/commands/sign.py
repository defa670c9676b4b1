"""`seqserve sign` and `seqserve keygen`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def sign(
    artifact: Annotated[
        Path, typer.Argument(metavar="REPOSITORY/MODEL/VERSION", help="What to sign.")
    ],
    key: Annotated[
        Path, typer.Option(metavar="FILE", help="The private key that `seqserve keygen` made.")
    ],
) -> None:
    """Sign a published version, for servers with --trusted-keys."""
    from seqserve import signature
    from seqserve.errors import ContractError

    try:
        path = signature.sign(artifact.resolve(), key)
    except ContractError as error:
        typer.echo(f"seqserve sign: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(f"signed: {path}")


def keygen(
    private: Annotated[
        Path, typer.Argument(metavar="FILE", help="Where the private key goes; kept secret.")
    ],
) -> None:
    """Make a key to sign with, and print the public key that servers are to trust."""
    from seqserve import signature
    from seqserve.errors import ContractError

    try:
        public = signature.new_key(private)
    except ContractError as error:
        typer.echo(f"seqserve keygen: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(public.decode(), nl=False)
