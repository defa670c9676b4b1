"""One of several processes that serve a port: what it is told, and what it tells."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection

from seqserve_server import process
from seqserve_server.errors import CannotStart
from seqserve_server.observability import logs
from seqserve_server.process import Offer
from seqserve_server.settings import Settings


@dataclass(frozen=True)
class Orders:
    """What a worker is told. They go through a pipe: the key of the tokens is among them."""

    settings: Settings
    number: int
    """Which of the processes it is, from 1; kept when it is started again."""
    listen_at_once: bool
    """Else when its models are ready: others serve the port."""


class Listening:
    """Told when the worker listens."""


Report = Listening | Offer | CannotStart
"""What a worker tells: that it listens, what it has to offer, or why it cannot start."""


def work(orders: Orders, parent: Connection) -> None:
    """Serves until the parent says the reason to stop, or a signal; then drains.

    Where the parent is gone, it ends at once.

    Args:
        orders: What it is told.
        parent: Takes reports, gives the reason to stop, and is closed when the parent is gone.
    """
    logs.to_stderr(orders.settings.log_level, orders.settings.log_format, orders.number)
    try:
        asyncio.run(_serve(orders, parent))
    except CannotStart as error:
        parent.send(error)
        sys.exit(error.exit_code)


async def _serve(orders: Orders, parent: Connection) -> None:
    told_to_stop = process.signalled()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, process.SIGNALS)
    threading.Thread(
        target=_obey, args=(parent, asyncio.get_running_loop(), told_to_stop), daemon=True
    ).start()
    await process.run(
        orders.settings,
        told_to_stop,
        on_listening=lambda: parent.send(Listening()),
        on_ready=parent.send,
        listen_at_once=orders.listen_at_once,
    )


def _obey(
    parent: Connection, loop: asyncio.AbstractEventLoop, told_to_stop: asyncio.Future[str]
) -> None:
    """In a thread of its own, so that no state of the event loop keeps an orphan alive."""

    def stop(reason: str) -> None:
        if not told_to_stop.done():
            told_to_stop.set_result(reason)

    with suppress(EOFError, OSError):
        while True:
            reason = parent.recv()
            with suppress(RuntimeError):  # it has stopped already
                loop.call_soon_threadsafe(stop, reason)
    os._exit(1)
