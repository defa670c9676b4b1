"""Reads a version from the repository, checks it, opens it and proves it on this host."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from seqserve import artifact
from seqserve.errors import GoldenMismatch, InvalidArtifact
from seqserve.golden import GoldenSet, Proof, prove, require
from seqserve.graph import GraphRunner
from seqserve.v1.manifest_pb2 import Cell, ModelManifest
from seqserve_server.models.runner import CACHE_BYTES, Runner
from seqserve_server.models.served_model import ServedModel
from seqserve_server.models.sessions import CPU, OpenSession, Session
from seqserve_server.scheduling.cost import Spent
from seqserve_server.scheduling.warmup import warm_up

RUN_BYTES = 64 << 20
"""Working memory that one run may take, about: beyond it a batch is run in parts."""

_EXTERNAL_DATA = re.compile(rb"(?:\x08|\x88\x80{0,8}\x00)location")
"""The key "location" of a TensorProto's external_data entry (ONNX IR, StringStringEntryProto) after
its length in any of its encodings; whatever the tag before it, which has more spellings than are
worth listing: parsers ignore bits of an overlong one. Given a graph as bytes, onnxruntime would
look for such a file in the working directory, which nobody has hashed."""

_LONGEST_MATCH = 10 + len("location")
_PIECE_BYTES = 1 << 20

_GATES = {Cell.CELL_LSTM: 4, Cell.CELL_GRU: 3}


@dataclass(frozen=True)
class Proven:
    """What trying a version showed."""

    digest: str
    """Of the manifest that was read."""
    proof: Proof
    observed: Sequence[Spent]
    """What its warm-up took."""


Try = Callable[[Path], Proven]
"""Tries the version in a folder somewhere else; raises as `load`, or NotTriedError."""


class NotTriedError(Exception):
    """A version could not be tried now, for no fault of its own."""


Signed = Callable[[bytes, Path], None]
"""Raises where nobody trusted has signed a manifest: takes its bytes and its folder."""


def load(
    folder: Path,
    open_session: OpenSession,
    try_first: Try | None = None,
    *,
    signed: Signed | None = None,
    digest: str = "",
) -> tuple[ServedModel, Proof]:
    """The model in `folder`, ready to answer, and what its golden set showed.

    Args:
        folder: `<repository>/<model>/<version>`.
        open_session: Opens the graph in onnxruntime.
        try_first: Proves it and warms it up before it is opened here; without, both is done here.
        signed: Asked before anything else is made of it; without, no signature is needed.
        digest: What the version's must be; any will do where it is empty.

    Raises:
        InvalidArtifact: the artifact is damaged, its graph does not run, or its answers here
            are not those it was published with; or its digest is another.
        NotTriedError: of `try_first`.
    """
    content = _manifest_bytes(folder, signed)
    if digest and artifact.digest_of(content) != digest:
        raise InvalidArtifact(f"{folder}: is no more what was served")
    proven = try_first(folder) if try_first else None
    if proven and proven.digest != artifact.digest_of(content):
        raise InvalidArtifact(f"{folder}: changed while it was read")
    version = _read(content, folder, checked=proven is not None)
    if proven is None:
        runner, provider = _opened(version, open_session)
        proof = _prove(version, runner.graph, provider)
        warm_up(runner)
    else:  # the other files were checked there, and nothing is made of them here
        proof = proven.proof
        runner, provider = _opened(version, open_session)
        _run_once(version, runner)
        runner.cost.calibrate(proven.observed)
    model = ServedModel(
        manifest=version.manifest,
        digest=version.digest,
        execution_provider=provider,
        graph=runner.graph,
        runner=runner,
    )
    return model, proof


def attempt(folder: Path, open_session: OpenSession) -> Proven:
    """Opens the version, proves it and warms it up, as `load` does without `try_first`."""
    version = _read(_manifest_bytes(folder), folder)
    runner, provider = _opened(version, open_session)
    proof = _prove(version, runner.graph, provider)
    return Proven(version.digest, proof, warm_up(runner))


@dataclass(frozen=True)
class _Version:
    """A version as it was read: all that is used of it later was checked."""

    folder: Path
    digest: str
    manifest: ModelManifest
    model: bytes
    golden: bytes
    """Empty where it was proved elsewhere."""


def _manifest_bytes(folder: Path, signed: Signed | None = None) -> bytes:
    if not folder.is_dir():
        raise InvalidArtifact(f"{folder}: there is no such folder")
    artifact.check_inside(folder)
    content = artifact.manifest_bytes(folder)
    if signed is not None:
        signed(content, folder)
    return content


def _read(content: bytes, folder: Path, *, checked: bool = False) -> _Version:
    """Where others have checked all files, only what is opened here is read and checked again."""
    manifest = artifact.parse_manifest(content, folder)
    if checked:
        model, golden = artifact.read_checked(manifest, folder, artifact.MODEL_FILE), b""
    else:
        used = (artifact.MODEL_FILE, artifact.GOLDEN_FILE)
        files = artifact.check_files(manifest, folder, keep=used)
        model, golden = (files[name] for name in used)
    if _has_external_data(model):
        path = folder / artifact.MODEL_FILE
        raise InvalidArtifact(f"{path}: keeps weights in other files; it must hold all of them")
    return _Version(folder, artifact.digest_of(content), manifest, model, golden)


def _opened(version: _Version, open_session: OpenSession) -> tuple[Runner, str]:
    manifest = version.manifest
    session = _open(version.folder, version.model, open_session)
    provider = session.get_providers()[0]
    row_step_bytes = _row_step_bytes(manifest)
    runner = Runner(
        GraphRunner(manifest.graph, session.run),
        features=manifest.input.features.size,
        classes=len(manifest.labels),
        max_steps=manifest.limits.max_steps,
        max_row_steps=max(1, RUN_BYTES // row_step_bytes),
        cached_row_steps=CACHE_BYTES // row_step_bytes,
        cost_clock=time.thread_time if provider == CPU else time.perf_counter,
        model=manifest.name,
        version=manifest.version,
    )
    return runner, provider


def _has_external_data(model: bytes) -> bool:
    """In pieces: the search keeps the interpreter, and lanes wait for it."""
    view = memoryview(model)
    return any(
        _EXTERNAL_DATA.search(view[first : first + _PIECE_BYTES + _LONGEST_MATCH])
        for first in range(0, len(view), _PIECE_BYTES)
    )


def _open(folder: Path, model: bytes, open_session: OpenSession) -> Session:
    try:
        return open_session(model)
    except Exception as error:  # onnxruntime's errors have no base of their own
        text = str(error).strip()
        raise InvalidArtifact(
            f"{folder / artifact.MODEL_FILE}: onnxruntime does not accept it: {text}"
        ) from error


def _prove(version: _Version, graph: GraphRunner, provider: str) -> Proof:
    folder, manifest = version.folder, version.manifest
    golden = GoldenSet.parse(version.golden, folder / artifact.GOLDEN_FILE)
    shape = (manifest.input.features.size, len(manifest.labels))
    if (golden.pool.features, golden.logits.shape[1]) != shape:
        raise InvalidArtifact(
            f"{folder}: the golden set has {golden.pool.features} features and "
            f"{golden.logits.shape[1]} classes, the manifest {shape[0]} and {shape[1]}"
        )
    try:
        proof = prove(golden, graph)
        # Other providers choose their kernels by batch size; the tolerance still holds there.
        require(proof, manifest.parity.tolerance, bit_equal=provider == CPU)
    except GoldenMismatch as error:
        raise GoldenMismatch(f"{folder}: {error}") from error
    except Exception as error:  # onnxruntime's errors have no base of their own
        raise InvalidArtifact(f"{folder}: the golden set cannot be run: {error}") from error
    return proof


def _run_once(version: _Version, runner: Runner) -> None:
    """The first run of a session takes longer than others: no caller is to wait for it."""
    try:
        runner.graph(np.zeros((1, 1, runner.features), np.float32), np.ones(1, np.int32))
    except Exception as error:  # onnxruntime's errors have no base of their own
        raise InvalidArtifact(f"{version.folder}: it cannot be run: {error}") from error


def _row_step_bytes(manifest: ModelManifest) -> int:
    """What onnxruntime allocates for one step of one row, about: input, gates and output."""
    network = manifest.network
    directions = 2 if network.bidirectional else 1
    numbers = directions * network.hidden_size * (_GATES.get(network.cell, 1) + 1)
    return 4 * (manifest.input.features.size + numbers)
