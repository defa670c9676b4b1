"""The matrices of torch's recurrent layers in the order that ONNX's operators read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seqserve_export.network import Cell, NetworkConfig

Matrix = NDArray[np.float64]

GATES: Mapping[Cell, tuple[int, ...]] = {
    # torch stacks i f g o, LSTM reads i o f c.
    "lstm": (0, 3, 1, 2),
    # torch stacks r z n, GRU reads z r h.
    "gru": (1, 0, 2),
    "rnn-tanh": (0,),
    "rnn-relu": (0,),
}
"""For each gate in the order ONNX reads, its place in torch's stack."""


@dataclass(frozen=True)
class LayerWeights:
    """One layer, both directions, as the operators LSTM, GRU and RNN take it."""

    w: NDArray[np.float32]
    """(directions, gates * hidden, input), what the layer's input is multiplied by."""
    r: NDArray[np.float32]
    """(directions, gates * hidden, hidden), what the last hidden state is multiplied by."""
    b: NDArray[np.float32] | None
    """(directions, 2 * gates * hidden), the input's biases and then the state's."""


@dataclass(frozen=True)
class NetworkWeights:
    """The recurrent layers and what follows them."""

    layers: tuple[LayerWeights, ...]
    """From the input up."""
    projection: Matrix | None
    """(directions * proj, directions * hidden), that of the last layer's output; None without."""


def network_weights(config: NetworkConfig, state: Mapping[str, Matrix]) -> NetworkWeights:
    """Reorders the gates and folds projections away.

    A projected LSTM (Sak et al. 2014, https://arxiv.org/abs/1402.1128) has the hidden state
    h = W_hr · u with u = o * tanh(c), and ONNX has no such operator. But h enters only linearly:
    W_hh · h = (W_hh · W_hr) · u, and W_ih · h likewise in the next layer. So the layer is a
    plain LSTM whose hidden state is u. The products are computed in float64.

    Args:
        config: The network's shape.
        state: torch's parameters by their names in `torch.nn.LSTM`, in float64.
    """
    layers = []
    projection: Matrix | None = None
    for layer in range(config.num_layers):
        suffixes = [f"l{layer}", f"l{layer}_reverse"][: 2 if config.bidirectional else 1]
        layers.append(_layer(config, state, suffixes, projection))
        if config.proj_size:
            projection = _block_diagonal([state[f"weight_hr_{suffix}"] for suffix in suffixes])
    return NetworkWeights(tuple(layers), projection)


def _layer(
    config: NetworkConfig,
    state: Mapping[str, Matrix],
    suffixes: list[str],
    projection_below: Matrix | None,
) -> LayerWeights:
    w, r, b = [], [], []
    for suffix in suffixes:
        from_input, from_state = state[f"weight_ih_{suffix}"], state[f"weight_hh_{suffix}"]
        if projection_below is not None:
            from_input = from_input @ projection_below
        if config.proj_size:
            from_state = from_state @ state[f"weight_hr_{suffix}"]
        w.append(_reorder(from_input, config.cell))
        r.append(_reorder(from_state, config.cell))
        if config.bias:
            biases = (state[f"bias_ih_{suffix}"], state[f"bias_hh_{suffix}"])
            b.append(np.concatenate([_reorder(bias, config.cell) for bias in biases]))
    return LayerWeights(
        w=np.stack(w).astype(np.float32),
        r=np.stack(r).astype(np.float32),
        b=np.stack(b).astype(np.float32) if b else None,
    )


def _reorder(stacked: Matrix, cell: Cell) -> Matrix:
    gates = np.split(stacked, len(GATES[cell]))
    return np.concatenate([gates[place] for place in GATES[cell]])


def _block_diagonal(blocks: list[Matrix]) -> Matrix:
    """Each direction's projection reads that direction's outputs alone."""
    rows, columns = blocks[0].shape
    whole = np.zeros((len(blocks) * rows, len(blocks) * columns))
    for index, block in enumerate(blocks):
        whole[index * rows : (index + 1) * rows, index * columns : (index + 1) * columns] = block
    return whole
