"""Every row of the status table that a caller can reach, through a real channel."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from seqserve.v1 import catalog_pb2, repository_pb2
from seqserve.v1.classifier_pb2 import AdvanceRequest, ClassifyRequest
from seqserve_server import errors, status
from seqserve_server.models.sessions import Session, opener
from seqserve_server.options import ExecutionProvider

if TYPE_CHECKING:
    from tests.server.conftest import Gate, Running, RunServer

Array = NDArray[np.float32]
MakeRequest = Callable[..., ClassifyRequest]
MakeSequences = Callable[..., list[Array]]

TIMEOUT_S = 60.0


@pytest.mark.parametrize(
    ("name", "version", "words"),
    [
        pytest.param(
            "nobody", 0, "model nobody is not served; served are: both-ways 1", id="model"
        ),
        pytest.param("gru", 9, "gru version 9 is not served; served are:", id="version"),
    ],
)
@pytest.mark.parametrize("call", ["Classify", "Advance", "DescribeModel"])
def test_an_unknown_model_or_version_is_not_found(
    server: Running, call: str, name: str, version: int, words: str
) -> None:
    calls: dict[str, Callable[[], object]] = {
        "Classify": lambda: server.classifier.Classify(
            ClassifyRequest(model_name=name, model_version=version)
        ),
        "Advance": lambda: server.classifier.Advance(
            AdvanceRequest(model_name=name, model_version=version)
        ),
        "DescribeModel": lambda: server.catalog.DescribeModel(
            catalog_pb2.DescribeModelRequest(model_name=name, model_version=version)
        ),
    }

    error = server.failure(calls[call])

    assert error.code is grpc.StatusCode.NOT_FOUND
    assert words in error.message


def test_a_full_queue_refuses_more_and_says_when_to_come_back(
    run_server: RunServer,
    models: Path,
    gate: Gate,
    make_request: MakeRequest,
    make_sequences: MakeSequences,
) -> None:
    with run_server(
        models, open_session=gate.open_session, max_queue_steps=20, max_request_steps=20
    ) as server:
        gate.shut()
        classify = server.classifier.Classify
        running = classify.future(make_request("gru", make_sequences(20)), timeout=TIMEOUT_S)
        gate.wait_for_a_run()
        error = server.refusal(make_request("gru", make_sequences(6)))
        gate.open()

        assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert error.message == ("20 steps are under way and 6 more do not fit into a queue of 20")
        retry = error.detail.retry_delay
        assert 0 < retry.ToTimedelta().total_seconds() <= 30
        assert running.result().answers.labels
        assert server.classify("gru", make_sequences(6)).answers.labels


def test_a_model_that_is_loading_is_unavailable_and_answers_later(
    run_server: RunServer, models: Path, make_request: MakeRequest, make_sequences: MakeSequences
) -> None:
    may_open = threading.Event()

    def open_later(model: bytes) -> Session:
        assert may_open.wait(TIMEOUT_S)
        return opener(ExecutionProvider.CPU)(model)

    with run_server(models, open_session=open_later, wait_until_ready=False) as server:
        error = server.refusal(make_request("both-ways", make_sequences(3)))
        health = server.health()
        may_open.set()
        server.wait_until_ready()
        answers = server.classify("both-ways", make_sequences(3)).answers

    assert error.code is grpc.StatusCode.UNAVAILABLE
    assert "model both-ways is being loaded" in error.message
    assert health == "NOT_SERVING"
    assert answers.labels


def test_work_whose_deadline_has_passed_is_never_run(
    run_server: RunServer,
    models: Path,
    gate: Gate,
    make_request: MakeRequest,
    make_sequences: MakeSequences,
) -> None:
    with run_server(models, open_session=gate.open_session) as server:
        gate.shut()
        first = server.classifier.Classify.future(make_request("gru", make_sequences(4)))
        gate.wait_for_a_run()
        runs = gate.runs
        request = make_request("gru", make_sequences(4))
        error = server.failure(lambda: server.classifier.Classify(request, timeout=0.05))
        gate.open()
        assert first.result(TIMEOUT_S).answers.labels
        server.classify("gru", make_sequences(4))

    assert error.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert gate.runs == runs + 1


@pytest.mark.parametrize(
    "call",
    [
        lambda stub: stub.LoadModel(repository_pb2.LoadModelRequest(model_name="gru")),
        lambda stub: stub.UnloadModel(repository_pb2.UnloadModelRequest(model_name="gru")),
        lambda stub: stub.ReloadRepository(repository_pb2.ReloadRepositoryRequest()),
    ],
    ids=["LoadModel", "UnloadModel", "ReloadRepository"],
)
def test_operator_calls_are_denied_unless_allowed(
    server: Running, call: Callable[[Any], object]
) -> None:
    error = server.failure(lambda: call(server.operations))

    assert error.code is grpc.StatusCode.PERMISSION_DENIED
    assert "without --access-file" in error.message


def test_an_unforeseen_error_keeps_its_details_for_the_log(
    run_server: RunServer,
    models: Path,
    make_request: MakeRequest,
    make_sequences: MakeSequences,
    caplog: pytest.LogCaptureFixture,
) -> None:
    failing = _Failing()
    with run_server(models, open_session=failing.open_session) as server:
        failing.fails = True
        with caplog.at_level(logging.ERROR):
            error = server.refusal(make_request("gru", make_sequences(3)))
        failing.fails = False
        recovered = server.classify("gru", make_sequences(3))

    request_id = error.detail.request_id
    assert error.code is grpc.StatusCode.INTERNAL
    assert request_id
    assert request_id in error.message
    assert "secret" not in error.message
    assert request_id in [getattr(record, "request_id", "") for record in caplog.records]
    assert "RuntimeError: a secret path" in caplog.text
    assert recovered.answers.labels


def test_an_unforeseen_error_is_found_by_its_callers_own_request_id(
    run_server: RunServer,
    models: Path,
    make_request: MakeRequest,
    make_sequences: MakeSequences,
    caplog: pytest.LogCaptureFixture,
) -> None:
    failing = _Failing()
    with run_server(models, open_session=failing.open_session) as server:
        failing.fails = True
        with caplog.at_level(logging.ERROR):
            error = server.failure(
                lambda: server.classifier.Classify(
                    make_request("gru", make_sequences(3)),
                    timeout=60,
                    metadata=(("x-request-id", "order 66"),),
                )
            )
        failing.fails = False

    assert error.detail.request_id == "order 66"
    assert "order 66" in error.message
    assert "order 66" in [getattr(record, "request_id", "") for record in caplog.records]


def test_every_error_that_a_call_can_meet_has_a_status() -> None:
    def leaves(base: type[errors.ServerError]) -> set[type[errors.ServerError]]:
        children = base.__subclasses__()
        return {leaf for child in children for leaf in leaves(child)} if children else {base}

    at_a_call = leaves(errors.ServerError) - leaves(errors.CannotStart)

    assert set(status.CODES) == at_a_call


class _Failing:
    """Opens sessions that run until told to fail."""

    def __init__(self) -> None:
        self.fails = False
        self._session: Session

    def open_session(self, model: bytes) -> Session:
        session, failing = opener(ExecutionProvider.CPU)(model), self

        class Failing:
            def run(
                self, output_names: Sequence[str], input_feed: Mapping[str, NDArray[Any]]
            ) -> Sequence[Any]:
                if failing.fails:
                    raise RuntimeError("a secret path")
                return session.run(output_names, input_feed)

            def get_providers(self) -> Sequence[str]:
                return session.get_providers()

        return Failing()
