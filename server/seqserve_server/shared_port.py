"""A port that several processes listen on."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from seqserve_server.transports.transport import check_free, split_address, unavailable


@contextmanager
def reserved(address: str) -> Iterator[str]:
    """Keeps a port for processes that will share it, while the context lasts.

    What is kept is bound and does not listen: it takes none of the connections, and nobody else
    is given the port while one of the processes is started again.

    Args:
        address: HOST:PORT; port 0 takes a free one.

    Yields:
        HOST:PORT to listen on, with SO_REUSEPORT.

    Raises:
        AddressUnavailable: it is taken, or the host is not this one.
    """
    host, port = split_address(address)
    with ExitStack() as kept:
        try:
            # Servers of the same user that share a port would let us in; we are none of them.
            check_free(host, port)
            for family, kind, protocol, _, target in socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            ):
                keeper = kept.enter_context(socket.socket(family, kind, protocol))
                _bind(keeper, (target[0], port, *target[2:]))
                port = keeper.getsockname()[1]
        except OSError as error:
            raise unavailable(address, error) from error
        yield f"{address.rpartition(':')[0]}:{port}"


def _bind(keeper: socket.socket, target: tuple[object, ...]) -> None:
    keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        keeper.bind(target)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        # Connections to an earlier server are just closing. Where there are none, we do without,
        # so that a server that is started at the same moment is refused.
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        keeper.bind(target)
