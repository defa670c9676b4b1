from __future__ import annotations

import pickle
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqserve.ragged import RaggedBatch
from seqserve_data import DataError, Dataset

if TYPE_CHECKING:
    from tests.data.conftest import Read

DATASET = Dataset(
    name="three",
    sequences=RaggedBatch.from_sequences([[[1, 2]], [[3, 4], [5, 6]], [[7, 8]]]),
    labels=("u", "v", "u"),
    ids=("a", "b", "c"),
    feature_names=("x", "y"),
)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"labels": ("u", "v")}, "three: 2 labels for 3 sequences"),
        ({"ids": ("a", "b", "c", "d")}, "three: 4 ids for 3 sequences"),
        ({"feature_names": ("x",)}, "three: 1 feature names for 2 features"),
        (
            {"sequences": RaggedBatch(np.ones((0, 2), np.float32), np.ones(0, np.int64))},
            "three: there are no sequences",
        ),
    ],
    ids=["labels", "ids", "feature names", "no sequences"],
)
def test_what_is_known_must_be_known_of_every_sequence(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        replace(DATASET, **wrong)


@given(st.lists(st.integers(-3, 2), min_size=1))
def test_take_keeps_a_sequence_with_what_is_known_of_it(indices: list[int]) -> None:
    taken = DATASET.take(indices)
    assert DATASET.labels is not None
    assert taken.labels == tuple(DATASET.labels[index] for index in indices)
    assert taken.ids == tuple(DATASET.ids[index] for index in indices)
    assert taken.feature_names == DATASET.feature_names
    for sequence, index in zip(taken.sequences, indices, strict=True):
        np.testing.assert_array_equal(sequence, DATASET.sequences[index])


def test_take_of_nothing_is_refused() -> None:
    with pytest.raises(DataError, match="three: no sequences are left"):
        DATASET.take(np.zeros(0, np.int64))


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (("10", "9", "-1", "9"), ("-1", "9", "10")),
        (("10", "9", "a"), ("10", "9", "a")),
        (("1", "01", "1"), ("01", "1")),
        (("b", "a", "B"), ("B", "a", "b")),
        (("1.5", "10", "2"), ("1.5", "10", "2")),
    ],
    ids=["integers", "mixed", "equal values", "text", "fractions"],
)
def test_classes_are_sorted_by_value_where_all_are_integers(
    labels: tuple[str, ...], classes: tuple[str, ...]
) -> None:
    values = np.ones((len(labels), 1), np.float32)
    batch = RaggedBatch(values, np.ones(len(labels), np.int64))
    for order in (labels, labels[::-1]):
        assert Dataset("d", batch, order, labels).classes == classes


def test_a_data_set_can_be_sent_to_another_process(read_text: Read) -> None:
    dataset = read_text("d.csv", "id,x,label\na,1,u\nb,2,v\n")
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy.labels == dataset.labels
    assert copy.sequences.values.tobytes() == dataset.sequences.values.tobytes()
    assert copy.origin.place(1) == dataset.origin.place(1)  # type: ignore[union-attr]
