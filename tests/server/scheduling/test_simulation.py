"""The simulator against schedules worked out by hand, and its question in the docs."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from seqserve.ragged import RaggedBatch
from seqserve_server.models.runner import PLAY_STEPS, work_steps
from seqserve_server.scheduling.cost import Coefficients, CostModel
from seqserve_server.scheduling.pool import Batch, Group, Turn
from seqserve_server.scheduling.simulation import Calls, Result, capacity, day, simulate
from seqserve_server.scheduling.ticket import Ticket
from seqserve_server.scheduling.virtual_server import (
    Call,
    Fate,
    Policy,
    ServerModel,
    VirtualServer,
    VirtualTime,
    make_pool,
)
from seqserve_server.scheduling.work import ServiceClass, parts

GUIDE = Path(__file__).parents[3] / "docs/simulation.md"
RESULTS = Path(__file__).parents[3] / "benchmarks/results"

ONE_ROW = ServerModel(
    Coefficients(turn=0.0, run=1e-3, step=0.0, row=0.0, row_step=1e-4, carry=0.0),
    slots=1,
    whole=True,
)
"""Takes row by row, in order: a queue with one server, a row of n steps taking 1 + n/10 ms."""

UNIT_S = 1e-5
"""Of what is worked out by hand."""

BY_HAND = ServerModel(
    Coefficients(
        turn=2 * UNIT_S, run=5 * UNIT_S, step=0.0, row=0.0, row_step=1 * UNIT_S, carry=0.0
    ),
    whole=True,
    call_s=2 * UNIT_S,
    latency_s=4 * UNIT_S,
)

SMALL = Coefficients(turn=150e-6, run=40e-6, step=0.5e-6, row=0.3e-6, row_step=1.5e-6, carry=0.5e-6)
WIDE = Coefficients(turn=150e-6, run=50e-6, step=5e-6, row=1e-6, row_step=100e-6, carry=2e-6)

LONG_TAILED = (
    np.random.default_rng(0).lognormal(math.log(25), 0.8, 1_000).clip(1, 300).astype(np.int64)
)


def _calls(at: Sequence[float], *lengths: Sequence[int], timeout: float = math.inf) -> Calls:
    """Calls at these units, with sequences of these lengths each."""
    return Calls(
        lengths=np.concatenate([np.array(each, np.int64) for each in lengths]),
        sizes=np.array([len(each) for each in lengths]),
        times_s=np.array(at) * UNIT_S,
        timeout_s=timeout * UNIT_S,
    )


def _latencies(result: Result) -> list[float]:
    """In units."""
    return (result.calls[0].latencies_s / UNIT_S).round(6).tolist()  # type: ignore[no-any-return]


def test_one_row_a_turn_is_a_queue_with_one_server() -> None:
    calls = Calls.poisson(LONG_TAILED, rate=150, calls=1_000)
    assert calls.times_s is not None
    free, expected = 0.0, []
    for time, steps in zip(calls.times_s.tolist(), calls.lengths.tolist(), strict=True):
        free = max(free, time) + 1e-3 + 1e-4 * steps
        expected.append(free - time)

    result = simulate([calls], ONE_ROW)

    assert result.calls[0].latencies_s == pytest.approx(expected)
    assert result.stats.useful_fraction == 1


def test_the_lane_is_busy_for_what_arrives_times_what_it_takes() -> None:
    calls = Calls.poisson(np.array([30]), rate=100, calls=500)

    result = simulate([calls], replace(ONE_ROW, cores=2))

    assert result.stats.run_s == pytest.approx(500 * 4e-3)
    assert result.lanes_busy == pytest.approx(result.sequences_per_s * 4e-3)
    assert result.cores_busy == pytest.approx(result.lanes_busy / 2)


def test_with_a_core_for_the_transport_it_takes_nothing_from_the_lane() -> None:
    result = simulate([_calls([0, 4], [10], [10])], replace(BY_HAND, cores=2))

    # Both reach the server after 2, and cost the transport 1. The first: its turn is prepared
    # 3–4, runs 4–19, is settled 19–20. Then the second is prepared, until 21, when the transport
    # can have the interpreter to answer, until 22.
    assert _latencies(result) == [24, 40 - 4]


def test_on_one_core_the_transport_waits_for_the_lane_to_give_way() -> None:
    result = simulate([_calls([0, 4], [10], [10])], BY_HAND)

    # As above, but the second call, which comes at 6, is taken in 20–21, when the first turn is
    # settled, and the first is answered 21–22. Then the second turn is prepared, until 23.
    assert _latencies(result) == [24, 42 - 4]


def test_on_one_core_the_transport_waits_no_longer_than_a_slice() -> None:
    # Of 3 ms, or 300 units: of these two, the second is refused in the middle of the first.
    server = replace(BY_HAND, max_queue_steps=1_000, latency_s=0.0)

    result = simulate([_calls([0, 10], [1_000], [10])], server)

    # It comes at 10, and its refusal is under way from 310 to 312, half of the core each.
    assert result.calls[0].count(Fate.REFUSED) == 1
    assert result.calls[0].ended_s[1] / UNIT_S == pytest.approx(314)


def test_rows_that_wait_for_the_same_turn_share_a_run() -> None:
    result = simulate([_calls([0, 0], [10], [8])], replace(BY_HAND, call_s=0.0, latency_s=0.0))

    assert _latencies(result) == [1 + 5 + 2 * 10 + 1] * 2
    assert result.stats.useful_fraction == 18 / 20


def test_a_closed_loop_keeps_as_many_calls_under_way_as_it_has_callers() -> None:
    result = simulate([Calls.closed(np.array([40]), callers=3, calls=50)], ONE_ROW)

    [outcome] = result.calls
    assert outcome.latencies_s[2:] == pytest.approx(3 * 5e-3)
    assert outcome.sequences_per_s == pytest.approx(200)


def test_a_call_of_many_parts_is_answered_with_the_last_of_them() -> None:
    result = simulate([_calls([0], [1] * 1_000)], ServerModel(SMALL))

    assert result.calls[0].count(Fate.ANSWERED) == 1
    assert result.stats.sequences == 1_000


def test_a_call_that_does_not_fit_into_the_queue_is_refused_whole() -> None:
    server = replace(BY_HAND, max_queue_steps=300, latency_s=0.0)

    result = simulate([_calls([0, 0, 100], [10], [1] * 299, [1] * 299)], server)

    assert [result.calls[0].count(fate) for fate in Fate] == [2, 1, 0]
    assert result.stats.sequences == 300


def test_a_caller_knows_at_the_deadline_that_it_has_passed() -> None:
    slow_turns = replace(BY_HAND.cost, turn=100 * UNIT_S)
    server = replace(BY_HAND, cost=slow_turns, call_s=0.0, latency_s=0.0, slots=1, cores=2)

    # The second waits for the first, which takes longer than admission can know by then. The
    # first is answered when the second is prepared, and the transport can have the interpreter.
    result = simulate([_calls([0, 1], [10], [10], timeout=200.0)], server)

    assert [result.calls[0].count(fate) for fate in Fate] == [1, 0, 1]
    assert result.calls[0].ended_s / UNIT_S == pytest.approx([165, 201])
    assert _latencies(result) == [165, math.inf]


def test_a_call_that_cannot_be_in_time_is_refused_at_once() -> None:
    server = replace(BY_HAND, call_s=0.0, latency_s=0.0)

    result = simulate([_calls([3], [10], timeout=15.0)], server)

    assert result.calls[0].count(Fate.REFUSED) == 1
    assert result.calls[0].ended_s / UNIT_S == pytest.approx([3])


@pytest.mark.parametrize("call_s", [50e-6, 500e-6], ids=["native", "grpcio"])
@pytest.mark.parametrize("row_step_us", [50, 100, 180])
def test_at_ten_times_what_a_server_can_do_what_it_lets_in_is_answered_in_time(
    row_step_us: int, call_s: float
) -> None:
    # Sixteen sequences a call, of a large model: nearly every call has a long one.
    cost = replace(WIDE, step=100e-6, row_step=row_step_us * 1e-6)
    server = ServerModel(cost, call_s=call_s, max_queue_steps=10**6)
    most = simulate([Calls.closed(LONG_TAILED, 4, 150, size=16)], server).sequences_per_s / 16
    for seed in range(4):
        calls = Calls.poisson(
            LONG_TAILED, 10 * most, int(120 * most), size=16, timeout_s=1.5, seed=seed
        )

        result = simulate([calls], server)
        [outcome] = result.calls

        answered, expired = outcome.count(Fate.ANSWERED), outcome.count(Fate.EXPIRED)
        assert expired <= 0.01 * (answered + expired)
        assert answered / result.seconds >= 0.9 * most


def test_a_refused_caller_of_a_closed_loop_tries_its_next_call_later() -> None:
    calls = Calls.closed(np.array([40]), callers=5, calls=200)

    result = simulate([calls], replace(ONE_ROW, max_queue_steps=100))

    assert result.calls[0].count(Fate.REFUSED) > 0
    assert result.calls[0].count(Fate.ANSWERED) > 50
    assert result.calls[0].count(Fate.ANSWERED) + result.calls[0].count(Fate.REFUSED) == 200


@settings(max_examples=30)
@given(st.data())
def test_every_call_ends_once_and_what_is_answered_was_computed(data: st.DataObject) -> None:
    def kind(service_class: ServiceClass) -> Calls:
        sizes = data.draw(st.lists(st.integers(1, 400), min_size=1, max_size=12))
        longest = data.draw(st.sampled_from([1, 20, 300]))
        seed = data.draw(st.integers(0, 1_000))
        rng = np.random.default_rng(seed)
        arrivals = np.sort(rng.uniform(0, data.draw(st.sampled_from([0.0, 0.1])), len(sizes)))
        return Calls(
            lengths=rng.integers(1, longest + 1, sum(sizes)),
            sizes=np.array(sizes),
            times_s=data.draw(st.sampled_from([arrivals, None])),
            callers=data.draw(st.integers(1, 5)),
            service_class=service_class,
            timeout_s=data.draw(st.sampled_from([math.inf, 0.05, 0.005])),
        )

    server = ServerModel(
        SMALL,
        lanes=data.draw(st.integers(1, 3)),
        call_s=data.draw(st.sampled_from([0.0, 1e-4])),
        latency_s=data.draw(st.sampled_from([0.0, 1e-3])),
        whole=data.draw(st.booleans()),
        slots=data.draw(st.sampled_from([256, 2048])),
        max_queue_steps=data.draw(st.sampled_from([500, 10_000, 1_000_000])),
    )
    traffic = [kind(each) for each in ServiceClass]

    result = simulate(traffic, server)

    answered = 0
    for calls, outcome in zip(traffic, result.calls, strict=True):
        assert sum(outcome.count(fate) for fate in Fate) == len(calls.sizes)
        assert (outcome.ended_s >= outcome.made_s).all()
        # Only what is on its way back already comes after the deadline.
        took_s = outcome.ended_s - outcome.made_s
        assert (took_s <= calls.timeout_s + server.latency_s / 2 + 1e-9).all()
        answered += int(calls.sizes[outcome.answered].sum())
    assert answered <= result.stats.sequences
    assert result.lanes_busy <= 1 + 1e-9
    assert result.cores_busy <= 1 + 1e-9
    if all(outcome.answered.all() for outcome in result.calls):
        assert result.stats.steps == sum(int(calls.lengths.sum()) for calls in traffic)
        assert result.stats.sequences == answered


def test_the_same_seed_gives_the_same_result_and_another_seed_another() -> None:
    def latencies(seed: int) -> list[float]:
        calls = Calls.poisson(LONG_TAILED, rate=3_000, calls=300, seed=seed)
        return _latencies(simulate([calls], ServerModel(SMALL, lanes=2, call_s=50e-6)))

    assert latencies(1) == latencies(1)
    assert latencies(1) != latencies(2)


def test_64_lanes_do_the_work_of_64_where_runs_are_long() -> None:
    def rate(lanes: int) -> float:
        calls = Calls.closed(LONG_TAILED, callers=64 * lanes, calls=250 * lanes)
        return simulate([calls], ServerModel(WIDE, lanes=lanes)).calls[0].sequences_per_s

    assert rate(64) > 0.9 * 64 * rate(1)
    assert rate(64) < 64 / (WIDE.row_step * LONG_TAILED.mean())


def test_lanes_wait_for_one_interpreter_where_turns_are_short() -> None:
    def rate(lanes: int) -> float:
        calls = Calls.closed(np.array([4]), callers=8 * lanes, calls=1_000)
        return simulate([calls], ServerModel(SMALL, lanes=lanes)).calls[0].sequences_per_s

    assert rate(8) < 4 * rate(1)


def test_the_transport_limits_calls_however_many_lanes_there_are() -> None:
    server = ServerModel(SMALL, lanes=16, call_s=200e-6)
    calls = Calls.closed(LONG_TAILED, callers=200, calls=2_000)

    assert simulate([calls], server).calls[0].sequences_per_s <= 1 / 200e-6


def test_bulk_takes_what_interactive_calls_leave() -> None:
    server = ServerModel(SMALL, lanes=2, cores=3)
    interactive = Calls.poisson(LONG_TAILED, rate=3_000, calls=1_500)
    bulk = Calls.closed(
        LONG_TAILED, callers=8, calls=60, size=256, service_class=ServiceClass.BULK, seed=1
    )
    same_class = replace(bulk, service_class=ServiceClass.INTERACTIVE)

    alone = simulate([interactive], server)
    beside_bulk = simulate([interactive, bulk], server)
    beside_equals = simulate([interactive, same_class], server)

    p99 = alone.calls[0].latency_s(0.99)
    assert beside_bulk.calls[0].latency_s(0.99) < p99 + 5e-3  # a run, RUN_LIMIT_S, is under way
    assert beside_equals.calls[0].latency_s(0.99) > 2 * beside_bulk.calls[0].latency_s(0.99)
    assert beside_bulk.calls[1].answered.all()
    assert beside_bulk.lanes_busy > 1.2 * alone.lanes_busy


class PaddedFifo:
    """The first so many rows that wait, padded to their longest; calls of one row, one lane."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._waiting: list[tuple[Ticket, int]] = []
        self._running: list[list[Ticket]] = []

    @property
    def has_ready(self) -> bool:
        return bool(self._waiting)

    @property
    def urges(self) -> bool:
        return bool(self._waiting)

    def add(self, ticket: Ticket) -> None:
        self._waiting += [(ticket, int(length)) for length in ticket.lengths]

    def drop(self, ticket: Ticket) -> None:
        self._waiting = [each for each in self._waiting if each[0] is not ticket]

    def admit(self, now: float) -> tuple[Group, list[Ticket]]:
        return Group([], np.empty(0, np.int64)), []

    def turn(self, now: float) -> Turn | None:
        taken, self._waiting = self._waiting[: self._rows], self._waiting[self._rows :]
        if not taken:
            return None
        lengths: NDArray[np.int64] = np.array([length for _, length in taken])
        self._running.append([ticket for ticket, _ in taken])
        return Turn(
            batches=[Batch(0, len(taken), int(lengths.max()))],
            slots=np.arange(len(taken)),
            advance=lengths,
            begun=np.zeros(len(taken), np.bool_),
            ends=np.ones(len(taken), np.bool_),
            waited_s=np.array([now - ticket.arrived for ticket, _ in taken]),
            service_class=ServiceClass.INTERACTIVE,
        )

    def done(self, turn: Turn, ran: int) -> Group:
        assert ran == 1
        tickets = self._running.pop(0)  # with one lane there is no other
        for ticket in tickets:
            ticket.pending -= 1
        return Group([ticket for ticket in tickets if not ticket.pending], turn.slots)


def test_policies_can_be_compared() -> None:
    calls = Calls.closed(LONG_TAILED, callers=256, calls=4_000)

    def padded(model: ServerModel, cost: CostModel) -> Policy:
        return PaddedFifo(64)

    continuous = simulate([calls], ServerModel(SMALL))
    baseline = simulate([calls], ServerModel(SMALL), padded)

    assert baseline.calls[0].answered.all()
    assert continuous.calls[0].sequences_per_s > 1.5 * baseline.calls[0].sequences_per_s
    assert continuous.stats.useful_fraction > 2 * baseline.stats.useful_fraction


def test_capacity_is_the_rate_up_to_which_the_latency_is_kept() -> None:
    def traffic(rate: float) -> list[Calls]:
        return [Calls.poisson(np.array([40]), rate, calls=500)]

    def p99(rate: float) -> float:
        return simulate(traffic(rate), ONE_ROW).calls[0].latency_s(0.99)

    found = capacity(traffic, ONE_ROW, latency_s=30e-3, highest=400)

    assert p99(found) <= 30e-3 < p99(found + 0.03 * 400)
    assert capacity(traffic, ONE_ROW, latency_s=30e-3, highest=50) == 50
    assert capacity(traffic, ONE_ROW, latency_s=4e-3, highest=400) == 0


def test_a_day_weighs_each_rate_by_the_calls_it_stands_for() -> None:
    def traffic(rate: float) -> list[Calls]:
        # A constant gap, and as many calls at either rate.
        times_s = np.arange(100) / rate
        return [Calls(np.full(100, 40 if rate > 20 else 90), np.ones(100, np.int64), times_s)]

    sampled = day([10, 10, 180], traffic, ONE_ROW)

    # 20 calls of 10 ms to 180 of 5 ms.
    assert sampled.latency_s(0.9) == pytest.approx(5e-3)
    assert sampled.latency_s(0.91) == pytest.approx(10e-3)
    assert sampled.results[0] is sampled.results[1]


def test_what_does_not_fit_together_is_refused() -> None:
    with pytest.raises(ValueError, match="add up to 3 sequences, not 2"):
        Calls(np.array([1, 2]), np.array([3]))
    with pytest.raises(ValueError, match="2 times for 1 calls"):
        Calls(np.array([1]), np.array([1]), np.array([0.0, 1.0]))
    with pytest.raises(ValueError, match="at least one step"):
        Calls(np.array([0]), np.array([1]))


@pytest.mark.slow
def test_a_call_is_cut_into_parts_as_the_server_cuts_it() -> None:
    clock = VirtualTime(cores=1)
    server = VirtualServer(ServerModel(SMALL), clock, make_pool)
    fates: list[Fate] = []
    call = Call(
        np.full(64, 1_000),
        ServiceClass.INTERACTIVE,
        math.inf,
        lambda _at, fate, _retry_after_s: fates.append(fate),
    )
    server.receive(call)
    clock.run()

    batch = RaggedBatch(np.zeros((64_000, 1), np.float32), call.lengths)
    expected = parts(batch, work_steps(PLAY_STEPS))
    assert [len(ticket.lengths) for ticket in call.tickets] == [len(part) for part in expected]
    assert len(expected) == 4
    assert fates == [Fate.ANSWERED]


def test_the_costs_that_the_docs_ask_a_model_for_are_had(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [code] = re.findall(r"```py\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    monkeypatch.chdir(models.parent)
    names: dict[str, object] = {}
    exec(code.replace("models/speakers/1", f"{models.name}/gru/1"), names)
    assert isinstance(names["cost"], Coefficients)
    assert isinstance(names["max_row_steps"], int)


def test_how_near_the_simulator_is_in_the_docs_is_what_was_measured() -> None:
    results = json.loads((RESULTS / "latency.json").read_text())["results"]["figures"]
    measured = {figure["key"]: figure["measured"] for figure in results}
    throughput, p99 = measured["simulated-throughput"], measured["simulated-p99"]
    page = " ".join(GUIDE.read_text().split())
    assert f"came out {throughput['median']:.2f} times what was measured" in page
    factors = f"factor of {p99['low']:.2g} at the best of six rates and of {p99['high']:.2g} at"
    assert factors in page


def test_the_question_in_the_docs_has_the_answer_given_there(
    capsys: pytest.CaptureFixture[str],
) -> None:
    guide = GUIDE.read_text()
    names: dict[str, object] = {}
    for code, shown in re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", guide, re.DOTALL):
        exec(code, names)
        # How many cores: the figures beside it move with every change of the policy.
        assert capsys.readouterr().out.splitlines()[-1] == shown.splitlines()[-1]
    assert {"result", "sampled"} <= names.keys()
