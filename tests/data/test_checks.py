"""Labels that cannot be learnt from, and where they stand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from seqserve.ragged import RaggedBatch
from seqserve_data import DataError, Dataset, check_labels, check_trainable

if TYPE_CHECKING:
    from tests.data.conftest import Parquet, Read

GOOD = "id,x,label\na,1,u\nb,1,v\nc,1,v\nd,1,u\n"


def test_two_classes_of_two_can_be_learnt(read_text: Read) -> None:
    check_trainable(read_text("d.csv", GOOD))


def test_a_known_label_is_accepted(read_text: Read) -> None:
    check_labels(read_text("d.csv", GOOD), ("w", "v", "u"))


def test_one_class_cannot_be_learnt(read_text: Read) -> None:
    with pytest.raises(DataError, match=r"^d.csv: every sequence has the label 'u'; at least two"):
        check_trainable(read_text("d.csv", "id,x,label\na,1,u\nb,1,u\n"))


def test_unlabelled_data_can_neither_be_learnt_nor_tested_by(read_text: Read) -> None:
    dataset = read_text("d.csv", "id,x\na,1\nb,1\n")
    with pytest.raises(DataError, match=r"^d.csv: has no labels"):
        check_trainable(dataset)
    with pytest.raises(DataError, match=r"^d.csv: has no labels"):
        check_labels(dataset, ["u", "v"])


def test_a_class_of_one_is_named_with_its_line(read_text: Read) -> None:
    dataset = read_text("d.csv", "id,x,kind,class\na,1,0,u\n\nb,1,0,w\nb,2,0,w\nc,1,0,u\n")
    with pytest.raises(DataError, match=r"d.csv, line 4, column 'class': class 'w' has this one"):
        check_trainable(dataset)


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("d.csv", GOOD.replace("c,1,v", "c,1,w\na,1,u"), "line 4, column 'label'"),
        (
            "d.jsonl",
            '{"values": [1], "class": "u"}\n\n{"values": [1], "class": "w"}',
            "line 3, column 'class'",
        ),
        ("d.ts", "@classlabel true u w\n@data\n1:u\n2:w\n", "line 4"),
    ],
    ids=["csv", "jsonl", "ts"],
)
def test_a_label_unseen_in_training_is_named_with_its_line(
    read_text: Read, name: str, content: str, place: str
) -> None:
    with pytest.raises(DataError) as caught:
        check_labels(read_text(name, content), ("u", "v"))
    message = f"{name}, {place}: label 'w' was not seen in training, which had 'u', 'v'"
    assert str(caught.value).endswith(message)


def test_a_label_unseen_in_training_is_named_with_its_row(
    read_text: Read, parquet: Parquet
) -> None:
    long = parquet({"id": [1, 1, 2, 2], "x": [1.0, 2, 3, 4], "label": ["u", "u", "w", "w"]})
    nested = parquet({"x": [[1.0], [2.0], [3.0]], "label": ["u", "u", "w"]})
    for content in (long, nested):
        with pytest.raises(DataError, match=r"row 2 \(counted from 0\), column 'label': label 'w'"):
            check_labels(read_text("d.parquet", content), ("u", "v"))


def test_a_sequence_that_was_taken_still_knows_its_line(read_text: Read) -> None:
    dataset = read_text("d.csv", GOOD).take([3, 2])
    with pytest.raises(DataError, match=r"d.csv, line 4, column 'label': label 'v'"):
        check_labels(dataset, ("u",))


def test_data_of_no_file_is_named_by_its_name() -> None:
    batch = RaggedBatch(np.ones((2, 1), np.float32), np.ones(2, np.int64))
    with pytest.raises(DataError, match=r"^made, row 1 \(counted from 0\), column 'label'"):
        check_labels(Dataset("made", batch, ("u", "w"), ("0", "1")), ("u", "v"))


def test_of_many_classes_the_first_are_named(read_text: Read) -> None:
    with pytest.raises(DataError, match=r"'0', '1', .* '19' and 80 more$"):
        check_labels(read_text("d.csv", GOOD), [str(index) for index in range(100)])
