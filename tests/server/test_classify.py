from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from seqserve import artifact, ragged
from seqserve.graph import Outputs
from seqserve_server.models import loading

if TYPE_CHECKING:
    from tests.server.conftest import Running, RunServer

Array = NDArray[np.float32]
InProcess = Callable[[str, Array], Outputs]
MakeSequences = Callable[..., list[Array]]

EVERY_MODEL = pytest.mark.parametrize("model", ["lstm", "gru", "rnn", "both-ways"])


@EVERY_MODEL
def test_logits_over_the_wire_are_those_of_a_batch_of_one_bit_for_bit(
    server: Running, in_process: InProcess, make_sequences: MakeSequences, model: str
) -> None:
    sequences = make_sequences(5, 1, 29, 2, 5, 17)

    answers = server.classify(model, sequences).answers

    logits = ragged.decode_matrix(answers.logits, len(sequences))
    probabilities = ragged.decode_matrix(answers.probabilities, len(sequences))
    for index, sequence in enumerate(sequences):
        alone = in_process(model, sequence)
        assert np.array_equal(logits[index], alone.logits[0])
        assert np.array_equal(probabilities[index], alone.probabilities[0])


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=40),
    model=st.sampled_from(["lstm", "gru", "rnn", "both-ways"]),
)
def test_any_company_gives_the_same_logits(
    server: Running,
    in_process: InProcess,
    make_sequences: MakeSequences,
    lengths: list[int],
    model: str,
) -> None:
    sequences = make_sequences(*lengths)

    answers = server.classify(model, sequences).answers

    alone = [in_process(model, sequence).logits[0] for sequence in sequences]
    assert np.array_equal(ragged.decode_matrix(answers.logits, len(sequences)), alone)


@EVERY_MODEL
def test_a_request_cut_into_many_runs_has_the_same_answer(
    run_server: RunServer,
    server: Running,
    models: Path,
    make_sequences: MakeSequences,
    monkeypatch: pytest.MonkeyPatch,
    model: str,
) -> None:
    sequences = make_sequences(3, 29, 1, 4, 12, 12, 7, 1)
    whole = server.classify(model, sequences)
    monkeypatch.setattr(loading, "RUN_BYTES", 4096)  # a dozen row-steps

    with run_server(models) as cutting:
        cut = cutting.classify(model, sequences)

    assert cut == whole


def test_an_answer_names_the_model_exactly(
    server: Running, models: Path, make_sequences: MakeSequences
) -> None:
    response = server.classify("gru", make_sequences(4))

    assert response.model_name == "gru"
    assert response.model_version == 1
    assert response.model_digest == artifact.digest(models / "gru" / "1")


def test_without_top_k_an_answer_has_the_whole_distribution(
    server: Running, make_sequences: MakeSequences
) -> None:
    answers = server.classify("gru", make_sequences(4, 9, 2)).answers

    probabilities = ragged.decode_matrix(answers.probabilities, 3)
    assert list(answers.classes) == ["class 0", "class 1", "class 2", "class 3"]
    assert list(answers.labels) == [f"class {best}" for best in probabilities.argmax(axis=1)]
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(3))


@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_top_k_names_the_most_probable_classes_in_order(
    server: Running, make_sequences: MakeSequences, top_k: int
) -> None:
    sequences = make_sequences(4, 9, 2)
    whole = server.classify("gru", sequences).answers

    answers = server.classify("gru", sequences, top_k=top_k).answers

    distribution = ragged.decode_matrix(whole.probabilities, 3)
    logits = ragged.decode_matrix(whole.logits, 3)
    order = np.argsort(-distribution, axis=1)[:, :top_k]
    assert list(answers.classes) == []
    assert list(answers.labels) == [f"class {index}" for index in order.ravel()]
    assert np.array_equal(
        ragged.decode_matrix(answers.probabilities, 3),
        np.take_along_axis(distribution, order, axis=1),
    )
    assert np.array_equal(
        ragged.decode_matrix(answers.logits, 3), np.take_along_axis(logits, order, axis=1)
    )
