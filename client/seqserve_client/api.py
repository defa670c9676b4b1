"""Everything that `import seqserve_client` offers by its own name."""

from seqserve_client.async_client import AsyncClient
from seqserve_client.catalog import ModelDescription, ModelState, ModelStatus
from seqserve_client.classification import Answer, Classification
from seqserve_client.client import Client
from seqserve_client.errors import (
    Cancelled,
    CannotLoad,
    DeadlineExceeded,
    InvalidOptions,
    InvalidRequest,
    InvalidSequences,
    ModelNotFound,
    Overloaded,
    PermissionDenied,
    ProtocolError,
    ReplicasDisagree,
    SeqserveError,
    ServerFault,
    Unauthenticated,
    Unavailable,
    Violation,
)
from seqserve_client.live import AsyncLiveSequence, LiveSequence, Progress
from seqserve_client.on_invalid import OnInvalid
from seqserve_client.service_class import ServiceClass

__all__ = [
    "Answer",
    "AsyncClient",
    "AsyncLiveSequence",
    "Cancelled",
    "CannotLoad",
    "Classification",
    "Client",
    "DeadlineExceeded",
    "InvalidOptions",
    "InvalidRequest",
    "InvalidSequences",
    "LiveSequence",
    "ModelDescription",
    "ModelNotFound",
    "ModelState",
    "ModelStatus",
    "OnInvalid",
    "Overloaded",
    "PermissionDenied",
    "Progress",
    "ProtocolError",
    "ReplicasDisagree",
    "SeqserveError",
    "ServerFault",
    "ServiceClass",
    "Unauthenticated",
    "Unavailable",
    "Violation",
]
