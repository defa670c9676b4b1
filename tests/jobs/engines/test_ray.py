"""Jobs on a real cluster of several nodes, on this machine, some of which do not live long."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from logging.handlers import BufferingHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from benchmarks.server_process import Server
from seqserve_client.cli import main
from seqserve_data.stream.block import Position
from seqserve_jobs.engines import ray_cluster, ray_data
from seqserve_jobs.engines.embedded import EmbeddedEngine
from seqserve_jobs.engines.engine import Engine, Model
from seqserve_jobs.engines.ray_data import (
    RUNS_OF_A_WORKER,
    TRIES,
    RayOptions,
    plan,
    run_on_ray,
    runs,
)
from seqserve_jobs.engines.ray_worker import Done, Planned, Worker, from_block, to_block
from seqserve_jobs.errors import EngineError, JobStopped
from seqserve_jobs.job import Job, JobOptions, score_files
from seqserve_jobs.on_error import OnError
from seqserve_jobs.output import Output
from seqserve_jobs.progress import Tally
from seqserve_jobs.shards import ShardWriter
from seqserve_jobs.summary import Summary

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

    from tests.conftest import ModelRepository

pytestmark = pytest.mark.slow

COUNT, SHARD = 400, 10
NODE: dict[str, Any] = {
    "num_cpus": 1,
    "object_store_memory": 80 << 20,
    "include_log_monitor": False,  # a process of its own; nobody reads the logs
}
KILLED_AFTER = 5


@pytest.fixture(scope="module")
def heard() -> Iterator[list[int]]:
    """SIGTERMs that this process was sent, as whoever began a job is told of them."""
    numbers: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: numbers.append(number))
    yield numbers
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="module")
def cluster(heard: list[int]) -> Iterator[Cluster]:
    """A head that computes nothing, as on Kubernetes, and a node of one CPU."""
    environment = pytest.MonkeyPatch()
    environment.delenv("RAY_ADDRESS", raising=False)
    environment.setenv(ray_cluster.USAGE_STATS, "0")
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            **NODE,
            "num_cpus": 0,
            "include_dashboard": False,
            # A dead node is noticed after seconds, not after half a minute.
            "_system_config": {
                "health_check_initial_delay_ms": 1000,
                "health_check_period_ms": 1000,
                "health_check_failure_threshold": 3,
                "prestart_worker_first_driver": False,
            },
        },
    )
    try:
        cluster.add_node(**NODE)
        # A node takes the signals of the process it is made in.
        signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
        # Joined once: each time costs a number of processes.
        with ray_cluster.connected(cluster.address):
            signal.raise_signal(signal.SIGTERM)
            yield cluster
    finally:
        cluster.shutdown()
        environment.undo()


@pytest.fixture(scope="module")
def models(repository: ModelRepository) -> Path:
    return repository(speakers={"seed": 1})


@pytest.fixture(scope="module")
def other_models(repository: ModelRepository) -> Path:
    return repository(speakers={"seed": 2})


@pytest.fixture(scope="module")
def sequences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files, a row a step; some sequences no model takes."""
    folder = tmp_path_factory.mktemp("sequences")
    rng = np.random.default_rng(5)
    for file in range(2):
        lengths = rng.integers(1, 29, COUNT // 2, endpoint=True)
        values = rng.normal(size=(lengths.sum(), 3)).astype(np.float32)
        values[:: len(values) // 7] = np.nan
        ids = np.repeat(np.arange(len(lengths)) + file * len(lengths), lengths)
        table: dict[str, Any] = {"id": ids, "where": ids % 3} | {
            f"feature {n}": values[:, n] for n in range(3)
        }
        parquet.write_table(pa.table(table), folder / f"{file}.parquet", row_group_size=500)
    return folder


@pytest.fixture(scope="module")
def model(models: Path) -> Model:
    with EmbeddedEngine(models, "speakers", lanes=1) as engine:
        return engine.model


@pytest.fixture(scope="module")
def expected(models: Path, sequences: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What one process makes of them."""
    output = tmp_path_factory.mktemp("expected") / "scores.parquet"
    with EmbeddedEngine(models, "speakers", lanes=1) as engine:
        score_files(options(sequences, output), engine)
    return output.read_bytes()


def options(sequences: Path, output: Path) -> JobOptions:
    return JobOptions(str(sequences), str(output), keep=("where",), max_sequences=SHARD)


@dataclass
class Told:
    """Takes note of the shards done, and does something after one of them."""

    after: int = 0
    do: Callable[[], object] = lambda: None
    shards: list[int] = field(default_factory=list)
    """Sequences of each, those of earlier runs left out."""

    def on_reading(self, size: int) -> None:
        pass

    def on_start(self, model: Model, source: str, rows: int | None) -> None:
        pass

    def on_shard(self, *, sequences: int, skipped: bool, **_: object) -> None:
        if not skipped:
            self.shards.append(sequences)
            if len(self.shards) == self.after:
                self.do()

    def on_end(self, summary: Summary) -> None:
        pass


def opened(repository: Path, notes: Path, together: int) -> Engine:
    """As a worker opens its engine; it leaves a note, and waits until others have."""
    environment = {name: os.environ.get(name) for name in ray_cluster.environment()}
    (notes / str(os.getpid())).write_text(json.dumps(environment))
    while len(pids(notes)) < together:
        threading.Event().wait(0.05)
    return EmbeddedEngine(repository, "speakers", lanes=1)


def pids(notes: Path) -> list[int]:
    """Those of the workers so far."""
    return [int(note.name) for note in notes.iterdir()]


@dataclass(frozen=True)
class Scoring:
    """A job on the cluster; it can be begun by another process too."""

    address: str
    models: Path
    model: Model
    input: Path
    output: Path

    def run(
        self,
        open_engine: Callable[[], Engine],
        workers: int | None = 1,
        told: Told | None = None,
        stop: threading.Event | None = None,
    ) -> Summary:
        with Job(options(self.input, self.output), self.model, told, stop) as job:
            return run_on_ray(job, open_engine, RayOptions(self.address, workers))

    def words(self) -> tuple[str, ...]:
        """The same as a command."""
        return (
            *("score", str(self.input), str(self.output), "--model", "speakers"),
            *("--repository", str(self.models), "--keep", "where"),
            *("--shard-sequences", str(SHARD), "--progress", "lines"),
            *("--engine", "ray", "--ray-address", self.address, "--workers", "1"),
        )


@pytest.fixture
def scoring(
    cluster: Cluster, models: Path, model: Model, sequences: Path, tmp_path: Path
) -> Scoring:
    return Scoring(cluster.address, models, model, sequences, tmp_path / "scores.parquet")


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    (tmp_path / "notes").mkdir()
    return tmp_path / "notes"


def test_two_workers_write_what_one_process_writes_and_one_is_lost_with_its_node(
    cluster: Cluster, scoring: Scoring, expected: bytes, notes: Path
) -> None:
    """The node is killed with -9 in the middle, and none comes in its place."""
    node = cluster.add_node(**NODE)
    raylet = node.all_processes["raylet"][0].process
    told = Told(after=5, do=raylet.kill)
    summary = scoring.run(
        partial(opened, scoring.models, notes, together=2), workers=None, told=told
    )
    assert raylet.wait() == -signal.SIGKILL
    assert scoring.output.read_bytes() == expected
    assert told.shards == [SHARD] * (COUNT // SHARD)  # each once
    assert summary.sequences == COUNT
    assert 0 < summary.refused_in_all < COUNT
    # No worker tells its makers what it is used for.
    off = {ray_cluster.USAGE_STATS: "0", "ORT_DISABLE_TELEMETRY": "1"}
    assert all(json.loads(note.read_text()) == off for note in notes.iterdir())


def test_a_job_goes_on_after_it_was_stopped_killed_and_bereft_of_its_worker(
    scoring: Scoring, expected: bytes, notes: Path
) -> None:
    open_engine = partial(opened, scoring.models, notes, together=1)
    stop = threading.Event()
    with pytest.raises(JobStopped, match="the same command goes on from there") as stopped:
        scoring.run(open_engine, told=Told(after=5, do=stop.set), stop=stop)
    done = stopped.value.summary.shards
    assert 5 <= done < COUNT // SHARD

    # The command goes on, and kills itself after some shards.
    killed = subprocess.run(
        [sys.executable, "-m", "tests.jobs.engines.test_ray", *scoring.words()],
        cwd=Path(__file__).parents[3],
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert not scoring.output.exists()

    before = set(pids(notes))

    def kill_worker() -> None:
        (worker,) = set(pids(notes)) - before
        os.kill(worker, signal.SIGKILL)

    summary = scoring.run(open_engine, told=Told(after=5, do=kill_worker))
    assert summary.shards_done_before == done + KILLED_AFTER
    assert summary.sequences == COUNT
    assert scoring.output.read_bytes() == expected


def test_a_service_answers_the_workers_of_a_cluster(
    scoring: Scoring, expected: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    with Server(scoring.models, core=None) as server, pytest.MonkeyPatch.context() as patch:
        words = list(scoring.words())
        here = words.index("--repository")
        words[here : here + 2] = ["--server", server.address]
        patch.setattr(sys, "argv", ["seqserve", *words])
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == 3, capfd.readouterr().err
    assert scoring.output.read_bytes() == expected


def test_that_a_cluster_is_closed_to_strangers_is_no_news_and_that_it_is_open_is(
    cluster: Cluster,
) -> None:
    from ray._private.authentication import authentication_token_setup as tokens

    heard = BufferingHandler(capacity=10)
    tokens.logger.addHandler(heard)
    tokens.logger.setLevel(logging.WARNING)  # as before the cluster was joined
    try:
        tokens._warn_token_auth_enabled()
        assert not heard.buffer
        tokens._warn_token_auth_disabled()
        assert "Anyone with network access" in heard.buffer[0].getMessage()
    finally:
        tokens.logger.setLevel(logging.NOTSET)
        tokens.logger.removeHandler(heard)


def test_a_shard_that_is_lost_each_time_ends_the_job(
    scoring: Scoring, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds: list[int] = []

    def none_survives(_: object, cut: list[list[Planned]]) -> Generator[Done]:
        rounds.append(max(map(len, cut)))
        yield from ()

    monkeypatch.setattr(ray_data._Rounds, "_round", none_survives)
    error = rf"shard 0 \(from record 0 of .*0.parquet on\) was lost .* {TRIES} times"
    with pytest.raises(EngineError, match=error):
        scoring.run(partial(EmbeddedEngine, scoring.models, "speakers"))
    # From the second on, none is lost for another's sake.
    assert rounds[0] > 1
    assert rounds[1:] == [1] * (TRIES - 1)


def test_a_job_that_is_stopped_before_its_first_shard_is_not_begun(scoring: Scoring) -> None:
    stop = threading.Event()
    stop.set()
    told = Told()
    with pytest.raises(JobStopped):
        scoring.run(partial(EmbeddedEngine, scoring.models, "speakers"), told=told, stop=stop)
    assert told.shards == []


@pytest.mark.parametrize(
    ("others", "error"),
    [
        ({"on_error": OnError.FAIL}, r"sequence \d+: .*NaN.*\(--on-error\)"),
        ({"max_sequences": SHARD + 1}, "shard 0 is not where the input had it"),
        ({}, "speakers version 1 has the digest .* on a node of the cluster"),
    ],
    ids=["a bad sequence", "another input", "another model"],
)
def test_what_is_wrong_on_a_node_is_told_in_a_line(
    scoring: Scoring, other_models: Path, others: dict[str, Any], error: str
) -> None:
    """By the worker, here without an actor around it."""
    told = replace(options(scoring.input, scoring.output), **others)
    writer = ShardWriter(Output.at(str(scoring.output), {}), scoring.model, told)
    models = scoring.models if others else other_models
    with Job(options(scoring.input, scoring.output), scoring.model) as job:
        (run, *_) = runs([*plan(job).values()], workers=1)
    worker = Worker(partial(EmbeddedEngine, models, "speakers", lanes=1), writer, "no flag", {})
    *_, last = [done for block in worker(to_block(run)) for done in from_block(block)]
    assert last.error is not None
    assert re.search(error, last.error)


def test_what_a_worker_has_done_before_something_is_wrong_is_told_first(scoring: Scoring) -> None:
    told = options(scoring.input, scoring.output)
    writer = ShardWriter(Output.at(str(scoring.output), {}), scoring.model, told)
    with Job(told, scoring.model) as job:
        (run, *_) = runs([*plan(job).values()], workers=1)
    run = [*run[:2], replace(run[2], end=Position(7, 7))]
    open_engine = partial(EmbeddedEngine, scoring.models, "speakers", lanes=1)
    worker = Worker(open_engine, writer, "no flag", {})
    done = [each for block in worker(to_block(run)) for each in from_block(block)]
    assert [each.record.index for each in done if each.record] == [0, 1]
    assert "shard 2 is not where the input had it" in (done[-1].error or "")


def test_shards_are_cut_into_runs_of_consecutive_ones() -> None:
    planned = [Planned(index, Position(), Position()) for index in (*range(40), *range(50, 60))]
    cut = runs(planned, workers=2)
    assert [shard for run in cut for shard in run] == planned
    assert max(map(len, cut)) == len(planned) // (2 * RUNS_OF_A_WORKER)
    assert [len(run) for run in runs(planned, workers=1)] == [40, 10]
    assert all(run[-1].index - run[0].index == len(run) - 1 for run in cut)
    assert [len(run) for run in runs(planned, workers=1, longest=1)] == [1] * len(planned)
    assert [len(run) for run in runs(planned, workers=1000)] == [1] * len(planned)


def test_signals_stay_with_whoever_began_the_job(cluster: Cluster, heard: list[int]) -> None:
    """Ray's own answer to the one that was sent once it was joined is to end the process."""
    assert heard == [signal.SIGTERM]


@pytest.mark.parametrize(
    ("address", "error"),
    [
        ("127.0.0.1:1", r"the Ray cluster 127\.0\.0\.1:1 cannot be joined: .* is its head there"),
        ("127.0.0.1:here", r"the Ray cluster 127\.0\.0\.1:here cannot be joined"),
        ("ray://head:10001", r"ray://head:10001: .* name the head as HOST:PORT"),
    ],
    ids=["nobody there", "no port", "Ray Client"],
)
def test_a_cluster_that_cannot_be_joined_is_told_in_a_line(address: str, error: str) -> None:
    with pytest.raises(EngineError, match=error):
        ray_cluster.check_reachable(address)


def test_a_cluster_without_cpus_is_refused_unless_somebody_says_how_many_will_come(
    cluster: Cluster,
) -> None:
    with pytest.raises(EngineError, match=r"no node .* has the 1000 CPUs .* --workers"):
        ray_cluster.most_workers(1000)


def test_a_worker_is_on_one_node(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    nodes = [(3, True), (3, True), (1, True), (8, False)]
    told = [{"Alive": alive, "Resources": {"CPU": float(cpus)}} for cpus, alive in nodes]
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {}}, *told])
    assert ray_cluster.room(1) == 7
    assert ray_cluster.room(2) == 2
    assert ray_cluster.room(4) == 0


def test_where_no_node_is_left_for_a_worker_the_job_ends_after_a_while_and_a_stop_is_heeded(
    cluster: Cluster, scoring: Scoring, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last of this file: no node comes back."""
    monkeypatch.setattr(ray_data, "PATIENCE_S", 0.0)
    raylets = [node.all_processes["raylet"][0].process for node in cluster.worker_nodes]

    def kill() -> None:
        for raylet in raylets:
            raylet.kill()
        for worker in pids(notes):
            os.kill(worker, signal.SIGKILL)

    open_engine = partial(opened, scoring.models, notes, together=1)
    told = Told(after=5, do=kill)
    with pytest.raises(EngineError, match="no node of the Ray cluster has had the 1 CPUs"):
        scoring.run(open_engine, told=told)
    assert 5 <= len(told.shards) < COUNT // SHARD

    stop = threading.Event()
    room = ray_cluster.room

    def room_after_a_stop(cpus: int) -> int:
        stop.set()
        return room(cpus)

    monkeypatch.setattr(ray_cluster, "room", room_after_a_stop)
    monkeypatch.setattr(ray_data, "PATIENCE_S", 1e9)
    with pytest.raises(JobStopped, match="the same command goes on from there"):
        scoring.run(open_engine, workers=1, stop=stop)


def until_killed(words: list[str]) -> None:
    """The command, as a process of its own that dies after some shards."""
    told = Told(KILLED_AFTER, lambda: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tally, "on_shard", lambda _, **shard: told.on_shard(**shard))
        patch.setattr(sys, "argv", ["seqserve", *words])
        main()


if __name__ == "__main__":
    until_killed(sys.argv[1:])
