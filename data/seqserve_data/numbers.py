"""Numbers of any type as float32, or what is wrong with the first that cannot be."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray


class BadNumber(ValueError):
    """A number that cannot be used; readers turn it into an error that says where it stands.

    Args:
        index: Its flat index among the numbers given.
        reason: What is wrong with it, as the end of a sentence that begins with its place.
    """

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(reason)
        self.index = index
        self.reason = reason


def as_float32(numbers: NDArray[Any]) -> NDArray[np.float32]:
    """The numbers as a contiguous float32 array of the same shape.

    Raises:
        BadNumber: one is not finite, or not finite as float32.
    """
    with np.errstate(over="ignore"):
        narrow = np.ascontiguousarray(numbers, np.float32)
    faults = np.flatnonzero(~np.isfinite(narrow))
    if len(faults):
        index = int(faults[0])
        raise BadNumber(index, fault(float(numbers.flat[index])))
    return narrow


def fault(number: float) -> str:
    """What is wrong with a number that is not finite as float32."""
    if math.isnan(number):
        return "is NaN; every number must be finite"
    if math.isinf(number):
        return "is infinite; every number must be finite"
    return f"is {number!r}, beyond the range of float32 (about 3.4e38)"


def is_number(cell: str) -> bool:
    """Whether text is a number, as files write it: Python also reads `1_000`."""
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell
