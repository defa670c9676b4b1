"""Which files an input is, and in which order they are read."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from seqserve_data import Columns
from seqserve_data.stream import Input, Wanted
from tests.data.stream.made import Sequences, joined, sequences, write

Refusal = Callable[..., str]


def split(given: Sequences, folder: Path, form: str = ".parquet") -> list[Path]:
    """Twelve files of four sequences, of which names like 10 come after 9."""
    parts = [Sequences(given.ids[i : i + 4], given.values[i : i + 4]) for i in range(0, 48, 4)]
    return [
        write(part.table("long"), folder / f"part-{index}{form}")
        for index, part in enumerate(parts)
    ]


def ids(opened: Input) -> list[str]:
    """Of all sequences."""
    return [name for name, *_ in joined(opened.blocks(max_sequences=10, max_steps=999))]


def test_a_directory_is_read_by_name_and_numbers_in_it_as_numbers(tmp_path: Path) -> None:
    given = sequences(48)
    paths = split(given, tmp_path / "in")

    opened = Input.open(tmp_path / "in", Columns(), wanted=Wanted(3))

    assert [Path(name).resolve() for name in opened.files] == paths
    assert ids(opened) == given.ids


def test_what_others_note_beside_the_files_is_left_aside(tmp_path: Path) -> None:
    given = sequences(48)
    split(given, tmp_path / "in")
    for name in ("_SUCCESS", ".part-0.parquet.crc", "_delta_log/0.json", ".hidden/x.parquet"):
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_text("noise")

    assert ids(Input.open(tmp_path / "in", Columns(), wanted=Wanted(3))) == given.ids


def test_a_glob_is_the_files_that_it_fits(tmp_path: Path) -> None:
    given = sequences(48)
    split(given, tmp_path / "in")

    opened = Input.open(str(tmp_path / "in/part-1*.parquet"), Columns(), wanted=Wanted(3))

    assert ids(opened) == [*given.ids[4:8], *given.ids[40:48]]


def test_a_name_with_characters_of_a_glob_is_a_name(tmp_path: Path) -> None:
    given = sequences(4)
    path = write(given.table("long"), tmp_path / "a[1]*.parquet")

    assert ids(Input.open(path, Columns(), wanted=Wanted(3))) == given.ids


def test_a_list_is_read_in_its_order(tmp_path: Path) -> None:
    given = sequences(48)
    paths = split(given, tmp_path / "in")

    opened = Input.open([paths[3], str(paths[0])], Columns(), wanted=Wanted(3))

    assert ids(opened) == [*given.ids[12:16], *given.ids[:4]]


def test_the_keys_of_a_partitioned_directory_are_columns(tmp_path: Path) -> None:
    given = sequences(8)
    for index, place in enumerate(["site=left/day=1", "site=right%20side/day=2"]):
        part = Sequences(given.ids[index * 4 :][:4], given.values[index * 4 :][:4])
        table = part.table("long").drop_columns(["site"])
        write(table, tmp_path / "in" / place / "x.parquet")

    opened = Input.open(tmp_path / "in", Columns(), wanted=Wanted(3), keep=["site", "day"])
    found = joined(opened.blocks(max_sequences=99, max_steps=999))

    assert [kept for *_, kept in found] == [{"site": "left", "day": "1"}] * 4 + [
        {"site": "right side", "day": "2"}
    ] * 4


def test_a_partition_can_say_of_which_sequence_its_rows_are(tmp_path: Path) -> None:
    given = sequences(3)
    for name, values in zip(given.ids, given.values, strict=True):
        table = Sequences([name], [values]).table("long").drop_columns(["id"])
        write(table, tmp_path / "in" / f"id={name}" / "x.csv")

    assert ids(Input.open(tmp_path / "in", Columns(), wanted=Wanted(3))) == given.ids


@pytest.mark.parametrize("form", [".parquet", ".csv.gz", ".jsonl", ".arrow", ".arrows"])
def test_an_object_store_is_read_as_a_disk_is(form: str, tmp_path: Path) -> None:
    given = sequences(48)
    split(given, tmp_path / "in", form)
    store = fsspec.filesystem("memory")
    store.put(str(tmp_path / "in"), "/bucket/in", recursive=True)
    try:
        local = Input.open(f"file://{tmp_path}/in", Columns(), wanted=Wanted(3))
        remote = Input.open("memory://bucket/in", Columns(), wanted=Wanted(3))

        assert ids(remote) == ids(local) == given.ids
        assert remote.files[0].startswith("memory://")
        assert remote.fingerprint() == local.fingerprint()
        begin = list(local.blocks(max_sequences=10, max_steps=999))[2].begin
        again = remote.blocks(begin, max_sequences=10, max_steps=999)
        assert [name for name, *_ in joined(again)] == given.ids[20:]
    finally:
        store.rm("/bucket", recursive=True)


def test_a_fingerprint_is_another_when_a_name_or_a_byte_is(tmp_path: Path) -> None:
    path, other = tmp_path / "x.csv", tmp_path / "y.csv"
    path.write_text("id,a\n1,2\n")

    def fingerprint(path: Path) -> str:
        return Input.open(path, Columns(), wanted=Wanted(1)).fingerprint()

    before = fingerprint(path)
    shutil.copy(path, other)
    assert fingerprint(path) == before
    assert fingerprint(other) != before
    path.write_text("id,a\n1,3\n")
    assert fingerprint(path) != before


def test_a_fingerprint_is_the_same_wherever_the_folder_lies(tmp_path: Path) -> None:
    split(sequences(48), tmp_path / "in")
    shutil.copytree(tmp_path / "in", tmp_path / "elsewhere" / "copy")

    one = Input.open(tmp_path / "in", Columns(), wanted=Wanted(3))
    two = Input.open(tmp_path / "elsewhere/copy", Columns(), wanted=Wanted(3))

    assert one.fingerprint() == two.fingerprint()


def test_the_checksum_of_a_store_is_taken_for_its_content(tmp_path: Path) -> None:
    store = fsspec.filesystem("memory")
    store.pipe("/bucket/x.csv", b"id,a\n1,2\n")
    try:
        opened = Input.open("memory://bucket/x.csv", Columns(), wanted=Wanted(1))
        (file,) = opened._files
        asked = file.filesystem.info
        file.filesystem.info = lambda path: {**asked(path), "ETag": "abc"}  # as s3fs tells
        assert file.digest() == "size=9 ETag=abc"
    finally:
        del store.info
        store.rm("/bucket", recursive=True)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("nothing.csv", "nothing.csv: no such file, and no file that this fits"),
        ("*.csv", "*.csv: no such file, and no file that this fits"),
        ("empty", "empty: the folder has no file of a form that is read"),
        (["x.parquet", "x.parquet"], "x.parquet: is named twice; each row is read once"),
        (["x.parquet", "."], "is named twice"),
        (
            ["x.parquet", "y.csv"],
            "y.csv: is .csv, but x.parquet is .parquet; the files of an input have one form",
        ),
        ("z.xlsx", "z.xlsx: a file with suffix '.xlsx' is not read; .parquet, .csv, .jsonl"),
        ("nowhere://x.csv", "nowhere://x.csv: no such place: Protocol not known: nowhere"),
        ([], "no input is named"),
    ],
)
def test_what_cannot_be_an_input_is_said(
    source: str | list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    refusal: Refusal,
) -> None:
    monkeypatch.chdir(tmp_path)
    write(sequences(4).table("long"), Path("x.parquet"))
    (tmp_path / "empty").mkdir()
    if "y.csv" in source:
        write(sequences(4).table("long"), Path("y.csv"))
    if source == "z.xlsx":
        Path(source).touch()

    assert said in refusal(source)
