"""The server as a process: signals, drain, exit.

What imports onnxruntime is imported by `run` alone: a process that only starts others has no use
for it.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from seqserve_server.settings import Settings

if TYPE_CHECKING:
    from seqserve_server.scheduling.work import Scheduler
    from seqserve_server.serving import Server

    MakeScheduler = Callable[[Settings], Scheduler]

_log = logging.getLogger(__name__)

_YOUNG_OBJECTS = 50_000

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True)
class Offer:
    """What a server has to offer once everything is loaded."""

    ready: tuple[str, ...]
    """The models that answer, as `speakers 3`."""
    refused: int
    """Versions that were not good."""


async def serve(settings: Settings, make_scheduler: MakeScheduler | None = None) -> None:
    """Serves until SIGTERM or SIGINT, then drains; a second signal ends it at once.

    Args:
        settings: What the server is told.
        make_scheduler: As `Server`.

    Raises:
        CannotStart: says why.
    """
    begin = time.monotonic()
    await run(
        settings,
        signalled(),
        on_ready=lambda offer: log_ready(offer, time.monotonic() - begin, settings),
        make_scheduler=make_scheduler,
    )
    _log.info("stopped")


async def run(
    settings: Settings,
    told_to_stop: asyncio.Future[str],
    *,
    on_listening: Callable[[], None] = lambda: None,
    on_ready: Callable[[Offer], None],
    listen_at_once: bool = True,
    make_scheduler: MakeScheduler | None = None,
) -> None:
    """Serves until told to stop, then drains.

    Args:
        settings: What the server is told.
        told_to_stop: Settled with the reason.
        on_listening: Called when it listens.
        on_ready: Called when every model is ready or refused; never if it is told to stop before.
        listen_at_once: Else it listens when it is ready: calls are not to come here before that,
            for others on the same port can answer them.
        make_scheduler: As `Server`.

    Raises:
        CannotStart: says why.
    """
    from seqserve_server.serving import Server

    server = Server(settings, make_scheduler=make_scheduler)
    if listen_at_once:
        await server.start()
    else:
        await server.load()
    try:
        if listen_at_once:
            on_listening()
        loaded = asyncio.ensure_future(server.ready())
        first: list[asyncio.Future[Any]] = [loaded, told_to_stop]
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        if loaded.done():
            loaded.result()
            spare_the_collector()
            if not listen_at_once:
                await server.listen()
                on_listening()
            on_ready(_offer(server))
        log_draining(await told_to_stop, settings)
    finally:
        await server.stop()


def spare_the_collector() -> None:
    """Takes modules and models out of the garbage collector's rounds, and makes those rarer.

    Every call makes some dozens of objects that outlive a young generation of 700: they, and
    everything that was imported, would be gone through again and again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, *gc.get_threshold()[1:])


def signalled() -> asyncio.Future[str]:
    """Settled with its name when the first of SIGNALS comes; the second ends the process."""
    loop = asyncio.get_running_loop()
    received: asyncio.Future[str] = loop.create_future()

    def receive(number: signal.Signals) -> None:
        if not received.done():
            received.set_result(number.name)
        for each in SIGNALS:
            loop.remove_signal_handler(each)
            signal.signal(each, signal.SIG_DFL)

    for number in SIGNALS:
        loop.add_signal_handler(number, receive, number)
    return received


def log_ready(offer: Offer, seconds: float, settings: Settings) -> None:
    """Says what is served, or why nothing is."""
    if offer.ready:
        _log.info("ready in %.2f s: %s", seconds, ", ".join(offer.ready))
    else:
        _log.error(
            "no model can be served: %s; still listening",
            f"{offer.refused} refused, see above"
            if offer.refused
            else f"{settings.repository} has none; publish one with seqserve train",
        )


def log_draining(reason: str, settings: Settings) -> None:
    """Says that the end has begun."""
    _log.info(
        "%s: draining; running calls have %g s to finish",
        reason,
        settings.drain_pause_s + settings.drain_grace_s,
    )


def _offer(server: Server) -> Offer:
    from seqserve_server.models.repository import State

    ready = [entry for entry in server.entries if entry.state is State.READY]
    refused = sum(entry.state is State.FAILED for entry in server.entries)
    return Offer(tuple(f"{entry.name} {entry.version}" for entry in ready), refused)
