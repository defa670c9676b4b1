"""What is tried again, and what is not."""

from __future__ import annotations

from collections.abc import Callable

import grpc
import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2  # type: ignore[import-untyped]

from seqserve_client import (
    Client,
    DeadlineExceeded,
    Overloaded,
    SeqserveError,
    ServerFault,
    Unavailable,
)
from seqserve_client.testing import FakeServer

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


def test_an_unavailable_server_is_asked_again(client: Client, server: FakeServer) -> None:
    server.fail(UNAVAILABLE, times=3)
    assert client.classify([[2.0]], model="model").labels == ("high",)
    assert len(server.calls) == 4
    attempts = [call.metadata.get("grpc-previous-rpc-attempts") for call in server.calls]
    assert attempts == [None, "1", "2", "3"]


def test_a_long_message_is_sent_again_too(
    connect: Callable[..., Client], server: FakeServer
) -> None:
    client = connect(server.address)
    server.fail(UNAVAILABLE, times=2)
    sequence = np.full((1 << 21, 1), 2, np.float32)  # 8 MiB, far beyond gRPC's own retry buffer
    assert client.classify([sequence], model="model").labels == ("high",)
    assert len(server.calls) == 3


def test_every_piece_of_a_cut_batch_may_be_tried_again(
    connect: Callable[..., Client], server: FakeServer
) -> None:
    client = connect(server.address, max_request_sequences=2)
    server.fail(UNAVAILABLE, times=4)
    assert client.classify([[0.0], [1.0], [2.0]] * 3, model="model").labels == (
        ("low", "middle", "high") * 3
    )
    assert len(server.calls) == 9


def test_patience_ends_after_five_attempts(client: Client, server: FakeServer) -> None:
    server.fail(UNAVAILABLE, "the model is loading", times=100)
    with pytest.raises(Unavailable, match="the model is loading"):
        client.classify([[0.0]], model="model")
    assert len(server.calls) == 5


def test_the_deadline_ends_the_attempts_too(client: Client, server: FakeServer) -> None:
    server.fail(UNAVAILABLE, times=100)
    with pytest.raises((DeadlineExceeded, Unavailable)):
        client.classify([[0.0]], model="model", timeout_s=0.2)
    assert len(server.calls) < 5


def test_advance_and_the_catalog_are_asked_again(client: Client, server: FakeServer) -> None:
    server.fail(UNAVAILABLE, times=2, method="Advance")
    assert client.advance([[0.0]], model="model").steps.tolist() == [1]
    server.fail(UNAVAILABLE, times=2, method="ListModels")
    assert len(client.models()) == 1
    server.fail(UNAVAILABLE, times=2, method="DescribeModel")
    assert client.describe("model").status.name == "model"
    assert [call.method for call in server.calls].count("Advance") == 3
    assert len(server.calls) == 9


@pytest.mark.parametrize(
    "code",
    [code for code in grpc.StatusCode if code not in (grpc.StatusCode.OK, UNAVAILABLE)],
    ids=lambda code: code.name,
)
def test_nothing_else_is_asked_again(
    server: FakeServer, code: grpc.StatusCode, sync_client: Client
) -> None:
    for call in (sync_client.classify, sync_client.advance):
        server.calls.clear()
        server.fail(code)
        with pytest.raises(SeqserveError):
            call([[0.0]], model="model")
        assert len(server.calls) == 1


def test_an_overloaded_server_says_when_to_come_again(client: Client, server: FakeServer) -> None:
    server.fail(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "2097152 steps wait already",
        details=[error_details_pb2.RetryInfo(retry_delay=Duration(seconds=1, nanos=250_000_000))],
    )
    with pytest.raises(Overloaded, match="2097152 steps wait") as caught:
        client.classify([[0.0]], model="model")
    assert caught.value.retry_after_s == 1.25
    assert len(server.calls) == 1


def test_a_server_that_comes_back_is_found_again(client: Client, server: FakeServer) -> None:
    assert client.ready()
    server.stop()
    assert not client.ready()
    server.start()
    assert client.classify([[2.0]], model="model").labels == ("high",)


def test_a_fault_is_not_tried_again_and_names_the_request(
    client: Client, server: FakeServer
) -> None:
    server.fail(
        grpc.StatusCode.INTERNAL,
        "unforeseen",
        details=[error_details_pb2.RequestInfo(request_id="c0ffee")],
    )
    with pytest.raises(ServerFault, match=r"unforeseen \(request c0ffee\)") as caught:
        client.classify([[0.0]], model="model")
    assert caught.value.request_id == "c0ffee"
