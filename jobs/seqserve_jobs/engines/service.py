"""A running service answers: requests of like lengths, a bounded window of them under way.

The version is pinned in the beginning, and every answer has to be of its digest. Replicas, their
health and what is tried again elsewhere are the client's; what is left to do here is to wait: for
room where the service is full, for its return where it is away.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from seqserve.ragged import RaggedBatch
from seqserve_client import (
    Cancelled,
    Classification,
    Client,
    DeadlineExceeded,
    InvalidOptions,
    InvalidRequest,
    InvalidSequences,
    ModelDescription,
    ModelNotFound,
    ModelState,
    Overloaded,
    SeqserveError,
    ServerFault,
    ServiceClass,
    Unavailable,
)
from seqserve_client.batching import bounds
from seqserve_jobs.choices import PATIENCE_S, WINDOW
from seqserve_jobs.engines.engine import Model, Scores
from seqserve_jobs.engines.window import Window
from seqserve_jobs.errors import EngineError, GivenUp

_log = logging.getLogger(__name__)

_REQUEST_STEPS = 16_384
"""A server brings no more of a request into play at a time: longer ones only wait there."""
_AHEAD = 2
"""Shards: the next one's requests leave while the last of one are under way."""
_REST_S = 1.0
"""Between two attempts at a service that is away; the client makes several each time."""
_BUSY_S = 0.1
"""The same at one that is full and does not say for how long."""
_MOST_FAULTS = 3
"""Attempts at a request that meets a defect of the server: the third is no accident."""

_CLOSED = "the engine was closed"
_GO_ON = "what is done is kept, and the same command goes on from there"


@dataclass(eq=False)
class _Shard:
    """A batch that is being answered."""

    batch: RaggedBatch
    scores: Scores
    missing: int
    """Sequences without an answer."""
    future: Future[Scores] = field(default_factory=Future)


@dataclass(eq=False)
class _Request:
    """Some sequences of a shard, of like lengths."""

    shard: _Shard
    sequences: NDArray[np.int64]
    """Which."""
    away_since: float = math.inf
    """Since when nobody has said anything to it."""
    faults: int = 0
    """Attempts that met a defect of the server."""


class ServiceEngine:
    """Answers through a service, of the bulk class: interactive calls go first there.

    Args:
        client: The way to its replicas; closed with the engine. Its limits of a request hold, and
            its timeout is that of a request.
        model: The model's name.
        version: 0 for the newest that is served now.
        window: Requests under way at a time, at most.
        patience_s: How long the service may be away before the job ends, in the beginning too.
        stop: Once it is set, a service that is away is waited for no more.

    Raises:
        EngineError: no service for so long, or it does not serve that.
        InvalidOptions: an option cannot be.
    """

    def __init__(
        self,
        client: Client,
        model: str,
        version: int = 0,
        *,
        window: int = WINDOW,
        patience_s: float = PATIENCE_S,
        stop: threading.Event | None = None,
    ) -> None:
        if window < 1 or not patience_s >= 0:
            raise InvalidOptions(
                f"window is {window} and patience_s {patience_s}; at least 1 and 0 are needed"
            )
        self._client = client
        self._address = client.options.address
        self._patience_s = patience_s
        self._stop = stop or threading.Event()
        self._limits = replace(
            client.options, max_request_steps=min(client.options.max_request_steps, _REQUEST_STEPS)
        )
        self.model = _pinned(client, model, version, patience_s)
        self._change = threading.Condition()  # guards all that follows
        self._window = Window(window)
        self._waiting: deque[_Request] = deque()
        self._shards: set[_Shard] = set()
        self._heard = -math.inf  # when the service last said something
        self._away = False
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"seqserve-job-{index}", daemon=True)
            for index in range(window)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def ahead(self) -> int:
        """As `Engine.ahead`."""
        return _AHEAD

    def submit(self, batch: RaggedBatch) -> Future[Scores]:
        """As `Engine.submit`."""
        shape = len(batch), len(self.model.labels)
        scores = Scores(np.empty(shape, np.float32), np.empty(shape, np.float32))
        shard = _Shard(batch, scores, len(batch))
        longest_first = np.argsort(-batch.lengths, kind="stable")
        requests = [
            _Request(shard, longest_first[first:stop])
            for first, stop in bounds(
                batch.lengths[longest_first], batch.features, self._limits, self.model.name
            )
        ]
        shard.future.set_running_or_notify_cancel()  # nobody can cancel it any more
        with self._change:
            self._shards.add(shard)
            if not self._closed:
                self._waiting += requests
                self._change.notify()
                return shard.future
        self._settle(shard, EngineError(_CLOSED))
        return shard.future

    def close(self) -> None:
        """As `Engine.close`."""
        with self._change:
            self._closed = True
            self._waiting.clear()
            self._change.notify_all()
        self._client.close()  # which ends the calls under way
        for thread in self._threads:
            thread.join()
        for shard in tuple(self._shards):
            self._settle(shard, EngineError(_CLOSED))

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Closes it."""
        self.close()

    def _work(self) -> None:
        """Sends requests, one at a time."""
        while (request := self._next()) is not None:
            left = time.monotonic()
            try:
                answers = self._ask(request)
            except Exception as error:
                self._failed(request, error, left)
            else:
                self._answered(request, answers)

    def _next(self) -> _Request | None:
        """The next request, once the window lets it leave; None where there will be none."""
        with self._change:
            while not self._closed:
                wait_s = self._window.wait_s(time.monotonic()) if self._waiting else math.inf
                if not wait_s:
                    request = self._waiting.popleft()
                    if request.shard in self._shards:
                        self._window.leave()
                        self._change.notify()  # there may be room for one more
                        return request
                else:
                    self._change.wait(None if math.isinf(wait_s) else wait_s)
        return None

    def _ask(self, request: _Request) -> Classification:
        answers = self._client.classify(
            request.shard.batch.take(request.sequences),
            model=self.model.name,
            version=self.model.version,
            service_class=ServiceClass.BULK,
        )
        if answers.model_digest != self.model.digest:
            raise EngineError(
                f"another artifact answers at {self._address} as {self._version}: its digest is "
                f"{answers.model_digest}, and the job began with {self.model.digest}; have every "
                "replica serve the latter and run the same command again, or begin anew with "
                "--restart"
            )
        return answers

    def _answered(self, request: _Request, answers: Classification) -> None:
        shard = request.shard
        shard.scores.logits[request.sequences] = answers.logits
        shard.scores.probabilities[request.sequences] = answers.probabilities
        with self._change:
            self._window.answered()
            self._hear()
            shard.missing -= len(request.sequences)
            complete = not shard.missing
        if complete:
            self._settle(shard)

    def _failed(self, request: _Request, error: Exception, left: float) -> None:
        now = time.monotonic()
        with self._change:
            if self._closed:
                return
            fate: EngineError | None = None
            if isinstance(error, Overloaded):
                self._window.refused(left, now, error.retry_after_s or _BUSY_S)
                request.away_since = math.inf
                self._hear()
                self._waiting.appendleft(request)
            elif isinstance(error, Unavailable | DeadlineExceeded | Cancelled | ServerFault):
                self._window.refused(left, now, _REST_S)
                fate = self._awaited(request, error, left, now)
            else:
                self._window.lost()
                fate = self._final(request, error)
            self._change.notify()
        if fate is not None:
            fate.__cause__ = error
            self._settle(request.shard, fate)

    def _awaited(
        self, request: _Request, error: SeqserveError, left: float, now: float
    ) -> EngineError | None:
        """Asks again once the service is back; the reason to do so no more, if there is one."""
        if isinstance(error, ServerFault):
            request.faults += 1
            if request.faults >= _MOST_FAULTS:
                return EngineError(f"{error} ({request.faults} times); {_GO_ON}")
        if self._stop.is_set():
            return GivenUp(f"{error}; not waited for, as the job is to stop")
        request.away_since = min(request.away_since, left)
        if now - request.away_since >= self._patience_s:
            return EngineError(
                f"{error}; waited for {now - request.away_since:.0f} s. Once it is back: {_GO_ON}"
            )
        if left > self._heard and not self._away:
            self._away = True
            _log.warning("%s; waiting for it, for up to %g s from now", error, self._patience_s)
        self._waiting.appendleft(request)
        return None

    def _hear(self) -> None:
        """The service has said something."""
        self._heard = time.monotonic()
        if self._away:
            self._away = False
            _log.warning("%s answers again", self._address)

    def _final(self, request: _Request, error: Exception) -> EngineError | None:
        """What becomes of a request whose error no waiting mends."""
        if isinstance(error, EngineError):
            return error
        if isinstance(error, ModelNotFound):
            return EngineError(
                f"{self._version}, which the job began with, is not served at {self._address} any "
                f"more ({error}): have it served again, as by seqserve models load "
                f"{self.model.name}:{self.model.version}, and run the same command again, or "
                "begin anew with --restart"
            )
        too_large = isinstance(error, InvalidRequest) and not isinstance(error, InvalidSequences)
        if too_large and len(request.sequences) > 1:  # for a limit of the server's own
            for part in np.array_split(request.sequences, 2)[::-1]:
                self._waiting.appendleft(_Request(request.shard, part))
            return None
        return EngineError(f"{error}; {_GO_ON}")

    def _settle(self, shard: _Shard, error: EngineError | None = None) -> None:
        """Tells, once, what became of a shard; what is left of its requests is dropped."""
        with self._change:
            if shard not in self._shards:
                return
            self._shards.remove(shard)
        if error is None:
            shard.future.set_result(shard.scores)
        else:
            shard.future.set_exception(error)

    @property
    def _version(self) -> str:
        return f"version {self.model.version} of {self.model.name}"


def _pinned(client: Client, model: str, version: int, patience_s: float) -> Model:
    """The version that is to answer from now on."""
    try:
        described = _described(client, model, version, time.monotonic() + patience_s)
    except SeqserveError as error:
        raise EngineError(str(error)) from error
    status = described.status
    if status.state is not ModelState.READY:
        reason = f": {status.message}" if status.message else ""
        raise EngineError(
            f"version {version} of {model} is not ready at {client.options.address}, but "
            f"{status.state}{reason}; seqserve models versions {model} shows what is"
        )
    return Model.of(described.manifest, status.digest)


def _described(client: Client, model: str, version: int, until: float) -> ModelDescription:
    """What the service says of it, once it is there."""
    waiting = False
    while True:
        try:
            described = client.describe(model, version)
        except (Unavailable, DeadlineExceeded) as error:
            left_s = until - time.monotonic()
            if left_s <= 0:
                raise
            if not waiting:
                waiting = True
                _log.warning("%s; waiting for it, for up to %.0f s from now", error, left_s)
            time.sleep(min(_REST_S, left_s))
        else:
            if waiting:
                _log.warning("%s answers", client.options.address)
            return described
