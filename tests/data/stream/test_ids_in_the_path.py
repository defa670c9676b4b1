"""Ids that no column holds: the folder that a file lies in says them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from seqserve_data import Columns, DataError
from seqserve_data.stream import Input, Wanted
from tests.data.stream.made import FORMS, Limits, joined, table_of, write

LIMITS: Limits = {"max_sequences": 2, "max_steps": 99}


def written(folder: Path, form: str, ids: list[str]) -> list[Path]:
    """A file an id, of two steps more than the one before."""
    return [
        write(
            table_of({"a": np.arange(2.0 * index + 2), "note": ["n"] * (2 * index + 2)}),
            folder / str(index) / f"id={name}" / f"p{form}",
        )
        for index, name in enumerate(ids)
    ]


@pytest.mark.parametrize("form", FORMS)
def test_cuts_and_blocks_agree_where_the_path_tells_the_ids(form: str, tmp_path: Path) -> None:
    written(tmp_path, form, ["s0", "s1", "s2"])

    opened = Input.open(tmp_path, Columns(), wanted=Wanted(1))
    blocks = list(opened.blocks(**LIMITS))

    assert [name for name, *_ in joined(blocks)] == ["s0", "s1", "s2"]
    found = [(cut.begin, cut.end, cut.sequences, cut.steps) for cut in opened.cuts(**LIMITS)]
    assert found == [
        (block.begin, block.end, len(block), len(block.sequences.values))
        for block in blocks
        if block.sequences is not None
    ]


@pytest.mark.parametrize("form", FORMS)
def test_an_id_that_comes_again_in_a_later_path_is_refused(form: str, tmp_path: Path) -> None:
    opened = Input.open(
        written(tmp_path, form, ["s1", "s0", "s1"])[0].parents[2], Columns(), wanted=Wanted(1)
    )
    begin = next(opened.blocks(max_sequences=1, max_steps=99, check_ids=False)).end

    for read in (
        lambda: opened.blocks(**LIMITS),
        lambda: opened.cuts(**LIMITS),
        lambda: opened.blocks(begin, **LIMITS),
    ):
        with pytest.raises(DataError, match=r"sequence 's1' began in .*comes again after others"):
            list(read())


def test_the_folder_of_those_without_an_id_is_a_sequence_without_one(tmp_path: Path) -> None:
    written(tmp_path, ".parquet", ["s0", "__HIVE_DEFAULT_PARTITION__"])

    (block,) = Input.open(tmp_path, Columns(), wanted=Wanted(1)).blocks(**LIMITS)

    assert block.ids.to_pylist() == ["s0", None]
    assert block.faults == {1: "has no id"}
