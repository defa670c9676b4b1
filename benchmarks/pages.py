"""`python -m benchmarks.pages`: writes the tables of README and docs from the results.

A table stands between `<!-- fleet NAME: FIGURE, … -->`, `<!-- containers NAME -->` or
`<!-- figures scheduler -->` (or `jobs`) and the next empty line. The figures of a fleet are those
of `fleet.SHOWN`, by the heads of their columns; those of scheduler and jobs are those of
`figures.TARGETS`, all of them.
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

_TABLE = re.compile(r"(<!-- (fleet|containers|figures) ([\w ]+)(?:: (.*?))? -->\n)(?:\|.*\n)*")


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
    return Spread(**document) if document.keys() == vars(Spread.of([])).keys() else document


def _results(name: str) -> dict[str, Any]:
    path = harness.RESULTS / f"{name}.json"
    document = json.loads(path.read_text(encoding="utf-8"), object_hook=_figures)
    results: dict[str, Any] = document["results"]
    return results


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


_SOURCES: dict[str, Callable[..., Iterable[list[str]]]] = {
    "fleet": _of_fleet,
    "containers": _of_containers,
    "figures": _of_figures,
}


if __name__ == "__main__":
    main()
