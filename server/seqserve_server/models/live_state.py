"""A model's state as tensors of many rows, and as bytes of one row each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from seqserve.graph import Array, GraphRunner, State, batch_axis
from seqserve.ragged import WIRE_DTYPE
from seqserve.v1.manifest_pb2 import StateTensor


class StateCodec:
    """Cuts a model's state into rows of bytes and joins it again.

    Args:
        tensors: The manifest's `graph.state`.
        graph: Knows the state before the first step.
    """

    def __init__(self, tensors: Sequence[StateTensor], graph: GraphRunner) -> None:
        self._tensors = list(tensors)
        self._graph = graph

    @property
    def row_bytes(self) -> int:
        """Bytes of one row's state."""
        return WIRE_DTYPE.itemsize * sum(
            int(np.prod([size for size in tensor.dims if size != -1])) for tensor in self._tensors
        )

    def rows(self, state: State) -> list[bytes]:
        """The state of each row as bytes."""
        parts = [np.moveaxis(state[tensor.name], batch_axis(tensor), 0) for tensor in self._tensors]
        flat = np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)
        return [row.tobytes() for row in flat.astype(WIRE_DTYPE, copy=False)]

    def state(self, rows: Sequence[bytes | None]) -> dict[str, Array]:
        """The state as tensors; a row that is None has had no step yet.

        Args:
            rows: `row_bytes` bytes each, or None.
        """
        state = self._graph.initial_state(len(rows))
        begun = [index for index, row in enumerate(rows) if row is not None]
        if not begun:
            return state
        joined = b"".join(row for row in rows if row is not None)
        flat = np.frombuffer(joined, WIRE_DTYPE).reshape(len(begun), -1)
        start = 0
        for tensor in self._tensors:
            target = np.moveaxis(state[tensor.name], batch_axis(tensor), 0)  # a view
            size = int(np.prod(target.shape[1:]))
            target[begun] = flat[:, start : start + size].reshape(-1, *target.shape[1:])
            start += size
        return state
