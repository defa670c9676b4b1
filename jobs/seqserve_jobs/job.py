"""A job on one output, whoever computes: what is to be done, what is done, when it is over.

`pipeline.run` has an engine in this process do what is to be done, `engines.ray_data` a cluster.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from seqserve_data.stream import Input
from seqserve_data.stream.block import Block, Position, Wanted
from seqserve_jobs.engines.engine import Engine, Model
from seqserve_jobs.errors import BadSequence, InvalidJob, JobChanged, JobError, JobStopped
from seqserve_jobs.identity import Identity
from seqserve_jobs.input_files import Sizes, difference, marks, sizes
from seqserve_jobs.input_places import refuse_own_input
from seqserve_jobs.joining import finish
from seqserve_jobs.ledger import Ledger, check_output, leave
from seqserve_jobs.on_error import OnError
from seqserve_jobs.options import JobOptions
from seqserve_jobs.output import Output
from seqserve_jobs.progress import Progress
from seqserve_jobs.shards import Shard, ShardWriter, Totals
from seqserve_jobs.storage.files import Mark
from seqserve_jobs.summary import Summary

__all__ = ["Job", "JobOptions", "OnError", "Summary", "score_files"]


def score_files(
    options: JobOptions,
    engine: Engine,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> Summary:
    """Scores files, or goes on where an earlier run ended.

    Args:
        options: What to read and to write.
        engine: Answers.
        progress: Is told how it gets on.
        stop: Once it is set, shards under way are ended and no more are begun.

    Raises:
        JobStopped: as it was asked to.
        JobError: see `seqserve_jobs.errors`; what is done is done, and the same call goes on.
        DataError: the input cannot be read; likewise.
    """
    from seqserve_jobs.pipeline import run

    with Job(options, engine.model, progress, stop) as job:
        return run(job, engine)


class Job:
    """A job on one output. A context manager, which keeps all others from that output.

    Args:
        options: What to read and to write.
        model: Who answers.
        progress: Is told how it gets on.
        stop: Once it is set, whoever computes should end.
    """

    input: Input
    """What is read."""
    writer: ShardWriter
    """Makes shards of blocks and answers."""

    def __init__(
        self,
        options: JobOptions,
        model: Model,
        progress: Progress | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        self.options = options
        self.model = model
        self.stop = stop or threading.Event()
        self._progress = progress
        self._lock = ExitStack()
        self._ledger: Ledger
        self._began_s = 0.0
        self._marks: list[Mark | None] = []  # of the input's files, as this run opened them
        self._before: frozenset[int] = frozenset()  # shards that earlier runs did
        self._rows_done: int | None = 0
        self._computed_steps: int | None = 0

    def __enter__(self) -> Self:
        """Opens input and output.

        Raises:
            JobError: another job writes there, or wrote there; or what was asked cannot be.
            DataError: the input cannot be read.
        """
        self._began_s = time.perf_counter()
        options, model = self.options, self.model
        check_options(options, model)
        output = Output.at(options.output, options.storage_options)
        self.input = open_input(options, model)
        refuse_own_input(self.input.files, output, options)
        self._marks = self._marks_now()
        self.writer = ShardWriter(output, model, options)
        with ExitStack() as lock:
            lock.callback(leave, output)
            lock.enter_context(output.files.lock(output.lock))
            check_output(output)
            files = self._sizes()
            if self._progress is not None:
                self._progress.on_reading(sum(size or 0 for size in files.values()))
            identity = Identity.of(options, model, self.input, files)
            self._ledger = Ledger.open(output, identity, restart=options.restart)
            self._begin()
            self._lock = lock.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Lets others at the output."""
        self._lock.close()

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self._ledger.totals is not None

    @property
    def done(self) -> Mapping[int, Shard]:
        """Shards done, by their index."""
        return self._ledger.done

    @property
    def first_undone(self) -> tuple[int, Position]:
        """The first shard that is not done, and where it begins."""
        index = self._ledger.first_undone
        return index, self.done[index - 1].end if index else Position()

    def check(self, index: int, block: Block) -> None:
        """Looks at a block before it is answered.

        Raises:
            BadSequence: there is one in it, and the job is to fail for it.
            JobError: it is not where an earlier run found it.
        """
        self.check_place(index, block.begin, block.end)
        check_faults(block, self.options.on_error)

    def check_place(self, index: int, begin: Position, end: Position) -> None:
        """Looks at a shard's borders.

        Raises:
            JobError: they are not where an earlier run found them.
        """
        before = self.done.get(index)
        if before is not None and (before.begin, before.end) != (begin, end):
            raise JobError(
                f"{self.options.output}: shard {index} does not end where an earlier run found its "
                "end; restart the job (--restart)"
            )

    def add(self, shard: Shard, computed_steps: int | None) -> None:
        """Counts a shard that the writer has written.

        Args:
            shard: Its record.
            computed_steps: What was computed for it, padding included; None where nobody counts.
        """
        self._ledger.done[shard.index] = shard
        known = self._computed_steps is not None and computed_steps is not None
        self._computed_steps = (
            (self._computed_steps or 0) + (computed_steps or 0) if known else None
        )
        self._tell(shard, computed_steps)

    def finish(self) -> Summary:
        """Makes one file of the parts, where one is wanted; every shard is done.

        Raises:
            OutputError: it cannot be written, or a part is not what was written.
            JobChanged: the input changed while it was read.
        """
        if not self.finished:
            before, now = self._ledger.identity.files, self._sizes()
            if before != now or self._is_other_content():
                raise JobChanged(
                    f"{self.options.output}: the input changed while it was read: "
                    f"{difference(before, now)}; restart the job (--restart)"
                )
            if not self.done:  # a file of no rows has columns too
                self.add(self.writer.write(0, self.input.nothing(), None), 0)
            finish(self._ledger)
        self._ledger.tidy()
        summary = self.summary()
        if self._progress is not None:
            self._progress.on_end(summary)
        return summary

    def stopped(self) -> JobStopped:
        """The error for a job that was asked to stop, and has."""
        summary = self.summary()
        without = " without --restart" if self.options.restart else ""
        return JobStopped(
            f"stopped after {summary.sequences} sequences; "
            f"the same command{without} goes on from there",
            summary,
        )

    def summary(self) -> Summary:
        """What is done so far."""
        output, model = self.writer.output, self.model
        totals = self._ledger.totals or Totals.of(self.done.values())
        now = [shard for index, shard in self.done.items() if index not in self._before]
        steps_now = sum(shard.steps for shard in now)
        seconds = time.perf_counter() - self._began_s
        return Summary(
            model=model.name,
            version=model.version,
            digest=model.digest,
            output=output.url,
            files=(
                (output.url,)
                if output.is_file and self.finished
                else tuple(output.shown(output.part(index)) for index in sorted(self.done))
            ),
            sequences=totals.sequences,
            scored=totals.sequences - sum(totals.refused.values()),
            refused=totals.refused,
            steps=totals.steps,
            shards=totals.shards,
            shards_done_before=totals.shards - len(now),
            finished=self.finished,
            seconds=seconds,
            sequences_per_s=sum(shard.sequences for shard in now) / seconds,
            useful_step_fraction=steps_now / self._computed_steps if self._computed_steps else None,
        )

    def _sizes(self) -> Sizes:
        return sizes(self.input.files, self.options.storage_options)

    def _marks_now(self) -> list[Mark | None]:
        return marks(self.input.files, self.options.storage_options)

    def _is_other_content(self) -> bool:
        """Reads the input anew only where its files were written anew."""
        if self._marks_now() == self._marks:
            return False
        return self.input.fingerprint() != self._ledger.identity.fingerprint

    def _begin(self) -> None:
        """Tells what earlier runs have done."""
        self._before = frozenset(self.done)
        if self._progress is not None:
            self._progress.on_start(self.model, self.input.describe(), self.input.rows)
        totals = self._ledger.totals or Totals.of(self.done.values())
        if totals.refused and self.options.on_error is OnError.FAIL:
            raise BadSequence(
                f"{self.options.output}: an earlier run met bad sequences, and recorded or skipped "
                "them; restart the job (--restart) to have it fail for them"
            )
        for shard in self.done.values():
            self._tell(shard, None)

    def _tell(self, shard: Shard, computed_steps: int | None) -> None:
        begin, end = self.input.rows_before(shard.begin), self.input.rows_before(shard.end)
        known = begin is not None and end is not None and self._rows_done is not None
        self._rows_done = (self._rows_done or 0) + (end or 0) - (begin or 0) if known else None
        if self._progress is not None:
            self._progress.on_shard(
                sequences=shard.sequences,
                refused=sum(shard.refused.values()),
                rows_done=self._rows_done,
                steps=shard.steps,
                computed_steps=computed_steps,
                skipped=shard.index in self._before,
            )


def check_options(options: JobOptions, model: Model) -> None:
    """Refuses what the model does not have.

    Raises:
        InvalidJob: it is asked for.
    """
    if options.top_k > len(model.labels):
        raise InvalidJob(
            f"--top-k is {options.top_k}; {model.name} has {len(model.labels)} classes"
        )


def check_faults(block: Block, on_error: OnError) -> None:
    """Looks for bad sequences, before the good ones are answered.

    Raises:
        BadSequence: there is one, and the job is to fail for it.
    """
    if block.faults and on_error is OnError.FAIL:
        first = min(block.faults)
        raise BadSequence(
            f"sequence {block.ids[first].as_py()!r}: {block.faults[first]}; correct it and "
            "begin anew (--restart), or have such sequences recorded or skipped (--on-error)"
        )


def wanted_by(model: Model) -> Wanted:
    """What it takes."""
    return Wanted(model.features, model.feature_names, model.max_steps, model.admits_non_finite)


def open_input(options: JobOptions, model: Model) -> Input:
    """What is read of a job's input, by whoever reads it."""
    return Input.open(
        options.input,
        options.columns,
        wanted=wanted_by(model),
        keep=options.keep,
        storage_options=options.storage_options,
    )
