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
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seqserve_server.scheduling.cost import CostModel

Indices = NDArray[np.int64]

RUN_LIMIT_S = 4e-3
"""A run of several rows takes no longer than this, about: it delays whoever arrives meanwhile."""

_ENOUGH_GAINED = 0.015
"""Rows are added to a run while its fixed costs are more than this part of it."""
_CARRY_SHARE = 0.01
"""Of a chunk's time, what saving a row's state may cost."""
_LONGER_THAN_CHUNK = 1.5
"""Rows up to so many chunks run to their end: a short rest would cost a run of its own."""
_MIN_CHUNK_STEPS = 8
_MOST_RUNS = 64
"""Of a turn: whoever comes meanwhile waits for it."""


@dataclass(frozen=True, eq=False)
class Run:
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
) -> list[Run]:
    """The runs of a turn.

    Args:
        remaining: (n,), steps that each ready row still has to go; n is at least 1.
        due: (n,), when each should be done; the turn begins with the least.
        cost: What runs cost.
        whole: Whether a row must run to its end at once, as bidirectional models need.
        budget_s: How long the turn may take; the first run always fits.
        max_row_steps: Rows times steps that a run may hold; one row always may.
    """
    order = np.argsort(_short(remaining), kind="stable")
    lengths = remaining[order].tolist()
    if not whole:
        order = _cut_long(order, lengths, cost)
    due = due[order]
    taken = bytearray(len(lengths))
    runs: list[Run] = []
    left_s = budget_s
    while len(runs) < _MOST_RUNS:
        position = int(due.argmin())
        if taken[position]:  # as all are
            break
        first, last = _neighbours(lengths, taken, position, cost, max_row_steps)
        steps = lengths[last]
        left_s -= cost.run_s(last + 1 - first, steps)
        if runs and left_s < 0:
            break
        taken[first : last + 1] = b"\x01" * (last + 1 - first)
        due[first : last + 1] = math.inf
        runs.append(Run(order[first : last + 1], steps))
    return runs


def _short(numbers: Indices) -> NDArray[np.integer]:
    """The same in 16 bits where they fit: numpy then sorts in linear time."""
    return numbers.astype(np.uint16) if numbers.max() < 1 << 16 else numbers


def _cut_long(order: Indices, lengths: list[int], cost: CostModel) -> Indices:
    """Makes rows that are much longer than the chunk as long as it.

    Args:
        order: The rows by length.
        lengths: Theirs, ascending; changed in place, and ascending again.
        cost: What runs cost.

    Returns:
        The rows by what are now their lengths.
    """
    chunk = _chunk_steps(lengths, cost)
    longer = bisect_right(lengths, _LONGER_THAN_CHUNK * chunk)
    if longer == len(lengths):
        return order
    place = bisect_right(lengths, chunk)
    lengths[place:] = [chunk] * (len(lengths) - longer) + lengths[place:longer]
    return np.concatenate([order[:place], order[longer:], order[place:longer]])


def _chunk_steps(lengths: Sequence[int], cost: CostModel) -> int:
    now = cost.now
    # A few rows together must be able to advance within the limit of a run.
    longest = max(_MIN_CHUNK_STEPS, int((RUN_LIMIT_S - now.run) / (now.step + 2 * now.row_step)))
    chunk = max(_MIN_CHUNK_STEPS, int(now.carry / (_CARRY_SHARE * now.row_step)))
    while chunk < longest:
        longer = len(lengths) - bisect_right(lengths, _LONGER_THAN_CHUNK * chunk)
        if not longer or cost.run_s(longer, chunk) >= RUN_LIMIT_S / 2:
            return chunk
        chunk *= 2
    return longest


def _neighbours(
    lengths: Sequence[int], taken: bytearray, position: int, cost: CostModel, max_row_steps: int
) -> tuple[int, int]:
    """First and last of the rows, by length, to run with the one at `position`.

    First upwards, as long as those already in it waste no more than half of what may be wasted,
    then downwards.
    """
    now = cost.now
    steps = lengths[position]
    may_waste = (now.run + now.step * steps) / now.row_step  # row-steps that another run costs
    first = last = position
    wasted = 0
    while last + 1 < len(lengths) and not taken[last + 1]:
        longer, rows = lengths[last + 1], last + 1 - first
        more = wasted + (longer - lengths[last]) * rows
        if more > may_waste / 2 or rows + 1 > _most_rows(longer, cost, max_row_steps):
            break
        wasted = more
        last += 1
    steps = lengths[last]
    most = _most_rows(steps, cost, max_row_steps)
    while first > 0 and last - first + 1 < most and not taken[first - 1]:
        wasted += steps - lengths[first - 1]
        if wasted > may_waste:
            break
        first -= 1
    return first, last


def _most_rows(steps: int, cost: CostModel, max_row_steps: int) -> int:
    """Rows of so many steps beyond which more of them gain nothing, or take too long."""
    now = cost.now
    fixed_s = now.run + now.step * steps
    row_s = now.row + now.row_step * steps
    gaining = fixed_s / (_ENOUGH_GAINED * row_s)
    in_time = (RUN_LIMIT_S - fixed_s) / row_s
    fitting = min(max_row_steps, cost.most_row_steps) / steps
    return max(1, int(min(gaining, in_time, fitting)))
