"""Files of sequences in every form, and what an input should make of them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv, ipc
from pyarrow import parquet as pq

from seqserve_data.stream import Block

NAMES = ("a", "b", "c")

SHAPES = ("long", "lists", "steps")
"""One row a step; a list column a feature; one column of lists of steps."""

FORMS = (".parquet", ".csv", ".csv.gz", ".jsonl", ".jsonl.gz", ".arrow", ".arrows")


class Limits(TypedDict):
    """Of a block."""

    max_sequences: int
    max_steps: int


@dataclass
class Sequences:
    """Some, with what is known of each."""

    ids: list[str]
    values: list[NDArray[np.float32]]

    def __len__(self) -> int:
        return len(self.ids)

    def table(self, shape: str) -> pa.Table:
        """They, with a column `site` beside the features."""
        sites = [f"site {len(name) % 2}" for name in self.ids]
        if shape == "long":
            lengths = [len(value) for value in self.values]
            flat = np.concatenate(self.values)
            return table_of(
                {
                    "id": np.repeat(self.ids, lengths),
                    "site": np.repeat(sites, lengths),
                    **{name: flat[:, index] for index, name in enumerate(NAMES)},
                }
            )
        features: dict[str, Any] = {
            name: pa.array([value[:, i] for value in self.values], pa.list_(pa.float32()))
            for i, name in enumerate(NAMES)
        }
        if shape == "steps":
            steps = pa.list_(pa.list_(pa.float32()))
            features = {"values": pa.array([value.tolist() for value in self.values], steps)}
        return table_of({"id": self.ids, "site": sites, **features})


def table_of(columns: dict[str, Any]) -> pa.Table:
    """A table of arrays or lists."""
    return pa.table(columns)


def write(table: pa.Table, path: Path, rows: int = 7) -> Path:
    """The table as a file of the form that the suffix names, in row groups of so many rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = path.with_suffix("") if path.suffix == ".gz" else path
    if plain.suffix == ".parquet":
        pq.write_table(table, plain, row_group_size=rows)
    elif plain.suffix == ".csv":
        csv.write_csv(table, plain)
    elif plain.suffix == ".jsonl":
        plain.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    else:
        new = ipc.new_file if plain.suffix == ".arrow" else ipc.new_stream
        with new(str(plain), table.schema) as writer:
            writer.write_table(table, max_chunksize=rows)
    if path != plain:
        path.write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()
    return path


def joined(blocks: Iterable[Block]) -> list[tuple[Any, Any, str | None, Any]]:
    """Of each sequence its id, values, fault and what was kept."""
    found = []
    for block in blocks:
        good = dict(zip(block.good.tolist(), block.sequences or (), strict=True))
        kept = block.kept.to_pylist() or [{}] * len(block)
        assert block.kept.num_rows == len(block) == len(good) + len(block.faults)
        for index, name in enumerate(block.ids.to_pylist()):
            values = good[index].tolist() if index in good else None
            found.append((name, values, block.faults.get(index), kept[index]))
    return found


def sequences(count: int, seed: int = 0, longest: int = 9) -> Sequences:
    """Some random ones of three features, their ids ascending."""
    rng = np.random.default_rng(seed)
    values = [
        rng.standard_normal((steps, 3)).astype(np.float32)
        for steps in rng.integers(1, longest, count)
    ]
    return Sequences([f"s{index:04}" for index in range(count)], values)
