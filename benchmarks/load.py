"""A gRPC load generator that costs its core little: unary calls as prepared HTTP/2 frames.

A Python gRPC client spends several times what the server does on a small call, so that on two
cores it would measure itself. This one writes frames that were made beforehand and reads answers
no further than their frames: 13 to 30 µs a call.

Calls leave on a schedule, answered or not (open loop), or as earlier ones are answered (closed
loop). A latency counts from the moment a call was *meant* to leave: whatever keeps the generator
or the connection from sending in time counts as waiting, as it does for a real caller.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.http2 import PREFIX_BYTES, RST_STREAM, Connection, header_block, prefixed, wait


@dataclass(frozen=True)
class Answered:
    """What became of a schedule of calls."""

    latencies_s: NDArray[np.float64]
    """(calls,), from the intended moment to the last frame; infinite where the call failed."""
    lateness_s: NDArray[np.float64]
    """(calls,), the generator's own part: to the writing, from the intended moment or, where the
    server admits no more calls at a time, from when it did."""
    ended_s: NDArray[np.float64]
    """(calls,), when each answer was complete, from the start on; infinite where it failed."""
    over_s: NDArray[np.float64]
    """(calls,), from the intended moment to the end, whatever end."""
    seconds: float
    """From the first intended moment to the last answer."""
    busy: float
    """The share of that time in which the generator had its core; an open loop spins."""
    answers: dict[int, bytes]
    """The messages of the calls to be kept."""

    @property
    def failed(self) -> int:
        """Calls that ended without a whole message."""
        return int(np.isinf(self.latencies_s).sum())

    def steady_rate(self, in_flight: int) -> float:
        """Answers a second between the first `in_flight` answers and the last.

        While the first calls arrive and the last leave, the server has less to choose from than
        it has in between. The slope of a line through all of these answers: they come in bursts,
        and two of them alone would tell where in its burst each was.
        """
        ended = np.sort(self.ended_s)
        first, last = in_flight, len(ended) - 1 - in_flight
        if last <= first:
            first, last = 0, len(ended) - 1
        order = np.arange(first, last + 1)
        return float(np.polyfit(ended[first : last + 1], order, 1)[0])


class Load:
    """Prepared calls of one method; each schedule of them has connections of its own.

    Args:
        address: HOST:PORT, plaintext.
        method: `/package.Service/Method`.
        messages: Serialised requests.
        metadata: Header fields of every call, names in lower case.
        connections: Calls take them in turn.
    """

    def __init__(
        self,
        address: str,
        method: str,
        messages: Sequence[bytes],
        metadata: Sequence[tuple[str, str]] = (),
        *,
        connections: int = 1,
    ) -> None:
        self._connections = connections
        self._address = address
        self._headers = header_block(address, method, metadata)
        self._bodies = [prefixed(message) for message in messages]
        self.messages = len(messages)
        """How many there are."""

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
        # A connection that idles between schedules would be closed: nobody answers its pings.
        with ExitStack() as stack:
            connections = [
                stack.enter_context(closing(Connection(self._address)))
                for _ in range(self._connections)
            ]
            return self._run_on(connections, which, times_s, in_flight, keep)

    def _run_on(
        self,
        connections: Sequence[Connection],
        which: NDArray[np.int64],
        times_s: NDArray[np.float64] | None,
        in_flight: int,
        keep: Sequence[int],
    ) -> Answered:
        calls = _Calls(len(which), keep)
        several = len(connections)
        most = min(in_flight, sum(connection.max_streams for connection in connections))
        bodies = [self._bodies[message] for message in which]
        due = [0.0] * len(which) if times_s is None else times_s.tolist()
        begun, late = list(due), [0.0] * len(which)
        cpu, start = time.thread_time(), time.perf_counter()
        following, stop, admitted = 0, 1, 0.0
        while calls.over < len(which):
            now = time.perf_counter() - start
            if following == stop:  # the server has not admitted another call until now
                admitted = now
            stop = min(len(which), calls.over + most)
            while following < stop and due[following] <= now:
                if times_s is None:
                    begun[following] = now
                stream = 2 * (following // several) + 1
                connections[following % several].begin(stream, self._headers, bodies[following])
                late[following] = now - max(due[following], admitted)
                following += 1
            timeout = max(0.0, due[following] - now) if following < stop else None
            if several > 1:
                timeout = wait(connections, timeout)
            for index, connection in enumerate(connections):
                for stream, kind, data, last in connection.exchange(timeout):
                    calls.note((stream // 2) * several + index, kind, data, last, start)
                if connection.goes_away is not None:
                    raise ConnectionError(f"the server goes away: {connection.goes_away}")
        seconds = time.perf_counter() - start
        return Answered(
            latencies_s=np.array(calls.ended_s) - np.array(begun),
            lateness_s=np.array(late),
            ended_s=np.array(calls.ended_s),
            over_s=np.array(calls.over_s) - np.array(begun),
            seconds=seconds - due[0],
            busy=(time.thread_time() - cpu) / seconds,
            answers=calls.messages(),
        )


class _Calls:
    """What becomes of each call.

    Args:
        count: How many there are.
        keep: Those whose messages are wanted.
    """

    def __init__(self, count: int, keep: Sequence[int]) -> None:
        self.over = 0
        self.ended_s = [math.inf] * count
        self.over_s = [math.inf] * count
        self._missing = [-1] * count  # bytes of the message, -1 before its length is known
        self._filled = bytearray(count)
        self._is_over = bytearray(count)
        self._kept: dict[int, list[bytes]] = {call: [] for call in keep}

    def note(self, call: int, kind: int, data: bytes, last: bool, start: float) -> None:
        """Takes in what happened to one of them."""
        if self._is_over[call]:  # a reset may follow the end
            return
        if data:
            if self._missing[call] < 0:
                self._missing[call] = PREFIX_BYTES + int.from_bytes(data[1:PREFIX_BYTES])
                self._filled[call] = self._missing[call] > PREFIX_BYTES
            self._missing[call] -= len(data)
            if call in self._kept:
                self._kept[call].append(data)
        if last:
            self._is_over[call] = True
            self.over += 1
            self.over_s[call] = time.perf_counter() - start
            # A unary call that fails ends without a message or with an empty one, or is reset.
            if kind != RST_STREAM and not self._missing[call] and self._filled[call]:
                self.ended_s[call] = time.perf_counter() - start

    def messages(self) -> dict[int, bytes]:
        """The answers that were wanted."""
        return {call: b"".join(parts)[PREFIX_BYTES:] for call, parts in self._kept.items()}
