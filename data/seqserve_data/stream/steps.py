"""Sequences out of records that are a step each: those that follow one another and share an id.

A sequence may go on from batch to batch and from file to file. Until it ends its rows are held,
as long as they are no more than the model takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from seqserve_data.stream.block import Wanted
from seqserve_data.stream.layout import Layout
from seqserve_data.stream.order import sort
from seqserve_data.stream.rows import Rows, joined
from seqserve_data.stream.run import Run
from seqserve_data.stream.values import (
    Judged,
    counted,
    judged_columns,
    merged,
    named,
    too_long,
    unnamed,
)


@dataclass
class _Open:
    """A sequence that may go on."""

    max_steps: int
    steps: int = 0
    pieces: list[Rows] = field(default_factory=list)
    """Its rows; the first alone where it has become too long."""

    @property
    def held(self) -> int:
        """Rows in the pieces."""
        return sum(map(len, self.pieces))

    def goes_on(self, rows: Rows) -> bool:
        """Whether its id is that of the first of the rows."""
        return bool(self.pieces) and self.pieces[0].ids[0].as_py() == rows.ids[0].as_py()

    def add(self, rows: Rows) -> None:
        """Adds these steps."""
        self.steps += len(rows)
        if self.steps <= self.max_steps:
            self.pieces.append(rows)
        else:
            self.pieces = [(self.pieces or [rows])[0].slice(0, 1)]


def runs(batches: Iterable[Rows], layout: Layout, wanted: Wanted) -> Iterator[Run]:
    """A run of the sequences that end in a batch of rows."""
    last = _Open(wanted.max_steps)
    for rows in batches:
        if not len(rows):
            continue
        starts = _starts(rows.ids)
        if last.goes_on(rows):
            head = int(starts[1]) if len(starts) > 1 else len(rows)
            last.add(rows.slice(0, head))
            starts = starts[1:]
        if not len(starts):
            continue
        begin, end = int(starts[0]), int(starts[-1])
        if last.pieces or end > begin:
            yield _run(last, rows.slice(begin, end), np.diff(starts), layout, wanted)
        last = _Open(wanted.max_steps)
        last.add(rows.slice(end, len(rows)))
    if last.pieces:
        yield _run(last, last.pieces[0].slice(0, 0), np.empty(0, np.int64), layout, wanted)


def _starts(ids: pa.Array[Any]) -> NDArray[np.int64]:
    """The rows that have another id than the row before them, and the first."""
    changes = pc.not_equal(ids[1:], ids[:-1])
    if ids.null_count:
        none = ids.is_null()
        known = cast("pa.BooleanArray", changes.fill_null(False))
        changes = pc.or_(known, pc.xor(none[1:], none[:-1]))
    return np.concatenate(
        [[0], np.flatnonzero(changes.to_numpy(zero_copy_only=False)) + 1], dtype=np.int64
    )


def _run(
    last: _Open, rows: Rows, lengths: NDArray[np.int64], layout: Layout, wanted: Wanted
) -> Run:
    """The sequence that was open, if there was one, and those of these lengths in the rows."""
    rows_held = lengths
    if last.pieces:
        lengths = np.concatenate([[last.steps], lengths])
        rows_held = np.concatenate([[last.held], rows_held])
    pieces = [*last.pieces, rows]
    first = np.cumsum(rows_held) - rows_held
    every = joined(pieces)
    ids = named(every.ids.take(pa.array(first)))
    values, good, faults = _judged(every, ids, lengths, rows_held, layout, wanted)
    files = np.repeat([piece.file for piece in pieces], [len(piece) for piece in pieces])
    numbers = [np.arange(piece.row, piece.row + len(piece)) for piece in pieces]
    return Run(
        files=files[first].astype(np.int64),
        rows=np.concatenate(numbers)[first].astype(np.int64),
        steps=counted(lengths, wanted),
        ids=ids,
        values=values,
        good=good,
        faults=faults,
        kept=every.kept.take(pa.array(first)),
    )


def _judged(
    rows: Rows,
    ids: pa.Array[Any],
    lengths: NDArray[np.int64],
    rows_held: NDArray[np.int64],
    layout: Layout,
    wanted: Wanted,
) -> Judged:
    """The values of the good sequences, which those are, and what is wrong with the others."""
    faults = unnamed(ids)
    for sequence in np.flatnonzero(lengths > wanted.max_steps).tolist():
        faults.setdefault(sequence, too_long(int(lengths[sequence]), wanted))
    good = np.ones(len(lengths), bool)
    if faults:
        good[list(faults)] = False
        rows = rows.take(np.flatnonzero(np.repeat(good, rows_held)))
    inner = _sorted_and_judged(rows, lengths[good], layout, wanted)
    return merged(inner, good, faults)


def _sorted_and_judged(
    rows: Rows, lengths: NDArray[np.int64], layout: Layout, wanted: Wanted
) -> Judged:
    """The same of sequences of which all rows are there."""
    faults: dict[int, str] = {}
    if rows.order is not None and layout.order is not None:
        permutation, faults = sort(rows.order, layout.order, lengths)
        if permutation is not None:
            rows = rows.take(permutation)
    ends = np.cumsum(lengths)
    for row in sorted(rows.faults):
        sequence = int(np.searchsorted(ends, row, side="right"))
        step = row - int(ends[sequence] - lengths[sequence])
        faults.setdefault(sequence, f"step {step}, {rows.faults[row]}")
    good = np.ones(len(lengths), bool)
    if faults:
        good[list(faults)] = False
        rows = rows.take(np.flatnonzero(np.repeat(good, lengths)))
    inner = judged_columns(rows.features, layout.features, lengths[good], wanted)
    return merged(inner, good, faults)
