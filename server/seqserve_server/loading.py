"""Reads a version from the repository, checks it, opens it and proves it on this host."""

from __future__ import annotations

import hashlib
import re
import time
from pathlib import Path

from seqserve import artifact
from seqserve.errors import GoldenMismatch, InvalidArtifact
from seqserve.golden import GoldenSet, Proof, prove, require
from seqserve.graph import GraphRunner
from seqserve.v1.manifest_pb2 import Cell, ModelManifest
from seqserve_server.runner import Runner
from seqserve_server.scheduling.warmup import warm_up
from seqserve_server.served_model import ServedModel
from seqserve_server.sessions import CPU, OpenSession, Session

RUN_BYTES = 64 << 20
"""Working memory that one run may take, about: beyond it a batch is run in parts."""

_EXTERNAL_DATA = re.compile(rb"\x0a(?:\x08|\x88\x80*\x00)location")
"""A TensorProto's external_data entry with the key "location" (ONNX IR, StringStringEntryProto):
tag, length in any of its encodings, key. Given a graph as bytes, onnxruntime would look for such
a file in the working directory, which nobody has hashed."""

_GATES = {Cell.CELL_LSTM: 4, Cell.CELL_GRU: 3}


def load(folder: Path, open_session: OpenSession) -> tuple[ServedModel, Proof]:
    """The model in `folder`, ready to answer, and what its golden set showed.

    Args:
        folder: `<repository>/<model>/<version>`.
        open_session: Opens the graph in onnxruntime.

    Raises:
        InvalidArtifact: the artifact is damaged, its graph does not run, or its answers here
            are not those it was published with.
    """
    if not folder.is_dir():
        raise InvalidArtifact(f"{folder}: there is no such folder")
    manifest = artifact.read_manifest(folder)
    artifact.check_files(manifest, folder)
    session = _open(folder, _read_model(manifest, folder), open_session)
    provider = session.get_providers()[0]
    graph = GraphRunner(manifest.graph, session.run)
    proof = _prove(manifest, folder, graph, provider)
    runner = Runner(
        graph,
        features=manifest.input.features.size,
        classes=len(manifest.labels),
        max_steps=manifest.limits.max_steps,
        max_row_steps=max(1, RUN_BYTES // _row_step_bytes(manifest)),
        cost_clock=time.thread_time if provider == CPU else time.perf_counter,
    )
    warm_up(runner)
    model = ServedModel(
        manifest=manifest,
        digest=artifact.digest(folder),
        execution_provider=provider,
        graph=graph,
        runner=runner,
    )
    return model, proof


def _read_model(manifest: ModelManifest, folder: Path) -> bytes:
    """What is opened is what was hashed, and all of it: even where the file changes in between."""
    path = folder / artifact.MODEL_FILE
    content = path.read_bytes()
    digests = {file.path: file.sha256 for file in manifest.files}
    if hashlib.sha256(content).hexdigest() != digests[artifact.MODEL_FILE]:
        raise InvalidArtifact(f"{path}: changed while it was read")
    if _EXTERNAL_DATA.search(content):
        raise InvalidArtifact(f"{path}: keeps weights in other files; it must hold all of them")
    return content


def _open(folder: Path, model: bytes, open_session: OpenSession) -> Session:
    try:
        return open_session(model)
    except Exception as error:  # onnxruntime's errors have no base of their own
        text = str(error).strip()
        raise InvalidArtifact(
            f"{folder / artifact.MODEL_FILE}: onnxruntime does not accept it: {text}"
        ) from error


def _prove(manifest: ModelManifest, folder: Path, graph: GraphRunner, provider: str) -> Proof:
    golden = GoldenSet.load(folder / artifact.GOLDEN_FILE)
    try:
        proof = prove(golden, graph)
        # Other providers choose their kernels by batch size; the tolerance still holds there.
        require(proof, manifest.parity.tolerance, bit_equal=provider == CPU)
    except GoldenMismatch as error:
        raise GoldenMismatch(f"{folder}: {error}") from error
    except Exception as error:  # onnxruntime's errors have no base of their own
        raise InvalidArtifact(f"{folder}: the golden set cannot be run: {error}") from error
    return proof


def _row_step_bytes(manifest: ModelManifest) -> int:
    """What onnxruntime allocates for one step of one row, about: input, gates and output."""
    network = manifest.network
    directions = 2 if network.bidirectional else 1
    numbers = directions * network.hidden_size * (_GATES.get(network.cell, 1) + 1)
    return 4 * (manifest.input.features.size + numbers)
