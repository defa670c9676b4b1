"""`python -m benchmarks.scale_page`: writes the tables of docs/scale.md from the results.

A table stands between `<!-- fleet NAME: FIGURE, … -->` or `<!-- containers NAME -->` and the next
empty line; the figures are those of `fleet.SHOWN`, by the heads of their columns.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import Any

from benchmarks import harness
from benchmarks.containers import tables
from benchmarks.fleet import SHOWN, short
from benchmarks.harness import Spread

PAGE = harness.ROOT / "docs/scale.md"

_TABLE = re.compile(r"(<!-- (fleet|containers) ([\w ]+)(?:: (.*?))? -->\n)(?:\|.*\n)*")


def main() -> None:
    """Writes the page anew."""
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def filled(page: str) -> str:
    """The page with its tables as the results have them."""
    return _TABLE.sub(_table, page)


def _table(found: re.Match[str]) -> str:
    comment, source, name, columns = found.groups()
    path = harness.RESULTS / f"{source}.json"
    results = json.loads(path.read_text(encoding="utf-8"), object_hook=_figures)["results"]
    make = _SOURCES[source]
    heads, *rows = make(results, name, columns)
    lines = [heads, ["---"] * len(heads), *rows]
    return comment + "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def _figures(document: dict[str, Any]) -> dict[str, Any] | Spread:
    """Spreads as they were written."""
    return Spread(**document) if document.keys() == vars(Spread.of([])).keys() else document


def _of_fleet(results: dict[str, Any], name: str, columns: str) -> Iterable[list[str]]:
    heads = columns.split(", ")
    keys = {head: key for key, head in SHOWN.items()}
    yield ["", *heads]
    for row in results[name]:
        yield [row["case"], *(short(row[keys[head]]) for head in heads)]


def _of_containers(results: dict[str, Any], name: str, columns: None) -> Iterable[list[str]]:
    _, heads, rows = tables(results)[name]
    yield list(heads)
    for row in rows:
        yield [str(each) for each in row]


_SOURCES: dict[str, Callable[..., Iterable[list[str]]]] = {
    "fleet": _of_fleet,
    "containers": _of_containers,
}


if __name__ == "__main__":
    main()
