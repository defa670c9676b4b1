"""Memory while a file is read that is many times as large as what may be held of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv
from pyarrow import parquet as pq

from tests.data.stream.made import table_of

# The first pass is over a small file of the same form, so that what is loaded once is loaded.
PROGRAM = """
import sys
from pathlib import Path
from typing import Any
from seqserve_data import Columns
from seqserve_data.stream import Input, Wanted
from seqserve_data.stream.csv import CsvReader
from seqserve_data.stream.files import find
from seqserve_data.stream.records import MAX_BATCH_ROWS

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024

def read(path):%s
read(sys.argv[1])
before = peak()
found = read(sys.argv[2])
print(found, peak() - before)
"""
SEQUENCES = """
    opened = Input.open(path, Columns(), wanted=Wanted(8, max_steps=1000))
    blocks = opened.blocks(max_sequences=2000, max_steps=20_000)
    return sum(len(block.good) for block in blocks)
"""
ROWS = """
    reader = CsvReader(find(path)[0], ["a", "b", "c"], guess=False)
    found = [each.batch.num_rows for each in reader.records(reader.schema.names, 0)]
    assert max(found) <= MAX_BATCH_ROWS
    return sum(found)
"""


def table(shape: str, sequences: int) -> pa.Table:
    """Sequences of 20 steps of 8 features; their ids do not ascend."""
    numbers = np.resize(np.random.default_rng(0).integers(-99, 99, 7919), (sequences * 20, 8))
    numbers = numbers.astype(np.float32)
    ids = np.arange(sequences)[::-1]
    if shape == "long":
        features = {f"f{i}": np.ascontiguousarray(numbers[:, i]) for i in range(8)}
        return table_of({"id": np.repeat(ids, 20), **features})
    steps: Any = pa.FixedSizeListArray.from_arrays(pa.array(numbers.ravel()), 8)
    offsets: Any = pa.array(np.arange(0, len(numbers) + 1, 20, dtype=np.int32))
    return table_of({"id": ids, "values": pa.ListArray.from_arrays(offsets, steps)})


def write(whole: pa.Table, path: Path) -> Path:
    """In one row group."""
    if path.suffix == ".csv":
        csv.write_csv(whole, path)
    else:
        pq.write_table(whole, path, len(whole), compression="none", use_dictionary=False)
    return path


def peak_growth(read: str, small: Path, large: Path) -> tuple[int, int]:
    """What a process of its own finds in the larger file, and how many bytes it takes for that."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM % read, str(small), str(large)],
        capture_output=True,
        text=True,
        check=True,
    )
    found, grown = map(int, done.stdout.split())
    return found, grown


@pytest.mark.parametrize(
    ("form", "shape", "sequences", "bound", "times"),
    [
        (".parquet", "long", 335_000, 10 << 20, 20),
        (".parquet", "steps", 335_000, 10 << 20, 20),
        (".csv", "long", 190_000, 30 << 20, 4),
    ],
    ids=["parquet, a row a step", "parquet, a row a sequence", "csv"],
)
def test_memory_is_bounded_whatever_the_size_of_the_file(
    form: str, shape: str, sequences: int, bound: int, times: int, tmp_path: Path
) -> None:
    small = write(table(shape, 20_000), tmp_path / f"small{form}")
    large = write(table(shape, sequences), tmp_path / f"large{form}")
    assert large.stat().st_size > times * bound

    found, grown = peak_growth(SEQUENCES, small, large)

    assert found == sequences
    assert grown < bound


def test_memory_is_bounded_where_ragged_rows_follow_one_another(tmp_path: Path) -> None:
    small, large = tmp_path / "small.csv", tmp_path / "large.csv"
    good = "".join(f"{i},1,2,3\n" for i in range(100_000))
    small.write_text(f"id,a,b,c\n{good}" + "1,2,3\n" * 100_000 + "x,1,2,3\n")
    large.write_text(f"id,a,b,c\n{good}" + "1,2,3\n" * 1_000_000 + "x,1,2,3\n")

    found, grown = peak_growth(ROWS, small, large)

    assert found == 1_100_001
    # Some 600 bytes a row where all are held; two blocks have 90,000 rows of this size.
    assert grown < 64 << 20
