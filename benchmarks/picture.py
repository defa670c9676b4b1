"""Draws what lanes compute for the same sequences: padded in order of arrival, and by the pool.

Every bar is a row of a batch, as long as the batch's steps: the blue part was asked for, the rest
is padding; the area is the work. Writes docs/scheduler.svg.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks.workloads import LONG_TAILED
from seqserve_server.scheduling.cost import CostModel
from seqserve_server.scheduling.pool import Pool
from seqserve_server.scheduling.ticket import Ticket

PICTURE = Path(__file__).parent.parent / "docs" / "scheduler.svg"
SEQUENCES = 256
PADDED_ROWS = 64
GAP = 6
"""Between batches, in steps."""
USEFUL, PADDING = "#2f81f7", "#db61a2"
GREY = "#848d97"
"""Readable on white and on black."""

Batch = tuple[NDArray[np.int64], int]
"""Steps that each row was asked for, and those computed for each."""


def main() -> None:
    """Draws both and writes the picture."""
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "seqserve", "font.size": 11})
    lengths = LONG_TAILED.sequences(SEQUENCES).lengths
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    axes = figure.subplots(2, 1, sharex=True, sharey=True)
    for axis, (title, batches) in zip(
        axes,
        {
            f"Padded: {PADDED_ROWS} rows in order of arrival": padded(lengths),
            "By the pool: rows of like length, long ones by chunks": pooled(lengths),
        }.items(),
        strict=True,
    ):
        draw(axis, batches)
        computed = sum(len(rows) * steps for rows, steps in batches)
        useful = lengths.sum() / computed
        axis.set_title(f"{title}: {useful:.0%} of the steps are useful", loc="left", color=GREY)
        axis.set_ylabel("rows", color=GREY)
        axis.tick_params(colors=GREY)
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_color(GREY)
    axes[-1].set_xlabel("steps, one batch after the other", color=GREY)
    figure.savefig(PICTURE, transparent=True, metadata={"Date": None})


def padded(lengths: NDArray[np.int64]) -> list[Batch]:
    """Batches in order, each as long as its longest row."""
    parts = np.split(lengths, range(PADDED_ROWS, len(lengths), PADDED_ROWS))
    return [(part, int(part.max())) for part in parts]


def pooled(lengths: NDArray[np.int64]) -> list[Batch]:
    """The batches that the pool makes of them, all waiting at once."""
    pool = Pool(
        CostModel(),
        slots=len(lengths),
        steps=int(lengths.sum()),
        whole=False,
        max_row_steps=1 << 20,
    )
    pool.add(Ticket(lengths, arrived=0.0))
    pool.admit(0.0)
    batches: list[Batch] = []
    while turn := pool.turn(0.0):
        batches += [(turn.advance[b.first : b.stop], b.steps) for b in turn.batches]
        pool.done(turn, len(turn.batches))
    return batches


def draw(axis: Axes, batches: list[Batch]) -> None:
    """Draws batches side by side, their rows as bars, the longest below."""
    left = 0
    for rows, steps in batches:
        edges = np.arange(len(rows) + 1)
        useful = left + np.sort(rows)[::-1]
        useful = np.append(useful, useful[-1])
        axis.fill_betweenx(edges, left, useful, step="post", color=USEFUL, lw=0)
        axis.fill_betweenx(edges, useful, left + steps, step="post", color=PADDING, lw=0)
        left += steps + GAP


if __name__ == "__main__":
    main()
