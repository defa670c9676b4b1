"""Has an engine do what is to be done of a job, with bounded memory.

A thread reads; this one hands blocks to the engine and writes what is answered, shard by shard, in
the order it is answered. From the moment it is begun to be read until its answers are written a
block holds one of `engine.ahead + SPARE_BLOCKS` places, so no more of them are in memory, however
large the input is.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue

from seqserve_data.stream.block import Block
from seqserve_jobs.engines.engine import Engine, Scores
from seqserve_jobs.errors import GivenUp, JobError
from seqserve_jobs.job import Job
from seqserve_jobs.summary import Summary

SPARE_BLOCKS = 2
"""Beside those under way: one that is read, and one that waits for the engine."""


@dataclass(frozen=True, eq=False)
class _Read:
    index: int
    block: Block


@dataclass(frozen=True, eq=False)
class _Answered:
    index: int
    scores: Future[Scores]


@dataclass(frozen=True)
class _ReadAll:
    error: BaseException | None = None


_Event = _Read | _Answered | _ReadAll


def run(job: Job, engine: Engine) -> Summary:
    """Does every shard that is not done, and finishes the job.

    Args:
        job: In its context.
        engine: Answers.

    Raises:
        JobStopped: as `job.stop` asked.
        JobError: see `seqserve_jobs.errors`.
        DataError: the input cannot be read. What was under way is done before that is raised.
    """
    if not job.finished:
        with _reading(job, places=engine.ahead + SPARE_BLOCKS) as reading:
            _Run(job, engine, reading).run()
    return job.finish()


class _Reading:
    """What has been read, and what else happens; and the places for blocks."""

    def __init__(self, places: int) -> None:
        self.events: SimpleQueue[_Event] = SimpleQueue()
        self.places = threading.Semaphore(places)
        self.over = threading.Event()
        """Nobody wants another block."""


@contextmanager
def _reading(job: Job, places: int) -> Iterator[_Reading]:
    reading = _Reading(places)
    thread = threading.Thread(target=_read, args=(job, reading), name="reader", daemon=True)
    thread.start()
    try:
        yield reading
    finally:
        reading.over.set()
        reading.places.release()
        thread.join()


def _read(job: Job, reading: _Reading) -> None:
    options = job.options
    index, begin = job.first_undone
    try:
        blocks = job.input.blocks(
            begin, max_sequences=options.max_sequences, max_steps=options.max_steps
        )
        while True:
            reading.places.acquire()
            if reading.over.is_set() or (block := next(blocks, None)) is None:
                break
            reading.events.put(_Read(index, block))
            index += 1
            del block  # or it would be held while the next is read
    except BaseException as error:
        reading.events.put(_ReadAll(error))
    else:
        reading.events.put(_ReadAll())


class _Run:
    def __init__(self, job: Job, engine: Engine, reading: _Reading) -> None:
        self._job = job
        self._engine = engine
        self._reading = reading
        self._waiting: deque[_Read] = deque()
        self._under_way: dict[int, Block] = {}
        self._end: _ReadAll | None = None

    def run(self) -> None:
        while True:
            self._submit()
            if not self._under_way:
                if self._end is not None and not self._waiting:
                    break
                if self._job.stop.is_set():
                    raise self._job.stopped()
            match self._reading.events.get():
                case _Read(index, block) if self._end is None:
                    self._take(index, block)
                case _Answered(index, scores):
                    self._end_shard(index, scores)
                case _ReadAll() as end if self._end is None:
                    self._end = end
        if self._end.error is not None:
            raise self._end.error

    def _take(self, index: int, block: Block) -> None:
        try:
            self._job.check(index, block)
        except JobError as error:  # what came before it is good
            self._reading.over.set()
            self._end = _ReadAll(error)
            return
        if index in self._job.done:
            self._reading.places.release()
        else:
            self._waiting.append(_Read(index, block))

    def _submit(self) -> None:
        while (
            self._waiting
            and len(self._under_way) < self._engine.ahead
            and not self._job.stop.is_set()
        ):
            read = self._waiting.popleft()
            self._under_way[read.index] = read.block
            if read.block.sequences is None:
                self._write(read.index, None)
            else:
                answer = self._engine.submit(read.block.sequences)
                answer.add_done_callback(partial(self._tell, read.index))

    def _tell(self, index: int, scores: Future[Scores]) -> None:
        """By a thread of the engine."""
        self._reading.events.put(_Answered(index, scores))

    def _end_shard(self, index: int, scores: Future[Scores]) -> None:
        if isinstance(scores.exception(), GivenUp) and self._job.stop.is_set():
            self._waiting.appendleft(_Read(index, self._under_way.pop(index)))
        else:
            self._write(index, scores.result())

    def _write(self, index: int, scores: Scores | None) -> None:
        shard = self._job.writer.write(index, self._under_way.pop(index), scores)
        self._job.add(shard, scores.computed_steps if scores is not None else 0)
        self._reading.places.release()
