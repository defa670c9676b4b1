"""Requests that somebody altered on the way, byte by byte: no defect shows, no answer changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import grpc
import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from seqserve import ragged
from seqserve.ragged import RaggedBatch
from seqserve.v1.classifier_pb2 import (
    AdvanceRequest,
    AdvanceResponse,
    ClassifyRequest,
    ClassifyResponse,
)

if TYPE_CHECKING:
    from seqserve.graph import Outputs
    from tests.server.conftest import Array, Running

TIMEOUT_S = 60.0
CLASSIFY = "/seqserve.v1.SequenceClassifier/Classify"
ADVANCE = "/seqserve.v1.SequenceClassifier/Advance"
EXAMPLES = 150

Code = grpc.StatusCode
REFUSALS = {Code.INVALID_ARGUMENT, Code.NOT_FOUND}
Mutation = Callable[[bytes], bytes]

numbers = st.floats(width=32, allow_nan=False, allow_infinity=False)
batches = st.lists(
    st.lists(st.tuples(numbers, numbers, numbers), min_size=1, max_size=5), min_size=1, max_size=4
)
places = st.floats(0, 1, exclude_max=True)


@st.composite
def mutations(draw: st.DrawFn) -> Mutation:
    """Changes a byte, a bit, or a stretch of them, somewhere."""
    at, kind = draw(places), draw(st.sampled_from(["bit", "insert", "delete", "repeat", "cut"]))
    size, extra, bit = (
        draw(st.integers(1, 12)),
        draw(st.binary(min_size=1, max_size=12)),
        draw(st.integers(0, 7)),
    )

    def mutate(data: bytes) -> bytes:
        begin = int(at * len(data))
        head, middle, tail = data[:begin], data[begin : begin + size], data[begin + size :]
        if kind == "bit":
            return head + bytes([middle[0] ^ 1 << bit]) + middle[1:] + tail if middle else extra
        if kind == "insert":
            return head + extra + middle + tail
        if kind == "delete":
            return head + tail
        return head + middle + middle + tail if kind == "repeat" else head

    return mutate


def as_batch(batch: list[list[tuple[float, float, float]]]) -> RaggedBatch:
    return RaggedBatch.from_sequences([np.array(sequence, np.float32) for sequence in batch])


@pytest.fixture(scope="module")
def token(server: Running) -> bytes:
    """Of a live sequence of two steps."""
    steps = ragged.encode(RaggedBatch.from_sequences([np.ones((2, 3), np.float32)]))
    response: AdvanceResponse = server.classifier.Advance(
        AdvanceRequest(model_name="gru", steps=steps), timeout=TIMEOUT_S
    )
    return response.tokens[0]


@pytest.fixture(scope="module")
def good(server: Running, in_process: Callable[[str, Array], Outputs]) -> Callable[[], None]:
    """Makes a good call and compares its answer, bit for bit."""
    sequence = np.linspace(-3, 3, 21, dtype=np.float32).reshape(7, 3)
    expected = in_process("gru", sequence).logits.tobytes()

    def call() -> None:
        assert server.classify("gru", [sequence]).answers.logits == expected

    return call


def outcome(server: Running, path: str, request: bytes) -> Code:
    try:
        server.channel.unary_unary(path, None, None)(request, timeout=TIMEOUT_S)
    except grpc.RpcError as error:
        code: Code = error.code()
        return code
    return Code.OK


@given(batches, st.integers(0, 4), st.integers(0, 2), st.integers(0, 2))
@settings(max_examples=EXAMPLES)
def test_what_is_valid_is_answered(
    server: Running,
    in_process: Callable[[str, Array], Outputs],
    batch: list[list[tuple[float, float, float]]],
    top_k: int,
    service_class: int,
    on_invalid: int,
) -> None:
    sequences = as_batch(batch)
    request = ClassifyRequest(
        model_name="gru",
        sequences=ragged.encode(sequences),
        top_k=top_k,
        service_class=service_class,  # type: ignore[arg-type]
        on_invalid=on_invalid,  # type: ignore[arg-type]
    )
    response: ClassifyResponse = server.classifier.Classify(request, timeout=TIMEOUT_S)

    assert not response.invalid
    alone = np.concatenate([in_process("gru", sequence).logits for sequence in sequences])
    logits = ragged.decode_matrix(response.answers.logits, len(sequences))
    if top_k:
        alone, logits = (
            np.sort(alone, axis=1)[:, : -top_k - 1 : -1],
            np.sort(logits, axis=1)[:, ::-1],
        )
    assert logits.tobytes() == alone.tobytes()


@given(batches, st.lists(mutations(), min_size=1, max_size=4), st.booleans())
@settings(max_examples=EXAMPLES)
def test_a_mutated_request_is_answered_or_refused(
    server: Running,
    good: Callable[[], None],
    batch: list[list[tuple[float, float, float]]],
    changes: list[Mutation],
    rest: bool,
) -> None:
    request = ClassifyRequest(
        model_name="gru",
        sequences=ragged.encode(as_batch(batch)),
        on_invalid=2 if rest else 1,  # type: ignore[arg-type]
    ).SerializeToString()
    for change in changes:
        request = change(request)
    code = outcome(server, CLASSIFY, request)

    event(code.name)
    assert code is Code.OK or code in REFUSALS
    good()


@given(batches, st.lists(mutations(), min_size=1, max_size=4), st.booleans())
@settings(max_examples=EXAMPLES)
def test_a_mutated_token_or_step_is_answered_or_refused(
    server: Running,
    good: Callable[[], None],
    token: bytes,
    batch: list[list[tuple[float, float, float]]],
    changes: list[Mutation],
    of_token: bool,
) -> None:
    altered = token
    if of_token:
        for change in changes:
            altered = change(altered)
    sequences = as_batch(batch)
    request = AdvanceRequest(
        model_name="gru",
        steps=ragged.encode(sequences),
        tokens=[altered, *[b""] * (len(sequences) - 1)],
    ).SerializeToString()
    if not of_token:
        for change in changes:
            request = change(request)
    code = outcome(server, ADVANCE, request)

    event(code.name)
    if of_token and altered not in (token, b""):
        assert code is Code.INVALID_ARGUMENT
    assert code is Code.OK or code in REFUSALS
    good()


@given(request_=st.binary(max_size=60))
@settings(max_examples=EXAMPLES)
def test_any_bytes_are_refused(server: Running, good: Callable[[], None], request_: bytes) -> None:
    for path in (CLASSIFY, ADVANCE):
        assert outcome(server, path, request_) in REFUSALS
    good()
