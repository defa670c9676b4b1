"""The stack of recurrent layers: one LSTM, GRU or RNN operator each.

onnxruntime prepares the constant weights of LSTM and GRU once, and their numbers are the same at
any batch size. It does not for RNN: there the matrix product takes another path at one row
(`Graph.minimum_rows`), and again with more than one intra-op thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from seqserve_export.graph.weights import LayerWeights
from seqserve_export.graph.writer import ABSENT, Attribute, GraphWriter
from seqserve_export.network import Cell, NetworkConfig

_OPERATORS: Mapping[Cell, str] = {
    "lstm": "LSTM",
    "gru": "GRU",
    "rnn-tanh": "RNN",
    "rnn-relu": "RNN",
}


@dataclass(frozen=True)
class Hidden:
    """What a recurrent layer gives: names of tensors."""

    every_step: str
    """(time, batch, directions * hidden), beyond a row's length unspecified."""
    last_step: str
    """(directions, batch, hidden), where each direction ended in each row."""


def stack(
    writer: GraphWriter,
    config: NetworkConfig,
    layers: Sequence[LayerWeights],
    values: str,
    lengths: str,
) -> Hidden:
    """Adds the layers one on the other.

    Args:
        writer: The graph in the making.
        config: The network's shape.
        layers: Each layer's weights, from the input up.
        values: (time, batch, features).
        lengths: (batch,), int32.
    """
    hidden = _layer(writer, config, 0, layers[0], values, lengths)
    for index, weights in enumerate(layers[1:], start=1):
        hidden = _layer(writer, config, index, weights, hidden.every_step, lengths)
    return hidden


def _layer(
    writer: GraphWriter,
    config: NetworkConfig,
    index: int,
    weights: LayerWeights,
    values: str,
    lengths: str,
) -> Hidden:
    """Adds one layer: operators LSTM, GRU and RNN of opset 7, with `sequence_lens`.

    A forward layer's state comes in and goes out in the operator's own shape,
    (1, batch, hidden). A bidirectional one always starts from zeros: its reverse direction
    needs the sequence's end, so that nothing can be carried on.
    """
    name = f"layer{index}"
    bias = ABSENT if weights.b is None else writer.constant(f"{name}_b", weights.b)
    inputs = [
        values,
        writer.constant(f"{name}_w", weights.w),
        writer.constant(f"{name}_r", weights.r),
        bias,
        lengths,
    ]
    outputs = [f"{name}_y"]
    if config.bidirectional:
        outputs.append(f"{name}_y_h")
    else:
        for part in "hc" if config.cell == "lstm" else "h":
            state_in, state_out = writer.carried(f"{name}_{part}", (1, -1, config.hidden_size))
            inputs.append(state_in)
            outputs.append(state_out)
    writer.nodes(_OPERATORS[config.cell], inputs, outputs, name, **_attributes(config))
    return Hidden(_side_by_side(writer, config, name, outputs[0]), outputs[1])


def _attributes(config: NetworkConfig) -> dict[str, Attribute]:
    directions = 2 if config.bidirectional else 1
    attributes: dict[str, Attribute] = {
        "hidden_size": config.hidden_size,
        "direction": "bidirectional" if config.bidirectional else "forward",
    }
    if config.cell == "gru":
        # torch applies the reset gate after the product with the state and its bias:
        # n = tanh(W_in x + b_in + r * (W_hn h + b_hn)).
        attributes["linear_before_reset"] = 1
    elif config.cell == "rnn-tanh":
        attributes["activations"] = ["Tanh"] * directions
    elif config.cell == "rnn-relu":
        attributes["activations"] = ["Relu"] * directions
    return attributes


def _side_by_side(writer: GraphWriter, config: NetworkConfig, name: str, y: str) -> str:
    """(time, directions, batch, hidden) to (time, batch, directions * hidden)."""
    if not config.bidirectional:
        return writer.node("Squeeze", [y], f"{name}_steps", axes=[1])
    swapped = writer.node("Transpose", [y], f"{name}_swapped", perm=[0, 2, 1, 3])
    # 0 keeps the axis as it is.
    shape = np.array([0, 0, 2 * config.hidden_size], np.int64)
    return writer.node(
        "Reshape", [swapped, writer.constant("both_directions", shape)], f"{name}_steps"
    )
