"""What listens for calls: pygrpc-native or grpcio."""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

import grpc

from seqserve_server import cores
from seqserve_server.errors import AddressUnavailable, InvalidSetting
from seqserve_server.observability.metrics.calls import Calls
from seqserve_server.options import Transport
from seqserve_server.security.access import Metadata
from seqserve_server.transports.connections import MOST, ConnectionLimits, milliseconds
from seqserve_server.transports.decoding import Decoding
from seqserve_server.transports.native_listener import Method, NativeListener

if TYPE_CHECKING:
    from seqserve_server.observability.spans import Spans

_log = logging.getLogger(__name__)

_MOST_IO_THREADS = 2
# A client that looks whether its server is still there does so less than once a second, and by
# default a ping more often than every five minutes would end its connection.
_LEAST_BETWEEN_PINGS_MS = 500
_DEFAULT_LIMITS = ConnectionLimits()


def resolve(transport: Transport, *, grpcio_only: bool = False) -> Transport:
    """The transport that will be used: NATIVE or GRPCIO.

    Args:
        transport: What was asked for.
        grpcio_only: Whether something was asked for besides that the native one cannot do.

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
    if grpcio_only:
        return Transport.GRPCIO
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


def grpcio(
    max_message_bytes: int,
    limits: ConnectionLimits = _DEFAULT_LIMITS,
    *,
    interceptors: Sequence[grpc.aio.ServerInterceptor[Any, Any]] = (),
    counts: Calls | None = None,
    processes: int = 1,
) -> grpc.aio.Server:
    """A server without servicers or port yet; to be called on the event loop it will run on.

    Args:
        max_message_bytes: The limit. A message over it is read up to twice of it, so that the
            servicers can refuse it with words; beyond that gRPC does, with RESOURCE_EXHAUSTED.
        limits: Of each connection.
        interceptors: Are asked before the servicers.
        counts: Told of every call that ends before them.
        processes: How many share the port and the cores, this one among them.
    """
    return grpc.aio.server(
        interceptors=[*interceptors, Decoding(counts)],
        options=[
            ("grpc.max_receive_message_length", _readable(max_message_bytes)),
            ("grpc.max_send_message_length", -1),
            # With it two servers share a port, and each gets some of the other's calls.
            ("grpc.so_reuseport", int(processes > 1)),
            *_of_connections(limits),
        ],
    )


def behind_native(
    max_message_bytes: int,
    interceptors: Sequence[grpc.aio.ServerInterceptor[Any, Any]] = (),
    counts: Calls | None = None,
) -> grpc.aio.Server:
    """The same for the methods that a native listener passes on.

    All of its callers come over one connection, and the listener has limited each already.
    """
    unlimited = ConnectionLimits(max_concurrent_streams=MOST, max_metadata_bytes=MOST)
    return grpcio(max_message_bytes, unlimited, interceptors=interceptors, counts=counts)


def _of_connections(limits: ConnectionLimits) -> list[tuple[str, int]]:
    aging = {
        "grpc.max_connection_age_ms": limits.max_age_s,
        "grpc.max_connection_idle_ms": limits.max_idle_s,
    }
    return [
        ("grpc.max_concurrent_streams", min(limits.max_concurrent_streams, MOST)),
        # The first is where grpcio begins to refuse calls by chance, the second where all are.
        ("grpc.max_metadata_size", min(limits.max_metadata_bytes, MOST)),
        ("grpc.absolute_max_metadata_size", min(limits.max_metadata_bytes, MOST)),
        ("grpc.keepalive_time_ms", milliseconds(limits.keepalive_s)),
        ("grpc.keepalive_timeout_ms", milliseconds(limits.keepalive_timeout_s)),
        # Of the two the longer one counts, and it is a minute by default.
        ("grpc.http2.ping_timeout_ms", milliseconds(limits.keepalive_timeout_s)),
        # Or a peer without a call that has vanished would be kept for ever.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", _LEAST_BETWEEN_PINGS_MS),
        # As above, and by default from 1,000 calls that nobody has taken up yet: a burst. What is
        # too much is for the queue to say, in steps, with word of when to try again.
        ("grpc.server.max_pending_requests", MOST),
        ("grpc.server.max_pending_requests_hard_limit", MOST),
        *((name, milliseconds(seconds)) for name, seconds in aging.items() if seconds),
    ]


def native(
    methods: Sequence[Method],
    others: grpc.aio.Server,
    max_message_bytes: int,
    limits: ConnectionLimits = _DEFAULT_LIMITS,
    *,
    admit: Callable[[Metadata], object] | None = None,
    counts: Calls | None = None,
    spans: Spans | None = None,
    processes: int = 1,
) -> NativeListener:
    """The same by pygrpc-native.

    Args:
        methods: The methods whose calls are worth it.
        others: Has the servicers of all others.
        max_message_bytes: As for `grpcio`.
        limits: As for `grpcio`; it knows no age or idleness.
        admit: Raises where the metadata of a call to these methods do not let it in.
        counts: Told of every call that ends.
        spans: Makes one of every call.
        processes: As for `grpcio`.
    """
    return NativeListener(
        methods,
        others,
        max_message_bytes=_readable(max_message_bytes),
        limits=limits,
        admit=admit,
        counts=counts,
        spans=spans,
        # On one core a second thread only costs switches.
        io_threads=min(cores.granted(processes), _MOST_IO_THREADS),
        reuse_port=processes > 1,
    )


def _readable(max_message_bytes: int) -> int:
    return min(2 * max_message_bytes, MOST)


def bind(
    listener: Listener,
    address: str,
    *,
    credentials: grpc.ServerCredentials | None = None,
    processes: int = 1,
) -> int:
    """The port that the server now listens on.

    Args:
        listener: Without a port so far.
        address: HOST:PORT; port 0 takes a free one.
        credentials: For TLS, which the native listener does not have.
        processes: As the listener was told.

    Raises:
        AddressUnavailable: it is taken, or the host is not this one.
    """
    host, port = split_address(address)
    # Asked first because both transports report a failure on stderr by themselves, and
    # neither says the reason in its exception.
    try:
        check_free(host, port, shared=processes > 1)
        if credentials is None:
            return listener.add_insecure_port(address)
        assert isinstance(listener, grpc.aio.Server), "settings allow TLS on grpcio alone"
        return listener.add_secure_port(address, credentials)
    except OSError as error:
        raise unavailable(address, error) from error
    except RuntimeError as error:
        raise AddressUnavailable(f"cannot listen on {address}: {error}") from error


def split_address(address: str, option: str = "--address") -> tuple[str, int]:
    """Host, without the brackets of an IPv6 one, and port.

    Args:
        address: HOST:PORT.
        option: What it was given by.

    Raises:
        InvalidSetting: it is not HOST:PORT.
    """
    host, colon, port = address.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not (colon and bare and port.isascii() and port.isdecimal() and int(port) < 1 << 16):
        raise InvalidSetting(
            f"{option} {address}: HOST:PORT is needed, as 127.0.0.1:8001 or [::]:8001"
        )
    return bare, int(port)


def is_loopback(host: str) -> bool:
    """Whether none but this host reaches what listens on a host, as `split_address` gives it.

    Of a name, every address counts; one that has none is not known to be safe.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError:
        return False
    addresses = [ipaddress.ip_address(str(target[0]).partition("%")[0]) for *_, target in found]
    return all((getattr(a, "ipv4_mapped", None) or a).is_loopback for a in addresses)


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
