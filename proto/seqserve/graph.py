"""How model.onnx is called: which tensors go in, which come out, and the state between.

The session itself is the caller's, so that this package needs no onnxruntime.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, NamedTuple, Protocol

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


class Outputs(NamedTuple):
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
        self.state_tensors: Sequence[StateTensor] = tuple(graph.state)
        """What is carried from run to run; nothing for a bidirectional model."""
        self._minimum_rows = graph.minimum_rows
        self._session_run = session_run
        self._output_names = [LOGITS, PROBABILITIES, *map(state_output, self.state_tensors)]
        # Read once: every access to a field of a message makes new Python objects.
        self._state = [
            (tensor.name, state_input(tensor), tuple(tensor.dims), batch_axis(tensor))
            for tensor in self.state_tensors
        ]
        self._initial = {tensor.name: tensor.initial for tensor in self.state_tensors}
        self._state_names = [tensor.name for tensor in self.state_tensors]
        self._same: dict[str, Array] = {}  # the initial value of each, many times over
        self._begin: dict[int, Mapping[str, Array]] = {}  # the inputs, by rows

    def __call__(
        self,
        values: Array,
        lengths: NDArray[np.int32],
        state: State | None = None,
        *,
        keep_state: bool = True,
    ) -> Outputs:
        """Advances every row by its length.

        Args:
            values: (batch, time, features), float32; what lies beyond a row's length is ignored.
            lengths: (batch,), int32, each from 1 to time.
            state: As an earlier run left it; None before the sequences' first step.
            keep_state: Whether the state after the run is wanted.
        """
        rows = len(values)
        if rows < self._minimum_rows:
            # A twin of the row: some kernels take another path, with other rounding, at one row.
            twins = np.zeros(self._minimum_rows, np.int64)
            values, lengths = values[twins], lengths[twins]
            state = None if state is None else self.take_rows(state, twins)
        if state is None:
            inputs = self._beginning(len(values))
        else:
            inputs = {input_name: state[name] for name, input_name, _, _ in self._state}
        logits, probabilities, *after = self._session_run(
            self._output_names if keep_state else self._output_names[:2],
            {VALUES: values, LENGTHS: lengths, **inputs},
        )
        state = dict(zip(self._state_names, after, strict=False))
        if rows < len(values):
            state = self.take_rows(state, np.arange(rows)) if keep_state else state
            return Outputs(logits[:rows], probabilities[:rows], state)
        return Outputs(logits, probabilities, state)

    def initial_state(self, rows: int) -> dict[str, Array]:
        """The state of `rows` sequences before their first step."""
        return {
            name: np.full(
                [rows if size == -1 else size for size in dims], self._initial[name], "f4"
            )
            for name, _, dims, _ in self._state
        }

    def _beginning(self, rows: int) -> Mapping[str, Array]:
        """The inputs for `initial_state`, made before: nobody may write to them."""
        inputs = self._begin.get(rows)
        if inputs is None:  # other threads may be at it as well
            inputs = {
                input_name: self._beginning_of(name, dims, rows)
                for name, input_name, dims, _ in self._state
            }
            self._begin[rows] = inputs
        return inputs

    def _beginning_of(self, name: str, dims: Sequence[int], rows: int) -> Array:
        """A view: all its numbers are the same, so those of more rows will do."""
        shape = [rows if size == -1 else size for size in dims]
        same = self._same.get(name)
        if same is None or same.size < prod(shape):
            same = self._same[name] = np.full(2 * prod(shape), self._initial[name], "f4")
        return same[: prod(shape)].reshape(shape)

    def take_rows(self, state: State, rows: NDArray[np.int64]) -> dict[str, Array]:
        """The state of the sequences at `rows` alone, in that order."""
        return {name: state[name].take(rows, axis=axis) for name, _, _, axis in self._state}
