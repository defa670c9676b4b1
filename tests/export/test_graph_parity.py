"""The graph's answers are torch's."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from seqserve.ragged import RaggedBatch
from seqserve_export.graph import build
from seqserve_export.network import Cell, Head, SequenceClassifier

if TYPE_CHECKING:
    from tests.conftest import NetworkOptions, RandomModel
    from tests.export.conftest import AskTorch, OpenGraph

TOLERANCE = 1e-5


def _every_network() -> Iterator[object]:
    cells: list[tuple[Cell, int]] = [
        ("lstm", 0),
        ("lstm", 3),
        ("gru", 0),
        ("rnn-tanh", 0),
        ("rnn-relu", 0),
    ]
    heads: list[Head] = ["last", "mean", "max"]
    for (cell, proj_size), bidirectional, num_layers, bias, head in itertools.product(
        cells, (False, True), (1, 2, 3), (True, False), heads
    ):
        words = [
            cell,
            f"{num_layers} layers",
            *(["both ways"] if bidirectional else []),
            *(["projected"] if proj_size else []),
            *([] if bias else ["no bias"]),
            head,
        ]
        options: NetworkOptions = {
            "cell": cell,
            "proj_size": proj_size,
            "bidirectional": bidirectional,
            "num_layers": num_layers,
            "bias": bias,
            "head": head,
            "hidden_size": 7,
        }
        yield pytest.param(options, id=", ".join(words))


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("options", list(_every_network()))
def test_logits_and_probabilities_are_those_of_torch(
    options: NetworkOptions, random_model: RandomModel, open_graph: OpenGraph, ask_torch: AskTorch
) -> None:
    network = random_model(**options).network
    batch = _sequences(np.array([1, 2, 29, 12, 5, 1, 17]), network.config.features)

    outputs = open_graph(build(network))(batch.padded(31, fill=1e4), batch.lengths.astype(np.int32))

    logits = ask_torch(network, batch)
    probabilities = network.probabilities(torch.tensor(logits)).numpy()
    assert np.abs(logits).max() > 0.05
    np.testing.assert_allclose(outputs.logits, logits, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(outputs.probabilities, probabilities, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn-tanh", "rnn-relu"])
@pytest.mark.parametrize("head", ["last", "mean", "max"])
def test_one_unit_one_feature_and_two_classes_are_enough(
    cell: Cell,
    head: Head,
    random_model: RandomModel,
    open_graph: OpenGraph,
    ask_torch: AskTorch,
) -> None:
    network = random_model(features=1, hidden_size=1, classes=2, cell=cell, head=head).network
    batch = _sequences(np.array([1, 4]), 1)
    outputs = open_graph(build(network))(batch.padded(), batch.lengths.astype(np.int32))
    np.testing.assert_allclose(outputs.logits, ask_torch(network, batch), rtol=0, atol=TOLERANCE)


def test_mean_of_a_long_saturated_sequence_does_not_drift(
    random_model: RandomModel, open_graph: OpenGraph, ask_torch: AskTorch
) -> None:
    network = random_model(head="mean", hidden_size=32).network
    # A constant input: the cell settles, and every step adds the same number.
    sequence = np.tile(network.mean.numpy() + np.float32(0.1), (8192, 1))
    batch = RaggedBatch.from_sequences([sequence])
    outputs = open_graph(build(network))(batch.padded(), batch.lengths.astype(np.int32))
    np.testing.assert_allclose(outputs.logits, ask_torch(network, batch), rtol=0, atol=2e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.filterwarnings("ignore:Exporting a model to ONNX with a batch_size other than 1")
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn-tanh", "rnn-relu"])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["forward", "both ways"])
@pytest.mark.parametrize("head", ["last", "mean", "max"])
def test_torch_exporter_is_of_the_same_opinion(
    cell: Cell,
    head: Head,
    bidirectional: bool,
    random_model: RandomModel,
    open_graph: OpenGraph,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """What torch's tracer can express: sequences of one length, without `sequence_lens`."""
    network = random_model(cell=cell, bidirectional=bidirectional, num_layers=2, head=head).network
    batch = _sequences(np.full(5, 11), network.config.features)
    file = tmp_path_factory.mktemp("traced") / "traced.onnx"
    torch.onnx.export(_FullLength(network), (torch.tensor(batch.padded()),), file, dynamo=False)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (traced,) = session.run(None, {session.get_inputs()[0].name: batch.padded()})

    outputs = open_graph(build(network))(batch.padded(), batch.lengths.astype(np.int32))

    np.testing.assert_allclose(outputs.logits, traced, rtol=0, atol=1e-6)


class _FullLength(torch.nn.Module):
    """The network where every sequence is as long as the batch."""

    def __init__(self, network: SequenceClassifier) -> None:
        super().__init__()
        self.network = network

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        outputs, _ = self.network.recurrent(self.network.standardise(values))
        logits: torch.Tensor = self.network.linear(self._reduce(outputs))
        return logits

    def _reduce(self, outputs: torch.Tensor) -> torch.Tensor:
        config = self.network.config
        if config.head == "mean":
            return outputs.mean(dim=1)
        if config.head == "max":
            return outputs.amax(dim=1)
        forwards = outputs[:, -1, : config.hidden_size]
        return torch.cat((forwards, outputs[:, 0, config.hidden_size :]), dim=-1)


def _sequences(lengths: NDArray[np.int64], features: int) -> RaggedBatch:
    values = np.random.default_rng(1).normal(0, 5, (int(lengths.sum()), features))
    return RaggedBatch(values.astype(np.float32), lengths)
