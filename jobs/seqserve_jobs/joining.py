"""The end of a job: its parts made into one file, where one is wanted."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace

import pyarrow as pa

from seqserve_jobs.errors import OutputError
from seqserve_jobs.ledger import Ledger
from seqserve_jobs.shards import Totals


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
        try:
            output.form.join(_parts(ledger), file)
        except pa.ArrowException as error:
            raise OutputError(
                f"{output.url}: the parts cannot be made one file: {error}"
            ) from error
        _refuse_foreign(ledger)  # that took a while
        # Before the file is seen: whatever it says there, a file there is then the job's own.
        ledger.finish(replace(totals, size=file.tell()))


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
