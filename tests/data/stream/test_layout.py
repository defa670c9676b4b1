"""Which columns are taken for what, and what is refused at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from seqserve_data import Columns
from seqserve_data.stream import Input, Wanted
from tests.data.stream.made import write

Refusal = Callable[..., str]

LONG: dict[str, Any] = {
    "id": ["x", "x", "y"],
    "time": [2, 1, 5],
    "label": [0, 0, 1],
    "note": ["n", "n", "m"],
    "b": [1.0, 2.0, 3.0],
    "a": [4.0, 5.0, 6.0],
}


def features(path: Path, columns: Columns | None = None, **wanted: Any) -> tuple[str, ...]:  # noqa: ANN401
    """The columns that are chosen for them."""
    opened = Input.open(path, columns or Columns(), wanted=Wanted(**wanted))
    return opened.layout.features


@pytest.mark.parametrize("form", [".parquet", ".csv", ".jsonl"])
def test_the_models_own_names_are_taken_where_all_are_there(form: str, tmp_path: Path) -> None:
    path = write(pa.table(LONG), tmp_path / f"x{form}")

    assert features(path, features=2, names=("a", "b")) == ("a", "b")
    assert features(path, features=3, names=("time", "a", "b")) == ("time", "a", "b")


@pytest.mark.parametrize("form", [".parquet", ".csv", ".jsonl"])
def test_else_the_remaining_columns_of_numbers_are(form: str, tmp_path: Path) -> None:
    path = write(pa.table(LONG), tmp_path / f"x{form}")

    assert features(path, features=2) == ("b", "a")
    assert features(path, features=2, names=("left", "right")) == ("b", "a")
    assert features(path, Columns(order="b"), features=2) == ("time", "a")


def test_a_column_that_is_kept_is_no_feature_unless_it_is_named(tmp_path: Path) -> None:
    path = write(pa.table(LONG), tmp_path / "x.parquet")

    alone = Input.open(path, Columns(), wanted=Wanted(1), keep=["b"])
    named = Input.open(path, Columns(features=("b",)), wanted=Wanted(1), keep=["b"])

    assert alone.layout.features == ("a",)
    assert named.layout.features == ("b",)
    (block,) = named.blocks(max_sequences=9, max_steps=9)
    assert block.kept.to_pydict() == {"b": [1.0, 3.0]}


def test_lists_are_sequences_whatever_other_lists_are_kept(tmp_path: Path) -> None:
    table = pa.table({"id": [1], "values": [[[1.0], [2.0]]], "tags": [["t"]], "more": [[3.0]]})
    path = write(table, tmp_path / "x.parquet")

    opened = Input.open(path, Columns(), wanted=Wanted(1), keep=["tags"])

    assert opened.layout.features == ("values",)
    (block,) = opened.blocks(max_sequences=9, max_steps=9)
    assert block.kept.to_pydict() == {"tags": [["t"]]}


def test_kept_lists_do_not_make_rows_sequences(tmp_path: Path) -> None:
    table = pa.table({"id": [1, 1], "a": [1.0, 2.0], "tags": [["t"], ["u"]]})
    path = write(table, tmp_path / "x.parquet")

    opened = Input.open(path, Columns(), wanted=Wanted(1), keep=["tags"])
    (block,) = opened.blocks(max_sequences=9, max_steps=9)

    assert block.kept.to_pydict() == {"tags": [["t"]]}


@pytest.mark.parametrize(
    ("columns", "wanted", "keep", "said"),
    [
        (
            Columns(),
            Wanted(3),
            [],
            "the model takes 3 features; the columns that hold numbers and are free are 2: "
            "'b', 'a'; left aside, as they hold no numbers: 'note'; name the feature columns "
            "(--features)",
        ),
        (
            Columns(features=("a",)),
            Wanted(2, ("left", "right")),
            [],
            "the model takes 2 features: 'left', 'right'; the columns that are named are 1: 'a'",
        ),
        (
            Columns(features=("b", "a")),
            Wanted(2, ("a", "b")),
            [],
            "the features are named in the order 'b', 'a'; the model has them in the order "
            "'a', 'b'",
        ),
        (Columns(features=("a", "note")), Wanted(2), [], "column 'note': holds string; numbers"),
        (Columns(features=("a", "z")), Wanted(2), [], "has no column 'z'; it has 'id', 'time'"),
        (Columns(id="z"), Wanted(2), [], "has no column 'z'"),
        (Columns(), Wanted(2), ["z"], "has no column 'z' to keep; it has 'id', 'time'"),
        (Columns(), Wanted(2), ["note", "note"], "column 'note' is to be kept twice"),
    ],
)
def test_columns_that_do_not_fit_are_refused_at_once(
    columns: Columns, wanted: Wanted, keep: list[str], said: str, tmp_path: Path, refusal: Refusal
) -> None:
    path = write(pa.table(LONG), tmp_path / "x.parquet")

    message = refusal(path, columns, wanted, keep=keep)

    assert message.startswith("x.parquet")
    assert said in message


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"id": [1], "values": [[["t"]]]}, "the columns that hold numbers and are free are 0"),
        ({"id": [1], "a": [[1.0]], "b": [[[1.0]]]}, "has the list columns 'a', 'b', and some"),
        ({"id": [[1]], "a": [1.0]}, "column 'id': holds list<element: int64>; text or numbers"),
        ({"id": [{"x": 1}], "a": [1.0]}, "column 'id': holds struct<x: int64>; text or numbers"),
    ],
)
def test_lists_that_do_not_fit_are_refused_at_once(
    columns: dict[str, Any], said: str, tmp_path: Path, refusal: Refusal
) -> None:
    path = write(pa.table(columns), tmp_path / "x.parquet")

    told = Columns(features=("a",)) if columns["id"] == [[1]] else None
    assert said in refusal(path, told, Wanted(1))


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ({"id": ["y"], "b": [1.0]}, "2.parquet: has no column 'a', but the first file has"),
        ({"id": [7], "a": [1.0]}, "2.parquet, column 'id': holds int64, but in 1.parquet it"),
        ({"id": ["y"], "a": ["t"]}, "2.parquet, column 'a': holds string; numbers are needed"),
        ({"id": ["y"], "a": [[1.0]]}, "2.parquet, column 'a': holds list"),
    ],
)
def test_files_that_do_not_agree_are_refused_at_once(
    second: dict[str, Any], said: str, tmp_path: Path, refusal: Refusal
) -> None:
    one = write(pa.table({"id": ["x"], "a": [1.0]}), tmp_path / "1.parquet")
    two = write(pa.table(second), tmp_path / "2.parquet")

    assert said in refusal([one, two], None, Wanted(1))


@pytest.mark.parametrize("place", [0, 1])
def test_two_columns_of_one_name_are_refused(place: int, tmp_path: Path, refusal: Refusal) -> None:
    good = pa.table({"id": ["x"], "a": [1.0]})
    twice = pa.Table.from_arrays([pa.array(["x"]), pa.array([1.0]), pa.array([2.0])], list("iaa"))
    twice = twice.rename_columns(["id", "a", "a"])
    paths = [write(good, tmp_path / "1.parquet"), write(good, tmp_path / "2.parquet")]
    write(twice, paths[place])

    assert refusal(paths, None, Wanted(1)) == f"{place + 1}.parquet: has 2 columns named 'a'"


def test_a_column_may_be_empty_in_one_file_and_of_another_number_in_the_next(
    tmp_path: Path,
) -> None:
    kinds: list[tuple[Any, Any]] = [
        (pa.null(), pa.float32()),
        (pa.string(), pa.float64()),
        (pa.large_string(), pa.int8()),
    ]
    paths = [
        write(
            pa.table(
                {
                    "id": ["s", "s"],
                    "a": pa.array([1, 2]).cast(number),
                    "note": pa.array([None, None], note),
                }
            ),
            tmp_path / f"{index}.parquet",
        )
        for index, (note, number) in enumerate(kinds)
    ]

    opened = Input.open(paths, Columns(), wanted=Wanted(1), keep=["note"])
    (block,) = opened.blocks(max_sequences=9, max_steps=9)

    assert block.sequences is not None
    assert block.sequences.values.ravel().tolist() == [1, 2, 1, 2, 1, 2]
    assert block.kept.schema.field("note").type == pa.string()


def test_a_column_of_true_and_false_is_no_feature_unless_it_is_named(tmp_path: Path) -> None:
    table = pa.table({"id": ["x"], "ok": [True], "a": [1.0]})
    path = write(table, tmp_path / "x.parquet")

    assert features(path, features=1) == ("a",)
    assert features(path, Columns(features=("ok", "a")), features=2) == ("ok", "a")
    assert features(path, features=2, names=("ok", "a")) == ("ok", "a")


@pytest.mark.parametrize("form", [".parquet", ".csv", ".jsonl"])
def test_a_feature_that_holds_text_is_told_as_left_aside(
    form: str, tmp_path: Path, refusal: Refusal
) -> None:
    table = pa.table({"id": ["x", "x"], "a": [1.0, 2.0], "b": ["1,5", "2,5"]})

    assert refusal(write(table, tmp_path / f"x{form}"), None, Wanted(2)) == (
        f"x{form}: the model takes 2 features; the columns that hold numbers and are free are 1: "
        "'a'; left aside, as they hold no numbers: 'b'; name the feature columns (--features)"
    )


def test_a_file_without_ids_is_told_the_flag_that_names_them(
    tmp_path: Path, refusal: Refusal
) -> None:
    path = write(pa.table({"who": ["x"], "a": [1.0]}), tmp_path / "x.parquet")

    assert refusal(path, None, Wanted(1)).endswith(
        "name the one that says which sequence a row belongs to (--id)"
    )


@pytest.mark.parametrize("nested", [False, True])
def test_ids_of_which_none_is_there_are_a_fault_of_their_sequences(
    nested: bool, tmp_path: Path
) -> None:
    number: Any = [1.0] if nested else 1.0
    table = pa.table({"id": pa.nulls(3), "step": pa.nulls(3), "a": [number] * 3})
    opened = Input.open(write(table, tmp_path / "x.parquet"), Columns(), wanted=Wanted(1))

    (block,) = opened.blocks(max_sequences=9, max_steps=9)
    (cut,) = opened.cuts(max_sequences=9, max_steps=9)

    assert set(block.faults.values()) == {"has no id"}
    assert len(block) == cut.sequences == len(block.faults) == (3 if nested else 1)


@pytest.mark.parametrize(
    ("role", "kind", "said"),
    [
        ("id", pa.float16(), "column 'id': holds halffloat; text or numbers are needed"),
        ("id", pa.month_day_nano_interval(), "column 'id': holds month_day_nano_interval; text"),
        ("step", pa.binary(), "column 'step': holds binary; text or numbers are needed"),
    ],
)
def test_ids_and_orders_that_do_not_compare_are_refused_at_once(
    role: str, kind: pa.DataType, said: str, tmp_path: Path, refusal: Refusal
) -> None:
    columns: dict[str, Any] = {
        "id": pa.array(["x"]),
        "a": pa.array([1.0]),
        role: pa.array([None], kind),
    }

    assert said in refusal(write(pa.table(columns), tmp_path / "x.arrow"), None, Wanted(1))
