"""Sequences whose rows go on across batches, row groups and files; their order; ids that recur."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seqserve_data import Columns, DataError
from seqserve_data.stream import Input, Wanted
from seqserve_data.stream import records as batches
from seqserve_data.stream.block import START
from tests.data.stream.made import Limits, joined, table_of, write

Refusal = Callable[..., str]
LIMITS: Limits = {"max_sequences": 4, "max_steps": 999}


def found(source: Path | list[Path], columns: Columns | None = None, **wanted: Any) -> list[Any]:  # noqa: ANN401
    """Of each sequence its id, its one feature's values, and its fault."""
    opened = Input.open(source, columns or Columns(), wanted=Wanted(1, **wanted))
    return [
        (name, values and [value for (value,) in values], fault)
        for name, values, fault, _ in joined(opened.blocks(**LIMITS))
    ]


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of three rows, so that sequences go on from one to the next."""
    monkeypatch.setattr(batches, "MAX_BATCH_ROWS", 3)


@pytest.mark.usefixtures("small_batches")
def test_a_sequence_goes_on_in_the_next_batch_row_group_and_file(tmp_path: Path) -> None:
    ids = [1] * 2 + [2] * 11 + [3] * 1 + [4] * 6
    table = table_of({"id": ids, "a": np.arange(20.0)})
    paths = [
        write(table.slice(0, 5), tmp_path / "1.parquet", 2),
        write(table.slice(5, 3), tmp_path / "2.parquet", 2),
        write(table.slice(8), tmp_path / "3.parquet", 5),
    ]

    assert found(paths) == [
        (1, [0, 1], None),
        (2, list(range(2, 13)), None),
        (3, [13], None),
        (4, list(range(14, 20)), None),
    ]


@pytest.mark.usefixtures("small_batches")
def test_a_sequence_that_becomes_too_long_is_counted_but_not_held(tmp_path: Path) -> None:
    table = table_of({"id": [1] * 2 + [2] * 500 + [3] * 2, "a": np.arange(504.0)})

    assert found(write(table, tmp_path / "x.parquet", 100), max_steps=5) == [
        (1, [0, 1], None),
        (2, None, "has 500 steps; the model takes at most 5"),
        (3, [502, 503], None),
    ]


def test_kept_columns_are_those_of_the_first_row(tmp_path: Path) -> None:
    table = table_of({"id": [1, 1, 2], "step": [2, 1, 1], "a": [2.0, 1.0, 3.0], "k": list("xyz")})
    path = write(table, tmp_path / "x.parquet", 1)

    (block,) = Input.open(path, Columns(), wanted=Wanted(1), keep=["k"]).blocks(**LIMITS)

    assert block.kept.to_pydict() == {"k": ["x", "z"]}


ORDERS: list[tuple[str, list[Any]]] = [
    ("integers", [3, 1, 2]),
    ("beyond float64", [2**60 + 2, 2**60, 2**60 + 1]),
    ("floats", [0.3, -1.0, 0.2]),
    ("text of integers", ["10", "2", " 9"]),
    ("text beyond float64", [str(2**60 + 2), str(2**60), f"{2**60 + 1}"]),
    ("text of floats", ["0.3", "1e-3", "0.2"]),
    ("text of times", ["2024-01-03", "2024-01-01", "2024-01-02 12:00"]),
    (
        "text of times in zones",
        ["2024-01-01T09:00Z", "2024-01-01T09:00+02:00", "2024-01-01T08:00Z"],
    ),
    ("dates", [date(2024, 1, day) for day in (3, 1, 2)]),
    ("times", [np.datetime64(f"2024-01-01T00:00:0{s}.1", "us") for s in (3, 1, 2)]),
]


@pytest.mark.parametrize(("kind", "order"), ORDERS, ids=[kind for kind, _ in ORDERS])
def test_the_order_column_sorts_within_a_sequence(
    kind: str, order: list[Any], tmp_path: Path
) -> None:
    path = write(
        table_of({"id": [7, 7, 7, 8], "t": [*order, order[0]], "a": [3.0, 1.0, 2.0, 9.0]}),
        tmp_path / "x.parquet",
        2,
    )

    assert found(path, Columns(order="t")) == [(7, [1, 2, 3], None), (8, [9], None)]


def test_each_sequence_has_its_own_kind_of_order(tmp_path: Path) -> None:
    order = ["10", "9", "2024-01-02", "2024-01-01", "1.5", "x", "0.5", "0.25", "", "1"]
    ids = [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    path = write(table_of({"id": ids, "t": order, "a": np.arange(10.0)}), tmp_path / "x.csv")

    assert found(path, Columns(order="t")) == [
        ("1", [1, 0], None),
        ("2", [3, 2], None),
        (
            "3",
            None,
            "row 1 of it has 't' 'x', which is neither a number nor a time such as "
            "2024-01-31T12:00:00",
        ),
        ("4", [7, 6], None),
        ("5", None, "row 0 of it has no 't'"),
    ]


def test_steps_of_one_order_are_a_fault_of_their_sequence(tmp_path: Path) -> None:
    path = write(
        table_of({"id": [1, 1, 1, 2, 2], "t": [5, 4, 5, 5, 4], "a": np.arange(5.0)}),
        tmp_path / "x.parquet",
    )

    assert found(path, Columns(order="t")) == [
        (1, None, "has two steps of 't' 5; the steps of a sequence are all different"),
        (2, [4, 3], None),
    ]


def test_a_fault_is_told_by_the_step_it_has_in_order(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("id,step,a\nx,3,1\nx,1,bad\nx,2,2\n")

    assert found(path) == [("x", None, "step 0, feature 'a' is not a number: 'bad'")]


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize(
    "ids", [list("aabbca"), list("zzyyxz"), list("abcdefghb"), [5, 1, 2, 9, 5], [1.0, 0.0, 1.0]]
)
def test_an_id_that_comes_again_is_refused(ids: list[Any], tmp_path: Path) -> None:
    table = table_of({"id": ids, "a": np.arange(float(len(ids)))})
    paths = [
        write(table.slice(0, 2), tmp_path / "1.parquet"),
        write(table.slice(2), tmp_path / "2.parquet"),
    ]
    opened = Input.open(paths, Columns(), wanted=Wanted(1))
    first = ids.index(ids[-1])
    file, row = ("1", first) if first < 2 else ("2", first - 2)

    for read in (opened.blocks, opened.cuts):
        with pytest.raises(DataError) as caught:
            list(read(**LIMITS))
        assert str(caught.value).replace(f"{tmp_path}/", "") == (
            f"2.parquet, row {len(ids) - 3} (counted from 0), column 'id': sequence {ids[-1]!r} "
            f"began in {file}.parquet, row {row} (counted from 0) and comes again after others; "
            "the rows of a sequence lie together: sort the input by 'id'"
        )


def test_an_id_that_lies_before_the_begin_is_known(tmp_path: Path) -> None:
    for ids in (list("abcdefghb"), list("hgfedcbag")):
        path = write(table_of({"id": ids, "a": np.arange(9.0)}), tmp_path / "x.parquet", 2)
        opened = Input.open(path, Columns(), wanted=Wanted(1))
        begin = next(opened.blocks(**LIMITS)).end

        with pytest.raises(DataError, match="comes again after others"):
            list(opened.blocks(begin, **LIMITS))
        assert sum(map(len, opened.blocks(begin, check_ids=False, **LIMITS))) == 5


def test_ids_that_share_a_hash_are_two(tmp_path: Path) -> None:
    one, other = 5, 5 + 2**61 - 1
    assert hash(one) == hash(other)
    path = write(table_of({"id": [9, one, other], "a": np.arange(3.0)}), tmp_path / "x.parquet")

    assert [name for name, *_ in found(path)] == [9, one, other]


def test_rows_without_an_id_do_not_come_again(tmp_path: Path) -> None:
    path = write(
        table_of({"id": ["b", None, "a", None], "a": np.arange(4.0)}), tmp_path / "x.parquet", 1
    )

    assert [name for name, *_ in found(path)] == ["b", None, "a", None]


@pytest.mark.parametrize("ascending", [True, False])
def test_many_ids_are_told_apart(ascending: bool, tmp_path: Path) -> None:
    ids = np.arange(30_000) if ascending else np.random.default_rng(0).permutation(30_000)
    path = write(table_of({"id": ids, "a": np.ones(30_000)}), tmp_path / "x.parquet", 5000)
    opened = Input.open(path, Columns(), wanted=Wanted(1))

    blocks = list(opened.blocks(START, max_sequences=999, max_steps=999))

    assert np.concatenate([block.ids.to_numpy() for block in blocks]).tolist() == ids.tolist()
