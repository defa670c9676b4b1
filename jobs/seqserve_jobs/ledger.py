"""What is done of a job: one that was killed goes on, and no other writes there.

What the job is, is written first; then a record for each shard, after its part; then that it is
finished, after which nothing is done any more. Each is a file, written whole or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from seqserve_jobs.errors import JobChanged, OutputError
from seqserve_jobs.identity import Identity
from seqserve_jobs.output import OWN_FOLDER, Output, part_index, record_index
from seqserve_jobs.shards import Shard, Totals
from seqserve_jobs.storage.files import is_unfinished

_SHOWN = 3
_RESTART = "restart the job (--restart) to begin anew, or name another output"


@dataclass(frozen=True)
class Begun:
    """The version that a job was begun with, and so goes on with."""

    model: str
    version: int
    digest: str


def begun(output: str, storage_options: Mapping[str, Any] | None = None) -> Begun | None:
    """The version that the job of an output was begun with; None where none was.

    Raises:
        OutputError: it cannot be read.
    """
    content = _read(Output.at(output, storage_options or {}))
    if content is None:
        return None
    identity = Identity(**content["job"])
    return Begun(identity.model, identity.version, identity.digest)


def leave(output: Output) -> None:
    """Removes the ledger's folder where nothing came to be in it."""
    with suppress(OutputError):  # whatever is wrong there was said before
        if not output.is_file and not output.files.sizes(output.records):
            output.files.remove_folder(output.records)


def check_output(output: Output) -> None:
    """Looks whether a job may write there.

    Raises:
        OutputError: what is there is no job's.
    """
    if _read(output) is None:
        _refuse_foreign(output, _all_names(output))


@dataclass
class Ledger:
    """Of a job whose lock is held."""

    output: Output
    identity: Identity
    done: dict[int, Shard] = field(default_factory=dict)
    """Shards done, by their index."""
    totals: Totals | None = None
    """Once the job is finished."""

    @classmethod
    def open(cls, output: Output, identity: Identity, *, restart: bool) -> Ledger:
        """Begins a job, or goes on with it.

        Args:
            output: Its lock is held.
            identity: What the job is.
            restart: Whether to remove what a job did there before, and nothing else.

        Raises:
            JobChanged: it is another job; says in what.
            OutputError: what is there is no job's, or nothing can be written.
        """
        content = _read(output)
        if restart and content is not None:
            _remove(output, content)
            content = None
        if content is None:
            _refuse_foreign(output, _all_names(output))
            ledger = cls(output, identity)
            ledger._write()
            return ledger
        before = Identity(**content["job"])
        try:
            now = identity.going_on(before)
        except JobChanged as error:
            raise JobChanged(f"{output.url}: {error}; {_RESTART}") from None
        ledger = cls(output, now)
        ledger._find_done(_finished(content))
        if now != before:
            ledger._write()
        return ledger

    @property
    def first_undone(self) -> int:
        """The first shard that is not done."""
        return next(index for index in range(len(self.done) + 1) if index not in self.done)

    def finish(self, totals: Totals) -> None:
        """Writes that the job is finished."""
        self.totals = totals
        self._write()

    def tidy(self) -> None:
        """Removes what a finished job needs no more."""
        if self.output.is_file:
            _remove_parts(self.output)

    def _write(self) -> None:
        finished = None if self.totals is None else asdict(self.totals)
        content = {"job": asdict(self.identity), "finished": finished}
        text = json.dumps(content, indent=1).encode() + b"\n"
        self.output.files.put(self.output.job, text, self.output.records)

    def _find_done(self, finished: Totals | None) -> None:
        """Shards with both record and part, or that the job is finished."""
        output, files = self.output, self.output.files
        sizes, records = files.sizes(output.parts), files.sizes(output.records)
        if finished is not None and output.is_file:
            sha256 = files.sha256(output.path)
            if sha256 == finished.sha256:
                self.totals = finished
                return
            if sha256 is not None or not records:
                raise JobChanged(
                    f"{output.url}: is not there any more as the job wrote it; {_RESTART}"
                )
        for name in filter(is_unfinished, sizes):
            files.remove(f"{output.parts}/{name}")
        for name in records:
            if is_unfinished(name):
                files.remove(f"{output.records}/{name}")
            if (index := record_index(name)) is None:
                continue
            shard = _record(output, index)
            if shard is not None and sizes.get(output.part_name(index)) == shard.size:
                self.done[index] = shard
        if finished is not None and not output.is_file and len(self.done) == finished.shards:
            self.totals = finished


def _read(output: Output) -> dict[str, Any] | None:
    content = output.files.read(output.job)
    if content is None:
        return None
    try:
        read: dict[str, Any] = json.loads(content)
        Identity(**read["job"])
    except (ValueError, TypeError, KeyError) as error:
        raise OutputError(
            f"{output.job}: is no job's; remove it, or name another output"
        ) from error
    return read


def _record(output: Output, index: int) -> Shard | None:
    """That a shard is done; None where that cannot be read, and the shard is done again."""
    try:
        return Shard.from_bytes(output.files.read(output.record(index)) or b"")
    except (ValueError, TypeError, KeyError):
        return None


def _finished(content: Mapping[str, Any]) -> Totals | None:
    return None if content["finished"] is None else Totals(**content["finished"])


def _all_names(output: Output) -> Iterable[str]:
    """What is there of an output that no job was begun for."""
    if output.is_file and output.files.size(output.path) is not None:
        yield output.path.rpartition("/")[2]
    for name in output.files.sizes(output.parts):
        if name == OWN_FOLDER:
            yield from (
                f"{OWN_FOLDER}/{own}"
                for own in output.files.sizes(output.records)
                if own != output.lock.rpartition("/")[2] and not is_unfinished(own)
            )
        else:
            yield name


def _refuse_foreign(output: Output, names: Iterable[str]) -> None:
    found = sorted(names)
    if found:
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise OutputError(
            f"{output.url}: {', '.join(found[:_SHOWN])}{more} is there already, and no job of this "
            "output made it; remove it, or name another output"
        )


def _remove(output: Output, content: Mapping[str, Any]) -> None:
    """Removes what a job made, its own file last: a removal that is cut off can be done again."""
    finished = _finished(content)
    there = output.files.sha256(output.path) if output.is_file else None
    ours = there is not None and finished is not None and there == finished.sha256
    if there is not None and not ours:
        _refuse_foreign(output, [output.path.rpartition("/")[2]])
    names = output.files.sizes(output.parts)
    _refuse_foreign(
        output,
        (
            name
            for name in names
            if name != OWN_FOLDER and part_index(name) is None and not is_unfinished(name)
        ),
    )
    if ours:
        output.files.remove(output.path)
    _remove_parts(output)
    output.files.remove(output.job)


def _remove_parts(output: Output) -> None:
    """Every part and record, and the folders where they are empty then."""
    files = output.files
    # Records first: a part without one is nothing, a record without its part would be looked for.
    for name in files.sizes(output.records):
        if record_index(name) is not None or is_unfinished(name):
            files.remove(f"{output.records}/{name}")
    for name in files.sizes(output.parts):
        if part_index(name) is not None or is_unfinished(name):
            files.remove(f"{output.parts}/{name}")
    for folder in (output.records, output.parts):
        if output.is_file and not files.sizes(folder):
            files.remove_folder(folder)
