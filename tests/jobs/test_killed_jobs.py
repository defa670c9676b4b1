"""A job that is killed, at any moment, and run again."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from seqserve_data import Columns
from seqserve_data.stream import Input
from seqserve_jobs.engines.engine import Engine
from seqserve_jobs.job import JobOptions, score_files, wanted_by
from seqserve_jobs.output import Output, record_index
from tests.jobs.conftest import write_steps
from tests.jobs.killable import digest
from tests.jobs.test_going_on import content

KILLS = int(os.environ.get("SEQSERVE_KILLS", "16"))
"""Half of them where the output is a file, half where it is a folder; their seed is one."""
SEQUENCES = 96
PER_SHARD = 8
SHARDS = SEQUENCES // PER_SHARD


@dataclass
class Run:
    """What a process did before it ended, or was ended."""

    lines: list[str] = field(default_factory=list)
    killed: bool = False

    @property
    def batches(self) -> list[str]:
        return [line.removeprefix("batch ") for line in self.lines if line.startswith("batch ")]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["out.parquet", "out"], ids=["file", "folder"])
def test_a_job_killed_at_any_moment_ends_with_the_same_bytes_and_computes_no_shard_again(
    tmp_path: Path, jobs: Jobs, engine: Engine, name: str
) -> None:
    source = write_steps(tmp_path / "in.parquet", SEQUENCES, bad=True)
    whole = JobOptions(source, str(tmp_path / "whole" / name), max_sequences=PER_SHARD)
    score_files(whole, engine)
    shards = _digests(source, engine)
    first = jobs.run(tmp_path / "first" / name, source, None)
    assert content(tmp_path / "first" / name) == content(tmp_path / "whole" / name)
    assert sorted(first.batches) == sorted(shards)
    moments = random.Random(20_26)

    kills = begun = 0
    while kills < KILLS / 2:
        output = tmp_path / f"job {begun}" / name
        begun += 1
        runs = [Run(killed=True)]
        while runs[-1].killed:
            done = _done(output)
            # Anything from its first move to a little after its last.
            run = jobs.run(output, source, moments.randrange(len(first.lines)))
            again = {shards[index] for index in done} & set(run.batches)
            assert not again, f"{done} were done, and some were computed again"
            # Parts and records go once the file of them is there.
            assert set(done) <= set(_done(output)) or output.is_file()
            kills += run.killed
            runs.append(run)
        assert content(output) == content(tmp_path / "whole" / name)
        assert not list(output.parent.rglob("*.unfinished")), "nothing half-written is left"
        # In flight at each kill: those under way, and one that was being written.
        spare = (engine.ahead + 1) * sum(run.killed for run in runs)
        assert sum(len(run.batches) for run in runs) <= SHARDS + spare
    assert kills >= KILLS / 2


@dataclass(frozen=True)
class Jobs:
    """Begins jobs, each in a process of its own."""

    process: subprocess.Popen[str]
    models: Path

    def run(self, output: Path, source: Path, kill_after: int | None) -> Run:
        """Runs a job, and kills it after so many lines."""
        told = {
            "models": str(self.models),
            "input": str(source),
            "output": str(output),
            "max_sequences": PER_SHARD,
        }
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(told), file=self.process.stdin, flush=True)
        run = Run()
        job, ended = next(self.process.stdout).split(), None
        for line in self.process.stdout:
            if line.startswith("ended "):
                ended = int(line.split()[1])
                break
            run.lines.append(line.rstrip("\n"))
            if len(run.lines) - 1 == kill_after:
                os.kill(int(job[1]), signal.SIGKILL)
        run.killed = ended == -signal.SIGKILL
        assert run.killed or ended == 0
        return run


@pytest.fixture(scope="module")
def jobs(models: Path) -> Iterator[Jobs]:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.jobs.killable"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield Jobs(process, models)


def _digests(source: Path, engine: Engine) -> list[str]:
    """What is computed for each shard."""
    read = Input.open(source, Columns(), wanted=wanted_by(engine.model))
    blocks = read.blocks(max_sequences=PER_SHARD, max_steps=1 << 30)
    return [digest(block.sequences) for block in blocks if block.sequences is not None]


def _done(output: Path) -> list[int]:
    """The shards whose records are there."""
    records = Path(Output.at(str(output), {}).records)
    names = os.listdir(records) if records.is_dir() else []
    return [index for name in names if (index := record_index(name)) is not None]
