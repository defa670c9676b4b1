"""Log lines for people and for machines, and the line of a request."""

from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from seqserve.v1.catalog_pb2 import ListModelsRequest
from seqserve.v1.catalog_pb2_grpc import ModelCatalogStub
from seqserve.v1.classifier_pb2 import ClassifyRequest
from seqserve.v1.classifier_pb2_grpc import SequenceClassifierStub
from seqserve_server.observability import logs, request_log
from seqserve_server.options import LogFormat, Transport
from seqserve_server.security import access
from seqserve_server.security.access import Grant, Right

TIMEOUT_S = 60.0
SEQSERVE = [sys.executable, "-m", "seqserve_client"]

MakeRequest = Callable[..., ClassifyRequest]
MakeSequences = Callable[..., Any]
Lines = Callable[[], list[str]]


@contextmanager
def _logger(form: LogFormat, process: int = 0) -> Iterator[tuple[logging.Logger, Lines]]:
    """A logger of its own, and what it has written."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.formatter(form, process))
    logger = logging.Logger("a.library", logging.DEBUG)
    logger.addHandler(handler)
    yield logger, lambda: stream.getvalue().splitlines()


def _fail_with_a_secret() -> None:
    token = "a secret token"  # noqa: F841 - a traceback with local variables would show it
    raise RuntimeError("no such luck")


def test_a_line_for_people_is_time_level_words_and_what_else_is_known() -> None:
    with _logger(LogFormat.CONSOLE) as (logger, lines):
        logger.info("ready in %.2f s: %s", 1, "gru 1", extra={"model": "gru", "text": "a b=c"})

    [line] = lines()
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6} INFO ready in 1\.00 s: gru 1 "
        r"model=gru text='a b=c'",
        line,
    )


def test_a_line_for_machines_is_an_object() -> None:
    with _logger(LogFormat.JSON, process=2) as (logger, lines):
        logger.warning("a %s", "line\nof two", extra={"request_id": "7", "ms": 1.5})

    [line] = lines()
    found = json.loads(line)
    assert found.pop("timestamp").endswith("Z")
    assert found == {
        "process": 2,
        "event": "a line\nof two",
        "level": "warning",
        "logger": "a.library",
        "request_id": "7",
        "ms": 1.5,
    }


def test_one_of_several_processes_names_itself() -> None:
    with _logger(LogFormat.CONSOLE, process=3) as (logger, lines):
        logger.error("words")

    assert lines()[0].endswith(" ERROR process 3: words")


def test_nobody_can_begin_a_line_of_their_own() -> None:
    with _logger(LogFormat.CONSOLE) as (logger, lines):
        logger.info("no model %s", "x\n2026-01-01 ERROR forged\r\x1b[31m", extra={"id": "y\nz"})

    [line] = lines()
    assert r"x\n2026-01-01 ERROR forged\r\x1b[31m" in line
    assert r"id=y\nz" in line


def test_a_line_of_a_traced_call_names_its_trace() -> None:
    trace = pytest.importorskip("opentelemetry.sdk.trace")
    tracer = trace.TracerProvider().get_tracer("test")
    with _logger(LogFormat.JSON) as (logger, lines):
        with tracer.start_as_current_span("a call") as span:
            logger.info("within")
        logger.info("without")

    within, without = map(json.loads, lines())
    assert within["trace_id"] == format(span.get_span_context().trace_id, "032x")
    assert "trace_id" not in without


@pytest.mark.parametrize("form", LogFormat)
def test_a_traceback_is_shown_without_its_local_variables(form: LogFormat) -> None:
    with _logger(form) as (logger, lines):
        try:
            _fail_with_a_secret()
        except RuntimeError:
            logger.exception("unforeseen")

    text = "\n".join(lines())
    assert "RuntimeError: no such luck" in text
    assert "_fail_with_a_secret" in text
    assert "a secret token" not in text
    assert (len(lines()) == 1) == (form is LogFormat.JSON)


def test_a_switched_off_line_of_a_request_is_not_even_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = logging.getLogger(request_log.__name__)
    monkeypatch.setattr(log, "level", logging.INFO)
    log.manager._clear_cache()  # type: ignore[attr-defined]

    assert not request_log.wanted()


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("order 66 / ~!", True),
        ("x" * 128, True),
        ("x" * 129, False),
        ("", False),
        ("tab\t", False),
        ("größe", False),
        (b"bytes", False),
    ],
    ids=["printable", "the longest", "too long", "empty", "a tab", "no ASCII", "binary"],
)
def test_a_callers_request_id_is_taken_where_it_is_fit_to_be_shown(
    given: str | bytes, taken: bool
) -> None:
    found = request_log.request_id([("user-agent", "x"), ("x-request-id", given)])

    assert (found == given) is taken
    assert taken or re.fullmatch("[0-9a-f]{16}", found)


@contextmanager
def _serving(models: Path, *options: str) -> Iterator[tuple[str, Callable[[], list[str]]]]:
    """The address of a server, and what it has said once it has ended."""
    with subprocess.Popen(
        [
            *(*SEQSERVE, "serve", str(models), "--address", "127.0.0.1:0"),
            *("--metrics-address", "off", "--lanes", "1", *options),
        ],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            said = []
            for line in process.stderr:
                said.append(line)
                if "ready in " in line:
                    break
            listening = re.search(r"listening on (127\.0\.0\.1:\d+)", "".join(said))
            assert listening, said

            def end() -> list[str]:
                process.terminate()
                assert process.stderr is not None
                rest = process.stderr.read().splitlines()
                assert process.wait(TIMEOUT_S) == 0
                return [line.rstrip("\n") for line in said] + rest

            yield listening[1], end
        finally:
            process.kill()


def _call(
    address: str, make_request: MakeRequest, make_sequences: MakeSequences, request_id: str
) -> grpc.StatusCode:
    """Classifies well, asks for a model that there is not, and lists all."""
    with grpc.insecure_channel(address) as channel:
        classify = SequenceClassifierStub(channel).Classify
        named = (("x-request-id", request_id),)
        classify(make_request("gru", make_sequences(4, 9)), timeout=TIMEOUT_S, metadata=named)
        with pytest.raises(grpc.RpcError) as refused:
            classify(make_request("none", make_sequences(4)), timeout=TIMEOUT_S)
        ModelCatalogStub(channel).ListModels(ListModelsRequest(), timeout=TIMEOUT_S)
    code: grpc.StatusCode = refused.value.code()
    return code


def test_at_debug_every_request_has_one_line(
    gru_alone: Path, transport: Transport, make_request: MakeRequest, make_sequences: MakeSequences
) -> None:
    options = ("--log-level", "debug", "--log-format", "json", "--transport", transport)
    with _serving(gru_alone, *options) as (address, end):
        code = _call(address, make_request, make_sequences, "my call")
        lines = [json.loads(line) for line in end()]

    assert code is grpc.StatusCode.NOT_FOUND
    calls = [
        line for line in lines if line["logger"] == "seqserve_server.observability.request_log"
    ]
    told = {(call["method"], call.get("model")): call for call in calls}
    assert len(told) == len(calls) == 3
    answered, refused, listed = (
        told[key] for key in [("Classify", "gru"), ("Classify", "none"), ("ListModels", None)]
    )
    assert (answered["code"], answered["request_id"]) == ("OK", "my call")
    assert (refused["code"], refused["reason"]) == ("NOT_FOUND", "ModelNotFound")
    assert listed["code"] == "OK"
    assert re.fullmatch("[0-9a-f]{16}", refused["request_id"])
    assert "reason" not in answered
    assert all(call["ms"] > 0 for call in calls)
    assert {line["level"] for line in calls} == {"debug"}


def test_at_info_no_request_has_a_line(
    gru_alone: Path, transport: Transport, make_request: MakeRequest, make_sequences: MakeSequences
) -> None:
    with _serving(gru_alone, "--transport", transport) as (address, end):
        before = _call(address, make_request, make_sequences, "my call")
        said = "\n".join(end())

    assert before is grpc.StatusCode.NOT_FOUND
    assert "my call" not in said
    assert "Classify" not in said
    assert "DEBUG" not in said


def test_nothing_that_lets_anybody_in_is_logged(
    gru_alone: Path,
    transport: Transport,
    make_request: MakeRequest,
    make_sequences: MakeSequences,
    tmp_path: Path,
) -> None:
    token, wrong, key = access.new_token(), access.new_token(), "a-key-" * 8
    grant = Grant("ana", access.sha256(token), frozenset({Right.CLASSIFY}), None)
    (tmp_path / "access.toml").write_text(access.entry(grant))
    (tmp_path / "key").write_text(key)
    files = (
        *("--access-file", str(tmp_path / "access.toml")),
        *("--token-key-file", str(tmp_path / "key")),
    )
    request = make_request("gru", make_sequences(4))

    with _serving(gru_alone, *files, "--transport", transport, "--log-level", "debug") as (
        address,
        end,
    ):
        with grpc.insecure_channel(address) as channel:
            classify = SequenceClassifierStub(channel).Classify
            shown = [(("authorization", f"Bearer {each}"),) for each in (token, wrong)]
            classify(request, timeout=TIMEOUT_S, metadata=shown[0])
            with pytest.raises(grpc.RpcError) as refused:
                classify(request, timeout=TIMEOUT_S, metadata=shown[1])
        said = "\n".join(end())

    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert "method=Classify model=gru code=OK" in said
    assert "method=Classify code=UNAUTHENTICATED reason=Unauthenticated" in said
    assert not [secret for secret in (token, wrong, key) if secret in said]


def test_several_processes_log_in_one_form_and_name_themselves(gru_alone: Path) -> None:
    options = ("--log-format", "json", "--processes", "2", "--transport", "grpcio")
    with _serving(gru_alone, *options) as (_, end):
        lines = [json.loads(line) for line in end()]

    assert {line.get("process") for line in lines} == {None, 1, 2}
    assert sum("ready in " in line["event"] for line in lines) == 1


def test_warnings_of_libraries_go_the_same_way() -> None:
    script = (
        "import warnings\n"
        "from seqserve_server.observability import logs\n"
        "from seqserve_server.options import LogFormat\n"
        "logs.to_stderr('info', LogFormat.JSON)\n"
        "warnings.warn('old')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)

    found = json.loads(done.stderr)
    assert (found["logger"], found["level"]) == ("py.warnings", "warning")
    assert "UserWarning: old" in found["event"]
    assert warnings.showwarning.__module__ == "warnings"  # of that process alone
