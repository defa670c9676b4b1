"""Which rows of a set that is known beforehand run together: a function of lengths and costs.

Nobody is due before another and nobody else comes, so a run may take as long as it likes, and every
row runs to its end at once. What is left to choose is the company: rows of like length, as in
`policy`; as many as share what a run costs, and no more than what they compute with stays in a
core's caches, beyond which every row costs more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from seqserve_server.models.runner import Runner
from seqserve_server.scheduling.policy import ENOUGH_GAINED, Indices
from seqserve_server.scheduling.pool import Batch

_KERNEL_ROWS = 8
"""Matrix products take rows by so many at a time, or divisors of it: fewer cost as much."""
_TURN_RUNS = 16
"""What is done around a run costs several times as much where the run before has taken the caches:
so it is done for so many together."""

Turn = Sequence[Batch]
"""Runs that a lane prepares together, and makes one after the other."""


class Plan(NamedTuple):
    """Who runs with whom."""

    order: Indices
    """(n,), the rows, the longest first."""
    batches: list[Batch]
    """Parts of that order, each a run."""

    @property
    def computed_steps(self) -> int:
        """Rows × steps, padding included."""
        return sum(map(_row_steps, self.batches))

    def turns(self, max_row_steps: int) -> list[Turn]:
        """The runs in their order, cut into turns.

        Args:
            max_row_steps: Rows times steps that a turn may hold; one run always may.
        """
        turns: list[list[Batch]] = []
        held = 0
        for batch in self.batches:
            held += _row_steps(batch)
            if not turns or len(turns[-1]) == _TURN_RUNS or held > max_row_steps:
                turns.append([])
                held = _row_steps(batch)
            turns[-1].append(batch)
        return list(turns)


def plan(lengths: NDArray[np.int64], runner: Runner) -> Plan:
    """The runs of a set, the longest rows first: lanes that share it come to its end together.

    Args:
        lengths: (n,), steps of each row.
        runner: Knows what runs cost, and how large they may be.
    """
    order = lengths.argsort(kind="stable")[::-1]
    descending = lengths[order]
    batches: list[Batch] = []
    first = 0
    while first < len(order):
        steps = int(descending[first])
        company = descending[first : first + _most_rows(steps, runner)]
        now = runner.cost.now
        # Of what is left, the run takes what wastes no more than another run would cost.
        may_waste = (now.run + now.step * steps) / now.row_step
        rows = int(np.cumsum(steps - company).searchsorted(may_waste, "right"))
        if rows > _KERNEL_ROWS and first + rows < len(order):
            rows -= rows % _KERNEL_ROWS
        batches.append(Batch(first, first + rows, steps))
        first += rows
    return Plan(order, batches)


def _row_steps(batch: Batch) -> int:
    return (batch.stop - batch.first) * batch.steps


def _most_rows(steps: int, runner: Runner) -> int:
    now = runner.cost.now
    cached = runner.cached_row_steps / steps
    # A wide model reads its weights anew for every step: rows enough to share that come first.
    sharing = now.step / (ENOUGH_GAINED * now.row_step)
    return max(1, int(min(max(cached, sharing), runner.max_row_steps / steps)))
