"""Publishes a trained model as a version of a model repository, whole and proven or not at all."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from seqserve import artifact
from seqserve.errors import GoldenMismatch, InvalidArtifact
from seqserve.golden import GoldenSet, Proof
from seqserve.v1.manifest_pb2 import ModelManifest
from seqserve_export import proof as proofs
from seqserve_export.errors import NotProven, PublishError, VersionExists
from seqserve_export.golden import make_golden, rounding
from seqserve_export.graph import ExportedGraph, build
from seqserve_export.manifest import compose
from seqserve_export.network import SequenceClassifier
from seqserve_export.placement import exists, place, probe, unfinished_folder
from seqserve_export.trained import TrainedModel


@dataclass(frozen=True)
class Published:
    """A version that has just become visible."""

    folder: Path
    """`<repository>/<model>/<version>`."""
    manifest: ModelManifest
    """As written."""
    proof: Proof
    """What the golden set showed."""
    seconds: float
    """Wall-clock time of building, proving and writing."""

    def describe(self) -> str:
        """Two lines for people: where it lies, and what was proven."""
        return (
            f"published {self.folder} in {self.seconds:.2f} s\n"
            f"proven on {self.proof.sequences} sequences in {self.proof.cases} cases: within "
            f"{self.proof.max_difference:.2g} of torch (at most {proofs.TOLERANCE:.2g}), "
            "the same bits in every case"
        )


def publish(
    trained: TrainedModel,
    repository: Path,
    model: str,
    *,
    version: int | None = None,
    max_steps: int | None = None,
    admit_non_finite: bool = False,
) -> Published:
    """Converts a trained model, proves the conversion and publishes it.

    Args:
        trained: What training gave.
        repository: The model repository; created when missing.
        model: The model's name in it.
        version: The version to publish as; the newest plus one by default.
        max_steps: Steps of the longest sequence a server may accept; by default eight times those
            of the longest training sequence, and at least 1024.
        admit_non_finite: Whether a server may accept NaN and infinities; the golden set has some
            then.

    Raises:
        VersionExists: the version is there already.
        NotProven: the graph's answers are not torch's, or depend on a sequence's company.
        GraphError: no graph can be built from the network.
        PublishError: the name, the version or the settings cannot be, or the repository cannot
            be written.
    """
    begin = time.perf_counter()
    _check(trained, max_steps)
    check_target(repository, model, version)
    exported = build(trained.network)
    golden_set = make_golden(
        trained.network, trained.longest_steps, admit_non_finite=admit_non_finite
    )
    try:
        with unfinished_folder(repository) as folder:
            _write(exported, golden_set, folder)
            proof = _prove(trained.network, exported, folder)
            manifest = compose(
                trained,
                exported,
                proof,
                folder,
                name=model,
                max_steps=max_steps,
                admit_non_finite=admit_non_finite,
            )
            target = place(folder, manifest, repository, version)
    except OSError as error:
        raise PublishError(f"cannot write to {repository}: {error}") from error
    return Published(target, manifest, proof, time.perf_counter() - begin)


def _write(exported: ExportedGraph, golden_set: GoldenSet, folder: Path) -> None:
    (folder / artifact.MODEL_FILE).write_bytes(exported.model.SerializeToString(deterministic=True))
    golden_set.save(folder / artifact.GOLDEN_FILE)


def _prove(network: SequenceClassifier, exported: ExportedGraph, folder: Path) -> Proof:
    """Proves what was written, read back as a server will."""
    golden_set = GoldenSet.load(folder / artifact.GOLDEN_FILE)
    try:
        return proofs.prove(
            folder / artifact.MODEL_FILE, exported.contract, golden_set, proofs.TOLERANCE
        )
    except GoldenMismatch as error:
        raise NotProven(
            f"not published: the graph {error} "
            f"(logits reach {np.nanmax(np.abs(golden_set.logits)):.3g}, and torch's own in float32 "
            f"differ from float64 by {rounding(network, golden_set):.3g})"
        ) from error
    except InvalidArtifact as error:
        raise NotProven(f"not published: {error}") from error


def _check(trained: TrainedModel, max_steps: int | None) -> None:
    config = trained.network.config
    problems = [
        (trained.network.training, "the network is in training mode; call eval() first"),
        (
            len(trained.labels) != config.classes,
            f"{len(trained.labels)} labels for {config.classes} classes",
        ),
        (config.classes < 2, f"{config.classes} class; a classifier needs 2 or more"),
        (len(set(trained.labels)) != len(trained.labels), "two classes have the same label"),
        (
            len(trained.feature_names) not in (0, config.features),
            f"{len(trained.feature_names)} feature names for {config.features} features",
        ),
        (
            max_steps is not None and max_steps < 1,
            f"max_steps is {max_steps}; at least 1 is needed",
        ),
    ]
    for wrong, text in problems:
        if wrong:
            raise PublishError(text)


def check_target(repository: Path, model: str, version: int | None) -> None:
    """Refuses early what would be refused at the end.

    Raises:
        VersionExists: the version is there already.
        PublishError: the name or the version cannot be, or the repository is no folder.
    """
    if repository.exists() and not repository.is_dir():
        raise PublishError(f"{repository} is no folder; --repository names one, or a new one")
    try:
        target = artifact.version_path(repository, model, 1 if version is None else version)
    except InvalidArtifact as error:
        raise PublishError(str(error)) from error
    if version is not None and target.exists():
        raise VersionExists(exists(target))


def check_writable(repository: Path, model: str) -> None:
    """Tells early that nothing could be published there.

    Raises:
        PublishError: the repository cannot be written to.
    """
    try:
        probe(repository, model)
    except OSError as error:
        raise PublishError(f"cannot write to {repository}: {error}") from error
