"""`python -m benchmarks.plot`: throughput against p99 by policy, from results/latency.json.

It needs matplotlib, which nothing else here does.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from benchmarks.harness import RESULTS

PICTURE = Path(__file__).parents[1] / "docs" / "throughput-latency.svg"

NAMES = {
    "continuous": "continuous (seqserve)",
    "bucketed": "length-bucketed batches",
    "padded": "padded batches",
}
COLOURS = {"continuous": "#2f81f7", "bucketed": "#d29922", "padded": "#db61a2"}
GREY = "#848d97"
"""Readable on white and on black, as the colours are."""


def main() -> None:
    """Draws docs/throughput-latency.svg."""
    mpl.rcParams.update(
        {
            "svg.fonttype": "none",  # text stays text
            "svg.hashsalt": "seqserve",  # the same picture from the same figures
            "font.family": "sans-serif",
            "font.size": 11,
        }
    )
    document = json.loads((RESULTS / "latency.json").read_text(encoding="utf-8"))
    _figure(document["results"]["points"]).savefig(
        PICTURE, transparent=True, metadata={"Date": None}
    )


def _figure(points: list[dict[str, Any]]) -> Figure:
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for policy in NAMES:
        _draw(axes, policy, [point for point in points if point["policy"] == policy])
    _dress(axes)
    return figure


def _draw(axes: Axes, policy: str, points: list[dict[str, Any]]) -> None:
    taken = sorted(
        (point["rate"], point["p99_ms"]["median"])
        for point in points
        if point["p99_ms"]["median"] is not None
    )
    rates, p99 = zip(*taken, strict=True)
    axes.plot(
        rates,
        p99,
        color=COLOURS[policy],
        label=NAMES[policy],
        marker="o",
        markersize=4,
        linewidth=1.8,
    )


def _dress(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.set_xlim(left=0)
    # Where rates are low, latencies are: the corner above is free.
    axes.legend(loc="upper left", frameon=False, labelcolor="linecolor", handlelength=1.2)
    axes.set_xlabel("calls of one sequence a second, Poisson arrivals", color=GREY)
    axes.set_ylabel("p99 from the intended moment, ms", color=GREY)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:,.0f}"))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda latency, _: f"{latency:,g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(which="both", colors=GREY, length=0)
    axes.grid(visible=True, which="major", color=GREY, alpha=0.25, linewidth=0.6)
    for side in axes.spines.values():
        side.set_visible(False)


if __name__ == "__main__":
    main()
