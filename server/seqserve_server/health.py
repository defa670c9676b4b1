"""grpc.health.v1: the server as a whole, every model and every version of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from seqserve_server.models.repository import Entry, State
from seqserve_server.status import Context

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
LIVE = "/live"
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN

MOST_CHARACTERS = 1024
"""Of a service's name: a watch keeps it for as long as it lasts, and asks for no credentials."""

_LAST_WORD_S = 0.5
"""For a watcher to take the last status."""


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """Serves the overall status as "", a model's as its name, a version's as `name/3`.

    A model is SERVING while one of its versions is ready, the server while one model is. While a
    lane hangs none is, for whatever the lane took with it, others may follow. `/live`, which no
    model can be called, is SERVING as long as anything answers at all.

    grpcio's own servicer holds a lock as it writes to a watcher, and who changes a status waits for
    it: one that reads nothing could keep all others from hearing of a drain, and the server from
    ending.
    """

    def __init__(self) -> None:
        self._serving: dict[str, bool] = {"": False}  # until told otherwise
        self._hangs = False
        self._drains = False
        self._told: dict[str, int] = {}
        self._changed = asyncio.Event()  # another one with every change
        self._closed = asyncio.Event()
        self._tell()

    @property
    def serving(self) -> bool:
        """Whether the server as a whole is SERVING. Any thread may ask."""
        return bool(self._told[""] == SERVING)

    def publish(self, entries: Iterable[Entry]) -> None:
        """Tells what is served now."""
        serving = {"": False}
        for entry in entries:
            ready = entry.state is State.READY and not entry.ailing
            serving[""] |= ready
            serving[entry.name] = serving.get(entry.name, False) or ready
            serving[f"{entry.name}/{entry.version}"] = ready
        self._serving = serving
        self._tell()

    def hang(self, *, hangs: bool) -> None:
        """Tells whether a lane hangs."""
        if hangs != self._hangs:
            self._hangs = hangs
            self._tell()

    def drain(self) -> None:
        """Nothing is SERVING from now on."""
        self._drains = True
        self._tell()

    def close(self) -> None:
        """Ends every watch: they would last as long as the server, and keep it from stopping."""
        self._closed.set()
        self._changed.set()

    def _tell(self) -> None:
        refused = self._hangs or self._drains
        told = {
            service: SERVING if ready and not refused else NOT_SERVING
            for service, ready in self._serving.items()
        }
        self._told = told | {LIVE: NOT_SERVING if self._drains else SERVING}
        self._changed.set()
        self._changed = asyncio.Event()

    async def Check(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> health_pb2.HealthCheckResponse:
        """The status now."""
        status = self._told.get(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is no such model or version")
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> None:
        """Sends the status now and whenever it changes."""
        if len(request.service) > MOST_CHARACTERS:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"service has {len(request.service)} characters; at most {MOST_CHARACTERS} are "
                "taken",
            )
        watch = asyncio.ensure_future(self._watch(request.service, context))
        closed = asyncio.ensure_future(self._closed.wait())
        try:
            await asyncio.wait({watch, closed}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({watch}, timeout=_LAST_WORD_S)
        finally:
            watch.cancel()
            closed.cancel()
        if not watch.done():  # nor can the peer be told why
            raise asyncio.CancelledError
        watch.result()
        await context.abort(grpc.StatusCode.UNAVAILABLE, "the server is stopping")

    async def _watch(self, service: str, context: Context) -> None:
        last = None
        while True:
            changed = self._changed
            status = self._told.get(service, SERVICE_UNKNOWN)
            if status != last:
                await context.write(health_pb2.HealthCheckResponse(status=status))
                last = status
            elif self._closed.is_set():
                return
            else:
                await changed.wait()
