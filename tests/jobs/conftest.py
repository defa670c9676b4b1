"""Inputs and an engine for jobs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seqserve_jobs.engines.embedded import EmbeddedEngine

if TYPE_CHECKING:
    from tests.conftest import ModelRepository

FEATURES = 3
LONGEST_STEPS = 29


@pytest.fixture(scope="session")
def models(repository: ModelRepository) -> Path:
    """A repository of one model: `speakers`, of 3 features and 4 classes."""
    return repository(speakers={"cell": "gru"})


@pytest.fixture(scope="module")
def engine(models: Path) -> Iterator[EmbeddedEngine]:
    with EmbeddedEngine(models, "speakers", lanes=2) as engine:
        yield engine


def steps_table(sequences: int, seed: int = 0, *, bad: bool = False, first_id: int = 0) -> pa.Table:
    """Sequences in long form, of 1 to 12 steps; every tenth or so with a NaN where some are bad."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 13, sequences)
    ids = np.repeat(np.arange(sequences) + first_id, lengths)
    values = rng.normal(0, 5, (len(ids), FEATURES)).astype(np.float32)
    if bad:
        starts = np.cumsum(lengths) - lengths
        values[starts[rng.random(sequences) < 0.1], 1] = np.nan
    columns = {f"feature {index}": pa.array(values[:, index]) for index in range(FEATURES)}
    speakers = pa.array([f"person {id % 7}" for id in ids.tolist()], pa.string())
    return pa.table({"id": pa.array(ids), **columns, "speaker": speakers})


def write_steps(
    path: Path, sequences: int, seed: int = 0, *, bad: bool = False, first_id: int = 0
) -> Path:
    """The same as a Parquet file of small row groups."""
    table = steps_table(sequences, seed, bad=bad, first_id=first_id)
    pq.write_table(table, path, row_group_size=64)
    return path
