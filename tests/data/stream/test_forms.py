"""Every form and shape, against the same file read in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from seqserve_data import Columns, read
from seqserve_data.stream import Input, Wanted
from tests.data.stream.made import FORMS, NAMES, SHAPES, Limits, joined, sequences, table_of, write

ALL = [
    (form, shape)
    for form in FORMS
    for shape in SHAPES
    if shape == "long" or not form.startswith(".csv")
]


@pytest.mark.parametrize(("form", "shape"), ALL, ids=[f"{f} {s}" for f, s in ALL])
def test_blocks_hold_what_was_written(form: str, shape: str, tmp_path: Path) -> None:
    given = sequences(50)
    path = write(given.table(shape), tmp_path / f"x{form}")

    opened = Input.open(path, Columns(), wanted=Wanted(3), keep=["site"])
    blocks = list(opened.blocks(max_sequences=8, max_steps=30))

    assert joined(blocks) == [
        (name, values.tolist(), None, {"site": f"site {len(name) % 2}"})
        for name, values in zip(given.ids, given.values, strict=True)
    ]
    assert all(len(b) <= 8 and b.sequences and b.sequences.steps <= 30 for b in blocks)


@pytest.mark.parametrize("form", [".parquet", ".csv", ".jsonl"])
def test_an_input_is_what_read_makes_of_the_file(form: str, tmp_path: Path) -> None:
    shape = "steps" if form == ".jsonl" else "long"
    path = write(sequences(50).table(shape), tmp_path / f"x{form}")
    columns = Columns(features=() if form == ".jsonl" else NAMES)

    whole = read(path, columns)
    blocks = list(Input.open(path, columns, wanted=Wanted(3)).blocks(max_sequences=8, max_steps=30))

    assert tuple(name for block in blocks for name in block.ids.to_pylist()) == whole.ids
    values = np.concatenate([block.sequences.values for block in blocks if block.sequences])
    assert values.tobytes() == whole.sequences.values.tobytes()


@pytest.mark.parametrize(("form", "shape"), ALL, ids=[f"{f} {s}" for f, s in ALL])
def test_cuts_are_the_borders_of_the_blocks(form: str, shape: str, tmp_path: Path) -> None:
    path = write(sequences(50).table(shape), tmp_path / f"x{form}")
    opened = Input.open(path, Columns(), wanted=Wanted(3, max_steps=6))
    limits: Limits = {"max_sequences": 8, "max_steps": 30}

    blocks, cuts = list(opened.blocks(**limits)), list(opened.cuts(**limits))

    assert [(c.begin, c.end, c.sequences) for c in cuts] == [
        (b.begin, b.end, len(b)) for b in blocks
    ]
    assert sum(c.steps for c in cuts) == sum(b.sequences.steps for b in blocks if b.sequences)


@pytest.mark.parametrize("form", [".csv", ".jsonl"])
def test_a_file_of_text_gives_ids_and_kept_columns_as_text(form: str, tmp_path: Path) -> None:
    table = table_of({"id": [1, 1, 2], "a": [0.5, 1.0, 2.0], "n": [7, 7, 8]})
    path = write(table, tmp_path / f"x{form}")

    opened = Input.open(path, Columns(features=("a",)), wanted=Wanted(1), keep=["n"])
    (block,) = opened.blocks(max_sequences=8, max_steps=30)

    assert block.ids.to_pylist() == ["1", "2"]
    assert block.kept.to_pylist() == [{"n": "7"}, {"n": "8"}]


def test_text_may_be_of_any_letters_wherever_a_file_is_cut_for_reading(tmp_path: Path) -> None:
    """What is read at a time, a power of two, ends within many a letter of three bytes."""
    names = [f"{'€' * (index % 7 + 1)}{index}" for index in range(60_000)]
    path = tmp_path / "x.csv"
    path.write_text("id,a\n" + "".join(f"{name},1\n" for name in names))

    blocks = Input.open(path, Columns(), wanted=Wanted(1)).blocks(
        max_sequences=5000, max_steps=5000
    )

    assert [name for block in blocks for name in block.ids.to_pylist()] == names


@pytest.mark.parametrize("kind", [pa.int32(), pa.string(), pa.large_string(), pa.date32()])
def test_a_typed_file_gives_ids_as_it_types_them(kind: pa.DataType, tmp_path: Path) -> None:
    ids = pa.array([1, 1, 2, 3]).cast(pa.int32()).cast(kind)
    path = write(table_of({"id": ids, "a": [1.0, 2.0, 3.0, 4.0]}), tmp_path / "x.parquet", 3)

    (block,) = Input.open(path, Columns(), wanted=Wanted(1)).blocks(max_sequences=8, max_steps=30)

    text = pa.types.is_large_string(kind)
    assert block.ids.type == (pa.string() if text else kind)
    assert block.ids.equals(ids.unique().cast(block.ids.type))


def test_a_dictionary_of_ids_gives_its_values(tmp_path: Path) -> None:
    ids = pa.array(["x", "x", "y"]).dictionary_encode()
    path = write(table_of({"id": ids, "a": [1.0, 2.0, 3.0]}), tmp_path / "x.parquet")

    (block,) = Input.open(path, Columns(), wanted=Wanted(1)).blocks(max_sequences=8, max_steps=30)

    assert block.ids.to_pylist() == ["x", "y"]


def test_sequences_without_ids_are_known_by_their_row(tmp_path: Path) -> None:
    table = sequences(4).table("steps").select(["values"])
    one, two = write(table, tmp_path / "1.parquet"), write(table, tmp_path / "2.parquet")
    limits: Limits = {"max_sequences": 99, "max_steps": 999}

    (alone,) = Input.open(one, Columns(), wanted=Wanted(3)).blocks(**limits)
    (both,) = Input.open([one, two], Columns(), wanted=Wanted(3)).blocks(**limits)

    assert alone.ids.to_pylist() == ["0", "1", "2", "3"]
    assert both.ids.to_pylist()[3:6] == ["1.parquet:3", "2.parquet:0", "2.parquet:1"]


@pytest.mark.parametrize("form", [".parquet", ".arrow"])
def test_rows_are_known_where_the_form_tells(form: str, tmp_path: Path) -> None:
    path = write(sequences(50).table("steps"), tmp_path / f"x{form}")
    opened = Input.open([path], Columns(), wanted=Wanted(3))
    blocks = list(opened.blocks(max_sequences=20, max_steps=999))

    assert opened.rows == 50
    assert [opened.rows_before(block.end) for block in blocks] == [20, 40, 50]


@pytest.mark.parametrize("form", [".csv", ".jsonl", ".arrows"])
def test_rows_are_not_known_where_only_reading_would_tell(form: str, tmp_path: Path) -> None:
    path = write(sequences(5).table("long"), tmp_path / f"x{form}")

    assert Input.open(path, Columns(), wanted=Wanted(3)).rows is None


@pytest.mark.parametrize("form", [".parquet", ".csv", ".arrow", ".arrows"])
def test_a_file_without_rows_has_no_blocks(form: str, tmp_path: Path) -> None:
    table = sequences(5).table("long")
    empty = write(table.slice(0, 0), tmp_path / f"1{form}")
    full = write(table, tmp_path / f"2{form}")

    opened = Input.open([empty, full], Columns(), wanted=Wanted(3))

    assert [len(b) for b in opened.blocks(max_sequences=9, max_steps=99)] == [5]
    if form != ".csv":  # whose columns are told by its first records
        alone = Input.open(empty, Columns(), wanted=Wanted(3))
        assert list(alone.blocks(max_sequences=9, max_steps=99)) == []


def test_wide_numbers_become_float32_as_everywhere(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    numbers = {
        "a": rng.standard_normal(9),
        "b": rng.integers(-(2**62), 2**62, 9),
        "c": rng.integers(0, 2, 9).astype(bool),
    }
    path = write(table_of({"id": [1] * 9, **numbers}), tmp_path / "x.parquet", 4)

    opened = Input.open(path, Columns(features=("a", "b", "c")), wanted=Wanted(3))
    (block,) = opened.blocks(max_sequences=8, max_steps=30)

    expected = np.stack([column.astype(np.float64) for column in numbers.values()], axis=1)
    assert block.sequences is not None
    assert block.sequences.values.tobytes() == expected.astype(np.float32).tobytes()


def test_an_input_is_described_in_a_line(tmp_path: Path) -> None:
    path = write(sequences(5).table("long"), tmp_path / "x.parquet")

    opened = Input.open(path, Columns(), wanted=Wanted(3), keep=["site"])

    assert opened.describe() == (
        "1 file (.parquet), one row a step; ids from 'id', features from 'a', 'b', 'c', kept 'site'"
    )
