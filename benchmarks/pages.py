"""`python -m benchmarks.pages`: writes the tables of README and docs from the results.

A table stands between `<!-- fleet NAME: FIGURE, … -->`, `<!-- containers NAME -->`,
`<!-- figures scheduler -->` (or `jobs`) or `<!-- benchmark NAME -->` and the next empty line. The
figures of a fleet are those of `fleet.SHOWN`, by the heads of their columns; those of scheduler and
jobs are those of `figures.TARGETS`, all of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import Any

from benchmarks import harness, table
from benchmarks.containers import tables
from benchmarks.figures import TARGETS
from benchmarks.fleet import SHOWN, short
from benchmarks.harness import Spread

PAGES = tuple(harness.ROOT / name for name in ("README.md", "docs/jobs.md", "docs/scale.md"))

_TABLE = re.compile(
    r"(<!-- (fleet|containers|figures|benchmark) ([\w ]+)(?:: (.*?))? -->\n)(?:\|.*\n)*"
)


def main() -> None:
    """Writes the pages anew."""
    for page in PAGES:
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")


def filled(page: str) -> str:
    """The page with its tables as the results have them."""
    return _TABLE.sub(_table, page)


def _table(found: re.Match[str]) -> str:
    comment, source, name, columns = found.groups()
    heads, *rows = _SOURCES[source](name, columns)
    lines = [heads, ["---"] * len(heads), *rows]
    return comment + "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def _figures(document: dict[str, Any]) -> dict[str, Any] | Spread:
    """Spreads as they were written."""
    return (
        Spread(**document) if {"median", "low", "high", "repeats"} <= document.keys() else document
    )


def _results(name: str) -> Any:  # noqa: ANN401  # as each writes them
    path = harness.RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8"), object_hook=_figures)["results"]


def _of_fleet(name: str, columns: str) -> Iterable[list[str]]:
    results = _results("fleet")
    heads = columns.split(", ")
    keys = {head: key for key, head in SHOWN.items()}
    yield ["", *heads]
    for row in results[name]:
        yield [row["case"], *(short(row[keys[head]]) for head in heads)]


def _of_containers(name: str, _: None) -> Iterable[list[str]]:
    heads, rows = tables(_results("containers"))[name][1:]
    yield list(heads)
    for row in rows:
        yield [str(each) for each in row]


def _of_figures(name: str, _: None) -> Iterable[list[str]]:
    yield ["figure", "floor", "aim", "measured"]
    of_jobs = {"scheduler": False, "jobs": True}[name]
    for figure in table.measured():
        target = TARGETS[figure.key]
        if figure.key.startswith("job-") is of_jobs:
            missed = ": missed" if figure.verdict == "MISSED" else ""
            measured = f"{figure.measured or figure.note}{missed}"
            yield [target.what, str(target.floor), str(target.aim), measured]


def _of_benchmark(name: str, _: None) -> Iterable[list[str]]:
    return _BENCHMARKS[name]()


def _throughput() -> Iterable[list[str]]:
    yield ["lengths", "continuous", "padded batches", "length-bucketed", "oracle", "torch, packed"]
    for row in _results("throughput")["cases"]:
        policies = ("continuous", "padded", "bucketed", "oracle", "torch")
        medians = [f"{row[policy].median:,.0f}" for policy in policies]
        yield [f"{row['model']}, {row['workload']}", *medians]


def _calls() -> Iterable[list[str]]:
    yield ["transport", "calls/s", "server CPU a call, µs"]
    for row in _results("serving")["single_calls"]:
        yield [row["transport"], str(row["calls_per_second"]), str(row["server_cpu_us"])]


def _startup() -> Iterable[list[str]]:
    yield ["", "seconds", "resident MiB"]
    for row in _results("startup"):
        yield [row["what"], str(row["seconds"]), str(row.get("resident_mib", ""))]


def _conversion() -> Iterable[list[str]]:
    yield ["model", "publish, s", "prove again, s", "peak MiB (before it began)"]
    for row in _results("conversion"):
        peak = f"{row['peak_mib'].median:.0f} ({row['held_before_mib'].median:.0f})"
        yield [row["model"], str(row["publish_s"]), str(row["prove_again_s"]), peak]


_BENCHMARKS: dict[str, Callable[[], Iterable[list[str]]]] = {
    "throughput": _throughput,
    "calls": _calls,
    "startup": _startup,
    "conversion": _conversion,
}

_SOURCES: dict[str, Callable[..., Iterable[list[str]]]] = {
    "fleet": _of_fleet,
    "containers": _of_containers,
    "figures": _of_figures,
    "benchmark": _of_benchmark,
}


if __name__ == "__main__":
    main()
