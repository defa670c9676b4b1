"""Has a Ray cluster do what is to be done of a job; this process plans it, and it alone writes.

Ray Data runs a pool of `ray_worker.Worker` actors over blocks of planned shards. Of itself it would
wait, where a node is lost, until another one comes; a cluster may have none. So with a worker the
shards are lost that it had under way, and the others do them again, in another round. Where no node
is left that a worker fits on, one is waited for, but not for ever.
"""

from __future__ import annotations

import logging
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from queue import Empty, Full, Queue
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from seqserve_jobs.engines import ray_cluster
from seqserve_jobs.engines.ray_worker import (
    Done,
    OpenEngine,
    Planned,
    Worker,
    from_block,
    to_block,
)
from seqserve_jobs.errors import EngineError
from seqserve_jobs.job import Job
from seqserve_jobs.summary import Summary

if TYPE_CHECKING:
    from ray.data import Dataset

_log = logging.getLogger(__name__)

RUNS_OF_A_WORKER = 8
"""At least, where there are as many shards and several workers: so that all of these end at about
the same time."""
LONGEST_RUN = 64
"""Shards."""
TRIES = 5
"""Of a shard that is lost each time: it may be what ends its workers."""
PATIENCE_S = 300.0
"""How long a node that a worker fits on is waited for."""
_LOOK_S = 1.0
"""Where nothing comes, how often what is amiss is looked for."""


@dataclass(frozen=True)
class RayOptions:
    """Which part of which cluster."""

    address: str | None = None
    """See `ray_cluster.connected`."""
    workers: int | None = None
    """Actors; by default as many as fit on its nodes when the job begins."""
    cpus: int = 1
    """Of a worker: as many as its engine has lanes."""


def run_on_ray(job: Job, open_engine: OpenEngine, ray_options: RayOptions) -> Summary:
    """Does every shard that is not done, and finishes the job, with the bytes of `pipeline.run`.

    Args:
        job: In its context. Every node of the cluster must be able to read its input.
        open_engine: Opens an engine of the job's model on a node.
        ray_options: Which part of which cluster.

    Raises:
        JobStopped: as `job.stop` asked.
        JobError: see `seqserve_jobs.errors`.
        DataError: the input cannot be read.
    """
    if not job.finished:
        planned = plan(job)
        if planned:
            with ray_cluster.connected(ray_options.address):
                _Rounds(job, open_engine, ray_options).do(planned)
    return job.finish()


def plan(job: Job) -> dict[int, Planned]:
    """The shards that are not done, by their index."""
    options = job.options
    cuts = job.input.cuts(max_sequences=options.max_sequences, max_steps=options.max_steps)
    planned = {}
    for index, cut in enumerate(cuts):
        if job.stop.is_set():
            raise job.stopped()
        job.check_place(index, cut.begin, cut.end)
        if index not in job.done:
            planned[index] = Planned(index, cut.begin, cut.end)
    return planned


def runs(planned: list[Planned], workers: int, longest: int = LONGEST_RUN) -> list[list[Planned]]:
    """Shards in their order, cut into runs of consecutive ones.

    A reader that goes on costs less than one that begins in the middle of a file, and reads while
    the worker computes.
    """
    alike = len(planned) // (workers * RUNS_OF_A_WORKER) if workers > 1 else longest
    length = max(1, min(longest, alike))
    cut: list[list[Planned]] = []
    for shard in planned:
        if cut and len(cut[-1]) < length and cut[-1][-1].index + 1 == shard.index:
            cut[-1].append(shard)
        else:
            cut.append([shard])
    return cut


class _Rounds:
    def __init__(self, job: Job, open_engine: OpenEngine, ray_options: RayOptions) -> None:
        self._job = job
        self._open_engine = open_engine
        self._cpus = ray_options.cpus
        self._workers = ray_options.workers or ray_cluster.most_workers(ray_options.cpus)
        self._stopping: Any = None  # the actor that tells workers so, by its name alone
        self._flag = f"seqserve-stop-{uuid4().hex}"
        self._missing_since: float | None = None  # no node has room for a worker
        self._heard = False  # of any worker, in this round

    def do(self, planned: dict[int, Planned]) -> None:
        for tried in range(TRIES):
            if tried:
                _log.warning(
                    "%d shards were lost with their workers, and are done again", len(planned)
                )
            if self._job.stop.is_set():
                raise self._job.stopped()
            # One by one, those that are good get away from one that ends its worker.
            cut = runs([*planned.values()], self._workers, longest=1 if tried else LONGEST_RUN)
            with closing(self._round(cut)) as round_:
                for done in round_:
                    self._take(done, planned)
            if not planned:
                return
            if self._stopping is not None:
                raise self._job.stopped()
        first = planned[min(planned)]
        file = self._job.input.files[first.begin.file]
        raise EngineError(
            f"shard {first.index} (from record {first.begin.row} of {file} on) was lost with its "
            f"worker {TRIES} times; it may be what ends them, for want of memory or in another "
            "way: look at the logs of the cluster, or try smaller shards"
        )

    def _take(self, done: Done, planned: dict[int, Planned]) -> None:
        if done.error is not None:
            raise EngineError(done.error)
        # A worker may be held for lost after it has answered: nothing is written twice.
        if done.record is not None and planned.pop(done.record.index, None) is not None:
            self._job.writer.put(done.record, done.part)
            self._job.add(done.record, done.computed_steps)

    def _round(self, cut: list[list[Planned]]) -> Generator[Done]:
        """What workers have done of these runs, as it comes; the rest was lost with them."""
        import ray

        self._heard = False
        for references in self._references(cut):
            self._heard = True
            for reference in references:
                try:
                    block = ray.get(reference)
                except ray.exceptions.RayError as error:
                    _log.debug("lost: %s", error)
                else:
                    yield from from_block(block)
            if self._job.stop.is_set():
                self._stop_workers()

    def _data(self, cut: list[list[Planned]]) -> Dataset:
        """What is to be done, and how."""
        import ray.data

        data = ray.data.from_arrow([to_block(run) for run in cut])
        with warnings.catch_warnings():
            # In Ray 2.60 there is no other way to be told of a loss, and not to wait for ever.
            warnings.filterwarnings("ignore", message=".*ray_remote_args")
            data = data.map_batches(
                Worker,
                fn_constructor_kwargs={
                    "open_engine": self._open_engine,
                    "writer": replace(self._job.writer, options=self._job.options.from_anywhere()),
                    "flag": self._flag,
                    "environment": ray_cluster.environment(),
                },
                batch_size=None,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(
                    size=self._workers, max_tasks_in_flight_per_actor=2
                ),
                num_cpus=self._cpus,
                max_restarts=-1,
                max_task_retries=0,
            )
        ray_cluster.configure(data.context)
        return data

    def _references(self, cut: list[list[Planned]]) -> Iterator[list[Any]]:
        """What workers have done, as it comes."""
        bundles = _Bundles(partial(self._data, cut))
        bundles.start()
        try:
            while True:
                try:
                    each = bundles.queue.get(timeout=_LOOK_S)
                except Empty:
                    self._look_for_workers()
                    continue
                if isinstance(each, BaseException):
                    raise each
                if each is None:
                    return
                yield each
        finally:
            bundles.over.set()

    def _look_for_workers(self) -> None:
        """Nothing has come for a while."""
        stopping = self._job.stop.is_set()
        if stopping:
            self._stop_workers()
        missing = not ray_cluster.room(self._cpus)
        if stopping and (missing or not self._heard):  # none is there to finish anything
            raise self._job.stopped()
        if not missing:
            self._missing_since = None
            return
        now = time.monotonic()
        if self._missing_since is None:
            self._missing_since = now
            _log.warning(
                "no node of the Ray cluster is left that a worker of %d CPUs fits on; one is "
                "waited for, for %g s",
                *(self._cpus, PATIENCE_S),
            )
        if now - self._missing_since >= PATIENCE_S:
            self._stop_workers()  # should there be any later
            raise EngineError(
                f"no node of the Ray cluster has had the {self._cpus} CPUs that a worker needs for "
                f"{PATIENCE_S:g} s; start nodes: the same command goes on"
            )

    def _stop_workers(self) -> None:
        """No more shards are begun."""
        import ray

        if self._stopping is None:
            self._stopping = ray.remote(_Flag).options(name=self._flag, num_cpus=0).remote()


class _Bundles(threading.Thread):
    """Takes what Ray Data gives: by itself that waits without an end where nobody works."""

    def __init__(self, make: Callable[[], Dataset]) -> None:
        super().__init__(name="ray-data", daemon=True)
        self.queue: Queue[list[Any] | BaseException | None] = Queue(maxsize=1)
        """References to blocks; at the end None, or why there are no more."""
        self.over = threading.Event()
        """Nobody wants another."""
        self._make = make

    def run(self) -> None:
        try:
            for bundle in self._make().iter_internal_ref_bundles():
                self._put(list(bundle.block_refs))
                if self.over.is_set():
                    return
            self._put(None)
        except BaseException as error:
            self._put(error)

    def _put(self, each: list[Any] | BaseException | None) -> None:
        while not self.over.is_set():
            try:
                self.queue.put(each, timeout=_LOOK_S)
            except Full:
                continue
            return


class _Flag:
    """Is there once no more shards are to be begun."""
