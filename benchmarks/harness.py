"""What every benchmark needs: where it ran, repeats in turn, medians with their spread."""

from __future__ import annotations

import json
import os
import platform
import shlex
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

Measure = Callable[[], float]
"""Takes one measurement and returns its figure."""

RESULTS = Path(__file__).parent / "results"
DISTRIBUTIONS = ("seqserve", "torch", "onnx", "onnxruntime", "grpcio", "pygrpc-native", "protobuf")


@dataclass(frozen=True)
class Spread:
    """A figure over several repeats."""

    median: float
    low: float
    high: float
    repeats: int

    @classmethod
    def of(cls, figures: Sequence[float]) -> Spread:
        """The median, the least and the greatest of `figures`."""
        return cls(statistics.median(figures), min(figures), max(figures), len(figures))

    def __str__(self) -> str:
        return f"{_short(self.median)} ({_short(self.low)}–{_short(self.high)})"


def in_turn(measures: Mapping[str, Measure], repeats: int) -> dict[str, list[float]]:
    """Takes every measure once, then every one again: drift of the machine hits all alike."""
    figures: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(repeats):
        for name, measure in measures.items():
            figures[name].append(measure())
    return figures


def ratios(figures: Sequence[float], baseline: Sequence[float]) -> Spread:
    """Figure ÷ baseline, repeat by repeat."""
    return Spread.of([a / b for a, b in zip(figures, baseline, strict=True)])


def write(name: str, results: object) -> None:
    """Writes `results/<name>.json`: the figures, and where and how they were measured."""
    RESULTS.mkdir(exist_ok=True)
    document = {
        "command": f"python -m benchmarks.{name} {shlex.join(sys.argv[1:])}".strip(),
        "machine": machine(),
        "versions": {each: version(each) for each in DISTRIBUTIONS},
        "results": results,
    }
    text = json.dumps(document, indent=2, default=_plain)
    (RESULTS / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def machine() -> dict[str, Any]:
    """The processor, its cores and the Python that measured."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Prints a table."""
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*map(str, row))
    # A table that a pipe cuts at 80 columns is no use in a log.
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def _plain(value: object) -> object:
    if isinstance(value, Spread):
        return vars(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def _short(number: float) -> str:
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )
