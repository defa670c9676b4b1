"""Which calls leave together, and when: the policy alone, without threads, clock or wire.

While a few calls at most are under way, a call leaves at once. One that finds more of them waits
for company: until they have returned, or as many wait as a request may hold, or the delay is over.
The delay is the longer the more requests are under way, so that a server which takes long for each
is sent fewer and fuller ones; yet slow requests never keep the others from leaving in the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, TypeVar

from seqserve_client.service_class import ServiceClass

# Calls under way with which another leaves at once. A few callers lose more by waiting for each
# other than a request costs them; many of them come back together, and find more than this.
_FEW = 3
# A call that has no more than so many delays left of its time waits for nobody.
_HURRY = 10


class Kind(NamedTuple):
    """What calls have in common that leave together."""

    model: str
    version: int
    top_k: int
    service_class: ServiceClass
    features: int


class Gatherable(Protocol):
    """A call of a single sequence, as far as the policy looks at it."""

    @property
    def deadline(self) -> float:
        """On the clock that `now` is read from, in seconds; infinite where there is none."""

    @property
    def steps(self) -> int:
        """Steps of its sequence."""

    @property
    def size(self) -> int:
        """Bytes that it adds to a request."""


AnyCall = TypeVar("AnyCall", bound=Gatherable)


@dataclass(frozen=True)
class Limits:
    """What calls that leave together may add up to, and how long they wait for each other."""

    sequences: int
    """Calls of a request; with 1, none waits."""
    steps: int
    """Steps of a request; a longer sequence travels alone."""
    size: int
    """Bytes of a request; a longer sequence travels alone."""
    delay_s: float
    """For each request under way, in seconds."""


class Gathering(Generic[AnyCall]):
    """The calls of one kind: some under way, others waiting to leave together.

    Whatever is handed out to leave is under way until `returned` is told of it. Calls wait only
    while others are under way, so that none is left behind.

    Args:
        kind: What the calls have in common.
        limits: What a request may hold.
    """

    def __init__(self, kind: Kind, limits: Limits) -> None:
        self.kind = kind
        self.requests = 0
        """Requests under way."""
        self.calls = 0
        """Calls in them."""
        self._limits = limits
        self._waiting: list[AnyCall] = []
        self._steps = 0
        self._size = 0
        self._since = math.inf

    def arrive(self, call: AnyCall, now: float) -> list[AnyCall]:
        """A new call waits, unless it is among those that leave now.

        Args:
            call: Not waiting yet.
            now: The time, in seconds.

        Returns:
            The calls of a request that leaves now; none where none does.
        """
        limits = self._limits
        if (
            self.calls <= _FEW
            or limits.sequences == 1
            or call.steps >= limits.steps
            or call.size >= limits.size
            or call.deadline - now <= _HURRY * limits.delay_s
        ):
            return self.leave([call])
        leaving: list[AnyCall] = []
        if self._steps + call.steps > limits.steps or self._size + call.size > limits.size:
            leaving = self.depart(now)
        if not self._waiting:
            self._since = now
        self._waiting.append(call)
        self._steps += call.steps
        self._size += call.size
        if len(self._waiting) >= limits.sequences:
            return self.depart(now)
        return leaving

    def first(self, call: AnyCall) -> bool:
        """Whether the call waits and none has waited longer."""
        return bool(self._waiting) and self._waiting[0] is call

    def due(self) -> float:
        """When those that wait leave at the latest; infinite where none waits."""
        return self._since + self._limits.delay_s * self.requests

    def overdue(self, now: float) -> list[AnyCall]:
        """Those that wait, where their delay is over: they leave now."""
        return self.depart(now) if now >= self.due() else []

    def returned(self, calls: Sequence[AnyCall], now: float) -> list[AnyCall]:
        """A request with these calls has ended; gives the calls of one that leaves now, if any.

        Where many are still under way, those that wait go on waiting: the company of the calls
        that have returned is on its way.
        """
        self.requests -= 1
        self.calls -= len(calls)
        return self.depart(now) if self.calls <= _FEW else self.overdue(now)

    def depart(self, now: float) -> list[AnyCall]:
        """Whoever waits leaves now, but for those whose time is up."""
        return self.leave([call for call in self.disband() if call.deadline > now])

    def leave(self, calls: list[AnyCall]) -> list[AnyCall]:
        """These calls, which do not wait, leave as a request, where there are any."""
        if calls:
            self.requests += 1
            self.calls += len(calls)
        return calls

    def withdraw(self, call: AnyCall) -> None:
        """The call no longer waits, if it did."""
        if call in self._waiting:
            self._waiting.remove(call)
            self._steps -= call.steps
            self._size -= call.size
            if not self._waiting:
                self._since = math.inf

    def disband(self) -> list[AnyCall]:
        """Nobody waits any longer; gives those that did."""
        waiting, self._waiting = self._waiting, []
        self._steps = self._size = 0
        self._since = math.inf
        return waiting


class Gatherings(Generic[AnyCall]):
    """The calls of every kind of which some are under way.

    Args:
        limits: What a request of a kind may hold.
    """

    def __init__(self, limits: Callable[[Kind], Limits]) -> None:
        self._limits = limits
        self._by_kind: dict[Kind, Gathering[AnyCall]] = {}

    def __len__(self) -> int:
        """Kinds of which some calls are under way."""
        return len(self._by_kind)

    def of(self, kind: Kind) -> Gathering[AnyCall]:
        """The calls of that kind."""
        gathering = self._by_kind.get(kind)
        if gathering is None:
            gathering = self._by_kind[kind] = Gathering(kind, self._limits(kind))
        return gathering

    def returned(
        self, gathering: Gathering[AnyCall], calls: Sequence[AnyCall], now: float
    ) -> list[AnyCall]:
        """As `Gathering.returned`; a kind with nothing under way is forgotten."""
        leaving = gathering.returned(calls, now)
        if not gathering.requests:
            del self._by_kind[gathering.kind]
        return leaving

    def disband(self) -> list[AnyCall]:
        """Nobody waits any longer; gives those that did."""
        return [call for gathering in self._by_kind.values() for call in gathering.disband()]
