"""How model.onnx is called: which tensors go in, which come out, and the state between.

The session itself is the caller's, so that this package needs no onnxruntime.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from seqserve.v1.manifest_pb2 import Graph, StateTensor

VALUES = "values"
LENGTHS = "lengths"
LOGITS = "logits"
PROBABILITIES = "probabilities"

Array = NDArray[np.float32]
State = Mapping[str, Array]
"""State tensors by name (manifest: graph.state), each with one row a sequence."""


def state_input(tensor: StateTensor) -> str:
    """Name of the graph's input for a state tensor."""
    return f"{tensor.name}_in"


def state_output(tensor: StateTensor) -> str:
    """Name of the graph's output for a state tensor."""
    return f"{tensor.name}_out"


def batch_axis(tensor: StateTensor) -> int:
    """The axis of a state tensor that has one entry a sequence."""
    return list(tensor.dims).index(-1)


class SessionRun(Protocol):
    """`run` of an onnxruntime.InferenceSession."""

    def __call__(
        self, output_names: Sequence[str], input_feed: Mapping[str, NDArray[Any]]
    ) -> Sequence[Any]:
        """Runs the graph once and returns the named outputs in order."""
        ...


@dataclass(frozen=True)
class Outputs:
    """What one run of a model gives."""

    logits: Array
    """(batch, classes)."""
    probabilities: Array
    """(batch, classes)."""
    state: State
    """The state after each row's last step; empty for a bidirectional model."""


class GraphRunner:
    """Calls a session by the contract that the manifest's `graph` states.

    Args:
        graph: What the graph asks of its runner.
        session_run: `run` of the session that holds model.onnx.
    """

    def __init__(self, graph: Graph, session_run: SessionRun) -> None:
        self._tensors = list(graph.state)
        self._minimum_rows = graph.minimum_rows
        self._session_run = session_run
        self._output_names = [LOGITS, PROBABILITIES, *map(state_output, self._tensors)]

    def __call__(
        self, values: Array, lengths: NDArray[np.int32], state: State | None = None
    ) -> Outputs:
        """Advances every row by its length.

        Args:
            values: (batch, time, features), float32; what lies beyond a row's length is ignored.
            lengths: (batch,), int32, each from 1 to time.
            state: As an earlier run left it; None before the sequences' first step.
        """
        rows = len(values)
        if state is None:
            state = self.initial_state(rows)
        if rows < self._minimum_rows:
            # A twin of the row: some kernels take another path, with other rounding, at one row.
            twins = np.zeros(self._minimum_rows, np.int64)
            outputs = self._run(values[twins], lengths[twins], self.take_rows(state, twins))
            first = np.arange(rows)
            return Outputs(
                outputs.logits[first],
                outputs.probabilities[first],
                self.take_rows(outputs.state, first),
            )
        return self._run(values, lengths, state)

    def initial_state(self, rows: int) -> dict[str, Array]:
        """The state of `rows` sequences before their first step."""
        return {
            tensor.name: np.full(
                [rows if size == -1 else size for size in tensor.dims], tensor.initial, np.float32
            )
            for tensor in self._tensors
        }

    def take_rows(self, state: State, rows: NDArray[np.int64]) -> dict[str, Array]:
        """The state of the sequences at `rows` alone, in that order."""
        return {
            tensor.name: state[tensor.name].take(rows, axis=batch_axis(tensor))
            for tensor in self._tensors
        }

    def _run(self, values: Array, lengths: NDArray[np.int32], state: State) -> Outputs:
        feed: dict[str, NDArray[Any]] = {VALUES: values, LENGTHS: lengths}
        for tensor in self._tensors:
            feed[state_input(tensor)] = state[tensor.name]
        logits, probabilities, *states = self._session_run(self._output_names, feed)
        names = (tensor.name for tensor in self._tensors)
        return Outputs(logits, probabilities, dict(zip(names, states, strict=True)))
