"""Server and client with the oldest libraries that pyproject.toml admits, and without torch."""

from __future__ import annotations

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from seqserve_client import Client
from tests.integration.conftest import ROOT, in_process, serving

OLDEST = ROOT / ".venv-oldest" / "bin"
CALL = """
import json, sys
import numpy as np
from seqserve_client import Client
with Client(sys.argv[1]) as client:
    answer = client.classify([np.ones((5, 3), np.float32)], model="lstm-last")
json.dump(answer.logits.tolist(), sys.stdout)
"""


@pytest.fixture(scope="module", autouse=True)
def _set_up() -> None:
    assert OLDEST.exists(), "make test sets .venv-oldest up"


def expected(models: Path) -> list[list[float]]:
    run = in_process(models, "lstm-last")
    logits = run(np.ones((1, 5, 3), np.float32), np.array([5], np.int32)).logits
    return [[float(number) for number in row] for row in logits]


@pytest.mark.parametrize("module", ["torch", "onnx", "pyarrow", "seqserve_export.network"])
def test_the_environment_has_no_training_libraries(module: str) -> None:
    imported = subprocess.run([OLDEST / "python", "-c", f"import {module}"], capture_output=True)
    assert b"ModuleNotFoundError" in imported.stderr


@pytest.mark.parametrize("transport", ["native", "grpcio"])
def test_the_server_runs_and_answers_today_s_client(models: Path, transport: str) -> None:
    with (
        serving(models, "--transport", transport, bin_folder=OLDEST) as address,
        Client(address) as client,
    ):
        assert {status.name for status in client.models()} >= {"lstm-last", "both-ways"}
        answer = client.classify([np.ones((5, 3), np.float32)], model="lstm-last")
    # onnxruntime's kernels may round otherwise in another version, so not bit for bit.
    np.testing.assert_allclose(answer.logits, expected(models), atol=1e-6)


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps the names of the spans that it is sent."""

    def __init__(self) -> None:
        self.spans: list[str] = []

    def Export(  # noqa: N802
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        scopes = [scope for each in request.resource_spans for scope in each.scope_spans]
        self.spans += [span.name for scope in scopes for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()


def test_the_server_sends_spans_to_a_collector(models: Path) -> None:
    receiver, collector = grpc.server(ThreadPoolExecutor(1)), Collector()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, receiver)  # type: ignore[no-untyped-call]
    endpoint = f"http://127.0.0.1:{receiver.add_insecure_port('127.0.0.1:0')}"
    receiver.start()
    try:
        with (
            serving(models, "--otlp-endpoint", endpoint, bin_folder=OLDEST) as address,
            Client(address) as client,
        ):
            client.classify([np.ones((5, 3), np.float32)], model="lstm-last")
    finally:  # the server has ended, and has sent what it had
        receiver.stop(None).wait()
    assert {"/seqserve.v1.SequenceClassifier/Classify", "queue", "run", "settle"} <= {
        *collector.spans
    }


def test_the_client_calls_today_s_server(server: str, models: Path) -> None:
    called = subprocess.run(
        [OLDEST / "python", "-W", "error", "-c", CALL, server], capture_output=True, text=True
    )
    assert called.returncode == 0, called.stderr
    assert json.loads(called.stdout) == expected(models)


@pytest.mark.parametrize(
    "arguments",
    [["train", "japanese-vowels"], ["export", "checkpoint.pt"]],
    ids=["train", "export"],
)
def test_a_missing_extra_is_named(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").touch()
    called = subprocess.run(
        [OLDEST / "seqserve", *arguments, "--model", "speakers"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert called.returncode == 1
    assert "pip install 'seqserve[export]'" in called.stderr


def test_a_model_can_be_proven_where_it_is_served(models: Path) -> None:
    proven = subprocess.run(
        [OLDEST / "seqserve", "verify", models / "lstm-last"], capture_output=True, text=True
    )
    assert proven.returncode == 0, proven.stderr
