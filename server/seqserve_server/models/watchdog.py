"""Looks at the lanes, so that readiness tells what callers would find."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Protocol

from seqserve_server.health import Health
from seqserve_server.models.repository import Repository
from seqserve_server.models.runner import Runner

_log = logging.getLogger(__name__)

LOOK_INTERVAL_S = 1.0
HANGS_S = 30.0
"""A lane that has not been at a border for so long hangs. A turn takes milliseconds; only a row
that must run whole, of a bidirectional model, may take as long as its steps do: 30 s are a
million of them at 256 units."""


class Lanes(Protocol):
    """What is looked at."""

    @property
    def lanes_missing(self) -> int:
        """How many have ended and could not be replaced."""
        ...

    def longest_turn_s(self) -> float:
        """For how long the slowest lane has not been at a border."""
        ...

    def failing(self) -> list[Runner]:
        """The models whose latest turns all failed."""
        ...


class Watchdog:
    """Takes out of readiness what hangs or fails, and brings it back.

    Args:
        lanes: What is looked at.
        health: Told whether a lane hangs, or is no more.
        repository: Heals the models whose runs fail.
    """

    def __init__(self, lanes: Lanes, health: Health, repository: Repository) -> None:
        self._lanes = lanes
        self._health = health
        self._repository = repository
        self._hangs = False
        self._healing: dict[Runner, asyncio.Task[None]] = {}

    async def watch(self) -> None:
        """Looks again and again; ends when cancelled."""
        try:
            while True:
                await self.look()
                await asyncio.sleep(LOOK_INTERVAL_S)
        finally:
            for task in self._healing.values():
                task.cancel()

    async def look(self) -> None:
        """Looks once."""
        turn_s = self._lanes.longest_turn_s()
        missing = self._lanes.lanes_missing
        if (hangs := missing > 0 or turn_s > HANGS_S) != self._hangs:
            self._hangs = hangs
            if missing:
                _log.critical("lanes are missing: not ready, start the server again")
            elif hangs:
                _log.critical("a lane hangs for %.1f s: not ready until it goes on", turn_s)
            else:
                _log.warning("no lane hangs any more: ready again")
            await self._health.hang(hangs=hangs)
        self._heal(self._lanes.failing())

    def _heal(self, failing: Sequence[Runner]) -> None:
        self._healing = {r: task for r, task in self._healing.items() if not task.done()}
        models = {
            entry.model.runner: entry.model for entry in self._repository.entries() if entry.model
        }
        for runner in failing:
            if runner in models and runner not in self._healing:
                self._healing[runner] = asyncio.create_task(self._repository.heal(models[runner]))
