"""The sets of a training run, checked against one another and made ready for torch."""

from __future__ import annotations

from dataclasses import dataclass

from seqserve_data import Dataset, check_labels, check_trainable, stratified_split
from seqserve_export.errors import InvalidSettings, UnsuitableData
from seqserve_export.examples import Examples, Standardisation


@dataclass(frozen=True)
class Sets:
    """What a run learns from, chooses by and is tested with."""

    train: Dataset
    validation: Dataset | None
    test: Dataset | None
    settings: dict[str, str]
    """What the last two are, by command-line name."""

    @classmethod
    def of(
        cls, data: Dataset, validation: Dataset | float | None, test: Dataset | None, seed: int
    ) -> Sets:
        """The sets, once they are known to go together.

        Args:
            data: To learn from.
            validation: To choose by, or the share of `data` to hold out for it.
            test: Which no choice sees.
            seed: Of the split.

        Raises:
            DataError: labels are missing, too few, or unknown to the training set.
            InvalidSettings: the share is not above 0 and below 1.
            UnsuitableData: features differ in number or name.
        """
        check_trainable(data)
        for other in (validation, test):
            if isinstance(other, Dataset):
                check_labels(other, data.classes)
                _check_features(data, other)
        named = {"validation": validation, "test": test}
        settings = {
            name: value.name if isinstance(value, Dataset) else str(value)
            for name, value in named.items()
            if value is not None
        }
        if not isinstance(validation, float):
            return cls(data, validation, test, settings)
        if not 0 < validation < 1:
            raise InvalidSettings(
                f"--validation is a file, or a share above 0 and below 1, not {validation}"
            )
        kept, held_out = stratified_split(data.labels or (), validation, seed)
        return cls(data.take(kept), data.take(held_out), test, settings)

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels in the order of the logits' columns."""
        return self.train.classes

    def describe(self) -> str:
        """The training set in one line."""
        sequences = self.train.sequences
        shortest, longest = sequences.lengths.min(), sequences.lengths.max()
        return (
            f"{self.train.name}: {len(sequences)} sequences of {shortest} to {longest} steps, "
            f"{sequences.features} features, {len(self.classes)} classes"
        )


@dataclass(frozen=True)
class Tensors:
    """The sets as torch reads them, standardised as the training set is."""

    standardisation: Standardisation
    train: Examples
    validation: Examples | None
    test: Examples | None

    @classmethod
    def of(cls, sets: Sets) -> Tensors:
        """The sets in tensors."""
        standardisation = Standardisation.of(sets.train.sequences)

        def examples(dataset: Dataset) -> Examples:
            return Examples.of(dataset, sets.classes, standardisation)

        return cls(
            standardisation,
            examples(sets.train),
            None if sets.validation is None else examples(sets.validation),
            None if sets.test is None else examples(sets.test),
        )


def _check_features(data: Dataset, other: Dataset) -> None:
    if other.sequences.features != data.sequences.features:
        raise UnsuitableData(
            f"{other.name} has {other.sequences.features} features a step, "
            f"{data.name} has {data.sequences.features}"
        )
    names = other.feature_names, data.feature_names
    if all(names) and names[0] != names[1]:
        raise UnsuitableData(
            f"{other.name} has the features {', '.join(names[0])}; {data.name} has "
            f"{', '.join(names[1])}, and their order counts (--features)"
        )
