"""Tables and data sets in memory, scored as files of them are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import polars
import pyarrow as pa
import pytest
from pyarrow import parquet

from seqserve.ragged import RaggedBatch
from seqserve_data import Columns, DataError, Dataset
from seqserve_jobs.api import score_dataset, score_table
from seqserve_jobs.engines.embedded import EmbeddedEngine
from seqserve_jobs.errors import BadSequence, JobError
from seqserve_jobs.job import JobOptions, score_files
from seqserve_jobs.on_error import OnError

if TYPE_CHECKING:
    from tests.conftest import ModelRepository

NAMES = tuple(f"feature {index}" for index in range(3))
LENGTHS = np.random.default_rng(3).integers(1, 30, 40)


Given = Callable[[pa.Table], object]


class Stream:
    """Speaks Arrow's C stream and nothing else, with types of text as data frames may have."""

    def __init__(self, table: pa.Table) -> None:
        room = table.schema.get_field_index("room")
        self._table = table.set_column(room, "room", table.column(room).cast(pa.string_view()))

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self._table.__arrow_c_stream__(requested_schema)  # type: ignore[no-untyped-call]


@pytest.fixture(scope="module")
def engine(repository: ModelRepository) -> Iterator[EmbeddedEngine]:
    with EmbeddedEngine(repository(speakers={}), "speakers") as engine:
        yield engine


@pytest.fixture(scope="module")
def steps() -> pa.Table:
    """A row a step, of 40 sequences."""
    rng = np.random.default_rng(4)
    ids = np.repeat(np.arange(len(LENGTHS)), LENGTHS)
    features = rng.standard_normal((len(NAMES), len(ids))).astype(np.float32)
    named = dict(zip(NAMES, map(pa.array, features), strict=True))
    return pa.table({"id": pa.array(ids), "room": [f"room {index % 3}" for index in ids], **named})


def scored_as_a_file(table: pa.Table, engine: EmbeddedEngine, folder: Path) -> pa.Table:
    parquet.write_table(table, folder / "in.parquet")
    output = folder / "out.parquet"
    score_files(
        JobOptions(str(folder / "in.parquet"), str(output), keep=("room",), logits=True),
        engine,
    )
    return parquet.read_table(output)


@pytest.mark.parametrize(
    "given",
    [
        lambda table: table,
        lambda table: table.to_pandas(),
        Stream,
        pa.RecordBatchReader.from_stream,
    ],
    ids=["Arrow", "pandas", "whatever streams Arrow", "a reader of batches"],
)
def test_a_table_has_the_scores_of_a_file_of_it(
    engine: EmbeddedEngine, steps: pa.Table, tmp_path: Path, given: Given
) -> None:
    scores = score_table(given(steps), engine, keep=["room"], logits=True)
    assert scores.equals(scored_as_a_file(steps, engine, tmp_path))


def test_many_shards_are_one_table(engine: EmbeddedEngine) -> None:
    lengths = np.ones(40_000, np.int64)
    values = np.random.default_rng(5).standard_normal((len(lengths), 3), np.float32)
    dataset = Dataset("many", RaggedBatch(values, lengths), None, tuple(map(str, lengths.cumsum())))
    scores = score_dataset(dataset, engine, logits=True)
    assert scores.column("id").to_pylist() == list(dataset.ids)
    for begin in (0, 16_384, 39_000):
        part = dataset.take(range(begin, begin + 100))
        alone = score_dataset(part, engine, logits=True)
        assert scores.slice(begin, 100).combine_chunks().equals(alone)


def test_bad_sequences_are_recorded_skipped_or_raised(
    engine: EmbeddedEngine, steps: pa.Table
) -> None:
    frame = steps.to_pandas()
    frame.loc[frame.index[frame["id"] == 3][:1], NAMES[1]] = np.inf
    recorded = score_table(frame, engine)
    assert [row["id"] for row in recorded.to_pylist() if row["error"]] == [3]
    assert score_table(frame, engine, on_error=OnError.SKIP).column("id").to_pylist() == [
        index for index in range(len(LENGTHS)) if index != 3
    ]
    with pytest.raises(BadSequence, match="sequence 3: step 0"):
        score_table(frame, engine, on_error=OnError.FAIL)


def test_a_table_without_rows_has_the_same_columns(engine: EmbeddedEngine, steps: pa.Table) -> None:
    some = score_table(steps, engine, keep=["room"], top_k=2)
    none = score_table(steps.slice(0, 0), engine, keep=["room"], top_k=2)
    assert (len(none), none.schema) == (0, some.schema)


@pytest.mark.parametrize("named", [True, False], ids=["named features", "features without names"])
def test_a_data_set_keeps_its_ids_and_labels(
    engine: EmbeddedEngine, steps: pa.Table, named: bool
) -> None:
    order = (2, 0, 1) if named else (0, 1, 2)  # the model's own is found by the names
    columns = [steps.column(NAMES[index]).to_numpy() for index in order]
    dataset = Dataset(
        name="rooms",
        sequences=RaggedBatch(np.stack(columns, axis=1), LENGTHS),
        labels=tuple(f"class {index % 4}" for index in range(len(LENGTHS))),
        ids=tuple(f"sequence {index}" for index in range(len(LENGTHS))),
        feature_names=tuple(NAMES[index] for index in order) if named else (),
    )
    scores = score_dataset(dataset, engine, logits=True)
    assert scores.column("id").to_pylist() == list(dataset.ids)
    assert scores.column("input_label").to_pylist() == list(dataset.labels or ())
    assert scores.column("logits").equals(score_table(steps, engine, logits=True).column("logits"))


def test_what_is_wrong_with_a_table_is_told(engine: EmbeddedEngine, steps: pa.Table) -> None:
    with pytest.raises(DataError, match="the table: has no column 'who'; it has 'id', 'room'"):
        score_table(steps, engine, columns=Columns(id="who"))
    with pytest.raises(JobError, match="--top-k is 9; speakers has 4 classes"):
        score_table(steps, engine, top_k=9)


def test_scores_become_a_data_frame(engine: EmbeddedEngine, steps: pa.Table) -> None:
    frame = score_table(steps.to_pandas(), engine, keep=["room"]).to_pandas()
    assert isinstance(frame, pd.DataFrame)
    assert frame.groupby("room")["label"].count().sum() == len(LENGTHS)


def test_polars_hands_over_and_takes_back_by_arrow(engine: EmbeddedEngine, steps: pa.Table) -> None:
    frame = polars.DataFrame(polars.from_arrow(steps))
    scores = polars.DataFrame(score_table(frame, engine, keep=["room"]))
    assert scores.equals(polars.DataFrame(score_table(steps, engine, keep=["room"])))
    lists = frame.group_by("id", maintain_order=True).agg(NAMES)
    assert scores["label"].equals(polars.DataFrame(score_table(lists, engine))["label"])
