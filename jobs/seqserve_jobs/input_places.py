"""Where the files of an input lie: what else comes to lie there would be read with them."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from fsspec.utils import glob_translate

from seqserve_jobs.errors import InvalidJob
from seqserve_jobs.options import JobOptions
from seqserve_jobs.output import Output
from seqserve_jobs.storage.files import files_at


def refuse_own_input(files: Sequence[str], output: Output, options: JobOptions) -> None:
    """What a job writes would be read by its next run.

    Args:
        files: Of the input.
        output: Of the job.
        options: Name the input.

    Raises:
        InvalidJob: it would.
    """
    for file in files:
        if _real(file, options).startswith(f"{_real(output.url, options, output.parts)}/"):
            raise InvalidJob(f"{output.url}: {file} is read there; name another output")
    for path in (output.path, output.part(0), output.job):
        if told := _reader_of(_real(output.url, options, path), output.url, files, options):
            raise InvalidJob(f"{output.url}: {told}; name another output")


def refuse_summary(url: str, files: Sequence[str], output: Output, options: JobOptions) -> None:
    """A summary must neither be read as input nor lie where the output does.

    Args:
        url: Its file.
        files: Of the input.
        output: Of the job.
        options: Name the input.

    Raises:
        InvalidJob: it would.
    """
    path = _real(url, options)
    if told := _reader_of(path, url, files, options):
        raise InvalidJob(f"--summary {url}: {told}; name another file")
    if _scheme(output.url) == _scheme(url):
        taken = {
            _real(output.url, options, each) for each in (output.path, output.job, output.lock)
        }
        if path in taken or path.startswith(f"{_real(output.url, options, output.parts)}/"):
            raise InvalidJob(f"--summary {url}: the output is there; name another file")


def _reader_of(path: str, url: str, files: Sequence[str], options: JobOptions) -> str | None:
    """What of an input is at a path, or would find it; in words."""
    read = {_real(file, options): file for file in files if _scheme(file) == _scheme(url)}
    if path in read:
        return f"{read[path]} is read there"
    named = options.input if isinstance(options.input, tuple) else (str(options.input),)
    for source in named:
        if _scheme(source) != _scheme(url):
            continue
        place = _real(source, options)
        if any(file.startswith(f"{place}/") for file in read):
            found = path.startswith(f"{place}/") and _is_seen(path.removeprefix(f"{place}/"))
        else:
            magic = re.search(r"[*?[]", place) is not None
            found = magic and re.fullmatch(glob_translate(place), path) is not None
        if found:
            return f"it lies in the input, {source}"
    return None


def _is_seen(relative: str) -> bool:
    """Whether whoever reads a folder does not pass over it."""
    return not any(part.startswith((".", "_")) and "=" not in part for part in relative.split("/"))


def _real(url: str, options: JobOptions, path: str | None = None) -> str:
    """A path of that place, or the URL's own; where links lead, where there are such."""
    if path is None:
        _, path = files_at(url, options.storage_options)
    return os.path.realpath(path) if _scheme(url) == "file" else path


def _scheme(url: str) -> str:
    scheme, found, _ = url.partition("://")
    return "file" if not found or scheme == "local" else scheme
