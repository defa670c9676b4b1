"""Whole sequences in, an answer for each."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from seqserve.ragged import RaggedBatch
from seqserve.v1.classifier_pb2 import ClassifyResponse
from seqserve.v1.sequences_pb2 import Answers
from seqserve_client import Answer, Client, ProtocolError
from seqserve_client.classification import read
from seqserve_client.testing import FakeServer

Sequences = list[NDArray[np.float32]]


def nearest(sequence: NDArray[np.float32]) -> str:
    """The class that the fake server gives by default, computed here."""
    return ["low", "middle", "high"][int(np.argmin(abs(np.arange(3) - sequence.mean())))]


def test_every_sequence_is_answered_in_order(client: Client, sequences: Sequences) -> None:
    answers = client.classify(sequences, model="model")
    assert answers.labels == tuple(nearest(sequence) for sequence in sequences)
    assert len(set(answers.labels)) == 3
    assert answers.classes == ("low", "middle", "high")
    assert answers.top_labels == ()
    assert answers.probabilities.shape == answers.logits.shape == (40, 3)
    assert answers.probabilities.dtype == answers.logits.dtype == np.float32
    np.testing.assert_allclose(answers.probabilities.sum(axis=1), 1, rtol=1e-6)


def test_a_ragged_batch_and_a_list_of_arrays_are_the_same_question(
    client: Client, server: FakeServer, sequences: Sequences
) -> None:
    from_list = client.classify(sequences, model="model")
    from_batch = client.classify(RaggedBatch.from_sequences(sequences), model="model")
    assert server.calls[0].request == server.calls[1].request
    np.testing.assert_array_equal(from_list.logits, from_batch.logits)


def test_plain_lists_are_sequences_of_one_feature(client: Client) -> None:
    assert client.classify([[0.1, 0.2], [1.9]], model="model").labels == ("low", "high")


def test_answer_names_the_model_exactly(connect: Callable[..., Client], server: FakeServer) -> None:
    server.publish(7)
    client = connect(server.address)
    newest = client.classify([[0.0]], model="model")
    oldest = client.classify([[0.0]], model="model", version=1)
    assert (newest.model_name, newest.model_version) == ("model", 7)
    assert (oldest.model_name, oldest.model_version) == ("model", 1)
    assert newest.model_digest != oldest.model_digest


def test_top_k_names_the_most_probable_classes_first(client: Client, sequences: Sequences) -> None:
    every = client.classify(sequences, model="model")
    best = client.classify(sequences, model="model", top_k=2)
    assert best.labels == every.labels
    assert best.classes == ()
    order = np.argsort(-every.probabilities, axis=1)[:, :2]
    assert best.top_labels == tuple(tuple(every.classes[column] for column in row) for row in order)
    np.testing.assert_array_equal(
        best.probabilities, np.take_along_axis(every.probabilities, order, axis=1)
    )
    np.testing.assert_array_equal(best.logits, np.take_along_axis(every.logits, order, axis=1))


@pytest.mark.parametrize("top_k", [0, 2])
def test_answers_are_indexed_sliced_and_iterated_over(
    client: Client, sequences: Sequences, top_k: int
) -> None:
    answers = client.classify(sequences, model="model", top_k=top_k)
    every = list(answers)
    assert len(every) == len(answers) == 40
    assert all(isinstance(answer, Answer) for answer in every)
    assert tuple(answer.label for answer in every) == answers.labels
    np.testing.assert_array_equal([one.probability for one in every], answers.confidence)
    last = answers[-1]
    assert last.label == answers.labels[39]
    assert last.labels[int(np.argmax(last.probabilities))] == last.label
    np.testing.assert_array_equal(last.logits, answers.logits[39])
    part = answers[3:30:9]
    assert [answer.label for answer in part] == [every[index].label for index in (3, 12, 21)]
    assert part.model_version == answers.model_version
    with pytest.raises(IndexError):
        answers[40]


def test_answers_become_a_pandas_frame(client: Client, sequences: Sequences) -> None:
    pytest.importorskip("pandas")
    answers = client.classify(sequences, model="model")
    frame = answers.to_pandas()
    assert list(frame.columns) == [
        *("label", "probability"),
        *("probability:low", "probability:middle", "probability:high"),
        *("logit:low", "logit:middle", "logit:high"),
    ]
    assert tuple(frame["label"]) == answers.labels
    np.testing.assert_array_equal(frame["logit:high"], answers.logits[:, 2])


def test_top_k_answers_become_an_arrow_table(client: Client, sequences: Sequences) -> None:
    pytest.importorskip("pyarrow")
    answers = client.classify(sequences, model="model", top_k=2)
    table = answers.to_arrow()
    assert table.column_names == [
        *("label", "probability", "logit"),
        *("label:2", "probability:2", "logit:2"),
    ]
    assert table["label:2"].to_pylist() == [row[1] for row in answers.top_labels]
    np.testing.assert_array_equal(table["probability:2"].to_numpy(), answers.probabilities[:, 1])


@pytest.mark.parametrize(("library", "method"), [("pandas", "to_pandas"), ("pyarrow", "to_arrow")])
def test_a_missing_table_library_is_named_with_its_install(
    client: Client, monkeypatch: pytest.MonkeyPatch, library: str, method: str
) -> None:
    answers = client.classify([[0.0]], model="model")
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ModuleNotFoundError, match=f"pip install {library}"):
        getattr(answers, method)()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda answers: answers.labels.pop(),
        lambda answers: answers.classes.pop(),
        lambda answers: answers.labels.__setitem__(0, "nobody"),
        lambda answers: setattr(answers, "logits", answers.logits[:-4]),
        lambda answers: setattr(answers, "probabilities", b""),
    ],
    ids=["a label lost", "a class lost", "a label unknown", "logits cut", "no probabilities"],
)
def test_a_response_that_does_not_fit_is_not_believed(spoil: Callable[[Answers], object]) -> None:
    response = ClassifyResponse()
    response.answers.labels.extend(["b", "a"])
    response.answers.classes.extend(["a", "b"])
    response.answers.probabilities = np.array([[0.1, 0.9], [0.8, 0.2]], "<f4").tobytes()
    response.answers.logits = response.answers.probabilities
    assert read(response, sequences=2, top_k=0).labels == ("b", "a")
    spoil(response.answers)
    with pytest.raises(ProtocolError):
        read(response, sequences=2, top_k=0)


def test_importing_the_client_brings_neither_frameworks_nor_the_command_line() -> None:
    unwanted = ["pandas", "pyarrow", "typer", "rich", "torch", "onnxruntime", "seqserve_data"]
    script = (
        "import sys, seqserve_client; seqserve_client.Client;"
        f"print([name for name in {unwanted} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_naming_the_package_alone_imports_no_client() -> None:
    script = "import sys, seqserve_client; print('grpc' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False False\n"


def test_everything_promised_can_be_imported() -> None:
    import seqserve_client
    from seqserve_client import api

    assert all(getattr(seqserve_client, name) is getattr(api, name) for name in api.__all__)
    with pytest.raises(AttributeError, match="Nonsense"):
        seqserve_client.Nonsense  # type: ignore[attr-defined] # noqa: B018
