"""What a server can be told, checked once."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field
from pathlib import Path

from seqserve_server import cores, options
from seqserve_server.errors import InvalidSetting
from seqserve_server.models.version_policy import VersionPolicy
from seqserve_server.options import ExecutionProvider, LogFormat, LogLevel, Transport
from seqserve_server.transports.connections import ConnectionLimits
from seqserve_server.transports.transport import is_loopback, split_address
from seqserve_server.validation import RequestLimits


@dataclass(frozen=True)
class Settings:
    """What a server can be told.

    Raises:
        InvalidSetting: one of them cannot be, or contradicts another.
    """

    repository: Path
    """The model repository, `<repository>/<model>/<version>/`."""
    address: str = options.ADDRESS
    """HOST:PORT to listen on; port 0 takes a free one."""
    transport: Transport = Transport.AUTO
    """The gRPC server under the servicers."""
    tls_certificate: Path | None = None
    """This server's certificate chain, in PEM; with its key it makes the port TLS."""
    tls_key: Path | None = None
    """The private key of the certificate, in PEM."""
    tls_client_ca: Path | None = None
    """Certificates in PEM, one of which must have signed a caller's own: mutual TLS."""
    insecure: bool = False
    """Whether to listen beyond loopback without TLS, for the metrics as well."""
    access_file: Path | None = None
    """Who may do what, by bearer token; without one anybody may classify and describe."""
    execution_provider: ExecutionProvider = ExecutionProvider.CPU
    """What onnxruntime runs the models on."""
    version_policy: VersionPolicy = field(default_factory=VersionPolicy)
    """Which versions of which models are offered."""
    poll_interval_s: float = options.POLL_INTERVAL_S
    """How often the repository is looked at for new versions; 0 for never."""
    trusted_keys: Path | None = None
    """Ed25519 public keys; with them, a manifest that none of them signed is refused."""
    processes: int = options.PROCESSES
    """Processes that listen on the address, this one among them. With more than one they share
    the port by SO_REUSEPORT, and every process has the whole server: its own interpreter, models
    and lanes, and its own health."""
    lanes: int = field(default_factory=cores.granted)
    """Batches that run at the same time in this process, a core each."""
    bulk_patience_s: float = options.BULK_PATIENCE_S
    """After so long, bulk work counts as interactive, so that it never starves."""
    max_concurrent_streams: int = options.MAX_CONCURRENT_STREAMS
    """Calls under way at a time on one connection."""
    max_metadata_bytes: int = options.MAX_METADATA_BYTES
    """The headers of one call."""
    keepalive_s: float = options.KEEPALIVE_S
    """After so long without a byte, a connection is asked whether it is alive."""
    keepalive_timeout_s: float = options.KEEPALIVE_TIMEOUT_S
    """How long it may take to answer before it is closed."""
    max_connection_age_s: float = options.MAX_CONNECTION_AGE_S
    """A connection so old takes no new calls, so that clients spread anew; 0 for never."""
    max_connection_idle_s: float = options.MAX_CONNECTION_IDLE_S
    """A connection without a call for so long is closed; 0 for never."""
    max_message_bytes: int = options.MAX_MESSAGE_BYTES
    """The longest request accepted; one up to twice as long is read, to be refused with words."""
    max_request_sequences: int = options.MAX_REQUEST_SEQUENCES
    """Sequences of one request."""
    max_request_steps: int = options.MAX_REQUEST_STEPS
    """Steps of one request, of all its sequences together."""
    max_queue_steps: int = options.MAX_QUEUE_STEPS
    """Steps that may wait for a lane, of all requests together."""
    token_key: bytes | None = field(default=None, repr=False)
    """Seals the tokens of live sequences; replicas that share it accept each other's. Where
    there is none, a random one: the tokens then end with the process."""
    token_lifetime_s: float = options.TOKEN_LIFETIME_S
    """How long such a token is good for."""
    drain_pause_s: float = options.DRAIN_PAUSE_S
    """From NOT_SERVING to taking no more calls, for load balancers to notice."""
    drain_grace_s: float = options.DRAIN_GRACE_S
    """How long running calls may take to finish after that."""
    stats_interval_s: float = options.STATS_INTERVAL_S
    """How often the counters are logged; 0 for never."""
    metrics_address: str = ""
    """HOST:PORT where Prometheus finds the metrics; empty for none."""
    otlp_endpoint: str = ""
    """Where traces go, by OTLP; empty for none."""
    log_level: LogLevel = LogLevel.INFO
    """The least that is logged."""
    log_format: LogFormat = LogFormat.CONSOLE
    """What a log line looks like."""

    def __post_init__(self) -> None:
        split_address(self.address)
        if self.metrics_address:
            _, port = split_address(self.metrics_address, "--metrics-address")
            if port and port + self.processes > 1 << 16:
                raise InvalidSetting(
                    f"--metrics-address {self.metrics_address}: {self.processes} processes take as "
                    "many ports, from this one on"
                )
        self._check_numbers()
        self._check_security()
        if self.processes > 1 and sys.platform != "linux":
            raise InvalidSetting(
                f"--processes {self.processes}: only Linux divides the connections of a port "
                "among the processes that listen on it; start servers on ports of their own"
            )
        if self.max_queue_steps < self.max_request_steps:
            raise InvalidSetting(
                f"--max-queue-steps is {self.max_queue_steps}: the largest request allowed, of "
                f"{self.max_request_steps} steps (--max-request-steps), would never fit into it"
            )

    def _check_numbers(self) -> None:
        at_least_one = {
            "--processes": self.processes,
            "--lanes": self.lanes,
            "--max-message-bytes": self.max_message_bytes,
            "--max-request-sequences": self.max_request_sequences,
            "--max-request-steps": self.max_request_steps,
            "--token-lifetime": self.token_lifetime_s,
            "--max-concurrent-streams": self.max_concurrent_streams,
            "--max-metadata-bytes": self.max_metadata_bytes,
            "--keepalive": self.keepalive_s,
            "--keepalive-timeout": self.keepalive_timeout_s,
        }
        for name, value in at_least_one.items():
            if not 1 <= value < math.inf:
                raise InvalidSetting(f"{name} is {value}; at least 1 is needed")
        if min(self.drain_pause_s, self.drain_grace_s) < 0:
            raise InvalidSetting("--drain-pause and --drain-grace cannot be below 0 seconds")
        if not 0 < self.bulk_patience_s < math.inf:
            raise InvalidSetting(
                f"--bulk-patience is {self.bulk_patience_s:g}; a number of seconds above 0 is "
                "needed, or bulk work might wait for ever"
            )
        zero_for_never = {
            "--stats": self.stats_interval_s,
            "--poll": self.poll_interval_s,
            "--max-connection-age": self.max_connection_age_s,
            "--max-connection-idle": self.max_connection_idle_s,
        }
        for name, seconds in zero_for_never.items():
            if not 0 <= seconds < math.inf:
                raise InvalidSetting(
                    f"{name} is {seconds:g}; a number of seconds is needed, 0 for never"
                )

    def _check_security(self) -> None:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise InvalidSetting("--tls-certificate and --tls-key: TLS needs both")
        if self.tls_client_ca and not self.tls:
            raise InvalidSetting("--tls-client-ca needs --tls-certificate and --tls-key")
        if self.transport is Transport.NATIVE:
            if self.tls:
                raise InvalidSetting(
                    "--transport native has no TLS: leave it out, for grpcio, or let Envoy "
                    "end TLS in front of it"
                )
            if self.max_connection_age_s or self.max_connection_idle_s:
                raise InvalidSetting(
                    "--transport native closes no connection for its age or idleness: leave out "
                    "--max-connection-age and --max-connection-idle, or take --transport grpcio"
                )
        host, _ = split_address(self.address)
        if not (self.tls or self.insecure or is_loopback(host)):
            raise InvalidSetting(
                f"--address {self.address} is beyond loopback, and without TLS anybody on the way "
                "reads and changes what is sent: give --tls-certificate and --tls-key, or "
                "--insecure where the network is to be trusted"
            )
        if self.metrics_address and not self.insecure:
            host, _ = split_address(self.metrics_address, "--metrics-address")
            if not is_loopback(host):
                raise InvalidSetting(
                    f"--metrics-address {self.metrics_address} is beyond loopback, and anybody who "
                    "reaches it reads the metrics: give --insecure where the network is to be "
                    "trusted"
                )

    @property
    def tls(self) -> bool:
        """Whether the port is TLS."""
        return self.tls_certificate is not None

    @property
    def protection(self) -> str:
        """The same for the log, to follow the transport."""
        return ", mutual TLS" if self.tls_client_ca else ", TLS" if self.tls else ""

    @property
    def grpcio_only(self) -> bool:
        """Whether something is asked for that the native transport cannot do."""
        return self.tls or self.max_connection_age_s > 0 or self.max_connection_idle_s > 0

    @property
    def connection_limits(self) -> ConnectionLimits:
        """What one connection may do."""
        return ConnectionLimits(
            self.max_concurrent_streams,
            self.max_metadata_bytes,
            self.keepalive_s,
            self.keepalive_timeout_s,
            self.max_connection_age_s,
            self.max_connection_idle_s,
        )

    @property
    def request_limits(self) -> RequestLimits:
        """What one request may hold."""
        return RequestLimits(
            self.max_request_sequences, self.max_request_steps, self.max_message_bytes
        )
