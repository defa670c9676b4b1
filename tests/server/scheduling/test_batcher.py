"""Whatever comes, goes, fails and runs beside it: a row gets what a batch of one gets."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from seqserve.graph import Outputs
from seqserve.v1.manifest_pb2 import Graph
from seqserve_server.models.runner import Runner
from seqserve_server.scheduling.batcher import Batcher, Prepared, Settled, WorkTicket
from seqserve_server.scheduling.cost import DEFAULT, Coefficients, CostModel
from seqserve_server.scheduling.row_store import Feed, Workspace
from seqserve_server.scheduling.ticket import Ticket
from seqserve_server.scheduling.work import MAX_ROWS, ServiceClass
from tests.server.scheduling.checksum_model import (
    FORWARD,
    TWINS,
    WHOLE,
    Array,
    assert_same,
    checksums,
    make_runner,
    make_work,
)

COSTS = {
    "chunks of 8": Coefficients(1e-4, 1e-4, 1e-4, 1e-5, 1e-4, 1e-6),
    "chunks of 32": Coefficients(1e-4, 1e-4, 1e-6, 1e-6, 1e-5, 3.2e-6),
    "as before measuring": DEFAULT,
    "one run for all": Coefficients(1e-4, 3e-3, 1e-6, 1e-8, 1e-8, 1e-8),
}
GRAPHS = {"forward": FORWARD, "twins": TWINS, "whole": WHOLE}

Op = tuple[Any, ...]
lane = st.integers(0, 2)
ops = st.one_of(
    st.tuples(
        st.just("add"),
        st.lists(st.integers(1, 120), min_size=1, max_size=12) | st.just([1] * 200),
        st.booleans(),  # with a state of steps before
        st.sampled_from(ServiceClass),
        st.sampled_from([1.0, 5.0, math.inf]),  # until its deadline
        st.integers(0, 9),  # at 0, its run fails
    ),
    st.tuples(st.just("drop"), st.integers(0, 1 << 16)),
    st.tuples(st.just("begin"), lane),
    st.tuples(st.just("begin"), lane),
    st.tuples(st.just("end"), lane, st.sampled_from([1, 1, 2, 100])),  # batches before it yields
    st.tuples(st.just("wait"), st.sampled_from([0.001, 0.5, 20.0])),
)


class Played:
    """Plays operations on a batcher, lanes and all, and checks each thing that it says."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.batcher = Batcher(runner, lanes=3)
        self.now = 0.0
        self.workspaces = [Workspace() for _ in range(3)]
        self.running: dict[int, Prepared] = {}
        self.tickets: list[WorkTicket] = []
        self.open: list[WorkTicket] = []
        self.failing: set[Ticket] = set()
        self.answered = 0

    def play(self, played: Sequence[Op]) -> None:
        for name, *arguments in played:
            getattr(self, name)(*arguments)
        while not self.batcher.pool.idle:
            self.begin(0)
            for each in list(self.running):
                self.end(each, 100)
        assert not self.open, "somebody was told nothing"

    def add(
        self,
        lengths: list[int],
        begun: bool,
        service_class: ServiceClass,
        patience: float,
        fails: int,
    ) -> None:
        seed = len(self.tickets)
        work = make_work(
            self.runner,
            lengths,
            seed=seed,
            begun=begun and not self.runner.whole,
            deadline=self.now + patience,
            service_class=service_class,
        )
        ticket = WorkTicket(work, self.now)
        if fails == 0:
            work.rows.values[seed % len(work.rows.values)] = -1
            self.failing.add(ticket)
        self.batcher.pool.add(ticket)
        self.tickets.append(ticket)
        self.open.append(ticket)

    def drop(self, which: int) -> None:
        if self.open:
            self._close(gone := self.open[which % len(self.open)])
            self.batcher.pool.drop(gone)

    def wait(self, seconds: float) -> None:
        self.now += seconds

    def begin(self, lane: int) -> None:
        if lane in self.running:
            return
        for ticket in self.batcher.admit(self.now):
            assert ticket.deadline <= self.now
            self._close(ticket)
        if prepared := self.batcher.prepare(self.now, self.workspaces[lane]):
            self.running[lane] = prepared

    def end(self, lane: int, batches: int) -> None:
        if (prepared := self.running.pop(lane, None)) is None:
            return
        self.batcher.run(prepared, lambda: len(prepared.outputs) < batches)
        at_fault = self._of_the_failed_batch(prepared)
        settled: Settled = self.batcher.finish(prepared)
        failed = {ticket for ticket, outcome in settled if isinstance(outcome, Exception)}
        assert failed == at_fault
        for ticket, outcome in settled:
            self._close(ticket)
            if isinstance(outcome, Outputs):
                assert isinstance(ticket, WorkTicket)
                assert ticket not in self.failing
                assert_same(outcome, ticket.work)
                self.answered += 1

    def _of_the_failed_batch(self, prepared: Prepared) -> set[Ticket]:
        if prepared.error is None:
            return set()
        batch = prepared.turn.batches[len(prepared.outputs)]
        return set(self.batcher.pool.owners(prepared.turn.slots[batch.first : batch.stop]))

    def _close(self, ticket: Ticket) -> None:
        """Each is told once: a second time it is in `open` no more."""
        assert isinstance(ticket, WorkTicket)
        self.open.remove(ticket)


def _failing_on_negatives(
    output_names: Sequence[str], input_feed: Mapping[str, NDArray[Any]]
) -> Sequence[Array]:
    for row, length in zip(input_feed["values"], input_feed["lengths"], strict=True):
        if (row[:length] < 0).any():
            raise RuntimeError("negative")
    return checksums(output_names, input_feed)


@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
@given(played=st.lists(ops, max_size=60), cost=st.sampled_from(sorted(COSTS)), small=st.booleans())
@settings(max_examples=200)
def test_every_row_gets_what_a_batch_of_one_gets(
    graph: Graph, played: list[Op], cost: str, small: bool
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if small:  # so that the store fills up
            patch.setattr("seqserve_server.scheduling.row_store._STORE_BYTES", 8 * 2 * 300)
        runner = make_runner(
            graph, _failing_on_negatives, cost=COSTS[cost], max_row_steps=300 if small else 1 << 20
        )
        Played(runner).play(played)


def _random_ops(seed: int, count: int) -> list[Op]:
    """Busy traffic: rather long, as Hypothesis would not draw it."""
    rng = np.random.default_rng(seed)
    drawn: list[Op] = []
    for _ in range(count):
        drawn.append(
            (
                "add",
                rng.integers(1, 90, rng.integers(1, 9)).tolist(),
                bool(rng.integers(2)),
                ServiceClass(int(rng.integers(2))),
                math.inf,
                1,
            )
        )
        drawn += [("begin", int(rng.integers(3))), ("end", int(rng.integers(3)), 2)]
        if rng.random() < 0.1:
            drawn.append(("drop", int(rng.integers(1 << 16))))
    return drawn


def test_slots_that_are_used_again_change_nothing_that_is_read(small_store: None) -> None:
    played = Played(make_runner(cost=COSTS["chunks of 8"]))
    played.play(_random_ops(0, 400))

    assert sum(len(ticket.slots) for ticket in played.tickets) > 5 * MAX_ROWS
    assert played.answered > 250


def test_a_batch_reads_each_rows_own_steps_and_nothing_beyond_them() -> None:
    runner = make_runner(cost=COSTS["one run for all"])
    batcher, work = Batcher(runner), make_work(runner, [3, 9, 1, 5])
    ticket = WorkTicket(work, 0.0)
    batcher.pool.add(ticket)
    batcher.admit(0.0)
    prepared = batcher.prepare(0.0, Workspace())
    assert prepared is not None
    [feed] = prepared.feeds
    places = {slot: row for row, slot in enumerate(ticket.slots.tolist())}

    assert isinstance(feed, Feed)
    assert feed.state is None
    assert not feed.keep_state, "every row ends, and nobody asked for its state"
    rows = list(work.rows)
    for values, length, slot in zip(
        feed.values, feed.lengths, prepared.turn.slots.tolist(), strict=True
    ):
        row = rows[places[slot]]
        assert length == len(row)
        assert np.array_equal(values[:length], row)
        assert not values[length:].any()


@pytest.mark.parametrize("dropped", [False, True], ids=["answered", "dropped"])
def test_a_ticket_that_has_left_is_held_by_nobody(dropped: bool) -> None:
    runner = make_runner()
    batcher, ticket = Batcher(runner), WorkTicket(make_work(runner, [3, 9]), 0.0)
    batcher.pool.add(ticket)
    batcher.admit(0.0)
    prepared = batcher.prepare(0.0, Workspace())
    assert prepared is not None
    if dropped:
        batcher.pool.drop(ticket)
    batcher.run(prepared)
    batcher.finish(prepared)
    held = weakref.ref(ticket)
    del ticket, prepared

    assert batcher.pool.idle
    assert held() is None, "its values would stay as well"


def test_a_failing_run_fails_the_tickets_in_it_and_no_other() -> None:
    runner = make_runner(run=_failing_on_negatives, cost=COSTS["chunks of 8"])
    played = Played(runner)
    played.add([100] * 10, False, ServiceClass.INTERACTIVE, math.inf, fails=1)
    played.add([4] * 2, False, ServiceClass.INTERACTIVE, math.inf, fails=0)
    played.add([60] * 3, True, ServiceClass.INTERACTIVE, math.inf, fails=1)
    played.play([])

    assert played.answered == 2


@pytest.mark.parametrize("name", ["lstm", "gru", "rnn", "both-ways"])
@pytest.mark.parametrize("cost", COSTS.values(), ids=COSTS)
def test_the_bits_of_real_models_are_those_of_a_batch_of_one(
    real_runner: Callable[[str], Runner], name: str, cost: Coefficients
) -> None:
    loaded = real_runner(name)
    runner = replace(loaded, cost=CostModel(cost))
    played = Played(runner)
    played.play(_random_ops(5, 40))

    assert played.answered > 20
