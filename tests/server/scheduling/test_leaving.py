"""Whoever leaves holds nobody up: the same traffic by a virtual clock, with one caller gone.

Turns end at other moments then. Who came just before one began may come just after it, and has lost
its luck: it is done when those are who came about then, and no later.
"""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from seqserve_server.scheduling.cost import Coefficients, CostModel
from seqserve_server.scheduling.pool import Pool
from seqserve_server.scheduling.ticket import Ticket

COST = Coefficients(turn=150e-6, run=40e-6, step=0.5e-6, row=0.3e-6, row_step=1.5e-6, carry=0.5e-6)

ARRIVALS = st.lists(
    st.tuples(
        st.sampled_from([0.0, 1e-4, 1e-3, 5e-3]),  # after the one before
        st.lists(st.integers(1, 300), min_size=1, max_size=16),
    ),
    min_size=2,
    max_size=40,
)


@given(ARRIVALS, st.data(), st.booleans())
def test_who_leaves_at_any_moment_costs_others_no_more_than_to_have_come_a_turn_later(
    arrivals: list[tuple[float, list[int]]], data: st.DataObject, whole: bool
) -> None:
    gone = data.draw(st.integers(0, len(arrivals) - 1))
    after_s = data.draw(st.floats(0.0, 0.05))

    stays, turn_s = _answered_at(arrivals, whole=whole)
    leaves, longest_s = _answered_at(arrivals, whole=whole, gone=gone, after_s=after_s)
    others = set(range(len(arrivals))) - {gone}
    turn_s = max(turn_s, longest_s)

    assert others <= leaves.keys()
    came = np.cumsum([gap_s for gap_s, _ in arrivals])
    for each in others:
        about_then = max(stays[one] for one in others if came[one] <= came[each] + turn_s)
        assert leaves[each] <= about_then + 2 * turn_s
    assert max(leaves[each] for each in others) <= max(stays[each] for each in others) + turn_s


def _answered_at(
    arrivals: list[tuple[float, list[int]]],
    *,
    whole: bool,
    gone: int | None = None,
    after_s: float = 0.0,
) -> tuple[dict[int, float], float]:
    """When each ticket was complete, and how long the longest turn took.

    Args:
        arrivals: Seconds after the one before, and the lengths of its rows.
        whole: Whether rows run to their end at once.
        gone: Who leaves.
        after_s: So long after it came.
    """
    cost = CostModel(COST)
    pool = Pool(cost, slots=256, steps=20_000, whole=whole, max_row_steps=65_536)
    at = np.cumsum([gap_s for gap_s, _ in arrivals]).tolist()
    tickets = [
        Ticket(np.array(lengths), came) for came, (_, lengths) in zip(at, arrivals, strict=True)
    ]
    number = {ticket: index for index, ticket in enumerate(tickets)}
    events = [(came, pool.add, ticket) for came, ticket in zip(at, tickets, strict=True)]
    if gone is not None:
        events.append((at[gone] + after_s, pool.drop, tickets[gone]))
    events.sort(key=lambda event: event[0])

    answered: dict[int, float] = {}
    now, longest_s = 0.0, 0.0
    while True:
        while events and events[0][0] <= now:
            _, happens, ticket = events.pop(0)
            happens(ticket)
        pool.admit(now)
        turn = pool.turn(now)
        if turn is None:
            if not events:
                return answered, longest_s
            now = events[0][0]
            continue
        runs_s = [cost.run_s(each.stop - each.first, each.steps) for each in turn.batches]
        took_s = COST.turn + sum(runs_s)
        longest_s = max(longest_s, took_s)
        now += took_s
        for ticket in pool.done(turn, len(turn.batches)).tickets:
            answered[number[ticket]] = now
