"""Calls by pygrpc-native: begun on one thread, answered from whichever thread has the answer.

HTTP/2 and gRPC framing are done by threads of pygrpc-native, outside the interpreter. What they
have read is taken and begun many calls at a time, without an event loop; the lane that ends a call
hands the answer back itself. Methods that are not worth this go to a grpcio server behind it.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import DecodeError, Message

from seqserve_server import cores
from seqserve_server.errors import AddressUnavailable, DeadlineSpent
from seqserve_server.observability import request_log
from seqserve_server.observability.metrics.calls import OK, Calls
from seqserve_server.scheduling.work import Leave, stay
from seqserve_server.security.access import Metadata
from seqserve_server.servicers.wire import deadline
from seqserve_server.status import Status, left, status
from seqserve_server.transports.connections import MOST, ConnectionLimits, milliseconds
from seqserve_server.transports.decoding import undecodable

if TYPE_CHECKING:
    from pygrpc_native import CallDetails, NativeGrpcFront

    from seqserve_server.observability.spans import CallSpan, Spans

_log = logging.getLogger(__name__)

_MOST_EVENTS = 256
"""Taken at a time."""

Tell = Callable[[Message | Exception], None]


@dataclass(frozen=True)
class Method:
    """A method whose calls are begun without an event loop."""

    path: str
    """`/package.Service/Method`."""
    parse: Callable[[bytes], Any]
    """Makes a request of its bytes."""
    begin: Callable[[Any, int, float, Tell], Leave]
    """Begins a call: takes the request, its bytes, the deadline on the monotonic clock, and what to
    tell the response or why there is none; returns how to leave."""


class NativeListener:
    """One plaintext port. To be used as a `grpc.aio.Server`, on one event loop.

    Args:
        methods: Those that are begun here.
        others: Serves all other methods; it has no port of its own.
        max_message_bytes: Longer requests are refused without being parsed.
        limits: Of each connection, but for its age and idleness.
        admit: Raises where the metadata of a call do not let it in; None lets in all.
        io_threads: Threads of pygrpc-native.
        reuse_port: Whether others may listen on the port as well.
        counts: Told of every call that ends.
        spans: Makes one of every call.
    """

    def __init__(
        self,
        methods: Sequence[Method],
        others: grpc.aio.Server,
        *,
        max_message_bytes: int,
        limits: ConnectionLimits,
        admit: Callable[[Metadata], object] | None,
        io_threads: int,
        reuse_port: bool,
        counts: Calls | None = None,
        spans: Spans | None = None,
    ) -> None:
        self._methods = methods
        self._others = others
        self._max_message_bytes = max_message_bytes
        self._limits = limits
        self._admit = admit
        self._io_threads = io_threads
        self._reuse_port = reuse_port
        self._counts = counts
        self._spans = spans
        self._calls: dict[int, _Call] = {}
        self._front: NativeGrpcFront | None = None
        self._thread = threading.Thread(target=self._receive, name="seqserve-calls", daemon=True)
        self._folder: Path | None = None

    def add_insecure_port(self, address: str) -> int:
        """The port that it has taken.

        Raises:
            OSError: it is taken, or the host is not this one.
        """
        from pygrpc_native import NativeGrpcFront

        # Of several threads for one core, those that bring calls wait for the lane to reach a
        # border: had each call interrupted it, the switches would cost more than the calls.
        with cores.patient_threads():
            self._front = NativeGrpcFront(
                address,
                [(method.path, False) for method in self._methods],
                io_threads=self._io_threads,
                call_details=True,
                keepalive_time_ms=milliseconds(self._limits.keepalive_s),
                keepalive_timeout_ms=milliseconds(self._limits.keepalive_timeout_s),
                # Or a peer without a call that has vanished would be kept for ever.
                keepalive_permit_without_calls=True,
                max_concurrent_streams=min(self._limits.max_concurrent_streams, MOST),
                max_metadata_size=min(self._limits.max_metadata_bytes, MOST),
                reuse_port=self._reuse_port,
            )
        return self._front.bound_port

    async def start(self) -> None:
        """Takes calls from now on.

        Raises:
            AddressUnavailable: there can be no way to the other methods.
        """
        front = self._bound()
        self._folder = Path(tempfile.mkdtemp(prefix="seqserve-"))  # nobody else may look into it
        socket = self._folder / "others"
        try:
            self._others.add_insecure_port(f"unix:{socket}")
        except RuntimeError as error:
            await self.stop(None)
            raise AddressUnavailable(
                f"cannot listen on {socket}, for all calls but Classify and Advance: is TMPDIR "
                "writable, and its name short?"
            ) from error
        await self._others.start()
        front.set_fallback(str(socket))
        with cores.patient_threads():
            front.start()
            self._thread.start()

    async def stop(self, grace: float | None) -> None:
        """Closes every connection; calls of the other methods have the grace to end."""
        await self._others.stop(grace)
        await asyncio.to_thread(self._bound().close)
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _bound(self) -> NativeGrpcFront:
        assert self._front is not None, "add_insecure_port() comes first"
        return self._front

    def _receive(self) -> None:
        """Begins calls, and drops those whose callers have left, until the port is closed."""
        from pygrpc_native import EVENT_CANCEL

        front = self._bound()
        while (events := front.recv_batch_details(_MOST_EVENTS)) is not None:
            for kind, call_id, method, payload, _, details in events:
                try:
                    if kind == EVENT_CANCEL:
                        self._drop(call_id)
                    elif payload is not None and details is not None:
                        self._begin(front, call_id, self._methods[method], payload, details)
                except Exception:  # what counts, logs or traces a call must not end all others
                    _log.exception("%s: a call is not accounted for", self._methods[method].path)
            del events, payload  # while this waits, nobody's numbers are kept

    def _drop(self, call_id: int) -> None:
        """The caller has left."""
        if call := self._calls.pop(call_id, None):
            call.leave()
            call.left()

    def _begin(
        self,
        front: NativeGrpcFront,
        call_id: int,
        method: Method,
        payload: bytes,
        details: CallDetails,
    ) -> None:
        metadata, _, remaining_s = details
        call = _Call(
            front, self._calls, call_id, method.path, metadata, deadline(remaining_s), self._counts
        )
        # Before it begins: it may be over at once, and on another thread.
        self._calls[call_id] = call
        if self._spans is not None:
            try:
                call.span = self._spans.call(method.path, metadata)
            except Exception:
                _log.exception("%s: a call is not traced", method.path)
        if call.span is None:
            self._ask(call, method, payload, metadata)
            return
        with call.span.current():
            self._ask(call, method, payload, metadata)

    def _ask(self, call: _Call, method: Method, payload: bytes, metadata: Metadata) -> None:
        if self._admit is not None:
            try:
                self._admit(metadata)
            except Exception as error:  # whatever it is, the caller is told
                call.tell(error)
                return
        if len(payload) > self._max_message_bytes:
            call.refuse(
                Status(
                    grpc.StatusCode.RESOURCE_EXHAUSTED,  # in grpcio's words
                    "SERVER: Received message larger than max "
                    f"({len(payload)} vs. {self._max_message_bytes})",
                    reason="MessageTooLarge",
                )
            )
            return
        if call.deadline <= time.monotonic():  # it waited too long to be begun
            call.tell(DeadlineSpent())
            return
        try:
            request = method.parse(payload)
            call.model = getattr(request, "model_name", "")
            call.leave = method.begin(request, len(payload), call.deadline, call.tell)
        except DecodeError:
            call.tell(undecodable())
        except Exception as error:  # whatever it is, the caller is told
            call.tell(error)
        if call.call_id not in self._calls:  # over meanwhile
            call.leave = stay


class _Call:
    """A call under way. Whoever takes it out of those has the last word on it.

    Args:
        front: Takes its answer.
        calls: Those under way.
        call_id: Its number there.
        method: The path of its method.
        metadata: Its caller's.
        deadline: When its caller stops waiting, on the monotonic clock.
        counts: Told how it ended.
    """

    __slots__ = (
        "_began",
        "_calls",
        "_counts",
        "_front",
        "_metadata",
        "_method",
        "call_id",
        "deadline",
        "leave",
        "model",
        "span",
    )

    def __init__(
        self,
        front: NativeGrpcFront,
        calls: dict[int, _Call],
        call_id: int,
        method: str,
        metadata: Metadata,
        deadline: float,
        counts: Calls | None,
    ) -> None:
        self._front = front
        self._calls = calls
        self.call_id = call_id
        self._method = method
        self._metadata = metadata
        self.deadline = deadline
        self._counts = counts
        self._began = time.perf_counter()
        self.model = ""
        """As its caller named it."""
        self.span: CallSpan | None = None
        self.leave: Leave = stay

    def tell(self, response: Message | Exception) -> None:
        """Answers the call; of no effect where its caller has gone."""
        if self._calls.pop(self.call_id, None) is None:
            return
        self.leave = stay  # it leads back here, and must not wait for the garbage collector
        if self.span is None:
            self._answer(response)
            return
        with self.span.current():
            self._answer(response)

    def refuse(self, failed: Status) -> None:
        """Ends the call before it has begun."""
        self._calls.pop(self.call_id, None)
        self._fail(failed)

    def left(self) -> None:
        """Notes that its caller waits no longer."""
        code = left(self.deadline - time.monotonic()).name
        if self.span is None:
            self._note(code)
            return
        with self.span.current():
            self._note(code)

    def _answer(self, response: Message | Exception) -> None:
        if not isinstance(response, Exception):
            try:
                heard = self._front.respond(self.call_id, response.SerializeToString())
            except Exception as error:  # whatever it is, the caller is told
                response = error
            else:
                if heard:
                    self._note(OK)
                else:
                    self.left()
                return
        self._fail(status(response, self._method, self._metadata))

    def _fail(self, failed: Status) -> None:
        try:
            self._front.fail(
                self.call_id, failed.code.value[0], failed.message, failed.trailing_metadata
            )
        except Exception:  # whoever calls this has others to tell
            _log.exception("%s: its status cannot be sent", self._method)
        self._note(failed.code.name, failed.reason, failed.request_id)

    def _note(self, code: str, reason: str = "", request_id: str = "") -> None:
        if request_log.wanted():
            named = request_id or request_log.request_id(self._metadata)
            seconds = time.perf_counter() - self._began
            request_log.write(self._method, self.model, code, reason, seconds, named)
        if self._counts is not None:
            seconds = time.perf_counter() - self._began
            self._counts.ended(self._method, self.model, code, reason, seconds)
        if self.span is not None:
            self.span.end(code)
