"""What the lanes did: counters since the start, and the line that `--stats` prints of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from operator import mul

import numpy as np
from numpy.typing import NDArray

from seqserve_server.observability.histogram import POWERS_OF_TWO, Histogram
from seqserve_server.scheduling.pool import Batch
from seqserve_server.scheduling.work import ServiceClass

_powers_of_two = partial(Histogram, POWERS_OF_TWO)


@dataclass
class Stats:
    """Sums over all lanes, of one model or of all."""

    requests: int = 0
    """Tickets answered."""
    sequences: int = 0
    """Rows answered."""
    steps: int = 0
    """Steps asked for, of the runs that were run."""
    computed_steps: int = 0
    """Rows × steps computed, padding included."""
    turns: int = 0
    around_s: float = 0.0
    """Between runs, with something to run: choosing, gathering, settling, telling."""
    given_way_s: float = 0.0
    """At borders, while other threads of this process had the core or the interpreter."""
    idle_s: float = 0.0
    """With nothing to run."""
    waits: Histogram = field(default_factory=Histogram)
    """Seconds from a row's arrival to its first turn; of bulk rows only those that waited for so
    long that they counted as interactive."""
    bulk_waits: Histogram = field(default_factory=Histogram)
    """Of the other bulk rows."""
    run_times: Histogram = field(default_factory=Histogram)
    """Seconds of a run."""
    rows_a_run: Histogram = field(default_factory=_powers_of_two)
    steps_a_run: Histogram = field(default_factory=_powers_of_two)

    def ran(self, batches: Sequence[Batch], useful_steps: int, run_s: Sequence[float]) -> None:
        """Notes a turn: its batches that were run, the steps asked for, each one's seconds."""
        rows = [stop - first for first, stop, _ in batches]
        steps = [batch.steps for batch in batches]
        self.turns += 1
        self.steps += useful_steps
        self.computed_steps += sum(map(mul, rows, steps))
        self.run_times.observe_all(run_s)
        self.rows_a_run.observe_all(rows)
        self.steps_a_run.observe_all(steps)

    def answered(self, sequences: list[int]) -> None:
        """Notes the rows of tickets that were answered."""
        self.requests += len(sequences)
        self.sequences += sum(sequences)

    def waited(
        self,
        seconds: NDArray[np.float64],
        service_class: ServiceClass = ServiceClass.INTERACTIVE,
    ) -> None:
        """Notes how long rows waited for their first run, in a turn of this class."""
        bulk = service_class is ServiceClass.BULK
        (self.bulk_waits if bulk else self.waits).observe_all(seconds.tolist())

    def copy(self) -> Stats:
        """As they are now."""
        return self + Stats()

    def __add__(self, other: Stats) -> Stats:
        """Both together."""
        return Stats(*(getattr(self, each.name) + getattr(other, each.name) for each in _FIELDS))

    def since(self, before: Stats) -> Stats:
        """What was added after `before`."""
        return Stats(*(getattr(self, each.name) - getattr(before, each.name) for each in _FIELDS))

    @property
    def runs(self) -> int:
        """How many there were."""
        return self.run_times.count

    @property
    def run_rows(self) -> int:
        """Rows, summed over runs."""
        return int(self.rows_a_run.total)

    @property
    def run_steps(self) -> int:
        """Steps, summed over runs."""
        return int(self.steps_a_run.total)

    @property
    def run_s(self) -> float:
        """Seconds in the graph."""
        return self.run_times.total

    @property
    def useful_fraction(self) -> float:
        """Steps asked for ÷ rows × steps computed; 1 where nothing was."""
        return self.steps / self.computed_steps if self.computed_steps else 1.0

    def wait_s(self, quantile: float) -> float:
        """A quantile of the queue wait, to about 6 %; 0 where nobody waited."""
        return (self.waits + self.bulk_waits).quantile(quantile)

    def line(self, seconds: float) -> str:
        """For a log: `stats: seconds=10.0 requests=…`.

        Args:
            seconds: What the counters span.
        """
        runs = max(self.runs, 1)
        numbers = {
            "seconds": f"{seconds:.1f}",
            "requests": self.requests,
            "sequences": self.sequences,
            "steps": self.steps,
            "computed_steps": self.computed_steps,
            "useful_fraction": f"{self.useful_fraction:.3f}",
            "runs": self.runs,
            "rows_per_run": f"{self.run_rows / runs:.1f}",
            "steps_per_run": f"{self.run_steps / runs:.1f}",
            "runs_per_turn": f"{self.runs / max(self.turns, 1):.1f}",
            "queue_wait_p50_ms": f"{1e3 * self.wait_s(0.5):.2f}",
            "queue_wait_p99_ms": f"{1e3 * self.wait_s(0.99):.2f}",
            "run_s": f"{self.run_s:.3f}",
            "around_s": f"{self.around_s:.3f}",
            "given_way_s": f"{self.given_way_s:.3f}",
            "idle_s": f"{self.idle_s:.3f}",
        }
        return "stats: " + " ".join(f"{name}={number}" for name, number in numbers.items())


_FIELDS = fields(Stats)
