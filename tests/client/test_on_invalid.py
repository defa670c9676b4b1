"""Bad sequences among good ones, as the client tells of them."""

from __future__ import annotations

import math
from collections.abc import Callable

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2  # type: ignore[import-untyped]
from numpy.typing import ArrayLike

from seqserve.ragged import RaggedBatch
from seqserve_client import (
    Classification,
    Client,
    InvalidOptions,
    InvalidRequest,
    InvalidSequences,
    OnInvalid,
    ProtocolError,
    ServiceClass,
    Violation,
)
from seqserve_client.testing import FakeServer

Connect = Callable[..., Client]
BAD = (3, 8, 21)


@pytest.fixture
def spoilt() -> list[ArrayLike]:
    """Thirty sequences, those of BAD not a number, of no steps, and infinite."""
    sequences: list[ArrayLike] = [[[index % 3, index % 3]] for index in range(30)]
    sequences[3] = [[0, math.nan]]
    sequences[8] = []
    sequences[21] = [[math.inf, 1]]
    return sequences


def rest(client: Client, sequences: list[ArrayLike], *, top_k: int = 0) -> Classification:
    return client.classify(sequences, model="model", on_invalid=OnInvalid.ANSWER_REST, top_k=top_k)


@pytest.mark.parametrize("cut", [512, 7, 1], ids=["whole", "in pieces", "one by one"])
def test_the_rest_is_answered_and_the_bad_are_told_by_the_callers_index(
    connect: Connect, server: FakeServer, spoilt: list[ArrayLike], cut: int
) -> None:
    answers = rest(connect(server.address, max_request_sequences=cut), spoilt)

    assert answers.invalid == (
        Violation("sequence 3 has NaN or inf", "sequences.values", 3),
        Violation("sequence 8 has 0 steps; at least 1 is needed", "sequences.lengths", 8),
        Violation("sequence 21 has NaN or inf", "sequences.values", 21),
    )
    assert len(answers) == 30
    for index, answer in enumerate(answers):
        if index in BAD:
            assert answer.label == ""
            assert math.isnan(answer.probability)
            assert np.isnan(answers.logits[index]).all()
        else:
            assert answer.label == ("low", "middle", "high")[index % 3]
            assert answer.probability == answers.confidence[index]


def test_top_k_leaves_gaps_too(client: Client, spoilt: list[ArrayLike]) -> None:
    answers = rest(client, spoilt, top_k=2)
    assert [index for index, row in enumerate(answers.top_labels) if row == ("", "")] == [*BAD]
    assert answers.probabilities.shape == (30, 2)
    assert math.isnan(answers[8].probability)
    assert answers.columns()["label"][4] == "middle"


def test_a_slice_tells_of_its_own_alone(client: Client, spoilt: list[ArrayLike]) -> None:
    part = rest(client, spoilt)[8:20:2]
    assert part.invalid == (
        Violation("sequence 0 has 0 steps; at least 1 is needed", "sequences.lengths", 0),
    )
    assert part.labels[0] == ""
    assert rest(client, spoilt)[4:8].invalid == ()


def test_a_good_batch_has_none(client: Client) -> None:
    assert rest(client, [[[1.0]], [[2.0]]]).invalid == ()


@pytest.mark.parametrize("sequence", [[[0.0, math.nan]], []], ids=["NaN", "no steps"])
def test_a_single_sequence_may_be_the_bad_one(client: Client, sequence: ArrayLike) -> None:
    answers = rest(client, [sequence])
    assert [violation.sequence for violation in answers.invalid] == [0]
    assert answers.labels == ("",)
    for choice in ("reject", OnInvalid.REJECT):
        with pytest.raises(InvalidSequences, match=r"^sequence 0 has"):
            client.classify([sequence], model="model", on_invalid=choice)


def test_a_ragged_batch_is_taken_as_it_is(client: Client) -> None:
    batch = RaggedBatch(np.array([[0.0], [np.nan], [2.0]], np.float32), np.array([1, 1, 1]))
    assert [violation.sequence for violation in rest(client, batch).invalid] == [1]  # type: ignore[arg-type]


def test_by_default_the_first_bad_sequence_fails_the_call(
    client: Client, spoilt: list[ArrayLike]
) -> None:
    spoilt[8] = [[0, 0]]
    with pytest.raises(InvalidSequences, match=r"^sequence 3 has NaN or inf"):
        client.classify(spoilt, model="model")


def test_what_is_wrong_with_the_request_fails_the_call_all_the_same(client: Client) -> None:
    with pytest.raises(InvalidRequest, match="top_k is 9"):
        rest(client, [[[1.0]], [[2.0]]], top_k=9)
    with pytest.raises(InvalidSequences, match="sequence 1 has 2 features"):
        rest(client, [[[1.0]], [[2.0, 3.0]]])


def test_a_choice_that_is_none_is_refused(client: Client, server: FakeServer) -> None:
    with pytest.raises(InvalidOptions, match="on_invalid is 'ignore'; reject or answer-rest is"):
        client.classify([[1.0]], model="model", on_invalid="ignore")
    with pytest.raises(InvalidOptions, match="service_class is 'soon'; interactive or bulk is"):
        client.classify([[1.0]], model="model", service_class="soon")
    assert server.calls == []
    assert rest(client, [[1.0]]).invalid == ()
    assert server.calls[-1].service_class is ServiceClass.INTERACTIVE


def test_a_message_that_knows_of_more_than_it_lists_is_told_whole(
    connect: Connect, server: FakeServer
) -> None:
    violation = error_details_pb2.BadRequest.FieldViolation(
        field="sequences.values[1]", description="sequence 1 has NaN"
    )
    server.fail(
        grpc.StatusCode.INVALID_ARGUMENT,
        "sequence 1 has NaN (and 90 more sequences)",
        details=[error_details_pb2.BadRequest(field_violations=[violation])],
    )
    client = connect(server.address, max_request_sequences=5, max_in_flight=1)
    with pytest.raises(InvalidSequences, match=r"^sequence 1 has NaN \(and 90 more sequences\)$"):
        client.classify([[0.0]] * 10, model="model")


def test_a_server_that_tells_of_sequences_nobody_sent_is_found_out(
    client: Client, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = server._invalid

    def lying(batch: RaggedBatch, field: str) -> list[object]:
        found = real(batch, field)
        for each in found:
            each.index += 7
        return list(found)

    monkeypatch.setattr(server, "_invalid", lying)
    with pytest.raises(ProtocolError, match="are said to be invalid"):
        rest(client, [[[math.nan]], [[1.0]]])
