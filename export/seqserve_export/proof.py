"""Proves a graph: runs its golden set in onnxruntime on the CPU of this host."""

from __future__ import annotations

import os
from pathlib import Path

# onnxruntime reads it when it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime

from seqserve import golden
from seqserve.errors import InvalidArtifact
from seqserve.golden import GoldenSet, Proof
from seqserve.graph import GraphRunner
from seqserve.v1.manifest_pb2 import Graph

TOLERANCE = 1e-5
"""Largest absolute difference to torch's logits and probabilities that is published."""
EXECUTION_PROVIDER = "CPUExecutionProvider"


def prove(model: Path, contract: Graph, golden_set: GoldenSet, tolerance: float) -> Proof:
    """Runs the golden set and requires torch's answers, bit-equal in every company.

    Args:
        model: The .onnx file.
        contract: What the graph asks of its runner.
        golden_set: The sequences, torch's answers and the companies.
        tolerance: Largest absolute difference accepted.

    Raises:
        InvalidArtifact: onnxruntime cannot load or run the graph.
        GoldenMismatch: the answers differ; says where and by how much.
    """
    try:
        session = onnxruntime.InferenceSession(model, _options(), providers=[EXECUTION_PROVIDER])
        proof = golden.prove(golden_set, GraphRunner(contract, session.run))
    # onnxruntime's exceptions have no base of their own.
    except Exception as error:
        raise InvalidArtifact(f"{model}: onnxruntime cannot run it: {error}") from error
    golden.require(proof, tolerance, bit_equal=True)
    return proof


def _options() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    # As the server runs it: one thread a session.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return options
