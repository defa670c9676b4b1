"""One row a step, in .csv and .parquet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from seqserve_data import Columns

if TYPE_CHECKING:
    from tests.data.conftest import Parquet, Read, Refuse


WALKS = "id,step,x,y,label\na,0,1,2,walk\na,1,3,4,walk\nb,0,5,6,run\n"


def test_a_csv_file_is_read_by_convention(read_text: Read) -> None:
    dataset = read_text("walks.csv", WALKS)
    assert dataset.name == "walks.csv"
    assert dataset.ids == ("a", "b")
    assert dataset.labels == ("walk", "run")
    assert dataset.feature_names == ("x", "y")
    assert [sequence.tolist() for sequence in dataset.sequences] == [[[1, 2], [3, 4]], [[5, 6]]]


def test_a_parquet_file_is_read_by_convention(read_text: Read, parquet: Parquet) -> None:
    columns = {
        "sequence_id": [7, 7, 3],
        "time": [1, 0, 0],
        "x": [3.0, 1.0, 5.0],
        "target": [True, True, False],
    }
    dataset = read_text("walks.parquet", parquet(columns))
    assert dataset.ids == ("7", "3")
    assert dataset.labels == ("true", "false")
    assert [sequence.tolist() for sequence in dataset.sequences] == [[[1], [3]], [[5]]]


def test_rows_of_a_sequence_are_gathered_from_anywhere(read_text: Read) -> None:
    dataset = read_text("d.csv", "id,x\nb,1\na,2\nb,3\na,4\nb,5\n")
    assert dataset.ids == ("b", "a")
    assert [sequence[:, 0].tolist() for sequence in dataset.sequences] == [[1, 3, 5], [2, 4]]


def test_without_an_order_column_rows_keep_the_order_of_the_file(read_text: Read) -> None:
    values = np.random.default_rng(0).permutation(1000)
    text = "id,x\n" + "".join(f"{value % 3},{value}\n" for value in values)
    dataset = read_text("d.csv", text)
    for name, sequence in zip(dataset.ids, dataset.sequences, strict=True):
        assert sequence[:, 0].tolist() == [v for v in values.tolist() if v % 3 == int(name)]


@pytest.mark.parametrize(
    ("first", "second", "third"),
    [
        pytest.param("9", "10", "11", id="integers, which as text would sort otherwise"),
        pytest.param("-1.5", "2e-3", "10", id="numbers"),
        pytest.param("2023-12-31", "2024-01-01", "2024-01-02", id="dates"),
        pytest.param("2024-01-01T09:00:00", "2024-01-01 10:00:00", "2024-01-02", id="times"),
        pytest.param(
            "2024-01-01T00:30:00+01:00",
            "2024-01-01T00:00:00Z",
            "2024-01-01T00:00:00-01:00",
            id="times with zones",
        ),
        pytest.param(str(2**53), str(2**53 + 1), str(2**53 + 2), id="integers beyond float64"),
    ],
)
def test_rows_are_sorted_by_the_order_column(
    read_text: Read, first: str, second: str, third: str
) -> None:
    dataset = read_text("d.csv", f"id,time,x\na,{third},3\na,{first},1\na,{second},2\n")
    assert dataset.sequences[0][:, 0].tolist() == [1, 2, 3]


def test_a_parquet_file_is_sorted_by_times(read_text: Read, parquet: Parquet) -> None:
    times = pd.to_datetime(["2024-01-02", "2024-01-01", "2023-01-01"])
    content = {"id": ["a", "a", "b"], "timestamp": times, "x": [2, 1, 0]}
    dataset = read_text("d.parquet", parquet(content))
    assert [sequence[:, 0].tolist() for sequence in dataset.sequences] == [[1, 2], [0]]


def test_columns_told_come_before_convention(read_text: Read) -> None:
    columns = Columns(id="who", order="when", label="what", features=("y", "id"))
    dataset = read_text(
        "d.csv", "id,who,when,what,y,label,note\n1,a,2,walk,3,0,hm\n4,a,1,walk,6,0,\n", columns
    )
    assert dataset.labels == ("walk",)
    assert dataset.feature_names == ("y", "id")
    assert dataset.sequences[0].tolist() == [[6, 4], [3, 1]]


def test_a_conventional_name_told_as_a_feature_is_no_order(read_text: Read) -> None:
    dataset = read_text("d.csv", "id,time,x\na,2,5\na,1,6\n", Columns(features=("time", "x")))
    assert dataset.sequences[0].tolist() == [[2, 5], [1, 6]]


def test_labels_and_ids_in_csv_stay_as_they_are_written(read_text: Read) -> None:
    dataset = read_text("d.csv", "id,x,label\n007,1,NA\n1.0,2,null\nA,3,Yes\n")
    assert dataset.ids == ("007", "1.0", "A")
    assert dataset.labels == ("NA", "null", "Yes")


def test_unlabelled_data_has_no_labels(read_text: Read) -> None:
    dataset = read_text("d.csv", "id,x\na,1\n")
    assert dataset.labels is None
    assert dataset.classes == ()


def test_a_categorical_column_may_have_unused_categories(read_text: Read, parquet: Parquet) -> None:
    ids = pd.Categorical(["b", "b", "a"], categories=["z", "a", "b"])
    dataset = read_text("d.parquet", parquet({"id": ids, "x": [1, 2, 3]}))
    assert dataset.ids == ("b", "a")
    assert dataset.sequences.lengths.tolist() == [2, 1]


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte order mark"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\n\n"], ids=["LF", "CRLF", "blank lines"])
def test_the_line_named_is_the_editors(refusal: Refuse, bom: bytes, newline: str) -> None:
    lines = ["id,x", "a,1", '"b\nc",2', "d,3", "e,oops", "f,4"]
    content = newline.join(lines) + newline
    line = content[: content.index("oops")].count("\n") + 1
    assert f"d.csv, line {line}, column 'x': 'oops'" in refusal("d.csv", bom + content.encode())


def test_the_line_named_is_the_editors_in_a_file_of_many_blocks(refusal: Refuse) -> None:
    lines = [f"{row // 100},{row},{row / 7}" for row in range(200_000)]
    lines[150_000] = "1500,?,1"
    content = "id,x,y\n" + "\n".join(lines)
    assert refusal("d.csv", content) == "d.csv, line 150002, column 'x': '?' is not a number"
    lines[140_000] = "1400,1"
    content = "id,x,y\n" + "\n".join(lines)
    assert refusal("d.csv", content) == "d.csv, line 140002: has 2 columns, but the header has 3"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param("id,x\na,1\na,2\na,abc\n", "line 4, column 'x': 'abc' is not", id="text"),
        pytest.param("id,x\na,1\na,1_000\n", "line 3, column 'x': '1_000' is not", id="underscore"),
        pytest.param("id,x\na,1\na,0x1F\n", "line 3, column 'x': '0x1F' is not", id="hexadecimal"),
        pytest.param("id,x\na,1\na,\n", "line 3, column 'x': is missing", id="empty cell"),
        pytest.param("id,x\na,NaN\n", "line 2, column 'x': is NaN", id="NaN"),
        pytest.param("id,x\na,1\na,-inf\n", "line 3, column 'x': is infinite", id="infinite"),
        pytest.param("id,x\na,1e39\n", "column 'x': is 1e+39, beyond the range", id="too large"),
        pytest.param("id,x\na,1\n,2\n", "line 3, column 'id': is missing", id="no id"),
        pytest.param("id,x,label\na,1,u\na,2,\n", "line 3, column 'label': is missing", id="label"),
        pytest.param(
            "id,x,label\na,1,u\nb,1,v\na,2,v\nb,1,u\n",
            "line 4, column 'label': is 'v', but the sequence began with 'u' (d.csv, line 2)",
            id="two labels",
        ),
        pytest.param("id,step,x\na,1,1\na,,2\n", "line 3, column 'step': is missing", id="step"),
        pytest.param("id,step,x\na,nan,1\na,1,2\n", "line 2, column 'step': is missing", id="nan"),
        pytest.param(
            "id,step,x\na,1,1\na,2,1\na,soon,1\n",
            "line 4, column 'step': 'soon' is neither a number nor a time",
            id="order",
        ),
        pytest.param(
            "id,time,x\na,2024-01-01,1\na,2024-01-32,1\n",
            "line 3, column 'time': '2024-01-32' is neither a number nor a time",
            id="no such day",
        ),
        pytest.param(
            "id,step,x\na,2,1\nb,1,1\na,1,2\nb,1,3\n",
            "line 5, column 'step': is 1, as it is in d.csv, line 3",
            id="step twice",
        ),
        pytest.param(
            "name,x\na,1\n", "has no column of sequence ids; it has 'name', 'x'", id="no id column"
        ),
        pytest.param("id,label\na,u\n", "has no feature columns; it has 'id', 'label'", id="none"),
        pytest.param("id,x,x\na,1,2\n", "has 2 columns named 'x'", id="a name twice"),
        pytest.param(",id,x\n0,a,1\n", "column '': looks like a saved index", id="saved index"),
        pytest.param("id,x\na,1,2\n", "line 2: has 3 columns, but the header has 2", id="columns"),
        pytest.param("id,x\n", "has no rows", id="header alone"),
        pytest.param("", "d.csv: is empty; a header line is needed", id="empty"),
        pytest.param("id,x\n\xff,1\n".encode("latin-1"), "invalid UTF8", id="not UTF-8"),
        pytest.param("id,\xff\na,1\n".encode("latin-1"), "d.csv: not readable", id="UTF-8 header"),
    ],
)
def test_a_bad_csv_file_is_refused_with_its_place(
    refusal: Refuse, content: str | bytes, message: str
) -> None:
    assert message in refusal("d.csv", content)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        pytest.param(
            {"id": ["a", None], "x": [1, 2]}, "row 1 (counted from 0), column 'id'", id="id"
        ),
        pytest.param({"id": ["a", ""], "x": [1, 2]}, "column 'id': is empty", id="empty id"),
        pytest.param(
            {"id": [1.5], "x": [1]}, "column 'id': is 1.5; text or a whole", id="fraction"
        ),
        pytest.param({"id": ["a"], "x": [None]}, "column 'x': holds null, not numbers", id="null"),
        pytest.param({"id": ["a"], "x": ["1"]}, "column 'x': holds string, not numbers", id="text"),
        pytest.param({"id": ["a"] * 3, "x": [0, 1, None]}, "row 2 (counted from 0)", id="missing"),
        pytest.param({"id": ["a"], "x": [float("nan")]}, "column 'x': is NaN", id="NaN"),
        pytest.param({"id": ["a"], "x": [1e300]}, "is 1e+300, beyond the range", id="too large"),
        pytest.param(
            {"id": ["a"], "label": [float("nan")], "x": [1]},
            "column 'label': is missing",
            id="label",
        ),
        pytest.param(
            {"id": ["a"], "step": [b"1"], "x": [1]}, "column 'step': holds binary", id="order"
        ),
        pytest.param({"id": [], "x": []}, "has no rows", id="no rows"),
    ],
)
def test_a_bad_parquet_file_is_refused_with_its_place(
    refusal: Refuse, parquet: Parquet, columns: dict[str, Any], message: str
) -> None:
    assert message in refusal("d.parquet", parquet(columns))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (Columns(id="who"), "has no column 'who'; it has 'id', 'step', 'x', 'y', 'label'"),
        (Columns(order="when"), "has no column 'when'"),
        (Columns(label="what"), "has no column 'what'"),
        (Columns(features=("x", "z")), "has no column 'z'"),
        (Columns(label="x", features=("x",)), "column 'x' is named for two purposes"),
    ],
    ids=["id", "order", "label", "feature", "two purposes"],
)
def test_a_column_told_must_be_there(refusal: Refuse, columns: Columns, message: str) -> None:
    assert message in refusal("d.csv", WALKS, columns)


def test_a_text_column_is_no_feature_unless_left_out(read_text: Read, refusal: Refuse) -> None:
    content = "id,x,note\na,1,fine\n"
    assert "line 2, column 'note': 'fine' is not a number" in refusal("d.csv", content)
    assert read_text("d.csv", content, Columns(features=("x",))).sequences.features == 1
