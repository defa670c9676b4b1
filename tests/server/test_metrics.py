"""What Prometheus reads from a real server, and what is in it after real calls."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
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
from seqserve_server.scheduling.row_store import RowStore
from seqserve_server.scheduling.work import ServiceClass

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
