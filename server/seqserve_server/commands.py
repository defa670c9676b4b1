"""The room's subcommands. Light to import: `seqserve --help` imports them all."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, get_type_hints

import typer

from seqserve_server import flags, options
from seqserve_server.options import ExecutionProvider, LogFormat, LogLevel, Panel, Transport


def _use_file(ctx: typer.Context, path: Path | None) -> Path | None:
    """Before any other parameter is looked at: see `configuration`."""
    if path is not None and not ctx.resilient_parsing:
        from seqserve_server import configuration

        with _errors_in_a_line(ctx):
            configuration.use(ctx, path, get_type_hints(serve))
    return path


Config = Annotated[
    Path | None,
    typer.Option(
        envvar="SEQSERVE_CONFIG",
        metavar="FILE",
        is_eager=True,
        callback=_use_file,
        help="TOML: for what neither a flag nor the environment says; its keys are the flags' "
        "names, as in max-queue-steps = 100000.",
        rich_help_panel=Panel.CONFIGURATION,
    ),
]
PrintConfig = Annotated[
    bool,
    typer.Option(
        "--print-config",
        help="Print every setting and where it came from, and exit.",
        rich_help_panel=Panel.CONFIGURATION,
    ),
]


def serve(
    ctx: typer.Context,
    repository: flags.Repository = None,
    config: Config = None,
    print_config: PrintConfig = False,
    address: flags.Address = options.ADDRESS,
    transport: flags.TransportFlag = Transport.AUTO,
    tls_certificate: flags.TLSCertificate = None,
    tls_key: flags.TLSKey = None,
    tls_client_ca: flags.TLSClientCA = None,
    insecure: flags.Insecure = False,
    access_file: flags.AccessFile = None,
    max_concurrent_streams: flags.MaxConcurrentStreams = options.MAX_CONCURRENT_STREAMS,
    max_metadata_bytes: flags.MaxMetadataBytes = options.MAX_METADATA_BYTES,
    keepalive: flags.Keepalive = options.KEEPALIVE_S,
    keepalive_timeout: flags.KeepaliveTimeout = options.KEEPALIVE_TIMEOUT_S,
    max_connection_age: flags.MaxConnectionAge = options.MAX_CONNECTION_AGE_S,
    max_connection_idle: flags.MaxConnectionIdle = options.MAX_CONNECTION_IDLE_S,
    processes: flags.Processes = options.PROCESSES,
    execution_provider: flags.ExecutionProviderFlag = ExecutionProvider.CPU,
    version_policy: flags.VersionPolicy = None,
    poll: flags.Poll = options.POLL_INTERVAL_S,
    trusted_keys: flags.TrustedKeys = None,
    lanes: flags.Lanes = None,
    bulk_patience: flags.BulkPatience = options.BULK_PATIENCE_S,
    max_message_bytes: flags.MaxMessageBytes = options.MAX_MESSAGE_BYTES,
    max_request_sequences: flags.MaxRequestSequences = options.MAX_REQUEST_SEQUENCES,
    max_request_steps: flags.MaxRequestSteps = options.MAX_REQUEST_STEPS,
    max_queue_steps: flags.MaxQueueSteps = options.MAX_QUEUE_STEPS,
    token_key_file: flags.TokenKeyFile = None,
    token_lifetime: flags.TokenLifetime = options.TOKEN_LIFETIME_S,
    drain_pause: flags.DrainPause = options.DRAIN_PAUSE_S,
    drain_grace: flags.DrainGrace = options.DRAIN_GRACE_S,
    stats: flags.Stats = options.STATS_INTERVAL_S,
    metrics_address: flags.MetricsAddress = options.METRICS_ADDRESS,
    otlp_endpoint: flags.OTLPEndpoint = "",
    log_level: flags.LogLevelFlag = LogLevel.INFO,
    log_format: flags.LogFormatFlag = LogFormat.CONSOLE,
) -> None:
    """Serve every model of a repository over gRPC, once its golden set holds on this host."""
    from seqserve_server import configuration, cores, process
    from seqserve_server import processes as several
    from seqserve_server.errors import InvalidSetting
    from seqserve_server.models import version_policy as policies
    from seqserve_server.observability import logs
    from seqserve_server.security import tokens
    from seqserve_server.settings import Settings

    version_policy = version_policy or ["latest"]
    lanes = lanes or cores.granted(processes)
    with _errors_in_a_line(ctx):
        for line in configuration.misspelt(ctx, os.environ):
            typer.echo(f"seqserve serve: {line}", err=True)
        if repository is None and not print_config:
            raise InvalidSetting(
                "REPOSITORY is missing: give it as the argument, as SEQSERVE_REPOSITORY, or as "
                "repository in the --config file"
            )
        settings = Settings(
            repository=repository or Path(),
            address=address,
            transport=transport,
            tls_certificate=tls_certificate,
            tls_key=tls_key,
            tls_client_ca=tls_client_ca,
            insecure=insecure,
            access_file=access_file,
            max_concurrent_streams=max_concurrent_streams,
            max_metadata_bytes=max_metadata_bytes,
            keepalive_s=keepalive,
            keepalive_timeout_s=keepalive_timeout,
            max_connection_age_s=max_connection_age,
            max_connection_idle_s=max_connection_idle,
            processes=processes,
            execution_provider=execution_provider,
            version_policy=policies.parse(version_policy),
            poll_interval_s=poll,
            trusted_keys=trusted_keys,
            lanes=lanes,
            bulk_patience_s=bulk_patience,
            max_message_bytes=max_message_bytes,
            max_request_sequences=max_request_sequences,
            max_request_steps=max_request_steps,
            max_queue_steps=max_queue_steps,
            token_key=tokens.read_key(token_key_file) if token_key_file else None,
            token_lifetime_s=token_lifetime,
            drain_pause_s=drain_pause,
            drain_grace_s=drain_grace,
            stats_interval_s=stats,
            metrics_address="" if metrics_address == options.METRICS_OFF else metrics_address,
            otlp_endpoint=otlp_endpoint,
            log_level=log_level,
            log_format=log_format,
        )
        if print_config:
            typer.echo(
                "\n".join(configuration.shown(ctx, version_policy=version_policy, lanes=lanes))
            )
            return
        logs.to_stderr(log_level, log_format)
        if processes == 1:
            asyncio.run(process.serve(settings))
        else:
            asyncio.run(several.serve(settings))


def doctor(
    ctx: typer.Context,
    repository: flags.Repository = None,
    config: Config = None,
    address: flags.Address = options.ADDRESS,
    transport: flags.TransportFlag = Transport.AUTO,
    tls_certificate: flags.TLSCertificate = None,
    tls_key: flags.TLSKey = None,
    tls_client_ca: flags.TLSClientCA = None,
    insecure: flags.Insecure = False,
    access_file: flags.AccessFile = None,
    lanes: flags.Lanes = None,
    max_message_bytes: flags.MaxMessageBytes = options.MAX_MESSAGE_BYTES,
    max_request_steps: flags.MaxRequestSteps = options.MAX_REQUEST_STEPS,
    max_queue_steps: flags.MaxQueueSteps = options.MAX_QUEUE_STEPS,
    max_connection_age: flags.MaxConnectionAge = options.MAX_CONNECTION_AGE_S,
    max_connection_idle: flags.MaxConnectionIdle = options.MAX_CONNECTION_IDLE_S,
    processes: flags.Processes = options.PROCESSES,
    metrics_address: flags.MetricsAddress = options.METRICS_ADDRESS,
    execution_provider: flags.ExecutionProviderFlag = ExecutionProvider.CPU,
    trusted_keys: flags.TrustedKeys = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document, for machines.")
    ] = False,
) -> None:
    """Check whether this host can serve, and prove every model of a repository on it.

    Takes the settings of `seqserve serve`, from the same flags, environment and file. Exits with 1
    where a check failed.
    """
    from seqserve_server import cores
    from seqserve_server import doctor as examination

    plan = examination.Plan(
        repository=repository,
        address=address,
        metrics_address="" if metrics_address == options.METRICS_OFF else metrics_address,
        processes=processes,
        lanes=lanes or cores.granted(processes),
        transport=transport,
        insecure=insecure,
        max_message_bytes=max_message_bytes,
        max_request_steps=max_request_steps,
        max_queue_steps=max_queue_steps,
        max_connection_age_s=max_connection_age,
        max_connection_idle_s=max_connection_idle,
        execution_provider=execution_provider,
        tls_certificate=tls_certificate,
        tls_key=tls_key,
        tls_client_ca=tls_client_ca,
        access_file=access_file,
        trusted_keys=trusted_keys,
    )
    findings = []
    for finding in examination.examine(plan):
        findings.append(finding)
        if not as_json:
            typer.echo(str(finding))
    failed = any(finding.outcome is examination.Outcome.FAILED for finding in findings)
    if as_json:
        checks = [asdict(finding) for finding in findings]
        typer.echo(json.dumps({"failed": failed, "checks": checks}, indent=2, ensure_ascii=False))
    raise typer.Exit(int(failed))


@contextmanager
def _errors_in_a_line(ctx: typer.Context) -> Iterator[None]:
    """Ends the subcommand with one line on standard error where it cannot start."""
    from seqserve_server import configuration
    from seqserve_server.errors import CannotStart

    try:
        yield
    except CannotStart as error:
        typer.echo(f"seqserve {ctx.info_name}: {configuration.explained(ctx, error)}", err=True)
        raise typer.Exit(error.exit_code) from None
