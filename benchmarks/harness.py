"""What every benchmark needs: where it ran, repeats in turn, medians with their spread."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

_BEGAN = time.monotonic()

Measure = Callable[[], float]
"""Takes one measurement and returns its figure."""

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
DISTRIBUTIONS = (
    "seqserve",
    "torch",
    "onnx",
    "onnxruntime",
    "grpcio",
    "pygrpc-native",
    "protobuf",
    "numpy",
    "pyarrow",
)


@dataclass(frozen=True)
class Spread:
    """A figure over several repeats."""

    median: float
    low: float
    high: float
    repeats: int
    refused: int = 0
    """Repeats that gave no figure: they may have been the best, so none is taken of the others
    where they were more."""

    @classmethod
    def of(cls, figures: Sequence[float]) -> Spread:
        """The median, the least and the greatest of those `figures` that are numbers."""
        taken = [figure for figure in figures if not math.isnan(figure)]
        refused = len(figures) - len(taken)
        if refused >= len(taken):
            return cls(math.nan, math.nan, math.nan, 0, refused)
        return cls(statistics.median(taken), min(taken), max(taken), len(taken), refused)

    def __str__(self) -> str:
        if not self.repeats:
            return "–"
        refused = f"; {self.refused} refused" if self.refused else ""
        return f"{_short(self.median)} ({_short(self.low)}–{_short(self.high)}{refused})"


def quick(about: str | None) -> bool:
    """Whether the command line asks for fewer and shorter repeats."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter repeats")
    return bool(parser.parse_args().quick)


def in_turn(measures: Mapping[str, Measure], repeats: int) -> dict[str, list[float]]:
    """Takes every measure once, then every one again: drift of the machine hits all alike.

    Every second time in reverse, so that none always comes after the same other.
    """
    figures: dict[str, list[float]] = {name: [] for name in measures}
    for repeat in range(repeats):
        for name, measure in list(measures.items())[:: -1 if repeat % 2 else 1]:
            figures[name].append(measure())
    return figures


def ratios(figures: Sequence[float], baseline: Sequence[float]) -> Spread:
    """Figure ÷ baseline, repeat by repeat."""
    return Spread.of([a / b for a, b in zip(figures, baseline, strict=True)])


def write(name: str, figures: object, package: str = "benchmarks") -> None:
    """Writes `<name>.json` into the package's results: the figures, where and how they were taken.

    Args:
        name: Of the module.
        figures: As JSON takes them, or `Spread`.
        package: Of the module.
    """
    document = {
        "command": f"python -m {package}.{name} {shlex.join(sys.argv[1:])}".strip(),
        "machine": machine(),
        "others": _others(),
        "versions": {each: version(each) for each in DISTRIBUTIONS},
        "results": figures,
    }
    text = json.dumps(document, indent=2, default=_plain)
    folder = results(package)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def results(package: str = "benchmarks") -> Path:
    """Where a package's are written: quick ones apart, since the docs do not tell them."""
    folder = ROOT.joinpath(*package.split("."))
    return folder / "results" / ("quick" if "--quick" in sys.argv else "")


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


def _others() -> float | None:
    """The share of the processors' time since the start that others had, the host's included.

    Figures of a run in which it is more than a few hundredths are rough. Our servers have to be
    stopped before, or they count as others.
    """
    busy = _busy_s()
    if busy is None or _BUSY_AT_START is None:
        return None
    own = sum(os.times()[:4])
    cores = os.cpu_count() or 1
    return max(0.0, (busy - _BUSY_AT_START - own) / (cores * (time.monotonic() - _BEGAN)))


def _busy_s() -> float | None:
    """Processor time used on this machine, steal included, since it started."""
    try:
        line = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0]
    except OSError:
        return None
    user, nice, system, _, _, irq, softirq, steal, *_ = map(int, line.split()[1:])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


_BUSY_AT_START = _busy_s()


def _plain(value: object) -> object:
    if isinstance(value, Spread):
        # JSON has no word for what is not a number.
        return {name: None if math.isnan(each) else each for name, each in vars(value).items()}
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
