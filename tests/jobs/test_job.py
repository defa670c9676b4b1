"""What a job writes."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from seqserve.ragged import RaggedBatch
from seqserve_data import Columns
from seqserve_jobs.engines.embedded import EmbeddedEngine
from seqserve_jobs.engines.engine import Engine, Model
from seqserve_jobs.errors import InvalidJob, JobError, OutputError
from seqserve_jobs.job import JobOptions, OnError, score_files
from seqserve_jobs.summary import Summary
from tests.jobs.conftest import FEATURES, steps_table, write_steps
from tests.jobs.watched import Reversing, Watched

SEQUENCES = 60
SHARDS = 4


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some of its sequences are bad."""
    path = tmp_path_factory.mktemp("input") / "in.parquet"
    return write_steps(path, SEQUENCES, bad=True)


def options(source: Path, output: Path | str, **more: object) -> JobOptions:
    return JobOptions(source, str(output), max_sequences=SEQUENCES // SHARDS, **more)  # type: ignore[arg-type]


def sequences(bad: bool = True) -> list[np.ndarray]:
    table = steps_table(SEQUENCES, bad=bad)
    names = [f"feature {index}" for index in range(FEATURES)]
    values = np.stack([table[name].to_numpy() for name in names], axis=1)
    ids = table["id"].to_numpy()
    return [values[ids == index] for index in range(SEQUENCES)]


def test_a_row_holds_what_the_engine_answers_to_its_sequence_alone(
    tmp_path: Path, source: Path, engine: Engine
) -> None:
    summary = score_files(options(source, tmp_path / "out.parquet", logits=True), engine)

    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["id"] for row in rows] == list(range(SEQUENCES))
    refused = 0
    for row, sequence in zip(rows, sequences(), strict=True):
        answers = [row["label"], row["logits"], row["probability_class 1"]]
        assert row["model_version"] == 1
        assert row["model_digest"] == engine.model.digest
        if np.isnan(sequence).any():
            refused += 1
            assert answers == [None, None, None]
            assert row["error"].startswith("step 0, feature 'feature 1' is NaN")
            continue
        alone = engine.submit(RaggedBatch.from_sequences([sequence])).result()
        assert row["error"] is None
        assert row["label"] == engine.model.labels[alone.probabilities[0].argmax()]
        assert np.array_equal(np.float32(row["logits"]), alone.logits[0])
        assert np.float32(row["probability_class 1"]) == alone.probabilities[0, 1]
    assert refused
    assert (summary.sequences, summary.scored) == (SEQUENCES, SEQUENCES - refused)
    (reason,) = summary.refused
    assert reason.startswith("step …, feature … is NaN")
    assert summary.refused_in_all == refused
    assert summary.shards == SHARDS
    assert summary.finished
    assert json.loads(json.dumps(summary.as_dict()))["refused"] == summary.refused


def test_bad_sequences_are_left_out_and_counted_where_they_are_skipped(
    tmp_path: Path, source: Path, engine: Engine
) -> None:
    summary = score_files(options(source, tmp_path / "out.parquet", on_error=OnError.SKIP), engine)

    written = pq.read_table(tmp_path / "out.parquet")
    good = [index for index, each in enumerate(sequences()) if not np.isnan(each).any()]
    assert written["id"].to_pylist() == good
    assert written["label"].null_count == 0
    assert summary.scored == len(good)
    assert summary.scored + summary.refused_in_all == SEQUENCES


def test_the_most_probable_classes_alone_are_named_where_that_is_asked_for(
    tmp_path: Path, source: Path, engine: Engine
) -> None:
    score_files(options(source, tmp_path / "all.parquet"), engine)
    score_files(options(source, tmp_path / "top.parquet", top_k=2), engine)

    whole = pq.read_table(tmp_path / "all.parquet").to_pylist()
    for row, top in zip(whole, pq.read_table(tmp_path / "top.parquet").to_pylist(), strict=True):
        assert top["label"] == row["label"]
        if row["label"] is None:
            assert top["top_labels"] is top["top_probabilities"] is None
            continue
        ranked = sorted(engine.model.labels, key=lambda label: -row[f"probability_{label}"])
        assert top["top_labels"] == ranked[:2]
        assert top["top_probabilities"] == [row[f"probability_{label}"] for label in ranked[:2]]


def test_more_classes_than_there_are_cannot_be_named(
    tmp_path: Path, source: Path, engine: Engine
) -> None:
    with pytest.raises(JobError, match="--top-k is 5; speakers has 4 classes"):
        score_files(options(source, tmp_path / "out.parquet", top_k=5), engine)

    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("option", "flag"),
    [("top_k", "--top-k"), ("max_sequences", "--shard-sequences"), ("max_steps", "--shard-steps")],
)
def test_a_number_out_of_range_is_named_as_the_command_has_it(option: str, flag: str) -> None:
    with pytest.raises(InvalidJob, match=f"^{flag} is -1; at least"):
        JobOptions("in", "out", **{option: -1})  # type: ignore[arg-type]


def test_relative_inputs_are_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = ("a", "*.csv", "/b", "s3://c/d")
    assert JobOptions(told, "out").from_anywhere().input == (
        *(f"{tmp_path}/a", f"{tmp_path}/*.csv", "/b", "s3://c/d"),
    )
    assert JobOptions(Path("a"), "out").from_anywhere().input == f"{tmp_path}/a"


def test_a_time_that_python_has_none_for_is_told_of(tmp_path: Path, engine: Engine) -> None:
    table = steps_table(5)
    when = pa.array([400_000_000_000] * len(table), pa.timestamp("s"))
    pq.write_table(table.append_column("when", when), tmp_path / "in.parquet")
    with pytest.raises(OutputError, match=r"out.jsonl: a column cannot be written as .jsonl"):
        score_files(
            options(tmp_path / "in.parquet", tmp_path / "out.jsonl", keep=("when",)), engine
        )


def test_columns_are_handed_through_and_renamed_where_the_output_has_one_of_that_name(
    tmp_path: Path, engine: Engine
) -> None:
    table = steps_table(5).append_column("label", pa.array(["true"] * len(steps_table(5))))
    pq.write_table(table, tmp_path / "in.parquet")

    score_files(
        options(tmp_path / "in.parquet", tmp_path / "out.parquet", keep=("speaker", "label")),
        engine,
    )

    written = pq.read_table(tmp_path / "out.parquet")
    assert written["speaker"].to_pylist() == [f"person {index}" for index in range(5)]
    assert written["input_label"].to_pylist() == ["true"] * 5
    assert set(written["label"].to_pylist()) <= set(engine.model.labels)


@pytest.mark.parametrize("form", ["parquet", "csv", "jsonl", "arrow", "folder"])
def test_every_form_holds_the_same_numbers(
    tmp_path: Path, source: Path, engine: Engine, form: str
) -> None:
    score_files(options(source, tmp_path / "whole.parquet", keep=("speaker",)), engine)
    output = tmp_path / ("out" if form == "folder" else f"out.{form}")

    summary = score_files(options(source, output, keep=("speaker",)), engine)

    expected = pq.read_table(tmp_path / "whole.parquet")
    if form == "folder":
        read = pa.dataset.dataset(output).to_table()
        parts = [f"part-0000{index}.parquet" for index in range(SHARDS)]
        assert sorted(os.listdir(output)) == ["_seqserve", *parts]
        assert summary.files == tuple(str(output / part) for part in parts)
    else:
        known = {"jsonl": "json", "arrow": "ipc"}.get(form, form)
        read = pa.dataset.dataset(str(output), format=known).to_table()  # type: ignore[call-overload]
        assert summary.files == (str(output),)
        assert sorted(os.listdir(tmp_path)) == sorted(
            [output.name, f"{output.name}.job.json"]
            + (["whole.parquet", "whole.parquet.job.json"] if form != "whole" else [])
        )
    if form == "csv":  # which has no null but the empty text
        read = read.set_column(
            1, "label", pa.array([text or None for text in read["label"].to_pylist()])
        )
        read = read.set_column(
            read.column_names.index("error"),
            "error",
            pa.array([text or None for text in read["error"].to_pylist()]),
        )
    assert read.cast(expected.schema).equals(expected)


def test_the_bytes_do_not_depend_on_who_answers_or_in_which_order(
    tmp_path: Path, source: Path, engine: Engine, models: Path
) -> None:
    score_files(options(source, tmp_path / "in order.parquet"), engine)
    score_files(options(source, tmp_path / "reversed.parquet"), Reversing(engine, SHARDS))
    with EmbeddedEngine(models, "speakers", lanes=1) as other:
        score_files(options(source, tmp_path / "other.parquet"), other)

    written = (tmp_path / "in order.parquet").read_bytes()
    assert (tmp_path / "reversed.parquet").read_bytes() == written
    assert (tmp_path / "other.parquet").read_bytes() == written


def test_the_bytes_do_not_depend_on_how_the_input_is_stored(
    tmp_path: Path, source: Path, engine: Engine
) -> None:
    table = pq.read_table(source)
    pq.write_table(table, tmp_path / "one group.parquet", compression="none")
    half = len(table) // 2  # in the middle of a sequence, perhaps
    (tmp_path / "halves").mkdir()
    pq.write_table(table.slice(0, half), tmp_path / "halves" / "1.parquet", row_group_size=7)
    pq.write_table(table.slice(half), tmp_path / "halves" / "2.parquet", use_dictionary=False)

    for name, stored in (
        ("a", source),
        ("b", tmp_path / "one group.parquet"),
        ("c", tmp_path / "halves"),
    ):
        score_files(options(stored, tmp_path / f"{name}.arrow", keep=("speaker",)), engine)

    written = (tmp_path / "a.arrow").read_bytes()
    assert (tmp_path / "b.arrow").read_bytes() == written
    assert (tmp_path / "c.arrow").read_bytes() == written


@pytest.mark.parametrize("name", ["out.parquet", "folder"])
def test_an_output_may_be_in_another_file_system(
    tmp_path: Path, source: Path, engine: Engine, name: str
) -> None:
    system, path = fsspec.url_to_fs(f"memory://{uuid.uuid4().hex}")
    watched = Watched(engine)

    for _ in range(2):
        summary = score_files(options(source, f"memory:/{path}/{name}"), watched)

    assert len(watched.batches) == SHARDS
    assert summary.nothing_to_do
    score_files(options(source, tmp_path / name), engine)
    for file in summary.files:
        here = tmp_path / name if name == "out.parquet" else tmp_path / name / Path(file).name
        assert system.cat_file(file) == here.read_bytes()
    assert system.exists(f"{path}/{name}.parts") is False
    assert not [found for found in system.find(path) if found.endswith(".lock")]


def test_a_shard_of_bad_sequences_alone_is_written_too(tmp_path: Path, engine: Engine) -> None:
    table = pa.table({"id": [1, 2], "a": [np.nan, 0.0], "b": [0.0] * 2, "c": [0.0] * 2})
    pq.write_table(table, tmp_path / "in.parquet")
    watched = Watched(engine)

    summary = score_files(
        JobOptions(
            str(tmp_path / "in.parquet"),
            str(tmp_path / "out.csv"),
            Columns(features=("a", "b", "c")),
            max_sequences=1,
        ),
        watched,
    )

    assert len(watched.batches) == 1
    assert (summary.scored, summary.refused_in_all) == (1, 1)
    first, second = (tmp_path / "out.csv").read_text().splitlines()[1:]
    assert "'a' is NaN" in first
    assert '"class ' in second


@pytest.mark.parametrize("name", ["out.parquet", "out.csv", "folder"])
def test_an_input_of_no_sequences_gives_an_output_of_no_rows(
    tmp_path: Path, source: Path, engine: Engine, name: str
) -> None:
    pq.write_table(steps_table(0), tmp_path / "in.parquet")
    told = options(tmp_path / "in.parquet", tmp_path / name, keep=("speaker",))

    summary = score_files(told, engine)

    assert (summary.sequences, summary.scored, summary.finished) == (0, 0, True)
    assert score_files(told, engine).nothing_to_do
    if name == "out.csv":
        assert (tmp_path / name).read_text().startswith('"id","label",')
    else:
        score_files(options(source, tmp_path / "some", keep=("speaker",)), engine)
        written = pq.read_table(tmp_path / name)
        assert len(written) == 0
        assert written.schema == pq.read_table(tmp_path / "some").schema


class Told:
    """Remembers what it is told as a job's progress."""

    def __init__(self) -> None:
        self.started: list[tuple[str, str, int | None]] = []
        self.shards: list[dict[str, Any]] = []
        self.ended: list[Summary] = []

    def on_reading(self, size: int) -> None:
        pass

    def on_start(self, model: Model, source: str, rows: int | None) -> None:
        self.started.append((model.name, source, rows))

    def on_shard(self, **figures: int | bool | None) -> None:
        self.shards.append(figures)

    def on_end(self, summary: Summary) -> None:
        self.ended.append(summary)


def test_progress_is_told_of_every_shard_once(tmp_path: Path, source: Path, engine: Engine) -> None:
    told, again = Told(), Told()

    summary = score_files(options(source, tmp_path / "out"), engine, told)
    (tmp_path / "out" / "part-00002.parquet").unlink()
    score_files(options(source, tmp_path / "out"), engine, again)

    rows = pq.read_metadata(source).num_rows
    assert [start[::2] for start in told.started + again.started] == [("speakers", rows)] * 2
    assert told.ended == [summary]
    assert sum(shard["sequences"] for shard in told.shards) == SEQUENCES
    assert sum(shard["refused"] for shard in told.shards) == summary.refused_in_all
    assert sum(shard["steps"] for shard in told.shards) == summary.steps
    done = [shard["rows_done"] for shard in told.shards]
    assert done == sorted(done)
    assert done[-1] == rows
    assert not any(shard["skipped"] for shard in told.shards)
    assert [shard["skipped"] for shard in again.shards] == [True] * (SHARDS - 1) + [False]
    assert again.shards[-1]["rows_done"] == rows
    computed = sum(shard["computed_steps"] for shard in told.shards)
    assert summary.useful_step_fraction == summary.steps / computed
