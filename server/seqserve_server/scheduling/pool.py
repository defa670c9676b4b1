"""The rows of one model: those that wait, those in play, those that run. No threads, no clock.

Tickets wait in order of arrival until there is room, a slot a row. Rows with a slot are in play:
each turn takes some of them, and between turns they are all alike, begun or not. This is the
whole of the policy's memory; the same object runs in the server and in the simulator.

Every row has a due date: its arrival, and a multiple of what a run of its own would cost. So short
rows pass long ones, but only those that came within that time: later ones are due later. Bulk rows
are due later by a patience, and run when no interactive row is ready or their patience has run out.

The bound: every run is begun for the row that is due first of those not taken yet, and whoever
arrives after a row's due date is due later than it. So once it is past its due date, a row with a
slot waits, beside the turns that the lanes had begun when it came, for no more runs than rows and
chunks of rows are due before it, none of which are added, each as long as `policy` lets runs be,
shared by the lanes. The company that a run takes along makes it longer up to that limit, but never
one run more.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from seqserve_server.scheduling.cost import CostModel
from seqserve_server.scheduling.policy import BULK_RUN_LIMIT_S, Run, group, run_limit_s
from seqserve_server.scheduling.ticket import Ticket
from seqserve_server.scheduling.work import KEPT_FROM_BULK, ServiceClass

STRETCH = 8.0
"""How many times what a run of its own would cost a row's due date is after its arrival."""

_TURN_SHARE = 0.05
"""Of a turn, what its own fixed cost may be."""
_TURN_LIMIT_S = 20e-3
"""A turn takes all that is ready, or a lane's share of it, but no longer than this, or than its
fixed cost asks for: whoever comes meanwhile waits for its end."""

Slots = NDArray[np.int64]
_Queue = OrderedDict[Ticket, None]
_NOWHERE: Slots = np.empty(0, np.int64)
_NOBODY = Ticket(_NOWHERE, -math.inf)
"""Owns the slots that are free."""


class Batch(NamedTuple):
    """Rows of a turn that run together: from `first` to before `stop`, in the turn's arrays."""

    first: int
    stop: int
    steps: int
    """How many steps are computed for each of its rows."""


class Turn(NamedTuple):
    """What one lane does next: batches one after the other."""

    batches: list[Batch]
    slots: Slots
    """(rows,), where the rows are, batch after batch."""
    advance: NDArray[np.int64]
    """(rows,), how far each row goes, at most its batch's steps."""
    begun: NDArray[np.bool_]
    """(rows,), which have a state from an earlier turn."""
    ends: NDArray[np.bool_]
    """(rows,), which reach their end."""
    waited_s: NDArray[np.float64]
    """(rows,), since they came."""
    service_class: ServiceClass
    """The more urgent of those in it."""
    tickets: Sequence[Ticket] = ()
    """(rows,), whose each row is; for the pool's own turns."""


class Group(NamedTuple):
    """Tickets, and where their rows are."""

    tickets: list[Ticket]
    slots: Slots
    """Those of the tickets' rows, one ticket after the other."""


class Pool:
    """The rows of one model.

    Args:
        cost: What running them costs.
        slots: How many rows may be in play; no ticket may have more.
        steps: How many steps the rows in play may have together, at their arrival; a ticket
            with more is in play alone.
        whole: Whether rows must run to their end at once.
        max_row_steps: Rows times steps that a batch may hold; one row always may.
        lanes: How many lanes share the rows.
        bulk_patience_s: When bulk rows count as interactive.
    """

    def __init__(
        self,
        cost: CostModel,
        *,
        slots: int,
        steps: int,
        whole: bool,
        max_row_steps: int,
        lanes: int = 1,
        bulk_patience_s: float = 10.0,
    ) -> None:
        self.cost = cost
        self._whole = whole
        self._max_row_steps = max_row_steps
        self._max_steps = steps
        self._lanes = lanes
        self._bulk_patience_s = bulk_patience_s
        self._waiting: tuple[_Queue, ...] = tuple(OrderedDict() for _ in ServiceClass)
        self._in_play: dict[Ticket, None] = {}
        self._earliest = math.inf  # no deadline in play is earlier
        self._steps = 0
        self._free = list(range(slots))[::-1]
        self._owner: list[Ticket] = [_NOBODY] * slots
        self._remaining = np.zeros(slots, np.int64)
        self._arrived = np.zeros(slots)
        self._due = np.zeros(slots)
        self._bulk = np.zeros(slots, np.bool_)  # where a bulk ticket is in play
        self._begun = np.zeros(slots, np.bool_)
        self._ready = np.zeros(slots, np.bool_)
        self._bulk_in_play = 0
        self._leaving: dict[Ticket, int] = {}  # and how many of their rows still run

    @property
    def idle(self) -> bool:
        """Whether nothing waits, is in play or runs."""
        return not (self._in_play or any(self._waiting))

    @property
    def urges(self) -> bool:
        """Whether interactive rows are ready."""
        ready = self._ready & ~self._bulk if self._bulk_in_play else self._ready
        return bool(np.count_nonzero(ready))

    @property
    def has_bulk(self) -> bool:
        """Whether bulk rows are in play."""
        return self._bulk_in_play > 0

    @property
    def has_ready(self) -> bool:
        """Whether a turn could be had now, as far as rows in play are concerned."""
        return bool(np.count_nonzero(self._ready))

    def urgency(self, now: float) -> tuple[bool, float]:
        """Less is more urgent: whether bulk rows alone are ready, and when the first is due."""
        ready = self._ready.nonzero()[0]
        if not len(ready):
            return True, math.inf
        due = self._due[ready]
        bulk = self._bulk[ready] & (due > now)
        return bool(bulk.all()), float(due.min() if bulk.all() else due[~bulk].min())

    def add(self, ticket: Ticket) -> None:
        """Takes a ticket in, behind those of its class."""
        self._waiting[ticket.service_class][ticket] = None

    def drop(self, ticket: Ticket) -> None:
        """Lets go of a ticket that nobody waits for; rows that run, when they have run."""
        ticket.gone = True
        self._waiting[ticket.service_class].pop(ticket, None)
        if ticket in self._in_play and ticket not in self._leaving:
            running = ticket.pending - int(np.count_nonzero(self._ready[ticket.slots]))
            self._ready[ticket.slots] = False
            if running:
                self._leaving[ticket] = running
            else:
                self._release([ticket])

    def admit(self, now: float) -> tuple[Group, list[Ticket]]:
        """The tickets whose rows are in play from now on, and those that expired instead.

        To be called before `turn`. Tickets in play that expired are let go as well.
        """
        expired = self._expire(now) if self._earliest <= now else []
        admitted: list[Ticket] = []
        interactive, bulk = self._waiting
        overdue = bool(bulk) and next(iter(bulk)).arrived + self._bulk_patience_s <= now
        # Bulk tickets that waited long enough go first, others last. Whoever does not fit is not
        # overtaken: it might never fit again.
        if overdue and not self._let_in(bulk, now, admitted, expired, overdue=True):
            pass
        elif self._let_in(interactive, now, admitted, expired) and bulk:
            self._let_in(bulk, now, admitted, expired, kept=KEPT_FROM_BULK)
        return Group(admitted, self._play(admitted)), expired

    def turn(self, now: float) -> Turn | None:
        """What a lane does next; its rows are no others' until `done`."""
        ready = self._ready.nonzero()[0]
        if not len(ready):
            return None
        service_class = ServiceClass.INTERACTIVE
        if self._bulk_in_play:
            urgent = ready[~self._bulk[ready] | (self._due[ready] <= now)]
            if len(urgent):
                ready = urgent
            else:
                service_class = ServiceClass.BULK
        remaining, due = self._remaining[ready], self._due[ready]
        budget_s = self._budget_s(remaining)
        limit_s = BULK_RUN_LIMIT_S
        if service_class is ServiceClass.INTERACTIVE:
            # Late bulk rows must not make it longer for interactive ones that have just come.
            delayed = due[~self._bulk[ready]] if self._bulk_in_play else due
            limit_s = run_limit_s(now - float(delayed.min(initial=math.inf)), budget_s)
        runs = group(
            remaining,
            due,
            self.cost,
            whole=self._whole,
            budget_s=budget_s,
            max_row_steps=self._max_row_steps,
            run_limit_s=limit_s,
        )
        return self._begin(ready, runs, service_class, now)

    def done(self, turn: Turn, ran: int) -> Group:
        """Takes note of a turn of which the first `ran` batches have run; the others wait on.

        Returns the tickets that are now complete; others may get their slots at the next `admit`.
        """
        rows = turn.batches[ran - 1].stop if ran else 0
        slots, ends = turn.slots[:rows], turn.ends[:rows]
        ended = slots
        if np.count_nonzero(ends) < rows:
            ended, going_on = slots[ends], slots[~ends]
            self._remaining[going_on] -= turn.advance[:rows][~ends]
            self._begun[going_on] = True
            self._ready[going_on] = True
        self._remaining[ended] = 0
        if rows < len(turn.slots):
            self._ready[turn.slots[rows:]] = True
        complete: list[Ticket] = []
        for ticket, end in zip(turn.tickets, ends.tolist(), strict=False):
            if end:
                ticket.pending -= 1
                if not ticket.pending and not ticket.gone:
                    complete.append(ticket)
        released = self._release(complete)
        if self._leaving:
            self._let_go(turn)
        return Group(complete, released)

    def owners(self, slots: Slots) -> list[Ticket]:
        """The tickets in play that have a row in one of `slots`, and that somebody waits for."""
        tickets = dict.fromkeys(self._owner[slot] for slot in slots.tolist())
        return [ticket for ticket in tickets if ticket is not _NOBODY and not ticket.gone]

    def clear(self) -> list[Ticket]:
        """Every ticket that waits or is in play; none of them will be complete."""
        left = [ticket for waiting in self._waiting for ticket in waiting if not ticket.gone]
        for waiting in self._waiting:
            waiting.clear()
        for ticket in list(self._in_play):
            if not ticket.gone:
                left.append(ticket)
                self.drop(ticket)
        return left

    def _let_in(
        self,
        waiting: _Queue,
        now: float,
        admitted: list[Ticket],
        expired: list[Ticket],
        *,
        kept: float = 0.0,
        overdue: bool = False,
    ) -> bool:
        """Moves tickets from the head of a queue to `admitted`, as long as there is room.

        Args:
            waiting: The queue.
            now: Tickets that are not wanted any more move to `expired` instead.
            admitted: Those that have room already, not in play yet.
            expired: Those that came too late.
            kept: Of the room, what is to be left free.
            overdue: Only those that waited for longer than the patience.

        Returns:
            Whether none is left for want of room.
        """
        free = len(self._free) - sum(len(ticket.lengths) for ticket in admitted)
        steps = self._steps + sum(ticket.steps for ticket in admitted)
        least_free = kept * len(self._ready)
        most_steps = (1 - kept) * self._max_steps
        while waiting:
            ticket = next(iter(waiting))
            rows = len(ticket.lengths)
            alone = not admitted and not self._in_play
            if ticket.gone:  # its caller left; the pool is about to be told
                del waiting[ticket]
            elif ticket.deadline <= now:
                ticket.gone = True
                del waiting[ticket]
                expired.append(ticket)
            elif overdue and ticket.arrived + self._bulk_patience_s > now:
                return True
            elif alone or (free - rows >= least_free and steps + ticket.steps <= most_steps):
                free -= rows
                steps += ticket.steps
                del waiting[ticket]
                admitted.append(ticket)
            else:
                return False
        return True

    def _expire(self, now: float) -> list[Ticket]:
        expired = [t for t in self._in_play if t.deadline <= now and not t.gone]
        for ticket in expired:
            self.drop(ticket)
        self._earliest = min((ticket.deadline for ticket in self._in_play), default=math.inf)
        return expired

    def _play(self, tickets: list[Ticket]) -> Slots:
        """Gives slots to the rows of tickets, all at once."""
        if not tickets:
            return _NOWHERE
        now = self.cost.now
        fixed_s, step_s = STRETCH * (now.run + now.row), STRETCH * (now.step + now.row_step)
        count = sum(len(ticket.lengths) for ticket in tickets)
        places = self._free[-count:]
        del self._free[-count:]
        slots = np.array(places)
        lengths: list[int] = []
        due: list[float] = []
        for ticket in tickets:
            mine = ticket.lengths.tolist()
            start, stop = len(lengths), len(lengths) + len(mine)
            ticket.slots = slots[start:stop]
            for place in places[start:stop]:
                self._owner[place] = ticket
            self._in_play[ticket] = None
            self._steps += ticket.steps
            self._earliest = min(self._earliest, ticket.deadline)
            self._arrived[ticket.slots] = ticket.arrived
            first_s = ticket.arrived + fixed_s
            if ticket.service_class is ServiceClass.BULK:
                first_s += self._bulk_patience_s
                self._bulk_in_play += 1
                self._bulk[ticket.slots] = True
            lengths += mine
            due += [first_s + step_s * length for length in mine]
        self._remaining[slots] = lengths
        self._due[slots] = due
        self._begun[slots] = False
        self._ready[slots] = True
        return slots

    def _let_go(self, turn: Turn) -> None:
        """Frees the slots of tickets that are leaving and have no row that runs any more."""
        ran = Counter(ticket for ticket in turn.tickets if ticket in self._leaving)
        for ticket, rows in ran.items():
            self._ready[ticket.slots] = False
            self._leaving[ticket] -= rows
            if not self._leaving[ticket]:
                del self._leaving[ticket]
                self._release([ticket])

    def _release(self, tickets: list[Ticket]) -> Slots:
        if not tickets:
            return _NOWHERE
        places: list[int] = []
        for ticket in tickets:
            places += ticket.slots.tolist()
            del self._in_play[ticket]
            self._steps -= ticket.steps
            if ticket.service_class is ServiceClass.BULK:
                self._bulk_in_play -= 1
                self._bulk[ticket.slots] = False
        for place in places:
            self._owner[place] = _NOBODY
        self._free += places
        return np.array(places)

    def _begin(
        self, ready: Slots, runs: list[Run], service_class: ServiceClass, now: float
    ) -> Turn:
        slots = ready[runs[0].rows if len(runs) == 1 else np.concatenate([r.rows for r in runs])]
        self._ready[slots] = False
        batches: list[Batch] = []
        stop = 0
        for rows, steps in runs:
            first, stop = stop, stop + len(rows)
            batches.append(Batch(first, stop, steps))
        longest: int | Slots = runs[0].steps
        if len(runs) > 1:
            longest = np.repeat([run.steps for run in runs], [len(run.rows) for run in runs])
        left = self._remaining[slots]
        advance = np.minimum(left, longest)
        owner = self._owner
        return Turn(
            batches=batches,
            slots=slots,
            advance=advance,
            begun=self._begun[slots],
            ends=advance == left,
            waited_s=now - self._arrived[slots],
            service_class=service_class,
            tickets=[owner[slot] for slot in slots.tolist()],
        )

    def _budget_s(self, remaining: NDArray[np.int64]) -> float:
        """How long the turn may take; with several lanes, its share of what is ready."""
        longest = max(self.cost.now.turn / _TURN_SHARE, _TURN_LIMIT_S)
        if self._lanes == 1:
            return longest
        return min(longest, self.cost.company_s(len(remaining), int(remaining.sum())) / self._lanes)
