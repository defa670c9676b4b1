"""`seqserve verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from seqserve_export.verify import Verified


def verify(
    artifact: Annotated[
        Path,
        typer.Argument(
            metavar="REPOSITORY/MODEL[/VERSION]", help="What to prove; the newest version if none."
        ),
    ],
) -> None:
    """Prove a published model again, on this host: its files, and torch's own answers."""
    from seqserve.errors import ContractError
    from seqserve_export.verify import find_version
    from seqserve_export.verify import verify as prove

    try:
        folder = find_version(artifact)
        verified = prove(folder)
    except ContractError as error:
        typer.echo(f"seqserve verify: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(_describe(folder, verified))


def _describe(folder: Path, verified: Verified) -> str:
    proof, tolerance = verified.proof, verified.manifest.parity.tolerance
    rows = {
        "artifact": folder,
        "files": f"{len(verified.manifest.files)}, as published",
        "golden set": f"{proof.sequences} sequences in {proof.cases} cases",
        "largest difference": f"{proof.max_difference:.2g} to torch, at most {tolerance:.2g}",
        "": f"in {proof.worst_case}",
        "bit-equal": "in every case",
        "onnxruntime": f"{verified.onnxruntime_version}, {verified.execution_provider}",
        "seconds": f"{verified.seconds:.2f}",
    }
    return "\n".join(["proven", *(f"  {name:<20}{value}" for name, value in rows.items())])
