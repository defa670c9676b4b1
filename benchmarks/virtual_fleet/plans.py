"""What happens to a fleet besides calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from benchmarks.virtual_fleet.fleet import Fleet
from benchmarks.virtual_fleet.replica import Replica, State

Plan = Callable[[Fleet], None]
"""Given the fleet before its first call; says what is to happen when."""

_LOOK_S = 0.5
"""How often a rollout looks whether a replica serves or has stopped."""


@dataclass(frozen=True)
class Crash:
    """The oldest replica crashes, and another is started."""

    at_s: float

    def __call__(self, fleet: Fleet) -> None:
        """As a plan."""
        fleet.at(self.at_s, partial(self._lose, fleet))

    def _lose(self, fleet: Fleet) -> None:
        fleet.crash(fleet.serving[0])
        fleet.start()


@dataclass(frozen=True)
class Silence:
    """The oldest replica is cut off, and nobody replaces it."""

    at_s: float

    def __call__(self, fleet: Fleet) -> None:
        """As a plan."""
        fleet.at(self.at_s, lambda: fleet.silence(fleet.serving[0]))


@dataclass(frozen=True)
class RollOut:
    """Every replica is replaced, one after the other."""

    at_s: float
    surge: bool
    """Whether the new one serves before the old one drains (`maxSurge: 1`), or the old one has
    stopped before the new one is started (`maxUnavailable: 1`)."""

    def __call__(self, fleet: Fleet) -> None:
        """As a plan."""
        fleet.at(self.at_s, lambda: _Rollout(fleet, surge=self.surge).following())


class _Rollout:
    def __init__(self, fleet: Fleet, *, surge: bool) -> None:
        self._fleet = fleet
        self._old = fleet.serving
        self._surge = surge

    def following(self) -> None:
        """The next one, if there is one left."""
        if not self._old:
            return
        old = self._old.pop(0)
        if self._surge:
            new = self._fleet.start()
            self._when(lambda: new.state is State.SERVING, partial(self._stop, old))
        else:
            self._stop(old)

    def _stop(self, old: Replica) -> None:
        self._fleet.stop(old)
        self._when(lambda: old.state is State.STOPPED, self._stopped)

    def _stopped(self) -> None:
        if self._surge:
            self.following()
        else:
            new = self._fleet.start()
            self._when(lambda: new.state is State.SERVING, self.following)

    def _when(self, is_so: Callable[[], bool], then: Callable[[], None]) -> None:
        if is_so():
            then()
        else:
            again = partial(self._when, is_so, then)
            self._fleet.at(self._fleet.now + _LOOK_S, again)
