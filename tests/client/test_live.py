"""Live sequences: steps in pieces, tokens carried by the caller."""

from __future__ import annotations

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from seqserve.v1.classifier_pb2 import AdvanceRequest, AdvanceResponse
from seqserve_client import (
    AsyncClient,
    Client,
    InvalidOptions,
    InvalidSequences,
    LiveSequence,
    ModelNotFound,
    ProtocolError,
    live,
)
from seqserve_client.testing import FakeServer

Sequences = list[NDArray[np.float32]]


def test_pieces_are_answered_as_the_whole_is(client: Client, sequences: Sequences) -> None:
    whole = [sequence for sequence in sequences if len(sequence) >= 2]
    expected = client.classify(whole, model="model")
    first = client.advance([one[:1] for one in whole], model="model")
    second = client.advance([one[1:] for one in whole], model="model", tokens=first.tokens)
    assert len(second) == len(whole)
    assert first.steps.tolist() == [1] * len(whole)
    assert second.steps.tolist() == [len(one) for one in whole]
    assert second.answers.labels == expected.labels
    np.testing.assert_array_equal(second.answers.logits, expected.logits)


def test_new_and_known_sequences_travel_together(client: Client) -> None:
    first = client.advance([[0.0, 0.0]], model="model")
    both = client.advance([[2.0], [2.0]], model="model", tokens=[b"", first.tokens[0]])
    assert both.steps.tolist() == [1, 3]
    assert both.answers.labels == ("high", "middle")


def test_a_live_sequence_carries_its_own_token(client: Client, server: FakeServer) -> None:
    server.publish(2)
    followed = client.live(model="model", top_k=1)
    steps, labels = [], []
    for piece in ([0.0], [2.0, 2.0], [2.0] * 5):
        answer = followed.advance(piece)
        steps.append(followed.steps)
        labels.append(answer.label)
    assert steps == [1, 3, 8]
    assert labels == ["low", "middle", "high"]
    assert answer.labels == ("high",)


def test_a_live_sequence_stays_with_the_version_it_began_with(
    sync_client: Client, server: FakeServer
) -> None:
    followed = sync_client.live(model="model")
    followed.advance([0.0])
    server.publish(2)
    followed.advance([0.0])
    assert [call.request.model_version for call in server.calls] == [0, 1]
    assert followed.version == 1


def test_steps_may_be_given_again_after_a_failure(sync_client: Client, server: FakeServer) -> None:
    followed = sync_client.live(model="model")
    followed.advance([0.0])
    server.fail(grpc.StatusCode.NOT_FOUND)
    with pytest.raises(ModelNotFound):
        followed.advance([2.0])
    assert followed.steps == 1
    assert followed.advance([2.0]).label == "middle"
    assert followed.steps == 2


async def test_a_live_sequence_is_awaited_too(server: FakeServer) -> None:
    async with AsyncClient(server.address) as client:
        followed = client.live(model="model")
        await followed.advance([0.0])
        assert (await followed.advance([2.0, 2.0])).label == "middle"
        assert followed.steps == 3


def test_one_token_a_sequence_is_needed(client: Client, server: FakeServer) -> None:
    with pytest.raises(InvalidOptions, match="2 tokens were given for 1 sequences"):
        client.advance([[0.0]], model="model", tokens=[b"", b""])
    assert server.calls == []


def test_a_token_that_was_altered_is_refused(client: Client) -> None:
    first = client.advance([[0.0], [0.0]], model="model")
    with pytest.raises(InvalidSequences, match="token of sequence 1") as caught:
        client.advance(
            [[0.0], [0.0]], model="model", tokens=[first.tokens[0], b"\xff" + first.tokens[1]]
        )
    assert caught.value.violations[0].sequence == 1


def test_a_response_without_tokens_is_not_believed() -> None:
    asked = live.request([[0.0]], None, model="model", version=0, top_k=0)
    with pytest.raises(ProtocolError, match="a token and a count of steps for 1"):
        live.progress(AdvanceResponse(), asked)


def test_no_tokens_are_sent_where_every_sequence_is_new() -> None:
    assert live.request([[0.0]], None, model="m", version=3, top_k=2) == AdvanceRequest(
        model_name="m",
        model_version=3,
        top_k=2,
        steps=live.request([[0.0]], [], model="m", version=0, top_k=0).steps,
    )


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=6))
def test_however_a_sequence_is_split_its_answer_is_that_of_the_whole(splits: list[int]) -> None:
    values = np.random.default_rng(1).normal(size=(sum(splits), 2)).astype(np.float32)
    with FakeServer(["a", "b", "c"]) as server, Client(server.address) as client:
        followed: LiveSequence = client.live(model="model")
        for end, size in zip(np.cumsum(splits), splits, strict=True):
            answer = followed.advance(values[end - size : end])
        expected = client.classify([values], model="model")[0]
    np.testing.assert_array_equal(answer.logits, expected.logits)
    assert followed.steps == len(values)
