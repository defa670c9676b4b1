"""Divides a labelled set in two, class by class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from seqserve_data.errors import UnsuitableLabels


def stratified_split(
    labels: Sequence[str], fraction: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the sequences to train on, and of those held out, both ascending.

    Of each class `fraction` is held out, rounded; but at least one example where it has two or
    more, and never the last one.

    Args:
        labels: One a sequence.
        fraction: Share to hold out, above 0 and below 1.
        seed: Equal seeds give equal splits of equal labels.

    Raises:
        UnsuitableLabels: the fraction is out of range, or no class has two examples.
    """
    if not 0 < fraction < 1:
        raise UnsuitableLabels(f"a fraction to hold out lies above 0 and below 1, not {fraction}")
    rng = np.random.default_rng(seed)
    held_out = np.zeros(len(labels), bool)
    _, classes = np.unique(np.array(labels, dtype=object), return_inverse=True)
    for members in _members(classes):
        count = min(max(round(fraction * len(members)), 1), len(members) - 1)
        held_out[rng.permutation(members)[:count]] = True
    if not held_out.any():
        raise UnsuitableLabels("no class has two examples, so none can be held out")
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def _members(classes: NDArray[np.intp]) -> list[NDArray[np.intp]]:
    """The indices of each class, ascending."""
    by_class = np.argsort(classes, kind="stable")
    return np.split(by_class, np.cumsum(np.bincount(classes))[:-1])
