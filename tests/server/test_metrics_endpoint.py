"""The place where Prometheus reads: who may ask what there, and where it is."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray

from seqserve.v1.classifier_pb2 import ClassifyRequest
from seqserve_server import memory
from seqserve_server.errors import AddressUnavailable, InvalidSetting
from seqserve_server.observability.metrics import endpoint
from seqserve_server.options import Transport
from seqserve_server.processes import metrics_address
from seqserve_server.scheduling.scheduler import LaneScheduler
from seqserve_server.settings import Settings

if TYPE_CHECKING:
    from tests.server.conftest import Running, RunServer

MakeRequest = Callable[..., ClassifyRequest]
MakeSequences = Callable[..., list[NDArray[np.float32]]]

TIMEOUT_S = 60.0
FREE = "127.0.0.1:0"
SEQSERVE = Path(sys.executable).with_name("seqserve")


@pytest.fixture(scope="module")
def called(
    run_server: RunServer, gru_alone: Path, make_request: MakeRequest, make_sequences: MakeSequences
) -> Iterator[Running]:
    """A server that has answered three sequences."""
    with run_server(gru_alone, metrics_address=FREE) as running:
        running.classifier.Classify(make_request("gru", make_sequences(5, 30, 80)))
        yield running


@contextmanager
def _http(running: Running) -> Iterator[HTTPConnection]:
    connection = HTTPConnection(running.server.metrics_address, timeout=TIMEOUT_S)
    try:
        yield connection
    finally:
        connection.close()


@pytest.mark.parametrize("path", ["/", "/metrics/", "/debug/pprof", "/favicon.ico", "/../metrics"])
def test_there_is_nothing_but_the_metrics(called: Running, path: str) -> None:
    with _http(called) as connection:
        connection.request("GET", path)
        assert connection.getresponse().status == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_the_metrics_can_only_be_read(called: Running, method: str) -> None:
    with _http(called) as connection:
        connection.request(method, "/metrics")
        assert connection.getresponse().status == 405


def test_a_peer_that_says_nothing_keeps_no_other_waiting(called: Running) -> None:
    host, port = called.server.metrics_address.split(":")
    with ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(socket.create_connection((host, int(port))))

        assert called.metric("seqserve_sequences_total") == 3


def test_peers_that_say_a_byte_now_and_then_do_not_shut_prometheus_out(
    called: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as there may be at a time, none of them ever silent for long."""
    monkeypatch.setattr(endpoint, "_PATIENCE_S", 0.5)
    host, port = called.server.metrics_address.split(":")
    with ExitStack() as stack:
        peers = [
            stack.enter_context(socket.create_connection((host, int(port))))
            for _ in range(endpoint._MOST_PEERS)
        ]
        end = time.monotonic() + TIMEOUT_S
        ended: set[socket.socket] = set()
        while len(ended) < len(peers):
            assert time.monotonic() < end
            for peer in peers:
                peer.settimeout(0.02)
                try:
                    peer.sendall(b"G")
                    if peer.recv(1) == b"":
                        ended.add(peer)
                except TimeoutError:
                    continue
                except OSError:
                    ended.add(peer)

        monkeypatch.undo()  # or a slow machine would be cut off too
        assert called.metric("seqserve_sequences_total") == 3


@pytest.mark.parametrize("query", ["name[]=x", "name%5B%5D=up", "x=1", "?"])
def test_a_query_changes_nothing(called: Running, query: str) -> None:
    with _http(called) as connection:
        connection.request("GET", f"/metrics?{query}")
        answer = connection.getresponse()

        assert answer.status == 200
        assert b"seqserve_sequences_total" in answer.read()


def test_metrics_that_cannot_be_read_are_told_to_the_log_and_to_nobody_else(
    called: Running,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("a secret of the house")

    monkeypatch.setattr(LaneScheduler, "stats_by_model", fail)
    with _http(called) as connection:
        connection.request("GET", "/metrics")
        answer = connection.getresponse()

        assert (answer.status, answer.read()) == (500, b"the server's log says why\n")
    [record] = [each for each in caplog.records if each.name == endpoint.__name__ and each.exc_info]
    assert record.message == "the metrics could not be read"
    assert "Traceback" not in capfd.readouterr().err


async def test_a_port_that_is_taken_is_refused_with_words_and_leaves_no_port_open(
    models: Path, run_server: RunServer
) -> None:
    from seqserve_server.serving import Server

    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        server = Server(Settings(models, address=FREE, metrics_address=address))

        with pytest.raises(AddressUnavailable, match=rf"{address}: Address already in use; give"):
            await server.start()
        assert not server.port


async def test_a_server_that_cannot_listen_leaves_no_metrics_behind(models: Path) -> None:
    from seqserve_server.serving import Server

    before = set(threading.enumerate())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        server = Server(Settings(models, address=address, metrics_address=FREE))
        with pytest.raises(AddressUnavailable):
            await server.start()

    left = set(threading.enumerate()) - before
    assert "seqserve-metrics" not in [thread.name for thread in left]


@pytest.mark.parametrize(
    ("address", "processes", "words"),
    [
        pytest.param("8002", 1, "--metrics-address 8002: HOST:PORT is needed", id="no host"),
        pytest.param("[::1]:65535", 2, "2 processes take as many ports", id="too few ports"),
    ],
)
def test_an_address_that_cannot_be_is_refused(
    tmp_path: Path, address: str, processes: int, words: str
) -> None:
    with pytest.raises(InvalidSetting, match=re.escape(words)):
        Settings(tmp_path, metrics_address=address, processes=processes)


@pytest.mark.parametrize("processes", [pytest.param(1, id="one"), pytest.param(2, id="two")])
def test_the_command_says_where_the_metrics_are(
    gru_alone: Path, transport: Transport, processes: int
) -> None:
    command = [str(SEQSERVE), "serve", str(gru_alone), "--address", FREE, "--transport", transport]
    options = ["--processes", str(processes), "--metrics-address", FREE, "--lanes", "1"]
    with subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr
            said = ""
            for line in process.stderr:
                said += line
                if "ready in" in line:
                    break
            found = re.findall(r"metrics on http://(127\.0\.0\.1:\d+)/metrics", said)
            assert len(set(found)) == processes, said
            for address in found:
                connection = HTTPConnection(address, timeout=TIMEOUT_S)
                connection.request("GET", "/metrics")
                text = connection.getresponse().read().decode()
                assert "process_cpu_seconds_total" in text
                [limit] = re.findall("^seqserve_memory_limit_bytes (.*)$", text, re.MULTILINE)
                assert float(limit) == memory.granted() // processes
                connection.close()
        finally:
            process.terminate()
            process.communicate(timeout=TIMEOUT_S)


@pytest.mark.parametrize(
    ("first", "number", "address"),
    [
        pytest.param("127.0.0.1:8002", 1, "127.0.0.1:8002", id="the first"),
        pytest.param("[::1]:8002", 3, "[::1]:8004", id="the third"),
        pytest.param("127.0.0.1:0", 3, "127.0.0.1:0", id="any port"),
        pytest.param("", 2, "", id="off"),
    ],
)
def test_each_of_several_processes_has_a_port_of_its_own(
    first: str, number: int, address: str
) -> None:
    assert metrics_address(first, number) == address
