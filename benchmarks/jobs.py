"""Batch jobs, file to file: against the sorted oracle and plain loops, by a service and by Ray.

The oracle and the loops have their sequences in memory, padded beforehand, and write nothing; a
job reads Parquet and writes Parquet. Every output of a file is the same bytes as its first.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

from benchmarks import figures, harness, resampled
from benchmarks.figures import Figure
from benchmarks.harness import Spread, ratios
from benchmarks.models import SMALL, published
from benchmarks.offline import Baseline, Offline, Prepared
from benchmarks.server_process import CLIENT_CORE, SERVER_CORE, Server
from benchmarks.workloads import LONG_TAILED
from seqserve import artifact
from seqserve.ragged import RaggedBatch
from seqserve_client import Client
from seqserve_data import Dataset, read
from seqserve_jobs.engines import ray_cluster
from seqserve_jobs.engines.embedded import EmbeddedEngine
from seqserve_jobs.engines.engine import Engine, Model
from seqserve_jobs.engines.ray_data import RayOptions, run_on_ray
from seqserve_jobs.engines.service import ServiceEngine
from seqserve_jobs.job import Job, JobOptions, score_files
from seqserve_jobs.summary import Summary

BOTH_CORES = (SERVER_CORE, CLIENT_CORE)

PADDED = 64
"""Sequences a batch of the padded loop."""

SAMPLE = 20_000
"""Of a file's first sequences, for the oracle and the padded loop: its rate is that of all."""
SINGLES = 2_000
"""The same for the loop of single sequences."""

_PIECE = 10_000


@dataclass(frozen=True)
class Source:
    """What a file holds."""

    name: str
    count: int
    """Sequences."""
    datasets: Callable[[int], Iterator[Dataset]]
    """So many of them, the first ones always the same."""

    def sample(self, count: int) -> RaggedBatch:
        """The first ones."""
        sequences = [dataset.sequences for dataset in self.datasets(count)]
        return RaggedBatch.from_sequences([*chain.from_iterable(sequences)])


def _long_tailed(count: int) -> Iterator[Dataset]:
    for first in range(0, count, _PIECE):
        sequences = LONG_TAILED.sequences(_PIECE, seed=first).slice(0, min(_PIECE, count - first))
        ids = tuple(map(str, range(first, first + len(sequences))))
        yield Dataset(LONG_TAILED.name, sequences, None, ids)


def _resampled(count: int) -> Iterator[Dataset]:
    return resampled.resampled(read("japanese-vowels/test"), count)


def main() -> None:
    """Measures, prints and writes results/jobs.json."""
    quick = harness.quick(__doc__)
    repeats = 2 if quick else 5
    vowels = Source("resampled JapaneseVowels", 10_000 if quick else 100_000, _resampled)
    tail = Source(LONG_TAILED.name, 60_000 if quick else 1_000_000, _long_tailed)
    with ExitStack() as stack:
        repository = stack.enter_context(published(SMALL))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bench = _Bench(
            repository,
            folder,
            stack.enter_context(Server(repository)),
            stack.enter_context(Offline()),
            stack.enter_context(Offline((CLIENT_CORE,))),
            stack.enter_context(Offline(BOTH_CORES)),
            repeats,
        )
        of_vowels, of_tail = rows = bench.case(vowels), bench.case(tail)
        workers = bench.ray(tail)
    harness.show(
        "Sequences a second, file to file",
        ("lengths", *_MEASURED, "peak MiB"),
        [
            (row["source"], *(row[name] for name in _MEASURED), f"{row['peak_mib']:.0f}")
            for row in rows
        ],
    )
    table = _table(of_vowels, of_tail, workers)
    figures.show(table)
    harness.write(
        "jobs",
        {"figures": [each.document() for each in table], "cases": rows, "ray": workers},
    )


_MEASURED = (
    *("embedded", "oracle", "padded loop", "single loop"),
    *("service", "embedded, two lanes", "oracle, two threads"),
)


@dataclass(frozen=True)
class _Bench:
    """Where to measure, and how often."""

    repository: Path
    folder: Path
    server: Server
    core: Offline
    client_core: Offline
    both: Offline
    repeats: int

    def case(self, source: Source) -> dict[str, Any]:
        """The figures of one file, all taken in turn."""
        file, outputs = self._written(source), _Outputs(self.folder, source)
        sample = source.sample(min(SAMPLE, source.count))
        padded = [
            sample.slice(first, min(first + PADDED, len(sample)))
            for first in range(0, len(sample), PADDED)
        ]
        singles = [sample.slice(index, index + 1) for index in range(min(SINGLES, len(sample)))]
        here = (self.repository, SMALL)
        measures = {
            "oracle": self.core.sorted_oracle(*here, sample),
            "padded loop": self.core.as_they_come(*here, padded),
            "single loop": self.core.as_they_come(*here, singles),
            "oracle, two threads": self.both.sorted_oracle(*here, sample, len(BOTH_CORES)),
        }
        jobs = {
            "embedded": self.core.prepare(
                _prepare_embedded, *here, file, outputs.of("embedded"), 1
            ),
            "embedded, two lanes": self.both.prepare(
                _prepare_embedded, *here, file, outputs.of("two-lanes"), len(BOTH_CORES)
            ),
            "service": self.client_core.prepare(
                _prepare_service, self.server.address, SMALL, file, outputs.of("service")
            ),
        }
        taken = harness.in_turn(
            {name: each.measure for name, each in measures.items()}
            | {name: outputs.checked(each) for name, each in jobs.items()},
            self.repeats,
        )
        return {
            "source": source.name,
            "sequences": source.count,
            "file_mib": file.stat().st_size / 2**20,
            "peak_mib": self._peak_mib(file, outputs.of("command")),
            "about": {name: baseline.about for name, baseline in measures.items()},
            **{name: Spread.of(each) for name, each in taken.items()},
            **{
                f"{job} ÷ {other}": ratios(taken[job], taken[other])
                for job, other in (
                    ("embedded", "oracle"),
                    ("embedded", "padded loop"),
                    ("embedded", "single loop"),
                    ("embedded, two lanes", "oracle, two threads"),
                    ("service", "embedded"),
                )
            },
        }

    def ray(self, source: Source) -> dict[str, Any]:
        """The figures of one file by workers of one lane, with both cores for all there is."""
        file, outputs = self._written(source), _Outputs(self.folder, source)
        here = (self.repository, SMALL, file)
        jobs = {
            "embedded, one lane": self.both.prepare(
                _prepare_embedded, *here, outputs.of("one-lane"), 1
            ),
            "one worker": self.both.prepare(_prepare_ray, *here, outputs.of("worker"), 1),
            "two workers": self.both.prepare(_prepare_ray, *here, outputs.of("workers"), 2),
        }
        taken = harness.in_turn(
            {name: outputs.checked(each) for name, each in jobs.items()}, self.repeats
        )
        return {
            "source": source.name,
            "sequences": source.count,
            "version": version("ray"),
            **{name: Spread.of(each) for name, each in taken.items()},
            "one worker ÷ embedded, one lane": ratios(
                taken["one worker"], taken["embedded, one lane"]
            ),
            "two workers ÷ one worker": ratios(taken["two workers"], taken["one worker"]),
        }

    def _written(self, source: Source) -> Path:
        file = self.folder / f"{source.name}.parquet"
        if not file.exists():
            resampled.write(source.datasets(source.count), file)
        return file

    def _peak_mib(self, file: Path, output: Path) -> float:
        """What `seqserve score` holds at most, on both cores."""
        seqserve = Path(sys.executable).with_name("seqserve")
        command = [str(seqserve), "score", str(file), str(output), "--model", SMALL]
        with subprocess.Popen(
            [*command, "--repository", str(self.repository)], stdout=subprocess.DEVNULL
        ) as process:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"{command} ended with {process.returncode}")
        return usage.ru_maxrss / 1024


class _Outputs:
    """What jobs write for one file: the same bytes each.

    Args:
        folder: Where.
        source: What the file holds.
    """

    def __init__(self, folder: Path, source: Source) -> None:
        self._folder = folder / f"{source.name} scored"
        self._folder.mkdir(exist_ok=True)
        self._source = source

    def of(self, engine: str) -> Path:
        """Where a job writes."""
        return self._folder / f"{engine}.parquet"

    def checked(self, job: Baseline) -> harness.Measure:
        """Measures it, and holds what it wrote against what all others wrote."""

        def measure() -> float:
            rate = job.measure()
            written = {artifact.sha256(path) for path in self._folder.glob("*.parquet")}
            if len(written) > 1:
                raise RuntimeError(f"{self._source.name}: not all outputs are the same bytes")
            return rate

        return measure


def _prepare_embedded(
    repository: Path, model: str, file: Path, output: Path, lanes: int
) -> Prepared:
    engine = EmbeddedEngine(repository, model, lanes=lanes)
    return f"{lanes} lanes", partial(_rate, partial(_by_engine, engine), file, output)


def _prepare_service(address: str, model: str, file: Path, output: Path) -> Prepared:
    engine = ServiceEngine(Client(address), model)
    return "one server", partial(_rate, partial(_by_engine, engine), file, output)


def _prepare_ray(repository: Path, model: str, file: Path, output: Path, workers: int) -> Prepared:
    os.environ[ray_cluster.USAGE_STATS] = "0"
    import ray  # a second of processor time, which only this process is to spend

    if not ray.is_initialized():  # the cluster is there before the job
        ray.init("local", num_cpus=len(BOTH_CORES), include_dashboard=False, log_to_driver=False)
    with EmbeddedEngine(repository, model, lanes=1) as engine:
        told = engine.model
    open_engine = partial(EmbeddedEngine, repository, model, told.version, lanes=1)
    run = partial(_by_ray, told, open_engine, RayOptions(workers=workers))
    return f"{workers} workers", partial(_rate, run, file, output)


def _by_engine(engine: Engine, options: JobOptions) -> Summary:
    return score_files(options, engine)


def _by_ray(
    model: Model, open_engine: Callable[[], Engine], ray_options: RayOptions, options: JobOptions
) -> Summary:
    with Job(options, model) as job:
        return run_on_ray(job, open_engine, ray_options)


def _rate(run: Callable[[JobOptions], Summary], file: Path, output: Path) -> float:
    """Sequences a second of a job from its beginning to its end; who answers is there already."""
    begin = time.perf_counter()
    done = run(JobOptions(str(file), str(output), restart=True))
    return done.scored / (time.perf_counter() - begin)


def _table(vowels: dict[str, Any], tail: dict[str, Any], workers: dict[str, Any]) -> list[Figure]:
    return [
        Figure("job-oracle", vowels["embedded ÷ oracle"], vowels["about"]["oracle"]),
        Figure("job-oracle-tail", tail["embedded ÷ oracle"], tail["about"]["oracle"]),
        Figure(
            "job-oracle-cores",
            tail["embedded, two lanes ÷ oracle, two threads"],
            f"vowels {vowels['embedded, two lanes ÷ oracle, two threads']}",
        ),
        Figure("job-padded", vowels["embedded ÷ padded loop"]),
        Figure("job-padded-tail", tail["embedded ÷ padded loop"]),
        Figure("job-single", vowels["embedded ÷ single loop"]),
        Figure("job-single-tail", tail["embedded ÷ single loop"]),
        Figure("job-service", tail["service ÷ embedded"], f"vowels {vowels['service ÷ embedded']}"),
        Figure("job-ray", workers["one worker ÷ embedded, one lane"]),
        Figure("job-ray-workers", workers["two workers ÷ one worker"]),
    ]


if __name__ == "__main__":
    main()
