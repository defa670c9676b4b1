"""What operators may ask of a server: to load and unload versions, and to look for new ones.

These calls change something, so none of them is ever tried again: see `channel`. A call reaches
one replica, and that one alone changes.
"""

from __future__ import annotations

from seqserve.v1.repository_pb2 import LoadModelRequest, UnloadModelRequest
from seqserve_client.batching import checked_number
from seqserve_client.errors import InvalidOptions


def load(model: str, version: int) -> LoadModelRequest:
    """To serve a version; the newest in the repository where it is 0."""
    checked_number("version", version)
    return LoadModelRequest(model_name=model, model_version=version)


def unload(model: str, version: int) -> UnloadModelRequest:
    """To take a version out of service; the newest that is served where it is 0."""
    checked_number("version", version)
    return UnloadModelRequest(model_name=model, model_version=version)


def parse_version(text: str) -> tuple[str, int]:
    """Name and version of `NAME` or `NAME:VERSION`; the version is 0 where there is none.

    Raises:
        InvalidOptions: the text is no such thing.
    """
    name, colon, version = text.partition(":")
    if name and not colon:
        return name, 0
    if not (name and version.isascii() and version.isdigit() and 0 < int(version) < 2**63):
        raise InvalidOptions(
            f"{text!r} is no version of a model: NAME or NAME:VERSION is needed, as speakers:3"
        )
    return name, int(version)
