"""Which rows run together, and how far: a function of what is ready, how urgent, and the cost.

Rows run with rows of like length. onnxruntime computes every row of a run for the run's steps, so
a row that is shorter than its company wastes the difference; a run of its own would cost the
run's fixed time. So a run takes in its neighbours by length until what they waste has reached
what another run would cost, and no further than more rows still gain something.

A row that is much longer than the chunk advances by one chunk and goes on later: long rows are
then all of one length, and whoever arrives need not wait for their ends. The chunk is as short as
there are rows to fill a run with.

Who is in a run at all is decided by due dates, not by lengths: each turn begins with the row that
is due first, whatever its length.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from seqserve_server.scheduling.cost import COMPANY_ROWS, Coefficients, CostModel

Indices = NDArray[np.int64]

RUN_LIMIT_S = 2e-3
"""A run of several rows takes no longer than this, about, or twice what it would take without rows:
it delays whoever arrives meanwhile."""
BULK_RUN_LIMIT_S = 1e-3
"""The same of bulk rows: it delays whoever goes before them."""
_LATE_SHARE = 0.02
"""Of how late the interactive row due first is, what a run may take where that is more: it delays
whoever has waited for so long already by no more than this part of it."""

ENOUGH_GAINED = 0.015
"""Rows are added to a run while its fixed costs are more than this part of it."""
_CARRY_SHARE = 0.01
"""Of a chunk's time, what saving a row's state may cost."""
_LONGER_THAN_CHUNK = 1.5
"""Rows up to so many chunks run to their end: a short rest would cost a run of its own."""
_MIN_CHUNK_STEPS = 8
_MOST_RUNS = 64
"""Of a turn: whoever comes meanwhile waits for it."""


class Run(NamedTuple):
    """Rows to advance together."""

    rows: Indices
    """Which, of those that were ready."""
    steps: int
    """How far, at most: a row's own end comes first."""


def group(
    remaining: Indices,
    due: NDArray[np.float64],
    cost: CostModel,
    *,
    whole: bool,
    budget_s: float,
    max_row_steps: int,
    run_limit_s: float = RUN_LIMIT_S,
) -> list[Run]:
    """The runs of a turn.

    Args:
        remaining: (n,), steps that each ready row still has to go; n is at least 1.
        due: (n,), when each should be done; the turn begins with the least.
        cost: What runs cost.
        whole: Whether a row must run to its end at once, as bidirectional models need.
        budget_s: How long the turn may take; the first run always fits.
        max_row_steps: Rows times steps that a run may hold; one row always may.
        run_limit_s: How long a run of several rows may take, about.
    """
    order = remaining.argsort(kind="stable")
    lengths = remaining[order].tolist()
    if not whole:
        order = _cut_long(order, lengths, cost, run_limit_s)
    due = due[order]
    taken = bytearray(len(lengths)) + b"\x01"  # nobody beyond the last
    runs: list[Run] = []
    left_s = budget_s
    while len(runs) < _MOST_RUNS:
        position = int(due.argmin())
        if taken[position]:  # as all are
            break
        first, stop = _neighbours(lengths, taken, position, cost.now, max_row_steps, run_limit_s)
        steps = lengths[stop - 1]
        left_s -= cost.run_s(stop - first, steps)
        if runs and left_s < 0:
            break
        taken[first:stop] = b"\x01" * (stop - first)
        due[first:stop] = math.inf
        runs.append(Run(order[first:stop], steps))
    return runs


def run_limit_s(late_s: float, budget_s: float) -> float:
    """How long a run of several rows may take, about.

    Longer than RUN_LIMIT_S where rows have waited for long: fuller runs cost less a row, and an
    overloaded server is short of time. The long rows of a wide model need it most: they go by a
    chunk a turn, and turns are full.

    Args:
        late_s: For how long the interactive row due first has been due; less than 0 where it is
            not yet, or where there is none.
        budget_s: How long the turn may take.
    """
    return max(RUN_LIMIT_S, min(_LATE_SHARE * late_s, budget_s / 2))


def _cut_long(order: Indices, lengths: list[int], cost: CostModel, run_limit_s: float) -> Indices:
    """Makes rows that are much longer than the chunk as long as it.

    Args:
        order: The rows by length.
        lengths: Theirs, ascending; changed in place, and ascending again.
        cost: What runs cost.
        run_limit_s: As `group`.

    Returns:
        The rows by what are now their lengths.
    """
    chunk = _chunk_steps(lengths, cost, run_limit_s)
    longer = bisect_right(lengths, _LONGER_THAN_CHUNK * chunk)
    if longer == len(lengths):
        return order
    place = bisect_right(lengths, chunk)
    lengths[place:] = [chunk] * (len(lengths) - longer) + lengths[place:longer]
    return np.concatenate([order[:place], order[longer:], order[place:longer]])


def _chunk_steps(lengths: Sequence[int], cost: CostModel, run_limit_s: float) -> int:
    now = cost.now
    # A few rows together must be able to advance within the limit of a run.
    longest = max(_MIN_CHUNK_STEPS, int((run_limit_s - now.run) / (now.step + 2 * now.row_step)))
    chunk = max(_MIN_CHUNK_STEPS, int(now.carry / (_CARRY_SHARE * now.row_step)))
    while chunk < longest:
        longer = len(lengths) - bisect_right(lengths, _LONGER_THAN_CHUNK * chunk)
        if not longer or cost.run_s(longer, chunk) >= run_limit_s / 2:
            return chunk
        chunk *= 2
    return longest


def _neighbours(
    lengths: Sequence[int],
    taken: bytearray,
    position: int,
    now: Coefficients,
    max_row_steps: int,
    run_limit_s: float,
) -> tuple[int, int]:
    """The rows, by length, to run with the one at `position`: the first, and the end of them.

    First upwards, as long as those already in it waste no more than half of what may be wasted,
    then downwards.

    Args:
        lengths: Of all rows, ascending.
        taken: Which of them are in a run already; beyond the last as if one were.
        position: One that is not.
        now: What runs cost.
        max_row_steps: Rows times steps that a run may hold.
        run_limit_s: As `group`.
    """
    steps = lengths[position]
    may_waste = (now.run + now.step * steps) / now.row_step  # row-steps that another run costs
    lowest, end = taken.rfind(1, 0, position) + 1, taken.find(1, position)
    first, stop = position, position + 1
    wasted = 0
    while stop < end:  # rows of one length at a time
        longer, rows = lengths[stop], stop - first
        most = _most_rows(longer, now, max_row_steps, run_limit_s)
        more = wasted + (longer - steps) * rows
        if rows >= most or more > may_waste / 2:
            break
        steps, wasted = longer, more
        stop = min(bisect_right(lengths, longer, stop, end), first + most)
    most = _most_rows(steps, now, max_row_steps, run_limit_s)
    while first > lowest and stop - first < most:
        each = steps - lengths[first - 1]
        if wasted + each > may_waste:
            break
        fitting = int((may_waste - wasted) / each) if each else first
        shortest = bisect_left(lengths, lengths[first - 1], lowest, first)
        rows = first - max(shortest, first - fitting, stop - most)
        wasted += rows * each
        first -= rows
    return first, stop


def company(cost: CostModel, steps: int) -> int:
    """Rows that a run may be counted on to have, under load, for rows of so many steps."""
    return min(COMPANY_ROWS, _most_rows(steps, cost.now, COMPANY_ROWS * steps, RUN_LIMIT_S))


def _most_rows(steps: int, now: Coefficients, max_row_steps: int, run_limit_s: float) -> int:
    """Rows of so many steps beyond which more of them gain nothing, or take too long."""
    fixed_s = now.run + now.step * steps
    row_s = now.row + now.row_step * steps
    # What the rows may take together: until more gain nothing, and within the limit; but as much as
    # what they share, or none would share it.
    rows_s = min(fixed_s / ENOUGH_GAINED, max(run_limit_s - fixed_s, fixed_s))
    return max(1, int(min(rows_s / row_s, max_row_steps / steps)))
