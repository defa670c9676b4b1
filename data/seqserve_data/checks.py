"""Whether a data set can be learnt from, and whether a model knows its labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from seqserve_data.columns import listed
from seqserve_data.dataset import Dataset
from seqserve_data.errors import UnsuitableLabels
from seqserve_data.places import Place


def check_trainable(dataset: Dataset) -> None:
    """Refuses a set that no classifier can learn from.

    Raises:
        UnsuitableLabels: it has no labels, fewer than two classes, or a class of one example.
    """
    labels = _labels(dataset)
    counts = Counter(labels)
    if len(counts) < 2:
        raise UnsuitableLabels(
            f"every sequence has the label {labels[0]!r}; at least two classes are needed",
            Place(dataset.name),
        )
    for label, count in counts.items():
        if count == 1:
            raise UnsuitableLabels(
                f"class {label!r} has this one example; at least two are needed, "
                "one to learn from and one to hold out",
                _place(dataset, labels.index(label)),
            )


def check_labels(dataset: Dataset, classes: Sequence[str]) -> None:
    """Refuses a set with a label that was not seen in training.

    Args:
        dataset: A set to choose or to test by.
        classes: The labels of the training set.

    Raises:
        UnsuitableLabels: it has no labels, or one that is not among `classes`.
    """
    known = set(classes)
    for index, label in enumerate(_labels(dataset)):
        if label not in known:
            raise UnsuitableLabels(
                f"label {label!r} was not seen in training, which had {listed(classes)}",
                _place(dataset, index),
            )


def _labels(dataset: Dataset) -> tuple[str, ...]:
    if dataset.labels is None:
        raise UnsuitableLabels(
            "has no labels; a column named label, class or target, or the one that you name, "
            "would hold them",
            Place(dataset.name),
        )
    return dataset.labels


def _place(dataset: Dataset, index: int) -> Place:
    if dataset.origin is None:
        return Place(dataset.name, row=index, column="label")
    return dataset.origin.place(index)
