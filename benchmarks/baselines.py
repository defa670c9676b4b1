"""The dynamic batchers that continuous batching is held against. Never part of the product.

Both collect sequences, of whatever requests, until there are enough for a batch or the oldest has
waited long enough, and run the batch padded to its longest sequence: what serving systems do.
They are made to be fast at it: what is around the run takes some hundredths of it.

Left out is what a product needs and a benchmark does not: deadlines, live state, drain.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from seqserve.graph import Array, GraphRunner, Outputs
from seqserve_server import cores
from seqserve_server.errors import Draining, QueueFull
from seqserve_server.scheduling.work import Leave, Outcome, Work

MAX_ROWS = 64
MAX_DELAY_S = 0.002

BORDERS = (8, 12, 16, 20, 25, 32, 40, 50, 64, 80, 100, 128, 160, 200, 250)
"""Longest sequence of each bucket but the last, in steps: each about a quarter over the one
before, so that a tenth of a bucket's row-steps is padding."""


@dataclass(eq=False)
class _Request:
    """Work, and the outputs of its rows as they come."""

    work: Work
    graph: GraphRunner
    tell: Callable[[Outcome], None]
    arrived: float
    offsets: list[int]
    missing: int
    over: bool = False
    logits: Array | None = None
    probabilities: Array | None = None


_Row = tuple[_Request, int]


@dataclass(eq=False)
class _Bucket:
    """Rows of one model of like length, in order of arrival."""

    rows: deque[_Row] = field(default_factory=deque)

    def ready_at(self) -> float:
        """When its next batch may start."""
        if len(self.rows) >= MAX_ROWS:
            return 0.0
        return self.rows[0][0].arrived + MAX_DELAY_S if self.rows else float("inf")

    def oldest(self) -> float:
        """When its first row arrived."""
        return self.rows[0][0].arrived


class LengthBucketed:
    """A dynamic batcher with a queue a bucket of lengths; the oldest ready bucket goes first.

    Args:
        lanes: How many batches run at the same time.
        max_queue_steps: How many steps may wait.
        borders: The longest sequence of each bucket but the last.
    """

    def __init__(
        self, *, lanes: int, max_queue_steps: int, borders: Sequence[int] = BORDERS
    ) -> None:
        self._borders = tuple(borders)
        self._max_steps = max_queue_steps
        self._steps = 0
        self._buckets: dict[tuple[GraphRunner, int], _Bucket] = {}
        self._changed = threading.Condition()  # guards all of the above and `_closed`
        self._settling = threading.Lock()  # rows of a request may be on several lanes
        self._closed = False
        self._lanes = [threading.Thread(target=self._run_lane, daemon=True) for _ in range(lanes)]

    def start(self) -> None:
        """As `Scheduler.start`."""
        for lane in self._lanes:
            lane.start()

    def check(self, deadline: float) -> None:
        """Says nothing: a baseline keeps to no deadlines."""

    def submit(self, work: Work, tell: Callable[[Outcome], None]) -> Leave:
        """As `Scheduler.submit`; rows whose caller has left run all the same."""
        return self.submit_all((work,), (tell,))

    def submit_all(
        self, works: Sequence[Work], tells: Sequence[Callable[[Outcome], None]]
    ) -> Leave:
        """As `Scheduler.submit_all`, but for those who leave."""
        now, steps = time.monotonic(), sum(work.rows.steps for work in works)
        with self._changed:
            if self._closed:
                raise Draining
            if self._steps + steps > self._max_steps:
                raise QueueFull("the baseline's queue is full", retry_after_s=1.0)
            self._steps += steps
            for work, tell in zip(works, tells, strict=True):
                assert work.state is None, "live sequences are the product's alone"
                graph, rows = work.runner.graph, work.rows
                request = _Request(work, graph, tell, now, rows.offsets.tolist(), len(rows))
                for index, length in enumerate(rows.lengths.tolist()):
                    self._bucket(graph, length).rows.append((request, index))
            self._changed.notify()
        return lambda: None

    def wait_until_idle(self, timeout_s: float) -> bool:
        """Does not wait: a benchmark stops its server when its callers have gone."""
        return True

    def close(self) -> None:
        """As `Scheduler.close`."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            rows = [row for bucket in self._buckets.values() for row in bucket.rows]
            self._buckets.clear()
        for request, _ in rows:
            _end(request, Draining())
        for lane in self._lanes:
            lane.join()

    def _bucket(self, graph: GraphRunner, length: int) -> _Bucket:
        key = (graph, bisect_left(self._borders, length))
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = _Bucket()
        return bucket

    def _run_lane(self) -> None:
        while rows := self._next():
            outcome = _run(rows)
            with self._settling:
                _settle(rows, outcome)
            cores.give_way()  # as the product's lanes do

    def _next(self) -> list[_Row]:
        """Waits for the next batch; none once the scheduler is closed."""
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                ready = [each for each in self._buckets.values() if each.ready_at() <= now]
                if ready:
                    return self._take(min(ready, key=_Bucket.oldest))
                soonest = min((each.ready_at() for each in self._buckets.values()), default=None)
                idle = soonest is None or soonest == float("inf")
                self._changed.wait(None if idle else soonest - now)  # type: ignore[operator]
            return []

    def _take(self, bucket: _Bucket) -> list[_Row]:
        rows = list(islice(bucket.rows, MAX_ROWS))
        for _ in rows:
            bucket.rows.popleft()
        self._steps -= sum(
            request.offsets[index + 1] - request.offsets[index] for request, index in rows
        )
        if bucket.rows:
            self._changed.notify()  # another lane may find a batch too
        return rows


class PaddedFifo(LengthBucketed):
    """A dynamic batcher in order of arrival, whatever the lengths: one bucket for all.

    Args:
        lanes: How many batches run at the same time.
        max_queue_steps: How many steps may wait.
    """

    def __init__(self, *, lanes: int, max_queue_steps: int) -> None:
        super().__init__(lanes=lanes, max_queue_steps=max_queue_steps, borders=())


def _run(rows: list[_Row]) -> Outputs | Exception:
    views = [
        request.work.rows.values[request.offsets[index] : request.offsets[index + 1]]
        for request, index in rows
    ]
    lengths = np.fromiter(map(len, views), np.int32, len(views))
    try:
        return rows[0][0].graph(_padded(views, int(lengths.max())), lengths)
    except Exception as error:  # every caller of the batch is told
        return error


def _padded(views: list[Array], longest: int) -> Array:
    """(rows, time, features). Row by row is the fastest way in numpy: 26 µs for 64 rows."""
    features = views[0].shape[1]
    if len(views) * longest == sum(map(len, views)):
        return np.concatenate(views).reshape(len(views), longest, features)
    padded = np.zeros((len(views), longest, features), np.float32)
    for index, view in enumerate(views):
        padded[index, : len(view)] = view
    return padded


def _settle(rows: list[_Row], outcome: Outcome) -> None:
    """Gives the rows their outputs, and answers the requests that have all of theirs."""
    for position, (request, index) in enumerate(rows):
        if isinstance(outcome, Exception):
            _end(request, outcome)
            continue
        if request.logits is None or request.probabilities is None:
            shape = (len(request.work.rows), outcome.logits.shape[1])
            request.logits = np.empty(shape, np.float32)
            request.probabilities = np.empty(shape, np.float32)
        request.logits[index] = outcome.logits[position]
        request.probabilities[index] = outcome.probabilities[position]
        request.missing -= 1
        if not request.missing:
            _end(request, Outputs(request.logits, request.probabilities, {}))


def _end(request: _Request, outcome: Outcome) -> None:
    """Tells the caller, once."""
    if not request.over:
        request.over = True
        request.tell(outcome)
