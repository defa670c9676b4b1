"""The page that says what is lost in which fault names a test for each row, and each exists."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
HEADER = "| fault | what the caller sees | what is lost | test |"


def rows() -> list[list[str]]:
    """The cells of each row of the table of faults."""
    lines = PAGE.partition(HEADER)[2].splitlines()[2:]
    table = lines[: lines.index("")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def test_every_fault_has_a_row_with_all_its_cells() -> None:
    assert len(rows()) >= 10
    assert all(len(row) == 4 and all(row) for row in rows())


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_every_test_that_is_named_exists(row: list[str]) -> None:
    path, _, name = row[3].strip("`").partition("::")
    functions = {
        node.name
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert name in functions
    assert name.startswith("test_")
