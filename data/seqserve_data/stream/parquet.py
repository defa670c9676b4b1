"""The .parquet form: columns in row groups, of which those before a begin are not read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pyarrow import parquet

from seqserve_data.stream.files import File
from seqserve_data.stream.records import Records, batch_rows

_BUFFER = 1 << 18
"""Bytes of a column that are read at a time: more is slower, and memory for each column."""


class ParquetReader:
    """A .parquet file.

    A batch of rows is decoded at a time, as many as hold `BATCH_VALUES` numbers on the average of
    their row group, and of each column a page: the size of row groups and of the file does not
    matter. A row of lists is decoded whole, however long.
    """

    def __init__(self, file: File) -> None:
        """Reads the footer.

        Raises:
            UnreadableData: it is not there, or damaged.
        """
        self._file = file
        with file.reading(), file.open() as opened, parquet.ParquetFile(opened) as whole:
            self._metadata = whole.metadata
            self.schema = whole.schema_arrow
        self.rows: int | None = self._metadata.num_rows

    def records(self, names: Sequence[str], begin: int) -> Iterator[Records]:
        """See `Reader`."""
        groups, row = self._from(begin)
        if not groups:
            return
        with (
            self._file.reading(),
            self._file.open() as opened,
            parquet.ParquetFile(
                opened, metadata=self._metadata, pre_buffer=False, buffer_size=_BUFFER
            ) as whole,
        ):
            # By one thread: what a job computes has the others.
            for batch in whole.iter_batches(
                self._batch_rows(names, groups), groups, list(names), use_threads=False
            ):
                batch.validate(full=True)  # text that is no Unicode, which reading it lets through
                skip = max(0, begin - row)
                if skip < batch.num_rows:
                    yield Records(row + skip, batch.slice(skip))
                row += batch.num_rows

    def _from(self, begin: int) -> tuple[list[int], int]:
        """The row groups that hold rows from `begin` on, and the rows that lie before them."""
        row = 0
        for group in range(self._metadata.num_row_groups):
            rows = self._metadata.row_group(group).num_rows
            if row + rows > begin:
                return list(range(group, self._metadata.num_row_groups)), row
            row += rows
        return [], row

    def _batch_rows(self, names: Sequence[str], groups: Sequence[int]) -> int:
        """Rows of a batch, by the row group whose rows hold most."""
        prefixes = tuple(f"{name}." for name in names)
        sizes = []
        for index in groups:
            group = self._metadata.row_group(index)
            columns = [group.column(column) for column in range(group.num_columns)]
            read = [c for c in columns if f"{c.path_in_schema}.".startswith(prefixes)]
            sizes.append(batch_rows(sum(c.num_values for c in read), group.num_rows))
        return min(sizes)
