"""Puts a version into a model repository: unseen until complete, then there at once, for good."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from seqserve import artifact
from seqserve.v1.manifest_pb2 import ModelManifest
from seqserve_export.errors import VersionExists

UNFINISHED = ".publishing-"
"""How the folder of a version being written begins. No model's name begins so."""
ABANDONED_AFTER_S = 24 * 3600.0
"""No publisher takes this long: an unfinished folder this old was left by one that died."""


@contextmanager
def unfinished_folder(repository: Path) -> Iterator[Path]:
    """An empty folder beside the models that no reader of the repository sees.

    What is left of it at the end is removed; what a killed publisher left behind, later on.
    """
    repository.mkdir(parents=True, exist_ok=True)
    _sweep(repository)
    folder = repository / f"{UNFINISHED}{secrets.token_hex(8)}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def probe(repository: Path, model: str) -> None:
    """Makes and removes a folder wherever publishing makes one; where one is missing, above it.

    Raises:
        OSError: it cannot be made.
    """
    for home in (repository, repository / model):
        existing = next(each for each in (home, *home.absolute().parents) if each.exists())
        folder = existing / f"{UNFINISHED}{secrets.token_hex(8)}"
        folder.mkdir()
        folder.rmdir()


def place(folder: Path, manifest: ModelManifest, repository: Path, version: int | None) -> Path:
    """Writes the manifest into `folder` and renames it to the version's own name.

    Renaming a folder onto one that holds files fails, so that of two publishers of one version
    only one comes through.

    Args:
        folder: Holds every other file of the artifact.
        manifest: Complete but for the version.
        repository: Where the folder goes.
        version: The version it must become; the newest plus one by default.

    Returns:
        The version's folder.

    Raises:
        VersionExists: `version` is there already.
    """
    while True:
        manifest.version = version or next_version(repository, manifest.name)
        artifact.write_manifest(manifest, folder)
        for file in [*folder.iterdir(), folder]:
            _to_disk(file)
        target = artifact.version_path(repository, manifest.name, manifest.version)
        target.parent.mkdir(exist_ok=True)
        try:
            folder.rename(target)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            # Another publisher was quicker. Without a wish, the next number will do.
            if version:
                raise VersionExists(exists(target)) from error
        else:
            _to_disk(target.parent)
            return target


def next_version(repository: Path, model: str) -> int:
    """The newest version plus one; 1 for a new model."""
    return max(artifact.versions(repository, model), default=0) + 1


def exists(target: Path) -> str:
    """What to say where a version is there already."""
    return (
        f"{target} is published already, and what is published never changes; "
        "choose another version, or leave the choice to the publisher"
    )


def _sweep(repository: Path) -> None:
    """Removes what publishers left behind that were killed."""
    for folder in repository.glob(f"{UNFINISHED}*"):
        try:
            abandoned = time.time() - folder.stat().st_mtime > ABANDONED_AFTER_S
        except FileNotFoundError:
            # Its publisher has just finished.
            continue
        if abandoned:
            shutil.rmtree(folder, ignore_errors=True)


def _to_disk(path: Path) -> None:
    """A rename may reach the disk before the files do; then a power cut would leave them empty."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
