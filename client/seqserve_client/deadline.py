"""The end of a call as a point in time, so that all that it is made of shares it."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from seqserve_client.errors import DeadlineExceeded, InvalidOptions


@dataclass(frozen=True)
class Deadline:
    """When a call must have ended."""

    at: float
    """On the monotonic clock, in seconds; infinite where the call may take any time."""

    @classmethod
    def after(cls, timeout_s: float) -> Deadline:
        """The deadline of a call that begins now.

        Raises:
            InvalidOptions: the timeout is not above 0.
        """
        return cls(time.monotonic() + checked_timeout(timeout_s))

    def remaining_s(self) -> float | None:
        """Seconds left; None without a limit, which is how gRPC says so.

        Raises:
            DeadlineExceeded: none are left.
        """
        if math.isinf(self.at):
            return None
        remaining = self.at - time.monotonic()
        if remaining <= 0:
            raise DeadlineExceeded("the time given ran out before all requests were sent")
        return remaining


def checked_timeout(timeout_s: float) -> float:
    """The timeout, where it can be one.

    Raises:
        InvalidOptions: it is not above 0.
    """
    if not timeout_s > 0:
        raise InvalidOptions(f"timeout_s is {timeout_s}; seconds above 0 or math.inf are needed")
    return timeout_s
