"""Which gRPC status each error is, with the details that a client can act on.

The one place that knows gRPC's codes. Details go out as google.rpc.Status in the trailing
metadata, where grpcio-status and every other gRPC library's helpers look for them.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

from seqserve_server.errors import (
    CannotLoad,
    DeadlineSpent,
    Draining,
    InvalidRequest,
    ModelLoading,
    ModelNotFound,
    OperatorCallsRefused,
    QueueFull,
    ServerError,
)

_log = logging.getLogger(__name__)

DETAILS_KEY = "grpc-status-details-bin"

CODES: dict[type[ServerError], grpc.StatusCode] = {
    InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    ModelNotFound: grpc.StatusCode.NOT_FOUND,
    ModelLoading: grpc.StatusCode.UNAVAILABLE,
    Draining: grpc.StatusCode.UNAVAILABLE,
    QueueFull: grpc.StatusCode.RESOURCE_EXHAUSTED,
    DeadlineSpent: grpc.StatusCode.DEADLINE_EXCEEDED,
    OperatorCallsRefused: grpc.StatusCode.PERMISSION_DENIED,
    CannotLoad: grpc.StatusCode.FAILED_PRECONDITION,
}

_MAX_MESSAGE = 1000
"""Characters: it is sent twice, and a client takes 8 KiB of metadata by default."""

Context = grpc.aio.ServicerContext[Any, Any]
Servicer = TypeVar("Servicer")
Request = TypeVar("Request")
Response = TypeVar("Response")
Handler = Callable[[Servicer, Request, Context], Awaitable[Response]]


@dataclass(frozen=True)
class Status:
    """How a call fails."""

    code: grpc.StatusCode
    message: str
    trailing_metadata: tuple[tuple[str, bytes], ...] = ()
    """With the details, if any."""


def status(error: Exception, call: str) -> Status:
    """The status that an error is; of an unforeseen one without its text, which is logged.

    Args:
        error: Why the call fails.
        call: The name of the method, for the log.
    """
    code = CODES.get(type(error))  # type: ignore[arg-type]
    if code is not None and isinstance(error, ServerError):
        _log.debug("%s: %s: %s", call, type(error).__name__, error)
        message = str(error)[:_MAX_MESSAGE]
        return _with_details(code, message, _details(error, message))
    request_id = secrets.token_hex(8)
    _log.error(
        "%s failed for an unforeseen reason; request id %s", call, request_id, exc_info=error
    )
    return _with_details(
        grpc.StatusCode.INTERNAL,
        f"unforeseen error; the server's log has the details under request id {request_id}",
        [error_details_pb2.RequestInfo(request_id=request_id)],
    )


def answering(
    handler: Handler[Servicer, Request, Response],
) -> Handler[Servicer, Request, Response]:
    """A handler whose errors reach the caller as statuses."""
    call = handler.__qualname__

    @wraps(handler)
    async def answer(servicer: Servicer, request: Request, context: Context) -> Response:
        begin = time.perf_counter()
        try:
            response = await handler(servicer, request, context)
        except Exception as error:
            failed = status(error, call)
            await context.abort(failed.code, failed.message, failed.trailing_metadata)
        _log.debug("%s: %.2f ms", call, 1e3 * (time.perf_counter() - begin))
        return response

    return answer


def _with_details(code: grpc.StatusCode, message: str, details: list[Message]) -> Status:
    packed = status_pb2.Status(code=code.value[0], message=message)
    for detail in details:
        packed.details.add().Pack(detail)
    return Status(code, message, ((DETAILS_KEY, packed.SerializeToString()),))


def _details(error: ServerError, message: str) -> list[Message]:
    """What a client can act on without reading the message."""
    if isinstance(error, InvalidRequest):
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=error.field, description=message
        )
        return [error_details_pb2.BadRequest(field_violations=[violation])]
    if isinstance(error, QueueFull):
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(int(error.retry_after_s * 1e9))
        return [retry]
    return []
