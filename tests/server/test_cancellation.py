"""Callers who leave, over the wire."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from seqserve.v1.catalog_pb2 import ListModelsRequest
from seqserve.v1.classifier_pb2 import ClassifyRequest

if TYPE_CHECKING:
    from tests.server.conftest import Gate, RunServer

MakeSequences = Callable[..., list[NDArray[np.float32]]]
MakeRequest = Callable[..., ClassifyRequest]

TIMEOUT_S = 60.0


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
