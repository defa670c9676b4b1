"""What a connection may do: how many calls at a time, how silent, how old."""

from __future__ import annotations

from dataclasses import dataclass

from seqserve_server import options

MOST = 2**31 - 1
"""What both transports can be told; of milliseconds it means never."""


@dataclass(frozen=True)
class ConnectionLimits:
    """What holds for each connection by itself."""

    max_concurrent_streams: int = options.MAX_CONCURRENT_STREAMS
    """Calls under way; the client keeps others back until one has ended."""
    max_metadata_bytes: int = options.MAX_METADATA_BYTES
    """Of a call, as HTTP/2 counts them: names, values, and 32 for each."""
    keepalive_s: float = options.KEEPALIVE_S
    """After so long without a byte from the peer it is pinged, with calls under way or without."""
    keepalive_timeout_s: float = options.KEEPALIVE_TIMEOUT_S
    """A peer that does not answer the ping for so long is gone."""
    max_age_s: float = options.MAX_CONNECTION_AGE_S
    """Then its client is told to connect again, and its calls go on to their end; 0 for never."""
    max_idle_s: float = options.MAX_CONNECTION_IDLE_S
    """The same after so long without a call; 0 for never."""


def milliseconds(seconds: float) -> int:
    """As the transports take a time; at least one."""
    return max(1, min(int(1e3 * seconds), MOST))
