"""What the engine asks of the scheduler: rows of one model to advance, by when."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from seqserve.graph import State
from seqserve.ragged import RaggedBatch
from seqserve_server.runner import Runner


@dataclass(frozen=True, eq=False)
class Work:
    """Rows of one model to advance."""

    runner: Runner
    """Runs the model."""
    rows: RaggedBatch
    """The steps to advance each row by."""
    state: State | None
    """The rows' state before them; None where every row is new."""
    deadline: float
    """When nobody waits for it any more, on the monotonic clock; infinite without one."""


def parts(batch: RaggedBatch, max_row_steps: int) -> list[RaggedBatch]:
    """Cuts a request, in its order, into parts that one run can hold.

    A run takes rows times the longest of them, so a few long rows among many short ones take
    far more than their steps: this is what bounds the memory that a caller can make us use.

    Args:
        batch: The request's sequences.
        max_row_steps: Rows times longest that a part may have; a single row always is one.
    """
    longest = int(batch.lengths.max())
    if longest * len(batch) <= max_row_steps:  # as nearly every request is
        return [batch]
    borders, longest = [0], 0
    for index, length in enumerate(batch.lengths.tolist()):
        longest = max(longest, length)
        if index > borders[-1] and longest * (index + 1 - borders[-1]) > max_row_steps:
            borders.append(index)
            longest = length
    borders.append(len(batch))
    return [batch.slice(start, stop) for start, stop in pairwise(borders)]
