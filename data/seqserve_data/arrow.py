"""Columns of an Arrow table as numbers and as text."""

from __future__ import annotations

from typing import Any, TypeAlias, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from seqserve_data.errors import InvalidLayout, InvalidValue
from seqserve_data.numbers import BadNumber, as_float32
from seqserve_data.places import Source
from seqserve_data.text import as_text

Column: TypeAlias = "pa.ChunkedArray[Any]"


def numbers(column: Column) -> NDArray[np.float32]:
    """A column of numbers as float32.

    Raises:
        BadNumber: a number is missing or not finite.
    """
    missing = first_missing(column)
    if missing is not None:
        raise BadNumber(missing, "is missing")
    return as_float32(column.cast(pa.float64()).to_numpy())


def names(table: pa.Table, name: str, source: Source) -> tuple[NDArray[np.int64], list[str]]:
    """Which name each row has in a column of ids or labels, and the names as they appear.

    Raises:
        InvalidLayout: the column holds lists or the like.
        InvalidValue: a name is missing, or is neither text nor a whole number.
    """
    column = table.column(name)
    if pa.types.is_nested(column.type):
        raise InvalidLayout(
            f"holds {column.type}; text or whole numbers are needed", source.place(column=name)
        )
    missing = first_missing(column)
    if missing is not None:
        raise InvalidValue("is missing", source.place(missing, name))
    if pa.types.is_dictionary(column.type):
        # A dictionary that was stored may hold more than the column does, in any order.
        column = column.cast(column.type.value_type)
    encoded = column.dictionary_encode().unify_dictionaries()
    chunks = cast("list[pa.DictionaryArray[Any, Any]]", encoded.chunks)
    codes = np.concatenate([chunk.indices.to_numpy() for chunk in chunks])
    texts = []
    for code, value in enumerate(chunks[0].dictionary.to_pylist()):
        try:
            texts.append(as_text(value))
        except ValueError as error:
            row = int(np.flatnonzero(codes == code)[0])
            raise InvalidValue(str(error), source.place(row, name)) from error
    return codes.astype(np.int64), texts


def first_missing(column: Column) -> int | None:
    """The first row that is null, None where there is none."""
    if not column.null_count:
        return None
    return int(np.flatnonzero(column.is_null().to_numpy())[0])


def first_uncastable(column: Column, to: pa.DataType) -> int | None:
    """The first row that cannot be cast, None where all can be.

    Arrow says what it cannot cast, but not where: halving finds it in the time of two casts.
    """
    if castable(column, to):
        return None
    begin, end = 0, len(column)  # rows before `begin` can be cast; not all before `end` can
    while end - begin > 1:
        middle = (begin + end) // 2
        if castable(column.slice(begin, middle - begin), to):
            begin = middle
        else:
            end = middle
    return begin


def castable(column: Column, to: pa.DataType) -> bool:
    """Whether every row can be cast."""
    try:
        column.cast(to)
    except pa.ArrowInvalid:
        return False
    return True


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type holds text."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def is_number(kind: pa.DataType) -> bool:
    """Whether a column of this type can be a feature."""
    return (
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_boolean(kind)
    )


def is_list(kind: pa.DataType) -> bool:
    """Whether a column of this type holds lists."""
    return (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def item_type(kind: pa.DataType) -> pa.DataType:
    """What the lists of a column of this type hold."""
    return cast("pa.DataType", cast("Any", kind).value_type)


def list_lengths(column: Column) -> NDArray[np.int64]:
    """The length of each list in a column of lists, none of them null."""
    lengths = cast("Column", pc.list_value_length(column))
    return lengths.to_numpy().astype(np.int64)


def flattened(column: Column) -> Column:
    """What the lists of a column hold, end to end."""
    return cast("Column", pc.list_flatten(column))


def trimmed(column: Column) -> Column:
    """Text without white space at its ends."""
    return pc.utf8_trim_whitespace(column)
