"""Who waits, who is in play, who runs: with a clock that the test moves."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqserve_server.scheduling.cost import Coefficients, CostModel
from seqserve_server.scheduling.policy import RUN_LIMIT_S
from seqserve_server.scheduling.pool import STRETCH, Pool, Turn
from seqserve_server.scheduling.ticket import Ticket
from seqserve_server.scheduling.work import ServiceClass
from tests.server.scheduling.pool_state import rows_in_play

PATIENCE_S = 10.0
BULK = ServiceClass.BULK

# A chunk is 8 steps as soon as two rows are long, so that rows take many turns.
SLOW = Coefficients(turn=1e-4, run=1e-4, step=1e-4, row=1e-5, row_step=1e-4, carry=1e-6)


def _pool(*, slots: int = 1000, steps: int = 100_000, whole: bool = False, lanes: int = 1) -> Pool:
    return Pool(
        CostModel(SLOW),
        slots=slots,
        steps=steps,
        whole=whole,
        max_row_steps=1 << 20,
        lanes=lanes,
        bulk_patience_s=PATIENCE_S,
    )


def _ticket(
    *lengths: int,
    arrived: float = 0.0,
    service_class: ServiceClass = ServiceClass.INTERACTIVE,
    deadline: float = math.inf,
) -> Ticket:
    return Ticket(np.array(lengths), arrived, service_class, deadline)


def _admitted(pool: Pool, *tickets: Ticket, now: float = 0.0) -> list[Ticket]:
    """What is let in when these have come."""
    for ticket in tickets:
        pool.add(ticket)
    return pool.admit(now)[0].tickets


def _turn(pool: Pool, now: float = 0.0) -> Turn:
    turn = pool.turn(now)
    assert turn is not None
    return turn


def _run(pool: Pool, now: float = 0.0) -> list[Ticket]:
    """Has a turn and runs all of it; the tickets that are complete then."""
    turn = _turn(pool, now)
    return pool.done(turn, len(turn.batches)).tickets


def _in_turn(turn: Turn, ticket: Ticket) -> bool:
    return bool(np.isin(ticket.slots, turn.slots).any())


def _all(pool: Pool, now: float = 0.0) -> list[Ticket]:
    """Runs until nobody waits; who is complete, in order."""
    complete = []
    while not pool.idle:
        pool.admit(now)
        complete += _run(pool, now)
    return complete


# Letting in


def test_tickets_are_let_in_in_order_of_arrival() -> None:
    pool = _pool(slots=4)
    first, second, third = _ticket(5, 5), _ticket(5), _ticket(5, 5)

    assert _admitted(pool, first, second, third) == [first, second]


def test_a_small_ticket_does_not_pass_a_large_one_that_waits_for_room() -> None:
    pool = _pool(slots=4)
    _admitted(pool, _ticket(5, 5, 5))

    assert _admitted(pool, large := _ticket(5, 5), small := _ticket(5)) == []
    _run(pool)
    assert _admitted(pool) == [large, small]


def test_steps_in_play_are_bounded_as_slots_are() -> None:
    pool = _pool(steps=100)

    assert _admitted(pool, first := _ticket(60), second := _ticket(41)) == [first]
    _all(pool)
    assert len(second.slots) == 1


def test_a_ticket_of_more_steps_than_fit_is_in_play_alone() -> None:
    pool = _pool(steps=100)
    before, huge, after = _ticket(10), _ticket(200, 200), _ticket(1)

    assert _admitted(pool, before, huge, after) == [before]
    _run(pool)
    assert _admitted(pool) == [huge]
    assert _all(pool) == [huge, after]


def test_slots_of_a_complete_ticket_are_given_again() -> None:
    pool = _pool(slots=3)
    for _ in range(10):
        ticket = _ticket(4, 4, 4)
        assert _admitted(pool, ticket) == [ticket]
        assert sorted(ticket.slots) == [0, 1, 2]
        assert _run(pool) == [ticket]


def test_a_pool_with_nothing_in_it_is_idle_and_has_no_turn() -> None:
    pool = _pool()
    assert pool.idle
    assert pool.turn(0.0) is None

    pool.add(_ticket(1))
    assert not pool.idle
    assert pool.turn(0.0) is None, "it was not let in yet"


# Running


def test_a_ticket_is_complete_when_its_last_row_is() -> None:
    pool = _pool()
    ticket = _ticket(3, 200, 200, 90)
    _admitted(pool, ticket)
    turns = []
    while not (complete := _run(pool)):
        turns.append(complete)

    assert complete == [ticket]
    assert turns, "one turn was enough: the test shows nothing"
    assert pool.idle


def test_rows_that_run_on_one_lane_are_no_other_lanes() -> None:
    pool = _pool(lanes=2)
    _admitted(pool, _ticket(*[9] * 900))
    one = _turn(pool)
    other = _turn(pool)

    assert not np.isin(one.slots, other.slots).any()


def test_batches_that_were_not_run_wait_on_as_they_were() -> None:
    pool = _pool()
    _admitted(pool, ticket := _ticket(*[3] * 10, *[70] * 10))
    turn = _turn(pool)
    assert len(turn.batches) > 1
    ran = turn.batches[0].stop
    pool.done(turn, 1)

    slots, remaining = rows_in_play(pool)
    expected = np.concatenate([turn.slots[:ran], turn.slots[ran:]])
    left = dict(zip(slots.tolist(), remaining.tolist(), strict=True))
    lengths = dict(zip(ticket.slots.tolist(), ticket.lengths.tolist(), strict=True))
    for place, slot in enumerate(expected.tolist()):
        advance = int(turn.advance[place]) if place < ran else 0
        assert left[slot] == lengths[slot] - advance


def test_a_turn_tells_which_rows_have_a_state_and_which_end() -> None:
    pool = _pool()
    _admitted(pool, _ticket(100, 100))
    first = _turn(pool)
    pool.done(first, len(first.batches))
    second = _turn(pool)

    assert not first.begun.any()
    assert not first.ends.any()
    assert second.begun.all()


def test_a_turn_tells_how_long_its_rows_have_waited() -> None:
    pool = _pool()
    _admitted(pool, _ticket(4, arrived=1.0), _ticket(4, arrived=2.5), now=3.0)

    assert sorted(_turn(pool, 3.0).waited_s) == [0.5, 2.0]


# Bulk


def test_bulk_runs_only_when_no_interactive_row_is_ready() -> None:
    pool = _pool()
    bulk, urgent = _ticket(4, service_class=BULK), _ticket(4, arrived=1.0)
    _admitted(pool, bulk, urgent, now=1.0)
    first, second = _turn(pool, 1.0), _turn(pool, 1.0)

    assert _in_turn(first, urgent)
    assert not _in_turn(first, bulk)
    assert _in_turn(second, bulk)
    assert first.service_class is ServiceClass.INTERACTIVE
    assert second.service_class is BULK


def test_bulk_leaves_room_for_whoever_comes() -> None:
    pool = _pool(slots=8)
    bulk = [_ticket(50, service_class=BULK) for _ in range(8)]

    assert _admitted(pool, *bulk) == bulk[:6]
    urgent = [_ticket(4), _ticket(4), _ticket(4)]
    assert _admitted(pool, *urgent) == urgent[:2]


def test_bulk_takes_what_interactive_work_leaves() -> None:
    pool = _pool()
    urgent, bulk = _ticket(4), _ticket(4, service_class=BULK)
    _admitted(pool, urgent, bulk)

    assert _all(pool) == [urgent, bulk]


def test_bulk_whose_patience_ran_out_counts_as_interactive() -> None:
    pool = _pool()
    bulk = _ticket(4, service_class=BULK)
    _admitted(pool, bulk)
    late = PATIENCE_S + 1.0
    _admitted(pool, urgent := _ticket(4, arrived=late), now=late)
    turn = _turn(pool, late)

    assert _in_turn(turn, bulk)
    assert turn.service_class is ServiceClass.INTERACTIVE
    assert _in_turn(turn, urgent), "of one length, and room for both"


def test_bulk_whose_patience_ran_out_makes_runs_of_fresh_rows_no_longer() -> None:
    now = PATIENCE_S + 2.0

    def longest_s(*bulk: Ticket) -> float:
        """Of the runs of a turn."""
        pool = _pool()
        fresh = (_ticket(30, arrived=now) for _ in range(150))
        _admitted(pool, *bulk, *fresh, now=now)
        turn = _turn(pool, now)
        assert all(_in_turn(turn, ticket) for ticket in bulk)
        return max(pool.cost.run_s(each.stop - each.first, each.steps) for each in turn.batches)

    assert longest_s(_ticket(30, service_class=BULK)) == longest_s()


def test_bulk_alone_runs_as_short_when_its_patience_ran_out() -> None:
    def longest_s(now: float) -> float:
        pool = _pool()
        _admitted(pool, *(_ticket(30, service_class=BULK) for _ in range(150)), now=now)
        turn = _turn(pool, now)
        assert turn.service_class is ServiceClass.INTERACTIVE
        return max(pool.cost.run_s(each.stop - each.first, each.steps) for each in turn.batches)

    assert longest_s(now=PATIENCE_S + 60.0) == longest_s(now=PATIENCE_S + 1.0) <= RUN_LIMIT_S


def test_bulk_runs_within_its_patience_whatever_interactive_work_comes() -> None:
    pool = _pool()
    now, bulk = 0.0, _ticket(4, service_class=BULK)
    _admitted(pool, bulk)
    while bulk.pending:
        assert now < PATIENCE_S + 1.0
        _admitted(pool, *(_ticket(4, 20, arrived=now) for _ in range(3)), now=now)
        _run(pool, now)
        now += 0.05
    assert now >= PATIENCE_S, "interactive work left a turn free: the test shows nothing"


def test_bulk_that_waits_for_room_gets_it_when_its_patience_ran_out() -> None:
    pool = _pool(slots=20)
    now, bulk = 0.0, _ticket(4, service_class=BULK)
    _admitted(pool, *(_ticket(20) for _ in range(40)), bulk)
    while not len(bulk.slots):
        assert now < PATIENCE_S + 1.0
        _admitted(pool, *(_ticket(20, arrived=now) for _ in range(20)), now=now)
        _run_first(pool, now)
        now += 0.05
    assert now >= PATIENCE_S, "interactive work left room: the test shows nothing"


def test_bulk_does_not_take_the_room_that_an_interactive_ticket_waits_for() -> None:
    pool = _pool(slots=100, steps=1 << 30)
    # Of many lengths, so that their room comes back little by little.
    _admitted(pool, *(_ticket(100 * n, service_class=BULK) for n in range(1, 76)))
    urgent = _ticket(*[4] * 40)
    pool.add(urgent)
    for _ in range(5000):
        if len(urgent.slots):
            break
        _admitted(pool, _ticket(5000, service_class=BULK))
        _run_first(pool, 0.0)
    assert urgent in pool.owners(urgent.slots)


def _run_first(pool: Pool, now: float) -> list[Ticket]:
    """Has a turn and runs its first batch alone; the tickets that are complete then."""
    turn = _turn(pool, now)
    return pool.done(turn, 1).tickets


# Fairness


def test_a_short_row_passes_long_ones_that_came_shortly_before() -> None:
    pool = _pool(steps=1 << 30)
    long = [_ticket(5000) for _ in range(300)]
    _admitted(pool, *long)
    for _ in range(5):
        _run(pool)
    _admitted(pool, short := _ticket(5, arrived=0.01), now=0.01)

    assert _run(pool, 0.01) == [short]


@given(
    before=st.lists(st.integers(1, 400), min_size=1, max_size=40),
    mine=st.integers(1, 400),
    later=st.lists(st.lists(st.integers(1, 400), max_size=4), min_size=1, max_size=100),
    ran=st.lists(st.integers(1, 3), min_size=1),
    whole=st.booleans(),
)
def test_past_its_due_date_a_row_waits_only_for_rows_that_are_due_before_it(
    before: Sequence[int],
    mine: int,
    later: Sequence[Sequence[int]],
    ran: Sequence[int],
    whole: bool,
) -> None:
    pool = _pool(whole=whole)
    ticket, others = _ticket(mine), [_ticket(each) for each in before]
    _admitted(pool, *others, ticket)
    # From here on every row that comes is due later.
    now = _due(ticket)
    ahead = {other for other in others if _due(other) <= now}
    turns = 0
    for index in range(1000):
        come = later[index % len(later)]
        _admitted(pool, *(_ticket(each, arrived=now) for each in come), now=now)
        turn = _turn(pool, now)
        batches = min(ran[index % len(ran)], len(turn.batches))
        if _in_turn(turn, ticket):
            break
        assert any(_in_turn(turn, other) for other in ahead), "a turn of rows that are due later"
        first = turn.slots[turn.batches[0].first : turn.batches[0].stop]
        assert any(other in ahead for other in pool.owners(first)), "their run came first"
        pool.done(turn, batches)
        ahead = {other for other in ahead if other.pending}
        now += 1e-3
        turns += 1
    assert turns <= sum(math.ceil(each / 8) for each in before)


def test_where_rows_have_waited_for_long_more_of_them_share_a_run() -> None:
    def step_s(late_s: float) -> float:
        """What a step of a turn costs."""
        pool = _pool()
        _admitted(pool, first := _ticket(30), *(_ticket(30) for _ in range(100)))
        turn = _turn(pool, _due(first) + late_s)
        took_s = sum(pool.cost.run_s(each.stop - each.first, each.steps) for each in turn.batches)
        return took_s / int(turn.advance.sum())

    assert step_s(1.0) < 0.8 * step_s(0.0)


def _due(ticket: Ticket) -> float:
    """As the pool's docstring says, of a row with the costs of `SLOW`."""
    alone = (SLOW.step + SLOW.row_step) * int(ticket.lengths.max())
    return ticket.arrived + STRETCH * alone


# Going


def test_a_ticket_dropped_while_it_waits_is_never_let_in() -> None:
    pool = _pool(slots=1)
    running, gone, after = _ticket(4), _ticket(4), _ticket(4)
    _admitted(pool, running, gone, after)
    pool.drop(gone)

    assert _all(pool) == [running, after]
    assert not len(gone.slots)


def test_a_ticket_dropped_in_play_leaves_its_room_at_once() -> None:
    pool = _pool(slots=3)
    _admitted(pool, gone := _ticket(4, 4), other := _ticket(4))
    pool.drop(gone)

    assert _admitted(pool, after := _ticket(4, 4)) == [after]
    assert set(_all(pool)) == {other, after}


def test_a_ticket_dropped_while_it_runs_keeps_its_room_until_then_and_is_never_complete() -> None:
    pool = _pool(slots=2)
    _admitted(pool, gone := _ticket(4, 4), after := _ticket(4))
    turn = _turn(pool)
    pool.drop(gone)

    assert _admitted(pool) == []
    assert pool.done(turn, len(turn.batches)).tickets == []
    assert _admitted(pool) == [after]
    assert _all(pool) == [after]


def test_a_ticket_dropped_between_its_turns_runs_no_further() -> None:
    pool = _pool()
    _admitted(pool, gone := _ticket(100, 100), other := _ticket(100))
    _run(pool)
    pool.drop(gone)

    assert _all(pool) == [other]


@pytest.mark.parametrize("ran", [0, 1, 2], ids="{} batches run".format)
def test_a_ticket_dropped_while_it_runs_leaves_however_far_its_turn_came(ran: int) -> None:
    pool = _pool()
    _admitted(pool, gone := _ticket(*[3] * 10, *[70] * 10))
    turn = _turn(pool)
    assert len(turn.batches) >= 2
    pool.drop(gone)

    assert pool.done(turn, ran).tickets == []
    assert pool.idle


def test_a_ticket_dropped_while_two_lanes_run_it_leaves_with_the_second() -> None:
    pool = _pool(lanes=2)
    _admitted(pool, gone := _ticket(*[9] * 900))
    one, other = _turn(pool), _turn(pool)
    pool.drop(gone)
    pool.done(one, len(one.batches))
    assert not pool.idle

    assert pool.done(other, len(other.batches)).tickets == []
    assert pool.idle


def test_a_ticket_dropped_twice_while_it_runs_is_let_go_once() -> None:
    pool = _pool(slots=2)
    _admitted(pool, gone := _ticket(4, 4))
    turn = _turn(pool)
    pool.drop(gone)  # its deadline passed
    pool.drop(gone)  # and then its caller left

    assert pool.done(turn, len(turn.batches)).tickets == []
    assert pool.idle
    assert _admitted(pool, after := _ticket(4, 4)) == [after]


def test_dropping_a_complete_ticket_does_nothing() -> None:
    pool = _pool(slots=1)
    _admitted(pool, complete := _ticket(4))
    assert _run(pool) == [complete]
    _admitted(pool, after := _ticket(4))
    pool.drop(complete)

    assert _all(pool) == [after]


def test_a_waiting_ticket_expires_at_its_deadline_and_not_before() -> None:
    pool = _pool(slots=1)
    _admitted(pool, _ticket(500), late := _ticket(4, deadline=5.0))

    assert pool.admit(4.999)[1] == []
    assert pool.admit(5.0)[1] == [late]
    assert pool.admit(5.0)[1] == [], "told once"


def test_a_ticket_that_is_late_when_it_could_be_let_in_expires_instead() -> None:
    pool = _pool()
    pool.add(late := _ticket(4, deadline=5.0))
    pool.add(good := _ticket(4, deadline=5.1))
    admitted, expired = pool.admit(5.0)

    assert admitted.tickets == [good]
    assert expired == [late]


def test_a_ticket_in_play_expires_between_its_turns() -> None:
    pool = _pool()
    _admitted(pool, late := _ticket(100, deadline=5.0), other := _ticket(100))
    _run(pool)

    assert pool.admit(5.0)[1] == [late]
    assert _all(pool, 5.0) == [other]


def test_a_ticket_that_expires_while_it_runs_is_told_once_and_never_complete() -> None:
    pool = _pool()
    _admitted(pool, late := _ticket(4, deadline=5.0))
    turn = _turn(pool)

    assert pool.admit(5.0)[1] == [late]
    assert pool.admit(6.0)[1] == []
    assert pool.done(turn, len(turn.batches)).tickets == []
    assert pool.idle


def test_a_dropped_ticket_does_not_expire() -> None:
    pool = _pool(slots=1)
    _admitted(pool, gone := _ticket(4, deadline=5.0), waiting := _ticket(4, deadline=5.0))
    pool.drop(gone)
    pool.drop(waiting)

    assert pool.admit(6.0)[1] == []


def test_clearing_gives_back_everyone_once_and_nobody_is_complete_afterwards() -> None:
    pool = _pool(slots=3)
    running, between, waiting, gone = (_ticket(n) for n in (4, 4, 4, 4))
    _admitted(pool, running, between, gone, waiting)
    turn = _turn(pool)
    pool.drop(gone)

    assert set(pool.clear()) == {running, between, waiting}
    assert pool.clear() == []
    assert pool.done(turn, len(turn.batches)).tickets == []
    assert pool.idle


def test_the_owners_of_slots_are_those_that_somebody_waits_for() -> None:
    pool = _pool()
    _admitted(pool, one := _ticket(4, 4), gone := _ticket(4), other := _ticket(4))
    turn = _turn(pool)
    pool.drop(gone)

    assert set(pool.owners(turn.slots)) == {one, other}


# Between models


def test_a_pool_with_interactive_rows_is_more_urgent_than_one_with_bulk() -> None:
    bulk, urgent, idle = _pool(), _pool(), _pool()
    _admitted(bulk, _ticket(4, service_class=BULK))
    _admitted(urgent, _ticket(400, arrived=1.0), now=1.0)

    assert urgent.urgency(1.0) < bulk.urgency(1.0) < idle.urgency(1.0)
    assert bulk.urgency(PATIENCE_S + 9) < urgent.urgency(PATIENCE_S + 9) or (
        bulk.urgency(PATIENCE_S + 9)[0] is False
    )


def test_of_two_pools_the_one_whose_row_is_due_first_is_more_urgent() -> None:
    sooner, later = _pool(), _pool()
    _admitted(sooner, _ticket(4))
    _admitted(later, _ticket(4, arrived=1.0), now=1.0)

    assert sooner.urgency(1.0) < later.urgency(1.0)


def test_rows_of_many_callers_who_leave_at_once_are_let_go_when_they_have_run() -> None:
    pool = _pool(lanes=2)
    tickets = [_ticket(50) for _ in range(200)]
    _admitted(pool, *tickets)
    turn = _turn(pool)
    for ticket in tickets:
        pool.drop(ticket)
    running = {ticket for ticket in tickets if np.isin(ticket.slots, turn.slots).any()}
    slots, _ = rows_in_play(pool)
    assert sorted(slots.tolist()) == sorted(int(t.slots[0]) for t in running)

    pool.done(turn, len(turn.batches))

    assert pool.idle
