"""grpc.health.v1: the server as a whole, every model and every version of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import grpc
from grpc_health.v1 import health, health_pb2

from seqserve_server.repository import Entry, State
from seqserve_server.status import Context

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Health(health.aio.HealthServicer):  # type: ignore[name-defined,misc]
    """Serves the overall status as "", a model's as its name, a version's as `name/3`.

    A model is SERVING while one of its versions is ready, the server while one model is.
    """

    def __init__(self) -> None:
        super().__init__()
        self._services = {""}
        self._closed = asyncio.Event()

    async def publish(self, entries: Iterable[Entry]) -> None:
        """Tells what is served now."""
        serving = {"": False}
        for entry in entries:
            ready = entry.state is State.READY
            serving[""] |= ready
            serving[entry.name] = serving.get(entry.name, False) or ready
            serving[f"{entry.name}/{entry.version}"] = ready
        for service in self._services - serving.keys():
            await self.set(service, SERVICE_UNKNOWN)
        for service, ready in serving.items():
            await self.set(service, SERVING if ready else NOT_SERVING)
        self._services = set(serving)

    def close(self) -> None:
        """Ends every watch: they would last as long as the server, and keep it from stopping."""
        self._closed.set()

    async def Watch(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> None:
        """Sends the status now and whenever it changes."""
        watch = asyncio.ensure_future(super().Watch(request, context))
        closed = asyncio.ensure_future(self._closed.wait())
        try:
            await asyncio.wait({watch, closed}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            watch.cancel()
            closed.cancel()
        await context.abort(grpc.StatusCode.UNAVAILABLE, "the server is stopping")
