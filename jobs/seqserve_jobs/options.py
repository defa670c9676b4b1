"""What a job is told to do."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from seqserve_data import Columns
from seqserve_jobs.choices import SHARD_SEQUENCES, SHARD_STEPS
from seqserve_jobs.errors import InvalidJob
from seqserve_jobs.on_error import OnError

FLAGS = {
    "top_k": "--top-k",
    "logits": "--logits",
    "on_error": "--on-error",
    "max_sequences": "--shard-sequences",
    "max_steps": "--shard-steps",
    "id": "--id",
    "order": "--order",
    "features": "--features",
    "keep": "--keep",
}
"""What messages call the options: as people who call the command know them."""


@dataclass(frozen=True)
class JobOptions:
    """What to read, what to write and how.

    Raises:
        InvalidJob: a number is out of its range.
    """

    input: str | Path | tuple[str, ...]
    """A file, a glob, a folder, or several files; paths or fsspec URLs."""
    output: str
    """A file, where its suffix is .parquet, .csv, .jsonl or .arrow, else a folder of Parquet files;
    a path or an fsspec URL."""
    columns: Columns = field(default_factory=Columns)
    """Of the input."""
    keep: tuple[str, ...] = ()
    """Columns of the input that are handed through."""
    top_k: int = 0
    """How many classes to name, at most all of them; 0 for the probabilities of all."""
    logits: bool = False
    """Whether the output has them."""
    on_error: OnError = OnError.RECORD
    """What becomes of sequences that the model cannot take."""
    max_sequences: int = SHARD_SEQUENCES
    """Of a shard."""
    max_steps: int = SHARD_STEPS
    """Of all sequences of a shard together; a longer one has a shard of its own."""
    restart: bool = False
    """Whether what a job did there before is thrown away."""
    storage_options: Mapping[str, Any] = field(default_factory=dict)
    """For fsspec, where input or output is a URL."""

    def __post_init__(self) -> None:
        for name, least in (("top_k", 0), ("max_sequences", 1), ("max_steps", 1)):
            if (given := getattr(self, name)) < least:
                raise InvalidJob(f"{FLAGS[name]} is {given}; at least {least} is needed")

    def from_anywhere(self) -> JobOptions:
        """The same for a process in another folder."""
        if isinstance(self.input, tuple):
            return replace(self, input=tuple(map(_absolute, self.input)))
        return replace(self, input=_absolute(str(self.input)))


def _absolute(source: str) -> str:
    return source if "://" in source else os.path.abspath(source)
