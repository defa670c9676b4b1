"""The server as a process: log lines for people, signals, drain, exit."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
from typing import Any

from seqserve_server.repository import State
from seqserve_server.serving import Server
from seqserve_server.settings import Settings

_log = logging.getLogger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def log_to_stderr(level: str) -> None:
    """Sends the server's log lines to stderr.

    Args:
        level: The least important that is shown, as `info`.
    """
    logging.basicConfig(
        stream=sys.stderr,
        level=level.upper(),
        format="%(asctime)s %(levelname)s %(message)s",
    )


async def serve(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT, then drains; a second signal ends it at once.

    Raises:
        CannotStart: says why.
    """
    begin = time.monotonic()
    signalled = _signalled()
    server = Server(settings)
    await server.start()
    try:
        ready: asyncio.Future[Any] = asyncio.ensure_future(server.ready())
        await asyncio.wait({ready, signalled}, return_when=asyncio.FIRST_COMPLETED)
        if ready.done():
            ready.result()
            _log_ready(server, time.monotonic() - begin)
        received = await signalled
        _log.info(
            "%s: draining; running calls have %g s to finish",
            received.name,
            settings.drain_pause_s + settings.drain_grace_s,
        )
    finally:
        await server.stop()
    _log.info("stopped")


def _signalled() -> asyncio.Future[Any]:
    loop = asyncio.get_running_loop()
    received: asyncio.Future[Any] = loop.create_future()

    def receive(number: signal.Signals) -> None:
        received.set_result(number)
        for each in _SIGNALS:
            loop.remove_signal_handler(each)
            signal.signal(each, signal.SIG_DFL)

    for number in _SIGNALS:
        loop.add_signal_handler(number, receive, number)
    return received


def _log_ready(server: Server, seconds: float) -> None:
    ready = [entry for entry in server.entries if entry.state is State.READY]
    refused = sum(entry.state is State.FAILED for entry in server.entries)
    if ready:
        names = ", ".join(f"{entry.name} {entry.version}" for entry in ready)
        _log.info("ready in %.2f s: %s", seconds, names)
    else:
        _log.error(
            "no model can be served: %s; still listening",
            f"{refused} refused, see above"
            if refused
            else f"{server.settings.repository} has none; publish one with seqserve train",
        )
