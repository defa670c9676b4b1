from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqserve_server.errors import QueueFull
from seqserve_server.scheduling.admission import MAX_RETRY_S, MIN_RETRY_S, Admission
from seqserve_server.scheduling.cost import Coefficients, CostModel
from seqserve_server.scheduling.ticket import Ticket
from seqserve_server.scheduling.work import ServiceClass

BULK = ServiceClass.BULK


def _cost(seconds_per_step: float = 1e-3) -> CostModel:
    return CostModel(Coefficients(0.0, 0.0, 0.0, 0.0, seconds_per_step, 0.0))


def _ticket(
    *lengths: int,
    deadline: float = math.inf,
    service_class: ServiceClass = ServiceClass.INTERACTIVE,
) -> Ticket:
    return Ticket(np.array(lengths), 0.0, service_class, deadline)


def _refusal(admission: Admission, ticket: Ticket, cost: CostModel, now: float = 0.0) -> QueueFull:
    with pytest.raises(QueueFull) as raised:
        admission.enter([ticket], cost, now)
    return raised.value


def test_steps_are_let_in_up_to_the_bound_and_not_one_more() -> None:
    admission = Admission(max_steps=10, lanes=1)
    admission.enter([_ticket(3, 3)], _cost(), 0.0)
    admission.enter([_ticket(4)], _cost(), 0.0)

    assert admission.steps == 10
    refusal = _refusal(admission, _ticket(1), _cost())
    assert str(refusal) == "10 steps are under way and 1 more do not fit into a queue of 10"
    assert admission.steps == 10


def test_who_leaves_makes_room_and_leaving_twice_makes_no_more() -> None:
    admission = Admission(max_steps=10, lanes=1)
    stays, leaves = _ticket(5), _ticket(5)
    for ticket in (stays, leaves):
        admission.enter([ticket], _cost(), 0.0)
    admission.leave(leaves, 0.0)
    admission.leave(leaves, 0.0)

    assert admission.steps == 5
    admission.enter([_ticket(5)], _cost(), 0.0)
    _refusal(admission, _ticket(1), _cost())


def test_who_was_refused_leaves_nothing_behind() -> None:
    admission = Admission(max_steps=10, lanes=1)
    refused = _ticket(11)
    _refusal(admission, refused, _cost())
    admission.leave(refused, 0.0)

    assert admission.steps == 0


def test_the_wait_told_is_until_half_is_done_or_there_is_room() -> None:
    admission = Admission(max_steps=1000, lanes=2)
    admission.enter([_ticket(400, service_class=BULK)], _cost(2e-3), 0.0)
    admission.enter([_ticket(600)], _cost(1e-3), 0.0)

    all_s = (0.6 + 0.8) / 2
    refusal = _refusal(admission, _ticket(1), _cost())
    assert refusal.retry_after_s == pytest.approx(all_s / 2)
    refusal = _refusal(admission, _ticket(800), _cost())
    assert refusal.retry_after_s == pytest.approx(all_s * 0.8)


def test_bulk_work_leaves_interactive_work_room_in_the_queue() -> None:
    admission = Admission(max_steps=1000, lanes=1)
    admission.enter([_ticket(700, service_class=BULK)], _cost(), 0.0)

    refusal = _refusal(admission, _ticket(51, service_class=BULK), _cost())
    assert "a queue of 1000, of which bulk work leaves 25% free" in str(refusal)
    admission.enter([_ticket(50, service_class=BULK)], _cost(), 0.0)
    admission.enter([_ticket(250)], _cost(), 0.0)
    assert admission.steps == 1000


def test_bulk_work_of_any_size_is_let_in_by_an_empty_queue() -> None:
    admission = Admission(max_steps=1000, lanes=1)
    admission.enter([_ticket(1000, service_class=BULK)], _cost(), 0.0)
    assert admission.steps == 1000


def test_works_that_came_together_are_let_in_together_or_not_at_all() -> None:
    admission = Admission(max_steps=1000, lanes=1)
    admission.enter([_ticket(400)], _cost(), 0.0)
    with pytest.raises(QueueFull, match="700 more do not fit"):
        admission.enter([_ticket(300), _ticket(400)], _cost(), 0.0)
    with pytest.raises(QueueFull, match=r"take about 1\.2 s, 0\.6 s of it waiting"):
        admission.enter([_ticket(200, deadline=1.1), _ticket(400, deadline=1.1)], _cost(), 0.0)
    assert admission.steps == 400

    together = [_ticket(200), _ticket(400)]
    admission.enter(together, _cost(), 0.0)
    assert admission.steps == 1000
    for ticket in together:
        admission.leave(ticket, 0.0)
    assert admission.steps == 400


def test_a_deadline_that_cannot_be_made_is_refused_with_when_to_come_again() -> None:
    admission = Admission(max_steps=100_000, lanes=2)
    admission.enter([_ticket(4000)], _cost(), 0.0)  # 2 s of two lanes

    refusal = _refusal(admission, _ticket(1000, 1000, deadline=12.5), _cost(), now=10.0)  # 1 s more
    # A wait of 2 s, and half as much again to be sure.
    assert refusal.retry_after_s == pytest.approx(1.5)
    assert "take about 4 s, 3 s of it waiting, and the deadline is in 2.5 s" in str(refusal)
    admission.enter([_ticket(1000, 1000, deadline=14.1)], _cost(), 10.0)


def test_who_sets_no_deadline_waits_however_long() -> None:
    admission = Admission(max_steps=100_000, lanes=1)
    admission.enter([_ticket(90_000)], _cost(1.0), 0.0)
    admission.enter([_ticket(1000)], _cost(1.0), 0.0)

    assert admission.steps == 91_000


def test_a_deadline_too_short_for_the_work_alone_is_refused_by_an_idle_server() -> None:
    admission, cost = Admission(max_steps=1000, lanes=8), _cost(1e-9)

    _refusal(admission, _ticket(500, deadline=cost.alone_s(500) * 0.9), cost)
    admission.enter([_ticket(500, deadline=cost.alone_s(500) * 1.1)], cost, 0.0)


def test_an_idle_server_takes_work_however_slow_it_was_when_it_last_ran() -> None:
    admission, cost = Admission(max_steps=1000, lanes=1), _cost()
    cost.keep_pace(predicted_s=1e-3, elapsed_s=10.0)  # the process was stopped meanwhile
    deadline = cost.alone_s(100) * 2

    admission.enter([_ticket(100, deadline=deadline)], cost, 0.0)
    _refusal(admission, _ticket(100, deadline=deadline), cost)


def test_a_model_that_stood_still_is_taken_as_it_was_while_another_one_runs() -> None:
    admission, slow, other = Admission(max_steps=1000, lanes=1), _cost(), _cost()
    admission.enter([gone := _ticket(1)], slow, 0.0)
    slow.keep_pace(predicted_s=1e-3, elapsed_s=10.0)
    admission.leave(gone, 0.0)
    admission.enter([_ticket(1)], other, 0.0)

    admission.enter([_ticket(100, deadline=1.0)], slow, 0.0)


def test_bulk_work_is_not_ahead_of_interactive_work() -> None:
    admission = Admission(max_steps=100_000, lanes=1)
    admission.enter([_ticket(50_000, service_class=BULK)], _cost(), 0.0)

    admission.enter([_ticket(100, deadline=1.0)], _cost(), 0.0)
    _refusal(admission, _ticket(100, deadline=1.0, service_class=BULK), _cost())


def test_interactive_work_is_ahead_of_bulk_work() -> None:
    admission = Admission(max_steps=100_000, lanes=1)
    admission.enter([_ticket(5000)], _cost(), 0.0)

    _refusal(admission, _ticket(100, deadline=1.0, service_class=BULK), _cost())


def test_who_has_left_is_not_waited_for() -> None:
    admission = Admission(max_steps=100_000, lanes=1)
    admission.enter([gone := _ticket(50_000)], _cost(), 0.0)
    _refusal(admission, _ticket(100, deadline=1.0), _cost())
    admission.leave(gone, 0.0)

    admission.enter([_ticket(100, deadline=1.0)], _cost(), 0.0)


def test_a_cost_that_changes_in_between_leaves_nothing_behind() -> None:
    admission, cost = Admission(max_steps=100_000, lanes=1), _cost(1.0)
    admission.enter([gone := _ticket(5000)], cost, 0.0)
    cost.now = _cost(1e-6).now
    admission.leave(gone, 0.0)

    admission.enter([_ticket(100, deadline=0.01)], cost, 0.0)


def _settle(admission: Admission, ticket: Ticket, now: float) -> None:
    ticket.pending = 0
    assert admission.leave(ticket, now)


def _send(
    admission: Admission,
    cost: CostModel,
    *,
    arrived: float,
    deadline: float,
    settled: float,
    service_class: ServiceClass = ServiceClass.INTERACTIVE,
) -> None:
    """Half a second's work that is let in, and settled."""
    ticket = _ticket(500, deadline=deadline, service_class=service_class)
    ticket.arrived = arrived
    admission.enter([ticket], cost, arrived)
    _settle(admission, ticket, settled)


def test_answers_that_come_late_teach_caution_and_those_in_time_courage() -> None:
    admission, cost = Admission(max_steps=100_000, lanes=1), _cost()
    admission.enter([_ticket(1000)], cost, 0.0)  # a second, taken for one and a half
    _send(admission, cost, arrived=0.0, deadline=2.1, settled=2.2)
    refused = _ticket(500, deadline=5.1)
    _refusal(admission, refused, cost, now=3.0)

    for call in range(500):
        _send(admission, cost, arrived=3.0 + call / 100, deadline=5.5 + call / 100, settled=3.5)
    _send(admission, cost, arrived=8.0, deadline=10.1, settled=8.5)


def test_a_mistake_is_forgotten_with_time() -> None:
    admission, cost = Admission(max_steps=100_000, lanes=1), _cost()
    admission.enter([_ticket(1000)], cost, 0.0)
    for second in range(0, 20, 4):
        _send(admission, cost, arrived=second, deadline=second + 3.9, settled=second + 3.9)

    _refusal(admission, _ticket(500, deadline=22.3), cost, now=20.0)
    admission.enter([_ticket(500, deadline=222.3)], cost, 220.0)


def test_one_mistake_is_learnt_from_once_however_many_it_makes_late() -> None:
    admission, cost = Admission(max_steps=100_000, lanes=1), _cost()
    admission.enter([_ticket(1000)], cost, 0.0)
    late = [_ticket(10, deadline=2.5) for _ in range(20)]
    for ticket in late:
        admission.enter([ticket], cost, 0.0)
    for ticket in late:
        _settle(admission, ticket, 2.6)

    # Once it is 1.25 times as cautious: waits of a second are taken for 1.875.
    admission.enter([_ticket(10, deadline=4.6)], cost, 2.6)


def test_the_mistakes_of_one_service_class_are_not_held_against_the_other() -> None:
    admission, cost = Admission(max_steps=100_000, lanes=1), _cost()
    admission.enter([_ticket(1000)], cost, 0.0)
    for second in range(0, 20, 4):
        late = {"arrived": second, "deadline": second + 3.9, "settled": second + 3.9}
        _send(admission, cost, **late, service_class=BULK)

    _refusal(admission, _ticket(500, deadline=22.1, service_class=BULK), cost, now=20.0)
    admission.enter([_ticket(500, deadline=22.1)], cost, 20.0)


def test_the_caution_that_is_told_is_what_waits_are_multiplied_with() -> None:
    admission, cost = Admission(max_steps=100_000, lanes=1), _cost()
    admission.enter([_ticket(1000)], cost, 0.0)
    _send(admission, cost, arrived=0.0, deadline=2.5, settled=2.6)

    caution = admission.caution(2.6)
    assert caution == {ServiceClass.INTERACTIVE: pytest.approx(1.875), BULK: 1.5}
    _refusal(admission, _ticket(10, deadline=2.6 + 1.87), cost, now=2.6)
    admission.enter([_ticket(10, deadline=2.6 + 1.89)], cost, 2.6)


def test_who_leaves_early_did_not_wait_or_was_never_near_a_refusal_teaches_nothing() -> None:
    admission, cost = Admission(max_steps=100_000, lanes=1), _cost()
    admission.enter([alone := _ticket(900, deadline=1.0)], cost, 0.0)
    _settle(admission, alone, 1.1)
    admission.enter([_ticket(1000)], cost, 0.0)
    admission.enter([leaves := _ticket(10, deadline=2.0)], cost, 0.0)
    admission.leave(leaves, 0.1)
    admission.enter([easy := _ticket(10, deadline=100.0)], cost, 0.0)
    _settle(admission, easy, 101.0)

    admission.enter([_ticket(500, deadline=104.05)], cost, 102.0)


def test_however_many_answers_are_late_short_waits_are_still_let_in() -> None:
    admission, cost = Admission(max_steps=100_000, lanes=1), _cost()
    admission.enter([_ticket(1000)], cost, 0.0)
    for second in range(0, 1000, 10):
        _send(admission, cost, arrived=second, deadline=second + 5.0, settled=second + 6.0)

    admission.enter([_ticket(10, deadline=1005.0)], cost, 1000.0)


def test_what_is_not_known_yet_is_refused_where_the_shortest_sequence_would_be_late() -> None:
    admission = Admission(max_steps=100_000, lanes=2)
    admission.check(10.1, 10.0)  # nobody waits
    admission.enter([_ticket(4000)], _cost(), 0.0)  # 2 s of two lanes, taken for 3
    admission.enter([_ticket(4000, service_class=BULK)], _cost(), 0.0)  # goes behind

    with pytest.raises(
        QueueFull, match=r"would wait for about 3 s, .* deadline is in 2\.5 s"
    ) as full:
        admission.check(12.5, 10.0)
    assert full.value.retry_after_s == pytest.approx(0.5)
    admission.check(13.1, 10.0)
    admission.check(math.inf, 10.0)


@given(st.floats(1e-12, 1e12), st.integers(1, 10**6), st.floats(-1e6, 1e12))
def test_the_wait_told_is_never_absurd(
    seconds_per_step: float, steps: int, deadline: float
) -> None:
    admission, cost = Admission(max_steps=steps, lanes=1), _cost(seconds_per_step)
    admission.enter([_ticket(steps)], cost, 0.0)

    for ticket in (_ticket(1), _ticket(1, deadline=deadline)):
        assert MIN_RETRY_S <= _refusal(admission, ticket, cost).retry_after_s <= MAX_RETRY_S


def test_after_any_coming_and_going_nothing_is_left() -> None:
    admission, draw = Admission(max_steps=500, lanes=3), random.Random(0)
    inside: list[Ticket] = []
    for _ in range(20_000):
        ticket = _ticket(draw.randint(1, 60), service_class=draw.choice(list(ServiceClass)))
        try:
            admission.enter([ticket], _cost(draw.random()), 0.0)
            inside.append(ticket)
        except QueueFull:
            admission.leave(inside.pop(draw.randrange(len(inside))), 0.0)
        assert admission.steps == sum(each.steps for each in inside) <= 500
    for ticket in inside:
        admission.leave(ticket, 0.0)

    assert admission.steps == 0
    admission.enter([_ticket(1, deadline=1.0)], _cost(1e-6), 0.0)
