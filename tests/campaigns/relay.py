"""A way to a server that can be cut or go dead: bytes are passed on until then."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

_AT_ONCE = struct.pack("ii", 1, 0)
"""Closing resets the connection: nothing that waits is sent any more."""


class Relay:
    """Listens on a port of its own.

    Args:
        target: HOST:PORT of the server.
    """

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._lock = threading.Lock()
        self._connected = threading.Condition(self._lock)
        self._ends: set[socket.socket] = set()
        self._dead = False
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        """The relay."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Closes it."""
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """Resets every connection, on both sides."""
        with self._lock:
            ends, self._ends = self._ends, set()
        for end in ends:
            _reset(end)

    def go_dead(self) -> None:
        """From now on no byte arrives and no connection ends, as where a host has vanished."""
        self._dead = True

    def wait_until_connected(self) -> None:
        """Until there is a connection."""
        with self._connected:
            self._connected.wait_for(lambda: self._ends)

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                near, _ = self._listener.accept()
                try:
                    far = socket.create_connection(self._target)
                except OSError:
                    _reset(near)
                    continue
                for end in (near, far):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with self._lock:
                    self._ends |= {near, far}
                    self._connected.notify_all()
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self._pass, args=(one, other), daemon=True).start()

    def _pass(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(1 << 16):
                if not self._dead:
                    other.sendall(data)
        with self._lock:
            self._ends -= {one, other}
        for end in (one, other):
            _reset(end)


def _reset(end: socket.socket) -> None:
    with suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        end.shutdown(socket.SHUT_RDWR)
    end.close()
