"""Sequences out of records that are one each, in list columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from seqserve_data.stream.block import Wanted
from seqserve_data.stream.layout import Layout
from seqserve_data.stream.rows import Rows
from seqserve_data.stream.run import Run
from seqserve_data.stream.values import (
    Judged,
    counted,
    judged,
    judged_columns,
    merged,
    named,
    narrow,
    reason,
    too_long,
    unnamed,
)

Lists: TypeAlias = "pa.ListArray[Any]"


def runs(batches: Iterable[Rows], layout: Layout, wanted: Wanted) -> Iterator[Run]:
    """A run a batch of rows."""
    for rows in batches:
        if len(rows):
            yield _run(rows, layout, wanted)


def unjudged(batches: Iterable[Rows], wanted: Wanted) -> Iterator[Run]:
    """The same runs, of rows with the first feature column alone: without values and faults."""
    for rows in batches:
        if len(rows):
            yield Run(
                files=np.full(len(rows), rows.file, np.int64),
                rows=np.arange(rows.row, rows.row + len(rows), dtype=np.int64),
                steps=counted(_lengths(rows.features[0]), wanted),
                ids=rows.ids,
                values=np.empty((0, 0), np.float32),
                good=np.zeros(len(rows), bool),
                faults={},
                kept=rows.kept,
            )


def _run(rows: Rows, layout: Layout, wanted: Wanted) -> Run:
    lists = rows.features
    lengths = [_lengths(column) for column in lists]
    ids = named(rows.ids)
    faults = {**_misshapen(lists, lengths, layout, wanted), **rows.faults, **unnamed(ids)}
    good = np.ones(len(rows), bool)
    if faults:
        good[list(faults)] = False
        lists = [column.filter(pa.array(good)) for column in lists]
    judge = _steps if layout.whole_steps else _features
    values, good, faults = merged(judge(lists, layout, wanted), good, faults)
    return Run(
        files=np.full(len(rows), rows.file, np.int64),
        rows=np.arange(rows.row, rows.row + len(rows), dtype=np.int64),
        steps=counted(lengths[0], wanted),
        ids=ids,
        values=values,
        good=good,
        faults=faults,
        kept=rows.kept,
    )


def _misshapen(
    lists: list[Lists], lengths: list[NDArray[np.int64]], layout: Layout, wanted: Wanted
) -> dict[int, str]:
    """What is wrong with the sequences whose lists cannot be their steps, by their index."""
    faults: dict[int, str] = {}
    names = layout.features
    for column, name in zip(lists, names, strict=True):
        if column.null_count:
            for row in np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False)).tolist():
                faults.setdefault(row, f"column {name!r} is missing")
    for own, name in zip(lengths[1:], names[1:], strict=True):
        for row in np.flatnonzero(own != lengths[0]).tolist():
            faults.setdefault(
                row,
                f"column {name!r} has {own[row]} steps, but column {names[0]!r} has "
                f"{lengths[0][row]}",
            )
    for row in np.flatnonzero(lengths[0] == 0).tolist():
        faults.setdefault(row, "has no steps; at least 1 is needed")
    for row in np.flatnonzero(lengths[0] > wanted.max_steps).tolist():
        faults.setdefault(row, too_long(int(lengths[0][row]), wanted))
    return faults


def _features(lists: list[Lists], layout: Layout, wanted: Wanted) -> Judged:
    """The values of one column of lists of numbers a feature."""
    columns = [_flat(column) for column in lists]
    return judged_columns(columns, layout.features, _lengths(lists[0]), wanted)


def _steps(lists: list[Lists], layout: Layout, wanted: Wanted) -> Judged:
    """The values of a column of lists of steps."""
    column = lists[0]
    good, faults = _widths(column, wanted)
    if faults:
        column = column.filter(pa.array(good))
    cells = _flat(_flat(column))
    numbers, bad = narrow(cells, wanted)
    features = wanted.features
    inner = judged(
        numbers.reshape(-1, features),
        bad,
        _lengths(column),
        lambda step, feature: f"feature {feature} {reason(cells, step * features + feature)}",
    )
    return merged(inner, good, faults)


def _widths(column: Lists, wanted: Wanted) -> tuple[NDArray[np.bool_], dict[int, str]]:
    """Which sequences have steps of the width that is wanted, and what the others have."""
    lengths, steps = _lengths(column), _flat(column)
    good = np.ones(len(lengths), bool)
    faults: dict[int, str] = {}
    if column.type.value_type == pa.list_(pa.float32(), wanted.features) and not steps.null_count:
        return good, faults
    widths = _lengths(steps)
    wrong = np.flatnonzero(widths != wanted.features)
    if len(wrong):
        ends = np.cumsum(lengths)
        sequences, first = np.unique(np.searchsorted(ends, wrong, side="right"), return_index=True)
        for sequence, step in zip(sequences.tolist(), wrong[first].tolist(), strict=True):
            within = step - int(ends[sequence] - lengths[sequence])
            what = f"has {widths[step]} features" if steps[step].is_valid else "is missing"
            faults[sequence] = f"step {within} {what}; the model takes {wanted.features}"
        good[sequences] = False
    return good, faults


def _flat(lists: Lists) -> Lists:
    """What the lists hold, end to end; nothing for one that is missing."""
    return cast("Lists", lists.flatten())


def _lengths(lists: Lists) -> NDArray[np.int64]:
    """The length of each list, 0 where it is missing."""
    lengths = cast("pa.Array[Any]", pc.list_value_length(lists))
    if lengths.null_count:
        lengths = lengths.fill_null(0)
    return lengths.to_numpy().astype(np.int64)
