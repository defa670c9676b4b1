"""Requests that the caller must change: what each is told."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import numpy as np
import pytest

from seqserve.v1.classifier_pb2 import AdvanceRequest, ClassifyRequest
from seqserve.v1.sequences_pb2 import RaggedBatch

if TYPE_CHECKING:
    from tests.server.conftest import Running, RunServer

TIMEOUT_S = 60.0


def _batch(*lengths: int, values: bytes | None = None) -> RaggedBatch:
    """Zeros of 3 features, unless the values are given."""
    return RaggedBatch(
        values=bytes(12 * sum(lengths)) if values is None else values, lengths=lengths
    )


def _with(number: float, at: int) -> bytes:
    """Two sequences of two steps of 3 features with a number of one's choice in them."""
    values = np.zeros(12, np.float32)
    values[at] = number
    return values.tobytes()


def _classify(
    sequences: RaggedBatch | None = None, *, model_name: str = "gru", top_k: int = 0
) -> ClassifyRequest:
    return ClassifyRequest(model_name=model_name, sequences=sequences or _batch(2), top_k=top_k)


BAD_REQUESTS = {
    "no input": (ClassifyRequest(model_name="gru"), "sequences.lengths", "at least one sequence"),
    "no sequences": (
        _classify(_batch()),
        "sequences.lengths",
        "at least one sequence is needed, none given",
    ),
    "length 0": (
        _classify(_batch(2, 0, 3)),
        "sequences.lengths[1]",
        "sequence 1 has 0 steps; at least 1 is needed",
    ),
    "too long": (
        _classify(_batch(2, 1025)),
        "sequences.lengths[1]",
        "sequence 1 has 1025 steps; gru version 1 accepts at most 1024",
    ),
    "wrong features": (
        _classify(_batch(2, values=bytes(4 * 2 * 5))),
        "sequences.values",
        "the sequences have 5 features a step; 3 are needed",
    ),
    "half a number": (
        _classify(_batch(2, values=bytes(23))),
        "sequences.values",
        "23 bytes",
    ),
    "a length beyond all memory": (
        _classify(_batch(4_294_967_295, 4_294_967_295, values=b"")),
        "sequences.values",
        "values holds 0 bytes",
    ),
    "NaN": (
        _classify(_batch(2, 2, values=_with(np.nan, at=10))),
        "sequences.values[1]",
        "sequence 1 has nan at step 1, feature 1; every number must be finite",
    ),
    "infinity": (
        _classify(_batch(2, 2, values=_with(-np.inf, at=0))),
        "sequences.values[0]",
        "sequence 0 has -inf at step 0, feature 0",
    ),
    "top_k": (_classify(top_k=5), "top_k", "top_k is 5; gru version 1 has 4 classes"),
    "no model name": (_classify(model_name=""), "model_name", "'' cannot name a model"),
    "a path": (_classify(model_name="../gru"), "model_name", "'../gru' cannot name a model"),
    "an endless name": (_classify(model_name="x" * 100_000), "model_name", "cannot name a model"),
    "both ways": (
        AdvanceRequest(model_name="both-ways", steps=_batch(2)),
        "model_name",
        "both-ways version 1 is bidirectional",
    ),
    "length 0 of a live sequence": (
        AdvanceRequest(model_name="gru", steps=_batch(0)),
        "steps.lengths[0]",
        "sequence 0 has 0 steps",
    ),
    "two tokens for one sequence": (
        AdvanceRequest(model_name="gru", steps=_batch(2), tokens=[b"", b""]),
        "tokens",
        "2 tokens for 1 sequences",
    ),
    "a token made up": (
        AdvanceRequest(model_name="gru", steps=_batch(2, 2), tokens=[b"", b"made up"]),
        "tokens[1]",
        "the token of sequence 1 is not one that this server gave",
    ),
}


@pytest.mark.parametrize(
    ("request_", "field", "words"), BAD_REQUESTS.values(), ids=BAD_REQUESTS.keys()
)
def test_a_bad_request_is_told_what_is_wrong_and_where(
    server: Running, request_: ClassifyRequest | AdvanceRequest, field: str, words: str
) -> None:
    error = server.refusal(request_)

    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert words in error.message
    [violation] = error.detail.field_violations
    assert violation.field == field
    assert violation.description == error.message


@pytest.mark.parametrize(
    ("limits", "request_", "words"),
    [
        pytest.param(
            {"max_request_sequences": 3},
            _classify(_batch(1, 1, 1, 1)),
            "4 sequences; at most 3 are accepted in a request (--max-request-sequences)",
            id="sequences",
        ),
        pytest.param(
            {"max_request_sequences": 3},
            AdvanceRequest(model_name="gru", steps=_batch(1), tokens=[b""] * 4),
            "4 sequences; at most 3 are accepted in a request (--max-request-sequences)",
            id="tokens",
        ),
        pytest.param(
            {"max_request_steps": 10},
            _classify(_batch(6, 5)),
            "11 steps in all; at most 10 are accepted in a request (--max-request-steps)",
            id="steps",
        ),
    ],
)
def test_a_request_over_a_limit_is_told_which(
    run_server: RunServer,
    models: Path,
    limits: Mapping[str, int],
    request_: ClassifyRequest | AdvanceRequest,
    words: str,
) -> None:
    with run_server(models, **limits) as server:  # type: ignore[arg-type]
        error = server.refusal(request_)
        fitting = server.classifier.Classify(_classify(), timeout=TIMEOUT_S)

    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert error.message == words
    assert fitting.answers.labels


def test_a_message_over_the_limit_is_told_the_limit(run_server: RunServer, models: Path) -> None:
    request = _classify(_batch(200))
    with run_server(models, max_message_bytes=2000) as server:
        error = server.refusal(request)

    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert error.message == (
        f"a message of {request.ByteSize()} bytes; at most 2000 are accepted (--max-message-bytes)"
    )


def test_a_message_of_twice_the_limit_is_refused_by_the_transport(
    run_server: RunServer, models: Path
) -> None:
    with run_server(models, max_message_bytes=2000) as server:
        error = server.refusal(_classify(_batch(400)))
        fitting = server.classifier.Classify(_classify(_batch(100)), timeout=TIMEOUT_S)

    assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "4000" in error.message
    assert fitting.answers.labels
