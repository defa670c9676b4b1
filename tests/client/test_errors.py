"""Every way a call can fail has an error of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2  # type: ignore[import-untyped]

import seqserve_client
from seqserve.ragged import RaggedBatch
from seqserve_client import (
    Cancelled,
    CannotLoad,
    Client,
    DeadlineExceeded,
    InvalidOptions,
    InvalidRequest,
    InvalidSequences,
    ModelNotFound,
    Overloaded,
    PermissionDenied,
    ProtocolError,
    SeqserveError,
    ServerFault,
    Unauthenticated,
    Unavailable,
    errors,
)
from seqserve_client.batching import Sequences
from seqserve_client.testing import FakeServer

Code = grpc.StatusCode


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (Code.INVALID_ARGUMENT, InvalidRequest),
        (Code.FAILED_PRECONDITION, CannotLoad),
        (Code.OUT_OF_RANGE, InvalidRequest),
        (Code.NOT_FOUND, ModelNotFound),
        (Code.UNAUTHENTICATED, Unauthenticated),
        (Code.PERMISSION_DENIED, PermissionDenied),
        (Code.RESOURCE_EXHAUSTED, Overloaded),
        (Code.UNAVAILABLE, Unavailable),
        (Code.DEADLINE_EXCEEDED, DeadlineExceeded),
        (Code.CANCELLED, Cancelled),
        (Code.UNIMPLEMENTED, ProtocolError),
        (Code.INTERNAL, ServerFault),
        (Code.UNKNOWN, ServerFault),
        (Code.DATA_LOSS, ServerFault),
        (Code.ABORTED, ServerFault),
        (Code.ALREADY_EXISTS, ServerFault),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_status_becomes_an_error_that_keeps_its_message(
    client: Client, server: FakeServer, code: grpc.StatusCode, kind: type[SeqserveError]
) -> None:
    server.fail(code, "what the server said", times=5)
    with pytest.raises(SeqserveError) as caught:
        client.describe("model")
    assert type(caught.value) is kind
    assert isinstance(caught.value.__cause__, grpc.RpcError)
    if code is not Code.DEADLINE_EXCEEDED:
        assert "what the server said" in str(caught.value)


def test_every_error_of_the_tree_is_offered_and_has_the_one_base() -> None:
    offered = {
        value
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, Exception)
    }
    assert all(issubclass(kind, SeqserveError) for kind in offered)
    assert all(getattr(seqserve_client, kind.__name__) is kind for kind in offered)
    assert all(kind.__name__ in (errors.__doc__ or "") for kind in offered)


def test_a_field_that_is_wrong_is_named(client: Client) -> None:
    with pytest.raises(InvalidRequest, match="top_k is 4; model has 3 classes") as caught:
        client.classify([[0.0]], model="model", top_k=4)
    assert not isinstance(caught.value, InvalidSequences)
    assert [violation.field for violation in caught.value.violations] == ["top_k"]


def test_a_model_that_is_not_served_is_named_with_those_that_are(client: Client) -> None:
    with pytest.raises(ModelNotFound, match="other is not served; model is"):
        client.classify([[0.0]], model="other")
    with pytest.raises(ModelNotFound, match="model version 9 is not served"):
        client.classify([[0.0]], model="model", version=9)


def test_unequal_feature_counts_are_found_before_anything_is_sent(
    client: Client, server: FakeServer
) -> None:
    with pytest.raises(InvalidSequences, match="sequence 2 has 4 features") as caught:
        client.classify([np.zeros((2, 3)), np.zeros((1, 3)), np.zeros((5, 4))], model="model")
    (violation,) = caught.value.violations
    assert (violation.field, violation.sequence) == ("sequences.values", 2)
    assert server.calls == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "at least one sequence"),
        ([[1.0], []], "sequence 1 has 0 steps"),
        ([[1.0], ["a"]], "sequence 1 is not numbers"),
        ([np.zeros((1, 2, 3))], "sequence 0 has shape"),
        (RaggedBatch(np.zeros((0, 2), np.float32), np.zeros(0, np.int64)), "at least one"),
    ],
    ids=["none", "empty", "text", "three axes", "an empty batch"],
)
def test_what_makes_no_batch_is_refused(client: Client, given: Sequences, message: str) -> None:
    for call in (client.classify, client.advance):
        with pytest.raises(InvalidSequences, match=message):
            call(given, model="model")


def test_nan_is_left_to_the_server(client: Client, server: FakeServer) -> None:
    with pytest.raises(InvalidSequences, match="sequence 1 has NaN"):
        client.classify([[0.0], [np.nan]], model="model")
    assert len(server.calls) == 1


def test_options_that_cannot_be_are_refused(client: Client, server: FakeServer) -> None:
    wrong: list[dict[str, Any]] = [{"version": -1}, {"top_k": -1}]
    for named in wrong:
        with pytest.raises(InvalidOptions, match=f"{next(iter(named))} is -1"):
            client.classify([[0.0]], model="model", **named)
    for limit in (
        "max_message_bytes",
        "max_request_sequences",
        "max_request_steps",
        "max_in_flight",
    ):
        with pytest.raises(InvalidOptions, match=limit):
            Client(**{limit: 0})  # type: ignore[arg-type]
    assert server.calls == []


def test_a_message_over_the_servers_limit_is_not_called_overload(
    client: Client, server: FakeServer
) -> None:
    server.fail(Code.RESOURCE_EXHAUSTED, "SERVER: Received message larger than max (9 vs. 8)")
    with pytest.raises(InvalidRequest, match="max_message_bytes"):
        client.classify([[0.0]], model="model")


def test_overload_without_details_is_overload_all_the_same(
    client: Client, server: FakeServer
) -> None:
    server.fail(Code.RESOURCE_EXHAUSTED)
    with pytest.raises(Overloaded) as caught:
        client.classify([[0.0]], model="model")
    assert caught.value.retry_after_s is None


@pytest.mark.parametrize("details", [b"\x08\x05", b"\xff"], ids=["contradicting", "damaged"])
def test_details_altered_on_the_way_do_not_hide_the_failure(
    connect: Callable[..., Client], refusing: Callable[..., str], details: bytes
) -> None:
    address = refusing(Code.INVALID_ARGUMENT, "altered on the way", details)
    with pytest.raises(InvalidRequest, match="altered on the way"):
        connect(address).models()


def test_a_server_that_knows_no_such_call_is_no_seqserve_server(
    connect: Callable[..., Client], refusing: Callable[..., str]
) -> None:
    address = refusing(Code.UNIMPLEMENTED, "Method not found!")
    with pytest.raises(ProtocolError, match="is it a seqserve server"):
        connect(address).models()


def test_a_description_that_names_no_index_is_given_one(client: Client, server: FakeServer) -> None:
    violation = error_details_pb2.BadRequest.FieldViolation(
        field="tokens[1]", description="expired"
    )
    server.fail(
        Code.INVALID_ARGUMENT,
        details=[error_details_pb2.BadRequest(field_violations=[violation])],
    )
    with pytest.raises(InvalidSequences, match=r"^sequence 1: expired$") as caught:
        client.advance([[0.0], [0.0]], model="model", tokens=[b"", b"x"])
    assert caught.value.violations[0].field == "tokens"
