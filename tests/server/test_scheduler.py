"""Futures and threads, with a runner that the test opens and shuts."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import pytest

from seqserve.graph import Outputs, State
from seqserve.ragged import RaggedBatch
from seqserve_server.errors import DeadlineSpent, Draining, QueueFull
from seqserve_server.scheduling.scheduler import LaneScheduler
from seqserve_server.scheduling.work import Work

TIMEOUT_S = 60.0


class Runner:
    """Gives back the sum of each row as its logits; waits at a gate where it has one."""

    max_row_steps = 1000

    def __init__(self, *, gated: bool = False) -> None:
        self.ran: list[float] = []
        self.entered = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._gate = threading.Event()
        if not gated:
            self._gate.set()

    def open(self) -> None:
        self._gate.set()

    def advance(self, rows: RaggedBatch, state: State | None) -> Outputs:
        self._loop.call_soon_threadsafe(self.entered.set)
        assert self._gate.wait(TIMEOUT_S)
        sums = np.array([[row.sum()] for row in rows], np.float32)
        self.ran.append(float(sums[0, 0]))
        if sums[0, 0] < 0:
            raise RuntimeError("negative")
        return Outputs(sums, sums, {})


def _work(runner: Runner, value: float, *, steps: int = 1, deadline: float = math.inf) -> Work:
    values = np.zeros((steps, 1), np.float32)
    values[0] = value
    return Work(runner, RaggedBatch(values, np.array([steps])), None, deadline)


@asynccontextmanager
async def _scheduler(
    *, lanes: int = 1, max_queue_steps: int = 100, now: list[float] | None = None
) -> AsyncIterator[LaneScheduler]:
    """`now` is a clock moved by hand."""
    clock = now or [0.0]
    scheduler = LaneScheduler(lanes=lanes, max_queue_steps=max_queue_steps, clock=lambda: clock[0])
    scheduler.start()
    yield scheduler
    await scheduler.close()


async def test_every_work_gets_its_own_outputs() -> None:
    runner = Runner()
    async with _scheduler(lanes=3) as scheduler:
        futures = [scheduler.submit(_work(runner, value)) for value in range(50)]
        outputs = await asyncio.gather(*futures)

    assert [float(each.logits[0, 0]) for each in outputs] == list(range(50))


async def test_a_cancelled_caller_neither_delays_nor_fails_its_neighbours() -> None:
    runner = Runner(gated=True)
    async with _scheduler() as scheduler:
        running, before, gone, after = (scheduler.submit(_work(runner, v)) for v in (1, 2, 3, 4))
        await runner.entered.wait()
        gone.cancel()
        runner.open()
        await asyncio.gather(running, before, after)

    assert gone.cancelled()
    assert runner.ran == [1, 2, 4]


async def test_a_caller_who_leaves_while_running_leaves_the_lane_unharmed() -> None:
    runner = Runner(gated=True)
    async with _scheduler() as scheduler:
        gone = scheduler.submit(_work(runner, 1))
        await runner.entered.wait()
        gone.cancel()
        runner.open()
        outputs = await scheduler.submit(_work(runner, 2))

    assert gone.cancelled()
    assert outputs.logits == [[2]]


async def test_a_cancelled_caller_makes_room_before_a_lane_is_free() -> None:
    runner = Runner(gated=True)
    async with _scheduler(max_queue_steps=10) as scheduler:
        running = scheduler.submit(_work(runner, 1, steps=10))
        await runner.entered.wait()
        gone = scheduler.submit(_work(runner, 2, steps=10))
        with pytest.raises(QueueFull):
            scheduler.submit(_work(runner, 3))
        gone.cancel()
        await asyncio.sleep(0)  # the loop tells of the cancelling
        let_in = scheduler.submit(_work(runner, 4, steps=10))
        runner.open()
        await asyncio.gather(running, let_in)

    assert runner.ran == [1, 4]


async def test_expired_work_is_not_run_and_its_caller_is_told() -> None:
    runner, now = Runner(gated=True), [0.0]
    async with _scheduler(now=now) as scheduler:
        running = scheduler.submit(_work(runner, 1))
        await runner.entered.wait()
        expired = scheduler.submit(_work(runner, 2, deadline=5.0))
        patient = scheduler.submit(_work(runner, 3, deadline=7.0))
        now[0] = 5.0
        runner.open()
        await asyncio.gather(running, patient)
        with pytest.raises(DeadlineSpent):
            await expired

    assert runner.ran == [1, 3]


async def test_work_that_expires_with_nothing_behind_it_is_told_as_well() -> None:
    runner, now = Runner(gated=True), [0.0]
    async with _scheduler(now=now) as scheduler:
        running = scheduler.submit(_work(runner, 1))
        await runner.entered.wait()
        expired = scheduler.submit(_work(runner, 2, deadline=5.0))
        now[0] = 5.0
        runner.open()
        await running
        with pytest.raises(DeadlineSpent):
            await expired


async def test_a_failing_run_fails_its_own_caller_alone() -> None:
    runner = Runner()
    async with _scheduler() as scheduler:
        before, failing, after = (scheduler.submit(_work(runner, v)) for v in (1, -2, 3))
        await asyncio.gather(before, after)
        with pytest.raises(RuntimeError, match="negative"):
            await failing


async def test_closing_finishes_what_runs_and_tells_what_waits() -> None:
    runner = Runner(gated=True)
    async with _scheduler() as scheduler:
        running = scheduler.submit(_work(runner, 1))
        await runner.entered.wait()
        waiting = scheduler.submit(_work(runner, 2))
        closing = asyncio.create_task(scheduler.close())
        with pytest.raises(Draining):
            await waiting
        with pytest.raises(Draining):
            scheduler.submit(_work(runner, 3))
        runner.open()
        await closing

        assert (await running).logits == [[1]]
    assert runner.ran == [1]
