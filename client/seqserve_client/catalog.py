"""What a server says of its models."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from seqserve.v1 import catalog_pb2
from seqserve.v1.manifest_pb2 import ModelManifest


class ModelState(StrEnum):
    """The life of a version on a server."""

    LOADING = "loading"
    """Being read, checked and warmed up; calls wait and try again."""
    READY = "ready"
    """Answers calls."""
    FAILED = "failed"
    """Refused; `ModelStatus.message` says why."""
    UNLOADED = "unloaded"
    """Taken out of service."""
    UNKNOWN = "unknown"
    """A state that this client does not know."""


_STATES = {
    catalog_pb2.MODEL_STATE_LOADING: ModelState.LOADING,
    catalog_pb2.MODEL_STATE_READY: ModelState.READY,
    catalog_pb2.MODEL_STATE_FAILED: ModelState.FAILED,
    catalog_pb2.MODEL_STATE_UNLOADED: ModelState.UNLOADED,
}


@dataclass(frozen=True)
class ModelStatus:
    """One version of one model on a server."""

    name: str
    version: int
    state: ModelState
    digest: str
    """sha256 of the artifact's manifest; empty where it could not be read."""
    execution_provider: str
    """The onnxruntime execution provider that runs it; empty unless ready."""
    message: str
    """Why the version is not ready; empty when it is."""

    @classmethod
    def of(cls, message: catalog_pb2.ModelStatus) -> ModelStatus:
        """The status as it came from the wire."""
        return cls(
            message.name,
            message.version,
            _STATES.get(message.state, ModelState.UNKNOWN),
            message.digest,
            message.execution_provider,
            message.message,
        )


@dataclass(frozen=True)
class ModelDescription:
    """One version of one model: its state on the server, and what it was published as."""

    status: ModelStatus
    manifest: ModelManifest
    """The message of `seqserve/v1/manifest.proto`: labels, input, network, figures, …"""

    @classmethod
    def of(cls, response: catalog_pb2.DescribeModelResponse) -> ModelDescription:
        """The description as it came from the wire."""
        return cls(ModelStatus.of(response.status), response.manifest)


def statuses(messages: Iterable[catalog_pb2.ModelStatus]) -> list[ModelStatus]:
    """The statuses as they came from the wire."""
    return [ModelStatus.of(message) for message in messages]
