"""Live sequences: the state goes to the caller and comes back."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from seqserve import artifact, ragged
from seqserve.ragged import RaggedBatch
from seqserve.v1.classifier_pb2 import AdvanceRequest, AdvanceResponse
from seqserve_server.models import loading
from seqserve_server.models.version_policy import ALL, VersionPolicy
from seqserve_server.security.tokens import Token, TokenSealer, random_key

if TYPE_CHECKING:
    from tests.conftest import ModelRepository
    from tests.server.conftest import Running, RunServer

Array = NDArray[np.float32]
MakeSequences = Callable[..., list[Array]]

TIMEOUT_S = 60.0


def _advance(
    server: Running,
    model: str,
    steps: Sequence[Array],
    tokens: Sequence[bytes] = (),
    *,
    version: int = 0,
    top_k: int = 0,
) -> AdvanceResponse:
    request = AdvanceRequest(
        model_name=model,
        model_version=version,
        steps=ragged.encode(RaggedBatch.from_sequences(steps)),
        tokens=tokens,
        top_k=top_k,
    )
    return server.classifier.Advance(request, timeout=TIMEOUT_S)


def _refused(server: Running, model: str, tokens: Sequence[bytes], version: int = 0) -> str:
    """What a refused token is told; one step of zeros for each token."""
    steps = [np.zeros((1, 3), np.float32)] * len(tokens)
    with pytest.raises(grpc.RpcError) as raised:
        _advance(server, model, steps, tokens, version=version)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    return str(raised.value.details())


@st.composite
def _schedules(draw: st.DrawFn) -> list[list[int]]:
    """For each of a few sequences the lengths of its pieces, 0 where it sits a call out."""
    calls = draw(st.integers(1, 6))
    lengths = st.lists(st.integers(0, 9), min_size=calls, max_size=calls).filter(any)
    return draw(st.lists(lengths, min_size=1, max_size=5))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(schedules=_schedules(), model=st.sampled_from(["lstm", "gru", "rnn"]))
def test_pieces_give_what_the_whole_gives_bit_for_bit(
    server: Running, make_sequences: MakeSequences, schedules: list[list[int]], model: str
) -> None:
    sequences = make_sequences(*map(sum, schedules))
    whole = server.classify(model, sequences).answers
    tokens = [b""] * len(sequences)
    done = [0] * len(sequences)
    last: dict[int, tuple[bytes, bytes, str]] = {}

    for call in range(len(schedules[0])):
        rows = [row for row, pieces in enumerate(schedules) if pieces[call]]
        if not rows:
            continue
        steps = [sequences[row][done[row] : done[row] + schedules[row][call]] for row in rows]
        response = _advance(server, model, steps, [tokens[row] for row in rows])
        logits = ragged.decode_matrix(response.answers.logits, len(rows))
        probabilities = ragged.decode_matrix(response.answers.probabilities, len(rows))
        for place, row in enumerate(rows):
            tokens[row] = response.tokens[place]
            done[row] += schedules[row][call]
            assert response.steps[place] == done[row]
            last[row] = (
                logits[place].tobytes(),
                probabilities[place].tobytes(),
                response.answers.labels[place],
            )

    logits = ragged.decode_matrix(whole.logits, len(sequences))
    probabilities = ragged.decode_matrix(whole.probabilities, len(sequences))
    assert [last[row] for row in range(len(sequences))] == [
        (logits[row].tobytes(), probabilities[row].tobytes(), whole.labels[row])
        for row in range(len(sequences))
    ]


def test_a_request_cut_into_many_runs_advances_every_row(
    run_server: RunServer,
    server: Running,
    models: Path,
    make_sequences: MakeSequences,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sequences = make_sequences(9, 2, 30, 4, 6)
    whole = server.classify("lstm", sequences).answers
    monkeypatch.setattr(loading, "RUN_BYTES", 4096)  # a dozen row-steps

    with run_server(models) as cutting:
        first = _advance(cutting, "lstm", [sequence[:1] for sequence in sequences])
        rest = _advance(cutting, "lstm", [sequence[1:] for sequence in sequences], first.tokens)

    assert rest.answers == whole
    assert list(rest.steps) == [9, 2, 30, 4, 6]


def test_a_token_may_be_used_twice(server: Running, make_sequences: MakeSequences) -> None:
    [sequence] = make_sequences(8)
    token = _advance(server, "gru", [sequence[:5]]).tokens[0]

    once, again = (_advance(server, "gru", [sequence[5:]], [token]) for _ in range(2))

    assert once.answers == again.answers == server.classify("gru", [sequence]).answers


def test_top_k_holds_for_live_sequences(server: Running, make_sequences: MakeSequences) -> None:
    sequences = make_sequences(8, 3)

    response = _advance(server, "gru", sequences, top_k=2)

    assert response.answers == server.classify("gru", sequences, top_k=2).answers


def test_the_longest_sequence_accepted_limits_a_piece_and_not_the_whole(
    server: Running, make_sequences: MakeSequences
) -> None:
    [steps] = make_sequences(1024)

    first = _advance(server, "gru", [steps])
    second = _advance(server, "gru", [steps], first.tokens)

    assert list(second.steps) == [2048]


@pytest.mark.parametrize("place", ["first", "header", "state", "last"])
def test_a_tampered_token_is_refused_with_its_place(
    server: Running, make_sequences: MakeSequences, place: str
) -> None:
    good = _advance(server, "gru", make_sequences(3)).tokens[0]
    tampered = bytearray(good)
    tampered[{"first": 0, "header": 20, "state": 60, "last": len(good) - 1}[place]] ^= 1

    words = _refused(server, "gru", [good, b"", bytes(tampered)])

    assert words.startswith("the token of sequence 2 is not one that this server gave")


def test_a_token_of_another_model_is_refused_with_its_place(
    server: Running, make_sequences: MakeSequences
) -> None:
    tokens = [_advance(server, model, make_sequences(3)).tokens[0] for model in ("lstm", "gru")]

    assert _refused(server, "lstm", tokens) == (
        "the token of sequence 1 is of another model or version than lstm version 1; begin the "
        "sequence again, or name the version it began with"
    )


def test_an_expired_token_is_refused(run_server: RunServer, models: Path) -> None:
    key = random_key()
    yesterday = TokenSealer(key, lifetime_s=60, now=lambda: time.time() - 86_400)
    token = Token(artifact.digest(models / "gru" / "1"), version=1, steps=3, state=bytes(32))

    with run_server(models, token_key=key) as server:
        words = _refused(server, "gru", [yesterday.seal(token)])

    assert words == "the token of sequence 0 has expired; begin the sequence again"


def test_another_replica_with_the_same_key_goes_on_where_the_first_left_off(
    run_server: RunServer, models: Path, make_sequences: MakeSequences
) -> None:
    [sequence] = make_sequences(20)
    key = random_key()
    with run_server(models, token_key=key) as replica:
        tokens = _advance(replica, "lstm", [sequence[:11]]).tokens

    with run_server(models, token_key=key) as replica:
        rest = _advance(replica, "lstm", [sequence[11:]], tokens)
        whole = replica.classify("lstm", [sequence])

    assert rest.answers == whole.answers


def test_a_server_with_a_key_of_its_own_refuses_the_tokens_of_others(
    run_server: RunServer, server: Running, models: Path, make_sequences: MakeSequences
) -> None:
    token = _advance(server, "gru", make_sequences(3)).tokens[0]

    with run_server(models) as other:
        words = _refused(other, "gru", [token])

    assert "sealed with another key" in words


def test_a_sequence_stays_with_the_version_it_began_with(
    run_server: RunServer,
    repository: ModelRepository,
    publish_as: Callable[[Path, Path, int], None],
    tmp_path: Path,
    make_sequences: MakeSequences,
) -> None:
    for version in (1, 2):
        publish_as(repository(gru={"cell": "gru", "seed": version}) / "gru", tmp_path, version)
    [sequence] = make_sequences(10)

    with run_server(tmp_path, version_policy=VersionPolicy(ALL)) as server:
        begun = _advance(server, "gru", [sequence[:6]], version=1)
        rest = _advance(server, "gru", [sequence[6:]], begun.tokens)
        newest = _advance(server, "gru", [sequence])
        words = _refused(server, "gru", begun.tokens, version=2)
        mixed = _refused(server, "gru", [begun.tokens[0], newest.tokens[0]])
        old = server.classify("gru", [sequence], version=1)

    assert (rest.model_version, newest.model_version) == (1, 2)
    assert rest.model_digest == artifact.digest(tmp_path / "gru" / "1")
    assert rest.answers == old.answers
    assert "another model or version than gru version 2" in words
    assert mixed.startswith("the token of sequence 1 is of another model or version")
