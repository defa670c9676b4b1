"""The files of an input, as far as people are told what changed of them."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

from seqserve_jobs.storage.files import Mark, files_at

_SHOWN = 5

Sizes = Mapping[str, int | None]
"""In bytes, by the file's name below the folder that all are in; None for one that is gone."""


def sizes(names: Sequence[str], storage_options: Mapping[str, Any]) -> Sizes:
    """The sizes of files now.

    Raises:
        OutputError: their place cannot be reached.
    """
    places = [files_at(name, storage_options) for name in names]
    parts = [path.split("/") for _, path in places]
    levels = zip(*(path[:-1] for path in parts), strict=False)
    common = len(list(takewhile(lambda level: len(set(level)) == 1, levels)))
    # A listing a folder, not a question a file: to an object store each takes its time.
    folders = {posixpath.dirname(path): files for files, path in places}
    listed = {folder: files.sizes(folder) for folder, files in folders.items()}
    found = [listed[posixpath.dirname(path)].get(posixpath.basename(path)) for _, path in places]
    return {"/".join(path[common:]): size for path, size in zip(parts, found, strict=True)}


def marks(names: Sequence[str], storage_options: Mapping[str, Any]) -> list[Mark | None]:
    """What tells of each file that it was written anew; None for one that is gone.

    Raises:
        OutputError: their place cannot be reached.
    """
    places = [files_at(name, storage_options) for name in names]
    folders = {posixpath.dirname(path): files for files, path in places}
    listed = {folder: files.marks(folder) for folder, files in folders.items()}
    return [listed[posixpath.dirname(path)].get(posixpath.basename(path)) for _, path in places]


def difference(before: Sizes, now: Sizes) -> str:
    """Which files are not what they were, as far as their sizes tell."""
    told = [f"{name} is new" for name in now if name not in before]
    told += [f"{name} is gone" for name in before if now.get(name) is None]
    told += [
        f"{name} has {size} bytes, it had {before[name]}"
        for name, size in now.items()
        if size is not None and name in before and before[name] != size
    ]
    more = f" and {len(told) - _SHOWN} more" if len(told) > _SHOWN else ""
    return ", ".join(told[:_SHOWN]) + more or "other contents, of the same size"
