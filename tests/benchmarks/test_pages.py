"""README and docs quote what simulation and measurement gave, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.pages import PAGES, filled

COMMENTS = {"README.md": 5, "jobs.md": 1, "scale.md": 6}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_tables_on_a_page_are_those_of_the_results(page: Path) -> None:
    text = page.read_text(encoding="utf-8")

    assert len(re.findall("<!-- (?:fleet|figures|benchmark) ", text)) >= COMMENTS[page.name]
    assert filled(text) == text, "run: python -m benchmarks.pages"
