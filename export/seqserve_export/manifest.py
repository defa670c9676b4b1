"""Composes the manifest of an artifact from what training, building and proving gave."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import seqserve
from seqserve import artifact
from seqserve.golden import Proof
from seqserve.v1 import manifest_pb2
from seqserve.v1.manifest_pb2 import ModelManifest
from seqserve_export.graph import ExportedGraph
from seqserve_export.network import Cell, Head, SequenceClassifier
from seqserve_export.proof import EXECUTION_PROVIDER, TOLERANCE
from seqserve_export.trained import TrainedModel

MIN_MAX_STEPS = 1024
"""A model accepts at least this many steps unless told otherwise, …"""
MAX_STEPS_FACTOR = 8
"""… and this many times those of the longest training sequence."""

_CELLS: Mapping[Cell, manifest_pb2.Cell.ValueType] = {
    "lstm": manifest_pb2.CELL_LSTM,
    "gru": manifest_pb2.CELL_GRU,
    "rnn-tanh": manifest_pb2.CELL_RNN_TANH,
    "rnn-relu": manifest_pb2.CELL_RNN_RELU,
}
_HEADS: Mapping[Head, manifest_pb2.Head.ValueType] = {
    "last": manifest_pb2.HEAD_LAST,
    "mean": manifest_pb2.HEAD_MEAN,
    "max": manifest_pb2.HEAD_MAX,
}
_MADE_WITH = ("torch", "onnx", "onnxruntime", "numpy", "protobuf")


def compose(
    trained: TrainedModel,
    exported: ExportedGraph,
    proof: Proof,
    folder: Path,
    *,
    name: str,
    max_steps: int | None,
    admit_non_finite: bool,
) -> ModelManifest:
    """The manifest, complete but for the version.

    Args:
        trained: What training gave.
        exported: The graph built from it.
        proof: What the golden set showed.
        folder: Holds every other file of the artifact.
        name: The model's name.
        max_steps: Steps of the longest sequence accepted; None for the default.
        admit_non_finite: Whether NaN and infinities are accepted.
    """
    manifest = ModelManifest(
        format_version=artifact.FORMAT_VERSION,
        name=name,
        input=_input(trained, admit_non_finite),
        labels=trained.labels,
        network=_network(trained.network),
        graph=exported.contract,
        limits=manifest_pb2.Limits(max_steps=max_steps or default_max_steps(trained)),
        parity=_parity(proof),
        training=trained.training,
        files=[_file(path) for path in sorted(folder.iterdir())],
        made_with={"seqserve": seqserve.__version__}
        | {distribution: metadata.version(distribution) for distribution in _MADE_WITH},
    )
    manifest.created_at.GetCurrentTime()
    return manifest


def default_max_steps(trained: TrainedModel) -> int:
    """Far beyond what was trained on, but not so far that one caller could hold a server up."""
    return max(MIN_MAX_STEPS, MAX_STEPS_FACTOR * trained.longest_steps)


def _input(trained: TrainedModel, admit_non_finite: bool) -> manifest_pb2.InputSpec:
    network = trained.network
    features = manifest_pb2.FeatureInput(
        size=network.config.features,
        names=trained.feature_names,
        mean=network.mean.tolist(),
        scale=network.scale.tolist(),
        admit_non_finite=admit_non_finite,
    )
    return manifest_pb2.InputSpec(features=features)


def _network(network: SequenceClassifier) -> manifest_pb2.Network:
    config = network.config
    return manifest_pb2.Network(
        cell=_CELLS[config.cell],
        hidden_size=config.hidden_size,
        num_layers=config.num_layers,
        bias=config.bias,
        dropout=config.dropout,
        bidirectional=config.bidirectional,
        proj_size=config.proj_size,
        head=_HEADS[config.head],
        temperature=float(network.temperature),
    )


def _parity(proof: Proof) -> manifest_pb2.Parity:
    return manifest_pb2.Parity(
        tolerance=TOLERANCE,
        max_difference=proof.max_difference,
        sequences=proof.sequences,
        cases=proof.cases,
        bit_equal=proof.bit_equal,
        execution_provider=EXECUTION_PROVIDER,
    )


def _file(path: Path) -> manifest_pb2.ArtifactFile:
    return manifest_pb2.ArtifactFile(
        path=path.name, bytes=path.stat().st_size, sha256=artifact.sha256(path)
    )
