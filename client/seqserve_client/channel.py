"""The way to the servers: addresses, load balancing, retries.

gRPC itself retries and balances, by the service config below. Only what is harmless to repeat
is retried: questions about sequences and models. Whoever adds a call that changes something
leaves it out of `_RETRIED`.

Sequences go to the replicas alone that say of themselves, by grpc.health.v1, that they answer: one
that loads or drains is passed over, and a call that it has refused is tried again elsewhere.
Questions about the models go to any, for they are asked most where something is amiss.
"""

from __future__ import annotations

import ipaddress
import json
import socket
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from seqserve import __version__
from seqserve_client import defaults
from seqserve_client.errors import InvalidOptions, Unavailable
from seqserve_client.options import Options
from seqserve_client.renewal import renewed, renewed_async

_RETRIED = ("seqserve.v1.SequenceClassifier", "seqserve.v1.ModelCatalog")
_SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [{"service": service} for service in _RETRIED],
            # gRPC adds a jitter of a fifth, never waits past the deadline, and allows five
            # attempts at most: some 2.5 s in all.
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.1s",
                "backoffMultiplier": 2.5,
                "maxBackoff": "2s",
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
}
# Where an address says so itself, gRPC is given it as it is.
_SCHEMES = ("dns:", "ipv4:", "ipv6:", "unix:", "unix-abstract:", "vsock:", "xds:")
_NEVER_MS = 2**31 - 1
"""What gRPC takes for a time that does not come."""

_OF_THOSE_THAT_SERVE = {"healthCheckConfig": {"serviceName": ""}}


def open_channel(target: Target, options: Options, *, to_any: bool = False) -> grpc.Channel:
    """A channel for threads; to the replicas that serve, or to any."""

    def opened() -> grpc.Channel:
        arguments = target.channel_arguments(options, to_any=to_any)
        if options.credentials is None:
            return grpc.insecure_channel(target.uri, arguments)
        return grpc.secure_channel(target.uri, options.credentials, arguments)

    return renewed(opened) if target.is_name and not to_any else opened()


def open_async_channel(
    target: Target, options: Options, *, to_any: bool = False
) -> grpc.aio.Channel:
    """The same for the event loop that runs now, and for no other."""

    def opened() -> grpc.aio.Channel:
        arguments = target.channel_arguments(options, to_any=to_any)
        if options.credentials is None:
            return grpc.aio.insecure_channel(target.uri, arguments)
        return grpc.aio.secure_channel(target.uri, options.credentials, arguments)

    return renewed_async(opened) if target.is_name and not to_any else opened()


@dataclass(frozen=True)
class Target:
    """Where the servers are, in gRPC's words."""

    uri: str
    """A name in gRPC's naming scheme."""
    authority: str | None = None
    """What requests name as their host; None to leave it to gRPC."""

    @property
    def is_name(self) -> bool:
        """Whether the addresses behind it may change."""
        return self.uri.startswith("dns:")

    @classmethod
    def parse(cls, text: str) -> Target:
        """Reads `host:port`, several of them with commas, or a URI in gRPC's naming scheme.

        A single name is looked up by gRPC, again whenever connections fail and when a channel is
        renewed; calls go round all of its addresses. Names in a list are looked up here, once. The
        port is 8001 where none is given.

        Raises:
            InvalidOptions: the text is no such thing.
            Unavailable: a name in a list has no address.
        """
        if text.startswith(_SCHEMES):
            return cls(text)
        servers = [_split(part.strip(), text) for part in text.split(",")]
        if len(servers) == 1 and _family(servers[0][0]) is None:
            host, port = servers[0]
            return cls(f"dns:///{host}:{port}")
        # gRPC would name the whole list as the host, which not every server takes.
        return cls(_address_list(servers), _joined(*servers[0]))

    def channel_arguments(self, options: Options, *, to_any: bool) -> list[tuple[str, Any]]:
        """The channel's arguments, as `grpc` and `grpc.aio` take them."""
        service_config = _SERVICE_CONFIG | ({} if to_any else _OF_THOSE_THAT_SERVE)
        arguments: list[tuple[str, Any]] = [
            ("grpc.service_config", json.dumps(service_config)),
            ("grpc.service_config_disable_resolution", 1),
            # A message that does not fit is quietly not retried, and the default is 256 KiB.
            ("grpc.per_rpc_retry_buffer_size", 2**31 - 1),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", -1),
            # Without it, one client's failed connections make another one wait.
            ("grpc.use_local_subchannel_pool", 1),
            # The default of 30 s is longer than a call has patience for.
            ("grpc.dns_min_time_between_resolutions_ms", 1000),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 2000),
            ("grpc.keepalive_time_ms", _milliseconds(options.keepalive_s)),
            ("grpc.keepalive_timeout_ms", _milliseconds(options.keepalive_timeout_s)),
            # Of the two the longer one counts, and it is a minute by default.
            ("grpc.http2.ping_timeout_ms", _milliseconds(options.keepalive_timeout_s)),
            ("grpc.primary_user_agent", f"seqserve-client/{__version__}"),
        ]
        if self.authority is not None:
            arguments.append(("grpc.default_authority", self.authority))
        return arguments


def each_server(text: str) -> list[str]:
    """What `Target.parse` reads as several servers, one by one."""
    return [text] if text.startswith(_SCHEMES) else [part.strip() for part in text.split(",")]


def _milliseconds(seconds: float) -> int:
    """As gRPC takes a time; at least one."""
    return max(1, int(min(1e3 * seconds, _NEVER_MS)))


def _split(server: str, text: str) -> tuple[str, int]:
    """Host and port of `host`, `host:port`, `[v6]`, `[v6]:port` or a bare `v6`."""
    host, port = server, str(defaults.PORT)
    if server.startswith("["):
        host, _, rest = server[1:].partition("]")
        port = rest.removeprefix(":") or port
    elif server.count(":") == 1:
        host, _, port = server.partition(":")
    named = host and not any(character.isspace() or character in "/@" for character in host)
    numbered = port.isascii() and port.isdigit() and 0 < int(port) < 2**16
    if not named or not numbered or (":" in host and _family(host) is None):
        raise InvalidOptions(
            f"{text!r} is no server address: host:port is needed, or several with commas"
        )
    return host, int(port)


def _family(host: str) -> int | None:
    """The IP version of a literal address, None for a name."""
    try:
        return ipaddress.ip_address(host).version
    except ValueError:
        return None


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _address_list(servers: list[tuple[str, int]]) -> str:
    """All servers as one address list, which has to be of a single IP version."""
    addresses = [_addresses(host, port) for host, port in servers]
    for version in (4, 6):
        chosen = [[host for host in hosts if _family(host) == version] for hosts in addresses]
        if all(chosen):
            parts = [
                _joined(host, port)
                for hosts, (_, port) in zip(chosen, servers, strict=True)
                for host in hosts
            ]
            return f"ipv{version}:" + ",".join(dict.fromkeys(parts))
    raise InvalidOptions(
        "servers reached by IPv4 alone and by IPv6 alone cannot be mixed in one list"
    )


def _addresses(host: str, port: int) -> list[str]:
    if _family(host) is not None:
        return [host]
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise Unavailable(f"no address is known for {host}: {error.strerror}") from error
    return [str(entry[4][0]) for entry in found]
