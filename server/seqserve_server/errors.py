"""What can go wrong in the server, in the words of the domain.

ServerError
├── InvalidRequest        the caller must change the request
├── ModelNotFound         no such model, or no such version of it, is served
├── ModelLoading          the version is being read and proved
├── Draining              the server is about to stop
├── QueueFull             as much work waits as is allowed to
├── DeadlineSpent         the caller's time was up before the work was done
├── Unauthenticated       the call has no token, or none that holds
├── PermissionDenied      its token is not good for this call
├── OperatorCallsRefused  the server was not started to be operated by calls
├── CannotLoad            a version that an operator asked for was refused
└── CannotStart           the server as a whole; the process ends
    ├── InvalidSetting
    ├── ProviderMissing
    ├── RepositoryMissing
    └── AddressUnavailable

`status` is the one place that knows which gRPC status each of them is.
"""

from __future__ import annotations

from collections.abc import Sequence


class ServerError(Exception):
    """Base of every error of this package."""


class InvalidRequest(ServerError):
    """The caller must change the request.

    Args:
        message: Which sequence, what was given, what is allowed.
        field: The field of the request, as `sequences.lengths[3]`.
        violations: Fields and what is wrong with each, where it is several.
    """

    def __init__(
        self, message: str, *, field: str, violations: Sequence[tuple[str, str]] = ()
    ) -> None:
        super().__init__(message)
        self.field = field
        self.violations = tuple(violations) or ((field, message),)


class ModelNotFound(ServerError):
    """No such model, or no such version of it, is served."""


class ModelLoading(ServerError):
    """The version is being read and proved; calls may be tried again."""


class Draining(ServerError):
    """The server is about to stop; another replica can answer."""

    def __init__(self) -> None:
        super().__init__("the server is stopping and takes no more calls")


class QueueFull(ServerError):
    """As much work waits as is allowed to.

    Args:
        message: How much waits, how much may.
        retry_after_s: When there may be room, in seconds.
    """

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineSpent(ServerError):
    """The caller's time was up before the work was done; the work was dropped."""

    def __init__(self) -> None:
        super().__init__("the call's deadline passed before its work was done")


class Unauthenticated(ServerError):
    """The call has no token, or none that holds."""


class PermissionDenied(ServerError):
    """The token of the call is not good for it."""


class OperatorCallsRefused(ServerError):
    """The server was not started to be operated by calls; the message says what would be needed."""


class CannotLoad(ServerError):
    """A version that an operator asked for was refused."""


class CannotStart(ServerError):
    """The server as a whole cannot start; the process ends with `exit_code`."""

    exit_code = 1


class InvalidSetting(CannotStart):
    """A setting that contradicts itself or another."""

    exit_code = 2


class ProviderMissing(CannotStart):
    """The execution provider asked for is not on this host."""

    exit_code = 2


class RepositoryMissing(CannotStart):
    """The model repository is no folder."""


class AddressUnavailable(CannotStart):
    """The address to listen on is taken, or not one of this host."""
