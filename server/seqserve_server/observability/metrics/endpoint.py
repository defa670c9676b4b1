"""/metrics on a port of its own, and nothing else there: plain HTTP, without a password."""

from __future__ import annotations

import logging
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import make_wsgi_app
from prometheus_client.registry import Collector

from seqserve_server import cores
from seqserve_server.errors import AddressUnavailable
from seqserve_server.transports.transport import split_address

_log = logging.getLogger(__name__)

PATH = "/metrics"

_MOST_PEERS = 8
"""At a time; others are turned away, so that nobody can have a thread for each connection."""
_PATIENCE_S = 10.0
"""With a peer, from its connection to its answer: as long as Prometheus waits by default."""
_STOPS_WITHIN_S = 0.1
"""So often its thread looks whether it is to end."""


class Endpoint:
    """Serves what a collector has.

    Args:
        collector: Asked at every request.
        address: HOST:PORT; port 0 takes a free one.
    """

    def __init__(self, collector: Collector, address: str) -> None:
        self._collector = collector
        self.address = address
        """Where it listens; with the port that it has taken, once started."""
        self._server: _Server | None = None

    def start(self) -> None:
        """Listens; of no effect where it does already.

        Raises:
            AddressUnavailable: it cannot.
        """
        if self._server is not None:
            return
        host, port = split_address(self.address, "--metrics-address")
        try:
            self._server = _Server(host, port, _only_metrics(make_wsgi_app(self._collector)))
        except OSError as error:
            raise AddressUnavailable(
                f"cannot serve metrics on {self.address}: {error.strerror or error}; give another "
                "--metrics-address, or off"
            ) from error
        self.address = f"{self.address.rpartition(':')[0]}:{self._server.server_port}"
        with cores.patient_threads():
            threading.Thread(
                target=self._server.serve_forever,
                args=(_STOPS_WITHIN_S,),
                name="seqserve-metrics",
                daemon=True,
            ).start()
        _log.info("metrics on http://%s%s", self.address, PATH)

    def stop(self) -> None:
        """Listens no more."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


def _only_metrics(metrics: Callable[..., Any]) -> Callable[..., Iterable[bytes]]:
    """prometheus-client's own answers whatever is asked for, and all of them whatever the query."""

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] != PATH:
            start_response("404 Not Found", [("Content-Type", "text/plain")])
            return [f"metrics are at {PATH}\n".encode()]
        try:
            answered: Iterable[bytes] = metrics(environ | {"QUERY_STRING": ""}, start_response)
        except Exception:  # wsgiref would print it
            _log.exception("the metrics could not be read")
            start_response("500 Internal Server Error", [("Content-Type", "text/plain")])
            return [b"the server's log says why\n"]
        return answered

    return answer


_Request = socket.socket | tuple[bytes, socket.socket]


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        _log.debug("metrics: " + format, *arguments)


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def __init__(self, host: str, port: int, app: Callable[..., Iterable[bytes]]) -> None:
        [(self.address_family, *_, target), *_] = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        self._peers: dict[_Request, float] = {}  # since when
        super().__init__(target, _Handler)  # type: ignore[arg-type]  # of IPv6 it is longer
        self.set_app(app)

    def server_bind(self) -> None:
        """As inherited, without asking the DNS for the name of this host."""
        socketserver.TCPServer.server_bind(self)
        name, self.server_port = self.server_address[:2]
        self.server_name = str(name)
        self.setup_environ()

    def process_request(self, request: _Request, client_address: object) -> None:
        """In a thread of its own, where there are not too many already."""
        if len(self._peers) < _MOST_PEERS:
            self._peers[request] = time.monotonic()
            try:
                super().process_request(request, client_address)
            except BaseException:  # no thread can be had
                del self._peers[request]
                raise
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: _Request, client_address: object) -> None:
        """In that thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._peers.pop(request, None)

    def service_actions(self) -> None:
        """Now and then: ends the peers that take too long, however often they say something."""
        for request, since in list(self._peers.items()):
            if time.monotonic() - since > _PATIENCE_S:
                assert isinstance(request, socket.socket)
                with suppress(OSError):  # it has gone
                    request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: _Request, client_address: object) -> None:
        """A peer that has gone is none of ours."""
        _log.debug("metrics: %s", client_address, exc_info=True)
