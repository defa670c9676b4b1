"""Callers and threads, with runs that the test holds and lets go."""

from __future__ import annotations

import asyncio
import gc
import math
import random
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from seqserve.graph import Outputs
from seqserve_server.errors import DeadlineSpent, QueueFull
from seqserve_server.models.runner import Runner
from seqserve_server.scheduling.cost import Coefficients
from seqserve_server.scheduling.work import ServiceClass
from tests.server.scheduling.checksum_model import (
    WHOLE,
    Array,
    assert_same,
    checksums,
    make_runner,
    make_work,
)
from tests.server.scheduling.held_model import (
    TIMEOUT_S,
    Held,
    ended,
    made_to_fail,
    scheduling,
)

SLOW = Coefficients(turn=1e-4, run=1e-4, step=1e-4, row=1e-5, row_step=1e-3, carry=1e-6)
CHUNKS = [100] * 40  # many turns, whatever the costs


@pytest.mark.parametrize("lanes", [1, 3, 8])
async def test_every_work_gets_its_own_outputs(lanes: int) -> None:
    runner = make_runner()
    works = [
        make_work(runner, [n % 37 + 1, n % 90 + 1], seed=n, begun=n % 3 == 0) for n in range(80)
    ]
    async with scheduling(lanes=lanes) as scheduler:
        outputs = await ended(*map(scheduler.submit, works))

    for output, work in zip(outputs, works, strict=True):
        assert isinstance(output, Outputs)
        assert_same(output, work)


async def test_works_of_several_models_take_turns() -> None:
    models = [Held(), Held(), Held(shut=True)]
    works = [make_work(model.runner, CHUNKS, seed=n) for n, model in enumerate(models[:2])]
    async with scheduling(lanes=2) as scheduler:
        # The third holds one lane; the other serves both of the others all the same.
        waiting = scheduler.submit(make_work(models[2].runner, [4]))
        await models[2].entered()
        for output, work in zip(await ended(*map(scheduler.submit, works)), works, strict=True):
            assert isinstance(output, Outputs)
            assert_same(output, work)
        assert not waiting.done()
        models[2].open()
        await ended(waiting)


async def test_a_short_work_need_not_wait_for_the_end_of_a_long_one_of_another_model(
    held: Held,
) -> None:
    other = Held()
    async with scheduling() as scheduler:
        long = scheduler.submit(make_work(held.runner, [20_000] * 40))
        await held.entered()
        short = scheduler.submit(make_work(other.runner, [3]))
        held.open()
        await asyncio.wait_for(short, TIMEOUT_S)

        assert not long.done()
        assert held.runs < 100
        long.cancel()


async def test_a_cancelled_caller_changes_no_answer_of_its_neighbours(held: Held) -> None:
    works = [make_work(held.runner, [20, 60], seed=n) for n in range(4)]
    async with scheduling() as scheduler:
        futures = [scheduler.submit(work) for work in works]
        await held.entered()
        futures[2].cancel()
        held.open()
        outcomes = await ended(*futures)

    for index, (outcome, work) in enumerate(zip(outcomes, works, strict=True)):
        if index == 2:
            assert isinstance(outcome, asyncio.CancelledError)
        else:
            assert isinstance(outcome, Outputs)
            assert_same(outcome, work)


async def test_work_whose_caller_left_before_it_ran_is_not_run(held: Held) -> None:
    async with scheduling() as scheduler:
        running = scheduler.submit(make_work(held.runner, [4]))
        await held.entered()
        gone = scheduler.submit(made_to_fail(make_work(held.runner, [4])))
        gone.cancel()
        stays = scheduler.submit(make_work(held.runner, [4]))
        held.open()
        await ended(running, stays)
        statistics = scheduler.stats()

    assert gone.cancelled()
    assert statistics.sequences == 2
    assert statistics.steps == 8


async def test_a_cancelled_caller_makes_room_before_a_lane_is_free(held: Held) -> None:
    async with scheduling(max_queue_steps=20) as scheduler:
        running = scheduler.submit(make_work(held.runner, [10]))
        await held.entered()
        gone = scheduler.submit(make_work(held.runner, [10]))
        with pytest.raises(QueueFull):
            scheduler.submit(make_work(held.runner, [1]))
        gone.cancel()
        let_in = scheduler.submit(make_work(held.runner, [10]))
        held.open()
        assert all(isinstance(each, Outputs) for each in await ended(running, let_in))


async def test_work_whose_caller_left_is_not_kept_while_every_lane_is_busy(held: Held) -> None:
    async with scheduling() as scheduler:
        running = scheduler.submit(make_work(held.runner, [10]))
        await held.entered()
        work = make_work(held.runner, [10])
        kept = weakref.ref(work)
        scheduler.submit(work).cancel()
        del work
        assert kept() is None
        held.open()
        await ended(running)


async def test_a_task_that_is_cancelled_while_it_waits_leaves_as_well(held: Held) -> None:
    async with scheduling(max_queue_steps=10) as scheduler:

        async def call() -> Outputs:
            return await scheduler.submit(make_work(held.runner, [10]))

        task = asyncio.create_task(call())
        await held.entered()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        let_in = scheduler.submit(make_work(held.runner, [10]))
        held.open()
        await ended(let_in)


@pytest.mark.parametrize("lanes", [1, 4])
async def test_callers_who_leave_at_any_point_change_nobodys_answer(lanes: int) -> None:
    draw = random.Random(lanes)
    models = [make_runner(), make_runner()]
    works = [
        make_work(
            draw.choice(models),
            [draw.randint(1, 150) for _ in range(draw.randint(1, 6))],
            seed=n,
            begun=draw.random() < 0.3,
            service_class=draw.choice(list(ServiceClass)),
        )
        for n in range(400)
    ]
    settled: list[int] = []
    async with scheduling(lanes=lanes) as scheduler:
        futures = []
        for index, work in enumerate(works):
            future = scheduler.submit(work)
            future.add_done_callback(lambda _, index=index: settled.append(index))  # type: ignore[misc]
            futures.append(future)
            if draw.random() < 0.3:
                draw.choice(futures).cancel()
            if draw.random() < 0.3:
                await asyncio.sleep(0)  # the lanes go on
        outcomes = await ended(*futures)

    answered = 0
    for outcome, work in zip(outcomes, works, strict=True):
        if isinstance(outcome, Outputs):
            assert_same(outcome, work)
            answered += 1
        else:
            assert isinstance(outcome, asyncio.CancelledError)
    assert sorted(settled) == list(range(400)), "each once"
    assert 200 < answered < 400


async def test_lanes_lose_nothing_where_threads_change_as_often_as_they_can() -> None:
    runner = make_runner()
    often = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        async with scheduling(lanes=8) as scheduler:
            for count in range(3000):
                works = [make_work(runner, [1 + n], seed=n) for n in range(count % 7 + 1)]
                for outcome in await ended(*map(scheduler.submit, works)):
                    assert isinstance(outcome, Outputs)
    finally:
        sys.setswitchinterval(often)


async def test_models_may_come_and_go_while_lanes_are_at_their_borders(
    caplog: pytest.LogCaptureFixture,
) -> None:
    often = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        async with scheduling(lanes=8) as scheduler:
            for seed in range(60):
                works = [make_work(make_runner(), [3, 9], seed=seed) for _ in range(10)]
                for outcome in await ended(*map(scheduler.submit, works)):
                    assert isinstance(outcome, Outputs)
    finally:
        sys.setswitchinterval(often)
    assert not caplog.records, "a lane gave up its work"


async def test_expired_work_is_not_run_and_its_caller_is_told(held: Held) -> None:
    now = [100.0]
    async with scheduling(now=now) as scheduler:
        running = scheduler.submit(make_work(held.runner, [4]))
        await held.entered()
        expired = scheduler.submit(make_work(held.runner, [4], deadline=105.0))
        patient = scheduler.submit(make_work(held.runner, [4], deadline=107.0))
        now[0] = 105.0
        held.open()
        outcomes = await ended(running, expired, patient)
        statistics = scheduler.stats()

    assert isinstance(outcomes[0], Outputs)
    assert isinstance(outcomes[1], DeadlineSpent)
    assert isinstance(outcomes[2], Outputs)
    assert statistics.steps == 8


async def test_work_that_expires_between_two_of_its_turns_runs_no_further(held: Held) -> None:
    now = [100.0]
    async with scheduling(now=now) as scheduler:
        late = scheduler.submit(make_work(held.runner, [20_000] * 40, deadline=105.0))
        await held.entered()
        now[0] = 105.0
        held.open()
        [outcome] = await ended(late)
        runs = held.runs

    assert isinstance(outcome, DeadlineSpent)
    assert runs < 100


async def test_a_deadline_that_cannot_be_made_is_refused_at_once(held: Held) -> None:
    now = [100.0]
    async with scheduling(now=now) as scheduler:
        running = scheduler.submit(make_work(held.runner, [100_000]))
        await held.entered()
        with pytest.raises(QueueFull) as raised:
            scheduler.submit(make_work(held.runner, [4], deadline=100.01))
        assert raised.value.retry_after_s > 0
        held.open()
        await ended(running)


async def test_bulk_work_yields_between_two_runs_to_whoever_comes() -> None:
    held, other = Held(shut=True, cost=SLOW), Held(shut=True)
    async with scheduling() as scheduler:
        # So slow that a turn of it has many runs.
        work = make_work(held.runner, [20] * 256, service_class=ServiceClass.BULK)
        bulk = scheduler.submit(work)
        await held.entered()
        urgent = scheduler.submit(make_work(other.runner, [3]))
        held.open()
        await other.entered()
        assert held.runs == 1
        other.open()
        outcomes = await ended(urgent, bulk)

    assert isinstance(outcomes[0], Outputs)
    assert isinstance(outcomes[1], Outputs)
    assert_same(outcomes[1], work)


async def test_who_leaves_after_the_answer_came_takes_nothing_back() -> None:
    runner = make_runner()
    async with scheduling(max_queue_steps=10) as scheduler:
        work = make_work(runner, [10])
        future = scheduler.submit(work)
        await future
        assert not future.cancel()
        assert_same(await scheduler.submit(work), work)


async def test_a_model_that_nobody_serves_any_more_is_let_go() -> None:
    runner = make_runner()
    async with scheduling() as scheduler:
        await scheduler.submit(make_work(runner, [10]))
        watched: weakref.ref[Runner] = weakref.ref(runner)
        other = make_runner()
        del runner
        await scheduler.submit(make_work(other, [10]))  # the lane has turned to something else
        gc.collect()

        assert watched() is None


async def test_the_statistics_count_what_was_asked_and_what_was_computed() -> None:
    runner = make_runner()
    async with scheduling(lanes=2) as scheduler:
        works = [make_work(runner, [5, 30, 80], seed=n) for n in range(20)]
        await ended(*map(scheduler.submit, works))
        await scheduler.close()
        statistics = scheduler.stats()

    assert statistics.requests == 20
    assert statistics.sequences == 60
    assert statistics.steps == 20 * 115
    assert statistics.computed_steps >= statistics.steps
    assert statistics.waits.count == 60
    assert np.isfinite(statistics.wait_s(0.99))
    assert math.isclose(statistics.useful_fraction, statistics.steps / statistics.computed_steps)


async def test_the_numbers_of_a_call_do_not_wait_for_the_garbage_collector() -> None:
    model = Held()
    gc.collect()
    gc.disable()
    try:
        async with scheduling() as scheduler:
            answered = make_work(model.runner, [5])
            left = make_work(model.runner, [5])
            answer = scheduler.submit(answered)
            leaving = scheduler.submit(left)
            leaving.cancel()
            await ended(answer, leaving)
            # The lane is done with both once it has run another.
            await ended(scheduler.submit(make_work(model.runner, [5])))
            kept = [weakref.ref(answered), weakref.ref(left)]
            del answered, left, answer, leaving
            assert [each() for each in kept] == [None, None]
    finally:
        gc.enable()


async def test_a_bulk_turn_yields_as_long_as_interactive_rows_are_ready() -> None:
    """With several lanes too, whichever of them takes the first of the rows."""
    cost = Coefficients(turn=1e-3, run=1e-4, step=1e-9, row=1e-9, row_step=8e-6, carry=1e-9)
    gates = [threading.Event() for _ in range(1000)]  # one a run, in the order of their beginning
    order: dict[int, ServiceClass] = {}
    numbers = count()
    entered = threading.Semaphore(0)

    def run(output_names: Sequence[str], input_feed: Mapping[str, NDArray[Any]]) -> Sequence[Array]:
        number = next(numbers)
        bulk = bool((input_feed["values"] != 1.0).any())
        order[number] = ServiceClass.BULK if bulk else ServiceClass.INTERACTIVE
        entered.release()
        assert gates[number].wait(TIMEOUT_S)
        return checksums(output_names, input_feed)

    async def another_has_entered() -> None:
        assert await asyncio.to_thread(entered.acquire, timeout=TIMEOUT_S)

    runner = make_runner(WHOLE, run, cost=cost, max_row_steps=400)
    async with scheduling(lanes=2) as scheduler:
        bulk = [
            scheduler.submit(make_work(runner, [20] * 20, service_class=ServiceClass.BULK))
            for _ in range(30)
        ]
        await another_has_entered()
        await another_has_entered()
        works = [make_work(runner, [20] * 20) for _ in range(6)]
        for work in works:
            work.rows.values[:] = 1.0
        interactive = [scheduler.submit(work) for work in works]
        gates[0].set()
        await another_has_entered()  # the lane that had the first run has taken some of the rows
        gates[1].set()
        await another_has_entered()
        for gate in gates:
            gate.set()
        await ended(*interactive, *bulk)

    first_four = [order[number] for number in range(4)]
    assert first_four == [ServiceClass.BULK] * 2 + [ServiceClass.INTERACTIVE] * 2


async def test_a_lane_that_rests_is_seen_to_be_idle(held: Held) -> None:
    now = [0.0]
    async with scheduling(now=now) as scheduler:
        answer = scheduler.submit(make_work(held.runner, [4]))
        await held.entered()
        now[0] = 3.0
        held.open()
        await ended(answer)
        # The border at which the lane finds nothing to do is not far.
        while not scheduler.lanes._resting:  # noqa: ASYNC110
            await asyncio.sleep(0)
        before = scheduler.stats().idle_s
        now[0] = 10.0

        assert scheduler.stats().idle_s - before == pytest.approx(7.0)
