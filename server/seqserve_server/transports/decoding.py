"""Requests that are not the message they should be, refused as any other bad request.

grpcio would end such a call with UNKNOWN, and the native transport asks nobody: both refuse it in
these words, for every method.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
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
    """The handler of a servicer, refusing.

    Args:
        handler: As grpcio found it; of those whose responses are many that of health writes them
            itself, and that of reflection is a generator.
        method: For the log.
        counts: Told of what is refused.
    """
    parse, encode = partial(_parse, handler.request_deserializer), handler.response_serializer
    behaviour = (
        handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    )

    async def of_one(request: object, context: Context) -> object:
        if isinstance(request, _Undecodable):
            await _refuse(context, method, counts)
        return await behaviour(request, context)

    async def of_many(_requests: object, context: Context) -> object:
        return await behaviour(_Decoded(context, method, counts), context)

    async def many_of_many(_requests: object, context: Context) -> AsyncIterator[object]:
        async for response in behaviour(_Decoded(context, method, counts), context):
            yield response

    if handler.request_streaming and handler.response_streaming:
        return grpc.stream_stream_rpc_method_handler(many_of_many, parse, encode)
    if handler.request_streaming:
        return grpc.stream_unary_rpc_method_handler(of_many, parse, encode)
    if handler.response_streaming:
        return grpc.unary_stream_rpc_method_handler(of_one, parse, encode)
    return grpc.unary_unary_rpc_method_handler(of_one, parse, encode)


def _parse(decode: Callable[[bytes], object], data: bytes) -> object:
    try:
        return decode(data)
    except DecodeError:
        return _Undecodable()


class _Decoded:
    """The requests of a call, as they come; not a generator, which would have to be closed.

    Args:
        context: Of the call.
        method: For the log.
        counts: Told of what is refused.
    """

    def __init__(self, context: Context, method: str, counts: Calls | None) -> None:
        self._context = context
        self._method = method
        self._counts = counts

    def __aiter__(self) -> AsyncIterator[object]:
        return self

    async def __anext__(self) -> object:
        request = await self._context.read()
        if request is grpc.aio.EOF:  # type: ignore[attr-defined]
            raise StopAsyncIteration
        if isinstance(request, _Undecodable):
            await _refuse(self._context, self._method, self._counts)
        return request


async def _refuse(context: Context, method: str, counts: Calls | None) -> NoReturn:
    failed = refusal(undecodable(), method, context, counts)
    await context.abort(failed.code, failed.message, failed.trailing_metadata)
    raise AssertionError("abort raises")
