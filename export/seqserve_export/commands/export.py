"""`seqserve export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    checkpoint: Annotated[Path, typer.Argument(help="What `seqserve train` saved.")],
    model: Annotated[str, typer.Option(help="The model's name in the repository.")],
    repository: Annotated[
        Path, typer.Option(help="Model repository; created when missing.")
    ] = Path("models"),
    version: Annotated[
        int | None,
        typer.Option(min=1, help="Version to publish as.", show_default="the newest plus one"),
    ] = None,
    max_steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Steps of the longest sequence a server may accept.",
            show_default="8 times the longest training sequence, at least 1024",
        ),
    ] = None,
    admit_non_finite: Annotated[
        bool,
        typer.Option(
            "--admit-non-finite",
            help="A server may accept NaN and infinities; by default it refuses them.",
        ),
    ] = False,
) -> None:
    """Convert a checkpoint to ONNX, prove the conversion and publish it, without training."""
    from seqserve_export.checkpoint import load_trained
    from seqserve_export.errors import ExportError
    from seqserve_export.publish import publish

    try:
        published = publish(
            load_trained(checkpoint),
            repository,
            model,
            version=version,
            max_steps=max_steps,
            admit_non_finite=admit_non_finite,
        )
    except ExportError as error:
        typer.echo(f"seqserve export: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(published.describe())
