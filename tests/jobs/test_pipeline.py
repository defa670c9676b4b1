"""How a job holds no more than it says it does."""

from __future__ import annotations

import json
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seqserve_data.stream import Block, Input, Position
from seqserve_jobs.engines.engine import Engine
from seqserve_jobs.job import JobOptions, score_files
from seqserve_jobs.pipeline import SPARE_BLOCKS
from tests.jobs.conftest import write_steps
from tests.jobs.watched import Reversing

PEAK = """
import json, sys
from concurrent.futures import Future
import numpy as np
from seqserve_jobs.engines.engine import Model, Scores
from seqserve_jobs.job import JobOptions, score_files

class Zeros:
    model = Model("zeros", 1, "0" * 64, ("a", "b"), 4, (), 1 << 20, False)
    ahead = 2
    def submit(self, batch):
        answer = Future()
        answer.set_result(Scores(*(np.zeros((len(batch), 2), np.float32) for _ in range(2))))
        return answer

summary = score_files(JobOptions(**json.loads(sys.argv[1])), Zeros())
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps([summary.sequences, summary.shards, int(status["VmHWM"].split()[0]) * 1024]))
"""
"""Scores, and tells the largest that the process ever was."""


def test_no_more_blocks_are_held_than_places_are_stated(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_steps(tmp_path / "in.parquet", 200)
    held: weakref.WeakSet[Block] = weakref.WeakSet()
    most = 0
    read = Input.blocks

    def hold(block: Block) -> Block:
        nonlocal most
        held.add(block)
        most = max(most, len(held))
        return block

    def blocks(
        self: Input, begin: Position, *, max_sequences: int, max_steps: int
    ) -> Iterator[Block]:
        return map(hold, read(self, begin, max_sequences=max_sequences, max_steps=max_steps))

    monkeypatch.setattr(Input, "blocks", blocks)
    slow = Reversing(engine, 4)

    summary = score_files(JobOptions(source, str(tmp_path / "out.parquet"), max_sequences=5), slow)

    assert summary.shards == 40
    assert slow.ahead <= most <= slow.ahead + SPARE_BLOCKS
    assert not held


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells the peak")
def test_memory_does_not_grow_with_the_input(tmp_path: Path) -> None:
    """The larger input has 20 times what a job of these limits states that it holds."""
    max_steps, features, steps = 32_768, 4, 64
    places = 2 + SPARE_BLOCKS
    group = pa.table(
        {
            "id": pa.array(np.zeros(max_steps, np.int64)),
            **{
                f"f{index}": pa.array(np.random.default_rng(index).random(max_steps, np.float32))
                for index in range(features)
            },
        }
    )
    peaks = {}
    for blocks in (places, 20 * places):
        source = tmp_path / f"{blocks}.parquet"
        with pq.ParquetWriter(source, group.schema, compression="none") as writer:
            for index in range(blocks):
                first = index * max_steps // steps
                ids = np.repeat(np.arange(first, first + max_steps // steps), steps)
                writer.write_table(group.set_column(0, "id", pa.array(ids)))
        told = {
            "input": str(source),
            "output": str(tmp_path / f"{blocks}.out.parquet"),
            "max_steps": max_steps,
        }
        command = [sys.executable, "-c", PEAK, json.dumps(told)]
        run = subprocess.run(command, capture_output=True, check=True, text=True)
        sequences, shards, peaks[blocks] = json.loads(run.stdout)
        assert (sequences, shards) == (blocks * max_steps // steps, blocks)

    block_bytes = max_steps * (features * 4 + 8)
    grown = peaks[20 * places] - peaks[places]
    assert grown < places * block_bytes * 4, f"{grown} bytes more for 20 times the input"
