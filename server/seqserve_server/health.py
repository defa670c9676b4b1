"""grpc.health.v1: the server as a whole, every model and every version of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import grpc
from grpc_health.v1 import health, health_pb2

from seqserve_server.models.repository import Entry, State
from seqserve_server.status import Context

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
LIVE = "/live"
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Health(health.aio.HealthServicer):  # type: ignore[name-defined,misc]
    """Serves the overall status as "", a model's as its name, a version's as `name/3`.

    A model is SERVING while one of its versions is ready, the server while one model is. While a
    lane hangs none is, for whatever the lane took with it, others may follow. `/live`, which no
    model can be called, is SERVING as long as anything answers at all.
    """

    def __init__(self) -> None:
        super().__init__()
        self._server_status = {"": NOT_SERVING}  # until told otherwise
        self._services = {""}
        self._serving: dict[str, bool] = {"": False}
        self._hangs = False
        self._closed = asyncio.Event()

    @property
    def serving(self) -> bool:
        """Whether the server as a whole is SERVING. Any thread may ask."""
        return bool(self._server_status.get("") == SERVING)

    async def publish(self, entries: Iterable[Entry]) -> None:
        """Tells what is served now."""
        serving = {"": False}
        for entry in entries:
            ready = entry.state is State.READY and not entry.ailing
            serving[""] |= ready
            serving[entry.name] = serving.get(entry.name, False) or ready
            serving[f"{entry.name}/{entry.version}"] = ready
        self._serving = serving
        await self._tell()

    async def hang(self, *, hangs: bool) -> None:
        """Tells whether a lane hangs."""
        if hangs != self._hangs:
            self._hangs = hangs
            await self._tell()

    async def _tell(self) -> None:
        await self.set(LIVE, SERVING)
        for service in self._services - self._serving.keys():
            await self.set(service, SERVICE_UNKNOWN)
        for service, ready in self._serving.items():
            await self.set(service, SERVING if ready and not self._hangs else NOT_SERVING)
        self._services = set(self._serving)

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
