"""What a refused call costs, and what it leaves behind: next to nothing."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from seqserve.v1.classifier_pb2 import ClassifyRequest
from seqserve_server.options import Transport

if TYPE_CHECKING:
    from tests.server.conftest import Gate, Running, RunServer

MakeSequences = Callable[..., list[NDArray[np.float32]]]
MakeRequest = Callable[..., ClassifyRequest]

CALLS = 20
TIMEOUT_S = 60.0
SERVICE = "/seqserve.v1.SequenceClassifier"


@pytest.fixture
def busy(
    run_server: RunServer,
    models: Path,
    gate: Gate,
    make_request: MakeRequest,
    make_sequences: MakeSequences,
) -> Iterator[Running]:
    """A server whose lane is taken, as it believes for hours."""
    request = make_request("gru", make_sequences(5))
    with run_server(
        models, open_session=gate.open_session, metrics_address="127.0.0.1:0"
    ) as server:
        cost = server.server._repository.find("gru", 0).runner.cost
        gate.shut()
        cost.now, taken = replace(cost.now, row=100 * TIMEOUT_S), cost.now
        running = server.classifier.Classify.future(request)
        gate.wait_for_a_run()
        cost.now = taken
        yield server
        gate.open()
        assert running.result(TIMEOUT_S).answers.labels


@pytest.mark.parametrize("method", ["Classify", "Advance"])
def test_where_no_answer_could_be_in_time_grpcio_refuses_before_a_request_has_come(
    busy: Running, transport: Transport, method: str
) -> None:
    if transport is not Transport.GRPCIO:
        pytest.skip("the native transport reads requests by itself")
    over = threading.Event()

    def no_request() -> Iterator[bytes]:
        over.wait()
        yield b""

    call = busy.channel.stream_unary(f"{SERVICE}/{method}", bytes, bytes)
    error = busy.failure(lambda: call(no_request(), timeout=TIMEOUT_S))
    over.set()

    assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "even the shortest sequence would wait" in error.message
    assert error.detail.retry_delay.ToTimedelta().total_seconds() > 0
    busy.wait_for_metric("seqserve_refusals_total", 1, reason="QueueFull")
    busy.wait_for_metric("seqserve_requests_total", 1, method=method, code="RESOURCE_EXHAUSTED")


def test_a_call_without_a_request_is_told_that_there_was_none(
    server: Running, transport: Transport
) -> None:
    if transport is not Transport.GRPCIO:
        pytest.skip("the native transport reads requests by itself")
    call = server.channel.stream_unary(f"{SERVICE}/Classify", bytes, bytes)

    error = server.failure(lambda: call(iter(()), timeout=TIMEOUT_S))

    assert error.code is grpc.StatusCode.INVALID_ARGUMENT


def test_a_caller_who_leaves_before_the_request_came_is_no_bad_request(
    run_server: RunServer, models: Path
) -> None:
    over = threading.Event()

    def no_request() -> Iterator[bytes]:
        over.wait()
        yield b""

    with run_server(models, metrics_address="127.0.0.1:0") as server:
        call = server.channel.stream_unary(f"{SERVICE}/Classify", bytes, bytes)
        for _ in range(3):
            error = server.failure(lambda: call(no_request(), timeout=0.05))
            assert error.code is grpc.StatusCode.DEADLINE_EXCEEDED
        over.set()
        server.failure(lambda: server.classifier.Classify(ClassifyRequest(model_name="nobody")))
        server.wait_for_metric("seqserve_requests_total", 1, code="NOT_FOUND")
        bad = server.metric("seqserve_requests_total", code="INVALID_ARGUMENT")
    assert not bad


@pytest.mark.parametrize("why", ["unknown model", "queue full"])
def test_refused_requests_are_let_go_before_the_garbage_collector_comes(
    run_server: RunServer,
    models: Path,
    make_request: MakeRequest,
    make_sequences: MakeSequences,
    why: str,
) -> None:
    model = "gru" if why == "queue full" else "unknown"
    request = make_request(model, make_sequences(*[5] * 50))
    limits = {"max_queue_steps": 200, "max_request_steps": 200}
    with run_server(models, **limits) as server:  # type: ignore[arg-type]
        server.refusal(request)
        gc.collect()
        before = _requests()
        gc.disable()
        try:
            for _ in range(CALLS):
                server.refusal(request)
            assert _requests() <= before + 1  # the last one may just be on its way out
        finally:
            gc.enable()


def _requests() -> int:
    return sum(type(each) is ClassifyRequest for each in gc.get_objects())
