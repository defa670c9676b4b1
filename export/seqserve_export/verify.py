"""Proves a published artifact again, on this host: its files, then its answers."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import onnxruntime

from seqserve import artifact
from seqserve.errors import InvalidArtifact
from seqserve.golden import GoldenSet, Proof
from seqserve.v1.manifest_pb2 import ModelManifest
from seqserve_export.proof import EXECUTION_PROVIDER, prove


@dataclass(frozen=True)
class Verified:
    """An artifact that holds on this host."""

    manifest: ModelManifest
    """As read."""
    proof: Proof
    """What its golden set showed here."""
    execution_provider: str
    """What ran it."""
    onnxruntime_version: str
    """Version of the onnxruntime that ran it."""
    seconds: float
    """Wall-clock time of reading and proving."""


def verify(folder: Path) -> Verified:
    """Checks every file against the manifest, and the graph against torch's own answers.

    Args:
        folder: `<repository>/<model>/<version>`.

    Raises:
        InvalidArtifact: the manifest or a file is missing, damaged or contradictory.
        GoldenMismatch: the answers here are not those it was published with.
    """
    begin = time.perf_counter()
    manifest = artifact.read_manifest(folder)
    artifact.check_files(manifest, folder)
    proof = prove(
        folder / artifact.MODEL_FILE,
        manifest.graph,
        GoldenSet.load(folder / artifact.GOLDEN_FILE),
        manifest.parity.tolerance,
    )
    return Verified(
        manifest=manifest,
        proof=proof,
        execution_provider=EXECUTION_PROVIDER,
        onnxruntime_version=onnxruntime.__version__,
        seconds=time.perf_counter() - begin,
    )


def find_version(path: Path) -> Path:
    """The artifact that `REPOSITORY/MODEL/VERSION`, or `REPOSITORY/MODEL` for the newest, names.

    Raises:
        InvalidArtifact: there is none; says what there is.
    """
    path = path.resolve()
    if (path / artifact.MANIFEST_FILE).is_file():
        return path
    published = artifact.versions(path.parent, path.name)
    if published:
        return path / str(published[-1])
    siblings = artifact.versions(path.parent.parent, path.parent.name)
    if siblings:
        raise InvalidArtifact(
            f"{path}: not published; versions of {path.parent.name}: "
            f"{', '.join(map(str, siblings))}"
        )
    raise InvalidArtifact(f"{path}: neither REPOSITORY/MODEL/VERSION nor REPOSITORY/MODEL")
