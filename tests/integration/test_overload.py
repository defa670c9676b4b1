"""More than a server can do: who is refused is told when to come again, and probes are answered.

How much is still answered, and what refusing costs, is measured by tests/campaigns/overload.py.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.rpc.error_details_pb2 import RetryInfo  # type: ignore[import-untyped]
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_status import rpc_status

from benchmarks.server_process import Server
from seqserve.v1.classifier_pb2_grpc import SequenceClassifierStub
from tests.campaigns.pool import SequencePool

MODEL = "lstm-mean"
CALLS, SIZE = 900, 20
QUEUE_STEPS = "8000"
TIMEOUT_S = 60.0


@pytest.mark.parametrize("transport", ["native", "grpcio"])
def test_calls_beyond_the_queue_are_refused_with_a_time_and_probes_are_answered_meanwhile(
    models: Path, transport: str
) -> None:
    pool = SequencePool(models, MODEL, 100, 60)
    chosen = [np.arange(first, first + SIZE) % len(pool) for first in range(CALLS)]
    limits = ("--max-queue-steps", QUEUE_STEPS, "--max-request-steps", QUEUE_STEPS)
    with (
        Server(models, transport, core=None, options=limits) as server,
        grpc.insecure_channel(server.address) as channel,
        grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)]) as probe,
    ):
        classify, health = SequenceClassifierStub(channel).Classify, HealthStub(probe)
        calls = [classify.future(pool.request(each), timeout=TIMEOUT_S) for each in chosen]
        while not all(call.done() for call in calls):
            answer = health.Check(HealthCheckRequest(), timeout=TIMEOUT_S)
            assert answer.status == HealthCheckResponse.SERVING

        ends = Counter(call.code() for call in calls)
        assert ends.keys() == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
        for call, each in zip(calls, chosen, strict=True):
            if call.code() is grpc.StatusCode.OK:
                assert not pool.wrong_response(each, call.result())
            else:
                [detail] = rpc_status.from_call(call).details
                retry = RetryInfo()
                assert detail.Unpack(retry)
                assert retry.retry_delay.ToTimedelta().total_seconds() > 0
        # Nothing of them is left.
        assert not pool.wrong_response(
            chosen[0], classify(pool.request(chosen[0]), timeout=TIMEOUT_S)
        )
