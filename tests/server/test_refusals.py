"""What a refused call leaves behind: nothing, or the requests of all who are refused add up."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray

from seqserve.v1.classifier_pb2 import ClassifyRequest

if TYPE_CHECKING:
    from tests.server.conftest import RunServer

MakeSequences = Callable[..., list[NDArray[np.float32]]]
MakeRequest = Callable[..., ClassifyRequest]

CALLS = 20


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
