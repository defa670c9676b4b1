"""Whatever the sequences and however they lie in files: the same blocks, and nothing is lost."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqserve_data import Columns, read
from seqserve_data.stream import Block, Input, Wanted
from seqserve_data.stream import records as batches
from tests.data.stream.made import SHAPES, Limits, joined, write

BAD = (None, math.nan, math.inf, 1e39)
NUMBERS = st.floats(width=32, allow_nan=False, allow_infinity=False)
CELLS = st.one_of(NUMBERS, NUMBERS, NUMBERS, st.sampled_from(BAD))

Rows = list[list[float | None]]


def values(cells: st.SearchStrategy[float | None], fewest: int) -> st.SearchStrategy[Rows]:
    """The steps of a sequence of two features."""
    return st.lists(st.lists(cells, min_size=2, max_size=2), min_size=fewest, max_size=6)


def table(given: list[Rows], shape: str) -> pa.Table:
    """The sequences by number; those of no steps have no rows in long form."""
    number = pa.float64()
    if shape == "long":
        rows = [(i, *step) for i, steps in enumerate(given) for step in steps]
        kinds = {"id": pa.int64(), "a": number, "b": number}
        return pa.table(
            {name: pa.array([r[k] for r in rows], kinds[name]) for k, name in enumerate(kinds)}
        )
    ids = pa.array(range(len(given)), pa.int64())
    if shape == "steps":
        return pa.table({"id": ids, "values": pa.array(given, pa.list_(pa.list_(number)))})
    columns = {
        name: pa.array([[step[k] for step in steps] for steps in given], pa.list_(number))
        for k, name in enumerate("ab")
    }
    return pa.table({"id": ids, **columns})


def form(data: st.DataObject, whole: pa.Table, folder: Path) -> list[Path]:
    """The table cut into files and row groups anywhere."""
    cuts = data.draw(st.lists(st.integers(0, len(whole)), max_size=3), label="file cuts")
    borders = [0, *sorted(cuts), len(whole)]
    suffix = data.draw(st.sampled_from([".parquet", ".arrow", ".arrows"]), label="form")
    return [
        write(
            whole.slice(begin, end - begin),
            folder / f"{index}{suffix}",
            data.draw(st.integers(1, 20), label="row group"),
        )
        for index, (begin, end) in enumerate(pairwise(borders))
    ]


def told(blocks: list[Block]) -> list[tuple[Any, ...]]:
    """All that a block holds, but where it lies: bit for bit."""
    return [
        (
            block.ids.to_pylist(),
            block.good.tolist(),
            block.sequences
            and (block.sequences.values.tobytes(), block.sequences.lengths.tolist()),
            dict(block.faults),
            block.kept.to_pylist(),
        )
        for block in blocks
    ]


@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=25)
@given(data=st.data())
def test_blocks_are_the_same_however_the_rows_lie_in_files(
    shape: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    given = data.draw(st.lists(values(CELLS, int(shape == "long")), max_size=25), label="given")
    whole = table(given, shape)
    folder = tmp_path_factory.mktemp("any")
    limits: Limits = {
        "max_sequences": data.draw(st.integers(1, 9), label="max_sequences"),
        "max_steps": data.draw(st.integers(1, 30), label="max_steps"),
    }
    wanted = Wanted(2, max_steps=data.draw(st.integers(1, 6), label="wanted"))

    def opened(paths: list[Path]) -> Input:
        return Input.open(paths, Columns(), wanted=wanted, keep=["id"])

    one = list(opened([write(whole, folder / "one.parquet", 1000)]).blocks(**limits))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "MAX_BATCH_ROWS", data.draw(st.integers(1, 30), label="batch"))
        split = opened(form(data, whole, folder))
        blocks = list(split.blocks(**limits))

        assert told(blocks) == told(one)
        assert [(c.begin, c.end, c.sequences) for c in split.cuts(**limits)] == [
            (b.begin, b.end, len(b)) for b in blocks
        ]
        for before, after in pairwise(blocks):
            assert before.end == after.begin
        if blocks:
            begin = data.draw(st.integers(0, len(blocks) - 1), label="begin")
            assert told(list(split.blocks(blocks[begin].begin, **limits))) == told(blocks[begin:])

    # Nothing is lost, and what is good is as it was given.
    found = joined(blocks)
    assert [name for name, *_ in found] == list(range(len(given)))
    for (_, good, fault, _), steps in zip(found, given, strict=True):
        is_good = 0 < len(steps) <= wanted.max_steps and not any(
            cell in BAD or math.isnan(cell) for step in steps for cell in step
        )
        assert (fault is None) == is_good
        if is_good:
            assert np.array_equal(np.array(good, np.float32), np.array(steps, np.float32))
    for block in blocks:
        steps_of = [
            len(given[i]) for i in block.ids.to_numpy() if len(given[i]) <= wanted.max_steps
        ]
        assert len(block) <= limits["max_sequences"]
        assert sum(steps_of) <= limits["max_steps"] or len(block) == 1 or len(steps_of) == 1


@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=15)
@given(data=st.data())
def test_blocks_end_to_end_are_the_file_read_in_memory(
    shape: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    given = data.draw(st.lists(values(NUMBERS, 1), min_size=1, max_size=20), label="given")
    path = write(table(given, shape), tmp_path_factory.mktemp("read") / "x.parquet", 4)

    whole = read(path)
    blocks = list(
        Input.open(path, Columns(), wanted=Wanted(2)).blocks(max_sequences=5, max_steps=20)
    )

    assert tuple(str(name) for block in blocks for name in block.ids.to_pylist()) == whole.ids
    batches_ = [block.sequences for block in blocks if block.sequences is not None]
    assert b"".join(b.values.tobytes() for b in batches_) == whole.sequences.values.tobytes()
    assert (
        np.concatenate([b.lengths for b in batches_]).tolist() == whole.sequences.lengths.tolist()
    )
