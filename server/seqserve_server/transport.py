"""What listens for calls: pygrpc-native or grpcio."""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Protocol

import grpc

from seqserve_server import cores
from seqserve_server.errors import AddressUnavailable, InvalidSetting
from seqserve_server.native_listener import Method, NativeListener
from seqserve_server.options import Transport

_log = logging.getLogger(__name__)

_MOST_BYTES = 2**31 - 1
"""What the option can say."""

_MOST_IO_THREADS = 2


def resolve(transport: Transport) -> Transport:
    """The transport that will be used: NATIVE or GRPCIO.

    Raises:
        InvalidSetting: the native one was asked for, and is not installed.
    """
    installed = find_spec("pygrpc_native") is not None
    if transport is Transport.NATIVE and not installed:
        raise InvalidSetting(
            "--transport native: pygrpc-native is not installed. It comes with: "
            "pip install 'seqserve[server]', where it has a wheel for this platform"
        )
    if transport is not Transport.AUTO:
        return transport
    if not installed:
        _log.info("pygrpc-native is not installed: serving with grpcio, at more CPU a call")
        return Transport.GRPCIO
    return Transport.NATIVE


class Listener(Protocol):
    """What both transports have in common with a `grpc.aio.Server`."""

    def add_insecure_port(self, address: str) -> int:
        """The port that it has taken."""
        ...

    async def start(self) -> None:
        """Takes calls from now on."""
        ...

    async def stop(self, grace: float | None) -> None:
        """Closes every connection; calls under way have the grace to end."""
        ...


def grpcio(max_message_bytes: int, *, processes: int = 1) -> grpc.aio.Server:
    """A server without servicers or port yet; to be called on the event loop it will run on.

    Args:
        max_message_bytes: The limit. A message over it is read up to twice of it, so that the
            servicers can refuse it with words; beyond that gRPC does, with RESOURCE_EXHAUSTED.
        processes: How many share the port and the cores, this one among them.
    """
    return grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", _readable(max_message_bytes)),
            ("grpc.max_send_message_length", -1),
            # With it two servers share a port, and each gets some of the other's calls.
            ("grpc.so_reuseport", int(processes > 1)),
        ]
    )


def native(
    methods: Sequence[Method],
    others: grpc.aio.Server,
    max_message_bytes: int,
    *,
    processes: int = 1,
) -> NativeListener:
    """The same by pygrpc-native.

    Args:
        methods: The methods whose calls are worth it.
        others: Has the servicers of all others.
        max_message_bytes: As for `grpcio`.
        processes: As for `grpcio`.
    """
    return NativeListener(
        methods,
        others,
        max_message_bytes=_readable(max_message_bytes),
        # On one core a second thread only costs switches.
        io_threads=min(cores.granted(processes), _MOST_IO_THREADS),
        reuse_port=processes > 1,
    )


def _readable(max_message_bytes: int) -> int:
    return min(2 * max_message_bytes, _MOST_BYTES)


def bind(listener: Listener, address: str, *, processes: int = 1) -> int:
    """The port that the server now listens on.

    Args:
        listener: Without a port so far.
        address: HOST:PORT; port 0 takes a free one.
        processes: As the listener was told.

    Raises:
        AddressUnavailable: it is taken, or the host is not this one.
    """
    host, port = split_address(address)
    # Asked first because both transports report a failure on stderr by themselves, and
    # neither says the reason in its exception.
    try:
        check_free(host, port, shared=processes > 1)
        return listener.add_insecure_port(address)
    except OSError as error:
        raise unavailable(address, error) from error
    except RuntimeError as error:
        raise AddressUnavailable(f"cannot listen on {address}: {error}") from error


def split_address(address: str) -> tuple[str, int]:
    """Host, without the brackets of an IPv6 one, and port.

    Raises:
        InvalidSetting: it is not HOST:PORT.
    """
    host, colon, port = address.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not (colon and bare and port.isascii() and port.isdecimal() and int(port) < 1 << 16):
        raise InvalidSetting(
            f"--address {address}: HOST:PORT is needed, as 127.0.0.1:8001 or [::]:8001"
        )
    return bare, int(port)


def unavailable(address: str, error: OSError) -> AddressUnavailable:
    """The error to raise where an address cannot be listened on."""
    return AddressUnavailable(f"cannot listen on {address}: {error.strerror or error}")


def check_free(host: str, port: int, *, shared: bool = False) -> None:
    """Binds the address for a moment.

    Args:
        host: As `split_address` gives it.
        port: Its port, 0 for any.
        shared: Whether those that share a port may have it already.

    Raises:
        OSError: it is taken, or the host is not this one.
    """
    for family, kind, protocol, _, target in socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    ):
        with socket.socket(family, kind, protocol) as probe:
            # As every server does: a port whose last connections are just closing is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            probe.bind(target)
