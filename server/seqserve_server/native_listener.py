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
from seqserve_server.errors import AddressUnavailable, InvalidRequest
from seqserve_server.scheduling.work import Leave
from seqserve_server.servicers.wire import deadline
from seqserve_server.status import Status, status

if TYPE_CHECKING:
    from pygrpc_native import NativeGrpcFront

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
        io_threads: Threads of pygrpc-native.
        reuse_port: Whether others may listen on the port as well.
    """

    def __init__(
        self,
        methods: Sequence[Method],
        others: grpc.aio.Server,
        *,
        max_message_bytes: int,
        io_threads: int,
        reuse_port: bool,
    ) -> None:
        self._methods = methods
        self._others = others
        self._max_message_bytes = max_message_bytes
        self._io_threads = io_threads
        self._reuse_port = reuse_port
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
                keepalive_permit_without_calls=False,  # as grpcio
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
                if kind == EVENT_CANCEL:
                    self._drop(call_id)
                elif payload is not None and details is not None:
                    self._begin(front, call_id, self._methods[method], payload, details[2])
            del events, payload  # while this waits, nobody's numbers are kept

    def _drop(self, call_id: int) -> None:
        """The caller has left."""
        if call := self._calls.pop(call_id, None):
            call.leave()

    def _begin(
        self,
        front: NativeGrpcFront,
        call_id: int,
        method: Method,
        payload: bytes,
        remaining_s: float | None,
    ) -> None:
        call = _Call(front, self._calls, call_id, method.path)
        if len(payload) > self._max_message_bytes:
            call.fail(
                Status(
                    grpc.StatusCode.RESOURCE_EXHAUSTED,  # in grpcio's words
                    "SERVER: Received message larger than max "
                    f"({len(payload)} vs. {self._max_message_bytes})",
                )
            )
            return
        try:
            request = method.parse(payload)
            call.leave = method.begin(request, len(payload), deadline(remaining_s), call.tell)
        except DecodeError:
            call.tell(InvalidRequest("the request is not the message it should be", field=""))
        except Exception as error:  # whatever it is, the caller is told
            call.tell(error)
        # It may be over already, and on another thread at this very moment.
        self._calls[call_id] = call
        if call.over:
            self._calls.pop(call_id, None)


class _Call:
    """A call under way.

    Args:
        front: Takes its answer.
        calls: Those under way; it takes itself out.
        call_id: Its number there.
        method: The path of its method.
    """

    __slots__ = ("_began", "_call_id", "_calls", "_front", "_method", "leave", "over")

    def __init__(
        self, front: NativeGrpcFront, calls: dict[int, _Call], call_id: int, method: str
    ) -> None:
        self._front = front
        self._calls = calls
        self._call_id = call_id
        self._method = method
        self._began = time.perf_counter()
        self.leave: Leave = _stay
        self.over = False

    def tell(self, response: Message | Exception) -> None:
        """Answers the call; of no effect where its caller has gone."""
        self.over = True
        self._calls.pop(self._call_id, None)
        self.leave = _stay  # it leads back here, and must not wait for the garbage collector
        if not isinstance(response, Exception):
            try:
                self._front.respond(self._call_id, response.SerializeToString())
            except Exception as error:  # whatever it is, the caller is told
                response = error
            else:
                _log.debug("%s: %.2f ms", self._method, 1e3 * (time.perf_counter() - self._began))
                return
        self.fail(status(response, self._method))

    def fail(self, failed: Status) -> None:
        """Ends the call without an answer."""
        try:
            self._front.fail(
                self._call_id, failed.code.value[0], failed.message, failed.trailing_metadata
            )
        except Exception:  # whoever calls this has others to tell
            _log.exception("%s: its status cannot be sent", self._method)


def _stay() -> None:
    """Leaves nothing: the call is over."""
