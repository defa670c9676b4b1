"""The figures that scheduler and jobs are judged by: what each has to be, and what it was."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks import harness
from benchmarks.harness import Spread


@dataclass(frozen=True)
class Target:
    """What a figure has to be."""

    what: str
    """For the table."""
    floor: float
    """Not to be missed."""
    aim: float
    """What we are after; below the floor where less is better."""

    @property
    def less_is_better(self) -> bool:
        """Whether the figure is one of a cost."""
        return self.aim < self.floor

    def verdict(self, figure: float) -> str:
        """How `figure` compares."""
        sign = -1 if self.less_is_better else 1
        if math.isnan(figure):
            return "not measured"
        if sign * figure >= sign * self.aim:
            return "aim met"
        return "floor met" if sign * figure >= sign * self.floor else "MISSED"


TARGETS = {
    "oracle": Target(
        "server over gRPC ÷ in-process sorted oracle, 32 a request, long-tailed", 0.85, 0.95
    ),
    "padded": Target("continuous ÷ padded FIFO, saturated throughput, long-tailed", 2.5, 3.5),
    "constant": Target("continuous ÷ padded FIFO, constant lengths", 0.95, 1.0),
    "single": Target(
        "one sequence a call, 64 plain callers ÷ 1 / (1/echo + 1/oracle), long-tailed", 0.65, 0.85
    ),
    "single-vowels": Target("the same, vowels-like", 0.65, 0.85),
    "p99-padded": Target(
        "p99 continuous ÷ padded at 0.9 of padded's saturation, long-tailed", 0.30, 0.15
    ),
    "p99-bucketed": Target(
        "p99 continuous ÷ length-bucketed at 0.7 of its saturation, long-tailed", 0.80, 0.60
    ),
    "flops": Target(
        "useful FLOP/s ÷ packed-GEMM peak of the core, 256 × 1, long-tailed", 0.55, 0.70
    ),
    "around": Target("time outside run in a lane at saturation, long-tailed", 0.10, 0.05),
    "coalesced-threads": Target(
        "coalesced ÷ plain single-sequence calls, 64 threads of one process", 5.0, 10.0
    ),
    "coalesced-tasks": Target(
        "coalesced ÷ plain single-sequence calls, 64 tasks of one process", 5.0, 10.0
    ),
    "lanes": Target("two lanes ÷ one lane, 64 × 2, caller on the same two cores", 1.7, 1.9),
    "lanes-wide": Target("two lanes ÷ one lane, 256 × 1, caller on the same two cores", 1.7, 1.9),
    "bulk": Target("interactive p99 with bulk saturating the rest ÷ without", 1.5, 1.2),
    "simulated-throughput": Target(
        "simulated throughput ÷ measured, or the reverse if greater", 1.2, 1.1
    ),
    "simulated-p99": Target(
        "simulated p99 ÷ measured, or the reverse if greater, by rate", 1.2, 1.1
    ),
    "job-oracle": Target(
        "job file to file ÷ in-process sorted oracle, one core, resampled vowels", 0.90, 0.95
    ),
    "job-oracle-tail": Target("the same, long-tailed", 0.90, 0.95),
    "job-oracle-cores": Target(
        "job of two lanes ÷ sorted oracle in two threads, both cores, long-tailed", 0.90, 0.95
    ),
    "job-padded": Target(
        "job file to file ÷ loop of 64, padded as they come, resampled vowels", 2.5, 3.5
    ),
    "job-padded-tail": Target("the same, long-tailed", 2.5, 3.5),
    "job-single": Target("job file to file ÷ loop of single sequences, resampled vowels", 4.0, 6.0),
    "job-single-tail": Target("the same, long-tailed", 4.0, 6.0),
    "job-service": Target(
        "job by a service on one core, job on the other ÷ embedded on one, long-tailed", 0.80, 0.95
    ),
    "job-ray": Target("job by one Ray worker ÷ embedded, long-tailed", 0.70, 0.85),
    "job-ray-workers": Target("job by two Ray workers ÷ one, long-tailed", 1.7, 1.9),
}
"""By key, in the order of the table."""


@dataclass(frozen=True)
class Figure:
    """What a figure was."""

    key: str
    """Of TARGETS."""
    measured: Spread | None
    """None where it could not be measured; `note` says why."""
    note: str = ""
    """What one has to know about it."""

    def document(self) -> dict[str, Any]:
        """For the results, with what it has to be and whether it is."""
        return {
            "key": self.key,
            **asdict(TARGETS[self.key]),
            "measured": self.measured,
            "verdict": self.verdict,
            "note": self.note,
        }

    @property
    def verdict(self) -> str:
        """How it compares with its target."""
        median = math.nan if self.measured is None else self.measured.median
        return TARGETS[self.key].verdict(median)


def show(figures: Iterable[Figure]) -> None:
    """Prints the table."""
    harness.show(
        "The scheduler's figures",
        ("figure", "floor", "aim", "measured", "", "note"),
        [
            (
                TARGETS[figure.key].what,
                TARGETS[figure.key].floor,
                TARGETS[figure.key].aim,
                figure.measured or "–",
                figure.verdict,
                figure.note,
            )
            for figure in figures
        ],
    )
