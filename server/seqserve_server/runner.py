"""One method: advance these rows by these steps."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from seqserve.graph import Array, GraphRunner, Outputs, State
from seqserve.ragged import RaggedBatch


class Runner(Protocol):
    """Advances rows of one model; lanes may call it at the same time."""

    @property
    def max_row_steps(self) -> int:
        """Rows times steps, padding included, that one call may hold; one row always may."""
        ...

    def advance(self, rows: RaggedBatch, state: State | None) -> Outputs:
        """Advances every row by its steps.

        Args:
            rows: The next steps of each row.
            state: As an earlier call left it; None before the rows' first step.
        """
        ...


class OnnxRunner:
    """Rows advanced by onnxruntime, padded to the longest.

    Args:
        graph: Calls the model's session.
        max_row_steps: As in `Runner`.
    """

    def __init__(self, graph: GraphRunner, max_row_steps: int) -> None:
        self._graph = graph
        self.max_row_steps = max_row_steps

    def advance(self, rows: RaggedBatch, state: State | None) -> Outputs:
        """As `Runner.advance`."""
        return self._graph(_padded(rows), rows.lengths.astype(np.int32), state)


def _padded(rows: RaggedBatch) -> Array:
    longest = int(rows.lengths.max())
    if longest * len(rows) == rows.steps:  # all of one length, as a single row is: no copy
        return rows.values.reshape(len(rows), longest, rows.features)
    return rows.padded(longest)
