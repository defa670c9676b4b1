"""Batches cut to the limits of a request, and put together again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from seqserve.ragged import RaggedBatch
from seqserve.v1.classifier_pb2 import ClassifyRequest, ClassifyResponse
from seqserve.v1.classifier_pb2_grpc import (
    SequenceClassifierServicer,
    add_SequenceClassifierServicer_to_server,
)
from seqserve_client import (
    Client,
    InvalidSequences,
    ModelNotFound,
    ProtocolError,
    ReplicasDisagree,
    ServiceClass,
)
from seqserve_client.batching import cut
from seqserve_client.classification import merged
from seqserve_client.options import Options
from seqserve_client.testing import FakeServer

Sequences = list[NDArray[np.float32]]

lengths = st.lists(st.integers(1, 40), min_size=1, max_size=60)
limits = st.builds(
    Options,
    max_message_bytes=st.integers(1, 4000),
    max_request_sequences=st.integers(1, 30),
    max_request_steps=st.integers(1, 200),
    max_in_flight=st.integers(1, 6),
)


def batch_of(steps: list[int], features: int) -> RaggedBatch:
    values = np.arange(sum(steps) * features, dtype=np.float32).reshape(-1, features)
    return RaggedBatch(values, np.array(steps))


@given(lengths, st.integers(1, 5), limits)
def test_pieces_hold_every_sequence_once_in_order_and_keep_to_the_limits(
    steps: list[int], features: int, options: Options
) -> None:
    batch = batch_of(steps, features)
    pieces = cut(
        batch,
        options,
        model="m" * 128,
        version=2**64 - 1,
        top_k=2**32 - 1,
        service_class=ServiceClass.BULK,
    )
    assert [piece.first for piece in pieces] == list(
        np.cumsum([0, *(len(piece.batch) for piece in pieces)])[:-1]
    )
    np.testing.assert_array_equal(np.concatenate([p.batch.values for p in pieces]), batch.values)
    np.testing.assert_array_equal(np.concatenate([p.batch.lengths for p in pieces]), batch.lengths)
    for piece in pieces:
        assert len(piece.batch) <= options.max_request_sequences
        if len(piece.batch) > 1:  # a single sequence is sent, however long it is
            assert piece.batch.steps <= options.max_request_steps
            assert piece.request().ByteSize() <= options.max_message_bytes


@given(lengths, st.integers(1, 5), limits)
def test_no_two_neighbouring_pieces_would_fit_into_one_request(
    steps: list[int], features: int, options: Options
) -> None:
    pieces = cut(batch_of(steps, features), options, model="model", version=0, top_k=0)
    for piece, following in pairwise(pieces):
        wider = replace(piece, batch=RaggedBatch.from_sequences([*piece.batch, following.batch[0]]))
        spare = 5 * len(wider.batch) + 40  # what a request may waste, at most
        assert (
            len(wider.batch) > options.max_request_sequences
            or wider.batch.steps > options.max_request_steps
            or wider.request().ByteSize() + spare > options.max_message_bytes
        )


@pytest.fixture(scope="module")
def answering() -> Iterator[FakeServer]:
    with FakeServer(["low", "middle", "high"]) as fake:
        yield fake


@settings(max_examples=25, deadline=None)
@given(lengths, limits, st.sampled_from([0, 2]))
def test_a_cut_batch_is_answered_as_the_whole_is(
    answering: FakeServer, steps: list[int], options: Options, top_k: int
) -> None:
    batch = batch_of(steps, 2)
    with (
        Client(answering.address) as whole,
        Client(
            answering.address,
            max_message_bytes=options.max_message_bytes,
            max_request_sequences=options.max_request_sequences,
            max_request_steps=options.max_request_steps,
            max_in_flight=options.max_in_flight,
        ) as cutting,
    ):
        expected = whole.classify(batch, model="model", top_k=top_k)
        answers = cutting.classify(batch, model="model", top_k=top_k)
    assert answers.labels == expected.labels
    assert answers.top_labels == expected.top_labels
    assert answers.classes == expected.classes
    np.testing.assert_array_equal(answers.logits, expected.logits)
    np.testing.assert_array_equal(answers.probabilities, expected.probabilities)


def test_both_clients_cut_alike(
    connect: Callable[..., Client], server: FakeServer, sequences: Sequences
) -> None:
    whole = connect(server.address).classify(sequences, model="model")
    cut_up = connect(server.address, max_request_sequences=7).classify(sequences, model="model")
    assert [len(call.request.sequences.lengths) for call in server.calls[1:]].count(7) == 5
    assert len(server.calls) == 7
    assert cut_up.labels == whole.labels
    np.testing.assert_array_equal(cut_up.logits, whole.logits)


def test_no_more_requests_are_under_way_than_allowed(connect: Callable[..., Client]) -> None:
    under_way, most = 0, 0
    lock = threading.Lock()
    together = threading.Barrier(3)

    def count(sequence: NDArray[np.float32]) -> str:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        together.wait(timeout=30)  # passes only if three are under way at the same time
        with lock:
            under_way -= 1
        return "0"

    with FakeServer(answer=count) as server:
        client = connect(server.address, max_request_sequences=1, max_in_flight=3)
        client.classify([[0.0]] * 9, model="model")
    assert most == 3


def test_a_violation_is_told_by_the_index_in_the_callers_batch(
    connect: Callable[..., Client], sequences: Sequences
) -> None:
    sequences[33][0, 0] = np.nan
    with FakeServer() as server:
        client = connect(server.address, max_request_sequences=7)
        with pytest.raises(InvalidSequences, match="sequence 33 has NaN") as caught:
            client.classify(sequences, model="model")
    (violation,) = caught.value.violations
    assert violation.sequence == 33
    assert violation.field == "sequences.values"
    assert violation.description == "sequence 33 has NaN or inf"


def test_several_violations_are_all_told(
    connect: Callable[..., Client], server: FakeServer
) -> None:
    violations = [
        error_details_pb2.BadRequest.FieldViolation(
            field=f"sequences.lengths[{index}]", description=f"{index + 500} steps are too many"
        )
        for index in (1, 4)
    ]
    server.fail(
        grpc.StatusCode.INVALID_ARGUMENT,
        details=[error_details_pb2.BadRequest(field_violations=violations)],
    )
    client = connect(server.address, max_request_sequences=5, max_in_flight=1)
    with pytest.raises(
        InvalidSequences, match=r"^sequence 1: 501 steps .* \(and 1 more\)$"
    ) as caught:
        client.classify([[0.0]] * 10, model="model")
    assert [violation.sequence for violation in caught.value.violations] == [1, 4]


def test_the_first_failure_ends_the_call(
    connect: Callable[..., Client], server: FakeServer
) -> None:
    server.fail(grpc.StatusCode.NOT_FOUND)
    client = connect(server.address, max_request_sequences=1, max_in_flight=2)
    with pytest.raises(ModelNotFound):
        client.classify([[0.0]] * 50, model="model")
    assert len(server.calls) <= 3


def test_a_failure_cancels_the_requests_under_way(connect: Callable[..., Client]) -> None:
    begun, ended, over = threading.Event(), threading.Event(), threading.Event()

    class Servicer(SequenceClassifierServicer):
        def Classify(self, request: ClassifyRequest, context: grpc.ServicerContext) -> Any:  # noqa: ANN401, N802
            if list(request.sequences.lengths) == [1]:
                begun.wait(timeout=60)
                context.abort(grpc.StatusCode.NOT_FOUND, "fails while the other is under way")
            context.add_callback(ended.set)
            begun.set()
            over.wait(timeout=600)
            return ClassifyResponse()

        def Advance(self, *_: object) -> Any:  # noqa: ANN401, N802
            raise NotImplementedError

    server = grpc.server(ThreadPoolExecutor(2))
    add_SequenceClassifierServicer_to_server(Servicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        client = connect(f"127.0.0.1:{port}", max_request_sequences=1, timeout_s=1000)
        with pytest.raises(ModelNotFound):
            client.classify([[0.0], [0.0, 0.0]], model="model")
        with pytest.raises(ProtocolError):  # an event loop sends what it has yet to send
            client.models()
        assert ended.wait(timeout=30)
    finally:
        over.set()
        server.stop(None).wait()


def test_one_version_answers_all_pieces_though_another_is_published_meanwhile(
    connect: Callable[..., Client],
) -> None:
    def answer(sequence: NDArray[np.float32]) -> str:
        if len(server.calls) == 3:
            server.publish(2)
        return "0" if sequence[0, 0] < 5 else "1"

    with FakeServer(answer=answer) as server:
        client = connect(server.address, max_request_sequences=1, max_in_flight=1)
        answers = client.classify([[float(index)] for index in range(10)], model="model")
    assert answers.model_version == 2
    assert answers.labels == ("0",) * 5 + ("1",) * 5
    asked = [call.request.model_version for call in server.calls]
    assert asked[:10] == [0] * 10
    assert asked[10:] == [2] * 3


def test_every_piece_is_as_urgent_as_the_call(
    connect: Callable[..., Client], server: FakeServer
) -> None:
    client = connect(server.address, max_request_sequences=2)
    client.classify([[0.0]] * 9, model="model", service_class=ServiceClass.BULK)
    assert [call.service_class for call in server.calls] == ["bulk"] * 5


def test_a_version_asked_for_is_asked_of_every_piece(
    connect: Callable[..., Client], server: FakeServer
) -> None:
    server.publish(2)
    client = connect(server.address, max_request_sequences=2)
    assert client.classify([[0.0]] * 9, model="model", version=1).model_version == 1
    assert [call.request.model_version for call in server.calls] == [1] * 5


def test_replicas_with_different_artifacts_under_one_version_are_told_apart() -> None:
    batch = batch_of([1, 1], 1)
    pieces = cut(batch, Options(max_request_sequences=1), model="model", version=3, top_k=0)
    numbers = np.zeros((1, 2), "<f4").tobytes()
    responses = {}
    for piece, digest in zip(pieces, ("aa", "bb"), strict=True):
        response = ClassifyResponse(model_name="model", model_version=3, model_digest=digest)
        response.answers.labels.append("a")
        response.answers.classes.extend(["a", "b"])
        response.answers.logits = response.answers.probabilities = numbers
        responses[piece.first] = response
    with pytest.raises(ReplicasDisagree, match=r"aa here.*bb there"):
        merged(pieces, responses)
