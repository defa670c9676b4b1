"""Lets a call in or not, before its message is looked at: which right a method needs."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from grpc_health.v1 import health
from grpc_reflection.v1alpha import reflection

from seqserve.v1 import catalog_pb2, classifier_pb2
from seqserve_server.errors import ServerError
from seqserve_server.observability.metrics.calls import Calls
from seqserve_server.security.access import Access, Metadata, Right
from seqserve_server.security.watched import Watched
from seqserve_server.status import Context, refusal

_log = logging.getLogger(__name__)

CLASSIFIER = classifier_pb2.DESCRIPTOR.services_by_name["SequenceClassifier"].full_name

RIGHTS: dict[str, Right | None] = {
    CLASSIFIER: Right.CLASSIFY,
    catalog_pb2.DESCRIPTOR.services_by_name["ModelCatalog"].full_name: Right.DESCRIBE,
    reflection.SERVICE_NAME: Right.DESCRIBE,
    health.SERVICE_NAME: None,  # probes have no token
}
"""What the services need; those that are not named, ModelRepository among them, OPERATE."""


class Guard(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Checks every call on its way to a grpcio server's servicers.

    Args:
        access: Knows the tokens.
        counts: Told of every call that it does not let in.
    """

    def __init__(self, access: Watched[Access], counts: Calls | None = None) -> None:
        self._access = access
        self._counts = counts

    def admit_classifying(self, metadata: Metadata) -> None:
        """The same for calls that another transport takes.

        Raises:
            Unauthenticated: the call has no token that holds.
            PermissionDenied: its token is good for other calls alone.
        """
        self._access.current.check(metadata, Right.CLASSIFY)

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any]]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        """The method's own handler, or one that refuses."""
        path = handler_call_details.method
        right = RIGHTS.get(path.rpartition("/")[0].lstrip("/"), Right.OPERATE)
        handler = await continuation(handler_call_details)
        # What there is not is UNIMPLEMENTED to anybody: clients look for newer services so.
        if handler is not None and right is not None:
            try:
                grant = self._access.current.check(handler_call_details.invocation_metadata, right)
            except ServerError as error:
                return self._refusing(error, path)
            if right is Right.OPERATE:
                _log.info("%s called %s", grant.name, path)
        return handler

    def _refusing(self, error: ServerError, path: str) -> grpc.RpcMethodHandler[Any, Any]:
        async def refuse(_requests: object, context: Context) -> AsyncIterator[Any]:
            failed = refusal(error, path, context, self._counts)
            await context.abort(failed.code, failed.message, failed.trailing_metadata)
            yield  # other interceptors take it for what it says it is

        # Of whatever kind the method is: so its message is not read first.
        return grpc.stream_stream_rpc_method_handler(refuse)
