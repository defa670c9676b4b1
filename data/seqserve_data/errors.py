"""What can be wrong with data, and where.

DataError
├── UnreadableData   no such file, no such form, damaged
├── InvalidLayout    columns, keys or arrays that are missing or contradict one another
├── InvalidValue     a number, id or label that cannot be used
└── UnsuitableLabels labels that cannot be learnt from, or that the model does not know
"""

from __future__ import annotations

from seqserve_data.places import Place


class DataError(ValueError):
    """Base of every error of this package.

    Args:
        message: What was given, what is allowed.
        place: Where, and begins the message; None where it concerns no file.
    """

    def __init__(self, message: str, place: Place | None = None) -> None:
        super().__init__(message if place is None else f"{place}: {message}")
        self.place = place


class UnreadableData(DataError):
    """No such file, a form that is not read, or a damaged file."""


class InvalidLayout(DataError):
    """Columns, keys or arrays that are missing or contradict one another."""


class InvalidValue(DataError):
    """A number, id or label that cannot be used: missing, not finite, not a number."""


class UnsuitableLabels(DataError):
    """Labels that cannot be learnt from, or that the model does not know."""
