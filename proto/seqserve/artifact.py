"""What lies in a model repository: `<repository>/<model>/<version>/` and the files in it.

Reads and checks; writing an artifact is the export room's, serving it the server's.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from google.protobuf import json_format

from seqserve.errors import InvalidArtifact
from seqserve.v1.manifest_pb2 import ArtifactFile, ModelManifest

FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"
MODEL_FILE = "model.onnx"
GOLDEN_FILE = "golden.npz"

MAX_MANIFEST_BYTES = 1 << 20
"""Far more than labels and features need; it is parsed before anything vouches for it."""
MAX_FILE_BYTES = (1 << 31) - 1
"""Of every other file: as much as a protobuf message, and so an ONNX graph, may have."""

_PIECE_BYTES = 1 << 20

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_VERSION = re.compile(r"[1-9][0-9]{0,17}")


def is_model_name(name: str) -> bool:
    """Whether `name` may name a model: 1 to 128 of A-Z a-z 0-9 . _ -, the first alphanumeric."""
    return _NAME.fullmatch(name) is not None


def models(repository: Path) -> list[str]:
    """Names of the repository's models, ascending: every folder that may be one."""
    return sorted(
        entry.name for entry in repository.iterdir() if is_model_name(entry.name) and entry.is_dir()
    )


def versions(repository: Path, model: str) -> list[int]:
    """Published versions of a model, ascending; none where the model has no folder.

    A version being written has a name that is no number, so it is never seen here.
    """
    folder = repository / model
    if not folder.is_dir():
        return []
    return sorted(
        int(entry.name)
        for entry in folder.iterdir()
        if _VERSION.fullmatch(entry.name) and entry.is_dir()
    )


def version_path(repository: Path, model: str, version: int) -> Path:
    """The folder of one version, whether or not it exists.

    Raises:
        InvalidArtifact: the name may not name a model, or the version is not positive.
    """
    if not is_model_name(model):
        raise InvalidArtifact(
            f"{model!r} cannot name a model: 1 to 128 of A-Z a-z 0-9 . _ - are allowed, "
            "beginning with a letter or digit"
        )
    if version < 1:
        raise InvalidArtifact(f"{version} is no version: a positive integer is needed")
    return repository / model / str(version)


def check_inside(folder: Path) -> None:
    """Returns if no link on the way to a version leads out of its repository; within it, one may.

    Args:
        folder: `<repository>/<model>/<version>`; the repository itself may be behind a link.

    Raises:
        InvalidArtifact: one does, or goes round.
    """
    try:
        repository = folder.parent.parent.resolve(strict=True)
        inside = folder.resolve(strict=True).is_relative_to(repository)
    except (OSError, RuntimeError) as error:  # RuntimeError: a circle
        raise InvalidArtifact(f"{folder}: cannot be followed") from error
    if not inside:
        raise InvalidArtifact(f"{folder}: is a link that leads out of the repository")


def sha256(path: Path) -> str:
    """sha256 of a file's content, 64 lower-case hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(folder: Path) -> ModelManifest:
    """The manifest of the artifact in `folder`, which must be `…/<name>/<version>`.

    Raises:
        InvalidArtifact: it is missing, not a manifest, or contradicts the folder's name.
    """
    return parse_manifest(manifest_bytes(folder), folder)


def manifest_bytes(folder: Path) -> bytes:
    """The manifest's file as it is: what is parsed, signed and digested should be read once.

    Raises:
        InvalidArtifact: it is missing, too long, or no plain file.
    """
    return read_file(folder / MANIFEST_FILE, MAX_MANIFEST_BYTES)


def read_file(path: Path, max_bytes: int) -> bytes:
    """What is in a plain file. A link, a pipe or a device would lead elsewhere, or never end.

    Raises:
        InvalidArtifact: it is missing, too long, or no plain file.
    """
    with _plain_file(path) as (file, size):
        if size > max_bytes:
            raise InvalidArtifact(f"{path}: has {size} bytes; at most {max_bytes} are read")
        return file.read(size)


@contextmanager
def _plain_file(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """It and its size, of one opening: what is swapped afterwards changes nothing."""
    # Not on every system; where they are, a pipe is opened without waiting for its writer.
    flags = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        if path.is_symlink():
            raise InvalidArtifact(f"{path}: is a link; a plain file is needed")
        with open(os.open(path, os.O_RDONLY | flags), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise InvalidArtifact(f"{path}: is no plain file")
            yield file, status.st_size
    except OSError as error:
        raise InvalidArtifact(f"{path}: {error.strerror or error}") from error


def parse_manifest(content: bytes, folder: Path) -> ModelManifest:
    """The manifest that `content` states, of the artifact in `folder`.

    Raises:
        InvalidArtifact: it is not a manifest, or contradicts the folder's name.
    """
    path = folder / MANIFEST_FILE
    try:
        manifest = json_format.Parse(content, ModelManifest())
    # Deep nesting ends in RecursionError; numbers and bytes of some kinds in ValueError.
    except (json_format.ParseError, RecursionError, ValueError) as error:
        raise InvalidArtifact(f"{path}: not a manifest: {error}") from error
    _check(manifest, path)
    if (manifest.name, str(manifest.version)) != (folder.parent.name, folder.name):
        raise InvalidArtifact(
            f"{path}: says it is {manifest.name} version {manifest.version}, but lies in "
            f"{folder.parent.name}/{folder.name}"
        )
    return manifest


def write_manifest(manifest: ModelManifest, folder: Path) -> None:
    """Writes the manifest into `folder` in protobuf's JSON form."""
    text = json_format.MessageToJson(manifest, preserving_proto_field_name=True, indent=2)
    (folder / MANIFEST_FILE).write_text(text + "\n", encoding="utf-8")


def digest(folder: Path) -> str:
    """The artifact's digest: sha256 of its manifest, which holds that of every other file."""
    return digest_of(manifest_bytes(folder))


def digest_of(manifest: bytes) -> str:
    """The digest of the artifact whose manifest has this content."""
    return hashlib.sha256(manifest).hexdigest()


def check_files(
    manifest: ModelManifest, folder: Path, keep: Collection[str] = ()
) -> dict[str, bytes]:
    """Compares every file with the size and sha256 the manifest gives.

    Gives the content of those named in `keep`: the very bytes that were compared.

    Raises:
        InvalidArtifact: a file is missing, is no plain file, or differs.
    """
    listed = {file.path for file in manifest.files}
    for needed in (MODEL_FILE, GOLDEN_FILE):
        if needed not in listed:
            raise InvalidArtifact(f"{folder / MANIFEST_FILE}: lists no {needed}")
    return {
        file.path: content
        for file in manifest.files
        if (content := _checked(file, folder, keep=file.path in keep)) is not None
    }


def read_checked(manifest: ModelManifest, folder: Path, name: str) -> bytes:
    """The content of a file that the manifest lists: the very bytes that were compared with it.

    Raises:
        InvalidArtifact: it is not listed, is missing, is no plain file, or differs.
    """
    for file in manifest.files:
        if file.path == name and (content := _checked(file, folder, keep=True)) is not None:
            return content
    raise InvalidArtifact(f"{folder / MANIFEST_FILE}: lists no {name}")


def _checked(listed: ArtifactFile, folder: Path, *, keep: bool) -> bytes | None:
    path = folder / listed.path
    if Path(listed.path).name != listed.path or path.is_symlink() or not path.is_file():
        raise InvalidArtifact(f"{path}: the manifest lists it, but it is no plain file there")
    if listed.bytes > MAX_FILE_BYTES:
        raise InvalidArtifact(
            f"{path}: has {listed.bytes} bytes; at most {MAX_FILE_BYTES} are read"
        )
    content, digest = None, hashlib.sha256()
    with _plain_file(path) as (file, size):
        if size == listed.bytes and keep:
            content = file.read(size)
            digest.update(content)
        elif size == listed.bytes:
            for _ in range(0, size, _PIECE_BYTES):  # not to its end: it may grow meanwhile
                digest.update(file.read(_PIECE_BYTES))
    if size != listed.bytes or digest.hexdigest() != listed.sha256:
        raise InvalidArtifact(f"{path}: differs from what was published; publish it again")
    return content


def _check(manifest: ModelManifest, path: Path) -> None:
    features = manifest.input.features
    problems = [
        (
            manifest.format_version != FORMAT_VERSION,
            f"format_version is {manifest.format_version}; this build reads {FORMAT_VERSION}",
        ),
        (manifest.input.WhichOneof("kind") is None, "input has no kind"),
        (features.size < 1, f"input.features.size is {features.size}; at least 1 is needed"),
        (len(manifest.labels) < 2, f"labels has {len(manifest.labels)}; 2 or more are needed"),
        (len(set(manifest.labels)) != len(manifest.labels), "labels names a class twice"),
        (
            len({file.path for file in manifest.files}) != len(manifest.files),
            "files lists a path twice",
        ),
        (manifest.limits.max_steps < 1, "limits.max_steps is 0; at least 1 is needed"),
        (manifest.parity.tolerance <= 0, "parity.tolerance is not above 0"),
        (manifest.graph.minimum_rows not in (1, 2), "graph.minimum_rows is neither 1 nor 2"),
        (
            any(list(tensor.dims).count(-1) != 1 for tensor in manifest.graph.state),
            "a state tensor's dims do not name the batch axis (-1) once",
        ),
    ]
    for wrong, text in problems:
        if wrong:
            raise InvalidArtifact(f"{path}: {text}")
