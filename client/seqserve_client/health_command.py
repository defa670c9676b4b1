"""`seqserve health`: for probes, and for scripts that wait until a server answers."""

from __future__ import annotations

from typing import Annotated

import typer

from seqserve_client import defaults, flags


def health(
    server: flags.Server = defaults.ADDRESS,
    model: Annotated[
        str,
        typer.Option(
            metavar="NAME[/VERSION]",
            help="Ask for one model.",
            show_default="the server as a whole: any model",
        ),
    ] = "",
    wait: Annotated[float, typer.Option(min=0, help="Seconds to go on asking for.")] = 0.0,
    timeout: flags.Timeout = 5.0,
    tls: flags.TLS = False,
    ca_file: flags.CAFile = None,
    certificate_file: flags.CertificateFile = None,
    key_file: flags.KeyFile = None,
    token_file: flags.TokenFile = None,
    token_in_plaintext: flags.TokenInPlaintext = False,
) -> None:
    """Ask a server whether it answers calls: exits with 0 where it does, with 1 where not.

    Where several servers are named, all of them must.
    """
    with flags.errors_in_a_line("health"):
        from seqserve_client import connection, health
        from seqserve_client.channel import each_server
        from seqserve_client.options import Options

        for address in each_server(server):
            options = Options(
                address=address,
                credentials=connection.channel_credentials(
                    tls=tls,
                    ca_file=ca_file,
                    certificate_file=certificate_file,
                    key_file=key_file,
                ),
                token=connection.token(None, token_file),
                token_in_plaintext=token_in_plaintext,
                timeout_s=timeout,
            )
            health.check(options, model, wait_s=wait)
