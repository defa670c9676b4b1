"""How a client calls: the settings that `Client` and `AsyncClient` share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import grpc

from seqserve_client import defaults
from seqserve_client.connection import Token, stays_here
from seqserve_client.deadline import Deadline, checked_timeout
from seqserve_client.errors import InvalidOptions

Metadata = Sequence[tuple[str, str | bytes]]
"""Names in lower case; those of bytes end in `-bin`."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of a client, for all of its calls."""

    address: str = defaults.ADDRESS
    """`host:port`, several with commas, or a URI in gRPC's naming scheme."""
    credentials: grpc.ChannelCredentials | None = None
    """For TLS; None for plaintext."""
    token: Token | None = None
    """What every call shows to be let in; None for nothing."""
    token_in_plaintext: bool = False
    """Whether it may leave this host without TLS."""
    metadata: tuple[tuple[str, str | bytes], ...] = field(default=(), repr=False)
    """Headers sent with every call; they may hold secrets."""
    timeout_s: float = defaults.TIMEOUT_S
    """For calls that give none, in seconds; `math.inf` waits for ever."""
    max_message_bytes: int = defaults.MAX_MESSAGE_BYTES
    """Bytes of a request beyond which a batch is cut; a longer sequence travels alone."""
    max_request_sequences: int = defaults.MAX_REQUEST_SEQUENCES
    """Sequences of a request beyond which a batch is cut."""
    max_request_steps: int = defaults.MAX_REQUEST_STEPS
    """Steps of a request beyond which a batch is cut; a longer sequence travels alone."""
    max_in_flight: int = defaults.MAX_IN_FLIGHT
    """Requests of one call under way at a time."""
    coalesce_sequences: int = defaults.COALESCE_SEQUENCES
    """Calls of a single sequence that leave as one request, at most; 1 sends each by itself."""
    coalesce_delay_s: float = defaults.COALESCE_DELAY_S
    """How long such a call waits for others, in seconds for each request under way."""
    keepalive_s: float = defaults.KEEPALIVE_S
    """With calls under way, a server silent for so long is asked whether it is there; `math.inf`
    never asks."""
    keepalive_timeout_s: float = defaults.KEEPALIVE_TIMEOUT_S
    """One that does not say so for so long is gone, and its calls fail or go to another."""

    def __post_init__(self) -> None:
        checked_timeout(self.timeout_s)
        if not (
            self.token is None
            or self.credentials is not None
            or self.token_in_plaintext
            or stays_here(self.address)
        ):
            raise InvalidOptions(
                f"a token would leave this host in plaintext on its way to {self.address}: ask for "
                "TLS with tls or ca_file, or for token_in_plaintext where the network is to be "
                "trusted"
            )
        for name, value in {
            "max_message_bytes": self.max_message_bytes,
            "max_request_sequences": self.max_request_sequences,
            "max_request_steps": self.max_request_steps,
            "max_in_flight": self.max_in_flight,
            "coalesce_sequences": self.coalesce_sequences,
        }.items():
            if value < 1:
                raise InvalidOptions(f"{name} is {value}; at least 1 is needed")
        if not 0 <= self.coalesce_delay_s < math.inf:
            raise InvalidOptions(
                f"coalesce_delay_s is {self.coalesce_delay_s}; seconds of at least 0 are needed"
            )
        for name, seconds in {
            "keepalive_s": self.keepalive_s,
            "keepalive_timeout_s": self.keepalive_timeout_s,
        }.items():
            if not seconds > 0:
                raise InvalidOptions(f"{name} is {seconds}; seconds above 0 are needed")

    def call_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """The headers of a call that begins now."""
        return self.metadata if self.token is None else (*self.metadata, self.token.metadatum())

    def deadline(self, timeout_s: float | None) -> Deadline:
        """The deadline of a call that begins now, after the client's timeout by default."""
        return Deadline.after(self.timeout_s if timeout_s is None else timeout_s)
