"""Runs and lanes that fail, and whom it concerns."""

from __future__ import annotations

import asyncio

import pytest

from seqserve.graph import Outputs
from seqserve_server.scheduling.cost import Coefficients
from seqserve_server.scheduling.row_store import RowStore
from tests.server.scheduling.checksum_model import (
    assert_same,
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


async def test_a_failing_run_fails_its_own_callers_and_the_lane_goes_on(held: Held) -> None:
    async with scheduling() as scheduler:
        first = scheduler.submit(make_work(held.runner, [4]))
        await held.entered()
        failing = scheduler.submit(made_to_fail(make_work(held.runner, [60_000])))
        good = scheduler.submit(work := make_work(held.runner, [4, 5], seed=3))
        held.open()
        outcomes = await ended(first, failing, good)
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
    async with scheduling(lanes=2) as scheduler:
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


async def test_a_lane_that_fails_where_it_should_not_tells_everybody_and_goes_on(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scheduling() as scheduler:
        running = scheduler.submit(make_work(held.runner, [4]))
        await held.entered()
        waiting = scheduler.submit(make_work(held.runner, [4]))
        with monkeypatch.context() as broken:
            broken.setattr(RowStore, "save", _fail)
            held.open()
            outcomes = await ended(running, waiting)
        assert all(isinstance(each, MemoryError) for each in outcomes)
        assert outcomes[0] is not outcomes[1], "they would share a traceback"
        work = make_work(held.runner, [7])
        [output] = await ended(scheduler.submit(work))
        assert isinstance(output, Outputs)
        assert_same(output, work)


def _fail(*_: object) -> None:
    raise MemoryError


async def test_lanes_outlive_what_they_cannot_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = make_runner()
    async with scheduling(lanes=2) as scheduler:
        with monkeypatch.context() as broken:
            broken.setattr(RowStore, "__init__", _fail)
            works = [make_work(runner, [4]) for _ in range(20)]
            outcomes = await ended(*map(scheduler.submit, works))
        assert all(isinstance(each, MemoryError) for each in outcomes)
        [output] = await ended(scheduler.submit(works[0]))

        assert isinstance(output, Outputs)
        assert_same(output, works[0])
        assert scheduler.lanes.wait_until_idle(0)
