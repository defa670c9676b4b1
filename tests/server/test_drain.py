"""A server that stops while it works, within this process; test_process has the signals."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from seqserve.v1.classifier_pb2 import ClassifyRequest

if TYPE_CHECKING:
    from tests.server.conftest import Gate, RunServer

MakeSequences = Callable[..., list[NDArray[np.float32]]]
MakeRequest = Callable[..., ClassifyRequest]

TIMEOUT_S = 60.0
CALLS = 8


@pytest.mark.parametrize("round_", range(5))
def test_every_call_that_runs_when_the_server_stops_is_answered(
    run_server: RunServer,
    models: Path,
    gate: Gate,
    make_request: MakeRequest,
    make_sequences: MakeSequences,
    round_: int,
) -> None:
    request = make_request("gru", make_sequences(5, seed=round_))
    with run_server(models, open_session=gate.open_session, lanes=CALLS) as server:
        expected = server.classifier.Classify(request, timeout=TIMEOUT_S)
        gate.shut()
        calls = []
        for _ in range(CALLS):  # one by one, or they would share a run
            calls.append(server.classifier.Classify.future(request, timeout=TIMEOUT_S))
            gate.wait_for_a_run()
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        gate.open()
        answers = [call.result() for call in calls]
        stopping.join()

    assert answers == [expected] * CALLS


def test_calls_that_outlast_the_grace_are_given_up(
    run_server: RunServer,
    models: Path,
    gate: Gate,
    make_request: MakeRequest,
    make_sequences: MakeSequences,
) -> None:
    with run_server(models, open_session=gate.open_session, drain_grace_s=0.0) as server:
        gate.shut()
        classify = server.classifier.Classify
        running = classify.future(make_request("gru", make_sequences(3)), timeout=TIMEOUT_S)
        gate.wait_for_a_run()
        waiting = classify.future(make_request("gru", make_sequences(3)), timeout=TIMEOUT_S)
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        codes = []
        for call in (running, waiting):
            with pytest.raises(grpc.RpcError) as raised:
                call.result()
            codes.append(raised.value.code())
        gate.open()
        stopping.join()

    assert set(codes) <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
