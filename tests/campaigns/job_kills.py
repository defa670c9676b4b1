"""A job that is killed at random moments, and those that answer it: what its output is.

`seqserve score` works through many small shards, and is called again whenever it was killed. With a
service, every other kill ends one of its two replicas instead, one on each transport, which is then
started again; with Ray, one of two nodes of the cluster, in whose place another comes. A job that
is finished is begun anew elsewhere, until there were kills enough. What it has written is held
against what was written without any.
"""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.models import publish_random
from seqserve_export.network import NetworkConfig
from seqserve_jobs.output import OWN_FOLDER, record_index
from tests.campaigns import harness
from tests.campaigns.answerers import ENGINES, Answerers
from tests.campaigns.harness import Claims

FEATURES, LONGEST_STEPS = 3, 60
SHARDS, PER_SHARD = 300, 20

_MODEL = "lstm"
_PARTS = 5
"""Of a job's shards, how many go by between two kills, at most: one of so many parts."""
_MOST_PAUSE_S = 0.02
"""After the last of them: a kill is to meet whatever comes next."""
_SCORE = (str(Path(sys.executable).with_name("seqserve")), "score")
_SHARDS = ("--shard-sequences", str(PER_SHARD), "--progress", "lines", "--interval", "0")


@dataclass
class Kills:
    """What was killed, and what came of it."""

    shards: int
    """Of each job."""
    jobs: int = 0
    answerers: int = 0
    """Replicas, or nodes of a Ray cluster."""
    finished: int = 0
    """Jobs that came to their end."""
    lost: int = 0
    """Shards that were done before a kill, and are not, or not the same, after it."""
    differ: int = 0
    """Files of finished jobs that are not what they are without kills."""
    failures: list[str] = field(default_factory=list)
    """What jobs said that ended by themselves, but not well."""

    @property
    def count(self) -> int:
        """Of jobs and of those that answer them."""
        return self.jobs + self.answerers


def kill(engine: str, count: int, claims: Claims, shards: int = SHARDS) -> Kills:
    """Runs jobs until there were so many kills, and holds what they write against a whole run.

    Args:
        engine: Of ENGINES.
        count: Kills.
        claims: Told what was found.
        shards: Of each job.
    """
    rng, kills = np.random.default_rng(0), Kills(shards)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        models, source = folder / "models", folder / "sequences.parquet"
        network = NetworkConfig(features=FEATURES, classes=4, hidden_size=8)
        publish_random(models, _MODEL, network, LONGEST_STEPS)
        _write(source, shards * PER_SHARD)
        job = [str(source), "--model", _MODEL, *_SHARDS]
        here = ["--repository", str(models), str(folder / "whole")]
        subprocess.run([*_SCORE, *job, *here], check=True, stderr=subprocess.DEVNULL)
        whole = _parts(folder / "whole")
        answerers = stack.enter_context(ENGINES[engine](models))
        command = [*_SCORE, *job, *answerers.words]
        while kills.count < count or not kills.finished:
            output = folder / f"killed-{kills.finished}"
            while not _finished([*command, str(output)], output, answerers, rng, kills):
                pass
            kills.finished += 1
            written = _parts(output)
            kills.differ += sum(whole.get(name) != written.get(name) for name in whole | written)
            if kills.failures:
                break
    where = f"{engine}, {kills.jobs} kills of jobs, {kills.answerers} of those that answer"
    claims.hold(
        where, "files that differ from those of a whole run", kills.differ, not kills.differ
    )
    claims.hold(where, "shards done that were done again", kills.lost, not kills.lost)
    claims.hold(where, "jobs that failed", kills.failures or 0, not kills.failures)
    return kills


def _finished(
    command: list[str],
    output: Path,
    answerers: Answerers,
    rng: np.random.Generator,
    kills: Kills,
) -> bool:
    """Runs a job until it ends by itself, or is killed; whether it has ended by itself."""
    before = _done(output)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    killed = False
    lines: list[str] = []
    passing = len(before)  # what is done already has a line too
    with process.stderr as stderr:
        while not killed:
            passing += int(rng.integers(kills.shards // _PARTS))
            lines += (line for _ in range(passing - len(lines)) if (line := next(stderr, "")))
            time.sleep(rng.uniform(0, _MOST_PAUSE_S))
            if process.poll() is not None:
                break
            if len(answerers) and kills.count % 2:
                answerers.replace(int(rng.integers(len(answerers))))
                kills.answerers += 1
            else:
                process.kill()
                killed = True
        lines += stderr
    status = process.wait()
    after = _done(output)
    kills.lost += sum(after.get(index) != state for index, state in before.items())
    if status == 0:
        return True
    if status > 0:
        kills.failures.append("".join(lines[-3:]))
        return True
    kills.jobs += 1
    return False


def _done(output: Path) -> dict[int, tuple[int, int]]:
    """The shards that are noted as done, and which file holds each, written when."""
    records = [record_index(file.name) for file in (output / OWN_FOLDER).glob("*")]
    files = {index: output / f"part-{index:05d}.parquet" for index in records if index is not None}
    return {index: (file.stat().st_ino, file.stat().st_mtime_ns) for index, file in files.items()}


def _parts(output: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in output.iterdir() if file.is_file()}


def _write(path: Path, sequences: int) -> None:
    """So many sequences in long form."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, LONGEST_STEPS + 1, sequences)
    values = rng.standard_normal((int(lengths.sum()), FEATURES), np.float32)
    columns = {"id": pa.array(np.repeat(np.arange(sequences), lengths))}
    for index in range(FEATURES):
        columns[f"feature {index}"] = pa.array(values[:, index])
    pq.write_table(pa.table(columns), path)


def main() -> None:
    """Kills, prints and writes results/job_kills.json."""
    parser = harness.parser(__doc__)
    parser.add_argument("--engine", choices=ENGINES, help="one alone, instead of all")
    chosen = parser.parse_args()
    claims, found = Claims(), {}
    for engine in ENGINES if chosen.engine is None else [chosen.engine]:
        kills = kill(engine, 10 if chosen.quick else 50, claims)
        found[engine] = vars(kills)
    harness.finish("job_kills", "Jobs that are killed", claims, found)


if __name__ == "__main__":
    main()
