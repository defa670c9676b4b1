"""Blocks of the sequences that come, cut by content alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from seqserve.ragged import RaggedBatch
from seqserve_data.stream.block import Block, Position
from seqserve_data.stream.rows import table
from seqserve_data.stream.run import Part, Run, parts


@dataclass(frozen=True)
class Cut:
    """A block's borders, without what it holds."""

    begin: Position
    """Where its first sequence begins."""
    end: Position
    """The next one's `begin`, or the end of the input."""
    sequences: int
    """Good and bad."""
    steps: int
    """Of all of them but those that are too long for the model."""


def blocks(
    runs: Iterator[Run], end: Position, *, max_sequences: int, max_steps: int
) -> Iterator[Block]:
    """The blocks of runs of sequences; `end` is where the input ends."""
    for pieces, next_begin in parts(runs, end, max_sequences=max_sequences, max_steps=max_steps):
        yield _block(pieces, next_begin)


def cuts(
    runs: Iterator[Run], end: Position, *, max_sequences: int, max_steps: int
) -> Iterator[Cut]:
    """The same blocks' borders."""
    for pieces, next_begin in parts(runs, end, max_sequences=max_sequences, max_steps=max_steps):
        run, start, _ = pieces[0]
        yield Cut(
            run.begin(start),
            next_begin,
            sum(stop - start for _, start, stop in pieces),
            sum(int(run.ends[stop] - run.ends[start]) for run, start, stop in pieces),
        )


def _block(pieces: list[Part], end: Position) -> Block:
    first, start, _ = pieces[0]
    good, lengths, values, faults = [], [], [], {}
    before = 0
    for run, begin, stop in pieces:
        chosen = np.flatnonzero(run.good[begin:stop])
        good.append(chosen + before)
        lengths.append(run.steps[begin:stop][chosen])
        values.append(run.values[run.value_ends[begin] : run.value_ends[stop]])
        for index in sorted(run.faults):
            if begin <= index < stop:
                faults[index - begin + before] = run.faults[index]
        before += stop - begin
    indices = np.concatenate(good)
    return Block(
        begin=first.begin(start),
        end=end,
        ids=pa.concat_arrays([run.ids.slice(begin, stop - begin) for run, begin, stop in pieces]),
        good=indices,
        sequences=RaggedBatch(np.concatenate(values), np.concatenate(lengths))
        if len(indices)
        else None,
        faults=faults,
        kept=_kept(pieces, before),
    )


def _kept(pieces: list[Part], rows: int) -> pa.Table:
    kept = pa.concat_tables(
        [run.kept.slice(begin, stop - begin) for run, begin, stop in pieces]
    ).combine_chunks()
    return kept if kept.num_columns else table({}, rows)
