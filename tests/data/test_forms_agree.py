"""The same data gives the same batch, bit for bit, whatever form it is kept in."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqserve.ragged import RaggedBatch
from seqserve_data import Dataset, npz, read

NUMBERS = st.floats(width=32, allow_nan=False, allow_infinity=False)
NAMES = st.text("abcXYZ0189._- é", min_size=1).map(str.strip).filter(bool)


@st.composite
def datasets(draw: st.DrawFn) -> Dataset:
    """Data sets of up to 5 sequences of up to 6 steps of up to 3 features."""
    lengths = draw(st.lists(st.integers(1, 6), min_size=1, max_size=5))
    features = draw(st.integers(1, 3))
    count = sum(lengths) * features
    numbers = draw(st.lists(NUMBERS, min_size=count, max_size=count))
    return Dataset(
        name="d",
        sequences=RaggedBatch(
            np.array(numbers, np.float32).reshape(-1, features), np.array(lengths, np.int64)
        ),
        labels=tuple(draw(NAMES) for _ in lengths),
        ids=tuple(draw(st.lists(NAMES, min_size=len(lengths), max_size=len(lengths), unique=True))),
        feature_names=tuple(f"f{index}" for index in range(features)),
    )


def labels(dataset: Dataset) -> tuple[str, ...]:
    """The labels, which every data set here has."""
    assert dataset.labels is not None
    return dataset.labels


def steps(dataset: Dataset) -> list[tuple[str, str, int, list[float]]]:
    """Id, label, step and features of each step."""
    return [
        (name, label, step, row)
        for name, label, sequence in zip(
            dataset.ids, labels(dataset), dataset.sequences, strict=True
        )
        for step, row in enumerate(sequence.astype(float).tolist())
    ]


def write_csv(dataset: Dataset, path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "label", *dataset.feature_names])
        writer.writerows([name, label, *row] for name, label, _, row in steps(dataset))


def write_shuffled_csv(dataset: Dataset, path: Path) -> None:
    """The steps of all sequences mixed, but for the first of each, and an order column."""
    rows = steps(dataset)
    first, others = [r for r in rows if not r[2]], [r for r in rows if r[2]]
    np.random.default_rng(len(rows)).shuffle(others)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerow(["step", *dataset.feature_names, "id", "label"])
        writer.writerows([step, *row, name, label] for name, label, step, row in first + others)


def write_long_parquet(dataset: Dataset, path: Path) -> None:
    rows = steps(dataset)
    columns = dict(zip(dataset.feature_names, dataset.sequences.values.T, strict=True))
    table = pa.table(
        {"id": [row[0] for row in rows], "label": [row[1] for row in rows]}
        | {name: pa.array(column) for name, column in columns.items()}
    )
    pq.write_table(table, path, row_group_size=3)


def write_nested_parquet(dataset: Dataset, path: Path) -> None:
    sequences = [sequence.tolist() for sequence in dataset.sequences]
    table = pa.table({"id": dataset.ids, "label": labels(dataset), "sequence": sequences})
    pq.write_table(table, path, row_group_size=2)


def write_nested_parquet_by_feature(dataset: Dataset, path: Path) -> None:
    columns = {
        name: [sequence[:, index].tolist() for sequence in dataset.sequences]
        for index, name in enumerate(dataset.feature_names)
    }
    table = pa.table({"id": dataset.ids, "label": labels(dataset), **columns})
    pq.write_table(table, path, row_group_size=2)


def write_jsonl(dataset: Dataset, path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        for name, label, sequence in zip(
            dataset.ids, labels(dataset), dataset.sequences, strict=True
        ):
            record = {"id": name, "label": label, "values": sequence.tolist()}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def write_ts(dataset: Dataset, path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(f"@classLabel true {' '.join(set(labels(dataset)))}\n@data\n")
        for label, sequence in zip(labels(dataset), dataset.sequences, strict=True):
            dimensions = [",".join(map(repr, column)) for column in sequence.T.tolist()]
            file.write(":".join([*dimensions, label]) + "\n")


@pytest.mark.parametrize(
    ("suffix", "write"),
    [
        pytest.param(".csv", write_csv, id="csv"),
        pytest.param(".csv", write_shuffled_csv, id="shuffled csv"),
        pytest.param(".parquet", write_long_parquet, id="long parquet"),
        pytest.param(".parquet", write_nested_parquet, id="nested parquet"),
        pytest.param(".parquet", write_nested_parquet_by_feature, id="nested parquet by feature"),
        pytest.param(".npz", npz.write, id="npz"),
        pytest.param(".jsonl", write_jsonl, id="jsonl"),
        pytest.param(".ts", write_ts, id="ts"),
    ],
)
@settings(max_examples=60, deadline=None)
@given(dataset=datasets())
def test_every_form_gives_back_what_was_written(
    suffix: str, write: Callable[[Dataset, Path], None], dataset: Dataset
) -> None:
    if suffix == ".ts":  # whose labels end with white space, and which has no ids
        texts = tuple(label.replace(" ", "") for label in labels(dataset))
        dataset = Dataset("d", dataset.sequences, texts, tuple(map(str, range(len(dataset)))))
    with TemporaryDirectory() as folder:
        path = Path(folder, f"d{suffix}")
        write(dataset, path)
        got = read(path)
    assert got.sequences.values.tobytes() == dataset.sequences.values.tobytes()
    assert got.sequences.lengths.tolist() == dataset.sequences.lengths.tolist()
    assert got.sequences.features == dataset.sequences.features
    assert got.labels == dataset.labels
    assert got.ids == dataset.ids
