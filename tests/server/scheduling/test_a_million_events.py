"""Admission and pool under random traffic on several lanes, with a clock that is only counted."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from seqserve_server.errors import QueueFull
from seqserve_server.scheduling.admission import Admission
from seqserve_server.scheduling.cost import DEFAULT, CostModel
from seqserve_server.scheduling.pool import Pool, Turn
from seqserve_server.scheduling.ticket import Ticket
from seqserve_server.scheduling.work import ServiceClass
from tests.server.scheduling.pool_state import rows_in_play

EVENTS = 1_000_000
LANES, SLOTS, STEPS, QUEUE_STEPS = 4, 96, 3000, 12_000


class Traffic:
    """Arrivals, departures and borders, each followed by the checks that cost little."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.cost = CostModel(DEFAULT)
        self.admission = Admission(QUEUE_STEPS, LANES)
        self.pool = Pool(
            self.cost,
            slots=SLOTS,
            steps=STEPS,
            whole=False,
            max_row_steps=4000,
            lanes=LANES,
            bulk_patience_s=0.5,
        )
        rng = np.random.default_rng(seed)
        self.lengths = [
            np.clip(rng.lognormal(math.log(25), 0.8, rng.integers(1, 9)), 1, 300).astype(np.int64)
            for _ in range(1000)
        ]
        self.now = 0.0
        self.events = 0
        self.lanes: list[Turn | None] = [None] * LANES
        self.open: list[Ticket] = []  # callers who wait
        self.place: dict[Ticket, int] = {}  # where in `open`
        self.owner: list[Ticket | None] = [None] * SLOTS
        self.left = np.zeros(SLOTS, np.int64)
        self.running = np.zeros(SLOTS, np.bool_)
        self.counts = dict.fromkeys(("arrived", "refused", "answered", "gone", "expired"), 0)

    def arrive(self) -> None:
        self.events += 1
        self.counts["arrived"] += 1
        ticket = Ticket(
            self.draw.choice(self.lengths),
            self.now,
            ServiceClass(self.draw.random() < 0.3),
            self.now + self.draw.choice((0.02, 0.2, math.inf)),
        )
        try:
            self.admission.enter([ticket], self.cost, self.now)
        except QueueFull:
            self.counts["refused"] += 1
            return
        self.pool.add(ticket)
        self.place[ticket] = len(self.open)
        self.open.append(ticket)
        assert self.admission.steps <= QUEUE_STEPS

    def leave(self) -> None:
        self.events += 1
        if self.open:
            ticket = self.draw.choice(self.open)
            self._tell(ticket, "gone")
            self.pool.drop(ticket)
            if self.draw.random() < 0.1:
                self.pool.drop(ticket)

    def border(self, lane: int) -> None:
        """A lane ends a turn and begins another."""
        turn = self.lanes[lane]
        if turn is not None:
            self._end(turn)
        self._admit()
        self.lanes[lane] = turn = self.pool.turn(self.now)
        self.events += 1
        if turn is None:
            return
        assert not self.running[turn.slots].any(), "a row runs twice"
        assert (turn.advance >= 1).all()
        assert (turn.advance <= self.left[turn.slots]).all()
        assert np.array_equal(turn.ends, turn.advance == self.left[turn.slots])
        self.running[turn.slots] = True
        for batch in turn.batches:
            rows = batch.stop - batch.first
            assert rows == 1 or rows * batch.steps <= 4000

    def _end(self, turn: Turn) -> None:
        self.events += 1
        ran = self.draw.randint(0, len(turn.batches))
        rows = turn.batches[ran - 1].stop if ran else 0
        self.running[turn.slots] = False
        self.left[turn.slots[:rows]] -= turn.advance[:rows]
        complete = self.pool.done(turn, ran)
        assert not self.left[complete.slots].any(), "complete, with steps to go"
        assert len(complete.slots) == sum(len(ticket.lengths) for ticket in complete.tickets)
        for ticket in complete.tickets:
            self._tell(ticket, "answered")
            self._vacate(ticket)

    def _admit(self) -> None:
        self.events += 1
        admitted, expired = self.pool.admit(self.now)
        for ticket in expired:
            assert ticket.deadline <= self.now
            self._tell(ticket, "expired")
        for ticket in admitted.tickets:
            for slot in ticket.slots.tolist():
                before = self.owner[slot]
                if before is not None:
                    assert before not in self.place, "a slot is used twice"
                    assert not self.running[before.slots].any(), "let go while it runs"
                    self._vacate(before)
                self.owner[slot] = ticket
            self.left[ticket.slots] = ticket.lengths

    def _tell(self, ticket: Ticket, what: str) -> None:
        """Each caller once: a second time it is not in `place`."""
        place, last = self.place.pop(ticket), self.open.pop()
        if last is not ticket:
            self.open[place], self.place[last] = last, place
        self.admission.leave(ticket, self.now)
        self.counts[what] += 1

    def _vacate(self, ticket: Ticket) -> None:
        for slot in ticket.slots.tolist():
            self.owner[slot] = None

    def check(self) -> None:
        """What costs more to check."""
        slots, remaining = rows_in_play(self.pool)
        assert len(np.unique(slots)) == len(slots)
        assert np.array_equal(self.left[slots], remaining)
        in_play = {id(self.owner[slot]): self.owner[slot] for slot in slots.tolist()}.values()
        assert len(in_play) <= 1 or sum(t.steps for t in in_play if t is not None) <= STEPS
        assert self.admission.steps == sum(ticket.steps for ticket in self.open)
        told = sum(self.counts[what] for what in ("refused", "answered", "gone", "expired"))
        assert self.counts["arrived"] == told + len(self.open)


@pytest.mark.slow
def test_a_million_random_events_break_nothing() -> None:
    traffic = Traffic(seed=7)
    draw = traffic.draw
    checked = 0
    while traffic.events < EVENTS:
        # Ebb and flow, so that the queue is now full, now empty.
        rush = 0.7 if traffic.events // 50_000 % 2 else 0.3
        traffic.now += draw.expovariate(5000)
        chosen = draw.random()
        if chosen < rush:
            traffic.arrive()
        elif chosen < rush + 0.05:
            traffic.leave()
        else:
            traffic.border(draw.randrange(LANES))
        if traffic.events >= checked:
            traffic.check()
            checked += 2000
    while traffic.open or any(traffic.lanes):
        for lane in range(LANES):
            traffic.border(lane)
    traffic.check()

    assert traffic.admission.steps == 0
    assert len(rows_in_play(traffic.pool)[0]) == 0
    few = [what for what, count in traffic.counts.items() if count < 10_000]
    assert not few, f"hardly tried: {traffic.counts}"
