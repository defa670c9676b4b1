"""Graphs opened in onnxruntime, and torch's answers to hold them against."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from seqserve.graph import GraphRunner
from seqserve.ragged import RaggedBatch
from seqserve_export.graph import ExportedGraph
from seqserve_export.network import SequenceClassifier

# The networks of these tests are so small that sharing the work costs more than it saves.
torch.set_num_threads(1)

OpenGraph = Callable[[ExportedGraph], GraphRunner]
AskTorch = Callable[[SequenceClassifier, RaggedBatch], NDArray[np.float32]]


@pytest.fixture(scope="session")
def open_graph() -> OpenGraph:
    """Opens a graph in onnxruntime with one thread, as the server does."""
    return partial(_open, threads=1)


@pytest.fixture(scope="session")
def open_graph_threaded() -> OpenGraph:
    """Opens a graph in onnxruntime with four intra-op threads."""
    return partial(_open, threads=4)


@pytest.fixture(scope="session")
def ask_torch() -> AskTorch:
    """Logits of each sequence on its own, a batch of one."""
    return _ask_torch


def _open(exported: ExportedGraph, threads: int) -> GraphRunner:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        exported.model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return GraphRunner(exported.contract, session.run)


def _ask_torch(network: SequenceClassifier, batch: RaggedBatch) -> NDArray[np.float32]:
    with torch.inference_mode():
        answers = [
            network(torch.tensor(sequence)[None], torch.tensor([len(sequence)]))
            for sequence in batch
        ]
        return torch.cat(answers).numpy()
