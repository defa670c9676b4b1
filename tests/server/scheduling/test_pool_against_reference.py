"""The pool against a dictionary of rows: whatever happens, in whatever order, on several lanes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from seqserve_server.scheduling.cost import Coefficients, CostModel
from seqserve_server.scheduling.pool import Pool, Turn
from seqserve_server.scheduling.ticket import Ticket
from seqserve_server.scheduling.work import ServiceClass
from tests.server.scheduling.pool_state import rows_in_play

LANES = 3
SLOW = Coefficients(turn=1e-4, run=1e-4, step=1e-4, row=1e-5, row_step=1e-4, carry=1e-6)


@dataclass
class Rows:
    """What is known of a ticket's rows, kept the plain way."""

    left: list[int]
    """Steps that each has still to go."""
    running: set[int] = field(default_factory=set)
    """Which of them a lane has."""
    slots: list[int] = field(default_factory=list)
    """Where they are; nowhere while they wait, and when they have gone."""
    told: bool = False
    """Whether its caller has the answer, was told why there is none, or has left."""


class PoolMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.rows: dict[Ticket, Rows] = {}
        self.lanes: dict[int, Turn] = {}

    @initialize(
        slots=st.integers(6, 20),
        steps=st.integers(20, 400),
        whole=st.booleans(),
        max_row_steps=st.sampled_from([60, 1 << 20]),
    )
    def begin(self, slots: int, steps: int, whole: bool, max_row_steps: int) -> None:
        self.slots, self.steps, self.whole = slots, steps, whole
        self.max_row_steps = max_row_steps
        self.pool = Pool(
            CostModel(SLOW),
            slots=slots,
            steps=steps,
            whole=whole,
            max_row_steps=max_row_steps,
            lanes=LANES,
            bulk_patience_s=2.0,
        )

    # What may happen

    @rule(
        lengths=st.lists(st.integers(1, 60), min_size=1, max_size=6),
        service_class=st.sampled_from(ServiceClass),
        patience=st.sampled_from([1.0, 3.0, math.inf, math.inf]),
    )
    def add(self, lengths: list[int], service_class: ServiceClass, patience: float) -> None:
        ticket = Ticket(np.array(lengths), self.now, service_class, self.now + patience)
        self.rows[ticket] = Rows(list(lengths))
        self.pool.add(ticket)

    @precondition(lambda self: self.rows)
    @rule(data=st.data(), times=st.integers(1, 2))
    def drop(self, data: st.DataObject, times: int) -> None:
        ticket = data.draw(st.sampled_from(list(self.rows)))
        self._tell(ticket)
        for _ in range(times):
            self.pool.drop(ticket)

    @rule(seconds=st.sampled_from([0.01, 0.5, 1.0, 3.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def admit(self) -> None:
        admitted, expired = self.pool.admit(self.now)
        for ticket in expired:
            assert ticket.deadline <= self.now
            assert not self.rows[ticket].told, "told twice"
            self._tell(ticket)
        for service_class in ServiceClass:
            waited = [each for each in self._waiting() if each.service_class is service_class]
            let_in = [each for each in admitted.tickets if each.service_class is service_class]
            assert let_in == waited[: len(let_in)], "not in order of arrival"
        assert admitted.slots.tolist() == _slots(admitted.tickets)
        taken = set(self._where())
        for ticket in admitted.tickets:
            slots = ticket.slots.tolist()
            assert len(slots) == len(ticket.lengths)
            assert taken.isdisjoint(slots), "a slot is used twice"
            taken.update(slots)
            self.rows[ticket].slots = slots
        assert all(t.deadline > self.now for t in self._in_play()), "expired, and not told"
        assert taken or not self._waiting(), "room, and nobody let in"

    @rule(lane=st.integers(0, LANES - 1))
    def turn(self, lane: int) -> None:
        if lane in self.lanes:
            return
        turn = self.pool.turn(self.now)
        ready = {
            (ticket, row)
            for ticket in self._in_play()
            for row, left in enumerate(self.rows[ticket].left)
            if left and row not in self.rows[ticket].running
        }
        assert (turn is not None) == bool(ready)
        if turn is None:
            return
        self.lanes[lane] = turn
        where = self._where()
        stops = [0, *(batch.stop for batch in turn.batches)]
        assert [batch.first for batch in turn.batches] == stops[:-1]
        assert stops[-1] == len(turn.slots)
        for batch in turn.batches:
            for place in range(batch.first, batch.stop):
                ticket, row = where[int(turn.slots[place])]
                rows = self.rows[ticket]
                assert (ticket, row) in ready, "it runs already, or has ended"
                ready.remove((ticket, row))
                rows.running.add(row)
                assert turn.advance[place] == min(rows.left[row], batch.steps)
                assert turn.ends[place] == (rows.left[row] <= batch.steps)
                assert turn.begun[place] == (rows.left[row] < ticket.lengths[row])
                if self.whole:
                    assert turn.ends[place]
            width = batch.stop - batch.first
            assert width == 1 or width * batch.steps <= self.max_row_steps

    @precondition(lambda self: self.lanes)
    @rule(data=st.data(), ran=st.sampled_from([0, 1, 1, 2, 100, 100, 100]))
    def done(self, data: st.DataObject, ran: int) -> None:
        self._finish(self.lanes.pop(data.draw(st.sampled_from(sorted(self.lanes)))), ran)

    @rule()
    def clear(self) -> None:
        expected = [ticket for ticket, rows in self.rows.items() if not rows.told]
        left = self.pool.clear()
        assert len(left) == len(expected)
        assert set(left) == set(expected)
        for ticket in left:
            self._tell(ticket)

    # What must always hold

    @invariant()
    def the_pool_knows_what_the_rows_have_still_to_go(self) -> None:
        if not hasattr(self, "pool"):
            return
        slots, remaining = rows_in_play(self.pool)
        assert len(set(slots.tolist())) == len(slots) <= self.slots
        where = self._where()
        for slot, left in zip(slots.tolist(), remaining.tolist(), strict=True):
            ticket, row = where[slot]
            assert self.rows[ticket].left[row] == left
        assert set(where) == set(slots.tolist())

    @invariant()
    def the_bounds_hold(self) -> None:
        holding = [ticket for ticket, rows in self.rows.items() if rows.slots]
        assert len(holding) <= 1 or sum(ticket.steps for ticket in holding) <= self.steps

    def teardown(self) -> None:
        """Everyone is told in the end, and the pool is as it was made."""
        if not hasattr(self, "pool"):
            return
        for lane in list(self.lanes):
            self._finish(self.lanes.pop(lane), 100)
        self.admit()
        while not self.pool.idle:
            self.turn(0)
            if 0 in self.lanes:  # not where the last ones expired
                self._finish(self.lanes.pop(0), 1)
            self.admit()
        assert all(rows.told for rows in self.rows.values())
        everywhere = Ticket(np.ones(self.slots, np.int64), self.now)
        self.pool.add(everywhere)
        assert self.pool.admit(self.now)[0].tickets == [everywhere]

    def _finish(self, turn: Turn, ran: int) -> None:
        ran = min(ran, len(turn.batches))
        rows_run = turn.batches[ran - 1].stop if ran else 0
        where = self._where()
        for place, slot in enumerate(turn.slots.tolist()):
            ticket, row = where[slot]
            self.rows[ticket].running.remove(row)
            if place < rows_run:
                self.rows[ticket].left[row] -= int(turn.advance[place])
        expected = [each for each in self._in_play() if not any(self.rows[each].left)]
        complete = self.pool.done(turn, ran)
        assert len(complete.tickets) == len(expected)
        assert set(complete.tickets) == set(expected)
        assert complete.slots.tolist() == _slots(complete.tickets)
        for ticket in {where[slot][0] for slot in turn.slots.tolist()}:
            if ticket in expected or self.rows[ticket].told:
                self._tell(ticket)

    def _tell(self, ticket: Ticket) -> None:
        """Its slots are free once none of its rows runs."""
        rows = self.rows[ticket]
        rows.told = True
        if not rows.running:
            rows.slots = []

    def _waiting(self) -> list[Ticket]:
        return [t for t, rows in self.rows.items() if not rows.told and not rows.slots]

    def _in_play(self) -> list[Ticket]:
        return [t for t, rows in self.rows.items() if not rows.told and rows.slots]

    def _where(self) -> dict[int, tuple[Ticket, int]]:
        """Whose row is in each slot."""
        return {
            slot: (ticket, row)
            for ticket, rows in self.rows.items()
            for row, slot in enumerate(rows.slots)
        }


def _slots(tickets: list[Ticket]) -> list[int]:
    return [slot for ticket in tickets for slot in ticket.slots.tolist()]


PoolMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=50)
TestPool = PoolMachine.TestCase
