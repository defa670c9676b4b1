"""The long form of a table: one row a step, and a column that says of which sequence.

The rows of a sequence need not lie together. They keep their order, or are sorted by the order
column where there is one; sequences come in the order of their first rows.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from seqserve.ragged import RaggedBatch
from seqserve_data import arrow
from seqserve_data.columns import Layout
from seqserve_data.dataset import Dataset
from seqserve_data.errors import InvalidLayout, InvalidValue
from seqserve_data.numbers import BadNumber
from seqserve_data.places import Origin, Source

ORDER_TYPES = (pa.int64(), pa.float64(), pa.timestamp("ns"), pa.timestamp("ns", "UTC"))
"""What an order column of text may hold, the first that fits."""


def gather(table: pa.Table, layout: Layout, source: Source) -> Dataset:
    """The data set in a table of one row a step.

    Args:
        table: At least the columns that the layout names.
        layout: What they hold.
        source: For messages: the table's rows are its records.

    Raises:
        DataError: says which row and column is wrong.
    """
    if not table.num_rows:
        raise InvalidLayout("has no rows", source.place())
    sequence, ids = arrow.names(table, layout.id, source)
    _, first = np.unique(sequence, return_index=True)
    labels = _labels(table, layout, sequence, first, source)
    rows = _sorted_rows(table, layout, sequence, source)
    values = np.empty((len(rows), len(layout.features)), np.float32)
    for index, name in enumerate(layout.features):
        values[:, index] = _numbers(table, name, source)[rows]
    return Dataset(
        name=Path(source.file).name,
        sequences=RaggedBatch(values, np.bincount(sequence).astype(np.int64)),
        labels=labels,
        ids=tuple(ids),
        feature_names=layout.features,
        origin=Origin(source, first.tolist(), layout.label),
    )


def _numbers(table: pa.Table, column: str, source: Source) -> NDArray[np.float32]:
    kind = table.schema.field(column).type
    if not arrow.is_number(kind):
        raise InvalidLayout(
            f"holds {kind}, not numbers; name the feature columns to leave it out",
            source.place(column=column),
        )
    try:
        return arrow.numbers(table.column(column))
    except BadNumber as error:
        raise InvalidValue(error.reason, source.place(error.index, column)) from error


def _labels(
    table: pa.Table,
    layout: Layout,
    sequence: NDArray[np.int64],
    first: NDArray[np.intp],
    source: Source,
) -> tuple[str, ...] | None:
    """One label a sequence: that of its first row, which its other rows repeat."""
    if layout.label is None:
        return None
    label, texts = arrow.names(table, layout.label, source)
    changes = np.flatnonzero(label != label[first][sequence])
    if len(changes):
        row = int(changes[0])
        begin = int(first[sequence[row]])
        raise InvalidValue(
            f"is {texts[label[row]]!r}, but the sequence began with {texts[label[begin]]!r} "
            f"({source.place(begin)}); a sequence has one label",
            source.place(row, layout.label),
        )
    return tuple(texts[code] for code in label[first].tolist())


def _sorted_rows(
    table: pa.Table, layout: Layout, sequence: NDArray[np.int64], source: Source
) -> NDArray[np.int64]:
    """The rows sequence by sequence, each sequence's in its order."""
    if layout.order is None:
        return np.argsort(sequence, kind="stable")
    order = _order(table.column(layout.order), layout.order, source)
    keys = pa.Table.from_arrays([pa.array(sequence), order], ["sequence", "order"])
    rows = pc.sort_indices(keys, [("sequence", "ascending"), ("order", "ascending")])
    ranked = keys.take(rows)
    same = [
        pc.equal(ranked[name][1:], ranked[name][:-1]).to_numpy() for name in ranked.column_names
    ]
    repeats = np.flatnonzero(same[0] & same[1])
    indices = rows.to_numpy().astype(np.int64)
    if len(repeats):
        earlier, later = sorted(indices[repeats[0] : repeats[0] + 2].tolist())
        raise InvalidValue(
            f"is {order[later].as_py()}, as it is in {source.place(earlier)}; the steps of a "
            "sequence are all different",
            source.place(later, layout.order),
        )
    return indices


def _order(column: arrow.Column, name: str, source: Source) -> arrow.Column:
    """The order column as numbers or times."""
    if arrow.is_text(column.type):
        column = _parsed(arrow.trimmed(column), name, source)
    elif not (arrow.is_number(column.type) or pa.types.is_temporal(column.type)):
        raise InvalidLayout(
            f"holds {column.type}; numbers or times are needed to sort by",
            source.place(column=name),
        )
    missing = column.is_null(nan_is_null=True).to_numpy()
    if missing.any():
        raise InvalidValue("is missing", source.place(int(np.flatnonzero(missing)[0]), name))
    return column


def _parsed(text: arrow.Column, name: str, source: Source) -> arrow.Column:
    for kind in ORDER_TYPES:
        if arrow.castable(text, kind):
            return text.cast(kind)
    # The type that got farthest is the one that was meant.
    row = max(arrow.first_uncastable(text, kind) or 0 for kind in ORDER_TYPES)
    raise InvalidValue(
        f"{text[row].as_py()!r} is neither a number nor a time such as 2024-01-31T12:00:00",
        source.place(row, name),
    )
