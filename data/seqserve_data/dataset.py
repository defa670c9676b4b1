"""A data set in memory: sequences, and what is known of each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seqserve.ragged import RaggedBatch
from seqserve_data.errors import InvalidLayout
from seqserve_data.places import Origin, Place

_INTEGER = re.compile(r"[+-]?[0-9]+")


@dataclass(frozen=True, eq=False)
class Dataset:
    """Sequences with their ids and, where the data has them, labels.

    Raises:
        InvalidLayout: there are no sequences, or not one id, label and origin for each, or not
            one name for each feature.
    """

    name: str
    """The bundled name, or the file's base name."""
    sequences: RaggedBatch
    labels: tuple[str, ...] | None
    """One a sequence; None where the data has none."""
    ids: tuple[str, ...]
    """One a sequence; "0", "1", … where the data has none."""
    feature_names: tuple[str, ...] = ()
    """One a feature; empty where the data has none."""
    origin: Origin | None = None
    """Where each sequence stands in the file; None where no file was read."""

    def __post_init__(self) -> None:
        if not len(self.sequences):
            raise InvalidLayout("there are no sequences", Place(self.name))
        self._check("ids", len(self.ids), len(self.sequences), "sequences")
        if self.labels is not None:
            self._check("labels", len(self.labels), len(self.sequences), "sequences")
        if self.feature_names:
            self._check(
                "feature names", len(self.feature_names), self.sequences.features, "features"
            )
        if self.origin is not None:
            self._check("origins", len(self.origin.records), len(self.sequences), "sequences")

    def _check(self, what: str, count: int, expected: int, of: str) -> None:
        if count != expected:
            raise InvalidLayout(f"{count} {what} for {expected} {of}", Place(self.name))

    def __len__(self) -> int:
        """Sequences in the data set."""
        return len(self.sequences)

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels that occur, sorted: by value where all are integers, else as text."""
        distinct = set(self.labels or ())
        if all(_INTEGER.fullmatch(label) for label in distinct):
            return tuple(sorted(distinct, key=lambda label: (int(label), label)))
        return tuple(sorted(distinct))

    def take(self, indices: Sequence[int] | NDArray[np.integer]) -> Dataset:
        """The sequences at `indices`, in that order; an index may recur."""
        chosen = [int(index) for index in indices]
        if not chosen:
            raise InvalidLayout("no sequences are left", Place(self.name))
        return Dataset(
            name=self.name,
            sequences=self.sequences.take(chosen),
            labels=None if self.labels is None else tuple(self.labels[i] for i in chosen),
            ids=tuple(self.ids[i] for i in chosen),
            feature_names=self.feature_names,
            origin=None if self.origin is None else self.origin.take(chosen),
        )
