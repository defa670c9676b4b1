"""Some whole sequences in the order they came, before they are cut into blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from seqserve_data.stream.block import Position


@dataclass(frozen=True, eq=False)
class Run:
    """n whole sequences, one after the other."""

    files: NDArray[np.int64]
    """(n,), the file in which each begins."""
    rows: NDArray[np.int64]
    """(n,), the record of it in which each begins."""
    steps: NDArray[np.int64]
    """(n,), what each counts for where blocks are cut, good or not; 0 where it is too long."""
    ids: pa.Array[Any]
    """(n,)."""
    values: NDArray[np.float32]
    """(steps of the good ones, features)."""
    good: NDArray[np.bool_]
    """(n,), which of them the model takes."""
    faults: Mapping[int, str]
    """What is wrong with each of the others."""
    kept: pa.Table
    """n rows."""

    def __len__(self) -> int:
        """Sequences, good and bad."""
        return len(self.steps)

    def begin(self, index: int) -> Position:
        """Where sequence `index` begins."""
        return Position(int(self.files[index]), int(self.rows[index]))

    @cached_property
    def ends(self) -> NDArray[np.int64]:
        """(n + 1,), the steps that lie before each sequence, and those of all."""
        return _ends(self.steps)

    @cached_property
    def value_ends(self) -> NDArray[np.int64]:
        """(n + 1,), the rows of `values` that lie before each sequence, and all of them."""
        return self.ends if self.good.all() else _ends(np.where(self.good, self.steps, 0))


Part = tuple[Run, int, int]
"""Sequences of a run: the first, and the one after the last."""


def parts(
    runs: Iterator[Run], end: Position, *, max_sequences: int, max_steps: int
) -> Iterator[tuple[list[Part], Position]]:
    """What each block is made of, and where the next begins.

    A block closes when one more sequence would exceed a limit, whatever runs they came in; one
    that exceeds a limit alone is a block.

    Args:
        runs: In order.
        end: Where the input ends.
        max_sequences: At least 1.
        max_steps: At least 1.
    """
    open_: list[Part] = []
    sequences = steps = 0
    for run in runs:
        start = 0
        while start < len(run):
            room = int(run.ends[start]) + max_steps - steps
            fits = int(np.searchsorted(run.ends, room, side="right")) - 1
            stop = min(start + max_sequences - sequences, fits, len(run))
            stop = max(stop, start if open_ else start + 1)
            if stop > start:
                open_.append((run, start, stop))
                sequences += stop - start
                steps += int(run.ends[stop] - run.ends[start])
            if stop < len(run):
                yield open_, run.begin(stop)
                open_, sequences, steps = [], 0, 0
            start = stop
    if open_:
        yield open_, end


def _ends(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    ends = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=ends[1:])
    return ends
