"""The nested form of a table: one row a sequence, its steps in list columns.

Either one column of lists of steps, each step a list of numbers, or one column of lists of numbers
a feature. Columns that are neither lists nor the id nor the label are left aside.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from seqserve.ragged import RaggedBatch
from seqserve_data import arrow
from seqserve_data.columns import ID_NAMES, LABEL_NAMES, Columns, check_names, find, listed
from seqserve_data.dataset import Dataset
from seqserve_data.errors import InvalidLayout, InvalidValue
from seqserve_data.numbers import BadNumber
from seqserve_data.places import Origin, Source


@dataclass(frozen=True)
class Layout:
    """The columns of a certain nested table."""

    id: str | None
    label: str | None
    features: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Every column that is read."""
        return tuple(name for name in (self.id, self.label, *self.features) if name is not None)


def is_nested(schema: pa.Schema, columns: Columns) -> bool:
    """Whether the features told, or any column where none are told, are lists."""
    return any(
        arrow.is_list(field.type)
        for field in schema
        if not columns.features or field.name in columns.features
    )


def layout(columns: Columns, schema: pa.Schema, source: Source) -> Layout:
    """What the columns of a nested table hold.

    Raises:
        InvalidLayout: a column told is not there, told twice, or not of the type needed.
    """
    check_names(columns, schema.names, source)
    if columns.order is not None:
        raise InvalidLayout(
            "one row is one sequence here, so no column can say the order of its steps",
            source.place(column=columns.order),
        )
    plain = [field.name for field in schema if not arrow.is_list(field.type)]
    lists = tuple(field.name for field in schema if arrow.is_list(field.type))
    features = columns.features or tuple(name for name in lists if name not in columns.named)
    for name in features:
        if name not in lists:
            raise InvalidLayout(
                f"holds {schema.field(name).type}, but the other features are lists",
                source.place(column=name),
            )
    return Layout(
        id=find(columns.id, ID_NAMES, plain, columns),
        label=find(columns.label, LABEL_NAMES, plain, columns),
        features=features,
    )


def gather(table: pa.Table, layout: Layout, source: Source) -> Dataset:
    """The data set in a table of one row a sequence.

    Args:
        table: At least the columns that the layout names.
        layout: What they hold.
        source: For messages: the table's rows are its records.

    Raises:
        DataError: says which row and column, and where in the list, is wrong.
    """
    if not table.num_rows:
        raise InvalidLayout("has no rows", source.place())
    names = layout.features
    steps_are_lists = [arrow.is_list(table.schema.field(name).type.value_type) for name in names]
    if any(steps_are_lists) and len(names) > 1:
        raise InvalidLayout(
            f"has the list columns {listed(names)}, and some hold whole steps; name the one "
            "feature column to read",
            source.place(),
        )
    whole_steps = steps_are_lists[0]
    sequences = (
        _steps(table.column(names[0]), names[0], source)
        if whole_steps
        else _features(table, names, source)
    )
    return Dataset(
        name=Path(source.file).name,
        sequences=sequences,
        labels=_texts(table, layout.label, source),
        ids=_texts(table, layout.id, source) or tuple(map(str, range(len(sequences)))),
        feature_names=() if whole_steps else names,
        origin=Origin(source, range(len(sequences)), layout.label),
    )


def _texts(table: pa.Table, name: str | None, source: Source) -> tuple[str, ...] | None:
    if name is None:
        return None
    codes, texts = arrow.names(table, name, source)
    return tuple(texts[code] for code in codes.tolist())


def _steps(column: arrow.Column, name: str, source: Source) -> RaggedBatch:
    """The sequences in a column of lists of steps."""
    lengths = _lengths(column, name, source)
    steps = arrow.flattened(column)
    missing = arrow.first_missing(steps)
    if missing is not None:
        raise _bad_step(missing, "is missing", lengths, name, source)
    widths = arrow.list_lengths(steps)
    features = int(widths[0])
    if not features:
        raise _bad_step(0, "has no features; at least 1 is needed", lengths, name, source)
    unequal = np.flatnonzero(widths != features)
    if len(unequal):
        step = int(unequal[0])
        reason = f"has {widths[step]} features, but the first step of the file has {features}"
        raise _bad_step(step, reason, lengths, name, source)
    try:
        values = _numbers(arrow.flattened(steps), name, source).reshape(-1, features)
    except BadNumber as error:
        step, feature = divmod(error.index, features)
        reason = f"feature {feature} {error.reason}"
        raise _bad_step(step, reason, lengths, name, source) from error
    return RaggedBatch(values, lengths)


def _features(table: pa.Table, names: tuple[str, ...], source: Source) -> RaggedBatch:
    """The sequences in one column of lists of numbers a feature."""
    lengths = _lengths(table.column(names[0]), names[0], source)
    values = np.empty((int(lengths.sum()), len(names)), np.float32)
    for index, name in enumerate(names):
        column = table.column(name)
        own = _lengths(column, name, source)
        unequal = np.flatnonzero(own != lengths)
        if len(unequal):
            row = int(unequal[0])
            raise InvalidValue(
                f"has {own[row]} steps, but column {names[0]!r} has {lengths[row]}",
                source.place(row, name),
            )
        try:
            values[:, index] = _numbers(arrow.flattened(column), name, source)
        except BadNumber as error:
            raise _bad_step(error.index, error.reason, lengths, name, source) from error
    return RaggedBatch(values, lengths)


def _lengths(column: arrow.Column, name: str, source: Source) -> NDArray[np.int64]:
    """The steps of each sequence in a list column, all at least 1."""
    missing = arrow.first_missing(column)
    if missing is not None:
        raise InvalidValue("is missing", source.place(missing, name))
    lengths = arrow.list_lengths(column)
    empty = np.flatnonzero(lengths == 0)
    if len(empty):
        raise InvalidValue("has no steps; at least 1 is needed", source.place(int(empty[0]), name))
    return lengths


def _numbers(column: arrow.Column, name: str, source: Source) -> NDArray[np.float32]:
    if not arrow.is_number(column.type):
        raise InvalidLayout(f"holds lists of {column.type}, not numbers", source.place(column=name))
    return arrow.numbers(column)


def _bad_step(
    step: int, reason: str, lengths: NDArray[np.int64], name: str, source: Source
) -> InvalidValue:
    """The error for a step, counted through all sequences."""
    ends = np.cumsum(lengths)
    row = int(np.searchsorted(ends, step, side="right"))
    within = step - int(ends[row] - lengths[row])
    return InvalidValue(f"step {within} {reason}", source.place(row, name))
