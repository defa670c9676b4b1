"""Bad sequences among good ones: the request is refused, or the others are answered bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from seqserve import ragged
from seqserve.ragged import RaggedBatch
from seqserve.v1.classifier_pb2 import (
    ON_INVALID_ANSWER_REST,
    ON_INVALID_REJECT,
    AdvanceRequest,
    ClassifyRequest,
    ClassifyResponse,
    OnInvalid,
)
from seqserve_server import validation
from seqserve_server.models.sessions import opener
from seqserve_server.options import ExecutionProvider
from seqserve_server.validation import MOST_NAMED

if TYPE_CHECKING:
    from seqserve.graph import Outputs
    from tests.conftest import ModelRepository, PublishedOptions
    from tests.server.conftest import Array, Running, RunServer

TIMEOUT_S = 60.0
MAX_STEPS = 1024
BATCH = 256
LONGEST = 1000
"""Steps that take the models below more than one run."""
ADMITTING: dict[str, PublishedOptions] = {
    "lstm": {"cell": "lstm", "num_layers": 2, "head": "mean", "hidden_size": 64},
    "gru": {"cell": "gru", "hidden_size": 96},
    "rnn": {"cell": "rnn-tanh", "hidden_size": 128},
    "both-ways": {"cell": "lstm", "bidirectional": True},
}


def request(
    sequences: list[Array],
    *,
    model: str = "gru",
    top_k: int = 0,
    on_invalid: OnInvalid.ValueType = ON_INVALID_ANSWER_REST,
) -> ClassifyRequest:
    return ClassifyRequest(
        model_name=model,
        sequences=ragged.encode(RaggedBatch.from_sequences(sequences, admit_empty=True)),
        top_k=top_k,
        on_invalid=on_invalid,
    )


def some(count: int, *, longest: int = 40, seed: int = 5) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [
        rng.standard_normal((steps, 3), np.float32)
        for steps in rng.integers(1, longest, count, endpoint=True)
    ]


def spoilt() -> tuple[list[Array], dict[int, tuple[str, str]]]:
    """A batch of BATCH sequences, three of them bad, and what is to be said of those."""
    sequences = some(BATCH)
    sequences[7] = np.empty((0, 3), np.float32)
    sequences[100] = np.zeros((MAX_STEPS + 1, 3), np.float32)
    sequences[255][0, 2] = np.inf
    return sequences, {
        7: ("sequences.lengths", "sequence 7 has 0 steps; at least 1 is needed"),
        100: (
            "sequences.lengths",
            "sequence 100 has 1025 steps; gru version 1 accepts at most 1024",
        ),
        255: (
            "sequences.values",
            "sequence 255 has inf at step 0, feature 2; every number must be finite",
        ),
    }


def logits(response: ClassifyResponse, sequences: int) -> Array:
    return ragged.decode_matrix(response.answers.logits, sequences)


def probabilities(response: ClassifyResponse, sequences: int) -> Array:
    return ragged.decode_matrix(response.answers.probabilities, sequences)


@pytest.mark.parametrize("top_k", [0, 2])
def test_the_rest_of_a_batch_is_answered_as_if_the_bad_ones_were_not_there(
    server: Running, in_process: Callable[[str, Array], Outputs], top_k: int
) -> None:
    sequences, bad = spoilt()
    response = server.classifier.Classify(request(sequences, top_k=top_k), timeout=TIMEOUT_S)

    told = {each.index: (each.field, each.description) for each in response.invalid}
    assert told == bad
    assert list(told) == sorted(told)
    width = max(1, top_k)
    assert len(response.answers.labels) == BATCH * width
    for index, sequence in enumerate(sequences):
        labels = response.answers.labels[index * width : (index + 1) * width]
        row = logits(response, BATCH)[index]
        if index in bad:
            assert labels == [""] * width
            assert np.isnan(row).all()
            assert np.isnan(probabilities(response, BATCH)[index]).all()
        else:
            alone = in_process("gru", sequence)
            order = np.argsort(-alone.probabilities[0], kind="stable")[: top_k or None]
            expected = alone.logits[0][order] if top_k else alone.logits[0]
            assert row.tobytes() == expected.tobytes()
            assert labels == [f"class {place}" for place in order[:width]]


def test_where_every_sequence_is_bad_each_is_told_why(server: Running) -> None:
    bad = np.full((2, 3), np.nan, np.float32)
    response = server.classifier.Classify(request([bad] * 300), timeout=TIMEOUT_S)

    assert [each.index for each in response.invalid] == list(range(300))
    assert list(response.answers.labels) == [""] * 300
    assert np.isnan(logits(response, 300)).all()
    assert (response.model_name, response.model_version) == ("gru", 1)
    assert len(response.answers.classes) == logits(response, 300).shape[1]


@pytest.mark.parametrize("on_invalid", [0, ON_INVALID_REJECT], ids=["unspecified", "reject"])
def test_a_refused_batch_names_every_bad_sequence(
    server: Running, on_invalid: OnInvalid.ValueType
) -> None:
    sequences, bad = spoilt()
    error = server.refusal(request(sequences, on_invalid=on_invalid))

    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert error.message == f"{bad[7][1]} (and 2 more sequences)"
    assert [(each.field, each.description) for each in error.detail.field_violations] == [
        (f"{field}[{index}]", description) for index, (field, description) in bad.items()
    ]


def test_a_refusal_of_very_many_sequences_fits_into_metadata(
    run_server: RunServer, repository: ModelRepository
) -> None:
    name = "m" * 128
    too_long = [np.zeros((MAX_STEPS + 1, 3), np.float32)] * 300
    models: dict[str, PublishedOptions] = {name: {}}
    with run_server(repository(**models)) as server:
        error = server.refusal(request(too_long, model=name, on_invalid=ON_INVALID_REJECT))

    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert error.message.endswith("(and 299 more sequences)")
    named = [each.field for each in error.detail.field_violations]
    assert named == [f"sequences.lengths[{index}]" for index in range(MOST_NAMED)]


def test_only_the_sequences_that_a_refusal_names_are_described(
    run_server: RunServer, repository: ModelRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every kind of them among very many; the others are counted."""
    described: list[int] = []
    invalid_sequence = validation.InvalidSequence

    def counted(index: int, field: str, description: str) -> validation.InvalidSequence:
        described.append(index)
        return invalid_sequence(index, field, description)

    bad = [np.empty((0, 3)), np.zeros((MAX_STEPS + 1, 3)), np.full((1, 3), np.nan)]
    kinds = [each.astype(np.float32) for each in bad] + [np.empty((0, 3), np.float32)] * 1000
    models: dict[str, PublishedOptions] = {"gru": {}}
    monkeypatch.setattr(validation, "InvalidSequence", counted)
    with run_server(repository(**models)) as server:
        error = server.refusal(request([*some(3), *kinds], on_invalid=ON_INVALID_REJECT))

    assert described == [*range(3, 3 + MOST_NAMED)]
    assert error.message.endswith("(and 1002 more sequences)")
    fields = [each.field for each in error.detail.field_violations[:3]]
    assert fields == ["sequences.lengths[3]", "sequences.lengths[4]", "sequences.values[5]"]


def test_bad_live_sequences_are_all_named(server: Running) -> None:
    steps = np.zeros((5, 3), np.float32)
    steps[[1, 3]] = np.nan
    batch = ragged.encode(RaggedBatch(steps, np.ones(5, np.int64)))
    error = server.refusal(AdvanceRequest(model_name="gru", steps=batch))
    named = [each.field for each in error.detail.field_violations]
    assert named == ["steps.values[1]", "steps.values[3]"]

    error = server.refusal(
        AdvanceRequest(model_name="gru", steps=batch, tokens=[b"", b"x", b"", b"", b"y"])
    )
    named = [each.field for each in error.detail.field_violations]
    assert named == ["tokens[1]", "tokens[4]"]


@pytest.mark.parametrize(
    ("spoil", "field"),
    [
        pytest.param(lambda asked: setattr(asked, "top_k", 5), "top_k", id="top_k"),
        pytest.param(lambda asked: setattr(asked, "on_invalid", 7), "on_invalid", id="on_invalid"),
        pytest.param(
            lambda asked: setattr(asked.sequences, "values", asked.sequences.values[:-1]),
            "sequences.values",
            id="size",
        ),
        pytest.param(
            lambda asked: asked.sequences.lengths.append(1), "sequences.values", id="lengths"
        ),
    ],
)
def test_what_is_wrong_with_the_whole_request_refuses_it_all_the_same(
    server: Running, spoil: Callable[[ClassifyRequest], object], field: str
) -> None:
    asked = request(spoilt()[0])
    spoil(asked)
    error = server.refusal(asked)

    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert [each.field for each in error.detail.field_violations] == [field]


@given(st.lists(st.sampled_from(["good", "empty", "long", "nan"]), min_size=1, max_size=30))
@settings(max_examples=25)
def test_whichever_are_bad_the_others_get_their_answers(
    server: Running, in_process: Callable[[str, Array], Outputs], kinds: list[str]
) -> None:
    sequences = some(len(kinds), longest=9, seed=len(kinds))
    for index, kind in enumerate(kinds):
        if kind == "empty":
            sequences[index] = sequences[index][:0]
        elif kind == "long":
            sequences[index] = np.zeros((MAX_STEPS + 1, 3), np.float32)
        elif kind == "nan":
            sequences[index][-1, 0] = np.nan
    response = server.classifier.Classify(request(sequences), timeout=TIMEOUT_S)

    bad = [index for index, kind in enumerate(kinds) if kind != "good"]
    assert [each.index for each in response.invalid] == bad
    for index, row in enumerate(logits(response, len(kinds))):
        if index in bad:
            assert np.isnan(row).all()
        else:
            assert row.tobytes() == in_process("gru", sequences[index]).logits.tobytes()


class _Carrying:
    """A session that counts the runs in which a row goes on with a state of its own."""

    runs = 0

    def __init__(self, model: bytes) -> None:
        self._session = opener(ExecutionProvider.CPU)(model)

    def run(
        self, output_names: Sequence[str], input_feed: Mapping[str, NDArray[Any]]
    ) -> Sequence[Any]:
        _Carrying.runs += bool(np.any(input_feed.get("layer0_h_in", 0)))
        return self._session.run(output_names, input_feed)

    def get_providers(self) -> Sequence[str]:
        return self._session.get_providers()


@pytest.fixture(scope="module")
def admitting(run_server: RunServer, repository: ModelRepository) -> Iterator[Running]:
    """A server of models that take NaN and infinities."""
    models: dict[str, PublishedOptions] = {
        name: {**options, "admit_non_finite": True} for name, options in ADMITTING.items()
    }
    with run_server(repository(**models), open_session=_Carrying) as server:
        yield server


@pytest.mark.parametrize("name", ADMITTING)
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_changes_no_bit_of_its_batch_mates(
    admitting: Running, name: str, number: float
) -> None:
    # Of unlike lengths, so that rows end, are padded and go on with their state.
    sequences = some(64, longest=LONGEST)
    carrying = _Carrying.runs
    clean = logits(admitting.classify(name, sequences), 64)
    assert name == "both-ways" or _Carrying.runs > carrying
    bad = range(1, 64, 3)
    for index in bad:
        sequences[index] = sequences[index].copy()
        sequences[index][len(sequences[index]) // 2, 1] = number
    mixed = logits(admitting.classify(name, sequences), 64)
    again = logits(admitting.classify(name, sequences), 64)
    clean_after = logits(admitting.classify(name, some(64, longest=LONGEST)), 64)

    for index in range(64):
        if index not in bad:
            assert mixed[index].tobytes() == clean[index].tobytes()
    assert again.tobytes() == mixed.tobytes()
    # Nor of those that take the places of its state afterwards.
    assert clean_after.tobytes() == clean.tobytes()


@pytest.mark.parametrize("name", ["lstm", "gru", "rnn"])
def test_it_changes_no_live_sequence_beside_it(admitting: Running, name: str) -> None:
    sequences = some(8, longest=1) * 6  # steps of 8 live sequences

    def advanced(spoilt: bool) -> list[bytes]:
        tokens: list[bytes] = []
        for turn in range(6):
            steps = np.concatenate(sequences[8 * turn : 8 * turn + 8])
            if spoilt and turn == 2:
                steps[3] = np.nan
            response = admitting.classifier.Advance(
                AdvanceRequest(
                    model_name=name,
                    steps=ragged.encode(RaggedBatch(steps, np.ones(8, np.int64))),
                    tokens=tokens,
                ),
                timeout=TIMEOUT_S,
            )
            tokens = list(response.tokens)
        rows = ragged.decode_matrix(response.answers.logits, 8)
        return [row.tobytes() for index, row in enumerate(rows) if index != 3]

    assert advanced(spoilt=True) == advanced(spoilt=False)


def test_a_sequence_of_no_steps_is_refused_there_too(admitting: Running) -> None:
    nan = np.full((2, 3), np.nan, np.float32)
    response = admitting.classifier.Classify(request([nan, nan[:0]]), timeout=TIMEOUT_S)
    assert [each.index for each in response.invalid] == [1]
    assert response.answers.labels[0]
