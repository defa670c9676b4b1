"""Who writes somewhere, as the file of a lock says it."""

from __future__ import annotations

import json
import os
import secrets
import socket
from dataclasses import asdict, dataclass

from seqserve_jobs.errors import OutputInUse


@dataclass(frozen=True)
class Holder:
    """A job that holds a lock."""

    pid: int
    host: str
    token: str
    """Of this job alone, among those of its process too."""

    @classmethod
    def here(cls) -> Holder:
        """A job of this process."""
        return cls(os.getpid(), socket.gethostname(), secrets.token_hex(8))

    @classmethod
    def from_bytes(cls, content: bytes | None) -> Holder | None:
        """The one that a lock's file names; None where it names none, for it is just written."""
        try:
            read = json.loads(content or b"")
            return cls(read["pid"], read["host"], read["token"])
        except (ValueError, TypeError, KeyError):
            return None

    def to_bytes(self, renewals: int = 0) -> bytes:
        """For the lock's file; another number shows that its writer lives."""
        return json.dumps({**asdict(self), "renewals": renewals}).encode()

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def in_use(path: str, holder: Holder | None) -> OutputInUse:
    """The error for whoever comes second."""
    who = holder or "another job"
    return OutputInUse(f"{path}: {who} writes there; wait for its end, or name another output")
