"""The end of a job: its parts made into one file, where one is wanted."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, BinaryIO, cast

import pyarrow as pa

from seqserve_jobs.errors import OutputError
from seqserve_jobs.ledger import Ledger
from seqserve_jobs.shards import Totals

if TYPE_CHECKING:
    from typing_extensions import Buffer


def finish(ledger: Ledger) -> None:
    """Makes one file of the parts of a job all of whose shards are done, and notes the end.

    Raises:
        OutputError: it cannot be written, or a part is not what was written.
    """
    output, files = ledger.output, ledger.output.files
    totals = Totals.of(ledger.done.values())
    if output.form is None:
        ledger.finish(totals)
        return
    _refuse_foreign(ledger)
    with files.writing(output.path, output.records) as file:
        hashed = _Hashed(file)
        try:
            output.form.join(_parts(ledger), cast(BinaryIO, hashed))
        except pa.ArrowException as error:
            raise OutputError(
                f"{output.url}: the parts cannot be made one file: {error}"
            ) from error
        _refuse_foreign(ledger)  # that took a while
        # Before the file is seen: whatever it says there, a file there is then the job's own.
        ledger.finish(replace(totals, sha256=hashed.sha256.hexdigest()))


class _Hashed(io.RawIOBase):
    """Keeps the sha256 of what is written to a file, one piece after the other."""

    def __init__(self, file: BinaryIO) -> None:
        self.sha256 = hashlib.sha256()
        self._file = file

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell()

    def write(self, piece: Buffer, /) -> int:
        self.sha256.update(piece)
        return self._file.write(piece)


def _refuse_foreign(ledger: Ledger) -> None:
    output = ledger.output
    if output.files.size(output.path) is not None:
        raise OutputError(f"{output.url}: somebody else made it meanwhile; move it, and go on")


def _parts(ledger: Ledger) -> Iterator[bytes]:
    """The parts in order, one at a time."""
    output = ledger.output
    for index, shard in sorted(ledger.done.items()):
        part = output.files.read(output.part(index))
        if part is None or hashlib.sha256(part).hexdigest() != shard.sha256:
            raise OutputError(
                f"{output.part(index)}: is not what was written there; remove it, and run the job "
                "again: it is computed anew"
            )
        yield part
