"""As much of HTTP/2 as unary gRPC calls of prepared messages need (RFC 9113, RFC 7541).

Header fields are literals without indexing, so that a call's are always the same bytes; those of
answers are not read.
"""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
_MAX_CONCURRENT_STREAMS, _INITIAL_WINDOW_SIZE = 3, 4
_LARGEST_WINDOW = 2**31 - 1
_DEFAULT_WINDOW = 65_535
_FRAME_BYTES = 16_384
_READ_BYTES = 1 << 20
_HANG_S = 60.0
_SPIN_S = 1e-4
"""The clock of select is coarser than this."""

PREFIX_BYTES = 5
"""Before a message: whether it is compressed, and its length."""

_HEADER = struct.Struct(">HBBBI")
"""Length in 16 + 8 bits, type, flags, stream."""

Event = tuple[int, int, bytes, bool]
"""Stream, type of frame, part of the message, whether the call is over."""


@dataclass
class _Upload:
    """A message that flow control lets go only in parts."""

    stream: int
    body: bytes
    window: int
    sent: int = 0


class Connection:
    """A connection to a server, plaintext; ready to carry calls.

    Args:
        address: HOST:PORT.
    """

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setblocking(False)
        self.max_streams = 0
        """How many calls the server admits at a time."""
        self.goes_away: str | None = None
        """Why the server takes no more calls on this connection, once it says so."""
        self.pongs = 0
        """Pings of ours that it has answered."""
        self._read = bytearray()
        self._written = bytearray()
        self._window = _DEFAULT_WINDOW
        self._stream_window = _DEFAULT_WINDOW
        self._received = 0
        self._uploads: dict[int, _Upload] = {}
        settings = struct.pack(">HI", _INITIAL_WINDOW_SIZE, _LARGEST_WINDOW)
        self._written += PREFACE + frame(SETTINGS, 0, 0, settings)
        self._grow_window(_LARGEST_WINDOW - _DEFAULT_WINDOW)
        while not self.max_streams:  # until its settings are here
            self.exchange(None)

    def close(self) -> None:
        """Closes the connection."""
        self._socket.close()

    def write(self, data: bytes) -> None:
        """Sends frames of the caller's own with the next exchange."""
        self._written += data

    @property
    def unsent(self) -> int:
        """Bytes that the server, or the kernel, has not taken yet."""
        return len(self._written)

    def fileno(self) -> int:
        """For `select`."""
        return self._socket.fileno()

    def begin(self, stream: int, headers: bytes, body: bytes) -> None:
        """Opens a stream, and sends of its message what flow control admits.

        Args:
            stream: Odd, and greater than those before.
            headers: As `header_block` makes it.
            body: As `prefixed` makes it.
        """
        self._written += frame(HEADERS, END_HEADERS, stream, headers)
        upload = _Upload(stream, body, self._stream_window)
        if self._uploads or not self._upload(upload):
            self._uploads[stream] = upload

    def _upload(self, upload: _Upload) -> bool:
        """Sends what the windows of the stream and the connection admit; whether that is all."""
        size = len(upload.body)
        end = upload.sent + max(0, min(size - upload.sent, upload.window, self._window))
        self._window -= end - upload.sent
        upload.window -= end - upload.sent
        while upload.sent < end:
            piece = upload.body[upload.sent : min(upload.sent + _FRAME_BYTES, end)]
            upload.sent += len(piece)
            last = END_STREAM if upload.sent == size else 0
            self._written += frame(DATA, last, upload.stream, piece)
        return upload.sent == size

    def _go_on(self) -> None:
        """Sends more of the messages that wait for a window, in the order of their calls."""
        for stream, upload in list(self._uploads.items()):
            if self._window <= 0:
                return
            if self._upload(upload):
                del self._uploads[stream]

    def exchange(self, timeout: float | None) -> list[Event]:
        """Writes and reads what can be, and returns what happened to the calls.

        Args:
            timeout: How long to wait for it, in seconds; None for as long as it takes.

        Raises:
            TimeoutError: the server does not answer at all.
            ConnectionError: it has closed the connection.
        """
        if self._written:
            self._write()
        if timeout is not None and timeout < _SPIN_S:
            timeout = 0.0
        readable, writable, _ = select.select(
            [self._socket],
            [self._socket] if self._written else [],
            [],
            _HANG_S if timeout is None else timeout,
        )
        if not readable:
            if timeout is None and not writable:
                raise TimeoutError(f"the server has answered nothing for {_HANG_S:g} s")
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

    def _frames(self) -> list[Event]:
        read, position = self._read, 0
        events: list[Event] = []
        while len(read) - position >= _HEADER.size:
            high, low, kind, flags, stream = _HEADER.unpack_from(read, position)
            begin = position + _HEADER.size
            end = begin + (high << 8 | low)
            if end > len(read):
                break
            if kind == DATA:
                self._received += end - begin
                events.append((stream, kind, bytes(read[begin:end]), bool(flags & END_STREAM)))
            elif kind == HEADERS:
                if flags & END_STREAM:
                    events.append((stream, kind, b"", True))
            elif kind == RST_STREAM:
                self._uploads.pop(stream, None)
                events.append((stream, kind, b"", True))
            else:
                self._control(kind, flags, stream, bytes(read[begin:end]))
            position = end
        del read[:position]
        if self._received > _LARGEST_WINDOW // 4:
            self._grow_window(self._received)
            self._received = 0
        return events

    def _control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == SETTINGS and not flags & ACK:
            settings = dict(struct.iter_unpack(">HI", payload))
            self.max_streams = settings.get(_MAX_CONCURRENT_STREAMS, _LARGEST_WINDOW)
            self._resize_windows(settings.get(_INITIAL_WINDOW_SIZE, self._stream_window))
            self._written += frame(SETTINGS, ACK, 0, b"")
            self._go_on()
        elif kind == PING:
            if flags & ACK:
                self.pongs += 1
            else:
                self._written += frame(PING, ACK, 0, payload)
        elif kind == WINDOW_UPDATE:
            grown = int.from_bytes(payload) & _LARGEST_WINDOW
            if stream == 0:
                self._window += grown
            elif stream in self._uploads:
                self._uploads[stream].window += grown
            self._go_on()
        elif kind == GOAWAY:
            self.goes_away = payload[8:].decode(errors="replace")

    def _resize_windows(self, size: int) -> None:
        """Those of the streams under way change as well (RFC 9113, 6.9.2)."""
        for upload in self._uploads.values():
            upload.window += size - self._stream_window
        self._stream_window = size

    def _grow_window(self, size: int) -> None:
        self._written += frame(WINDOW_UPDATE, 0, 0, size.to_bytes(4))


def wait(connections: Sequence[Connection], timeout: float | None) -> float:
    """Waits until there is something to exchange on one of them.

    Args:
        connections: Several.
        timeout: In seconds; None for as long as it takes.

    Returns:
        The timeout for the exchange on each: none is waited for.

    Raises:
        TimeoutError: the server does not answer at all.
    """
    if timeout is not None and timeout < _SPIN_S:
        return 0.0
    readable, writable, _ = select.select(
        connections,
        [connection for connection in connections if connection.unsent],
        [],
        _HANG_S if timeout is None else timeout,
    )
    if timeout is None and not readable and not writable:
        raise TimeoutError(f"the server has answered nothing for {_HANG_S:g} s")
    return 0.0


def prefixed(message: bytes) -> bytes:
    """A message as the body of a call has it."""
    return struct.pack(">BI", 0, len(message)) + message


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One frame."""
    return _HEADER.pack(len(payload) >> 8, len(payload) & 0xFF, kind, flags, stream) + payload


def header_block(address: str, method: str, metadata: Sequence[tuple[str, str]]) -> bytes:
    """The header fields of a unary call, names in lower case."""
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
