"""One row a sequence, in .parquet with list columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from seqserve_data import Columns

if TYPE_CHECKING:
    from tests.data.conftest import Parquet, Read, Refuse


STEPS = [[[1, 2], [3, 4], [5, 6]], [[7, 8]]]
F64 = pa.float64()


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.list_(pa.float32())),
        pa.list_(pa.list_(F64, 2)),
        pa.large_list(pa.large_list(pa.int16())),
    ],
    ids=["lists", "lists of fixed size", "large lists"],
)
def test_one_column_may_hold_whole_sequences(
    read_text: Read, parquet: Parquet, kind: pa.DataType
) -> None:
    content = parquet(
        {"id": ["a", "b"], "label": ["u", "v"], "sequence": pa.array(STEPS, kind), "note": [1, 2]}
    )
    dataset = read_text("d.parquet", content)
    assert [sequence.tolist() for sequence in dataset.sequences] == STEPS
    assert dataset.ids == ("a", "b")
    assert dataset.labels == ("u", "v")
    assert dataset.feature_names == ()


def test_each_feature_may_have_a_column_of_lists(read_text: Read, parquet: Parquet) -> None:
    content = parquet({"time": [[1, 3, 5], [7]], "y": [[2.0, 4.0, 6.0], [8.0]]})
    dataset = read_text("d.parquet", content)
    assert [sequence.tolist() for sequence in dataset.sequences] == STEPS
    assert dataset.feature_names == ("time", "y")
    assert dataset.ids == ("0", "1")
    assert dataset.labels is None


def test_sequences_may_be_of_fixed_size(read_text: Read, parquet: Parquet) -> None:
    content = parquet({"x": pa.array([[1, 2], [3, 4]], pa.list_(F64, 2))})
    assert read_text("d.parquet", content).sequences.lengths.tolist() == [2, 2]


def test_the_columns_of_lists_may_be_told(read_text: Read, parquet: Parquet) -> None:
    content = parquet({"id": [[1]], "x": [[1, 2]], "steps": [[[1, 2]]], "who": ["a"]})
    dataset = read_text("d.parquet", content, Columns(id="who", features=("steps",)))
    assert dataset.sequences.features == 2
    assert dataset.ids == ("a",)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        pytest.param(
            {"x": [[[1, 2]], [[3, 4], [5]]]},
            "row 1 (counted from 0), column 'x': step 1 has 1 features, but the first step",
            id="unequal features",
        ),
        pytest.param({"x": [[[]]]}, "row 0 (counted from 0), column 'x': step 0 has no", id="none"),
        pytest.param({"x": [[[1]], []]}, "row 1 (counted from 0), column 'x': has no", id="empty"),
        pytest.param({"x": [[[1]], None]}, "row 1 (counted from 0), column 'x': is mis", id="null"),
        pytest.param({"x": [[[1]], [[2], None]]}, "column 'x': step 1 is missing", id="null step"),
        pytest.param(
            {"x": [[[1, 2]], [[3, 4], [5, None]]]},
            "row 1 (counted from 0), column 'x': step 1 feature 1 is missing",
            id="missing",
        ),
        pytest.param(
            {"x": [[1.0], [2.0, 3.0, float("inf")]]},
            "row 1 (counted from 0), column 'x': step 2 is infinite",
            id="infinite",
        ),
        pytest.param(
            {"x": [[1, 2], [3]], "y": [[1, 2], [3, 4]]},
            "row 1 (counted from 0), column 'y': has 2 steps, but column 'x' has 1",
            id="unequal lengths",
        ),
        pytest.param({"x": [["1"]]}, "column 'x': holds lists of string, not numbers", id="text"),
        pytest.param({"x": [[["1"]]]}, "column 'x': holds lists of string", id="text in steps"),
        pytest.param({"x": [[1]], "y": [[[1]]]}, "has the list columns 'x', 'y', and", id="both"),
        pytest.param({"x": [[1], [2]], "label": ["a", None]}, "row 1 (counted from 0)", id="label"),
        pytest.param({"x": pa.array([], pa.list_(F64))}, "has no rows", id="no rows"),
    ],
)
def test_a_bad_file_is_refused_with_its_place(
    refusal: Refuse, parquet: Parquet, columns: dict[str, Any], message: str
) -> None:
    assert message in refusal("d.parquet", parquet(columns))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (Columns(order="step"), "column 'step': one row is one sequence here"),
        (Columns(features=("x", "step")), "column 'step': holds int64, but the other features"),
        (Columns(features=("z",)), "has no column 'z'; it has 'x', 'step', 'y'"),
        (Columns(label="x", features=()), "column 'x': holds list"),
    ],
    ids=["order", "no list", "not there", "label"],
)
def test_a_column_told_must_fit(
    refusal: Refuse, parquet: Parquet, columns: Columns, message: str
) -> None:
    assert message in refusal("d.parquet", parquet({"x": [[1]], "step": [1], "y": [[1]]}), columns)
