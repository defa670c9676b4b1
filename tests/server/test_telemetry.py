"""No connection leaves the server process: what onnxruntime would tell others is turned off.

strace sees every connection that is tried, by Python, onnxruntime or any other native code. That it
would see onnxruntime's telemetry is shown beside it, where nothing is let out.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import grpc
import pytest

from benchmarks.server_process import TRANSPORTS
from seqserve import artifact
from seqserve.v1.classifier_pb2 import ClassifyRequest
from seqserve.v1.classifier_pb2_grpc import SequenceClassifierStub

TIMEOUT_S = 60.0
SEQSERVE = [sys.executable, "-m", "seqserve_client"]
CALLS = "trace=connect,sendto,sendmsg,sendmmsg"
ADDRESS = re.compile(r'inet_addr\("([^"]+)"\)|inet_pton\(AF_INET6, "([^"]+)"')

WITH_TELEMETRY = """
import select, sys
import onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
select.select([sys.stdin], [], [], float(sys.argv[2]))
"""

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


def _environment() -> dict[str, str]:
    # In CI, as CI's own variable says, onnxruntime keeps quiet by itself.
    quiet = {"CI", "ORT_DISABLE_TELEMETRY"}
    return {key: each for key, each in os.environ.items() if key not in quiet}


@contextmanager
def _traced(
    command: list[str], trace: Path | None, *options: str
) -> Iterator[subprocess.Popen[str]]:
    """The trace goes to stderr where it has no file."""
    strace = ["strace", "-f", "-qq", *options, *(["-o", str(trace)] if trace else [])]
    with subprocess.Popen(
        [*strace, *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=_environment(),
    ) as process:
        try:
            yield process
        finally:
            for pid in _children(process.pid):
                os.kill(pid, signal.SIGKILL)
            process.kill()


def _children(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(word) for word in children.read_text().split()] if children.exists() else []


def _beyond_this_host(trace: Path) -> list[str]:
    """Lines of a trace that name an address of another host."""
    found = []
    for line in trace.read_text().splitlines():
        for four, six in ADDRESS.findall(line):
            address = ip_address(four or six)
            if not (getattr(address, "ipv4_mapped", None) or address).is_loopback:
                found.append(line)
    return found


def test_the_trace_sees_what_leaves(tmp_path: Path) -> None:
    connect = "import socket\nfor f, a in [(socket.AF_INET, '192.0.2.1'), (socket.AF_INET6, "
    connect += "'2001:db8::1')]:\n  socket.socket(f, socket.SOCK_DGRAM).connect_ex((a, 9))"
    with _traced(
        [sys.executable, "-c", connect],
        tmp_path / "trace",
        *["-e", CALLS, "-e", "inject=connect:error=ENETUNREACH"],
    ) as process:
        process.communicate(timeout=TIMEOUT_S)

    assert len(_beyond_this_host(tmp_path / "trace")) == 2


@pytest.mark.slow
def test_no_connection_leaves_a_server_that_starts_serves_and_stops(
    models: Path,
    tmp_path: Path,
    make_request: Callable[..., ClassifyRequest],
    make_sequences: Callable[..., Any],
) -> None:
    request = make_request("gru", make_sequences(3))
    model = artifact.version_path(models, "gru", 1) / artifact.MODEL_FILE
    with ExitStack() as stack:
        servers = {
            transport: stack.enter_context(
                _traced([*SEQSERVE, *_serve(models, transport)], tmp_path / transport, "-e", CALLS)
            )
            for transport in TRANSPORTS
        }
        stubs = [
            SequenceClassifierStub(stack.enter_context(grpc.insecure_channel(_address(server))))
            for server in servers.values()
        ]
        for stub in stubs:
            stub.Classify(request, timeout=TIMEOUT_S)
        # A process that opens a model after the servers have opened all of theirs. Nothing of its
        # telemetry gets out: it is given no socket.
        telling = stack.enter_context(
            _traced(
                [sys.executable, "-c", WITH_TELEMETRY, str(model), str(TIMEOUT_S)],
                None,
                *["-e", "trace=socket", "-e", "inject=socket:error=EACCES"],
            )
        )
        assert telling.stderr
        told = any("AF_INET" in line for line in telling.stderr)
        assert told, "this onnxruntime has no telemetry to be seen"
        for stub in stubs:
            stub.Classify(request, timeout=TIMEOUT_S)
        for transport, server in servers.items():
            [pid] = _children(server.pid)
            os.kill(pid, signal.SIGTERM)
            _, said = server.communicate(timeout=TIMEOUT_S)
            assert "stopped" in said
            assert _beyond_this_host(tmp_path / transport) == []


def _serve(models: Path, transport: str) -> list[str]:
    ports = ["--address", "127.0.0.1:0", "--metrics-address", "127.0.0.1:0"]
    return ["serve", str(models), *ports, "--transport", transport]


def _address(server: subprocess.Popen[str]) -> str:
    """Of a server, once it is ready."""
    assert server.stderr
    address = ""
    for line in server.stderr:
        if found := re.search(r"listening on (127\.0\.0\.1:\d+)", line):
            address = found[1]
        if " ready in " in line:
            break
    assert address
    return address
