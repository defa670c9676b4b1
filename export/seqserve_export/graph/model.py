"""The whole path from raw input to calibrated probabilities as one ONNX model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from seqserve import __version__
from seqserve.graph import LENGTHS, LOGITS, PROBABILITIES, VALUES
from seqserve.v1.manifest_pb2 import Graph
from seqserve_export.errors import GraphError
from seqserve_export.graph import head, recurrent
from seqserve_export.graph.weights import Matrix, network_weights
from seqserve_export.graph.writer import BATCH, TIME, GraphWriter
from seqserve_export.network import NetworkConfig, SequenceClassifier

OPSET = 11
"""Version of the default operator set: the first with CumSum, GatherElements and Range, which the
mean and maximum heads need. (LSTM, GRU and RNN would do with 7.)"""

IR_VERSION = 6
"""Version of ONNX's file format: the one that came with operator set 11, in ONNX 1.6. (Constants
that are not also inputs, which runtimes may prepare in advance, would do with 4.)"""


@dataclass(frozen=True)
class ExportedGraph:
    """A network as ONNX."""

    model: onnx.ModelProto
    """What model.onnx will hold."""
    contract: Graph
    """What it asks of its runner, for the manifest."""


def build(network: SequenceClassifier) -> ExportedGraph:
    """Builds the graph from the network's state dict.

    Raises:
        GraphError: the network's numbers cannot be put to use.
    """
    config = network.config
    state = _numbers(network)
    writer = GraphWriter()
    values = writer.input(VALUES, [BATCH, TIME, config.features])
    lengths = writer.input(LENGTHS, [BATCH], TensorProto.INT32)
    weights = network_weights(
        config, {name.removeprefix("recurrent."): array for name, array in state.items()}
    )
    standardised = _standardise(writer, values, state)
    hidden = recurrent.stack(writer, config, weights.layers, standardised, lengths)
    pooled, projection = head.reduce(writer, config, hidden, lengths, weights.projection)
    _classify(writer, config, pooled, projection, state)
    model = helper.make_model(
        writer.finish(config.cell),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="seqserve",
        producer_version=__version__,
    )
    onnx.checker.check_model(model, full_check=True)
    contract = Graph(
        opset=OPSET,
        ir_version=IR_VERSION,
        state=writer.state,
        minimum_rows=2 if config.cell.startswith("rnn") else 1,
    )
    return ExportedGraph(model, contract)


def _numbers(network: SequenceClassifier) -> dict[str, Matrix]:
    """The state dict in float64, which holds float32 exactly."""
    state = {
        name: tensor.detach().cpu().double().numpy()
        for name, tensor in network.state_dict().items()
    }
    for name, array in state.items():
        if not np.isfinite(array).all():
            raise GraphError(
                f"the network's {name} holds NaN or infinity; training diverged: "
                "lower the learning rate or clip gradients more tightly"
            )
    if not state["scale"].all():
        raise GraphError("the network's scale holds a 0; a constant feature needs a scale of 1")
    if not state["temperature"] > 0:
        raise GraphError(f"the network's temperature is {state['temperature']}, not above 0")
    return state


def _standardise(writer: GraphWriter, values: str, state: dict[str, Matrix]) -> str:
    """(values - mean) / scale, then time first, as the recurrent operators read it.

    Sub and Div (opset 7) round each number on its own, as torch does.
    """
    mean = writer.constant("mean", state["mean"].astype(np.float32))
    scale = writer.constant("scale", state["scale"].astype(np.float32))
    centred = writer.node("Sub", [values, mean], "centred")
    standardised = writer.node("Div", [centred, scale], "standardised")
    return writer.node("Transpose", [standardised], "time_first", perm=[1, 0, 2])


def _classify(
    writer: GraphWriter,
    config: NetworkConfig,
    pooled: str,
    projection: Matrix | None,
    state: dict[str, Matrix],
) -> None:
    """The linear layer (Gemm, opset 11), and Softmax (opset 11) of logits / temperature."""
    matrix = state["linear.weight"]
    if projection is not None:
        matrix = matrix @ projection
    weight = writer.constant("linear_weight", matrix.astype(np.float32))
    bias = writer.constant("linear_bias", state["linear.bias"].astype(np.float32))
    logits = writer.output(LOGITS, [BATCH, config.classes])
    probabilities = writer.output(PROBABILITIES, [BATCH, config.classes])
    writer.node("Gemm", [pooled, weight, bias], logits, transB=1)
    temperature = writer.constant("temperature", state["temperature"].astype(np.float32))
    calibrated = writer.node("Div", [logits, temperature], "calibrated_logits")
    writer.node("Softmax", [calibrated], probabilities, axis=1)
