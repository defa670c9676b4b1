"""What is wrong with a sequence is said of it, and its neighbours are read all the same."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from seqserve_data import Columns, DataError
from seqserve_data.stream import Input, Wanted
from tests.data.stream.made import joined, write

NAN, INF = math.nan, math.inf

GOOD = [[1.0, 2.0], [3.0, 4.0]]


def faults(
    path: Path,
    wanted: Wanted,
    columns: Columns = Columns(),  # noqa: B008
    **options: Any,  # noqa: ANN401
) -> dict[Any, str]:
    """Of each bad sequence by its id what is said, after the good ones were found good."""
    opened = Input.open(path, columns, wanted=wanted, **options)
    found = joined(opened.blocks(max_sequences=3, max_steps=99))
    for _, values, fault, _ in found:
        assert values == GOOD or fault is not None
    return {name: fault for name, _, fault, _ in found if fault is not None}


STEPS: list[tuple[Any, str]] = [
    (None, "column 'values' is missing"),
    ([], "has no steps; at least 1 is needed"),
    ([[1.0, 2.0]] * 4, "has 4 steps; the model takes at most 3"),
    ([[1.0, 2.0], [3.0]], "step 1 has 1 features; the model takes 2"),
    ([[1.0, 2.0], [3.0, 4.0, 5.0]], "step 1 has 3 features; the model takes 2"),
    ([[], []], "step 0 has 0 features; the model takes 2"),
    ([[1.0, 2.0], None], "step 1 is missing; the model takes 2"),
    ([[1.0, NAN], [NAN, 4.0]], "step 0, feature 1 is NaN; every number must be finite"),
    ([[1.0, 2.0], [-INF, 4.0]], "step 1, feature 0 is infinite; every number must be finite"),
    ([[1.0, 2.0], [None, 4.0]], "step 1, feature 0 is missing"),
    (
        [[1e39, 2.0]],
        "step 0, feature 0 is 1e+39, beyond the range of float32 (about 3.4e38)",
    ),
]


@pytest.mark.parametrize("form", [".parquet", ".jsonl", ".arrow"])
def test_each_fault_of_a_list_of_steps_is_told(form: str, tmp_path: Path) -> None:
    cells = [cell for bad, _ in STEPS for cell in (GOOD, bad)]
    steps = pa.array(cells, pa.list_(pa.list_(pa.float64())))
    path = write(pa.table({"id": range(len(cells)), "values": steps}), tmp_path / f"x{form}")

    found = faults(path, Wanted(2, max_steps=3))

    ids = range(1, len(cells), 2)
    key = str if form == ".jsonl" else int
    assert found == {key(i): said for i, (_, said) in zip(ids, STEPS, strict=True)}


LISTS: list[tuple[Any, Any, str]] = [
    (None, [1.0], "column 'a' is missing"),
    ([1.0], None, "column 'b' is missing"),
    ([], [], "has no steps; at least 1 is needed"),
    ([1.0], [1.0, 2.0], "column 'b' has 2 steps, but column 'a' has 1"),
    ([1.0] * 4, [1.0] * 4, "has 4 steps; the model takes at most 3"),
    ([1.0, 2.0], [3.0, NAN], "step 1, feature 'b' is NaN; every number must be finite"),
    ([1.0, NAN], [NAN, 4.0], "step 0, feature 'b' is NaN; every number must be finite"),
    ([1.0, None], [3.0, 4.0], "step 1, feature 'a' is missing"),
]


@pytest.mark.parametrize("form", [".parquet", ".jsonl", ".arrows"])
def test_each_fault_of_a_list_a_feature_is_told(form: str, tmp_path: Path) -> None:
    good = ([1.0, 3.0], [2.0, 4.0])
    rows = [row for a, b, _ in LISTS for row in (good, (a, b))]
    table = pa.table(
        {
            "id": range(len(rows)),
            "a": pa.array([a for a, _ in rows], pa.list_(pa.float64())),
            "b": pa.array([b for _, b in rows], pa.list_(pa.float64())),
        }
    )

    found = faults(write(table, tmp_path / f"x{form}"), Wanted(2, max_steps=3))

    assert list(found.values()) == [said for *_, said in LISTS]


LONG: list[tuple[list[Any], str]] = [
    ([[1.0, 2.0]] * 4, "has 4 steps; the model takes at most 3"),
    ([[1.0, 2.0], [3.0, NAN]], "step 1, feature 'b' is NaN; every number must be finite"),
    ([[INF, 2.0]], "step 0, feature 'a' is infinite; every number must be finite"),
    ([[1.0, 2.0], [None, 4.0]], "step 1, feature 'a' is missing"),
    ([[1.0, 2.0], [3.0, 1e39]], "step 1, feature 'b' is 1e+39, beyond the range of float32"),
]


@pytest.mark.parametrize("form", [".parquet", ".csv", ".jsonl", ".arrow"])
def test_each_fault_of_a_step_is_told_of_its_sequence(form: str, tmp_path: Path) -> None:
    groups = [group for bad, _ in LONG for group in (GOOD, bad)]
    rows = [(f"s{i}", *step) for i, group in enumerate(groups) for step in group]
    table = pa.table({name: [row[k] for row in rows] for k, name in enumerate(["id", "a", "b"])})

    found = faults(write(table, tmp_path / f"x{form}"), Wanted(2, max_steps=3))

    assert list(found) == ["s1", "s3", "s5", "s7", "s9"]
    for told, (_, said) in zip(found.values(), LONG, strict=True):
        assert told.startswith(said)


def test_a_cell_of_a_csv_that_is_no_number_is_a_fault_of_its_sequence(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    lines = ["x,1,2", "x,3,4", "y,1,two", "y,one,4", "z, 1 ,+2", "z,3,4e0", "w,1_0,2"]
    path.write_text("\n".join(["id,a,b", *lines]))

    found = faults(path, Wanted(2))

    assert found == {
        "y": "step 0, feature 'b' is not a number: 'two'",
        "w": "step 0, feature 'a' is not a number: '1_0'",
    }


def test_a_row_of_a_csv_with_more_cells_or_fewer_is_a_fault_of_its_sequence(
    tmp_path: Path,
) -> None:
    path = tmp_path / "x.csv"
    lines = ["x,1,2", "x,3,4", "y,1,2", "y,3", '"v,w",1,2,3', "z,1,2", "z,3,4", "w,5,6,7"]
    path.write_text("\n".join(["id,a,b", *lines, ""]))

    found = faults(path, Wanted(2))

    assert found == {
        "y": "step 1, row 5 of the file has 2 cells; its header has 3",
        "v,w": "step 0, row 6 of the file has 4 cells; its header has 3",
        "w": "step 0, row 9 of the file has 4 cells; its header has 3",
    }


def test_such_rows_have_their_places_wherever_a_reader_begins(tmp_path: Path) -> None:
    """In a file of several batches, also first and last in one."""
    path, count = tmp_path / "x.csv", 60_000
    cut = [index % 1000 in (0, 1) or 30_000 < index < 40_000 for index in range(count)]
    rows = [f"{index},1" + (",2,3" if odd else ",2") for index, odd in enumerate(cut)]
    path.write_text("id,a,b\n1,1,2\n2,1,2\n3,1,2\n" + "\n".join(rows[4:]))
    opened = Input.open(path, Columns(), wanted=Wanted(2))
    limits: Any = {"max_sequences": 7_000, "max_steps": count}
    blocks = [*opened.blocks(**limits)]

    assert [name for block in blocks for name in block.ids.to_pylist()] == [
        str(index) for index in range(1, count)
    ]
    for block in blocks:
        ids = map(int, block.ids.cast(pa.int64()).to_numpy())
        odd = [index for index, number in enumerate(ids) if number > 3 and cut[number]]
        assert odd == [*block.faults]
        again = next(opened.blocks(block.begin, **limits, check_ids=False))
        assert again.ids.equals(block.ids)
        assert again.faults == block.faults


def test_what_json_can_hold_that_is_no_number_is_a_fault_of_its_sequence(tmp_path: Path) -> None:
    cells = [
        ("[[1, 2], [3, 4]]", None),
        ('[[1, "two"], [3, 4]]', 'step 0, feature 1 is not a number: "two"'),
        ("[[1, 2], [3, true]]", "step 1, feature 1 is not a number: true"),
        ("[[1, 2], 3]", "step 1 is not a list: 3"),
        ('"text"', "column 'values' is not a list: \"text\""),
        ("null", "column 'values' is missing"),
        ("[[1, NaN]]", "step 0, feature 1 is NaN; every number must be finite"),
        (f"[[1, {10**400}]]", "step 0, feature 1 is beyond the range of float32 (about 3.4e38)"),
        ("[[1, 2], [3, 4]]", None),
    ]
    path = tmp_path / "x.jsonl"
    path.write_text(
        "".join(f'{{"id": {i}, "values": {cell}}}\n' for i, (cell, _) in enumerate(cells))
    )

    assert faults(path, Wanted(2)) == {str(i): said for i, (_, said) in enumerate(cells) if said}


def test_what_json_can_hold_in_place_of_a_step_is_a_fault_of_its_sequence(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    rows = [
        '"id": "x", "a": 1, "b": 2',
        '"id": "x", "a": 3, "b": 4',
        '"id": "y", "a": 1, "b": [2]',
        '"id": "z", "a": 1',
        '"a": 1, "b": 2',
    ]
    path.write_text("".join(f"{{{row}}}\n" for row in rows))

    assert faults(path, Wanted(2)) == {
        "y": "step 0, feature 'b' is not a number: [2]",
        "z": "step 0, feature 'b' is missing",
        None: "has no id",
    }


@pytest.mark.parametrize("form", [".parquet", ".csv"])
def test_rows_without_an_id_are_a_sequence_that_has_none(form: str, tmp_path: Path) -> None:
    ids = [None, None, "x", "x", "", None]
    table = pa.table(
        {"id": ids, "a": [1.0, 1.0, 1.0, 3.0, 2.0, 2.0], "b": [2.0, 2.0, 2.0, 4.0, 1.0, 1.0]}
    )
    path = tmp_path / f"x{form}"
    if form == ".csv":
        path.write_text("id,a,b\n,1,2\n,1,2\nx,1,2\nx,3,4\n")
    else:
        write(table, path, 4)

    found = joined(
        Input.open(path, Columns(), wanted=Wanted(2)).blocks(max_sequences=9, max_steps=9)
    )

    assert [(name, fault) for name, _, fault, _ in found] == [
        (None, "has no id"),
        ("x", None),
        *([] if form == ".csv" else [(None, "has no id"), (None, "has no id")]),
    ]


def test_a_row_of_lists_without_an_id_is_a_sequence_that_has_none(tmp_path: Path) -> None:
    table = pa.table({"id": ["x", None, ""], "values": [GOOD, GOOD, GOOD]})

    found = faults(write(table, tmp_path / "x.parquet"), Wanted(2))

    assert found == {None: "has no id"}


def test_an_id_that_is_not_a_number_is_none(tmp_path: Path) -> None:
    table = pa.table({"id": [1.0, 1.0, NAN], "a": [1.0, 3.0, 1.0], "b": [2.0, 4.0, 1.0]})

    assert faults(write(table, tmp_path / "x.parquet"), Wanted(2)) == {None: "has no id"}


def test_a_model_that_admits_nan_is_given_it_but_nothing_that_float32_cannot_hold(
    tmp_path: Path,
) -> None:
    cells = [[NAN, INF, -INF], [1.0], [None], [1e39]]
    table = pa.table({"id": range(4), "a": pa.array(cells, pa.list_(pa.float64()))})
    opened = Input.open(
        write(table, tmp_path / "x.parquet"), Columns(), wanted=Wanted(1, admits_non_finite=True)
    )

    (block,) = opened.blocks(max_sequences=9, max_steps=9)

    assert block.good.tolist() == [0, 1]
    assert block.sequences is not None
    assert str(block.sequences.values.ravel().tolist()) == "[nan, inf, -inf, 1.0]"
    assert block.faults == {
        2: "step 0, feature 'a' is missing",
        3: "step 0, feature 'a' is 1e+39, beyond the range of float32 (about 3.4e38)",
    }


def test_a_block_of_bad_sequences_alone_has_no_batch(tmp_path: Path) -> None:
    table = pa.table({"id": [0, 1], "a": pa.array([[], []], pa.list_(pa.float32()))})
    path = write(table, tmp_path / "x.parquet")

    (block,) = Input.open(path, Columns(), wanted=Wanted(1)).blocks(max_sequences=9, max_steps=9)

    assert block.sequences is None
    assert len(block) == len(block.faults) == 2


def test_a_sequence_of_more_steps_than_a_block_is_a_block(tmp_path: Path) -> None:
    table = pa.table({"id": [0, 1, 1, 1, 2], "a": [1.0] * 5})
    path = write(table, tmp_path / "x.parquet", 2)

    blocks = Input.open(path, Columns(), wanted=Wanted(1)).blocks(max_sequences=9, max_steps=2)

    assert [block.ids.to_pylist() for block in blocks] == [[0], [1], [2]]


def test_a_ragged_row_with_a_cell_of_any_length_is_a_fault_of_its_sequence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.csv"
    path.write_text('id,a,b\nx,1,2\nx,3,4\n"v,w",1,' + "7" * 140_000 + ",3\nz,1,2\nz,3,4\n")

    assert faults(path, Wanted(2)) == {
        "v,w": "step 0, row 4 of the file has 4 cells; its header has 3"
    }
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("before", [0, 20_000], ids=["in the first block", "further on"])
def test_a_ragged_row_that_is_no_utf_8_is_refused_in_one_line(
    before: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.csv"
    rows = b"".join(b"%d,1,2,\n%d,3,4,\n" % (index, index) for index in range(before))
    path.write_bytes(b"id,a,b,c\nx,1,2,\nx,3,4,\n" + rows + b"\xe9,1\nz,1,2,\nz,3,4,\n")

    with pytest.raises(DataError, match=r"x.csv: not readable as .csv: invalid UTF8 .* 'id'$"):
        faults(path, Wanted(2), Columns(features=("a", "b")))
    assert capfd.readouterr().err == ""


def test_a_column_that_is_not_read_need_not_be_utf_8(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Beyond the first block, by which it is told what columns hold."""
    path = tmp_path / "x.csv"
    good = b"".join(b"%d,1,2,\n%d,3,4,\n" % (index, index) for index in range(20_000))
    bad = b"x,1,2,\xe9\nx,3,4,\ny,1,2,\xe9,\nz,1,2,\nz,3,4,\n"
    path.write_bytes(b"id,a,b,c\n" + good + bad)

    assert faults(path, Wanted(2), Columns(features=("a", "b"))) == {
        "y": "step 0, row 40004 of the file has 5 cells; its header has 4"
    }
    assert capfd.readouterr().err == ""
