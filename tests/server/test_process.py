"""`seqserve serve` as a process of its own: what it prints, how it ends."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from numpy.typing import NDArray

from seqserve.v1.classifier_pb2 import ClassifyRequest
from seqserve.v1.classifier_pb2_grpc import SequenceClassifierStub
from seqserve_server.options import Transport

MakeSequences = Callable[..., list[NDArray[np.float32]]]
MakeRequest = Callable[..., ClassifyRequest]

TIMEOUT_S = 60.0
SEQSERVE = [str(Path(sys.executable).with_name("seqserve"))]
NO_METRICS = ("--metrics-address", "off")  # their port is one for all
WITHOUT_TORCH = """
import importlib.abc, sys

class Forbidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "onnx", "pyarrow", "pandas", "seqserve_export"}:
            raise ModuleNotFoundError(f"the server asked for {name}")

sys.meta_path.insert(0, Forbidden())
from seqserve_client.cli import main
main()
"""

GATED = """
# Runs wait once "shut" was read from stdin, until "open" is.
import sys, threading
from seqserve_server.models import sessions

is_open = threading.Event()
is_open.set()

class Gated:
    def __init__(self, session):
        self.get_providers, self._run = session.get_providers, session.run

    def run(self, *arguments):
        if not is_open.is_set():
            print("running", flush=True)
            is_open.wait()
        return self._run(*arguments)

def listen():
    sys.stdin.readline()
    is_open.clear()
    print("shut", flush=True)
    sys.stdin.readline()
    is_open.set()

threading.Thread(target=listen, daemon=True).start()
opener = sessions.opener
def gated(provider):
    open_session = opener(provider)
    return lambda model: Gated(open_session(model))
sessions.opener = gated
from seqserve_client.cli import main
main()
"""


@contextmanager
def _serving(
    *arguments: str | Path, command: list[str] = SEQSERVE
) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """A process that has said it is ready, the address it listens on, and what it said."""
    with subprocess.Popen(
        [*command, "serve", *NO_METRICS, *map(str, arguments), "--address", "127.0.0.1:0"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            said = ""
            for line in process.stderr:
                said += line
                if "ready in" in line:
                    break
            listening = re.search(r"listening on (127\.0\.0\.1:\d+)", said)
            assert listening, said
            yield process, listening[1], said
        finally:
            process.kill()


@pytest.fixture(scope="module")
def shared(models: Path, transport: Transport) -> Iterator[tuple[str, str]]:
    """The address of a process that no test changes, and what it said until it was ready."""
    with _serving(models, "--transport", transport, "--lanes", "3") as (_, address, said):
        yield address, said


def _refused(*arguments: str | Path, **environment: str) -> tuple[int, str]:
    """Exit code and words of a server that does not start."""
    process = subprocess.run(
        [*SEQSERVE, "serve", *NO_METRICS, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env=os.environ | environment,
        check=False,
    )
    assert process.stdout == ""
    return process.returncode, process.stderr


def test_it_says_what_it_serves_and_where(shared: tuple[str, str], transport: Transport) -> None:
    _, said = shared

    assert f"({transport} transport, 3 lanes)" in said
    assert re.search(
        r"gru version 1: 4 labels \(class 0, class 1, class 2, …\), 3 features, "
        r"up to 1024 steps; CPUExecutionProvider: \d+ golden sequences held",
        said,
    )
    assert re.search(r"ready in \d+\.\d\d s: both-ways 1, gru 1, lstm 1, rnn 1\n", said)
    assert "no --token-key-file" in said


def test_without_metrics_it_says_no_place_of_theirs(shared: tuple[str, str]) -> None:
    _, said = shared

    assert "metrics on http://" not in said


def test_it_answers_without_torch_onnx_and_pyarrow(
    models: Path, make_request: MakeRequest, make_sequences: MakeSequences
) -> None:
    command = [sys.executable, "-c", WITHOUT_TORCH]

    with (
        _serving(models, command=command) as (process, address, _),
        grpc.insecure_channel(address) as channel,
    ):
        response = SequenceClassifierStub(channel).Classify(
            make_request("lstm", make_sequences(4, 9)), timeout=TIMEOUT_S
        )
        process.terminate()
        assert process.wait(TIMEOUT_S) == 0

    assert len(response.answers.labels) == 2


@pytest.mark.parametrize("signal_", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_lets_running_calls_finish_and_then_exits_well(
    gru_alone: Path,
    make_request: MakeRequest,
    make_sequences: MakeSequences,
    transport: Transport,
    signal_: signal.Signals,
) -> None:
    request = make_request("gru", make_sequences(4, 9))

    with (
        _serving(
            gru_alone,
            "--transport",
            transport,
            command=[sys.executable, "-c", GATED],
        ) as (process, address, _),
        grpc.insecure_channel(address) as channel,
    ):
        assert process.stdin
        assert process.stdout
        assert process.stderr
        health = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        process.stdin.write("shut\n")
        process.stdin.flush()
        assert process.stdout.readline() == "shut\n"
        classify = SequenceClassifierStub(channel).Classify
        running = classify.future(request, timeout=TIMEOUT_S)
        assert process.stdout.readline() == "running\n"

        process.send_signal(signal_)
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(grpc.RpcError) as watch_ended:
            next(watch)
        with pytest.raises(grpc.RpcError) as too_late:
            classify(request, timeout=TIMEOUT_S)
        assert not running.done()
        process.stdin.write("open\n")
        process.stdin.flush()
        answers = running.result().answers
        assert process.wait(TIMEOUT_S) == 0
        rest = process.stderr.read()

    assert len(answers.labels) == 2
    assert watch_ended.value.code() is grpc.StatusCode.UNAVAILABLE
    assert too_late.value.code() is grpc.StatusCode.UNAVAILABLE
    assert f"{signal_.name}: draining" in rest
    assert rest.rstrip().endswith("stopped")
    assert "Traceback" not in rest


def test_a_second_signal_ends_it_at_once(
    gru_alone: Path, make_request: MakeRequest, make_sequences: MakeSequences
) -> None:
    with (
        _serving(gru_alone, command=[sys.executable, "-c", GATED]) as (process, address, _),
        grpc.insecure_channel(address) as channel,
    ):
        assert process.stdin
        assert process.stdout
        assert process.stderr
        process.stdin.write("shut\n")
        process.stdin.flush()
        assert process.stdout.readline() == "shut\n"
        call = SequenceClassifierStub(channel).Classify.future(
            make_request("gru", make_sequences(4)), timeout=TIMEOUT_S
        )
        assert process.stdout.readline() == "running\n"
        process.terminate()
        assert "draining" in process.stderr.readline()
        process.terminate()

        assert process.wait(TIMEOUT_S) == -signal.SIGTERM
        with pytest.raises(grpc.RpcError) as raised:
            call.result()

    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_repository_that_is_not_there_ends_it(tmp_path: Path) -> None:
    code, words = _refused(tmp_path / "none")

    assert code == 1
    assert words == f"seqserve serve: {tmp_path}/none: there is no such folder\n"


def test_a_repository_without_models_is_said_to_be_empty(tmp_path: Path) -> None:
    with subprocess.Popen(
        [*SEQSERVE, "serve", *NO_METRICS, str(tmp_path), "--address", "127.0.0.1:0"],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        lines = iter(process.stderr)
        words = next(line for line in lines if "ERROR" in line)
        process.terminate()
        assert process.wait(TIMEOUT_S) == 0

    assert f"no model can be served: {tmp_path} has none" in words


def test_a_taken_port_ends_it_with_one_line(models: Path, transport: Transport) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        code, words = _refused(models, "--address", address, "--transport", transport)

    assert code == 1
    assert words == f"seqserve serve: cannot listen on {address}: Address already in use\n"


def test_two_servers_cannot_share_a_port(
    shared: tuple[str, str], models: Path, transport: Transport
) -> None:
    address, _ = shared
    code, words = _refused(models, "--address", address, "--transport", transport)

    assert code == 1
    assert words.endswith("Address already in use\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--address", "8001"], "--address 8001: HOST:PORT is needed"),
        (["--version-policy", "newest"], "--version-policy newest is none of: latest, all, 3"),
        (["--max-queue-steps", "5"], "--max-queue-steps is 5: the largest request allowed"),
        (["--token-key-file", "/dev/null"], "/dev/null: holds 0 bytes; at least 32 are needed"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_setting_that_cannot_be_ends_it_with_one_line(
    models: Path, arguments: list[str], words: str
) -> None:
    code, said = _refused(models, *arguments)

    assert code == 2
    assert words in said
    assert said.count("\n") == 1


def test_settings_may_come_from_the_environment(models: Path) -> None:
    code, words = _refused(models, SEQSERVE_ADDRESS="nowhere")

    assert code == 2
    assert "--address nowhere" in words


def test_cuda_that_is_not_there_ends_it_and_says_what_brings_it(models: Path) -> None:
    code, words = _refused(models, "--execution-provider", "cuda")

    assert code == 2
    assert "CPUExecutionProvider" in words
    assert "pip install onnxruntime-gpu" in words
    assert words.count("\n") == 1


def test_asked_for_any_provider_it_runs_on_the_cpu_and_says_so(gru_alone: Path) -> None:
    with _serving(gru_alone, "--execution-provider", "auto") as (_, _, said):
        assert "running on the CPU, for there is no CUDA" in said
