"""docs/scale.md quotes what simulation and measurement gave, and nothing else."""

from __future__ import annotations

from benchmarks.scale_page import PAGE, filled


def test_the_tables_on_the_page_are_those_of_the_results() -> None:
    page = PAGE.read_text(encoding="utf-8")

    assert page.count("<!-- fleet ") >= 6
    assert filled(page) == page, "run: python -m benchmarks.scale_page"
