"""What the lanes did: counters since the start, and the line that `--stats` prints of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np
from numpy.typing import NDArray

from seqserve_server.scheduling.pool import Batch

_WAIT_BOUNDS_S = np.geomspace(1e-5, 100.0, 141)
"""Upper bounds of the histogram's bins: 20 a decade."""


@dataclass
class Stats:
    """Sums over all lanes and models."""

    requests: int = 0
    """Tickets answered."""
    sequences: int = 0
    """Rows answered."""
    steps: int = 0
    """Steps asked for, of the runs that were run."""
    computed_steps: int = 0
    """Rows × steps computed, padding included."""
    turns: int = 0
    runs: int = 0
    run_rows: int = 0
    """Rows, summed over runs."""
    run_steps: int = 0
    """Steps, summed over runs."""
    run_s: float = 0.0
    """In the graph."""
    around_s: float = 0.0
    """Between runs, with something to run: choosing, gathering, settling, telling."""
    given_way_s: float = 0.0
    """At borders, while other threads of this process had the core or the interpreter."""
    idle_s: float = 0.0
    """With nothing to run."""
    waits: NDArray[np.int64] = field(
        default_factory=lambda: np.zeros(len(_WAIT_BOUNDS_S) + 1, np.int64)
    )
    """Histogram of the time from a row's arrival to its first turn."""

    def ran(self, batches: Sequence[Batch], useful_steps: int, run_s: float) -> None:
        """Notes a turn: its batches that were run, the steps asked for, the time in the graph."""
        self.turns += 1
        self.runs += len(batches)
        self.steps += useful_steps
        self.run_s += run_s
        for batch in batches:
            rows = batch.stop - batch.first
            self.run_rows += rows
            self.run_steps += batch.steps
            self.computed_steps += rows * batch.steps

    def answered(self, sequences: list[int]) -> None:
        """Notes the rows of tickets that were answered."""
        self.requests += len(sequences)
        self.sequences += sum(sequences)

    def waited(self, seconds: NDArray[np.float64]) -> None:
        """Notes how long rows waited for their first run."""
        self.waits += np.bincount(
            _WAIT_BOUNDS_S.searchsorted(seconds), minlength=len(_WAIT_BOUNDS_S) + 1
        )

    def copy(self) -> Stats:
        """As they are now."""
        return replace(self, waits=self.waits.copy())

    def since(self, before: Stats) -> Stats:
        """What was added after `before`."""
        return Stats(
            **{
                each.name: getattr(self, each.name) - getattr(before, each.name)
                for each in fields(self)
            }
        )

    @property
    def useful_fraction(self) -> float:
        """Steps asked for ÷ rows × steps computed; 1 where nothing was."""
        return self.steps / self.computed_steps if self.computed_steps else 1.0

    def wait_s(self, quantile: float) -> float:
        """A quantile of the queue wait, to about 6 %; 0 where nobody waited."""
        total = int(self.waits.sum())
        if not total:
            return 0.0
        place = int(np.searchsorted(np.cumsum(self.waits), quantile * total))
        return float(_WAIT_BOUNDS_S[min(place, len(_WAIT_BOUNDS_S) - 1)])

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
