"""The end of a scheduler: everybody is told, whatever runs and waits."""

from __future__ import annotations

import asyncio
import math
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest

from seqserve.graph import Outputs
from seqserve_server.errors import Draining
from seqserve_server.scheduling.scheduler import LaneScheduler
from seqserve_server.scheduling.work import Outcome
from tests.server.scheduling.checksum_model import (
    assert_same,
    make_runner,
    make_work,
)
from tests.server.scheduling.held_model import (
    TIMEOUT_S,
    Held,
    ended,
    scheduling,
)


async def test_closing_tells_what_waits_and_what_runs_and_lets_the_run_end(held: Held) -> None:
    async with scheduling() as scheduler:
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
        [outcome] = await ended(running)

        assert isinstance(outcome, Outputs | Draining)
    assert held.runs == 1


@pytest.mark.parametrize("lanes", [1, 5])
async def test_closing_in_the_middle_of_everything_settles_everyone(lanes: int) -> None:
    runner = make_runner()
    settled: list[int] = []
    works = [make_work(runner, [50, 9, 120], seed=n) for n in range(100)]
    async with scheduling(lanes=lanes) as scheduler:
        futures = [scheduler.submit(work) for work in works]
        for index, future in enumerate(futures):
            future.add_done_callback(lambda _, index=index: settled.append(index))  # type: ignore[misc]
        await futures[0]
        await scheduler.close()
        outcomes = await ended(*futures)

    assert sorted(settled) == list(range(100))
    for outcome, work in zip(outcomes, works, strict=True):
        if isinstance(outcome, Outputs):
            assert_same(outcome, work)
        else:
            assert isinstance(outcome, Draining)


async def test_a_scheduler_that_never_ran_anything_closes() -> None:
    async with scheduling(lanes=4) as scheduler:
        assert scheduler.stats().runs == 0


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
    async with scheduling() as scheduler:
        assert scheduler.lanes.wait_until_idle(0)
        running = scheduler.submit(make_work(held.runner, [4]))
        await held.entered()
        assert not scheduler.lanes.wait_until_idle(0)
        waiting = asyncio.create_task(asyncio.to_thread(scheduler.lanes.wait_until_idle, math.inf))
        held.open()
        assert await asyncio.wait_for(waiting, TIMEOUT_S)
        await ended(running)

    held = Held(shut=True)
    async with scheduling() as scheduler:
        running = scheduler.submit(make_work(held.runner, [4]))
        await held.entered()
        waiting = asyncio.create_task(asyncio.to_thread(scheduler.lanes.wait_until_idle, math.inf))
        closing = asyncio.create_task(scheduler.close())
        await asyncio.wait_for(waiting, TIMEOUT_S)
        held.open()
        await closing
