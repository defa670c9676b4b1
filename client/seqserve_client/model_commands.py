"""`seqserve models`: what a server has, and what its operators may change of that."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from seqserve_client import defaults, flags

if TYPE_CHECKING:
    from seqserve_client.catalog import ModelStatus
    from seqserve_client.client import Client

_PROOF_S = 600.0
"""For a version to be read, proved and warmed up."""

Version = Annotated[
    str, typer.Argument(metavar="NAME[:VERSION]", help="The newest where no version is named.")
]

models = typer.Typer(invoke_without_command=True)


@models.callback()
def _models(
    ctx: typer.Context,
    server: flags.Server = defaults.ADDRESS,
    timeout: flags.Timeout = defaults.TIMEOUT_S,
    tls: flags.TLS = False,
    ca_file: flags.CAFile = None,
    certificate_file: flags.CertificateFile = None,
    key_file: flags.KeyFile = None,
    token_file: flags.TokenFile = None,
    token_in_plaintext: flags.TokenInPlaintext = False,
) -> None:
    """List the models of a server: versions, state, labels, execution provider; or change them."""
    if ctx.invoked_subcommand is not None:
        _refuse_misplaced(ctx, ctx.invoked_subcommand)
        return
    with flags.errors_in_a_line("models"):
        from seqserve_client.report import print_models

        with flags.client_of(ctx) as client:
            listed = [
                (status, client.describe(status.name, status.version).manifest.labels)
                if status.state == "ready"
                else (status, ())
                for status in client.models()
            ]
        print_models(listed)


@models.command()
def versions(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="The model's name.")],
    server: flags.Server = defaults.ADDRESS,
    timeout: flags.Timeout = defaults.TIMEOUT_S,
    tls: flags.TLS = False,
    ca_file: flags.CAFile = None,
    certificate_file: flags.CertificateFile = None,
    key_file: flags.KeyFile = None,
    token_file: flags.TokenFile = None,
    token_in_plaintext: flags.TokenInPlaintext = False,
) -> None:
    """Show every version of a model that a server knows: state, digest, why it is not ready."""

    def ask(client: Client) -> list[ModelStatus]:
        from seqserve_client.errors import ModelNotFound

        known = client.models()
        found = [status for status in known if status.name == name]
        if not found:
            names = ", ".join(dict.fromkeys(status.name for status in known)) or "none"
            raise ModelNotFound(f"the server knows no model {name}; it knows: {names}")
        return found

    _at_each(ctx, ask)


@models.command()
def load(
    ctx: typer.Context,
    version: Version,
    server: flags.Server = defaults.ADDRESS,
    timeout: flags.Timeout = _PROOF_S,
    tls: flags.TLS = False,
    ca_file: flags.CAFile = None,
    certificate_file: flags.CertificateFile = None,
    key_file: flags.KeyFile = None,
    token_file: flags.TokenFile = None,
    token_in_plaintext: flags.TokenInPlaintext = False,
) -> None:
    """Serve a version, whatever the version policy says, once its golden set holds there.

    Where several servers are named, each of them in turn.
    """
    _at_each(ctx, lambda client: [client.load_model(*_parsed(version))])


@models.command()
def unload(
    ctx: typer.Context,
    version: Version,
    server: flags.Server = defaults.ADDRESS,
    timeout: flags.Timeout = _PROOF_S,
    tls: flags.TLS = False,
    ca_file: flags.CAFile = None,
    certificate_file: flags.CertificateFile = None,
    key_file: flags.KeyFile = None,
    token_file: flags.TokenFile = None,
    token_in_plaintext: flags.TokenInPlaintext = False,
) -> None:
    """Take a version out of service; calls that run on it finish.

    Where several servers are named, at each of them in turn.
    """
    _at_each(ctx, lambda client: [client.unload_model(*_parsed(version))])


@models.command()
def reload(
    ctx: typer.Context,
    server: flags.Server = defaults.ADDRESS,
    timeout: flags.Timeout = _PROOF_S,
    tls: flags.TLS = False,
    ca_file: flags.CAFile = None,
    certificate_file: flags.CertificateFile = None,
    key_file: flags.KeyFile = None,
    token_file: flags.TokenFile = None,
    token_in_plaintext: flags.TokenInPlaintext = False,
) -> None:
    """Look at the repository again, and serve what the version policy wants of it.

    Where several servers are named, each of them in turn.
    """
    _at_each(ctx, lambda client: client.reload_repository())


def _at_each(ctx: typer.Context, ask: Callable[[Client], list[ModelStatus]]) -> None:
    """Asks every server of a list in turn, for a call reaches one only, and prints what it says."""
    with flags.errors_in_a_line(f"models {ctx.info_name}"):
        from seqserve_client.channel import each_server
        from seqserve_client.report import print_versions

        servers = each_server(ctx.params["server"])
        for server in servers:
            with flags.client_of(ctx, server) as client:
                print_versions(ask(client), title=server if len(servers) > 1 else None)


def _parsed(version: str) -> tuple[str, int]:
    from seqserve_client.administration import parse_version

    return parse_version(version)


def _refuse_misplaced(ctx: typer.Context, subcommand: str) -> None:
    """An option before the subcommand would be of no effect."""
    for parameter in ctx.command.params:
        source = ctx.get_parameter_source(str(parameter.name))
        if source is not None and source.name == "COMMANDLINE":
            option = parameter.opts[0]
            typer.echo(
                f"seqserve models: {option} comes after {subcommand}, as in: "
                f"seqserve models {subcommand} … {option} …",
                err=True,
            )
            raise typer.Exit(2)
