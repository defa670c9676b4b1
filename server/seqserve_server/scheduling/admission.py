"""Whether work is let in: bounded in steps, and refused at once where it would come too late."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from seqserve_server.errors import DeadlineSpent, QueueFull
from seqserve_server.scheduling.caution import Caution
from seqserve_server.scheduling.cost import CostModel
from seqserve_server.scheduling.policy import company
from seqserve_server.scheduling.ticket import Ticket
from seqserve_server.scheduling.work import KEPT_FROM_BULK, ServiceClass

MIN_RETRY_S = 0.01
MAX_RETRY_S = 30.0

_NEAR = 0.5
"""Of the time until the deadline: whose answer is predicted in less was not near being refused."""
_IN_TIME = 0.95
"""Of the same: the rest is the way back."""


class _Inside(NamedTuple):
    """What is known of work that was let in."""

    seconds: float
    """That it takes the lanes."""
    late: float
    """From then on an answer hardly comes in time; infinite where that teaches nothing of waits."""
    cost: CostModel
    """Of its model."""


class Admission:
    """The work that was let in and is not settled yet. No threads, no clock.

    Args:
        max_steps: How many steps may be under way, of all work together.
        lanes: How many lanes share the work.
    """

    def __init__(self, max_steps: int, lanes: int) -> None:
        self._max_steps = max_steps
        self._lanes = lanes
        self._steps = 0
        self._seconds = [0.0 for _ in ServiceClass]
        self._inside: dict[Ticket, _Inside] = {}
        self._models: Counter[CostModel] = Counter()  # how many tickets are inside
        self._cautions = [Caution() for _ in ServiceClass]

    @property
    def tickets(self) -> list[Ticket]:
        """The work under way."""
        return list(self._inside)

    @property
    def steps(self) -> int:
        """Steps under way."""
        return self._steps

    def caution(self, now: float) -> dict[ServiceClass, float]:
        """How many times its prediction a wait is taken for, by class."""
        return {each: self._cautions[each].factor(now) for each in ServiceClass}

    def check(self, deadline: float, now: float) -> None:
        """Refuses work that is not known yet where none could be let in.

        Args:
            deadline: When nobody waits for it any more.
            now: On the same clock.

        Raises:
            QueueFull: the turn of the shortest sequence would come too late.
        """
        if deadline == math.inf or not self._inside:
            return
        wait_s, left_s = self._wait_s(ServiceClass.INTERACTIVE, now), deadline - now
        if wait_s > left_s:
            raise QueueFull(
                f"even the shortest sequence would wait for about {wait_s:.3g} s, and the deadline "
                f"is in {max(left_s, 0):.3g} s",
                retry_after_s=_bounded(wait_s - left_s),
            )

    def enter(self, tickets: Sequence[Ticket], cost: CostModel, now: float) -> None:
        """Lets in work that came together, all of it or nothing.

        Args:
            tickets: The work: one class, one deadline.
            cost: What its model costs.
            now: On the clock of the deadline.

        Raises:
            QueueFull: its steps do not fit, or its turn would come too late.
            DeadlineSpent: it is too late already.
        """
        service_class, deadline = tickets[0].service_class, tickets[0].deadline
        steps = sum(ticket.steps for ticket in tickets)
        self._check_room(steps, service_class)
        if deadline <= now:
            raise DeadlineSpent
        rows = sum(len(ticket.lengths) for ticket in tickets)
        together = company(cost, math.ceil(steps / rows))
        # Where nothing of a model runs nothing renews its pace either: a moment in which the
        # process stood still would have everybody refused for ever.
        pace = cost.pace if self._models[cost] else 1.0
        seconds = pace * cost.company_s(rows, steps, together)
        late = math.inf
        if deadline < math.inf:
            wait_s = self._wait_s(service_class, now)
            alone_s = pace * cost.alone_s(max(int(ticket.lengths.max()) for ticket in tickets))
            own_s = max(alone_s, seconds / self._lanes)
            left_s = deadline - now
            if wait_s + own_s > left_s:
                raise QueueFull(
                    f"the answer would take about {wait_s + own_s:.3g} s, {wait_s:.3g} s of it "
                    f"waiting, and the deadline is in {max(left_s, 0):.3g} s",
                    retry_after_s=_bounded(wait_s + own_s - left_s),
                )
            if wait_s > 0 and wait_s + own_s > _NEAR * left_s:
                late = now + _IN_TIME * left_s
        for ticket in tickets:
            self._inside[ticket] = _Inside(seconds * ticket.steps / steps, late, cost)
        self._models[cost] += len(tickets)
        self._steps += steps
        self._seconds[service_class] += seconds

    def leave(self, ticket: Ticket, now: float) -> bool:
        """Notes that work is settled or dropped; whether it was still inside."""
        inside = self._inside.pop(ticket, None)
        if inside is None:
            return False
        self._steps -= ticket.steps
        self._seconds[ticket.service_class] -= inside.seconds
        self._models[inside.cost] -= 1
        if not self._models[inside.cost]:
            del self._models[inside.cost]
        if not self._inside:  # what rounding has left would be taken for a wait
            self._seconds = [0.0 for _ in ServiceClass]
        if inside.late < math.inf:
            caution = self._cautions[ticket.service_class]
            if now > inside.late:
                caution.late(ticket.arrived, now)
            elif not ticket.pending:  # else its caller has left
                caution.in_time(now)
        return True

    def _wait_s(self, service_class: ServiceClass, now: float) -> float:
        """How long until what goes before new work of this class is done, with caution."""
        ahead_s = sum(self._seconds[: service_class + 1]) / self._lanes
        return self._cautions[service_class].factor(now) * ahead_s

    def _check_room(self, steps: int, service_class: ServiceClass) -> None:
        most, kept = self._max_steps, ""
        if service_class is ServiceClass.BULK and self._steps:  # else it might never fit
            most = int(most * (1 - KEPT_FROM_BULK))
            kept = f", of which bulk work leaves {KEPT_FROM_BULK:.0%} free"
        missing = self._steps + steps - most
        if missing <= 0:
            return
        # Half of what is under way is to be done first, or all who were refused meet again.
        part = 1.0 if missing > self._steps else max(0.5, missing / self._steps)
        raise QueueFull(
            f"{self._steps} steps are under way and {steps} more do not fit into a queue of "
            f"{self._max_steps}{kept}",
            retry_after_s=_bounded(part * sum(self._seconds) / self._lanes),
        )


def _bounded(seconds: float) -> float:
    return min(max(seconds, MIN_RETRY_S), MAX_RETRY_S)
