"""From the threads that tell to an event loop that waits: once for all that is told together."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from seqserve_server.scheduling.work import Leave

_T = TypeVar("_T")

_log = logging.getLogger(__name__)


class Crossing:
    """Awaits on one event loop what is told on other threads."""

    def __init__(self) -> None:
        self._arrived: deque[tuple[asyncio.Future[Any], Any]] = deque()
        self._announced = False

    async def told(self, ask: Callable[[Callable[[_T | Exception], None]], Leave]) -> _T:
        """What `ask` is told, or raised as an exception; whoever is cancelled here leaves there.

        Args:
            ask: Asks for something: takes what to tell, and returns how to leave.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_T] = loop.create_future()

        def tell(outcome: _T | Exception) -> None:
            self._arrived.append((future, outcome))
            if not self._announced:
                self._announced = True
                try:
                    loop.call_soon_threadsafe(self._settle)
                except RuntimeError:
                    _log.warning("an answer came after the event loop was closed")

        leave = ask(tell)
        try:
            return await future
        except asyncio.CancelledError:
            leave()
            raise

    def _settle(self) -> None:
        self._announced = False  # before the look: what arrives from now on is announced again
        while self._arrived:
            future, outcome = self._arrived.popleft()
            if future.done():  # its caller has gone
                continue
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)
