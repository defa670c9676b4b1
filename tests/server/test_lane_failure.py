"""Lanes and runs that fail: whose rows are lost, and what health says."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest
from google.rpc.error_details_pb2 import RequestInfo  # type: ignore[import-untyped]
from grpc_status import rpc_status
from numpy.typing import NDArray

from seqserve.v1.classifier_pb2 import ClassifyRequest
from seqserve_server.models import repository, watchdog
from seqserve_server.models.sessions import Session, opener
from seqserve_server.options import ExecutionProvider
from seqserve_server.scheduling import scheduler
from seqserve_server.scheduling.pool import Group, Pool, Turn
from seqserve_server.scheduling.row_store import RowStore

if TYPE_CHECKING:
    from tests.server.conftest import Gate, Running, RunServer

Array = NDArray[np.float32]
MakeSequences = Callable[..., list[Array]]
MakeRequest = Callable[..., ClassifyRequest]

TIMEOUT_S = 60.0
FREE = "127.0.0.1:0"
POISON = 1234.5
"""A value that makes a run fail."""


class Faults:
    """Makes the runs of the sessions that it opens fail."""

    def __init__(self) -> None:
        self.error: BaseException = RuntimeError("onnxruntime gave up")
        self.always = False

    def open_session(self, model: bytes) -> Session:
        return _Faulty(opener(ExecutionProvider.CPU)(model), self)


class _Faulty:
    def __init__(self, session: Session, faults: Faults) -> None:
        self._session = session
        self._faults = faults

    def run(
        self, output_names: Sequence[str], input_feed: Mapping[str, NDArray[Any]]
    ) -> Sequence[Any]:
        if self._faults.always or (input_feed["values"] == POISON).any():
            raise self._faults.error
        return self._session.run(output_names, input_feed)

    def get_providers(self) -> Sequence[str]:
        return self._session.get_providers()


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
def quick_watchdog(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "LOOK_INTERVAL_S", 0.01)
    monkeypatch.setattr(repository, "FIRST_PAUSE_S", 0.01)


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < end


def _poisoned(sequence: Array) -> Array:
    sequence = sequence.copy()
    sequence[-1] = POISON
    return sequence


@pytest.mark.parametrize(
    "error",
    [RuntimeError("onnxruntime gave up"), MemoryError(), SystemExit(3), KeyboardInterrupt()],
    ids=lambda error: type(error).__name__,
)
def test_a_run_that_fails_fails_its_rows_with_a_request_id_and_no_others(
    run_server: RunServer,
    models: Path,
    gate: Gate,
    faults: Faults,
    make_request: MakeRequest,
    make_sequences: MakeSequences,
    caplog: pytest.LogCaptureFixture,
    error: BaseException,
) -> None:
    """A row is being run; behind it one comes in that fails, and one of another model."""
    faults.error = error
    long, short, other = make_sequences(29, 3, 17)

    def open_session(model: bytes) -> Session:
        return _Gated(faults.open_session(model), gate)

    with run_server(models, open_session=open_session) as server:
        expected = [server.classify("gru", [each]) for each in (long, other)]
        elsewhere = server.classify("lstm", [other])
        gate.shut()
        running = server.classifier.Classify.future(make_request("gru", [long]), timeout=TIMEOUT_S)
        gate.wait_for_a_run()
        failing, waiting = (
            server.classifier.Classify.future(make_request(model, [each]), timeout=TIMEOUT_S)
            for model, each in (("gru", _poisoned(short)), ("lstm", other))
        )
        gate.open()
        with pytest.raises(grpc.RpcError) as raised:
            failing.result(TIMEOUT_S)
        answers = [running.result(TIMEOUT_S), waiting.result(TIMEOUT_S)]
        again = server.classify("gru", [other])

    [detail] = rpc_status.from_call(raised.value).details  # type: ignore[arg-type]
    refusal = RequestInfo()
    assert detail.Unpack(refusal)
    assert raised.value.code() is grpc.StatusCode.INTERNAL
    assert refusal.request_id in str(raised.value.details())
    assert refusal.request_id in [getattr(each, "request_id", "") for each in caplog.records]
    assert answers == [expected[0], elsewhere]
    assert again == expected[1]


class _Gated:
    def __init__(self, session: Session, gate: Gate) -> None:
        self._session = session
        self._gate = gate

    def run(
        self, output_names: Sequence[str], input_feed: Mapping[str, NDArray[Any]]
    ) -> Sequence[Any]:
        self._gate.pass_through()
        return self._session.run(output_names, input_feed)

    def get_providers(self) -> Sequence[str]:
        return self._session.get_providers()


def test_a_lane_that_ends_is_replaced_and_the_server_stays_ready(
    run_server: RunServer,
    models: Path,
    make_sequences: MakeSequences,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One lane of one: without another, nobody would ever be answered again."""

    def end(*_: object) -> None:
        raise SystemExit

    with run_server(models) as server:
        expected = server.classify("gru", make_sequences(3))
        with monkeypatch.context() as broken:
            broken.setattr(RowStore, "feeds", end)
            refusal = server.failure(lambda: server.classify("gru", make_sequences(3)))
        answer = server.classify("gru", make_sequences(3))
        health = server.health()

    assert refusal.code is grpc.StatusCode.INTERNAL
    assert "seqserve-lane-0 has ended; another takes its place" in caplog.text
    assert answer == expected
    assert health == "SERVING"


def test_until_a_lane_can_be_replaced_nobody_is_left_waiting_and_the_server_is_not_ready(
    run_server: RunServer,
    models: Path,
    make_sequences: MakeSequences,
    quick_watchdog: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    del quick_watchdog

    def end(*_: object) -> None:
        raise SystemExit

    tried = threading.Semaphore(0)

    def refuse(_: threading.Thread) -> None:
        tried.release()
        raise RuntimeError("can't start new thread")

    with run_server(models, metrics_address=FREE) as server:
        expected = server.classify("gru", make_sequences(3))
        with monkeypatch.context() as broken:
            broken.setattr(RowStore, "feeds", end)
            broken.setattr(scheduler._Lane, "start", refuse)
            refusal = server.failure(lambda: server.classify("gru", make_sequences(3)))
            _until(lambda: server.health() == "NOT_SERVING")
            live = server.health("/live")
            missing = server.metric("seqserve_lanes_missing")
            serving = server.metric("seqserve_serving")
            for _ in range(4):  # when it ended, and again and again
                assert tried.acquire(timeout=TIMEOUT_S)
        _until(lambda: server.health() == "SERVING")
        answer = server.classify("gru", make_sequences(3))
        missing_again = server.metric("seqserve_lanes_missing")

    assert (missing, serving, missing_again) == (1, 0, 0)
    assert refusal.code is grpc.StatusCode.INTERNAL
    assert "seqserve-lane-0 could not be replaced" in caplog.text
    assert live == "SERVING"
    assert answer == expected


def test_a_model_whose_every_run_fails_is_not_ready_until_its_golden_set_holds_again(
    run_server: RunServer,
    models: Path,
    faults: Faults,
    make_sequences: MakeSequences,
    quick_watchdog: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    del quick_watchdog
    sequences = make_sequences(5)
    with (
        caplog.at_level(logging.INFO),
        run_server(models, open_session=faults.open_session, metrics_address=FREE) as server,
    ):
        expected = server.classify("gru", sequences)
        faults.always = True
        for _ in range(scheduler.FAILURES):
            assert server.failure(lambda: server.classify("gru", sequences)).code is (
                grpc.StatusCode.INTERNAL
            )
        _until(lambda: server.health("gru") == "NOT_SERVING")
        meanwhile = [server.health(service) for service in ("gru/1", "lstm", "", "/live")]
        ready = [server.metric("seqserve_model_ready", model=name) for name in ("gru", "lstm")]
        serving = server.metric("seqserve_serving")
        _until(lambda: "refused gru version 1" in caplog.text)  # it was tried again meanwhile
        faults.always = False
        _until(lambda: server.health("gru") == "SERVING")
        again = server.classify("gru", sequences)

    assert meanwhile == ["NOT_SERVING", "SERVING", "SERVING", "SERVING"]
    assert (ready, serving) == ([0, 1], 1)
    assert again == expected


def test_rows_that_fail_their_runs_do_not_take_a_sound_model_out_of_readiness_for_long(
    run_server: RunServer,
    models: Path,
    faults: Faults,
    make_sequences: MakeSequences,
    quick_watchdog: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A caller's rows are to blame, and the golden set says so."""
    del quick_watchdog
    [sequence] = make_sequences(5)
    with (
        caplog.at_level(logging.INFO),
        run_server(models, open_session=faults.open_session) as server,
    ):
        for _ in range(scheduler.FAILURES):
            server.failure(lambda: server.classify("gru", [_poisoned(sequence)]))
        _until(lambda: "its runs fail" in caplog.text)
        _until(lambda: server.health("gru") == "SERVING")
        assert server.classify("gru", [sequence]).answers.labels


def test_a_lane_that_hangs_takes_the_server_out_of_readiness_but_not_out_of_life(
    run_server: RunServer,
    models: Path,
    gate: Gate,
    make_request: MakeRequest,
    make_sequences: MakeSequences,
    quick_watchdog: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    del quick_watchdog
    monkeypatch.setattr(watchdog, "HANGS_S", 0.05)
    with run_server(models, open_session=gate.open_session, metrics_address=FREE) as server:
        assert server.metric("seqserve_lane_longest_turn_seconds") == 0
        gate.shut()
        call = server.classifier.Classify.future(
            make_request("gru", make_sequences(5)), timeout=TIMEOUT_S
        )
        gate.wait_for_a_run()
        _until(lambda: server.health() == "NOT_SERVING")
        assert server.metric("seqserve_lane_longest_turn_seconds") > watchdog.HANGS_S
        assert server.metric("seqserve_serving") == 0
        meanwhile = [server.health(service) for service in ("gru", "gru/1", "/live")]
        gate.open()
        assert call.result(TIMEOUT_S).answers.labels
        _until(lambda: server.health() == "SERVING")
        assert server.metric("seqserve_serving") == 1

    assert meanwhile == ["NOT_SERVING", "NOT_SERVING", "SERVING"]


def test_an_idle_lane_does_not_hang(
    run_server: RunServer,
    models: Path,
    make_sequences: MakeSequences,
    quick_watchdog: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However long nothing comes; the looks are counted, for none of them may find it hanging."""
    del quick_watchdog
    looks = threading.Semaphore(0)
    monkeypatch.setattr(watchdog, "HANGS_S", 0.0)
    look = watchdog.Watchdog.look

    def counted(self: watchdog.Watchdog) -> None:
        look(self)
        looks.release()

    with run_server(models) as server:
        server.classify("gru", make_sequences(3))
        _until(lambda: _rests(server))
        monkeypatch.setattr(watchdog.Watchdog, "look", counted)
        for _ in range(3):
            assert looks.acquire(timeout=TIMEOUT_S)
        assert server.health() == "SERVING"


def _rests(server: Running) -> bool:
    lanes = server.server._scheduler
    assert isinstance(lanes, scheduler.LaneScheduler)
    return not lanes.longest_turn_s()


def test_where_the_books_of_a_model_fail_rows_of_others_are_answered(
    run_server: RunServer,
    models: Path,
    gate: Gate,
    make_request: MakeRequest,
    make_sequences: MakeSequences,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its own callers are told; the lane goes on, and so does the model."""
    done = Pool.done

    def lose(self: Pool, turn: Turn, ran: int) -> Group:
        if self.cost is lost:
            raise MemoryError
        return done(self, turn, ran)

    with run_server(models, open_session=gate.open_session) as server:
        expected = {name: server.classify(name, make_sequences(7)) for name in ("gru", "lstm")}
        lost = server.server._repository.find("gru", 0).runner.cost
        gate.shut()
        running, waiting = (
            server.classifier.Classify.future(
                make_request(name, make_sequences(7)), timeout=TIMEOUT_S
            )
            for name in ("gru", "lstm")
        )
        gate.wait_for_a_run()
        with monkeypatch.context() as broken:
            broken.setattr(Pool, "done", lose)
            gate.open()
            refusal = server.failure(lambda: running.result(TIMEOUT_S))
            answer = waiting.result(TIMEOUT_S)
        again = server.classify("gru", make_sequences(7))

    assert refusal.code is grpc.StatusCode.INTERNAL
    assert answer == expected["lstm"]
    assert again == expected["gru"]
