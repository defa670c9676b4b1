"""What a job shows while it runs: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as RichProgress

if TYPE_CHECKING:
    from seqserve_jobs.engines.engine import Model
    from seqserve_jobs.summary import Summary

_LONG_READ = 2 << 30
"""Bytes that take some seconds."""


class Progress(Protocol):
    """Is told how a job gets on, by one thread at a time."""

    def on_reading(self, size: int) -> None:
        """The whole input is read, before anything is scored: it is to be known again.

        Args:
            size: In bytes.
        """
        ...

    def on_start(self, model: Model, source: str, rows: int | None) -> None:
        """The job begins, or goes on.

        Args:
            model: Who answers.
            source: What is read, in a line for people.
            rows: Records of the input in all; None where its form does not say.
        """
        ...

    def on_shard(
        self,
        *,
        sequences: int,
        refused: int,
        rows_done: int | None,
        steps: int,
        computed_steps: int | None,
        skipped: bool,
    ) -> None:
        """A shard is done.

        Args:
            sequences: In it, refused ones included.
            refused: Those without an answer.
            rows_done: Records of the input up to its end; None where nobody counts them.
            steps: Of the sequences that were answered.
            computed_steps: Rows by steps computed for them; None where the engine cannot say.
            skipped: Whether an earlier run had done it.
        """
        ...

    def on_end(self, summary: Summary) -> None:
        """Every shard is done, and the output is whole."""
        ...


class Display(Protocol):
    """Shows a tally as it grows."""

    def say(self, line: str) -> None:
        """What the job does now."""
        ...

    def show(self, tally: Tally) -> None:
        """The tally has grown."""
        ...


class Nothing:
    """Shows nothing."""

    def say(self, line: str) -> None:
        """Shows nothing."""

    def show(self, tally: Tally) -> None:
        """Shows nothing."""


class Tally:
    """Keeps count of what it is told as a job's `Progress`, and has it shown.

    Args:
        display: Shows it.
        clock: Tells the time, in seconds.
    """

    def __init__(
        self, display: Display | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.rows: int | None = None
        """Records of the input in all; None where nobody knows."""
        self.rows_done: int | None = 0
        """Those of the shards done; None where nobody counts them."""
        self.sequences = 0
        """In the shards done."""
        self.refused = 0
        """Those without an answer."""
        self.now = clock()
        """When it was last told anything."""
        self._display = display or Nothing()
        self._clock = clock
        self._began = self.now
        self._done_before = 0  # sequences
        self._rows_before = 0
        self._steps = 0
        self._computed_steps = 0

    def on_reading(self, size: int) -> None:
        """Says so where it takes a while."""
        if size >= _LONG_READ:
            self._display.say(
                f"reading all {size / 2**30:,.1f} GiB of the input once, to know it again"
            )

    def on_start(self, model: Model, source: str, rows: int | None) -> None:
        """Shows what is scored by whom."""
        self.rows = rows
        self.now = self._began = self._clock()
        self._display.say(f"{model.name} version {model.version} scores {source}")

    def on_shard(
        self,
        *,
        sequences: int,
        refused: int,
        rows_done: int | None,
        steps: int,
        computed_steps: int | None,
        skipped: bool,
    ) -> None:
        """Counts it, and shows how far the job is."""
        self.sequences += sequences
        self.refused += refused
        if skipped:  # no time was spent on it now
            self._done_before += sequences
            self._rows_before += (rows_done or 0) - (self.rows_done or 0)
        elif computed_steps is not None:
            self._steps += steps
            self._computed_steps += computed_steps
        self.rows_done = rows_done
        self.now = self._clock()
        self._display.show(self)

    def on_end(self, summary: Summary) -> None:
        """Leaves the last word to the summary."""

    @property
    def seconds(self) -> float:
        """Since the job began."""
        return self.now - self._began

    @property
    def sequences_per_s(self) -> float | None:
        """Of this run alone; None before its first shard is done."""
        done = self.sequences - self._done_before
        return done / self.seconds if done and self.seconds else None

    @property
    def seconds_left(self) -> float | None:
        """What the rest takes at the pace so far; None where nothing tells."""
        if self.rows is None or self.rows_done is None:
            return None
        done = self.rows_done - self._rows_before
        return (self.rows - self.rows_done) * self.seconds / done if done > 0 else None

    @property
    def useful_step_fraction(self) -> float | None:
        """Steps asked for ÷ rows × steps computed; None where the engine does not say."""
        return self._steps / self._computed_steps if self._computed_steps else None

    def figures(self) -> str:
        """All that is known, in a line."""
        known = []
        if self.rows and self.rows_done is not None:
            known.append(f"{self.rows_done:,} of {self.rows:,} rows")
        known.append(f"{self.sequences:,} sequences")
        if self.sequences_per_s is not None:
            known.append(f"{self.sequences_per_s:,.0f}/s")
        if self.seconds_left is not None:
            known.append(f"{timedelta(seconds=round(self.seconds_left))} left")
        known.append(f"{self.refused:,} refused")
        if self.useful_step_fraction is not None:
            known.append(f"{self.useful_step_fraction:.0%} useful steps")
        return ", ".join(known)


class Lines:
    """A line now and then, for logs.

    Args:
        write: Takes a line.
        interval_s: Seconds between two lines, at least.
    """

    def __init__(self, write: Callable[[str], None], interval_s: float) -> None:
        self._write = write
        self._interval_s = interval_s
        self._last: float | None = None

    def say(self, line: str) -> None:
        """Writes it, whenever the last line was."""
        self._write(line)

    def show(self, tally: Tally) -> None:
        """Writes the figures, where the last ones are old enough."""
        if tally.seconds - (self._last or 0.0) < self._interval_s:
            return
        self._last = tally.seconds
        self._write(tally.figures())


class Bar:
    """A bar that grows, with the figures beside it.

    Args:
        console: Where it is drawn.
    """

    def __init__(self, console: Console) -> None:
        self.drawn = RichProgress(
            TextColumn("{task.percentage:>3.0f}%"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[figures]}"),
            console=console,
        )
        """In a context of its own it is drawn, and redrawn."""
        self._task = self.drawn.add_task("", total=None, figures="")

    def say(self, line: str) -> None:
        """Prints it above the bar."""
        self.drawn.console.print(line, markup=False, highlight=False)

    def show(self, tally: Tally) -> None:
        """Draws what is done of all, and the figures."""
        self.drawn.update(
            self._task, total=tally.rows, completed=tally.rows_done or 0, figures=tally.figures()
        )
