"""The spans of calls, and of what the lanes do for them, sent by OTLP.

Under a call's SERVER span, of each part of it: `queue`, from its admission to the preparation of
its first turn; `run`, from there to the border after its last; `settle`, in which the answer is
made and told. They are made when all is over, of times that were noted.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import grpc
from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.grpc import aio_server_interceptor, filters
from opentelemetry.propagators.textmap import CarrierT, Getter, default_getter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from seqserve_server import cores
from seqserve_server.scheduling.work import Leave, Outcome, Scheduler, Timeline, Work
from seqserve_server.security.access import Metadata
from seqserve_server.status import left

_CLOSE_S = 3.0
"""For what has not been sent yet: a collector that is gone must not keep a server from stopping."""

_TRACEPARENT = "traceparent"
_LONGEST_PARENT = 512
"""Of a longer one OpenTelemetry writes a log line too."""

_STATUS_CODE = "rpc.grpc.status_code"

_FAULTS = {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
"""What is an error of a server, by OpenTelemetry's conventions for gRPC."""


class ParentAlone(TraceContextTextMapPropagator):
    """Takes `traceparent`, and no other header.

    Of what is malformed in `tracestate` and `baggage` OpenTelemetry writes log lines, with the
    words of a caller whom nobody has let in yet.
    """

    def extract(
        self,
        carrier: CarrierT,
        context: Context | None = None,
        getter: Getter[CarrierT] = default_getter,
    ) -> Context:
        """As inherited."""
        parent = next(iter(getter.get(carrier, _TRACEPARENT) or ()), "")
        if len(parent) > _LONGEST_PARENT:
            parent = ""
        return super().extract({_TRACEPARENT: parent}, context)


_PARENT_ALONE = ParentAlone()


class Spans:
    """Makes spans, and sends them.

    The standard variables of OpenTelemetry hold: OTEL_TRACES_SAMPLER, OTEL_SERVICE_NAME,
    OTEL_RESOURCE_ATTRIBUTES, OTEL_BSP_…, OTEL_EXPORTER_OTLP_…. What a caller sends is read by W3C's
    trace context alone, whatever OTEL_PROPAGATORS says.

    Args:
        endpoint: URL of an OTLP collector.
    """

    def __init__(self, endpoint: str) -> None:
        named: dict[str, str | int] = {
            "service.name": os.environ.get("OTEL_SERVICE_NAME", "seqserve"),
            "service.version": version("seqserve"),
            "process.pid": os.getpid(),
        }
        self._endpoint = endpoint
        self._exporter: OTLPSpanExporter | None = None
        self._provider = TracerProvider(resource=Resource.create(named), shutdown_on_exit=False)
        self._tracer = self._provider.get_tracer("seqserve_server", version("seqserve"))

    def start(self) -> None:
        """Sends them from now on, in a thread of its own."""
        if self._exporter is None:
            self._exporter = OTLPSpanExporter(endpoint=self._endpoint)
            with cores.patient_threads():
                self._provider.add_span_processor(BatchSpanProcessor(self._exporter))

    def interceptor(self) -> grpc.aio.ServerInterceptor[Any, Any]:
        """Makes the spans of calls to a grpcio server, probes left out.

        From now on this process reads headers of traces as `ParentAlone` does: the official
        interceptor asks OpenTelemetry's global propagator and takes no other.
        """
        propagate.set_global_textmap(_PARENT_ALONE)
        made: grpc.aio.ServerInterceptor[Any, Any] = aio_server_interceptor(  # type: ignore[no-untyped-call]
            self._provider, filters.negate(filters.health_check())
        )
        return made

    def call(self, path: str, metadata: Metadata) -> CallSpan | None:
        """The span of a call that another transport takes, under its caller's if it has one.

        None where it is not sampled.

        Args:
            path: `/package.Service/Method`.
            metadata: Of the call.
        """
        service, method = path.lstrip("/").split("/", 1)
        span = self._tracer.start_span(
            path,
            _PARENT_ALONE.extract(dict(metadata)),
            SpanKind.SERVER,
            {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method},
        )
        return CallSpan(span) if span.is_recording() else None

    def scheduler(self, scheduler: Scheduler) -> Scheduler:
        """A scheduler that makes spans of what another does."""
        return _TracedScheduler(scheduler, self._tracer)

    def close(self) -> None:
        """Sends what has not been sent yet, if that does not take long."""
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(_CLOSE_S)
        if closing.is_alive() and self._exporter is not None:
            self._exporter.shutdown()  # it tries again and again, and waits in between


class CallSpan:
    """The span of a call."""

    def __init__(self, span: Span) -> None:
        self._span = span

    def current(self) -> AbstractContextManager[Any]:
        """Makes it that of the code which runs."""
        return trace.use_span(self._span, record_exception=False, set_status_on_exception=False)

    def end(self, code: str) -> None:
        """Ends it with the call's status, as `OK`."""
        self._span.set_attribute(_STATUS_CODE, grpc.StatusCode[code].value[0])
        if code in _FAULTS:
            self._span.set_status(StatusCode.ERROR, code)
        self._span.end()


class _TracedScheduler:
    def __init__(self, scheduler: Scheduler, tracer: trace.Tracer) -> None:
        self._scheduler = scheduler
        self._tracer = tracer
        self.start = scheduler.start
        self.check = scheduler.check
        self.wait_until_idle = scheduler.wait_until_idle
        self.close = scheduler.close

    def submit(self, work: Work, tell: Callable[[Outcome], None]) -> Leave:
        """As `Scheduler.submit`."""
        return self.submit_all((work,), (tell,))

    def submit_all(
        self, works: Sequence[Work], tells: Sequence[Callable[[Outcome], None]]
    ) -> Leave:
        """As `Scheduler.submit_all`."""
        call = trace.get_current_span()
        if not call.is_recording():  # not sampled
            return self._scheduler.submit_all(works, tells)
        traced = [_Part(self._tracer, call, work) for work in works]
        leave = self._scheduler.submit_all(
            [
                replace(work, timeline=part.timeline)
                for work, part in zip(works, traced, strict=True)
            ],
            [part.told(tell) for part, tell in zip(traced, tells, strict=True)],
        )

        def leave_traced() -> None:
            leave()
            # The official interceptor does not know it of a call that is cancelled.
            code = left(works[0].deadline - time.monotonic())
            call.set_attribute(_STATUS_CODE, code.value[0])

        return leave_traced


class _Part:
    """Work of a call that is traced."""

    def __init__(self, tracer: trace.Tracer, call: Span, work: Work) -> None:
        self.timeline = Timeline()
        self._tracer = tracer
        self._parent = trace.set_span_in_context(call)
        self._arrived_s = time.monotonic()
        self._attributes: Mapping[str, str | int] = {
            "seqserve.model": work.runner.model,
            "seqserve.version": work.runner.version,
            "seqserve.sequences": len(work.rows),
            "seqserve.steps": work.rows.steps,
        }
        _add(call, self._attributes)

    def told(self, tell: Callable[[Outcome], None]) -> Callable[[Outcome], None]:
        """Tells it on, and makes the spans."""

        def tell_traced(outcome: Outcome) -> None:
            now_s, ran = time.monotonic(), self.timeline.ran
            failure = type(outcome).__name__ if isinstance(outcome, Exception) else ""
            began_s = self.timeline.began_s if ran else now_s
            self._span("queue", self._arrived_s, began_s, "" if ran else failure)
            if ran:
                self._span("run", began_s, self.timeline.ended_s, failure)
            with self._tracer.start_as_current_span(
                "settle", self._parent, attributes=self._attributes
            ):
                tell(outcome)

        return tell_traced

    def _span(self, name: str, began_s: float, ended_s: float, failure: str) -> None:
        """One that is over already; the times are on the monotonic clock."""
        epoch_ns = time.time_ns() - time.monotonic_ns()
        span = self._tracer.start_span(
            name,
            self._parent,
            attributes=self._attributes,
            start_time=epoch_ns + int(1e9 * began_s),
        )
        if failure:
            span.set_status(Status(StatusCode.ERROR, failure))
        span.end(epoch_ns + int(1e9 * ended_s))


def _add(call: Span, attributes: Mapping[str, str | int]) -> None:
    """To the call's own: the numbers of its parts add up."""
    before = call.attributes if isinstance(call, ReadableSpan) else None
    for name in ("seqserve.sequences", "seqserve.steps"):
        known = (before or {}).get(name, 0)
        assert isinstance(known, int)
        number = attributes[name]
        assert isinstance(number, int)
        call.set_attribute(name, known + number)
    call.set_attributes({name: attributes[name] for name in ("seqserve.model", "seqserve.version")})
