"""Ids and labels as text, whatever type a file gives them."""

from __future__ import annotations

import reprlib


def as_text(value: object) -> str:
    """Text as it is, whole numbers without a point, true and false as JSON has them.

    Raises:
        ValueError: the value names nothing: missing, a fraction, a list; the message says which.
    """
    if isinstance(value, bytes):
        value = value.decode()
    if isinstance(value, str):
        if not value:
            raise ValueError("is empty")
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if value is None or value != value:
        raise ValueError("is missing")
    raise ValueError(f"is {reprlib.repr(value)}; text or a whole number is needed")
