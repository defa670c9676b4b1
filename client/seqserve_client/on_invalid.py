"""What bad sequences do to the others; apart, so that the command line can show it at no cost."""

from __future__ import annotations

from enum import StrEnum


class OnInvalid(StrEnum):
    """What becomes of a call some of whose sequences the model cannot take."""

    REJECT = "reject"
    """It fails; none of its sequences is answered."""
    ANSWER_REST = "answer-rest"
    """The others are answered, and `Classification.invalid` says why these are not."""
