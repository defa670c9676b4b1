"""What can go wrong in a call.

SeqserveError
├── InvalidOptions        an option that cannot be, found before anything was sent
├── InvalidRequest        what was asked cannot be answered; `violations` says what and where
│   ├── InvalidSequences  sequences that the model cannot take, named by their index
│   └── CannotLoad        a version that an operator asked for was refused
├── ModelNotFound         the server has no such model, or no such version of it
├── Unauthenticated       credentials are missing, or not known to the server
├── PermissionDenied      the credentials do not allow this
├── Overloaded            the server's queue is full; `retry_after_s` says when to come again
├── Unavailable           no server answers, or the model is loading or the server draining
├── DeadlineExceeded      the time given ran out (also a TimeoutError)
├── Cancelled             the call was cancelled by one side
├── ServerFault           a defect on the server's side; `request_id` finds it in its log
└── ProtocolError         the other end is no seqserve server, or one this client cannot read
    └── ReplicasDisagree  two replicas serve different artifacts under one version
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Violation:
    """One thing that is wrong with a request."""

    description: str
    """What was given and what is allowed."""
    field: str = ""
    """The offending field of the request, such as `sequences.lengths`; empty where unknown."""
    sequence: int | None = None
    """Index into the caller's sequences, None where it concerns the whole request."""


class SeqserveError(Exception):
    """Base of every error of this package."""


class InvalidOptions(SeqserveError, ValueError):
    """An option of the client or the call that cannot be; nothing was sent."""


class InvalidRequest(SeqserveError):
    """What was asked cannot be answered.

    Args:
        message: For people.
        violations: What is wrong, one by one; empty where the server does not say.
    """

    def __init__(self, message: str, violations: Sequence[Violation] = ()) -> None:
        super().__init__(message)
        self.violations = tuple(violations)


class InvalidSequences(InvalidRequest):
    """Sequences that the model cannot take; none of the call's sequences was answered."""


class CannotLoad(InvalidRequest):
    """A version that an operator asked for was refused: damaged, or not proved there."""


class ModelNotFound(SeqserveError):
    """The server has no such model, or no such version of it."""


class Unauthenticated(SeqserveError):
    """Credentials are missing, or not known to the server."""


class PermissionDenied(SeqserveError):
    """The credentials do not allow this."""


class Overloaded(SeqserveError):
    """The server's queue is full.

    Args:
        message: For people.
        retry_after_s: When to come again, in seconds; None where the server does not say.
    """

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Unavailable(SeqserveError):
    """No server answers, or the model is loading or the server draining; retries were in vain."""


class DeadlineExceeded(SeqserveError, TimeoutError):
    """The time given ran out. The server has dropped the work."""


class Cancelled(SeqserveError):
    """The call was cancelled by one side."""


class ServerFault(SeqserveError):
    """A defect on the server's side.

    Args:
        message: For people.
        request_id: Finds the call in the server's log; None where the server gave none.
    """

    def __init__(self, message: str, request_id: str | None = None) -> None:
        super().__init__(message)
        self.request_id = request_id


class ProtocolError(SeqserveError):
    """The other end is no seqserve server, or one this client cannot read."""


class ReplicasDisagree(ProtocolError):
    """Two replicas serve different artifacts under one version."""
