"""Requests that are not the message they should be, refused as any other bad request.

grpcio would end such a call with UNKNOWN, and the native transport asks nobody: both refuse it in
these words, for every method.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from seqserve_server.errors import InvalidRequest
from seqserve_server.observability.metrics.calls import Calls
from seqserve_server.status import Context, refusal

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


def undecodable() -> InvalidRequest:
    """Why the call fails; its field is empty, as none can be named."""
    return InvalidRequest("the request is not the message it should be", field="")


class _Undecodable:
    """Stands for the request, since nobody hears of what its deserializer raises."""


class Decoding(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Refuses what cannot be decoded; the last of the interceptors, as it remembers handlers.

    Args:
        counts: Told of every call that it refuses.
    """

    def __init__(self, counts: Calls | None = None) -> None:
        self._counts = counts
        self._handlers: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """The method's handler, refusing; None where there is no such method."""
        method = handler_call_details.method
        refusing = self._handlers.get(method)
        if refusing is None:
            handler = await continuation(handler_call_details)
            if handler is None:
                return handler
            refusing = self._handlers[method] = _refusing(handler, method, self._counts)
        return refusing


def _refusing(handler: Any, method: str, counts: Calls | None) -> Handler:  # noqa: ANN401
    """The handler of a servicer, which is either kind of method that this server has.

    Args:
        handler: As grpcio found it.
        method: For the log.
        counts: Told of what is refused.
    """
    decode, encode = handler.request_deserializer, handler.response_serializer

    def parse(data: bytes) -> object:
        try:
            return decode(data)
        except DecodeError:
            return _Undecodable()

    async def one(request: object, context: Context) -> object:
        if isinstance(request, _Undecodable):
            await _refuse(context, method, counts)
        return await behaviour(request, context)

    async def many(requests: AsyncIterator[object], context: Context) -> AsyncIterator[object]:
        async for response in behaviour(_decoded(requests, context, method, counts), context):
            yield response

    if handler.request_streaming:  # reflection
        behaviour = handler.stream_stream
        return grpc.stream_stream_rpc_method_handler(many, parse, encode)
    if handler.response_streaming:  # health, whose servicer writes its responses itself
        behaviour = handler.unary_stream
        return grpc.unary_stream_rpc_method_handler(one, parse, encode)
    behaviour = handler.unary_unary
    return grpc.unary_unary_rpc_method_handler(one, parse, encode)


async def _decoded(
    requests: AsyncIterator[object], context: Context, method: str, counts: Calls | None
) -> AsyncIterator[object]:
    async for request in requests:
        if isinstance(request, _Undecodable):
            await _refuse(context, method, counts)
        yield request


async def _refuse(context: Context, method: str, counts: Calls | None) -> NoReturn:
    failed = refusal(undecodable(), method, context, counts)
    await context.abort(failed.code, failed.message, failed.trailing_metadata)
    raise AssertionError("abort raises")
