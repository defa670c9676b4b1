"""As many sequences as wanted, resampled from a bundled set.

`python -m benchmarks.resampled 100000 FILE` writes them to a file. Each is one of the set's, drawn
at random, slower or faster by a linear warp of its time, with a little noise. Seeded: the same
count and seed give the same sequences.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet

from seqserve.ragged import RaggedBatch
from seqserve_data import Dataset, read

FASTEST, SLOWEST = 0.8, 1.25
NOISE = 0.02
"""Standard deviations of each feature."""
_AT_A_TIME = 10_000


def resampled(dataset: Dataset, count: int, seed: int = 0) -> Iterator[Dataset]:
    """So many sequences, some thousands at a time; ids are "0", "1", …, labels those of the set."""
    noise = NOISE * dataset.sequences.values.std(axis=0)
    for begin in range(0, count, _AT_A_TIME):
        rng = np.random.default_rng((seed, begin))
        drawn = rng.integers(0, len(dataset), _AT_A_TIME)
        warps = rng.uniform(FASTEST, SLOWEST, _AT_A_TIME)
        wanted = min(_AT_A_TIME, count - begin)
        sequences = _warped(dataset.sequences, drawn[:wanted], warps[:wanted])
        sequences.values[:] += noise * rng.standard_normal(sequences.values.shape, np.float32)
        labels = dataset.labels
        yield Dataset(
            name=f"{dataset.name} resampled",
            sequences=sequences,
            labels=None if labels is None else tuple(labels[index] for index in drawn[:wanted]),
            ids=tuple(map(str, range(begin, begin + wanted))),
        )


def _warped(
    sequences: RaggedBatch, drawn: NDArray[np.int64], warps: NDArray[np.float64]
) -> RaggedBatch:
    """The sequences drawn, each with its time stretched so that first and last step stay."""
    old = sequences.lengths[drawn]
    lengths = np.maximum(np.rint(old * warps).astype(np.int64), 1)
    first = np.repeat(np.cumsum(lengths) - lengths, lengths)
    step = np.arange(lengths.sum()) - first
    # Where a step lies in the old time; a sequence of one step has the first alone.
    time = step * np.repeat((old - 1) / np.maximum(lengths - 1, 1), lengths)
    before = np.floor(time).astype(np.int64)
    after = np.minimum(before + 1, np.repeat(old - 1, lengths))
    share = (time - before).astype(np.float32)[:, None]
    offset = np.repeat(sequences.offsets[drawn], lengths)
    values = sequences.values
    return RaggedBatch(
        (1 - share) * values[offset + before] + share * values[offset + after], lengths
    )


def table(dataset: Dataset) -> pa.Table:
    """A row a sequence: `id`, `label`, and its steps as lists in `values`."""
    batch = dataset.sequences
    steps = pa.FixedSizeListArray.from_arrays(pa.array(batch.values.ravel()), batch.features)
    return pa.table(
        {
            "id": pa.array(map(int, dataset.ids), pa.int64()),
            "label": pa.array(dataset.labels or [None] * len(dataset), pa.string()),
            "values": pa.ListArray.from_arrays(pa.array(batch.offsets, pa.int32()), steps),
        }
    )


def write(datasets: Iterable[Dataset], path: Path) -> None:
    """All of their sequences, at least one, as a Parquet file."""
    tables = map(table, datasets)
    first = next(tables)
    with parquet.ParquetWriter(path, first.schema) as writer:
        writer.write_table(first)
        for more in tables:
            writer.write_table(more)


def main() -> None:
    """Writes the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int, help="how many sequences")
    parser.add_argument("file", type=Path, help="the Parquet file to write")
    parser.add_argument("--of", default="japanese-vowels/test", help="the set they are drawn from")
    parser.add_argument("--seed", type=int, default=0)
    told = parser.parse_args()
    told.file.parent.mkdir(parents=True, exist_ok=True)
    write(resampled(read(told.of), told.count, told.seed), told.file)


if __name__ == "__main__":
    main()
