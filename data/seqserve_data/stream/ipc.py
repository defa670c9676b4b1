"""The Arrow IPC forms: files, whose record batches can be read by themselves, and streams."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
from pyarrow import ipc

from seqserve_data.stream.files import File
from seqserve_data.stream.records import Records, batch_rows

_MAGIC = b"ARROW1"
"""What a file begins with, and a stream does not."""
_BYTES_A_VALUE = 8


class IpcReader:
    """An Arrow IPC file or stream.

    What was written as one record batch is read as one, column by column where compressed; a local
    file that is not is mapped, so that of a batch the pages in use are in memory.
    """

    def __init__(self, file: File) -> None:
        """Reads the schema, and of a file how many rows its batches have.

        Raises:
            UnreadableData: it is not there, or damaged.
        """
        self._file = file
        self.rows: int | None = None
        with file.reading(), file.map() as opened:
            self._is_stream = opened.read(len(_MAGIC)) != _MAGIC
            opened.seek(0)
            if self._is_stream:
                self.schema = ipc.open_stream(opened).schema
            else:
                whole = ipc.open_file(opened)
                self.schema = whole.schema
                # Of one column each: of the others nothing is read.
                options = ipc.IpcReadOptions(included_fields=[0])
                counted = ipc.open_file(opened, options=options)
                self._counts = [
                    counted.get_batch(index).num_rows for index in range(whole.num_record_batches)
                ]
                self.rows = sum(self._counts)

    def records(self, names: Sequence[str], begin: int) -> Iterator[Records]:
        """See `Reader`."""
        fields = [self.schema.get_field_index(name) for name in names]
        options = ipc.IpcReadOptions(included_fields=fields or [0], use_threads=False)
        with self._file.reading(), self._file.map() as opened:
            for row, batch in self._batches(opened, options, begin):
                batch.validate(full=True)  # which reading it does not
                first = max(0, begin - row)
                rows = batch_rows(batch.nbytes // _BYTES_A_VALUE, batch.num_rows)
                for start in range(first, batch.num_rows, rows):
                    yield Records(row + start, batch.slice(start, rows))

    def _batches(
        self, opened: pa.NativeFile, options: ipc.IpcReadOptions, begin: int
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Each record batch that holds rows from `begin` on, and the rows before it."""
        row = 0
        if self._is_stream:
            for batch in ipc.open_stream(opened, options=options):
                yield row, batch
                row += batch.num_rows
            return
        whole = ipc.open_file(opened, options=options)
        for index, count in enumerate(self._counts):
            if row + count > begin:
                yield row, whole.get_batch(index)
            row += count
