"""How `seqserve classify` may print its answers; apart, so that the command line stays light."""

from __future__ import annotations

from enum import StrEnum


class Output(StrEnum):
    """What is printed for each sequence."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    SUMMARY = "summary"
    """Nothing; the figures alone."""
