"""The .parquet form: a table of one row a step or, with list columns, one row a sequence."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from seqserve_data import long_form, nested
from seqserve_data.columns import Columns
from seqserve_data.columns import layout as long_layout
from seqserve_data.dataset import Dataset
from seqserve_data.errors import UnreadableData
from seqserve_data.places import Source


def read(path: Path, columns: Columns) -> Dataset:
    """The data set in a .parquet file.

    Raises:
        DataError: says which row and column is wrong.
    """
    source = Source(str(path))
    try:
        with parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            if nested.is_nested(schema, columns):
                lists = nested.layout(columns, schema, source)
                return nested.gather(file.read(list(lists.names)), lists, source)
            steps = long_layout(columns, schema.names, source)
            return long_form.gather(file.read(list(steps.names)), steps, source)
    except (pa.ArrowException, OSError) as error:
        raise UnreadableData(f"not readable as .parquet: {error}", source.place()) from error
