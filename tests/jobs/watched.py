"""An engine that is watched, and does as it is told."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Self

from seqserve.ragged import RaggedBatch
from seqserve_jobs.engines.engine import Engine, Model, Scores


class Watched:
    """Hands batches on to another engine.

    Args:
        engine: Answers.
        on_submit: Is told the number of a batch before it is handed on.
        on_batch: Is given the batch itself.
    """

    def __init__(
        self,
        engine: Engine,
        on_submit: Callable[[int], None] | None = None,
        on_batch: Callable[[RaggedBatch], None] | None = None,
    ) -> None:
        self._engine = engine
        self._on_submit = on_submit
        self._on_batch = on_batch
        self.batches: list[RaggedBatch] = []

    @property
    def model(self) -> Model:
        return self._engine.model

    @property
    def ahead(self) -> int:
        return self._engine.ahead

    def submit(self, batch: RaggedBatch) -> Future[Scores]:
        if self._on_submit is not None:
            self._on_submit(len(self.batches))
        if self._on_batch is not None:
            self._on_batch(batch)
        self.batches.append(batch)
        return self._engine.submit(batch)

    def close(self) -> None:
        """The other engine is its owner's."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Reversing(Watched):
    """Answers none of so many batches before all are there, and then the last first."""

    def __init__(self, engine: Engine, batches: int) -> None:
        super().__init__(engine)
        self._together = batches
        self._held: list[tuple[RaggedBatch, Future[Scores]]] = []

    @property
    def ahead(self) -> int:
        return self._together

    def submit(self, batch: RaggedBatch) -> Future[Scores]:
        future: Future[Scores] = Future()
        self._held.append((batch, future))
        if len(self._held) == self._together:
            for held, answer in reversed(self._held):
                answer.set_result(super().submit(held).result())
            self._held.clear()
        return future
