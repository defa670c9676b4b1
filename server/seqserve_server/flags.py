"""The flags of the subcommands: their environment variables, ranges and help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seqserve_server.options import ExecutionProvider, LogFormat, LogLevel, Panel, Transport

Repository = Annotated[
    Path | None,
    typer.Argument(
        envvar="SEQSERVE_REPOSITORY", help="The model repository: REPOSITORY/MODEL/VERSION/."
    ),
]
Address = Annotated[
    str,
    typer.Option(
        envvar="SEQSERVE_ADDRESS",
        help="HOST:PORT to listen on; port 0 takes a free one.",
        rich_help_panel=Panel.PORT,
    ),
]
TransportFlag = Annotated[
    Transport,
    typer.Option(
        envvar="SEQSERVE_TRANSPORT",
        help="The gRPC server; auto takes native where it can.",
        rich_help_panel=Panel.PORT,
    ),
]
TLSCertificate = Annotated[
    Path | None,
    typer.Option(
        envvar="SEQSERVE_TLS_CERTIFICATE",
        metavar="FILE",
        help="This server's certificate chain, in PEM; the port is TLS then.",
        rich_help_panel=Panel.SECURITY,
    ),
]
TLSKey = Annotated[
    Path | None,
    typer.Option(
        envvar="SEQSERVE_TLS_KEY",
        metavar="FILE",
        help="The private key of that certificate, in PEM.",
        rich_help_panel=Panel.SECURITY,
    ),
]
TLSClientCA = Annotated[
    Path | None,
    typer.Option(
        envvar="SEQSERVE_TLS_CLIENT_CA",
        metavar="FILE",
        help="Certificates in PEM; callers must show one that they signed.",
        rich_help_panel=Panel.SECURITY,
    ),
]
Insecure = Annotated[
    bool,
    typer.Option(
        "--insecure",
        envvar="SEQSERVE_INSECURE",
        help="Listen beyond loopback without TLS: where the network is to be trusted.",
        rich_help_panel=Panel.SECURITY,
    ),
]
AccessFile = Annotated[
    Path | None,
    typer.Option(
        envvar="SEQSERVE_ACCESS_FILE",
        metavar="FILE",
        help="Who may classify, describe and operate, by bearer token.",
        show_default="anybody may classify and describe, nobody operate",
        rich_help_panel=Panel.SECURITY,
    ),
]
MaxConcurrentStreams = Annotated[
    int,
    typer.Option(
        envvar="SEQSERVE_MAX_CONCURRENT_STREAMS",
        min=1,
        help="Calls under way at a time on one connection.",
        rich_help_panel=Panel.CONNECTIONS,
    ),
]
MaxMetadataBytes = Annotated[
    int,
    typer.Option(
        envvar="SEQSERVE_MAX_METADATA_BYTES",
        min=1,
        help="The headers of one call.",
        rich_help_panel=Panel.CONNECTIONS,
    ),
]
Keepalive = Annotated[
    float,
    typer.Option(
        envvar="SEQSERVE_KEEPALIVE",
        metavar="SECONDS",
        min=1,
        help="After so long without a byte a connection is asked whether it is alive.",
        rich_help_panel=Panel.CONNECTIONS,
    ),
]
KeepaliveTimeout = Annotated[
    float,
    typer.Option(
        envvar="SEQSERVE_KEEPALIVE_TIMEOUT",
        metavar="SECONDS",
        min=1,
        help="How long it may take to answer before it is closed.",
        rich_help_panel=Panel.CONNECTIONS,
    ),
]
MaxConnectionAge = Annotated[
    float,
    typer.Option(
        envvar="SEQSERVE_MAX_CONNECTION_AGE",
        metavar="SECONDS",
        min=0,
        help="Connections so old take no new calls, so that clients spread anew; 0 for never.",
        rich_help_panel=Panel.CONNECTIONS,
    ),
]
MaxConnectionIdle = Annotated[
    float,
    typer.Option(
        envvar="SEQSERVE_MAX_CONNECTION_IDLE",
        metavar="SECONDS",
        min=0,
        help="Connections without a call for so long are closed; 0 for never.",
        rich_help_panel=Panel.CONNECTIONS,
    ),
]
Processes = Annotated[
    int,
    typer.Option(
        envvar="SEQSERVE_PROCESSES",
        min=1,
        help="Whole servers that share the port, each with its own models, lanes and health: "
        "for hosts where one interpreter is the limit.",
        rich_help_panel=Panel.PORT,
    ),
]
ExecutionProviderFlag = Annotated[
    ExecutionProvider,
    typer.Option(
        envvar="SEQSERVE_EXECUTION_PROVIDER",
        help="What the models run on.",
        rich_help_panel=Panel.MODELS,
    ),
]
VersionPolicy = Annotated[
    list[str] | None,
    typer.Option(
        envvar="SEQSERVE_VERSION_POLICY",
        metavar="[MODEL=]latest|all|N[,N]",
        help="Versions to serve, of all models or of one; may be given several times.",
        show_default="latest",
        rich_help_panel=Panel.MODELS,
    ),
]
Poll = Annotated[
    float,
    typer.Option(
        envvar="SEQSERVE_POLL",
        metavar="SECONDS",
        min=0,
        help="Look for new versions every so many seconds; 0 for never.",
        rich_help_panel=Panel.MODELS,
    ),
]
TrustedKeys = Annotated[
    Path | None,
    typer.Option(
        envvar="SEQSERVE_TRUSTED_KEYS",
        metavar="FILE",
        help="Ed25519 public keys; then a manifest that none of them signed is refused.",
        rich_help_panel=Panel.MODELS,
    ),
]
Lanes = Annotated[
    int | None,
    typer.Option(
        envvar="SEQSERVE_LANES",
        min=1,
        help="Batches that run at the same time, in each process.",
        show_default="the cores granted, divided by the processes",
        rich_help_panel=Panel.WORK,
    ),
]
BulkPatience = Annotated[
    float,
    typer.Option(
        envvar="SEQSERVE_BULK_PATIENCE",
        help="Seconds after which bulk work counts as interactive, so that it never starves.",
        rich_help_panel=Panel.WORK,
    ),
]
MaxMessageBytes = Annotated[
    int,
    typer.Option(
        envvar="SEQSERVE_MAX_MESSAGE_BYTES",
        min=1,
        help="The longest request accepted.",
        rich_help_panel=Panel.LIMITS,
    ),
]
MaxRequestSequences = Annotated[
    int,
    typer.Option(
        envvar="SEQSERVE_MAX_REQUEST_SEQUENCES",
        min=1,
        help="Sequences of a request.",
        rich_help_panel=Panel.LIMITS,
    ),
]
MaxRequestSteps = Annotated[
    int,
    typer.Option(
        envvar="SEQSERVE_MAX_REQUEST_STEPS",
        min=1,
        help="Steps of a request, all in all.",
        rich_help_panel=Panel.LIMITS,
    ),
]
MaxQueueSteps = Annotated[
    int,
    typer.Option(
        envvar="SEQSERVE_MAX_QUEUE_STEPS",
        min=1,
        help="Steps that may wait for a lane, in each process.",
        rich_help_panel=Panel.LIMITS,
    ),
]
TokenKeyFile = Annotated[
    Path | None,
    typer.Option(
        envvar="SEQSERVE_TOKEN_KEY_FILE",
        help="Seals the tokens of live sequences, so that they survive a restart and hold on "
        "every replica with the same key.",
        show_default="a key of this server alone",
        rich_help_panel=Panel.LIVE,
    ),
]
TokenLifetime = Annotated[
    float,
    typer.Option(
        envvar="SEQSERVE_TOKEN_LIFETIME",
        min=1,
        help="Seconds that such a token is good for.",
        rich_help_panel=Panel.LIVE,
    ),
]
DrainPause = Annotated[
    float,
    typer.Option(
        envvar="SEQSERVE_DRAIN_PAUSE",
        min=0,
        help="Seconds from NOT_SERVING to taking no more calls, for load balancers.",
        rich_help_panel=Panel.OPERATION,
    ),
]
DrainGrace = Annotated[
    float,
    typer.Option(
        envvar="SEQSERVE_DRAIN_GRACE",
        min=0,
        help="Seconds that running calls then have to finish.",
        rich_help_panel=Panel.OPERATION,
    ),
]
Stats = Annotated[
    float,
    typer.Option(
        envvar="SEQSERVE_STATS",
        metavar="SECONDS",
        help="Log the counters every so many seconds; 0 for never.",
        rich_help_panel=Panel.OBSERVATION,
    ),
]
MetricsAddress = Annotated[
    str,
    typer.Option(
        envvar="SEQSERVE_METRICS_ADDRESS",
        help="HOST:PORT for Prometheus, off for none; each of several processes takes the next "
        "port.",
        rich_help_panel=Panel.OBSERVATION,
    ),
]
OTLPEndpoint = Annotated[
    str,
    typer.Option(
        envvar="SEQSERVE_OTLP_ENDPOINT",
        metavar="URL",
        help="Send traces there, by OTLP.",
        show_default="no traces",
        rich_help_panel=Panel.OBSERVATION,
    ),
]
LogLevelFlag = Annotated[
    LogLevel,
    typer.Option(
        envvar="SEQSERVE_LOG_LEVEL",
        help="The least that is logged.",
        rich_help_panel=Panel.OBSERVATION,
    ),
]
LogFormatFlag = Annotated[
    LogFormat,
    typer.Option(
        envvar="SEQSERVE_LOG_FORMAT",
        help="Lines for people or for machines.",
        rich_help_panel=Panel.OBSERVATION,
    ),
]
