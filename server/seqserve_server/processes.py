"""Several processes that serve one port, kept alive by one that serves nothing itself.

They are started by multiprocessing's spawn. A fork would be quicker and share memory, but it
copies locks of threads that it does not copy, which neither gRPC nor onnxruntime promise to
survive. Starting our own interpreter by hand would save what spawn repeats, the command line's
imports, and its resource tracker, and would have to invent what spawn has: the same search path and
interpreter options, and a pipe for secrets.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import signal
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

from seqserve_server import process, worker
from seqserve_server.errors import CannotStart
from seqserve_server.process import Offer
from seqserve_server.security.tokens import random_key
from seqserve_server.settings import Settings
from seqserve_server.shared_port import reserved
from seqserve_server.transports import transport
from seqserve_server.worker import Orders, Report

_log = logging.getLogger(__name__)
_spawn = multiprocessing.get_context("spawn")

_GOOD_END = "drained"

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 30.0


async def serve(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT, then lets every process drain; a second ends all at once.

    A process that dies is started again; the others go on.

    Args:
        settings: What every process is told, but for the port and the key of the tokens where
            these are to be chosen: they share both.

    Raises:
        CannotStart: says why; no process is left.
    """
    signalled = process.signalled()
    chosen = transport.resolve(settings.transport, grpcio_only=settings.grpcio_only)
    settings = replace(settings, transport=chosen)
    with reserved(settings.address) as address:
        await _Processes(replace(settings, address=address)).serve(signalled)
    _log.info("stopped")


def pause_s(before_s: float, lived_s: float) -> float:
    """Seconds to wait before a process that died is started again.

    Args:
        before_s: How long that was the last time; 0 for the first.
        lived_s: How long the process lived.
    """
    if lived_s > LONGEST_PAUSE_S:
        return FIRST_PAUSE_S
    return min(max(2 * before_s, FIRST_PAUSE_S), LONGEST_PAUSE_S)


def common(offers: Sequence[Offer]) -> Offer:
    """What each of several processes has to offer, so that it does not matter which answers."""
    ready = [name for name in offers[0].ready if all(name in offer.ready for offer in offers)]
    return Offer(tuple(ready), max(offer.refused for offer in offers))


def metrics_address(first: str, number: int) -> str:
    """Where a process has its metrics: on a port of its own.

    Args:
        first: HOST:PORT of the first; empty for none. Port 0 takes any.
        number: Which process it is, from 1.
    """
    host, colon, port = first.rpartition(":")
    return f"{host}{colon}{int(port) + number - 1}" if port.strip("0") else first


class _Processes:
    """The processes, by number.

    Args:
        settings: What each is told, but for the key of the tokens where there is none.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._shared = replace(settings, token_key=settings.token_key or random_key())
        self._begin = time.monotonic()
        self._stopping = asyncio.Event()
        self._alive: dict[int, _Child] = {}
        self._listened: set[int] = set()
        self._offers: dict[int, Offer] = {}

    async def serve(self, signalled: asyncio.Future[str]) -> None:
        """Keeps all alive until a signal comes, or one of them cannot start at all."""
        numbers = range(1, self._settings.processes + 1)
        kept = [asyncio.ensure_future(self._keep(number)) for number in numbers]
        first: list[asyncio.Future[Any]] = [signalled, *kept]
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        if signalled.done():
            process.log_draining(signalled.result(), self._settings)
        self._stopping.set()
        for child in self._alive.values():
            child.stop(signalled.result() if signalled.done() else "cannot start")
        ends = await asyncio.gather(*kept, return_exceptions=True)
        for error in filter(None, ends):
            raise error

    async def _keep(self, number: int) -> None:
        """Starts a process, and again whenever it has ended, until all are to stop."""
        first, pause = True, 0.0
        while not self._stopping.is_set():
            begin = time.monotonic()
            end = await self._live(number, first=first)
            if self._stopping.is_set():
                if end != _GOOD_END:
                    _log.warning("process %d %s", number, end)
                return
            pause = pause_s(pause, time.monotonic() - begin)
            _log.warning("process %d %s; starting it again in %g s", number, end, pause)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)
            first = False

    async def _live(self, number: int, *, first: bool) -> str:
        """One life of a process; gives how it ended.

        Raises:
            CannotStart: it did not get as far as to listen, the first time: nor would it the next.
        """
        address = metrics_address(self._shared.metrics_address, number)
        settings = replace(self._shared, metrics_address=address)
        orders = Orders(settings, number, listen_at_once=first)
        try:
            child = _start(orders)
        except OSError as error:
            if first:
                raise CannotStart(f"cannot start a process: {error.strerror}") from error
            return f"could not be started: {error.strerror}"
        self._alive[number] = child
        refusal = await self._hear(number, child)
        code = await child.ended()
        del self._alive[number]
        if first and refusal:
            raise refusal
        if refusal:
            return f"could not start: {refusal}"
        if code == 0 and self._stopping.is_set():
            return _GOOD_END
        end = f"(pid {child.pid}) {_words(code)}"
        if number not in self._listened and not self._stopping.is_set():
            raise CannotStart(f"process {number} {end} before it listened")
        return end

    async def _hear(self, number: int, child: _Child) -> CannotStart | None:
        """Takes note of all that a process tells; gives why it cannot start, if it cannot."""
        refusal = None
        async for report in child.reports():
            if isinstance(report, CannotStart):
                refusal = report
            elif isinstance(report, Offer):
                self._note_offer(number, report, child.pid)
            elif number not in self._listened:
                self._listened.add(number)
                if len(self._listened) == self._settings.processes:
                    self._log_listening()
        return refusal

    def _note_offer(self, number: int, offer: Offer, pid: int) -> None:
        if number in self._offers:
            _log.info("process %d (pid %d) takes its place", number, pid)
            return
        self._offers[number] = offer
        if len(self._offers) == self._settings.processes:
            seconds = time.monotonic() - self._begin
            process.log_ready(common([*self._offers.values()]), seconds, self._settings)

    def _log_listening(self) -> None:
        if self._settings.token_key is None:
            _log.info(
                "no --token-key-file: tokens of live sequences will hold on these processes alone"
            )
        lanes = self._settings.lanes
        _log.info(
            "listening on %s (%s transport%s, %d processes of %d %s)",
            self._settings.address,
            self._settings.transport,
            self._settings.protection,
            self._settings.processes,
            lanes,
            "lane" if lanes == 1 else "lanes",
        )


@dataclass(frozen=True)
class _Child:
    process: SpawnProcess
    pipe: Connection
    pid: int

    def stop(self, reason: str) -> None:
        with suppress(OSError):  # it has just ended
            self.pipe.send(reason)

    async def reports(self) -> AsyncIterator[Report]:
        """What it tells, until it ends."""
        with suppress(EOFError, OSError):
            while True:
                await _readable(self.pipe.fileno())
                yield self.pipe.recv()

    async def ended(self) -> int:
        """Waits for its end; gives its exit code, below 0 for a signal."""
        await _readable(self.process.sentinel)
        self.process.join()
        code = self.process.exitcode
        assert code is not None
        self.process.close()
        self.pipe.close()
        return code


def _words(exit_code: int) -> str:
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    names = {each.value: each.name for each in signal.Signals}
    return f"was ended by {names.get(-exit_code, f'signal {-exit_code}')}"


def _start(orders: Orders) -> _Child:
    ours, theirs = _spawn.Pipe()
    child = _spawn.Process(target=worker.work, args=(orders, theirs), daemon=True)
    with theirs, _signals_held():
        child.start()
    assert child.pid is not None
    return _Child(child, ours, child.pid)


@contextmanager
def _signals_held() -> Iterator[None]:
    """Lets signals wait.

    A process that is started meanwhile lets them wait too, until it can take them: before that, a
    Ctrl-C, which the terminal sends to all, would end it with a traceback.
    """
    resource_tracker.ensure_running()  # or the first start would do it, and let signals through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, process.SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(descriptor, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(descriptor)
