"""What a server can be told, checked once."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field
from pathlib import Path

from seqserve_server import cores, options
from seqserve_server.errors import InvalidSetting
from seqserve_server.options import ExecutionProvider, Transport
from seqserve_server.transport import split_address
from seqserve_server.validation import RequestLimits
from seqserve_server.version_policy import VersionPolicy


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
    execution_provider: ExecutionProvider = ExecutionProvider.CPU
    """What onnxruntime runs the models on."""
    version_policy: VersionPolicy = field(default_factory=VersionPolicy)
    """Which versions of which models are offered."""
    processes: int = options.PROCESSES
    """Processes that listen on the address, this one among them. With more than one they share
    the port by SO_REUSEPORT, and every process has the whole server: its own interpreter, models
    and lanes, and its own health."""
    lanes: int = field(default_factory=cores.granted)
    """Batches that run at the same time in this process, a core each."""
    bulk_patience_s: float = options.BULK_PATIENCE_S
    """After so long, bulk work counts as interactive, so that it never starves."""
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
    allow_operator_calls: bool = False
    """Whether ModelRepository may be called."""
    drain_pause_s: float = options.DRAIN_PAUSE_S
    """From NOT_SERVING to taking no more calls, for load balancers to notice."""
    drain_grace_s: float = options.DRAIN_GRACE_S
    """How long running calls may take to finish after that."""
    stats_interval_s: float = options.STATS_INTERVAL_S
    """How often the counters are logged; 0 for never."""

    def __post_init__(self) -> None:
        split_address(self.address)
        at_least_one = {
            "--processes": self.processes,
            "--lanes": self.lanes,
            "--max-message-bytes": self.max_message_bytes,
            "--max-request-sequences": self.max_request_sequences,
            "--max-request-steps": self.max_request_steps,
            "--token-lifetime": self.token_lifetime_s,
        }
        for name, value in at_least_one.items():
            if value < 1:
                raise InvalidSetting(f"{name} is {value}; at least 1 is needed")
        if min(self.drain_pause_s, self.drain_grace_s) < 0:
            raise InvalidSetting("--drain-pause and --drain-grace cannot be below 0 seconds")
        if not 0 < self.bulk_patience_s < math.inf:
            raise InvalidSetting(
                f"--bulk-patience is {self.bulk_patience_s:g}; a number of seconds above 0 is "
                "needed, or bulk work might wait for ever"
            )
        if not 0 <= self.stats_interval_s < math.inf:
            raise InvalidSetting(
                f"--stats is {self.stats_interval_s:g}; a number of seconds is needed, 0 for never"
            )
        if self.processes > 1 and self.allow_operator_calls:
            raise InvalidSetting(
                f"--allow-operator-calls with --processes {self.processes}: a call reaches one "
                "process only, and the others would go on with the models they have; operate one "
                "process, or start the server again to serve other versions"
            )
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

    @property
    def request_limits(self) -> RequestLimits:
        """What one request may hold."""
        return RequestLimits(
            self.max_request_sequences, self.max_request_steps, self.max_message_bytes
        )
