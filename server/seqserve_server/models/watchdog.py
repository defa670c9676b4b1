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


MOST_LOOKS = 64
"""After so many looks at the latest, lanes that are missing are asked for once more."""


class Lanes(Protocol):
    """What is looked at."""

    @property
    def lanes_missing(self) -> int:
        """How many have ended and could not be replaced."""
        ...

    def longest_turn_s(self) -> float:
        """For how long the slowest lane has not been at a border."""
        ...

    def replace_missing(self) -> None:
        """Tries again to replace them."""
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
        self._looks_left = 0  # before missing lanes are asked for
        self._tries = 0
        self._healing: dict[Runner, asyncio.Task[None]] = {}

    async def watch(self) -> None:
        """Looks again and again; ends when cancelled."""
        try:
            while True:
                try:
                    self.look()
                except Exception:  # or nobody would look any more
                    _log.exception("the lanes could not be looked after")
                await asyncio.sleep(LOOK_INTERVAL_S)
        finally:
            for task in self._healing.values():
                task.cancel()

    def look(self) -> None:
        """Looks once."""
        self._mend()
        turn_s = self._lanes.longest_turn_s()
        missing = self._lanes.lanes_missing
        if (hangs := missing > 0 or turn_s > HANGS_S) != self._hangs:
            self._hangs = hangs
            if missing:
                _log.critical("lanes are missing: not ready until they can be had")
            elif hangs:
                _log.critical("a lane hangs for %.1f s: not ready until it goes on", turn_s)
            else:
                _log.warning("no lane hangs any more: ready again")
            self._health.hang(hangs=hangs)
        self._heal(self._lanes.failing())

    def _mend(self) -> None:
        """Asks for lanes that are missing, each time after twice as many looks."""
        if not self._lanes.lanes_missing:
            self._looks_left = self._tries = 0
        elif self._looks_left:
            self._looks_left -= 1
        else:
            self._lanes.replace_missing()
            self._tries += 1
            self._looks_left = min(2**self._tries, MOST_LOOKS) - 1

    def _heal(self, failing: Sequence[Runner]) -> None:
        self._healing = {r: task for r, task in self._healing.items() if not task.done()}
        models = {
            entry.model.runner: entry.model for entry in self._repository.entries() if entry.model
        }
        for runner in failing:
            if runner in models and runner not in self._healing:
                self._healing[runner] = asyncio.create_task(self._repository.heal(models[runner]))
