"""Files that are damaged, cut off or gone: an error that names the file, and no other error."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqserve_data import Columns, DataError
from seqserve_data.stream import Input, Wanted
from seqserve_data.stream.files import find
from tests.data.stream.made import FORMS, Limits, joined, sequences, table_of, write

Refusal = Callable[..., str]
LIMITS: Limits = {"max_sequences": 10, "max_steps": 999}


@pytest.mark.parametrize("form", [form for form in FORMS if form not in (".csv", ".jsonl")])
def test_a_truncated_file_is_refused_by_name(form: str, tmp_path: Path) -> None:
    path = write(sequences(500).table("long"), tmp_path / f"x{form}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    with pytest.raises(DataError) as caught:
        list(Input.open(path, Columns(), wanted=Wanted(3)).blocks(**LIMITS))

    assert str(caught.value).startswith(f"{path}: not readable as {Path(form).stem or form}")


@pytest.mark.parametrize("form", [".parquet", ".arrow"])
def test_a_truncated_file_with_a_footer_is_refused_when_it_is_opened(
    form: str, tmp_path: Path, refusal: Refusal
) -> None:
    paths = [write(sequences(9).table("long"), tmp_path / f"{i}{form}") for i in (1, 2)]
    paths[1].write_bytes(paths[1].read_bytes()[:-8])

    assert refusal(paths).startswith(f"2{form}: not readable as {form}")


def test_a_csv_that_is_cut_off_within_a_row_is_refused_by_row(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("id,a,b,c\n" + "x,1,2,3\n" * 99 + "x,1,2")

    opened = Input.open(path, Columns(), wanted=Wanted(3))
    with pytest.raises(DataError, match=r"is cut off: row 101 of the file has 3 cells; .* has 4"):
        list(opened.blocks(**LIMITS))


@pytest.mark.parametrize("row", ["x,1,2", "x,1,2,3,4"], ids=["fewer", "more"])
def test_a_csv_whose_header_is_of_another_file_is_refused(row: str, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("id,a,b,c\n" + f"{row}\n" * 99 + "x,1,2,3\n")

    with pytest.raises(DataError, match="header does not fit most of its rows: row 2 of the file"):
        Input.open(path, Columns(), wanted=Wanted(3))


@pytest.mark.parametrize(
    ("last", "said"),
    [
        ('{"id": 1, "a": 1, "b', "x.jsonl, line 2002: is not JSON"),
        ("[1, 2, 3]", "x.jsonl, line 2002: is not a JSON object"),
    ],
)
def test_a_line_that_is_no_object_is_refused_by_line(last: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('\n{"id": 1, "a": 1, "b": 2, "c": 3}' * 1001 + "\n" * 1000 + last)
    opened = Input.open(path, Columns(), wanted=Wanted(3))

    with pytest.raises(DataError, match=said):
        list(opened.blocks(**LIMITS))


@pytest.mark.parametrize("form", FORMS)
def test_a_file_that_vanishes_is_named(form: str, tmp_path: Path) -> None:
    path = write(sequences(9).table("long"), tmp_path / f"x{form}")
    opened = Input.open(path, Columns(), wanted=Wanted(3))
    os.remove(path)

    for read in (lambda: list(opened.blocks(**LIMITS)), opened.fingerprint):
        with pytest.raises(DataError, match=rf"x\{form}: not readable as .*[Nn]o such file"):
            read()


@pytest.mark.parametrize("form", FORMS)
def test_an_empty_file_is_refused_or_has_no_rows(form: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{form}"
    path.touch()

    with pytest.raises(DataError, match=rf"x\{form}"):
        list(Input.open(path, Columns(), wanted=Wanted(3)).blocks(**LIMITS))


@pytest.mark.parametrize(("form", "content"), [(".csv", ""), (".csv", "id,a\n"), (".jsonl", "")])
def test_an_empty_file_of_text_is_told_as_empty_and_has_no_rows_among_others(
    form: str, content: str, tmp_path: Path, refusal: Refusal
) -> None:
    paths = [tmp_path / f"{name}{form}" for name in "123"]
    for path in paths:
        path.write_text(content)

    assert refusal(paths[0], None, Wanted(1)) == f"1{form}: is empty: it has no rows"
    assert refusal(paths, None, Wanted(1)) == (
        f"1{form}: is empty, as all files of the input are: it has no rows"
    )
    write(table_of({"id": ["x"], "a": [1.0]}), paths[1])
    (found,) = joined(Input.open(paths, Columns(), wanted=Wanted(1)).blocks(**LIMITS))
    assert found[:3] == ("x", [[1.0]], None)


def test_an_empty_folder_is_told_as_one(tmp_path: Path, refusal: Refusal) -> None:
    (tmp_path / "_notes.csv").touch()

    assert refusal(tmp_path) == (
        "folder: the folder has no file of a form that is read (names that begin with . or _ are "
        "left aside)"
    )


@pytest.mark.parametrize("key", ["id", "note", "\ud800"])
def test_half_a_character_is_refused_by_line(key: str, tmp_path: Path, refusal: Refusal) -> None:
    path = tmp_path / "x.jsonl"
    lines = [{"id": "\U0001f600", "a": 1}, {"id": "x", "a": 1, key: "\ud800"}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))

    assert refusal(path, None, Wanted(1)) == (
        r"x.jsonl, line 2: holds '\ud800', half a character: no Unicode text"
    )


@pytest.mark.parametrize("form", [".parquet", ".arrow", None])
def test_text_that_is_no_unicode_is_refused(form: str | None, tmp_path: Path) -> None:
    ids: Any = pa.array([b"\xff", b"x"]).view(pa.string())
    table = table_of({"id": ids, "a": [1.0, 2.0]})
    if form is None:
        opened = Input.of_table(table, Columns(), wanted=Wanted(1))
    else:
        opened = Input.open(write(table, tmp_path / f"x{form}"), Columns(), wanted=Wanted(1))

    with pytest.raises(DataError, match=r"not readable.*UTF8") as caught:
        list(opened.blocks(**LIMITS))
    assert (f"x{form}" if form else "the table") in str(caught.value)


def test_what_a_message_quotes_of_a_file_is_printable(tmp_path: Path) -> None:
    (tmp_path / "x.csv").touch()
    (file,) = find(tmp_path / "x.csv")

    with pytest.raises(DataError) as caught, file.reading():
        raise pa.ArrowInvalid("what is in a row: \x00\x1b[31m")

    assert str(caught.value).endswith(r"not readable as .csv: what is in a row: \x00\x1b[31m")


def test_a_column_whose_name_is_no_text_is_told_of(tmp_path: Path) -> None:
    path = write(pa.table({"id": [1, 1], "feature": [1.0, 2.0]}), tmp_path / "x.arrows")
    path.write_bytes(path.read_bytes().replace(b"feature", b"featur\xb2"))

    with pytest.raises(DataError, match=r"x\.arrows: not readable as \.arrows"):
        Input.open(path, Columns(), wanted=Wanted(1))


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=20)
@given(data=st.data())
def test_damaged_bytes_give_sequences_or_a_data_error(
    form: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("damaged") / f"x{form}"
    content = bytearray(write(sequences(20).table("long"), path).read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content)

    with suppress(DataError):  # any other is a failure
        joined(Input.open(path, Columns(), wanted=Wanted(3)).blocks(**LIMITS))
