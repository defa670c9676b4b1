"""Which gRPC status each error is, with the details that a client can act on.

The one place that knows gRPC's codes. Details go out as google.rpc.Status in the trailing
metadata, where grpcio-status and every other gRPC library's helpers look for them.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any, Protocol, TypeVar, cast

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
    PermissionDenied,
    QueueFull,
    ServerError,
    Unauthenticated,
)
from seqserve_server.observability import request_log
from seqserve_server.observability.metrics.calls import Calls
from seqserve_server.security.access import Metadata

_log = logging.getLogger(__name__)

DETAILS_KEY = "grpc-status-details-bin"

CODES: dict[type[ServerError], grpc.StatusCode] = {
    InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    ModelNotFound: grpc.StatusCode.NOT_FOUND,
    ModelLoading: grpc.StatusCode.UNAVAILABLE,
    Draining: grpc.StatusCode.UNAVAILABLE,
    QueueFull: grpc.StatusCode.RESOURCE_EXHAUSTED,
    DeadlineSpent: grpc.StatusCode.DEADLINE_EXCEEDED,
    Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    OperatorCallsRefused: grpc.StatusCode.PERMISSION_DENIED,
    CannotLoad: grpc.StatusCode.FAILED_PRECONDITION,
}

_MAX_MESSAGE = 1000
"""Characters: it is sent twice, and a client takes 8 KiB of metadata by default."""
_SKEW_S = 0.02
"""A caller that goes so shortly before its deadline goes for it: its clock is another."""

Context = grpc.aio.ServicerContext[Any, Any]


class Counted(Protocol):
    """Its calls are counted, where there is somebody to count them."""

    counts: Calls | None


Servicer = TypeVar("Servicer", bound=Counted)
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
    reason: str = ""
    """The domain's error, for counters; empty where it is none."""
    request_id: str = ""
    """Where the caller was told one."""


def status(error: Exception, call: str, metadata: Metadata = ()) -> Status:
    """The status that an error is; of an unforeseen one without its text, which is logged.

    Args:
        error: Why the call fails.
        call: The name of the method, for the log.
        metadata: The caller's, which may name the call.
    """
    code = CODES.get(type(error))  # type: ignore[arg-type]
    if code is not None and isinstance(error, ServerError):
        message = str(error)[:_MAX_MESSAGE]
        return _with_details(code, message, _details(error, message), type(error).__name__)
    request_id = request_log.request_id(metadata)
    _log.error(
        "%s failed for an unforeseen reason",
        call,
        exc_info=error,
        extra={"request_id": request_id},
    )
    failed = _with_details(
        grpc.StatusCode.INTERNAL,
        f"unforeseen error; the server's log has the details under request id {request_id}",
        [error_details_pb2.RequestInfo(request_id=request_id)],
    )
    return replace(failed, request_id=request_id)


_OK = Status(grpc.StatusCode.OK, "")


def left(remaining_s: float) -> grpc.StatusCode:
    """The status of a call whose caller went, so long before its deadline."""
    late = remaining_s < _SKEW_S
    return grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED


def answering(
    handler: Handler[Servicer, Request, Response],
) -> Handler[Servicer, Request, Response]:
    """A handler whose errors reach the caller as statuses, and whose calls are counted."""
    call = handler.__qualname__
    method = handler.__name__

    def note(
        servicer: Servicer,
        request: Request,
        context: Context,
        begin: float,
        ended: Status,
    ) -> None:
        counts, logged = servicer.counts, request_log.wanted()
        if counts is None and not logged:
            return
        model = getattr(request, "model_name", "")
        seconds = time.perf_counter() - begin
        if counts is not None:
            counts.ended(method, model, ended.code.name, ended.reason, seconds)
        if logged:
            _log_call(method, model, ended, seconds, context)

    @wraps(handler)
    async def answer(servicer: Servicer, request: Request, context: Context) -> Response:
        begin = time.perf_counter()
        try:
            response = await handler(servicer, request, context)
        except asyncio.CancelledError:
            remaining_s = context.time_remaining()
            gone = left(math.inf if remaining_s is None else remaining_s)
            note(servicer, request, context, begin, Status(gone, ""))
            raise
        except Exception as error:
            failed = status(error, call, _metadata(context))
            error.__traceback__ = None  # or it and the future that it came by kept one another
            note(servicer, request, context, begin, failed)
            del request  # see `end`
            await end(context, failed)
            return cast(Response, None)
        note(servicer, request, context, begin, _OK)
        return response

    return answer


async def end(context: Context, failed: Status) -> None:
    """Ends a call on an event loop with a status; what its handler returns is not sent.

    Not by `abort`: what that raises is kept by the call that it ends, and with it the request,
    until the garbage collector comes round; the requests of all who are refused would add up. But
    grpcio sends an empty message along with a status that is only set, and a client tries no call
    again that has had one: so where it should, it is `abort` nonetheless.
    """
    if failed.code is grpc.StatusCode.UNAVAILABLE:
        await context.abort(failed.code, failed.message, failed.trailing_metadata)
    context.set_code(failed.code)
    context.set_details(failed.message)
    context.set_trailing_metadata(failed.trailing_metadata)


def refusal(error: ServerError, call: str, context: Context, counts: Calls | None) -> Status:
    """The status of a call that does not get as far as to its servicer; noted as others are."""
    failed = status(error, call, _metadata(context))
    if counts is not None:
        counts.ended(call, "", failed.code.name, failed.reason, 0.0)
    if request_log.wanted():
        _log_call(call, "", failed, 0.0, context)
    return failed


def _log_call(method: str, model: str, ended: Status, seconds: float, context: Context) -> None:
    request_id = ended.request_id or request_log.request_id(_metadata(context))
    request_log.write(method, model, ended.code.name, ended.reason, seconds, request_id)


def _metadata(context: Context) -> Metadata:
    return context.invocation_metadata() or ()


def _with_details(
    code: grpc.StatusCode, message: str, details: list[Message], reason: str = ""
) -> Status:
    packed = status_pb2.Status(code=code.value[0], message=message)
    for detail in details:
        packed.details.add().Pack(detail)
    return Status(code, message, ((DETAILS_KEY, packed.SerializeToString()),), reason)


def _details(error: ServerError, message: str) -> list[Message]:
    """What a client can act on without reading the message."""
    if isinstance(error, InvalidRequest):
        violations = [
            error_details_pb2.BadRequest.FieldViolation(
                field=field, description=description[:_MAX_MESSAGE]
            )
            for field, description in error.violations
        ]
        return [error_details_pb2.BadRequest(field_violations=violations)]
    if isinstance(error, QueueFull):
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(int(error.retry_after_s * 1e9))
        return [retry]
    return []
