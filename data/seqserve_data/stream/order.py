"""The steps of sequences, put into the order that a column says."""

from __future__ import annotations

from typing import Any, TypeAlias, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from seqserve_data.arrow import castable, first_uncastable, is_text
from seqserve_data.long_form import ORDER_TYPES

_EXACT = 2.0**53
"""Whole numbers below this are told apart as float64."""

Column: TypeAlias = "pa.Array[Any]"
Keys = NDArray[Any]


def sort(
    order: Column, name: str, lengths: NDArray[np.int64]
) -> tuple[NDArray[np.int64] | None, dict[int, str]]:
    """The rows sequence by sequence in their order, None where they stand so; and what is wrong.

    Args:
        order: Of each row: a number, a time, or text of either.
        name: The column's, for messages.
        lengths: Rows of each sequence, at least 1; they stand end to end.

    Returns:
        What to take the rows by, and of each sequence that cannot be sorted, why.
    """
    sequence = np.repeat(np.arange(len(lengths)), lengths)
    first = np.cumsum(lengths) - lengths
    missing = order.is_null(nan_is_null=True).to_numpy(zero_copy_only=False)
    faults: dict[int, str] = {}
    for row in np.flatnonzero(missing).tolist():
        index = int(sequence[row])
        faults.setdefault(index, f"row {row - int(first[index])} of it has no {name!r}")
    keys = _keys(order, lengths, name, faults)
    same = sequence[1:] == sequence[:-1]
    if (keys[1:] > keys[:-1])[same].all() and not faults:
        return None, faults
    rows = np.lexsort((keys, sequence))
    repeats = same & (keys[rows][1:] == keys[rows][:-1])
    for place in np.flatnonzero(repeats).tolist():
        faults.setdefault(
            int(sequence[place]),
            f"has two steps of {name!r} {order[int(rows[place])].as_py()}; the steps of a "
            "sequence are all different",
        )
    return rows, faults


def _keys(order: Column, lengths: NDArray[np.int64], name: str, faults: dict[int, str]) -> Keys:
    """Numbers that sort as the column does, within each sequence; adds what is no order."""
    if is_text(order.type):
        return _of_text(pc.utf8_trim_whitespace(order), lengths, name, faults)
    if pa.types.is_temporal(order.type):
        order = order.cast(pa.int32() if order.type.bit_width == 32 else pa.int64())
    elif pa.types.is_decimal(order.type) or pa.types.is_boolean(order.type):
        order = order.cast(pa.float64())
    return _filled(order)


def _of_text(text: Column, lengths: NDArray[np.int64], name: str, faults: dict[int, str]) -> Keys:
    """The same of text: what a sequence's cells are is told by that sequence alone."""
    chunked = pa.chunked_array([text])
    if castable(chunked, pa.int64()):
        return _filled(text.cast(pa.int64()))
    if castable(chunked, pa.float64()):
        keys = _filled(text.cast(pa.float64()))
        if (np.abs(keys) < _EXACT).all():
            return keys
    ranks = np.zeros(len(text), np.int64)
    begin = 0
    for index, length in enumerate(lengths.tolist()):
        cells = pa.chunked_array([text.slice(begin, length)])
        kind = next((kind for kind in ORDER_TYPES if castable(cells, kind)), None)
        if kind is not None:
            keys = _keys(cells.cast(kind).combine_chunks(), lengths[:0], name, {})
            ranks[begin : begin + length] = np.unique(keys, return_inverse=True)[1]
        else:
            # The type that got farthest is the one that was meant.
            row = max(first_uncastable(cells, kind) or 0 for kind in ORDER_TYPES)
            faults.setdefault(
                index,
                f"row {row} of it has {name!r} {cells[row].as_py()!r}, which is neither a number "
                "nor a time such as 2024-01-31T12:00:00",
            )
        begin += length
    return ranks


def _filled(numbers: Column) -> Keys:
    """As numpy has them, 0 where there is none."""
    filled = cast("Column", numbers.fill_null(0))
    return filled.to_numpy(zero_copy_only=False)
