"""gRPC's status of a failed call, as one of this package's errors: the one place that knows both.

The details are google.rpc messages: BadRequest names what is wrong with a request, RetryInfo
says when to come again, RequestInfo names the call in the server's log.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc_status import rpc_status

from seqserve_client import errors
from seqserve_client.errors import SeqserveError, Violation

Code = grpc.StatusCode
Detail = TypeVar("Detail", bound=Message)

_NEVER_CONNECTED = ("connections to all backends failing", "failed to connect to all addresses")
_CLOSED = ("Socket closed", "Connection reset by peer (104)")
# In newer gRPC's words and in older's.
_OTHER_NAME = ("Hostname Verification Check failed", "is not in peer certificate")

_SCHEME = re.compile(r"^(?:dns|ipv4|ipv6|xds):(?://[^/]*/)?")
_HOST = re.compile(r"(?:\[(.+)\]|([^:]+))(?::\w+)?")
_INDEX = re.compile(r"\[(\d+)\]")


@contextmanager
def typed_errors(target: str, first_sequence: int = 0) -> Iterator[None]:
    """Turns the failure of a call made within into one of this package's errors.

    Args:
        target: Where the call goes, for the message.
        first_sequence: Index, among the caller's sequences, of the request's first.
    """
    try:
        yield
    except grpc.RpcError as error:
        raise Failure.of(error, target, first_sequence).as_error() from error
    except grpc.FutureCancelledError as error:
        raise errors.Cancelled("the client was closed while the call was under way") from error


@dataclass(frozen=True)
class Failure:
    """How a call failed."""

    code: grpc.StatusCode
    message: str
    details: status_pb2.Status
    target: str
    first_sequence: int = 0

    @classmethod
    def of(cls, error: grpc.RpcError, target: str, first_sequence: int) -> Failure:
        """Reads what `grpc` or `grpc.aio` raised; both answer to the same methods."""
        call: grpc.Call = error  # type: ignore[assignment]
        try:
            details = rpc_status.from_call(call)
        except (DecodeError, ValueError):  # something on the way altered one of the two
            details = None
        return cls(
            call.code(),
            call.details() or "",
            details or status_pb2.Status(),
            target,
            first_sequence,
        )

    def as_error(self) -> SeqserveError:
        """The error to raise."""
        return _MAPPING.get(self.code, _fault)(self)

    def find(self, kind: type[Detail]) -> Detail | None:
        """The first of the details that is of `kind`."""
        for packed in self.details.details:
            detail = kind()
            if packed.Unpack(detail):
                return detail
        return None


def _violations(failure: Failure) -> Iterator[Violation]:
    request = failure.find(error_details_pb2.BadRequest) or error_details_pb2.BadRequest()
    for found in request.field_violations:
        index = _INDEX.search(found.field)
        if index is None:
            yield Violation(found.description, found.field)
            continue
        # The server counts within its request, which may be a piece of the caller's batch.
        here = int(index[1])
        there = here + failure.first_sequence
        text = renumbered(found.description, here, there)
        yield Violation(text, _INDEX.sub("", found.field, count=1), there)


def of_sequence(violation: Violation, index: int) -> Violation:
    """The same, said of another sequence."""
    if violation.sequence is None or violation.sequence == index:
        return violation
    text = renumbered(violation.description, violation.sequence, index)
    return replace(violation, description=text, sequence=index)


def renumbered(description: str, here: int, there: int) -> str:
    """What was said of sequence `here`, said of sequence `there`."""
    return re.sub(rf"\bsequence {here}\b", f"sequence {there}", description)


def _invalid(failure: Failure) -> SeqserveError:
    violations = tuple(_violations(failure))
    if all(violation.sequence is None for violation in violations):
        return errors.InvalidRequest(failure.message, violations)
    first = violations[0]
    if first.sequence is not None:
        here = first.sequence - failure.first_sequence
        text = renumbered(failure.message, here, first.sequence)
        if text.startswith(first.description):  # and may know of more than it could list
            return errors.InvalidSequences(text, violations)
    return invalid_sequences(violations)


def invalid_sequences(violations: tuple[Violation, ...]) -> errors.InvalidSequences:
    """The error for these violations, its message the first of them."""
    first, others = violations[0], len(violations) - 1
    text = first.description
    if first.sequence is not None and f"sequence {first.sequence}" not in text:
        text = f"sequence {first.sequence}: {text}"
    return errors.InvalidSequences(text + (f" (and {others} more)" if others else ""), violations)


def _exhausted(failure: Failure) -> SeqserveError:
    # gRPC's own refusal of a long message, which coming again does not help.
    if "message larger than max" in failure.message:
        return errors.InvalidRequest(
            f"a request is over the server's message limit ({failure.message}): "
            "cut batches earlier with max_message_bytes, or send shorter sequences"
        )
    retry = failure.find(error_details_pb2.RetryInfo)
    delay = retry.retry_delay.ToTimedelta().total_seconds() if retry else None
    return errors.Overloaded(failure.message or f"{failure.target} is overloaded", delay)


def _unavailable(failure: Failure) -> SeqserveError:
    if failure.message.endswith("backend unhealthy"):  # gRPC's word for what health says
        return not_serving(failure.target)
    hint = _hint(failure.message, failure.target)
    message = failure.message.removesuffix(".") if hint else failure.message
    return errors.Unavailable(f"{failure.target} is unavailable: {message}{hint}")


def _hint(message: str, target: str) -> str:
    """What to look at where the two ends do not agree about TLS."""
    if any(words in message for words in _OTHER_NAME):
        return (
            f"; its certificate does not name {_host(target)}: issue one that does, or ask by a "
            "name that is in it"
        )
    if "WRONG_VERSION_NUMBER" in message:
        return "; it does not speak TLS: leave out --tls and --ca-file?"
    if "CERTIFICATE_VERIFY_FAILED" in message:
        return "; has one of the authorities in --ca-file signed the server's certificate?"
    # In gRPC's words: a connection that was never any good, as opposed to one that was lost.
    if message.startswith(_NEVER_CONNECTED) and message.endswith(_CLOSED):
        return (
            "; it closes connections before anything is said: does it ask for --tls or --ca-file, "
            "or for a certificate of the client's, --certificate-file?"
        )
    return ""


def _host(target: str) -> str:
    """Whom gRPC asks a server's certificate for: of several servers, the first."""
    if target.startswith("unix"):
        return "localhost"
    first = _SCHEME.sub("", target).split(",")[0].strip()
    found = _HOST.fullmatch(first)
    return found[1] or found[2] if found else first  # a bare IPv6 address has no port


def not_serving(target: str) -> SeqserveError:
    """The error for a server that says of itself, by grpc.health.v1, that it does not serve."""
    return errors.Unavailable(
        f"{target} has no model ready: it loads, drains, or has refused all that it found; "
        "`seqserve models` says which"
    )


def _deadline(failure: Failure) -> SeqserveError:
    return errors.DeadlineExceeded(f"{failure.target} did not answer in the time given")


def _unimplemented(failure: Failure) -> SeqserveError:
    return errors.ProtocolError(
        f"{failure.target} does not know this call; is it a seqserve server? ({failure.message})"
    )


def _fault(failure: Failure) -> SeqserveError:
    info = failure.find(error_details_pb2.RequestInfo)
    request_id = info.request_id if info and info.request_id else None
    text = failure.message or "no details"
    if request_id and request_id not in text:
        text = f"{text} (request {request_id})"
    return errors.ServerFault(f"{failure.target} failed: {failure.code.name}: {text}", request_id)


def _plain(kind: type[SeqserveError]) -> Callable[[Failure], SeqserveError]:
    return lambda failure: kind(failure.message or failure.code.name)


_MAPPING: dict[grpc.StatusCode, Callable[[Failure], SeqserveError]] = {
    Code.INVALID_ARGUMENT: _invalid,
    Code.FAILED_PRECONDITION: _plain(errors.CannotLoad),
    Code.OUT_OF_RANGE: _invalid,
    Code.NOT_FOUND: _plain(errors.ModelNotFound),
    Code.UNAUTHENTICATED: _plain(errors.Unauthenticated),
    Code.PERMISSION_DENIED: _plain(errors.PermissionDenied),
    Code.RESOURCE_EXHAUSTED: _exhausted,
    Code.UNAVAILABLE: _unavailable,
    Code.DEADLINE_EXCEEDED: _deadline,
    Code.CANCELLED: _plain(errors.Cancelled),
    Code.UNIMPLEMENTED: _unimplemented,
}
