"""Lanes for sets that are known beforehand: the same bits by any lane, and every set told once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqserve.v1.manifest_pb2 import Graph
from seqserve_server.errors import Draining
from seqserve_server.models.runner import Runner
from seqserve_server.scheduling.offline_lanes import Answers, OfflineLanes
from tests.server.scheduling.checksum_model import (
    FORWARD,
    TWINS,
    WHOLE,
    each_alone,
    make_runner,
    make_work,
)
from tests.server.scheduling.held_model import TIMEOUT_S, Held, made_to_fail

Told = SimpleQueue[Answers | Exception]

sets = st.lists(
    st.lists(st.integers(1, 60), min_size=1, max_size=40)
    | st.lists(st.integers(1, 2000), min_size=1, max_size=4),
    min_size=1,
    max_size=4,
)


@contextmanager
def running(runner: Runner, lanes: int = 1) -> Iterator[OfflineLanes]:
    offline = OfflineLanes(runner, lanes)
    offline.start()
    try:
        yield offline
    finally:
        offline.close()


@pytest.mark.parametrize("graph", [FORWARD, TWINS, WHOLE], ids=["forward", "twins", "whole"])
@given(sets=sets, lanes=st.integers(1, 5), max_row_steps=st.sampled_from([40, 500, 1 << 20]))
@settings(max_examples=30)
def test_every_row_is_answered_as_it_is_alone_whatever_the_lanes(
    graph: Graph, sets: list[list[int]], lanes: int, max_row_steps: int
) -> None:
    runner = make_runner(graph, max_row_steps=max_row_steps, cached_row_steps=200)
    works = [make_work(runner, lengths, seed=seed) for seed, lengths in enumerate(sets)]
    told: list[Told] = [SimpleQueue() for _ in works]
    with running(runner, lanes) as offline:
        for work, each in zip(works, told, strict=True):
            offline.submit(work.rows, each.put)
        outcomes = [each.get(timeout=TIMEOUT_S) for each in told]

    for work, outcome in zip(works, outcomes, strict=True):
        assert isinstance(outcome, Answers)
        expected = each_alone(work)
        assert np.array_equal(outcome.logits, expected.logits)
        assert np.array_equal(outcome.probabilities, expected.probabilities)
        assert outcome.computed_steps >= work.rows.steps


async def test_lanes_that_find_nothing_left_of_a_set_go_on_with_the_next(held: Held) -> None:
    first, second = make_work(held.runner, [4]), make_work(held.runner, [4, 4, 5])
    told: Told = SimpleQueue()
    with running(held.runner, lanes=2) as offline:
        offline.submit(first.rows, told.put)
        await held.entered()
        offline.submit(second.rows, told.put)
        await held.entered()  # though the first set has not ended
        held.open()


async def test_a_set_whose_run_fails_is_told_why_and_no_other_is_harmed(held: Held) -> None:
    held.open()
    good = make_work(held.runner, [9, 3, 700] * 10)
    told_bad: Told = SimpleQueue()
    told_good: Told = SimpleQueue()
    with running(held.runner, lanes=2) as offline:
        offline.submit(made_to_fail(make_work(held.runner, [60, 9_000, 4])).rows, told_bad.put)
        offline.submit(good.rows, told_good.put)
        bad, answered = told_bad.get(timeout=TIMEOUT_S), told_good.get(timeout=TIMEOUT_S)

    assert isinstance(bad, RuntimeError)
    assert str(bad) == "negative"
    assert isinstance(answered, Answers)
    assert np.array_equal(answered.logits, each_alone(good).logits)
    assert told_bad.empty()


async def test_closing_tells_everybody_at_once_and_begins_no_further_run(held: Held) -> None:
    told: Told = SimpleQueue()
    offline = OfflineLanes(held.runner, 1)
    offline.start()
    offline.submit(make_work(held.runner, [4, 4000]).rows, told.put)  # two runs of a turn
    await held.entered()
    offline.submit(make_work(held.runner, [4]).rows, told.put)
    closing = threading.Thread(target=offline.close)
    closing.start()
    outcomes = [await asyncio.to_thread(told.get, timeout=TIMEOUT_S) for _ in range(2)]
    held.open()
    await asyncio.to_thread(closing.join, TIMEOUT_S)

    assert [type(outcome) for outcome in outcomes] == [Draining, Draining]
    assert not closing.is_alive()
    assert held.runs == 1
    with pytest.raises(Draining):
        offline.submit(make_work(held.runner, [4]).rows, told.put)
    assert told.empty()


async def test_closing_ends_a_long_row_at_its_next_piece(held: Held) -> None:
    runner = make_runner(FORWARD, held._run, max_row_steps=10)
    told: Told = SimpleQueue()
    with running(runner) as offline:
        offline.submit(make_work(runner, [1000]).rows, told.put)
        await held.entered()
        closing = threading.Thread(target=offline.close)
        closing.start()
        await asyncio.to_thread(told.get, timeout=TIMEOUT_S)
        held.open()
        await asyncio.to_thread(closing.join, TIMEOUT_S)

    assert held.runs == 1


def test_a_listener_that_raises_stops_no_lane(caplog: pytest.LogCaptureFixture) -> None:
    runner = make_runner()
    told: Told = SimpleQueue()

    def fail(_: object) -> None:
        raise RuntimeError("deaf")

    with running(runner) as offline:
        offline.submit(make_work(runner, [4]).rows, fail)
        offline.submit(make_work(runner, [5]).rows, told.put)
        assert isinstance(told.get(timeout=TIMEOUT_S), Answers)
    assert "could not be told" in caplog.text
