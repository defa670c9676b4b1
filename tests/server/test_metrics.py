"""What Prometheus reads from a real server, and what is in it after real calls."""

from __future__ import annotations

import re
import shutil
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

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from seqserve import artifact
from seqserve.v1 import (
    catalog_pb2,
    catalog_pb2_grpc,
    classifier_pb2_grpc,
    repository_pb2,
)
from seqserve.v1.classifier_pb2 import SERVICE_CLASS_BULK, ClassifyRequest
from seqserve_server import memory
from seqserve_server.errors import AddressUnavailable, InvalidSetting
from seqserve_server.observability.metrics import endpoint
from seqserve_server.options import Transport
from seqserve_server.processes import metrics_address
from seqserve_server.scheduling.row_store import RowStore
from seqserve_server.scheduling.scheduler import LaneScheduler
from seqserve_server.scheduling.work import ServiceClass
from seqserve_server.settings import Settings

if TYPE_CHECKING:
    from tests.server.conftest import Gate, Running, RunServer

Array = NDArray[np.float32]
MakeRequest = Callable[..., ClassifyRequest]
MakeSequences = Callable[..., list[Array]]

TIMEOUT_S = 60.0
FREE = "127.0.0.1:0"
OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"
PROMTOOL = shutil.which("promtool")
SEQSERVE = Path(sys.executable).with_name("seqserve")

OTHER_UNITS = ("milliseconds", "ms", "us", "minutes", "hours", "kib", "mib", "percent")


def _damage(versions: Path, model: str, version: int) -> None:
    path = artifact.version_path(versions, model, version) / artifact.MODEL_FILE
    path.write_bytes(path.read_bytes()[:-1])


@pytest.fixture(scope="module")
def damaged(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of `published` whose only version of `lstm` is damaged."""
    repository = shutil.copytree(published, tmp_path_factory.mktemp("damaged") / "models")
    _damage(repository, "lstm", 1)
    return repository


@pytest.fixture(scope="module")
def busy(
    run_server: RunServer, damaged: Path, make_request: MakeRequest, make_sequences: MakeSequences
) -> Iterator[Running]:
    """A server that has every metric: it has answered, refused a call, and refused a version.

    Its tests may be refused more, but nothing more runs, and no more calls are answered.
    """
    with run_server(damaged, metrics_address=FREE) as running:
        _one_good_and_one_bad(running, make_request, make_sequences)
        yield running


@pytest.fixture
def called(
    run_server: RunServer, gru_alone: Path, make_request: MakeRequest, make_sequences: MakeSequences
) -> Iterator[Running]:
    """A server of the test's own that has answered a call and refused one."""
    with run_server(gru_alone, metrics_address=FREE) as running:
        _one_good_and_one_bad(running, make_request, make_sequences)
        yield running


def _one_good_and_one_bad(
    running: Running, make_request: MakeRequest, make_sequences: MakeSequences
) -> None:
    running.classifier.Classify(make_request("gru", make_sequences(5, 30, 80)))
    running.refusal(ClassifyRequest(model_name="nobody"))


@pytest.fixture
def grown(busy: Running) -> Callable[..., float]:
    """By how much a metric of `busy` has grown in this test; read as `Running.metric`."""
    before = _samples(busy)

    def growth(name: str, **labels: str) -> float:
        then, now = (
            sum(
                sample.value
                for sample in samples
                if sample.name == name and sample.labels.items() >= labels.items()
            )
            for samples in (before, _samples(busy))
        )
        return now - then

    return growth


def _samples(running: Running) -> list[Sample]:
    families = text_string_to_metric_families(running.scraped())
    return [sample for family in families for sample in family.samples]


def test_the_metrics_keep_prometheus_conventions(busy: Running) -> None:
    text = busy.scraped()

    families = list(text_string_to_metric_families(text))
    names = [family.name for family in families]
    assert len(names) == len(set(names)) > 20
    for family in families:
        assert re.fullmatch(r"(seqserve|process)(_[a-z]+)+", family.name)
        assert family.documentation.endswith(".")
        assert not set(family.name.split("_")) & {*OTHER_UNITS, family.type}
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter")
            assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", label) for label in sample.labels)


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed")
def test_promtool_finds_nothing_wrong_with_the_metrics(busy: Running) -> None:
    checked = subprocess.run(
        [str(PROMTOOL), "check", "metrics"],
        input=busy.scraped(),
        capture_output=True,
        text=True,
        check=False,
    )

    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_the_table_in_the_docs_is_what_a_server_has(busy: Running) -> None:
    exposed = {}
    for family in text_string_to_metric_families(busy.scraped()):
        if family.name.startswith("seqserve"):
            name = family.name + "_total" * (family.type == "counter")
            labels = {label for sample in family.samples for label in sample.labels}
            exposed[name] = (family.type, tuple(sorted(labels - {"le"})))

    rows = re.findall(r"^\| `(seqserve_\w+)` \| (\w+) \| (.*?) \|", OPERATIONS.read_text(), re.M)
    documented = {
        name: (kind, tuple(sorted(re.findall(r"`(\w+)`", labels)))) for name, kind, labels in rows
    }
    assert documented == exposed


def test_calls_are_counted_by_model_method_and_status(called: Running) -> None:
    called.listed()
    with pytest.raises(grpc.RpcError):
        called.operations.ReloadRepository(repository_pb2.ReloadRepositoryRequest())

    requests = "seqserve_requests_total"
    assert called.metric(requests, model="gru", method="Classify", code="OK") == 1
    assert called.metric(requests, model="", method="Classify", code="NOT_FOUND") == 1
    assert called.metric(requests, model="", method="ListModels", code="OK") == 1
    refused = called.metric(requests, method="ReloadRepository", code="PERMISSION_DENIED")
    assert refused == 1
    assert called.metric(requests) == 4
    duration = "seqserve_request_duration_seconds"
    assert called.metric(f"{duration}_count", model="gru", method="Classify") == 1
    assert 0 < called.metric(f"{duration}_sum", model="gru", method="Classify") < TIMEOUT_S
    assert called.metric(f"{duration}_count", method="ReloadRepository") == 0


def test_what_ran_is_counted_by_model(busy: Running) -> None:
    assert busy.metric("seqserve_sequences_total", model="gru") == 3
    assert busy.metric("seqserve_useful_steps_total", model="gru") == 115
    assert busy.metric("seqserve_computed_steps_total", model="gru") >= 115
    assert busy.metric("seqserve_queue_wait_seconds_count", model="gru") == 3
    runs = busy.metric("seqserve_run_duration_seconds_count", model="gru")
    assert runs >= 1
    for name in ("seqserve_run_rows", "seqserve_run_steps"):
        assert busy.metric(f"{name}_count", model="gru") == runs
        assert busy.metric(f"{name}_bucket", model="gru", le="+Inf") == runs
    assert busy.metric("seqserve_run_rows_sum", model="gru") >= 3
    run_s = busy.metric("seqserve_run_duration_seconds_sum", model="gru")
    assert run_s == busy.metric("seqserve_lane_seconds_total", activity="run")


def test_what_cannot_be_decoded_is_counted_among_the_refusals(
    busy: Running, grown: Callable[..., float]
) -> None:
    for path in ("SequenceClassifier/Classify", "ModelCatalog/ListModels"):
        call = busy.channel.unary_unary(f"/seqserve.v1.{path}", None, None)
        busy.failure(lambda call=call: call(b"\xff", timeout=TIMEOUT_S))  # type: ignore[misc]

        method = path.rpartition("/")[2]
        requests = "seqserve_requests_total"
        assert grown(requests, method=method, code="INVALID_ARGUMENT", model="") == 1
    assert grown("seqserve_refusals_total", reason="InvalidRequest") == 2


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        pytest.param(ClassifyRequest(model_name="nobody"), "ModelNotFound", id="no model"),
        pytest.param(ClassifyRequest(model_name="../x"), "InvalidRequest", id="no name"),
        pytest.param(ClassifyRequest(model_name="gru"), "InvalidRequest", id="no sequence"),
    ],
)
def test_refusals_are_counted_by_reason(
    busy: Running, grown: Callable[..., float], request_: ClassifyRequest, reason: str
) -> None:
    busy.refusal(request_)

    assert grown("seqserve_refusals_total") == 1
    assert grown("seqserve_refusals_total", reason=reason) == 1


def test_a_full_queue_shows_its_depth_its_limit_and_its_refusals(
    run_server: RunServer,
    gru_alone: Path,
    gate: Gate,
    make_request: MakeRequest,
    make_sequences: MakeSequences,
) -> None:
    with run_server(
        gru_alone,
        open_session=gate.open_session,
        metrics_address=FREE,
        max_queue_steps=50,
        max_request_steps=50,
    ) as running:
        assert running.metric("seqserve_queue_steps") == 0
        gate.shut()
        admitted = running.classifier.Classify.future(make_request("gru", make_sequences(40)))
        gate.wait_for_a_run()
        running.refusal(make_request("gru", make_sequences(11)))

        assert running.metric("seqserve_queue_steps") == 40
        assert running.metric("seqserve_queue_limit_steps") == 50
        assert running.metric("seqserve_lanes") == running.metric("seqserve_lanes_busy") == 1
        assert running.metric("seqserve_refusals_total", model="gru", reason="QueueFull") == 1
        gate.open()
        admitted.result(TIMEOUT_S)
        assert running.metric("seqserve_queue_steps") == 0


@pytest.mark.parametrize("fate", ["cancelled", "expired"])
def test_a_call_whose_caller_goes_is_counted_once(
    run_server: RunServer,
    gru_alone: Path,
    gate: Gate,
    make_request: MakeRequest,
    make_sequences: MakeSequences,
    fate: str,
) -> None:
    codes = {"cancelled": grpc.StatusCode.CANCELLED, "expired": grpc.StatusCode.DEADLINE_EXCEEDED}
    with run_server(gru_alone, open_session=gate.open_session, metrics_address=FREE) as running:
        gate.shut()
        call = running.classifier.Classify.future(
            make_request("gru", make_sequences(5)),
            timeout=0.2 if fate == "expired" else TIMEOUT_S,
        )
        gate.wait_for_a_run()
        if fate == "cancelled":
            call.cancel()  # type: ignore[no-untyped-call]
        running.wait_for_metric("seqserve_requests_total", 1)
        gate.open()
        running.classifier.Classify(make_request("gru", make_sequences(5)))

        requests = "seqserve_requests_total"
        assert running.metric(requests, model="gru", code=codes[fate].name) == 1
        assert running.metric(requests, model="gru", code="OK") == 1
        assert running.metric(requests) == 2


def test_a_name_that_a_caller_made_up_is_never_a_label(
    busy: Running, grown: Callable[..., float]
) -> None:
    for number in range(50):
        busy.refusal(ClassifyRequest(model_name=f"made-up-{number}"))

    assert "made-up" not in busy.scraped()
    assert grown("seqserve_requests_total", model="", code="NOT_FOUND") == 50


def test_a_version_is_described_with_its_digest_its_provider_and_its_golden_set(
    busy: Running, damaged: Path
) -> None:
    digest = artifact.digest(artifact.version_path(damaged, "gru", 3))
    assert (
        busy.metric(
            "seqserve_model_info",
            model="gru",
            version="3",
            digest=digest,
            execution_provider="CPUExecutionProvider",
            state="ready",
            golden_set="held",
        )
        == 1
    )
    assert busy.metric("seqserve_model_ready", model="gru", version="3") == 1
    assert 0 < busy.metric("seqserve_model_golden_max_difference", model="gru") < 1e-5


def test_a_version_that_is_refused_is_counted_with_the_reason_and_the_old_one_stays(
    run_server: RunServer, versions: Path
) -> None:
    with run_server(versions, metrics_address=FREE, operator=True) as running:
        shutil.copytree(versions / "gru" / "3", versions / "gru" / "4")
        _damage(versions, "gru", 4)
        running.operations.ReloadRepository(repository_pb2.ReloadRepositoryRequest())

        refusals = "seqserve_model_refusals_total"
        assert running.metric(refusals, model="gru", reason="InvalidArtifact") == 1
        assert running.metric("seqserve_model_ready", model="gru", version="4") == 0
        assert running.metric("seqserve_model_ready", model="gru", version="3") == 1
        assert running.metric("seqserve_model_info", version="4", state="failed") == 1
        assert running.metric("seqserve_repository_reloads_total", result="done") == 2
        assert running.metric("seqserve_model_loads_total", model="gru") == 1


def test_a_lane_that_dies_is_counted(
    run_server: RunServer,
    gru_alone: Path,
    monkeypatch: pytest.MonkeyPatch,
    make_sequences: MakeSequences,
) -> None:
    def die(*_: object) -> None:
        raise SystemExit

    with run_server(gru_alone, metrics_address=FREE) as running:
        with monkeypatch.context() as broken:
            broken.setattr(RowStore, "feeds", die)
            running.failure(lambda: running.classify("gru", make_sequences(5)))
        running.classify("gru", make_sequences(5))

        assert running.metric("seqserve_lane_deaths_total") == 1
        assert running.metric("seqserve_lanes") == 1
        assert running.metric("seqserve_requests_total", model="gru", code="INTERNAL") == 1
        assert running.metric("seqserve_refusals_total") == 0


def test_the_wait_of_bulk_work_is_not_counted_as_that_of_calls_that_somebody_waits_for(
    called: Running, make_request: MakeRequest, make_sequences: MakeSequences
) -> None:
    request = make_request("gru", make_sequences(5, 7))
    request.service_class = SERVICE_CLASS_BULK
    called.classifier.Classify(request)

    waits = "seqserve_queue_wait_seconds_count"
    counts = [called.metric(waits, service_class=each) for each in ("interactive", "bulk")]
    assert counts == [3, 2]


def test_admission_tells_its_caution_by_service_class(busy: Running) -> None:
    """Nothing has come late yet."""
    caution = "seqserve_admission_caution_ratio"
    told = [busy.metric(caution, service_class=each.name.lower()) for each in ServiceClass]

    assert told == [1.5, 1.5]


def test_a_server_without_a_ready_model_does_not_say_that_it_serves(
    run_server: RunServer, versions: Path
) -> None:
    with run_server(versions, metrics_address=FREE, operator=True) as running:
        assert running.metric("seqserve_serving") == 1
        for model in ("gru", "lstm"):
            shutil.rmtree(versions / model)
        running.operations.ReloadRepository(repository_pb2.ReloadRepositoryRequest())

        assert running.health() == "NOT_SERVING"
        assert running.metric("seqserve_serving") == 0


def test_the_counters_of_a_model_go_on_when_its_version_changes(
    run_server: RunServer,
    versions: Path,
    make_sequences: MakeSequences,
    publish_as: Callable[[Path, Path, int], None],
) -> None:
    with run_server(versions, metrics_address=FREE, operator=True) as running:
        running.classify("gru", make_sequences(7))
        publish_as(versions / "gru", versions, 4)
        running.operations.ReloadRepository(repository_pb2.ReloadRepositoryRequest())
        response = running.classify("gru", make_sequences(8))

        assert response.model_version == 4
        assert running.metric("seqserve_useful_steps_total", model="gru") == 15
        assert running.metric("seqserve_model_loads_total", model="gru") == 2


def test_a_model_that_the_repository_has_no_more_is_no_label_any_more(
    run_server: RunServer, versions: Path, make_sequences: MakeSequences
) -> None:
    with run_server(versions, metrics_address=FREE, operator=True) as running:
        running.classify("lstm", make_sequences(7))
        assert running.metric("seqserve_useful_steps_total", model="lstm") == 7
        assert running.metric("seqserve_useful_steps_total", model="gru") == 0
        shutil.rmtree(versions / "lstm")
        running.operations.ReloadRepository(repository_pb2.ReloadRepositoryRequest())

        assert 'model="lstm"' not in running.scraped()
        assert 'model="gru"' in running.scraped()


@contextmanager
def _http(running: Running) -> Iterator[HTTPConnection]:
    connection = HTTPConnection(running.server.metrics_address, timeout=TIMEOUT_S)
    try:
        yield connection
    finally:
        connection.close()


@pytest.mark.parametrize("path", ["/", "/metrics/", "/debug/pprof", "/favicon.ico", "/../metrics"])
def test_there_is_nothing_but_the_metrics(busy: Running, path: str) -> None:
    with _http(busy) as connection:
        connection.request("GET", path)
        assert connection.getresponse().status == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_the_metrics_can_only_be_read(busy: Running, method: str) -> None:
    with _http(busy) as connection:
        connection.request(method, "/metrics")
        assert connection.getresponse().status == 405


def test_a_peer_that_says_nothing_keeps_no_other_waiting(busy: Running) -> None:
    host, port = busy.server.metrics_address.split(":")
    with ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(socket.create_connection((host, int(port))))

        assert busy.metric("seqserve_sequences_total") == 3


def test_peers_that_say_a_byte_now_and_then_do_not_shut_prometheus_out(
    busy: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as there may be at a time, none of them ever silent for long."""
    monkeypatch.setattr(endpoint, "_PATIENCE_S", 0.5)
    host, port = busy.server.metrics_address.split(":")
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
        assert busy.metric("seqserve_sequences_total") == 3


@pytest.mark.parametrize("query", ["name[]=x", "name%5B%5D=up", "x=1", "?"])
def test_a_query_changes_nothing(busy: Running, query: str) -> None:
    with _http(busy) as connection:
        connection.request("GET", f"/metrics?{query}")
        answer = connection.getresponse()

        assert answer.status == 200
        assert b"seqserve_sequences_total" in answer.read()


def test_metrics_that_cannot_be_read_are_told_to_the_log_and_to_nobody_else(
    busy: Running,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("a secret of the house")

    monkeypatch.setattr(LaneScheduler, "stats_by_model", fail)
    with _http(busy) as connection:
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


def test_a_call_without_a_token_is_counted_among_the_refusals(
    run_server: RunServer, gru_alone: Path
) -> None:
    with run_server(gru_alone, metrics_address=FREE, operator=True) as running:
        with grpc.insecure_channel(running.server.address) as channel:
            classifier = classifier_pb2_grpc.SequenceClassifierStub(channel)
            running.failure(lambda: classifier.Classify(ClassifyRequest(), timeout=TIMEOUT_S))
            catalog = catalog_pb2_grpc.ModelCatalogStub(channel)
            request = catalog_pb2.ListModelsRequest()
            running.failure(lambda: catalog.ListModels(request, timeout=TIMEOUT_S))

        assert running.metric("seqserve_refusals_total", reason="Unauthenticated") == 2
        for method in ("Classify", "ListModels"):
            requests = running.metric("seqserve_requests_total", method=method)
            assert requests == 1
