"""Where everything of a job lies.

A folder of parts has `_seqserve/` in it, for the ledger; readers of folders pass over names that
begin so. A single file is made of such a folder, `FILE.parts/`, which is gone in the end;
`FILE.job.json` stays.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from seqserve_jobs.errors import InvalidJob
from seqserve_jobs.forms import FORMS, PARQUET_PARTS, Form, PartForm
from seqserve_jobs.storage.files import Files, files_at

OWN_FOLDER = "_seqserve"

_PART = re.compile(r"part-(\d{5,})\.[a-z]+")
_RECORD = re.compile(r"shard-(\d{5,})\.json")


@dataclass(frozen=True)
class Output:
    """A file, or a folder of parts. Can be pickled."""

    url: str
    """As the job was told."""
    files: Files
    """Where it lies."""
    path: str
    """Of it, there."""
    suffix: str | None
    """The form of a single file, in lower case; None for a folder."""

    @classmethod
    def at(cls, url: str | os.PathLike[str], storage_options: Mapping[str, Any]) -> Output:
        """The output that a path or an fsspec URL means.

        Raises:
            InvalidJob: its suffix is that of no form of output.
            OutputError: it cannot be reached.
        """
        url = os.fspath(url)
        files, path = files_at(url, storage_options)
        suffix = posixpath.splitext(path)[1].lower()
        known = [form.suffix for form in FORMS]
        if suffix and suffix not in known:
            raise InvalidJob(
                f"{url}: {suffix} is no form of output; name a file {', '.join(known[:-1])} or "
                f"{known[-1]}, or a folder, whose name has no suffix"
            )
        return cls(url, files, path, suffix or None)

    @property
    def form(self) -> Form | None:
        """Of the file that is made of the parts; None for a folder."""
        return next((form for form in FORMS if form.suffix == self.suffix), None)

    @property
    def part_form(self) -> PartForm:
        """Of the parts."""
        return self.form.parts if self.form is not None else PARQUET_PARTS

    @property
    def is_file(self) -> bool:
        """Whether the parts become one file."""
        return self.suffix is not None

    @property
    def parts(self) -> str:
        """The folder of the parts."""
        return f"{self.path}.parts" if self.is_file else self.path

    @property
    def records(self) -> str:
        """The folder of the records of shards done."""
        return f"{self.parts}/{OWN_FOLDER}"

    @property
    def job(self) -> str:
        """The file that says what the job is, and whether it has ended."""
        return f"{self.path}.job.json" if self.is_file else f"{self.records}/job.json"

    @property
    def lock(self) -> str:
        """The file that says who writes there now."""
        return f"{self.path}.job.lock" if self.is_file else f"{self.records}/job.lock"

    def shown(self, path: str) -> str:
        """A path of it as people know it: as the job was told."""
        return self.url.rstrip("/") + path.removeprefix(self.path)

    def part(self, index: int) -> str:
        """The answers to a shard."""
        return f"{self.parts}/{self.part_name(index)}"

    def part_name(self, index: int) -> str:
        """Its name among the parts."""
        return f"part-{index:05d}{self.part_form.suffix}"

    def record(self, index: int) -> str:
        """That it is done."""
        return f"{self.records}/shard-{index:05d}.json"


def part_index(name: str) -> int | None:
    """Which shard's part is called so."""
    return _index(_PART, name)


def record_index(name: str) -> int | None:
    """Which shard's record is called so."""
    return _index(_RECORD, name)


def _index(pattern: re.Pattern[str], name: str) -> int | None:
    found = pattern.fullmatch(name)
    return int(found[1]) if found else None
