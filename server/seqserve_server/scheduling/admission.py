"""Whether work is let in: bounded in steps, and refused at once where it would come too late."""

from __future__ import annotations

import math

from seqserve_server.errors import DeadlineSpent, QueueFull
from seqserve_server.scheduling.cost import CostModel
from seqserve_server.scheduling.policy import company
from seqserve_server.scheduling.ticket import Ticket
from seqserve_server.scheduling.work import ServiceClass

MIN_RETRY_S = 0.01
MAX_RETRY_S = 30.0

_CAUTION = 1.25
"""How much longer than predicted the wait may be: work for an answer that comes late is lost, and
where refusing takes its share of the cores, every wait is longer than it was."""


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
        self._inside: dict[Ticket, float] = {}

    @property
    def tickets(self) -> list[Ticket]:
        """The work under way."""
        return list(self._inside)

    @property
    def steps(self) -> int:
        """Steps under way."""
        return self._steps

    def enter(self, ticket: Ticket, cost: CostModel, now: float) -> None:
        """Lets work in.

        Args:
            ticket: The work.
            cost: What its model costs.
            now: On the clock of the ticket's deadline.

        Raises:
            QueueFull: its steps do not fit, or its turn would come too late.
            DeadlineSpent: it is too late already.
        """
        if self._steps + ticket.steps > self._max_steps:
            raise QueueFull(
                f"{self._steps} steps are under way and {ticket.steps} more do not fit into a "
                f"queue of {self._max_steps}",
                retry_after_s=self._half_s(),
            )
        if ticket.deadline <= now:
            raise DeadlineSpent
        rows = len(ticket.lengths)
        together = company(cost, math.ceil(ticket.steps / rows))
        # Where nothing runs nothing renews the pace either: a moment in which the process stood
        # still would have everybody refused for ever.
        pace = cost.pace if self._inside else 1.0
        seconds = pace * cost.company_s(rows, ticket.steps, together)
        if ticket.deadline < float("inf"):
            wait_s = _CAUTION * self._ahead_s(ticket.service_class)
            alone_s = pace * cost.alone_s(int(ticket.lengths.max()))
            own_s = max(alone_s, seconds / self._lanes)
            left_s = ticket.deadline - now
            if wait_s + own_s > left_s:
                raise QueueFull(
                    f"the answer would take about {wait_s + own_s:.3g} s, {wait_s:.3g} s of it "
                    f"waiting, and the deadline is in {max(left_s, 0):.3g} s",
                    retry_after_s=_bounded(wait_s + own_s - left_s),
                )
        self._inside[ticket] = seconds
        self._steps += ticket.steps
        self._seconds[ticket.service_class] += seconds

    def leave(self, ticket: Ticket) -> bool:
        """Notes that work is settled or dropped; whether it was still inside."""
        seconds = self._inside.pop(ticket, None)
        if seconds is None:
            return False
        self._steps -= ticket.steps
        self._seconds[ticket.service_class] -= seconds
        return True

    def _ahead_s(self, service_class: ServiceClass) -> float:
        """How long until what goes before new work of this class is done, about."""
        return sum(self._seconds[: service_class + 1]) / self._lanes

    def _half_s(self) -> float:
        """When half of what is under way is likely to be done: then there is room again."""
        return _bounded(sum(self._seconds) / 2 / self._lanes)


def _bounded(seconds: float) -> float:
    return min(max(seconds, MIN_RETRY_S), MAX_RETRY_S)
