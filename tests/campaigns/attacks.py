"""Slow and hostile peers: each a process of its own that lasts as long as its context.

A flood is of as many frames a second as one busy client manages beside a pause of a millisecond,
so that it is the server that is tried and not the core that the attacker shares with the load.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection as Pipe

from benchmarks.calls import CLASSIFY
from benchmarks.http2 import (
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    frame,
    header_block,
    prefixed,
)

_CONTINUATION = 9
_CANCEL = (8).to_bytes(4)
_PAUSE_S = 1e-3
_FRAMES = 10
_READY_S = 60.0
_FIELD_BYTES = 16_000

Attack = Callable[[str, bytes, Pipe], None]
"""Takes HOST:PORT, a serialised request, and a pipe: tells it what was done, ends when it hears."""


@contextmanager
def attacked(attack: Attack, address: str, message: bytes) -> Iterator[None]:
    """A server under an attack."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_run, args=(attack, address, message, there), daemon=True)
    process.start()
    there.close()
    assert here.poll(_READY_S), f"{attack.__name__} did not begin"
    here.recv()
    try:
        yield
    finally:
        assert process.is_alive(), f"{attack.__name__} ended by itself"
        here.send(None)
        process.join()


def _run(attack: Attack, address: str, message: bytes, pipe: Pipe) -> None:
    os.nice(5)  # the load that is measured comes first on the core that they share
    attack(address, message, pipe)


def stops_reading(address: str, message: bytes, pipe: Pipe) -> None:
    """Twenty clients that ask as much as they may, and read no answer."""
    call = _call(address, message)
    peers = []
    for _ in range(20):
        peer = _connected(address)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.settimeout(0.2)
        with suppress(TimeoutError, ConnectionError):
            for stream in range(1, 200, 2):
                peer.sendall(call(stream))
        peers.append(peer)
    _until_told(pipe)


def half_open(address: str, message: bytes, pipe: Pipe) -> None:
    """Five hundred who connect and say nothing, and as many whose call never ends."""
    silent = [_dialled(address) for _ in range(500)]
    calling = [_connected(address) for _ in range(500)]
    begun = _call(address, message)(1)
    for peer in calling:
        peer.sendall(begun[: -len(message) // 2])
    _until_told(pipe)
    del silent


def byte_by_byte(address: str, message: bytes, pipe: Pipe) -> None:
    """A hundred who send a byte a second, from the first of the connection on."""
    peers = [_dialled(address) for _ in range(100)]
    said = PREFACE + frame(SETTINGS, 0, 0, b"") + _call(address, message)(1)
    pipe.send(None)
    for position in range(len(said)):
        for peer in peers:
            with suppress(ConnectionError):
                peer.send(said[position : position + 1])
        if pipe.poll(1.0):
            return
    _until_told(pipe)


def idle(address: str, _: bytes, pipe: Pipe) -> None:
    """Five thousand connections without a call."""
    peers = [_connected(address) for _ in range(5_000)]
    _until_told(pipe)
    del peers


def rapid_reset(address: str, message: bytes, pipe: Pipe) -> None:
    """Calls that are taken back in the same breath; connected again where the server hangs up."""
    call = _call(address, message)

    def burst(stream: int) -> bytes:
        return call(stream) + frame(RST_STREAM, 0, stream, _CANCEL)

    _flood(address, pipe, burst)


def pings(address: str, _: bytes, pipe: Pipe) -> None:
    """Pings without end."""
    _flood(address, pipe, lambda _: frame(PING, 0, 0, bytes(8)))


def oversized_headers(address: str, message: bytes, pipe: Pipe) -> None:
    """Calls with megabytes of header fields, in continuations that do not end."""
    headers = header_block(address, CLASSIFY, ())
    # A literal field without indexing; its length takes more than 7 bits (RFC 7541, 5.1).
    rest = _FIELD_BYTES - 127
    field = b"\x00\x01x\x7f" + bytes([rest & 127 | 128, rest >> 7]) + b"y" * _FIELD_BYTES

    def burst(stream: int) -> bytes:
        if stream == 1:
            return frame(HEADERS, 0, 1, headers)
        return frame(_CONTINUATION, 0, 1, field)

    _flood(address, pipe, burst)


ATTACKS: tuple[Attack, ...] = (
    stops_reading,
    half_open,
    byte_by_byte,
    idle,
    rapid_reset,
    pings,
    oversized_headers,
)


def _call(address: str, message: bytes) -> Callable[[int], bytes]:
    headers, body = header_block(address, CLASSIFY, ()), prefixed(message)
    return lambda stream: (
        frame(HEADERS, END_HEADERS, stream, headers) + frame(0, END_STREAM, stream, body)
    )


def _dialled(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)))


def _connected(address: str) -> socket.socket:
    peer = _dialled(address)
    peer.sendall(PREFACE + frame(SETTINGS, 0, 0, b""))
    return peer


def _until_told(pipe: Pipe) -> None:
    pipe.send(None)
    pipe.recv()


def _flood(address: str, pipe: Pipe, burst: Callable[[int], bytes]) -> None:
    """Sends bursts on one connection after the other, and reads whatever comes."""
    told = False
    while True:
        peer, stream = _connected(address), 1
        peer.settimeout(1.0)
        with peer, suppress(ConnectionError, TimeoutError):
            while not pipe.poll():
                peer.sendall(b"".join(burst(stream + 2 * each) for each in range(_FRAMES)))
                stream += 2 * _FRAMES
                with suppress(BlockingIOError):
                    if not peer.recv(1 << 16, socket.MSG_DONTWAIT):
                        break
                if not told:
                    pipe.send(None)
                    told = True
                time.sleep(_PAUSE_S)
        if pipe.poll():
            return
