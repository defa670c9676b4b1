"""Callers and threads, with runs that the test holds and lets go."""

from __future__ import annotations

import asyncio
import gc
import math
import random
import sys
import threading
import weakref
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from seqserve.graph import Outputs
from seqserve_server.errors import DeadlineSpent, Draining, QueueFull
from seqserve_server.models.runner import Runner
from seqserve_server.scheduling.cost import Coefficients
from seqserve_server.scheduling.row_store import RowStore
from seqserve_server.scheduling.scheduler import LaneScheduler
from seqserve_server.scheduling.stats import Stats
from seqserve_server.scheduling.work import Leave, Outcome, ServiceClass, Work
from tests.server.scheduling.checksum_model import (
    FORWARD,
    WHOLE,
    Array,
    assert_same,
    checksums,
    make_runner,
    make_work,
)

TIMEOUT_S = 60.0
SLOW = Coefficients(turn=1e-4, run=1e-4, step=1e-4, row=1e-5, row_step=1e-3, carry=1e-6)
CHUNKS = [100] * 40  # many turns, whatever the costs


class Held:
    """A model whose runs stand still while it is shut, and fail for negative values."""

    def __init__(self, *, shut: bool = False, cost: Coefficients | None = None) -> None:
        self.runner = make_runner(FORWARD, self._run, cost=cost)
        self.runs = 0
        self._entered = threading.Semaphore(0)
        self._permits = threading.Semaphore(0)
        if not shut:
            self.open()

    def open(self) -> None:
        self.let(1 << 20)

    def let(self, runs: int) -> None:
        """Lets so many runs go on."""
        self._permits.release(runs)

    async def entered(self) -> None:
        """Until a run stands at the gate: its lane is busy from then on."""
        assert await asyncio.to_thread(self._entered.acquire, timeout=TIMEOUT_S)

    def _run(
        self, output_names: Sequence[str], input_feed: Mapping[str, NDArray[Any]]
    ) -> Sequence[Array]:
        self.runs += 1
        self._entered.release()
        assert self._permits.acquire(timeout=TIMEOUT_S)
        if (input_feed["values"] < 0).any():
            raise RuntimeError("negative")
        return checksums(output_names, input_feed)


@pytest.fixture
def held() -> Iterator[Held]:
    """Shut at first."""
    held = Held(shut=True)
    yield held
    held.open()  # or a failed test would leave its lane waiting


class Answer(asyncio.Future[Outputs]):
    """What a caller awaits; to cancel it is to leave."""

    leave: Leave

    def cancel(self, msg: object = None) -> bool:
        cancelled = super().cancel(msg)
        if cancelled:
            self.leave()
        return cancelled


class Awaited:
    """Lanes whose work is awaited on the test's event loop."""

    def __init__(self, lanes: LaneScheduler) -> None:
        self.lanes = lanes

    def submit(self, work: Work) -> Answer:
        answer, loop = Answer(), asyncio.get_running_loop()

        def tell(outcome: Outcome) -> None:
            loop.call_soon_threadsafe(self._settle, answer, outcome)

        answer.leave = self.lanes.submit(work, tell)
        return answer

    def stats(self) -> Stats:
        return self.lanes.stats()

    async def close(self) -> None:
        await asyncio.to_thread(self.lanes.close)

    def _settle(self, answer: Answer, outcome: Outcome) -> None:
        del answer.leave
        if answer.cancelled():  # told just as it left
            return
        if isinstance(outcome, Exception):
            answer.set_exception(outcome)
        else:
            answer.set_result(outcome)


@asynccontextmanager
async def _scheduler(
    *, lanes: int = 1, max_queue_steps: int = 1 << 20, now: list[float] | None = None
) -> AsyncIterator[Awaited]:
    """`now` is a clock moved by hand."""
    clock = now or [0.0]
    scheduler = Awaited(
        LaneScheduler(lanes=lanes, max_queue_steps=max_queue_steps, clock=lambda: clock[0])
    )
    scheduler.lanes.start()
    yield scheduler
    await asyncio.wait_for(scheduler.close(), TIMEOUT_S)


async def _outcomes(*futures: asyncio.Future[Outputs]) -> list[Outputs | BaseException]:
    """What each ends with; all of them end."""
    gathered = asyncio.gather(*futures, return_exceptions=True)
    return await asyncio.wait_for(gathered, TIMEOUT_S)


def _failing(work: Work) -> Work:
    work.rows.values[-1] = -1
    return work


@pytest.mark.parametrize("lanes", [1, 3, 8])
async def test_every_work_gets_its_own_outputs(lanes: int) -> None:
    runner = make_runner()
    works = [
        make_work(runner, [n % 37 + 1, n % 90 + 1], seed=n, begun=n % 3 == 0) for n in range(80)
    ]
    async with _scheduler(lanes=lanes) as scheduler:
        outputs = await _outcomes(*map(scheduler.submit, works))

    for output, work in zip(outputs, works, strict=True):
        assert isinstance(output, Outputs)
        assert_same(output, work)


async def test_works_of_several_models_take_turns() -> None:
    models = [Held(), Held(), Held(shut=True)]
    works = [make_work(model.runner, CHUNKS, seed=n) for n, model in enumerate(models[:2])]
    async with _scheduler(lanes=2) as scheduler:
        # The third holds one lane; the other serves both of the others all the same.
        waiting = scheduler.submit(make_work(models[2].runner, [4]))
        await models[2].entered()
        for output, work in zip(await _outcomes(*map(scheduler.submit, works)), works, strict=True):
            assert isinstance(output, Outputs)
            assert_same(output, work)
        assert not waiting.done()
        models[2].open()
        await _outcomes(waiting)


async def test_a_short_work_need_not_wait_for_the_end_of_a_long_one_of_another_model(
    held: Held,
) -> None:
    other = Held()
    async with _scheduler() as scheduler:
        long = scheduler.submit(make_work(held.runner, [20_000] * 40))
        await held.entered()
        short = scheduler.submit(make_work(other.runner, [3]))
        held.open()
        await asyncio.wait_for(short, TIMEOUT_S)

        assert not long.done()
        assert held.runs < 100
        long.cancel()


async def test_a_cancelled_caller_neither_delays_nor_changes_its_neighbours(held: Held) -> None:
    works = [make_work(held.runner, [20, 60], seed=n) for n in range(4)]
    async with _scheduler() as scheduler:
        futures = [scheduler.submit(work) for work in works]
        await held.entered()
        futures[2].cancel()
        held.open()
        outcomes = await _outcomes(*futures)

    for index, (outcome, work) in enumerate(zip(outcomes, works, strict=True)):
        if index == 2:
            assert isinstance(outcome, asyncio.CancelledError)
        else:
            assert isinstance(outcome, Outputs)
            assert_same(outcome, work)


async def test_work_whose_caller_left_before_it_ran_is_not_run(held: Held) -> None:
    async with _scheduler() as scheduler:
        running = scheduler.submit(make_work(held.runner, [4]))
        await held.entered()
        gone = scheduler.submit(_failing(make_work(held.runner, [4])))
        gone.cancel()
        stays = scheduler.submit(make_work(held.runner, [4]))
        held.open()
        await _outcomes(running, stays)
        statistics = scheduler.stats()

    assert gone.cancelled()
    assert statistics.sequences == 2
    assert statistics.steps == 8


async def test_a_cancelled_caller_makes_room_before_a_lane_is_free(held: Held) -> None:
    async with _scheduler(max_queue_steps=20) as scheduler:
        running = scheduler.submit(make_work(held.runner, [10]))
        await held.entered()
        gone = scheduler.submit(make_work(held.runner, [10]))
        with pytest.raises(QueueFull):
            scheduler.submit(make_work(held.runner, [1]))
        gone.cancel()
        let_in = scheduler.submit(make_work(held.runner, [10]))
        held.open()
        assert all(isinstance(each, Outputs) for each in await _outcomes(running, let_in))


async def test_a_task_that_is_cancelled_while_it_waits_leaves_as_well(held: Held) -> None:
    async with _scheduler(max_queue_steps=10) as scheduler:

        async def call() -> Outputs:
            return await scheduler.submit(make_work(held.runner, [10]))

        task = asyncio.create_task(call())
        await held.entered()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        let_in = scheduler.submit(make_work(held.runner, [10]))
        held.open()
        await _outcomes(let_in)


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
    async with _scheduler(lanes=lanes) as scheduler:
        futures = []
        for index, work in enumerate(works):
            future = scheduler.submit(work)
            future.add_done_callback(lambda _, index=index: settled.append(index))  # type: ignore[misc]
            futures.append(future)
            if draw.random() < 0.3:
                draw.choice(futures).cancel()
            if draw.random() < 0.3:
                await asyncio.sleep(0)  # the lanes go on
        outcomes = await _outcomes(*futures)

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
        async with _scheduler(lanes=8) as scheduler:
            for count in range(3000):
                works = [make_work(runner, [1 + n], seed=n) for n in range(count % 7 + 1)]
                for outcome in await _outcomes(*map(scheduler.submit, works)):
                    assert isinstance(outcome, Outputs)
    finally:
        sys.setswitchinterval(often)


async def test_models_may_come_and_go_while_lanes_are_at_their_borders(
    caplog: pytest.LogCaptureFixture,
) -> None:
    often = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        async with _scheduler(lanes=8) as scheduler:
            for seed in range(60):
                works = [make_work(make_runner(), [3, 9], seed=seed) for _ in range(10)]
                for outcome in await _outcomes(*map(scheduler.submit, works)):
                    assert isinstance(outcome, Outputs)
    finally:
        sys.setswitchinterval(often)
    assert not caplog.records, "a lane gave up its work"


async def test_a_failing_run_fails_its_own_callers_and_the_lane_goes_on(held: Held) -> None:
    async with _scheduler() as scheduler:
        first = scheduler.submit(make_work(held.runner, [4]))
        await held.entered()
        failing = scheduler.submit(_failing(make_work(held.runner, [60_000])))
        good = scheduler.submit(work := make_work(held.runner, [4, 5], seed=3))
        held.open()
        outcomes = await _outcomes(first, failing, good)
        after = await asyncio.wait_for(scheduler.submit(work), TIMEOUT_S)

    assert isinstance(outcomes[0], Outputs)
    assert isinstance(outcomes[1], RuntimeError)
    assert isinstance(outcomes[2], Outputs)
    assert_same(outcomes[2], work)
    assert_same(after, work)


async def test_a_caller_who_leaves_while_one_lane_has_failed_and_another_runs_harms_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    held = Held(shut=True, cost=SLOW)  # so slow that one lane does not take all rows
    async with _scheduler(lanes=2) as scheduler:
        work = make_work(held.runner, [20] * 256)
        work.rows.values[:] = -1
        torn = scheduler.submit(work)
        await held.entered()
        await held.entered()
        held.let(1)
        while not scheduler.stats().requests:  # the loop must not learn of the failure yet
            pass
        torn.cancel()
        held.open()
        good = make_work(held.runner, [7])
        assert_same(await asyncio.wait_for(scheduler.submit(good), TIMEOUT_S), good)

    assert torn.cancelled()
    assert not caplog.records, "a lane gave up its work"


async def test_expired_work_is_not_run_and_its_caller_is_told(held: Held) -> None:
    now = [100.0]
    async with _scheduler(now=now) as scheduler:
        running = scheduler.submit(make_work(held.runner, [4]))
        await held.entered()
        expired = scheduler.submit(make_work(held.runner, [4], deadline=105.0))
        patient = scheduler.submit(make_work(held.runner, [4], deadline=107.0))
        now[0] = 105.0
        held.open()
        outcomes = await _outcomes(running, expired, patient)
        statistics = scheduler.stats()

    assert isinstance(outcomes[0], Outputs)
    assert isinstance(outcomes[1], DeadlineSpent)
    assert isinstance(outcomes[2], Outputs)
    assert statistics.steps == 8


async def test_work_that_expires_between_two_of_its_turns_runs_no_further(held: Held) -> None:
    now = [100.0]
    async with _scheduler(now=now) as scheduler:
        late = scheduler.submit(make_work(held.runner, [20_000] * 40, deadline=105.0))
        await held.entered()
        now[0] = 105.0
        held.open()
        [outcome] = await _outcomes(late)
        runs = held.runs

    assert isinstance(outcome, DeadlineSpent)
    assert runs < 100


async def test_a_deadline_that_cannot_be_made_is_refused_at_once(held: Held) -> None:
    now = [100.0]
    async with _scheduler(now=now) as scheduler:
        running = scheduler.submit(make_work(held.runner, [100_000]))
        await held.entered()
        with pytest.raises(QueueFull) as raised:
            scheduler.submit(make_work(held.runner, [4], deadline=100.01))
        assert raised.value.retry_after_s > 0
        held.open()
        await _outcomes(running)


async def test_bulk_work_yields_between_two_runs_to_whoever_comes() -> None:
    held, other = Held(shut=True, cost=SLOW), Held(shut=True)
    async with _scheduler() as scheduler:
        # So slow that a turn of it has many runs.
        work = make_work(held.runner, [20] * 256, service_class=ServiceClass.BULK)
        bulk = scheduler.submit(work)
        await held.entered()
        urgent = scheduler.submit(make_work(other.runner, [3]))
        held.open()
        await other.entered()
        assert held.runs == 1
        other.open()
        outcomes = await _outcomes(urgent, bulk)

    assert isinstance(outcomes[0], Outputs)
    assert isinstance(outcomes[1], Outputs)
    assert_same(outcomes[1], work)


async def test_closing_tells_what_waits_and_what_runs_and_lets_the_run_end(held: Held) -> None:
    async with _scheduler() as scheduler:
        running = scheduler.submit(make_work(held.runner, [4]))
        await held.entered()
        waiting = scheduler.submit(make_work(held.runner, [4]))
        closing = asyncio.create_task(scheduler.close())
        with pytest.raises(Draining):
            await waiting
        with pytest.raises(Draining):
            scheduler.submit(make_work(held.runner, [4]))
        assert not closing.done(), "the run has not ended yet"
        held.open()
        await closing
        [outcome] = await _outcomes(running)

        assert isinstance(outcome, Outputs | Draining)
    assert held.runs == 1


@pytest.mark.parametrize("lanes", [1, 5])
async def test_closing_in_the_middle_of_everything_settles_everyone(lanes: int) -> None:
    runner = make_runner()
    settled: list[int] = []
    works = [make_work(runner, [50, 9, 120], seed=n) for n in range(100)]
    async with _scheduler(lanes=lanes) as scheduler:
        futures = [scheduler.submit(work) for work in works]
        for index, future in enumerate(futures):
            future.add_done_callback(lambda _, index=index: settled.append(index))  # type: ignore[misc]
        await futures[0]
        await scheduler.close()
        outcomes = await _outcomes(*futures)

    assert sorted(settled) == list(range(100))
    for outcome, work in zip(outcomes, works, strict=True):
        if isinstance(outcome, Outputs):
            assert_same(outcome, work)
        else:
            assert isinstance(outcome, Draining)


async def test_a_scheduler_that_never_ran_anything_closes() -> None:
    async with _scheduler(lanes=4) as scheduler:
        assert scheduler.stats().runs == 0


async def test_who_leaves_after_the_answer_came_takes_nothing_back() -> None:
    runner = make_runner()
    async with _scheduler(max_queue_steps=10) as scheduler:
        work = make_work(runner, [10])
        future = scheduler.submit(work)
        await future
        assert not future.cancel()
        assert_same(await scheduler.submit(work), work)


async def test_a_model_that_nobody_serves_any_more_is_let_go() -> None:
    runner = make_runner()
    async with _scheduler() as scheduler:
        await scheduler.submit(make_work(runner, [10]))
        watched: weakref.ref[Runner] = weakref.ref(runner)
        other = make_runner()
        del runner
        await scheduler.submit(make_work(other, [10]))  # the lane has turned to something else
        gc.collect()

        assert watched() is None


async def test_the_statistics_count_what_was_asked_and_what_was_computed() -> None:
    runner = make_runner()
    async with _scheduler(lanes=2) as scheduler:
        works = [make_work(runner, [5, 30, 80], seed=n) for n in range(20)]
        await _outcomes(*map(scheduler.submit, works))
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
        async with _scheduler() as scheduler:
            answered = make_work(model.runner, [5])
            left = make_work(model.runner, [5])
            answer = scheduler.submit(answered)
            leaving = scheduler.submit(left)
            leaving.cancel()
            await _outcomes(answer, leaving)
            # The lane is done with both once it has run another.
            await _outcomes(scheduler.submit(make_work(model.runner, [5])))
            kept = [weakref.ref(answered), weakref.ref(left)]
            del answered, left, answer, leaving
            assert [each() for each in kept] == [None, None]
    finally:
        gc.enable()


async def test_a_lane_that_fails_where_it_should_not_tells_everybody_and_goes_on(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with _scheduler() as scheduler:
        running = scheduler.submit(make_work(held.runner, [4]))
        await held.entered()
        waiting = scheduler.submit(make_work(held.runner, [4]))
        with monkeypatch.context() as broken:
            broken.setattr(RowStore, "save", _fail)
            held.open()
            outcomes = await _outcomes(running, waiting)
        assert all(isinstance(each, MemoryError) for each in outcomes)
        assert outcomes[0] is not outcomes[1], "they would share a traceback"
        work = make_work(held.runner, [7])
        [output] = await _outcomes(scheduler.submit(work))
        assert isinstance(output, Outputs)
        assert_same(output, work)


def _fail(*_: object) -> None:
    raise MemoryError


async def test_lanes_outlive_what_they_cannot_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = make_runner()
    async with _scheduler(lanes=2) as scheduler:
        with monkeypatch.context() as broken:
            broken.setattr(RowStore, "__init__", _fail)
            works = [make_work(runner, [4]) for _ in range(20)]
            outcomes = await _outcomes(*map(scheduler.submit, works))
        assert all(isinstance(each, MemoryError) for each in outcomes)
        [output] = await _outcomes(scheduler.submit(works[0]))

        assert isinstance(output, Outputs)
        assert_same(output, works[0])
        assert scheduler.lanes.wait_until_idle(0)


def test_what_is_submitted_while_the_scheduler_closes_is_told_or_refused() -> None:
    runner = make_runner()
    often = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for _ in range(200):
            lanes = LaneScheduler(lanes=2, max_queue_steps=1 << 20)
            lanes.start()
            told: list[Outcome] = []
            taken = threading.Semaphore(0)

            def submit(
                lanes: LaneScheduler = lanes,
                told: list[Outcome] = told,
                taken: threading.Semaphore = taken,
            ) -> int:
                work = make_work(runner, [3])
                for number in count():
                    try:
                        lanes.submit(work, told.append)
                    except Draining:
                        return number
                    taken.release()
                raise AssertionError

            with ThreadPoolExecutor(1) as caller:
                submitted = caller.submit(submit)
                assert taken.acquire(timeout=TIMEOUT_S)
                lanes.close()
                assert len(told) == submitted.result()
    finally:
        sys.setswitchinterval(often)


async def test_waiting_until_idle_ends_with_the_last_answer_or_the_scheduler(held: Held) -> None:
    async with _scheduler() as scheduler:
        assert scheduler.lanes.wait_until_idle(0)
        running = scheduler.submit(make_work(held.runner, [4]))
        await held.entered()
        assert not scheduler.lanes.wait_until_idle(0)
        waiting = asyncio.create_task(asyncio.to_thread(scheduler.lanes.wait_until_idle, math.inf))
        held.open()
        assert await asyncio.wait_for(waiting, TIMEOUT_S)
        await _outcomes(running)

    held = Held(shut=True)
    async with _scheduler() as scheduler:
        running = scheduler.submit(make_work(held.runner, [4]))
        await held.entered()
        waiting = asyncio.create_task(asyncio.to_thread(scheduler.lanes.wait_until_idle, math.inf))
        closing = asyncio.create_task(scheduler.close())
        await asyncio.wait_for(waiting, TIMEOUT_S)
        held.open()
        await closing


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
    async with _scheduler(lanes=2) as scheduler:
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
        await _outcomes(*interactive, *bulk)

    first_four = [order[number] for number in range(4)]
    assert first_four == [ServiceClass.BULK] * 2 + [ServiceClass.INTERACTIVE] * 2


async def test_a_lane_that_rests_is_seen_to_be_idle(held: Held) -> None:
    now = [0.0]
    async with _scheduler(now=now) as scheduler:
        answer = scheduler.submit(make_work(held.runner, [4]))
        await held.entered()
        now[0] = 3.0
        held.open()
        await _outcomes(answer)
        # The border at which the lane finds nothing to do is not far.
        while not scheduler.lanes._resting:  # noqa: ASYNC110
            await asyncio.sleep(0)
        before = scheduler.stats().idle_s
        now[0] = 10.0

        assert scheduler.stats().idle_s - before == pytest.approx(7.0)
