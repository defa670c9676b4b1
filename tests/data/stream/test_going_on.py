"""A begin in the middle: what lies before it is not read, and what follows is as it was."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from seqserve_data import Columns, DataError
from seqserve_data.stream import Input, Wanted
from tests.data.stream.made import FORMS, SHAPES, Limits, joined, sequences, write

LIMITS: Limits = {"max_sequences": 10, "max_steps": 999}


def spoil(path: Path, begin: int, end: int) -> None:
    """Overwrites these bytes of a file."""
    with path.open("r+b") as file:
        file.seek(begin)
        file.write(b"\xff" * (end - begin))


@pytest.mark.parametrize("shape", SHAPES)
def test_row_groups_before_the_begin_are_not_read(shape: str, tmp_path: Path) -> None:
    path = write(sequences(60).table(shape), tmp_path / "x.parquet", 10)
    opened = Input.open(path, Columns(), wanted=Wanted(3))
    blocks = list(opened.blocks(**LIMITS))
    begin = blocks[3].begin
    metadata = pq.read_metadata(path)
    before = begin.row // 10  # row groups
    spoil(path, 4, metadata.row_group(before).column(0).dictionary_page_offset or 0)

    again = joined(opened.blocks(begin, check_ids=False, **LIMITS))

    assert again == joined(blocks[3:])
    with pytest.raises(DataError, match=r"x\.parquet: not readable as \.parquet"):
        list(opened.blocks(**LIMITS))


@pytest.mark.parametrize("form", FORMS)
def test_files_before_the_begin_are_not_read(form: str, tmp_path: Path) -> None:
    given = sequences(60)
    table = given.table("long")
    paths = [
        write(table.filter(pq.filters_to_expression([("id", ">=", low), ("id", "<", high)])), path)
        for low, high, path in [
            ("s0000", "s0020", tmp_path / f"1{form}"),
            ("s0020", "s0040", tmp_path / f"2{form}"),
            ("s0040", "s0060", tmp_path / f"3{form}"),
        ]
    ]
    opened = Input.open(paths, Columns(), wanted=Wanted(3))
    blocks = list(opened.blocks(**LIMITS))
    assert blocks[2].begin.file == 1
    os.remove(paths[0])

    again = joined(opened.blocks(blocks[2].begin, check_ids=False, **LIMITS))

    assert again == joined(blocks[2:])
    with pytest.raises(DataError, match=rf"1\{form}: not readable as"):
        list(opened.blocks(**LIMITS))


@pytest.mark.parametrize("form", FORMS)
def test_any_end_is_a_begin(form: str, tmp_path: Path) -> None:
    path = write(sequences(60).table("long"), tmp_path / f"x{form}")
    opened = Input.open(path, Columns(), wanted=Wanted(3))
    blocks = list(opened.blocks(**LIMITS))

    for index, block in enumerate(blocks, 1):
        rest = list(opened.blocks(block.end, **LIMITS))
        assert [(b.begin, b.end) for b in rest] == [(b.begin, b.end) for b in blocks[index:]]
        assert joined(rest) == joined(blocks[index:])
