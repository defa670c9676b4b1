"""The server for tests does what its users are told."""

from __future__ import annotations

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from seqserve_client import Client, InvalidRequest, ModelNotFound, ServerFault, Unauthenticated
from seqserve_client.testing import FakeServer, Rule


def test_one_label_for_every_sequence() -> None:
    with FakeServer(["a", "b"], answer="b") as server, Client(server.address) as client:
        assert client.classify([[0.0], [1.0]], model="model").labels == ("b", "b")


def test_a_rule_gives_labels_or_logits() -> None:
    def by_length(sequence: NDArray[np.float32]) -> str | list[float]:
        return "long" if len(sequence) > 2 else [2.0, -1.0]

    with FakeServer(["short", "long"], answer=by_length) as server, Client(server.address) as one:
        answers = one.classify([[0.0], [0.0] * 3], model="model")
    assert answers.labels == ("short", "long")
    assert answers.logits[0].tolist() == [2, -1]


def test_answers_do_not_depend_on_the_company() -> None:
    sequences = [[0.3, 0.9], [1.4], [0.1, 0.2, 0.6]]
    with FakeServer(["a", "b"]) as server, Client(server.address) as client:
        together = client.classify(sequences, model="model").logits
        alone = [client.classify([one], model="model").logits[0] for one in sequences]
    np.testing.assert_array_equal(together, alone)


def test_calls_are_written_down_in_order(server: FakeServer, sync_client: Client) -> None:
    sync_client.classify([[0.0]], model="model", top_k=1, timeout_s=100)
    sync_client.models()
    first, second = server.calls
    assert (first.method, second.method) == ("Classify", "ListModels")
    assert first.request.top_k == 1
    assert list(first.request.sequences.lengths) == [1]
    assert 0 < first.time_remaining_s < 200


def test_failures_come_in_the_order_asked_for(server: FakeServer, sync_client: Client) -> None:
    server.fail(grpc.StatusCode.NOT_FOUND, "first", method="ListModels")
    server.fail(grpc.StatusCode.UNAUTHENTICATED, "second", times=2)
    with pytest.raises(Unauthenticated, match="second"):
        sync_client.describe("model")
    with pytest.raises(ModelNotFound, match="first"):
        sync_client.models()
    with pytest.raises(Unauthenticated, match="second"):
        sync_client.models()
    assert len(sync_client.models()) == 1


def test_a_model_of_so_many_features_takes_no_others() -> None:
    with FakeServer(features=["x", "y"]) as server, Client(server.address) as client:
        wanted = client.describe("model").manifest.input.features
        assert (wanted.size, list(wanted.names)) == (2, ["x", "y"])
        client.classify([np.zeros((3, 2))], model="model")
        with pytest.raises(InvalidRequest, match="1 features a step; 2 are needed"):
            client.classify([np.zeros((3, 1))], model="model")


def test_it_comes_back_at_the_same_address(server: FakeServer) -> None:
    address = server.address
    server.stop()
    server.start()
    assert server.address == address
    with Client(address) as client:
        assert client.ready("model")


def test_stopping_twice_is_harmless() -> None:
    server = FakeServer()
    server.stop()
    server.start()
    server.stop()
    server.stop()


def test_an_answer_that_is_none_of_the_labels_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="'bird' is none of the labels cat, dog"):
        FakeServer(["cat", "dog"], answer="bird")


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (lambda _: "bird", "'bird' is none of the labels cat, dog"),
        (lambda _: [1.0, 2.0, 3.0], r"logits of shape \(3,\) for 2 labels"),
    ],
    ids=["label", "logits"],
)
def test_a_rule_that_answers_wrongly_is_told_to_the_caller(rule: Rule, message: str) -> None:
    with (
        FakeServer(["cat", "dog"], answer=rule) as server,
        Client(server.address) as client,
        pytest.raises(ServerFault, match=message),
    ):
        client.classify([[0.0]], model="model")
