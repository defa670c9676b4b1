"""Numbers as float32, and which sequences hold one that the model does not take."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from seqserve_data.numbers import fault
from seqserve_data.stream.block import Wanted

Column: TypeAlias = "pa.Array[Any]"
Chunked: TypeAlias = "pa.ChunkedArray[Any]"
Numbers: TypeAlias = NDArray[np.float32]
Judged: TypeAlias = tuple[Numbers, NDArray[np.bool_], dict[int, str]]
"""The values of the good sequences, which those are, and what is wrong with the others."""


def narrow(column: Column, wanted: Wanted) -> tuple[Numbers, NDArray[np.int64]]:
    """A column of numbers as float32, and the indices of those that are not taken, ascending.

    Missing ones are never taken, nor those beyond the range of float32.
    """
    wide: NDArray[Any]
    if column.type == pa.float32() and not column.null_count:
        numbers = wide = column.to_numpy()
    else:
        # Not checked: a whole number beyond 2**53 is rounded, as every other number is.
        wide = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        with np.errstate(over="ignore"):
            numbers = wide.astype(np.float32)
    bad = ~np.isfinite(numbers)
    if wanted.admits_non_finite and bad.any():
        bad &= np.isfinite(wide)
        if column.null_count:
            bad |= column.is_null().to_numpy(zero_copy_only=False)
    return numbers, np.flatnonzero(bad)


def chunks(column: Column | Chunked) -> Sequence[Column]:
    """The arrays that a column consists of."""
    return column.chunks if isinstance(column, pa.ChunkedArray) else [column]


def reason(column: Column | Chunked, index: int) -> str:
    """Why the number at `index`, one that is not taken, is not."""
    number = column[index].as_py()
    return "is missing" if number is None else fault(float(number))


def judged(
    matrix: Numbers,
    bad: NDArray[np.int64],
    lengths: NDArray[np.int64],
    reason: Callable[[int, int], str],
) -> Judged:
    """Parts the sequences that hold bad numbers from the others.

    Args:
        matrix: (steps, features), of all sequences end to end.
        bad: Flat indices of the numbers that are not taken.
        lengths: Steps of each sequence.
        reason: Why the number of this step and feature of the matrix is not taken.
    """
    good = np.ones(len(lengths), bool)
    if not len(bad):
        return matrix, good, {}
    bad = np.sort(bad)
    steps, features = bad // matrix.shape[1], bad % matrix.shape[1]
    ends = np.cumsum(lengths)
    sequences, first = np.unique(np.searchsorted(ends, steps, side="right"), return_index=True)
    faults = {}
    for sequence, index in zip(sequences.tolist(), first.tolist(), strict=True):
        step = int(steps[index])
        within = step - int(ends[sequence] - lengths[sequence])
        faults[sequence] = f"step {within}, {reason(step, int(features[index]))}"
    good[sequences] = False
    return matrix[np.repeat(good, lengths)], good, faults


def judged_columns(
    columns: Sequence[Column | Chunked],
    names: Sequence[str],
    lengths: NDArray[np.int64],
    wanted: Wanted,
) -> Judged:
    """The same, of one column a feature: of each the steps of all sequences end to end."""
    matrix = np.empty((int(lengths.sum()), len(columns)), np.float32)
    bad = [np.empty(0, np.int64)]
    for feature, column in enumerate(columns):
        begin = 0
        for chunk in chunks(column):
            end = begin + len(chunk)
            matrix[begin:end, feature], wrong = narrow(chunk, wanted)
            bad.append((wrong + begin) * len(columns) + feature)
            begin = end
    return judged(
        matrix,
        np.concatenate(bad),
        lengths,
        lambda step, feature: f"feature {names[feature]!r} {reason(columns[feature], step)}",
    )


def merged(inner: Judged, good: NDArray[np.bool_], faults: Mapping[int, str]) -> Judged:
    """What was found of all sequences, where `inner` was found of the `good` ones alone."""
    values, within, reasons = inner
    if not reasons:
        return values, good, dict(faults)
    indices = np.flatnonzero(good)
    all_good = good.copy()
    all_good[indices] = within
    return values, all_good, {**faults, **{int(indices[k]): why for k, why in reasons.items()}}


def too_long(steps: int, wanted: Wanted) -> str:
    """What is wrong with a sequence of so many steps."""
    return f"has {steps} steps; the model takes at most {wanted.max_steps}"


def counted(lengths: NDArray[np.int64], wanted: Wanted) -> NDArray[np.int64]:
    """What each sequence counts for where blocks are cut: nothing where it is too long."""
    return np.where(lengths <= wanted.max_steps, lengths, 0)


def named(ids: Column) -> Column:
    """Ids as they are handed on: null where text has no characters."""
    if not pa.types.is_string(ids.type):
        return ids
    return cast("Column", pc.if_else(pc.equal(ids, pa.scalar("")), None, ids))


def unnamed(ids: Column) -> dict[int, str]:
    """What is wrong with sequences that have no id."""
    if not ids.null_count:
        return {}
    return dict.fromkeys(
        np.flatnonzero(ids.is_null().to_numpy(zero_copy_only=False)).tolist(), "has no id"
    )
