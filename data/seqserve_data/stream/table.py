"""A table in memory, read as a file of it would be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from seqserve_data.errors import UnreadableData
from seqserve_data.places import Place
from seqserve_data.stream.records import Records, batch_rows

_BYTES_A_VALUE = 8


class TableReader:
    """The rows of a table, in batches without a copy."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table
        self.schema = table.schema
        self.rows: int | None = table.num_rows

    def records(self, names: Sequence[str], begin: int) -> Iterator[Records]:
        """See `Reader`."""
        rest = self._table.select(list(names)).slice(begin)
        rows = batch_rows(rest.nbytes // _BYTES_A_VALUE, rest.num_rows)
        for batch in rest.to_batches(max_chunksize=rows):
            try:
                batch.validate(full=True)  # text that is no Unicode
            except pa.ArrowException as error:
                raise UnreadableData(f"not readable: {error}", Place("the table")) from error
            yield Records(begin, batch)
            begin += batch.num_rows
