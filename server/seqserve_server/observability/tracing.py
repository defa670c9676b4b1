"""Whether calls are traced, and which trace this is: without the libraries where they are not."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from seqserve_server.errors import InvalidSetting

if TYPE_CHECKING:
    from seqserve_server.observability.spans import Spans


def prepare(endpoint: str) -> Spans:
    """What makes spans and, once started, sends them.

    Args:
        endpoint: URL of an OTLP collector, as `http://127.0.0.1:4317`.

    Raises:
        InvalidSetting: it is no URL, or the libraries are not installed.
    """
    try:
        from seqserve_server.observability.spans import Spans
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("opentelemetry"):
            raise
        raise InvalidSetting(
            "--otlp-endpoint: OpenTelemetry is not installed. It comes with: "
            "pip install 'seqserve[otel]'"
        ) from error
    if not endpoint.startswith(("http://", "https://")):
        raise InvalidSetting(
            f"--otlp-endpoint {endpoint}: a URL is needed, as http://127.0.0.1:4317, or https:// "
            "for TLS"
        )
    return Spans(endpoint)


def current_trace_id() -> str:
    """The trace that the code which calls this runs for, 32 hexadecimal digits; empty for none."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:  # nobody traces
        return ""
    context = trace.get_current_span().get_span_context()
    return format(context.trace_id, "032x") if context.is_valid else ""
