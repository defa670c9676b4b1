"""How answers compare with the labels that are known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def accuracy(expected: Sequence[str], answered: Sequence[str]) -> float:
    """Share of sequences whose answer is their label, 0 to 1."""
    right = sum(label == answer for label, answer in zip(expected, answered, strict=True))
    return right / len(expected)


def confusion(
    expected: Sequence[str], answered: Sequence[str], classes: Sequence[str]
) -> tuple[list[str], list[list[int]]]:
    """Counts by label (rows) and answer (columns), and the classes that both are in order of.

    Args:
        expected: The label of each sequence.
        answered: The answer to each.
        classes: The order; classes that occur beside these follow.
    """
    names = list(dict.fromkeys([*classes, *sorted({*expected, *answered})]))
    counts = Counter(zip(expected, answered, strict=True))
    return names, [[counts[label, answer] for answer in names] for label in names]
