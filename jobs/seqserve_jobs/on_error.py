"""What bad sequences do to a job; apart, so that the command line can show it at no cost."""

from __future__ import annotations

from enum import StrEnum


class OnError(StrEnum):
    """What becomes of a sequence that the model cannot take."""

    RECORD = "record"
    """It has a row like the others, with the reason in `error` and nothing in place of answers."""
    SKIP = "skip"
    """It has no row; the summary counts it."""
    FAIL = "fail"
    """The job fails, naming it."""
