"""A gRPC load generator that costs its core little: unary calls as prepared HTTP/2 frames.

A Python gRPC client spends several times what the server does on a small call, so that on two
cores it would measure itself. This one writes frames that were made beforehand (RFC 9113; header
fields as literals without indexing, RFC 7541) and reads answers no further than their frames.

Calls leave on a schedule, answered or not (open loop), or as earlier ones are answered (closed
loop). A latency counts from the moment a call was *meant* to leave: whatever keeps the generator
or the connection from sending in time counts as waiting, as it does for a real caller.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM = _ACK = 0x1
_END_HEADERS = 0x4
_INITIAL_WINDOW_SIZE, _MAX_FRAME_SIZE = 4, 5
_LARGEST_WINDOW = 2**31 - 1
_DEFAULT_WINDOW = 65_535
_FRAME_BYTES = 16_384
_READ_BYTES = 1 << 20

_HEADER = struct.Struct(">HBBBI")
"""Length in 16 + 8 bits, type, flags, stream."""


@dataclass(frozen=True)
class Answered:
    """What became of a schedule of calls."""

    latencies_s: NDArray[np.float64]
    """(calls,), from the intended moment to the last frame; infinite where the call failed."""
    lateness_s: NDArray[np.float64]
    """(calls,), from the intended moment to the writing: the generator's own part."""
    seconds: float
    """From the first intended moment to the last answer."""
    answers: dict[int, bytes]
    """The messages of the calls to be kept."""

    @property
    def failed(self) -> int:
        """Calls that ended without a message."""
        return int(np.isinf(self.latencies_s).sum())


class Load:
    """One connection that carries prepared calls of one method.

    Args:
        address: HOST:PORT, plaintext.
        method: `/package.Service/Method`.
        messages: Serialised requests.
        metadata: Header fields of every call, names in lower case.
    """

    def __init__(
        self,
        address: str,
        method: str,
        messages: Sequence[bytes],
        metadata: Sequence[tuple[str, str]] = (),
    ) -> None:
        self._headers = _header_block(address, method, metadata)
        self._bodies = [struct.pack(">BI", 0, len(message)) + message for message in messages]
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setblocking(False)
        self._read = bytearray()
        self._written = bytearray()
        self._window = _DEFAULT_WINDOW
        self._stream_window = _DEFAULT_WINDOW
        self._received = 0
        self._next_stream = 1
        self._blocked: deque[int] = deque()
        settings = struct.pack(">HI", _INITIAL_WINDOW_SIZE, _LARGEST_WINDOW)
        self._written += _PREFACE + _frame(_SETTINGS, 0, 0, settings)
        self._grow_window(_LARGEST_WINDOW - _DEFAULT_WINDOW)

    def close(self) -> None:
        """Closes the connection."""
        self._socket.close()

    def open_loop(
        self, times_s: NDArray[np.float64], which: NDArray[np.int64], keep: Sequence[int] = ()
    ) -> Answered:
        """Sends call i at `times_s[i]`, answered or not.

        Args:
            times_s: (calls,), ascending, from now on.
            which: (calls,), the message of each.
            keep: Calls whose answers are wanted.
        """
        return self._run(which, times_s, len(which), keep)

    def closed_loop(
        self, which: NDArray[np.int64], in_flight: int, keep: Sequence[int] = ()
    ) -> Answered:
        """Sends every call as soon as fewer than `in_flight` are unanswered.

        Latencies count from when a call could leave.

        Args:
            which: (calls,), the message of each.
            in_flight: Calls unanswered at a time.
            keep: Calls whose answers are wanted.
        """
        return self._run(which, None, in_flight, keep)

    def _run(
        self,
        which: NDArray[np.int64],
        times_s: NDArray[np.float64] | None,
        in_flight: int,
        keep: Sequence[int],
    ) -> Answered:
        count = len(which)
        messages = which.tolist()
        due = [0.0] * count if times_s is None else times_s.tolist()
        begun, sent = list(due), [0.0] * count
        ended = [float("inf")] * count
        first_stream = self._next_stream
        bodies: dict[int, list[bytes]] = {call: [] for call in keep}
        start = time.perf_counter()
        next_call, answered = 0, 0
        while answered < count:
            now = time.perf_counter() - start
            while next_call < count and next_call - answered < in_flight and due[next_call] <= now:
                if times_s is None:
                    begun[next_call] = now
                self._begin(messages[next_call])
                sent[next_call] = now
                next_call += 1
            waiting = next_call < count and next_call - answered < in_flight
            timeout = max(0.0, due[next_call] - now) if waiting else None
            for stream, message, over in self._exchange(timeout):
                call = (stream - first_stream) // 2
                if call in bodies and message:
                    bodies[call].append(message)
                if message is not None and ended[call] == float("inf"):
                    ended[call] = -1.0  # a message came: the call is good once it is over
                if over:
                    answered += 1
                    if ended[call] == -1.0:
                        ended[call] = time.perf_counter() - start
        seconds = time.perf_counter() - start - due[0]
        from_intended = np.array(ended) - np.array(begun)
        return Answered(
            latencies_s=from_intended,
            lateness_s=np.array(sent) - np.array(begun),
            seconds=seconds,
            answers={call: b"".join(parts)[5:] for call, parts in bodies.items()},
        )

    def _begin(self, message: int) -> None:
        """Opens the next stream with the call's header fields; its message where it may go."""
        stream = self._next_stream
        self._next_stream += 2
        self._blocked.append((stream << 32) | message)
        self._send_blocked()

    def _send_blocked(self) -> None:
        """Sends whole calls as long as the connection's window holds them."""
        while self._blocked:
            stream, message = self._blocked[0] >> 32, self._blocked[0] & 0xFFFF_FFFF
            body = self._bodies[message]
            if len(body) > self._window:
                return
            assert len(body) <= self._stream_window, "the server takes smaller messages at once"
            self._blocked.popleft()
            self._window -= len(body)
            self._written += _frame(_HEADERS, _END_HEADERS, stream, self._headers)
            for begin in range(0, len(body), _FRAME_BYTES):
                piece = body[begin : begin + _FRAME_BYTES]
                last = _END_STREAM if begin + _FRAME_BYTES >= len(body) else 0
                self._written += _frame(_DATA, last, stream, piece)

    def _exchange(self, timeout: float | None) -> list[tuple[int, bytes | None, bool]]:
        """Writes and reads what can be, and returns (stream, part of its message, is it over)."""
        if self._written:
            self._write()
        if timeout is not None and timeout < 1e-4:
            timeout = 0.0  # the clock of select is coarser
        readable, _, _ = select.select(
            [self._socket], [self._socket] if self._written else [], [], timeout
        )
        if not readable:
            return []
        data = self._socket.recv(_READ_BYTES)
        if not data:
            raise ConnectionError("the server closed the connection")
        self._read += data
        return self._frames()

    def _write(self) -> None:
        try:
            del self._written[: self._socket.send(self._written)]
        except BlockingIOError:
            return

    def _frames(self) -> list[tuple[int, bytes | None, bool]]:
        read, position = self._read, 0
        events: list[tuple[int, bytes | None, bool]] = []
        while len(read) - position >= 9:
            high, low, kind, flags, stream = _HEADER.unpack_from(read, position)
            end = position + 9 + (high << 8 | low)
            if end > len(read):
                break
            if kind == _DATA:
                self._received += end - position - 9
                events.append((stream, bytes(read[position + 9 : end]), bool(flags & _END_STREAM)))
            elif kind == _HEADERS:
                if flags & _END_STREAM:
                    events.append((stream, None, True))
            elif kind == _RST_STREAM:
                events.append((stream, None, True))
            else:
                self._control(kind, flags, stream, bytes(read[position + 9 : end]))
            position = end
        del read[:position]
        if self._received > _LARGEST_WINDOW // 4:
            self._grow_window(self._received)
            self._received = 0
        return events

    def _control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _SETTINGS and not flags & _ACK:
            for setting, value in struct.iter_unpack(">HI", payload):
                if setting == _INITIAL_WINDOW_SIZE:
                    self._stream_window = value
            self._written += _frame(_SETTINGS, _ACK, 0, b"")
        elif kind == _PING and not flags & _ACK:
            self._written += _frame(_PING, _ACK, 0, payload)
        elif kind == _WINDOW_UPDATE and stream == 0:
            self._window += int.from_bytes(payload, "big")
            self._send_blocked()
        elif kind == _GOAWAY:
            raise ConnectionError(f"the server goes away: {payload[8:]!r}")

    def _grow_window(self, size: int) -> None:
        self._written += _frame(_WINDOW_UPDATE, 0, 0, size.to_bytes(4, "big"))


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return _HEADER.pack(len(payload) >> 8, len(payload) & 0xFF, kind, flags, stream) + payload


def _header_block(address: str, method: str, metadata: Sequence[tuple[str, str]]) -> bytes:
    fields = [
        (":authority", address),
        (":path", method),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        *metadata,
    ]
    # 0x83 and 0x86 are ":method: POST" and ":scheme: http" of the static table.
    block = b"\x83\x86"
    for name, value in fields:
        assert max(len(name), len(value)) < 127, "a longer one needs more bytes for its length"
        block += b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
    return block
