"""`seqserve serve`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from seqserve_server import options
from seqserve_server.options import ExecutionProvider, LogLevel, Panel, Transport


def serve(
    repository: Annotated[
        Path,
        typer.Argument(
            envvar="SEQSERVE_REPOSITORY", help="The model repository: REPOSITORY/MODEL/VERSION/."
        ),
    ],
    address: Annotated[
        str,
        typer.Option(
            envvar="SEQSERVE_ADDRESS",
            help="HOST:PORT to listen on; port 0 takes a free one.",
            rich_help_panel=Panel.PORT,
        ),
    ] = options.ADDRESS,
    transport: Annotated[
        Transport,
        typer.Option(
            envvar="SEQSERVE_TRANSPORT",
            help="The gRPC server; auto takes native where it can.",
            rich_help_panel=Panel.PORT,
        ),
    ] = Transport.AUTO,
    processes: Annotated[
        int,
        typer.Option(
            envvar="SEQSERVE_PROCESSES",
            min=1,
            help="Whole servers that share the port, each with its own models, lanes and health: "
            "for hosts where one interpreter is the limit.",
            rich_help_panel=Panel.PORT,
        ),
    ] = options.PROCESSES,
    execution_provider: Annotated[
        ExecutionProvider,
        typer.Option(
            envvar="SEQSERVE_EXECUTION_PROVIDER",
            help="What the models run on.",
            rich_help_panel=Panel.MODELS,
        ),
    ] = ExecutionProvider.CPU,
    version_policy: Annotated[
        list[str] | None,
        typer.Option(
            envvar="SEQSERVE_VERSION_POLICY",
            metavar="[MODEL=]latest|all|N[,N]",
            help="Versions to serve, of all models or of one; may be given several times.",
            show_default="latest",
            rich_help_panel=Panel.MODELS,
        ),
    ] = None,
    lanes: Annotated[
        int | None,
        typer.Option(
            envvar="SEQSERVE_LANES",
            min=1,
            help="Batches that run at the same time, in each process.",
            show_default="the cores granted, divided by the processes",
            rich_help_panel=Panel.WORK,
        ),
    ] = None,
    bulk_patience: Annotated[
        float,
        typer.Option(
            envvar="SEQSERVE_BULK_PATIENCE",
            help="Seconds after which bulk work counts as interactive, so that it never starves.",
            rich_help_panel=Panel.WORK,
        ),
    ] = options.BULK_PATIENCE_S,
    max_message_bytes: Annotated[
        int,
        typer.Option(
            envvar="SEQSERVE_MAX_MESSAGE_BYTES",
            min=1,
            help="The longest request accepted.",
            rich_help_panel=Panel.LIMITS,
        ),
    ] = options.MAX_MESSAGE_BYTES,
    max_request_sequences: Annotated[
        int,
        typer.Option(
            envvar="SEQSERVE_MAX_REQUEST_SEQUENCES",
            min=1,
            help="Sequences of a request.",
            rich_help_panel=Panel.LIMITS,
        ),
    ] = options.MAX_REQUEST_SEQUENCES,
    max_request_steps: Annotated[
        int,
        typer.Option(
            envvar="SEQSERVE_MAX_REQUEST_STEPS",
            min=1,
            help="Steps of a request, all in all.",
            rich_help_panel=Panel.LIMITS,
        ),
    ] = options.MAX_REQUEST_STEPS,
    max_queue_steps: Annotated[
        int,
        typer.Option(
            envvar="SEQSERVE_MAX_QUEUE_STEPS",
            min=1,
            help="Steps that may wait for a lane, in each process.",
            rich_help_panel=Panel.LIMITS,
        ),
    ] = options.MAX_QUEUE_STEPS,
    token_key_file: Annotated[
        Path | None,
        typer.Option(
            envvar="SEQSERVE_TOKEN_KEY_FILE",
            help="Seals the tokens of live sequences, so that they survive a restart and hold on "
            "every replica with the same key.",
            show_default="a key of this server alone",
            rich_help_panel=Panel.LIVE,
        ),
    ] = None,
    token_lifetime: Annotated[
        float,
        typer.Option(
            envvar="SEQSERVE_TOKEN_LIFETIME",
            min=1,
            help="Seconds that such a token is good for.",
            rich_help_panel=Panel.LIVE,
        ),
    ] = options.TOKEN_LIFETIME_S,
    allow_operator_calls: Annotated[
        bool,
        typer.Option(
            "--allow-operator-calls",
            envvar="SEQSERVE_ALLOW_OPERATOR_CALLS",
            help="Let anyone who can call also load and unload models; of one process only.",
            rich_help_panel=Panel.OPERATION,
        ),
    ] = False,
    drain_pause: Annotated[
        float,
        typer.Option(
            envvar="SEQSERVE_DRAIN_PAUSE",
            min=0,
            help="Seconds from NOT_SERVING to taking no more calls, for load balancers.",
            rich_help_panel=Panel.OPERATION,
        ),
    ] = options.DRAIN_PAUSE_S,
    drain_grace: Annotated[
        float,
        typer.Option(
            envvar="SEQSERVE_DRAIN_GRACE",
            min=0,
            help="Seconds that running calls then have to finish.",
            rich_help_panel=Panel.OPERATION,
        ),
    ] = options.DRAIN_GRACE_S,
    stats: Annotated[
        float,
        typer.Option(
            envvar="SEQSERVE_STATS",
            metavar="SECONDS",
            help="Log the counters every so many seconds; 0 for never.",
            rich_help_panel=Panel.OPERATION,
        ),
    ] = options.STATS_INTERVAL_S,
    log_level: Annotated[
        LogLevel,
        typer.Option(
            envvar="SEQSERVE_LOG_LEVEL",
            help="The least that is logged.",
            rich_help_panel=Panel.OPERATION,
        ),
    ] = LogLevel.INFO,
) -> None:
    """Serve every model of a repository over gRPC, once its golden set holds on this host."""
    from seqserve_server import cores, process, tokens
    from seqserve_server import processes as several
    from seqserve_server import version_policy as policies
    from seqserve_server.errors import CannotStart
    from seqserve_server.settings import Settings

    process.log_to_stderr(log_level)
    try:
        settings = Settings(
            repository=repository,
            address=address,
            transport=transport,
            processes=processes,
            execution_provider=execution_provider,
            version_policy=policies.parse(version_policy or ["latest"]),
            lanes=lanes or cores.granted(processes),
            bulk_patience_s=bulk_patience,
            max_message_bytes=max_message_bytes,
            max_request_sequences=max_request_sequences,
            max_request_steps=max_request_steps,
            max_queue_steps=max_queue_steps,
            token_key=tokens.read_key(token_key_file) if token_key_file else None,
            token_lifetime_s=token_lifetime,
            allow_operator_calls=allow_operator_calls,
            drain_pause_s=drain_pause,
            drain_grace_s=drain_grace,
            stats_interval_s=stats,
        )
        if processes == 1:
            asyncio.run(process.serve(settings))
        else:
            asyncio.run(several.serve(settings, log_level))
    except CannotStart as error:
        typer.echo(f"seqserve serve: {error}", err=True)
        raise typer.Exit(error.exit_code) from None
