"""An actor of a Ray cluster: reads shards of the input, has them answered, hands back their parts.

It writes nothing. A worker may outlive its job for a while, cut off from the cluster or given up;
what it then does goes nowhere.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass

import pyarrow as pa

from seqserve_data.stream.block import Block, Position
from seqserve_jobs.engines.engine import Engine, Scores
from seqserve_jobs.errors import EngineError, JobError
from seqserve_jobs.job import check_faults, open_input
from seqserve_jobs.shards import Shard, ShardWriter

OpenEngine = Callable[[], Engine]
"""Opens the engine of a worker. It is pickled."""

_COLUMNS: dict[str, pa.DataType] = {
    "record": pa.binary(),
    "part": pa.large_binary(),
    "computed_steps": pa.int64(),
    "error": pa.string(),
}
_DONE = pa.schema(_COLUMNS)


@dataclass(frozen=True)
class Planned:
    """A shard that a worker is to do."""

    index: int
    begin: Position
    end: Position


@dataclass(frozen=True)
class Done:
    """A shard that it has done, or why it could not."""

    record: Shard | None
    part: bytes
    computed_steps: int | None
    error: str | None


def to_block(run: list[Planned]) -> pa.Table:
    """Consecutive shards, as a block of Ray Data."""
    return pa.table(
        {
            "index": [shard.index for shard in run],
            "begin": [[shard.begin.file, shard.begin.row] for shard in run],
            "end": [[shard.end.file, shard.end.row] for shard in run],
        }
    )


def from_block(block: pa.Table) -> Iterator[Done]:
    """What `Worker` made of such a block, as far as it is in this one."""
    for row in block.to_pylist():
        record = Shard.from_bytes(row["record"]) if row["record"] else None
        yield Done(record, row["part"], row["computed_steps"], row["error"])


class Worker:
    """Does runs of consecutive shards: reading goes on from one to the next, while lanes compute.

    Args:
        open_engine: Opens its engine.
        writer: Makes the parts; also says what the job is.
        flag: Name of an actor that is there once no more shards are to be begun.
        environment: What is to be in the environment when the engine is opened.
    """

    def __init__(
        self,
        open_engine: OpenEngine,
        writer: ShardWriter,
        flag: str,
        environment: Mapping[str, str],
    ) -> None:
        # Not by Ray, which would start a process for it where one stands idle.
        os.environ.update(environment)
        self._open_engine = open_engine
        self._writer = writer
        self._flag = flag
        self._opened: Engine | None = None

    def __call__(self, block: pa.Table) -> Iterator[pa.Table]:
        """Does a run, shard by shard."""
        run = [
            Planned(row["index"], Position(*row["begin"]), Position(*row["end"]))
            for row in block.to_pylist()
        ]
        yield _DONE.empty_table()  # Ray Data wants something, even where it is told to stop
        try:
            yield from self._do(run)
        # Whatever it is: Ray would call it lost, and the driver would have it done again for ever.
        except Exception as error:
            told = str(error) if _is_for_people(error) else f"{type(error).__name__}: {error}"
            yield _row(None, b"", None, told)

    def _do(self, run: list[Planned]) -> Iterator[pa.Table]:
        engine = self._engine()
        options = self._writer.options
        blocks = open_input(options, self._writer.model).blocks(
            run[0].begin,
            max_sequences=options.max_sequences,
            max_steps=options.max_steps,
            check_ids=False,  # the plan has been made by whoever did
        )
        under_way: deque[tuple[int, Block, Future[Scores] | None]] = deque()
        failed: Exception | None = None
        for planned in run:
            if self._is_stopped():
                break
            try:
                block = _next(blocks, planned)
                check_faults(block, options.on_error)
            except Exception as error:  # what came before it is good
                failed = error
                break
            answer = engine.submit(block.sequences) if block.sequences is not None else None
            under_way.append((planned.index, block, answer))
            del block
            if len(under_way) >= engine.ahead:
                yield self._finished(*under_way.popleft())
        while under_way:
            yield self._finished(*under_way.popleft())
        if failed is not None:
            raise failed

    def _finished(self, index: int, block: Block, answer: Future[Scores] | None) -> pa.Table:
        scores = answer.result() if answer is not None else None
        shard, part = self._writer.make(index, block, scores)
        return _row(shard.to_bytes(), part, scores.computed_steps if scores else 0, None)

    def _engine(self) -> Engine:
        """Opened by the first shard: what fails in a constructor, Ray tries again for ever."""
        if self._opened is None:
            engine = self._open_engine()
            if engine.model != self._writer.model:
                engine.close()
                raise EngineError(
                    f"{engine.model.name} version {engine.model.version} has the digest "
                    f"{engine.model.digest[:12]}… on a node of the cluster, and "
                    f"{self._writer.model.digest[:12]}… where the job was begun"
                )
            self._opened = engine
        return self._opened

    def _is_stopped(self) -> bool:
        import ray

        try:
            ray.get_actor(self._flag)
        except ValueError:
            return False
        return True


def _next(blocks: Iterator[Block], planned: Planned) -> Block:
    block = next(blocks, None)
    if block is None or (block.begin, block.end) != (planned.begin, planned.end):
        raise JobError(
            f"shard {planned.index} is not where the input had it when the job began: the input "
            "changed, or is another one on a node of the cluster"
        )
    return block


def _is_for_people(error: Exception) -> bool:
    from seqserve_data import DataError

    return isinstance(error, (JobError, DataError))


def _row(
    record: bytes | None, part: bytes, computed_steps: int | None, error: str | None
) -> pa.Table:
    values = {"record": record, "part": part, "computed_steps": computed_steps, "error": error}
    return pa.table({name: [value] for name, value in values.items()}, schema=_DONE)
