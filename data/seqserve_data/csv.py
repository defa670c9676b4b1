"""The .csv form: commas, a header line, one row a step."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pyarrow as pa
from pyarrow import csv

from seqserve_data import arrow, long_form, records
from seqserve_data.columns import Columns, Layout, layout
from seqserve_data.dataset import Dataset
from seqserve_data.errors import InvalidValue, UnreadableData
from seqserve_data.places import Source


def read(path: Path, columns: Columns) -> Dataset:
    """The data set in a .csv file.

    Raises:
        DataError: says which line and column is wrong.
    """
    source = Source(str(path), partial(records.line_of_record, path))
    chosen = layout(columns, records.header(path), source)
    try:
        table = _read(path, chosen, dict.fromkeys(chosen.features, pa.float64()))
    except pa.ArrowException as error:
        fault = _first_text(path, chosen, source) or records.misshapen(path)
        raise fault or UnreadableData(f"not readable as .csv: {error}", source.place()) from error
    return long_form.gather(table, chosen, source)


def _read(path: Path, layout: Layout, types: Mapping[str, pa.DataType]) -> pa.Table:
    """The layout's columns, text where `types` says nothing else; only empty cells are missing."""
    return csv.read_csv(
        path,
        convert_options=csv.ConvertOptions(
            include_columns=list(layout.names),
            column_types={name: types.get(name, pa.string()) for name in layout.names},
            null_values=[""],
            strings_can_be_null=True,
        ),
    )


def _first_text(path: Path, layout: Layout, source: Source) -> InvalidValue | None:
    """What is wrong with the first feature that is not all numbers, found in the file as text."""
    try:
        table = _read(path, layout, {})
    except pa.ArrowException:
        return None
    for name in layout.features:
        text = table.column(name)
        index = arrow.first_uncastable(arrow.trimmed(text), pa.float64())
        if index is not None:
            return InvalidValue(
                f"{text[index].as_py()!r} is not a number", source.place(index, name)
            )
    return None
