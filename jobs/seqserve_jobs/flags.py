"""The flags of `seqserve score`: their environment variables, ranges and help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seqserve_jobs.choices import Shown, Where
from seqserve_jobs.on_error import OnError

_DATA = "Input"
_OUTPUT = "Output"
_COMPUTE = "Who computes"
_RUN = "The run"

HERE = Path("models")
"""The repository where none is named, and no server."""

Inputs = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUT",
        help="Files, folders, globs or URLs of Parquet, CSV, JSON lines or Arrow files.",
        show_default=False,
    ),
]
Output = Annotated[
    str,
    typer.Argument(
        help="A .parquet, .csv, .jsonl or .arrow file, or a folder of Parquet files.",
        show_default=False,
    ),
]
ModelName = Annotated[str, typer.Option(help="The model's name.")]
Version = Annotated[
    int, typer.Option(min=0, help="The model's version; 0 for the newest there is.")
]
Repository = Annotated[
    Path | None,
    typer.Option(
        envvar="SEQSERVE_REPOSITORY",
        metavar="FOLDER",
        help="Compute in this process, with a model of this repository.",
        show_default=f"{HERE}, where no server is named",
        rich_help_panel=_COMPUTE,
    ),
]
Server = Annotated[
    str | None,
    typer.Option(
        envvar="SEQSERVE_SERVER",
        metavar="HOST:PORT",
        help="Have a service compute; its replicas with commas between.",
        rich_help_panel=_COMPUTE,
    ),
]
Engine = Annotated[
    Where, typer.Option(help="Run here, or on a Ray cluster.", rich_help_panel=_COMPUTE)
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        metavar="auto|HOST:PORT",
        help="The Ray cluster: the one of this machine, or by its head.",
        show_default="RAY_ADDRESS, else one of this machine alone for this job",
        rich_help_panel=_COMPUTE,
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Actors on the Ray cluster.",
        show_default="as many as fit on its nodes",
        rich_help_panel=_COMPUTE,
    ),
]
Lanes = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Threads that compute, in this process or in each worker of Ray.",
        show_default="the cores granted; 1 in a worker",
        rich_help_panel=_COMPUTE,
    ),
]
TrustedKeys = Annotated[
    Path | None,
    typer.Option(
        envvar="SEQSERVE_TRUSTED_KEYS",
        metavar="FILE",
        help="Ed25519 public keys; then a model that none of them signed is refused.",
        rich_help_panel=_COMPUTE,
    ),
]
Window = Annotated[
    int,
    typer.Option(min=1, help="Requests under way at a service, at most.", rich_help_panel=_COMPUTE),
]
Patience = Annotated[
    float,
    typer.Option(
        min=0,
        metavar="SECONDS",
        help="How long a service may be away.",
        rich_help_panel=_COMPUTE,
    ),
]
Id = Annotated[str | None, typer.Option(help="Column of the sequence's id.", rich_help_panel=_DATA)]
Order = Annotated[
    str | None, typer.Option(help="Column to sort the steps by.", rich_help_panel=_DATA)
]
Features = Annotated[
    str | None,
    typer.Option(
        help="Columns of the features, with commas between.",
        show_default="the model's names where they are there, else all other numbers",
        rich_help_panel=_DATA,
    ),
]
StorageOptions = Annotated[
    str | None,
    typer.Option(
        metavar="JSON",
        help='What fsspec is to know of URLs, as {"anon": true}.',
        rich_help_panel=_DATA,
    ),
]
Keep = Annotated[
    str | None,
    typer.Option(help="Columns to hand through, with commas between.", rich_help_panel=_OUTPUT),
]
TopK = Annotated[
    int,
    typer.Option(
        min=0,
        help="Name so many classes a sequence.",
        show_default="the probabilities of all",
        rich_help_panel=_OUTPUT,
    ),
]
Logits = Annotated[
    bool, typer.Option("--logits", help="Write the logits too.", rich_help_panel=_OUTPUT)
]
OnErrorFlag = Annotated[
    OnError,
    typer.Option(
        help="What becomes of a sequence that the model cannot take: a row with the reason, "
        "no row, or the end of the job.",
        rich_help_panel=_OUTPUT,
    ),
]
Restart = Annotated[
    bool,
    typer.Option(
        "--restart",
        help="Throw away what a job has done there, and begin anew.",
        rich_help_panel=_OUTPUT,
    ),
]
ShardSequences = Annotated[
    int, typer.Option(min=1, help="Sequences of a shard, at most.", rich_help_panel=_RUN)
]
ShardSteps = Annotated[
    int, typer.Option(min=1, help="Steps of a shard, at most.", rich_help_panel=_RUN)
]
Progress = Annotated[
    Shown,
    typer.Option(
        help="Show a bar or lines; auto is a bar on a terminal, off also leaves out the "
        "summary unless sequences were refused.",
        rich_help_panel=_RUN,
    ),
]
Interval = Annotated[
    float,
    typer.Option(
        min=0,
        metavar="SECONDS",
        help="Between two lines of progress, at least.",
        rich_help_panel=_RUN,
    ),
]
SummaryFile = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="Write the summary as JSON; - for standard output.",
        rich_help_panel=_RUN,
    ),
]
