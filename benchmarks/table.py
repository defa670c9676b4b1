"""`python -m benchmarks.table`: the scheduler's figures, from the results."""

from __future__ import annotations

import json

from benchmarks import figures, harness
from benchmarks.figures import TARGETS, Figure
from benchmarks.harness import Spread


def main() -> None:
    """Prints the table."""
    figures.show(measured())


def measured() -> list[Figure]:
    """The figures in the order of the targets; what was not measured is among them too."""
    found = {figure.key: figure for figure in _found()}
    return [found.get(key, Figure(key, None, "its benchmark has not run")) for key in TARGETS]


def _found() -> list[Figure]:
    documents = [
        json.loads(path.read_text(encoding="utf-8")) for path in harness.results().glob("*.json")
    ]
    return [
        Figure(figure["key"], _spread(figure["measured"]), figure["note"])
        for document in documents
        if isinstance(document["results"], dict)
        for figure in document["results"].get("figures", ())
        if figure["key"] in TARGETS
    ]


def _spread(document: dict[str, float] | None) -> Spread | None:
    if document is None or document["median"] is None:
        return None
    return Spread(**document)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
