"""Spans of real calls, as a real OTLP collector receives them."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from seqserve.v1 import classifier_pb2_grpc
from seqserve.v1.classifier_pb2 import ClassifyRequest
from seqserve_server.errors import InvalidSetting
from seqserve_server.models.sessions import Session, opener
from seqserve_server.observability import request_log, tracing
from seqserve_server.observability.tracing import current_trace_id
from seqserve_server.options import ExecutionProvider

if TYPE_CHECKING:
    from tests.server.conftest import Gate, RunServer

Array = NDArray[np.float32]
MakeRequest = Callable[..., ClassifyRequest]
MakeSequences = Callable[..., list[Array]]

TIMEOUT_S = 60.0
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SERVER, INTERNAL = Span.SPAN_KIND_SERVER, Span.SPAN_KIND_INTERNAL
CLASSIFY = "/seqserve.v1.SequenceClassifier/Classify"


@dataclass
class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps what it is sent."""

    endpoint: str = ""
    exports: list[trace_service_pb2.ExportTraceServiceRequest] = field(default_factory=list)

    def Export(  # noqa: N802
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        self.exports.append(request)
        return trace_service_pb2.ExportTraceServiceResponse()

    @property
    def resource(self) -> dict[str, Any]:
        [resource] = self.exports[0].resource_spans
        return _values(resource.resource.attributes)

    @property
    def spans(self) -> list[Span]:
        """In the order of their begin."""
        spans = [
            span
            for export in self.exports
            for resource in export.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]
        return sorted(spans, key=lambda span: (span.start_time_unix_nano, span.end_time_unix_nano))

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]

    @property
    def call(self) -> Span:
        """That of the one call."""
        [span] = [span for span in self.spans if span.kind == SERVER]
        return span


@pytest.fixture
def collector() -> Iterator[Collector]:
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    collector = Collector(f"http://127.0.0.1:{port}")
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
    server.start()
    yield collector
    server.stop(None).wait()


def _values(attributes: Sequence[KeyValue]) -> dict[str, Any]:
    return {
        each.key: getattr(each.value, str(each.value.WhichOneof("value"))) for each in attributes
    }


def test_a_call_is_a_span_with_its_queue_its_run_and_its_settling_under_it(
    run_server: RunServer,
    gru_alone: Path,
    collector: Collector,
    make_request: MakeRequest,
    make_sequences: MakeSequences,
) -> None:
    with run_server(gru_alone, otlp_endpoint=collector.endpoint) as running:
        running.classifier.Classify(make_request("gru", make_sequences(5, 30, 80)))

    work = {
        "seqserve.model": "gru",
        "seqserve.version": 1,
        "seqserve.sequences": 3,
        "seqserve.steps": 115,
    }
    call, queue, run, settle = collector.spans
    assert [call.name, queue.name, run.name, settle.name] == [CLASSIFY, "queue", "run", "settle"]
    assert (call.kind, call.parent_span_id) == (SERVER, b"")
    attributes = _values(call.attributes)
    assert (
        attributes.items()
        >= {
            "rpc.system": "grpc",
            "rpc.service": "seqserve.v1.SequenceClassifier",
            "rpc.method": "Classify",
            "rpc.grpc.status_code": 0,
            **work,
        }.items()
    )
    for span in (queue, run, settle):
        assert span.kind == INTERNAL
        assert (span.trace_id, span.parent_span_id) == (call.trace_id, call.span_id)
        assert _values(span.attributes) == work
        assert span.status.code == Status.STATUS_CODE_UNSET
    assert call.start_time_unix_nano <= queue.start_time_unix_nano
    slack_ns = 50_000  # two clocks are read one after the other
    for before, after in ((queue, run), (run, settle)):
        assert before.start_time_unix_nano <= before.end_time_unix_nano
        assert before.end_time_unix_nano <= after.start_time_unix_nano + slack_ns
    assert run.end_time_unix_nano <= call.end_time_unix_nano + slack_ns
    assert (
        collector.resource.items()
        >= {"service.name": "seqserve", "process.pid": os.getpid()}.items()
    )


def test_a_call_continues_the_trace_of_its_caller(
    run_server: RunServer,
    gru_alone: Path,
    collector: Collector,
    make_request: MakeRequest,
    make_sequences: MakeSequences,
) -> None:
    with run_server(gru_alone, otlp_endpoint=collector.endpoint) as running:
        running.classifier.Classify(
            make_request("gru", make_sequences(5)),
            metadata=(("traceparent", f"00-{TRACE}-{PARENT}-01"),),
        )

    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}
    assert collector.call.parent_span_id.hex() == PARENT


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("baggage", "words of a stranger"),
        ("baggage", "a=%zz;,,"),
        ("tracestate", "words of a stranger"),
        ("tracestate", "a=1,a=2"),
        ("traceparent", "words of a stranger" * 40),
    ],
)
def test_headers_of_traces_that_are_malformed_write_no_line(
    run_server: RunServer,
    gru_alone: Path,
    collector: Collector,
    make_request: MakeRequest,
    make_sequences: MakeSequences,
    caplog: pytest.LogCaptureFixture,
    header: str,
    value: str,
) -> None:
    with run_server(gru_alone, otlp_endpoint=collector.endpoint) as running:
        caplog.clear()
        running.classifier.Classify(
            make_request("gru", make_sequences(5)),
            metadata=(("traceparent", f"00-{TRACE}-{PARENT}-01"), (header, value))[
                header == "traceparent" :
            ],
        )
        running.listed()  # by grpcio on either transport

        assert not [each for each in caplog.records if each.name.startswith("opentelemetry")]
    traces = {span.trace_id.hex() for span in collector.named(CLASSIFY)}
    assert (traces == {TRACE}) is (header != "traceparent")


@pytest.mark.parametrize("sampler", ["caller", "always_off"])
def test_what_is_not_sampled_has_no_span(
    run_server: RunServer,
    gru_alone: Path,
    collector: Collector,
    make_request: MakeRequest,
    make_sequences: MakeSequences,
    monkeypatch: pytest.MonkeyPatch,
    sampler: str,
) -> None:
    metadata: tuple[tuple[str, str], ...] = ()
    if sampler == "caller":
        metadata = (("traceparent", f"00-{TRACE}-{PARENT}-00"),)
    else:
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    with run_server(gru_alone, otlp_endpoint=collector.endpoint) as running:
        running.classifier.Classify(make_request("gru", make_sequences(5)), metadata=metadata)

    assert collector.spans == []


def test_each_part_of_a_large_call_has_spans_of_its_own(
    run_server: RunServer,
    gru_alone: Path,
    collector: Collector,
    make_request: MakeRequest,
    make_sequences: MakeSequences,
) -> None:
    with run_server(gru_alone, otlp_endpoint=collector.endpoint) as running:
        running.classifier.Classify(make_request("gru", make_sequences(*[3] * 600)))

    for name in ("queue", "run", "settle"):
        sizes = [_values(span.attributes)["seqserve.sequences"] for span in collector.named(name)]
        assert sorted(sizes) == [88, 256, 256]
    attributes = _values(collector.call.attributes)
    assert (attributes["seqserve.sequences"], attributes["seqserve.steps"]) == (600, 1800)


def test_a_call_that_is_refused_has_its_status_and_no_fault_of_the_server(
    run_server: RunServer, gru_alone: Path, collector: Collector
) -> None:
    with run_server(gru_alone, otlp_endpoint=collector.endpoint) as running:
        running.refusal(ClassifyRequest(model_name="nobody"))

    [span] = collector.spans
    assert _values(span.attributes)["rpc.grpc.status_code"] == grpc.StatusCode.NOT_FOUND.value[0]
    assert span.status.code == Status.STATUS_CODE_UNSET


@pytest.mark.parametrize("fate", ["cancelled", "expired"])
def test_a_call_whose_caller_goes_has_the_status_that_says_so(
    run_server: RunServer,
    gru_alone: Path,
    collector: Collector,
    make_request: MakeRequest,
    make_sequences: MakeSequences,
    gate: Gate,
    fate: str,
) -> None:
    code = {"cancelled": grpc.StatusCode.CANCELLED, "expired": grpc.StatusCode.DEADLINE_EXCEEDED}[
        fate
    ]
    with run_server(
        gru_alone,
        otlp_endpoint=collector.endpoint,
        metrics_address="127.0.0.1:0",
        open_session=gate.open_session,
    ) as running:
        gate.shut()
        timeout_s = 0.2 if fate == "expired" else TIMEOUT_S
        call = running.classifier.Classify.future(
            make_request("gru", make_sequences(5)), timeout=timeout_s
        )
        gate.wait_for_a_run()
        if fate == "cancelled":
            call.cancel()  # type: ignore[no-untyped-call]
        running.wait_for_metric("seqserve_requests_total", 1, code=code.name)
        gate.open()

    assert _values(collector.call.attributes)["rpc.grpc.status_code"] == code.value[0]


def test_a_call_without_a_token_has_a_span_and_is_refused_as_without_traces(
    run_server: RunServer, gru_alone: Path, collector: Collector
) -> None:
    with (
        run_server(gru_alone, otlp_endpoint=collector.endpoint, operator=True) as running,
        grpc.insecure_channel(running.server.address) as channel,
    ):
        stub = classifier_pb2_grpc.SequenceClassifierStub(channel)
        refusal = running.failure(lambda: stub.Classify(ClassifyRequest(), timeout=TIMEOUT_S))

    assert refusal.code is grpc.StatusCode.UNAUTHENTICATED
    assert _values(collector.call.attributes)["rpc.grpc.status_code"] == refusal.code.value[0]


class _Broken:
    """Opens sessions whose runs fail once it is broken."""

    def __init__(self) -> None:
        self.broken = False

    def open_session(self, model: bytes) -> Session:
        session = opener(ExecutionProvider.CPU)(model)
        run = session.run

        def run_or_fail(*feeds: Any) -> Any:  # noqa: ANN401
            if self.broken:
                raise RuntimeError("broken")
            return run(*feeds)

        return cast(
            "Session", SimpleNamespace(run=run_or_fail, get_providers=session.get_providers)
        )


def test_a_run_that_fails_is_the_span_with_the_error(
    run_server: RunServer,
    gru_alone: Path,
    collector: Collector,
    make_request: MakeRequest,
    make_sequences: MakeSequences,
) -> None:
    sessions = _Broken()
    with run_server(
        gru_alone, otlp_endpoint=collector.endpoint, open_session=sessions.open_session
    ) as running:
        sessions.broken = True
        running.refusal(make_request("gru", make_sequences(5)))

    assert _values(collector.call.attributes)["rpc.grpc.status_code"] == 13
    failed = {span.name for span in collector.spans if span.status.code == Status.STATUS_CODE_ERROR}
    assert failed == {CLASSIFY, "run"}
    assert [span.status.message for span in collector.named("run")] == ["RuntimeError"]


def test_probes_have_no_spans(run_server: RunServer, gru_alone: Path, collector: Collector) -> None:
    with run_server(gru_alone, otlp_endpoint=collector.endpoint) as running:
        running.health()
        running.listed()

    [span] = collector.spans
    assert span.name == "/seqserve.v1.ModelCatalog/ListModels"


class _Traces(logging.Handler):
    """Notes the traces that each logger's lines are of."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: dict[str, set[str]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        self.noted.setdefault(record.name, set()).add(current_trace_id())


@pytest.mark.parametrize("ends", ["answered", "refused"])
def test_log_lines_of_a_call_know_its_trace(
    run_server: RunServer,
    gru_alone: Path,
    collector: Collector,
    make_request: MakeRequest,
    make_sequences: MakeSequences,
    caplog: pytest.LogCaptureFixture,
    ends: str,
) -> None:
    handler = _Traces()
    logger = logging.getLogger("seqserve_server")
    with caplog.at_level("DEBUG", "seqserve_server"):
        logger.addHandler(handler)
        try:
            with run_server(gru_alone, otlp_endpoint=collector.endpoint) as running:
                if ends == "answered":
                    running.classifier.Classify(make_request("gru", make_sequences(5)))
                else:
                    running.refusal(ClassifyRequest(model_name="nobody"))
        finally:
            logger.removeHandler(handler)

    assert handler.noted[request_log.__name__] == {collector.call.trace_id.hex()}
    assert current_trace_id() == ""


def test_a_collector_that_is_gone_keeps_no_call_and_no_stop_waiting_for_it(
    run_server: RunServer, gru_alone: Path, make_request: MakeRequest, make_sequences: MakeSequences
) -> None:
    before = set(threading.enumerate())
    with run_server(gru_alone, otlp_endpoint="http://127.0.0.1:9") as running:
        response = running.classifier.Classify(make_request("gru", make_sequences(5)))

    assert len(response.answers.classes) + len(response.answers.probabilities) > 0
    left = set(threading.enumerate()) - before
    assert not [each for each in left if each.name.startswith("seqserve-lane")]


def test_nothing_of_opentelemetry_is_imported_without_an_endpoint(gru_alone: Path) -> None:
    script = f"""
import asyncio, sys
from pathlib import Path
from seqserve_server.serving import Server
from seqserve_server.settings import Settings
from seqserve_server.observability.tracing import current_trace_id

async def serve():
    async with Server(Settings(Path({str(gru_alone)!r}), address="127.0.0.1:0")):
        assert current_trace_id() == ""

asyncio.run(serve())
print([name for name in sys.modules if name.startswith("opentelemetry")])
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=True,
    )

    assert done.stdout == "[]\n"


def test_where_the_libraries_are_missing_it_says_what_brings_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    monkeypatch.delitem(sys.modules, "seqserve_server.observability.spans", raising=False)

    with pytest.raises(InvalidSetting, match=r"pip install 'seqserve\[otel\]'"):
        tracing.prepare("http://127.0.0.1:4317")


def test_an_endpoint_that_is_no_url_is_refused() -> None:
    with pytest.raises(InvalidSetting, match="a URL is needed"):
        tracing.prepare("127.0.0.1:4317")
