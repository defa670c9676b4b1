"""Logits and probabilities made into answers: which labels, in which order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from seqserve.graph import Array
from seqserve_server.validation import InvalidSequence


@dataclass(frozen=True)
class Answers:
    """An answer for each of n sequences."""

    labels: list[str]
    """n rows of max(1, top_k), most probable first."""
    classes: Sequence[str]
    """The labels of the columns; empty where the columns are those of `labels`."""
    probabilities: Array
    """(n, columns)."""
    logits: Array
    """(n, columns)."""
    invalid: Sequence[InvalidSequence] = ()
    """Those of the n sequences that have none: empty labels and NaN stand in their places."""


def answer(logits: Array, probabilities: Array, labels: Sequence[str], top_k: int) -> Answers:
    """The answers that a model's outputs are.

    Args:
        logits: (n, classes).
        probabilities: (n, classes).
        labels: The classes, in the order of the columns.
        top_k: How many classes to name, at most all of them; 0 for the whole distribution.
    """
    if not top_k:
        best = probabilities.argmax(axis=1)  # the first of equals
        return Answers([labels[index] for index in best.tolist()], labels, probabilities, logits)
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top_k]
    return Answers(
        labels=[labels[index] for index in order.ravel().tolist()],
        classes=(),
        probabilities=np.take_along_axis(probabilities, order, axis=1),
        logits=np.take_along_axis(logits, order, axis=1),
    )


def with_gaps(
    answers: Answers, answered: Sequence[int], invalid: Sequence[InvalidSequence]
) -> Answers:
    """The answers to some sequences, in their places among those that have none.

    Args:
        answers: To the sequences answered, in order.
        answered: Their places.
        invalid: The others.
    """
    count, columns = len(answered) + len(invalid), answers.logits.shape[1]
    width = 1 if answers.classes else columns
    labels = [""] * (count * width)
    for row, place in enumerate(answered):
        labels[place * width : (place + 1) * width] = answers.labels[
            row * width : (row + 1) * width
        ]
    probabilities = np.full((count, columns), np.nan, np.float32)
    probabilities[answered] = answers.probabilities
    logits = np.full((count, columns), np.nan, np.float32)
    logits[answered] = answers.logits
    return Answers(labels, answers.classes, probabilities, logits, invalid)
