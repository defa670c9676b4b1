"""Callers who leave, over the wire."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray

from seqserve.v1.catalog_pb2 import ListModelsRequest
from seqserve.v1.classifier_pb2 import ClassifyRequest
from seqserve_server.scheduling.work import MAX_ROWS

if TYPE_CHECKING:
    from tests.server.conftest import Gate, Running, RunServer

MakeSequences = Callable[..., list[NDArray[np.float32]]]
MakeRequest = Callable[..., ClassifyRequest]

TIMEOUT_S = 60.0
PARTS = 32


def test_cancelled_caller_does_not_delay_or_fail_its_neighbours(
    run_server: RunServer,
    models: Path,
    gate: Gate,
    make_request: MakeRequest,
    make_sequences: MakeSequences,
) -> None:
    requests = [make_request("gru", make_sequences(5, seed=seed)) for seed in range(4)]
    with run_server(models, open_session=gate.open_session) as server:
        classify = server.classifier.Classify
        expected = [classify(request, timeout=TIMEOUT_S) for request in requests]
        gate.shut()
        runs = gate.runs
        calls = [classify.future(requests[0], timeout=TIMEOUT_S)]
        gate.wait_for_a_run()
        calls += [classify.future(request, timeout=TIMEOUT_S) for request in requests[1:]]
        # Two callers leave: the one whose run stands at the gate, and one of those who wait.
        for gone in (calls[0], calls[2]):
            gone.cancel()  # type: ignore[no-untyped-call]
        # What a call later than theirs sees, has come after their leaving.
        server.catalog.ListModels(ListModelsRequest(), timeout=TIMEOUT_S)
        gate.open()

        assert calls[1].result() == expected[1]
        assert calls[3].result() == expected[3]
        assert calls[0].cancelled()
        assert calls[2].cancelled()
        assert gate.runs <= runs + 3
        assert classify(requests[2], timeout=TIMEOUT_S) == expected[2]


@pytest.mark.parametrize("ends", ["cancelled", "deadline"])
def test_work_of_a_caller_who_waits_no_longer_ends_at_the_next_border(
    run_server: RunServer,
    models: Path,
    gate: Gate,
    make_request: MakeRequest,
    make_sequences: MakeSequences,
    ends: str,
) -> None:
    # Cut into parts of the rows that can be in play, which one lane runs one after the other.
    request = make_request("gru", make_sequences(*[5] * (PARTS * MAX_ROWS)))
    with run_server(models, open_session=gate.open_session) as server:
        gate.shut()
        timeout_s = TIMEOUT_S if ends == "cancelled" else 0.2
        call = server.classifier.Classify.future(request, timeout=timeout_s)
        gate.wait_for_a_run()
        runs = gate.runs
        if ends == "cancelled":
            call.cancel()  # type: ignore[no-untyped-call]
        assert call.code().name == ("CANCELLED" if ends == "cancelled" else "DEADLINE_EXCEEDED")
        assert _wait_until_idle(server), "its work is still there"
        gate.open()
        server.classifier.Classify(make_request("gru", make_sequences(5)), timeout=TIMEOUT_S)

        # The rest of the turn that was at the gate, and the call after it.
        assert gate.runs < runs + PARTS / 2


def test_a_call_whose_deadline_passes_as_it_waits_is_never_run(
    run_server: RunServer,
    models: Path,
    gate: Gate,
    make_request: MakeRequest,
    make_sequences: MakeSequences,
) -> None:
    request = make_request("gru", make_sequences(5))
    with run_server(models, open_session=gate.open_session) as server:
        classify = server.classifier.Classify
        gate.shut()
        first = classify.future(request, timeout=TIMEOUT_S)
        gate.wait_for_a_run()
        runs = gate.runs
        waiting = [classify.future(request, timeout=0.2) for _ in range(20)]
        assert {call.code().name for call in waiting} == {"DEADLINE_EXCEEDED"}
        server.wait_for_steps(5)  # the server has heard of it, or its clock has come as far
        gate.open()
        first.result()
        assert _wait_until_idle(server)

        assert gate.runs == runs


def _wait_until_idle(server: Running) -> bool:
    """Until nobody waits for anything that is under way."""
    return server.server._scheduler.wait_until_idle(TIMEOUT_S)
