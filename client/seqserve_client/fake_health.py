"""grpc.health.v1 for `testing`: grpcio's own servicer holds its lock while it sends.

There the one thread that serves, which is to say that a message has gone, waits for the same lock
as soon as another watch ends: nothing is answered any more. Here no lock is held by who sends.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

Send = Callable[[HealthCheckResponse], None]


class FakeHealth(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """Says of each service what was set last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._statuses: dict[str, int] = {}
        self._watches: dict[_Watch, str] = {}

    def set(self, service: str, status: int) -> None:
        """What is said of a service from now on."""
        with self._lock:
            self._statuses[service] = status
            watches = [watch for watch, watched in self._watches.items() if watched == service]
            for watch in watches:
                watch.put(status)
        for watch in watches:
            watch.send()

    def Check(  # noqa: N802
        self, request: HealthCheckRequest, context: grpc.ServicerContext
    ) -> HealthCheckResponse:
        """The status now."""
        with self._lock:
            status = self._statuses.get(request.service)
        if status is None:
            context.abort(grpc.StatusCode.NOT_FOUND, f"{request.service} is not known")
        return HealthCheckResponse(status=status)

    def Watch(  # noqa: N802
        self, request: HealthCheckRequest, context: grpc.ServicerContext, send: Send
    ) -> None:
        """Sends the status now and whenever it changes."""
        watch = _Watch(send)
        with self._lock:
            self._watches[watch] = request.service
            watch.put(self._statuses.get(request.service, HealthCheckResponse.SERVICE_UNKNOWN))
        if context.add_callback(lambda: self._forget(watch)):
            watch.send()
        else:
            self._forget(watch)

    # Or each watch would take one of the server's threads for as long as it lasts.
    Watch.experimental_non_blocking = True  # type: ignore[attr-defined]

    def _forget(self, watch: _Watch) -> None:
        with self._lock:
            del self._watches[watch]


class _Watch:
    """What one client is told: message after message, the last of them the latest status."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._lock = threading.Lock()
        self._latest: int | None = None
        self._sends = False

    def put(self, status: int) -> None:
        """What is to be sent; what was not sent yet need not be any more."""
        with self._lock:
            self._latest = status

    def send(self) -> None:
        """Sends it, unless another thread is about to."""
        with self._lock:
            if self._sends:
                return
            self._sends = True
        while (status := self._taken()) is not None:
            self._send(HealthCheckResponse(status=status))

    def _taken(self) -> int | None:
        with self._lock:
            status, self._latest = self._latest, None
            self._sends = status is not None
            return status
