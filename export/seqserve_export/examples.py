"""Labelled sequences as training reads them: standardised, end to end, in tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seqserve.ragged import RaggedBatch
from seqserve_data import Dataset

_ROWS = 1 << 16


@dataclass(frozen=True)
class Standardisation:
    """What a value has taken off and is divided by, a feature."""

    mean: Tensor
    """(features,), float32."""
    scale: Tensor
    """(features,), float32, none of them 0; 1 where the feature is constant."""

    @classmethod
    def of(cls, sequences: RaggedBatch) -> Standardisation:
        """Mean and standard deviation over all steps, summed in float64."""
        values = sequences.values
        mean = values.mean(axis=0, dtype=np.float64)
        squares = np.zeros_like(mean)
        for start in range(0, len(values), _ROWS):
            squares += np.square(values[start : start + _ROWS] - mean).sum(axis=0)
        scale = np.sqrt(squares / len(values)).astype(np.float32)
        varies = values.min(axis=0) < values.max(axis=0)
        usable = varies & (scale >= np.finfo(np.float32).tiny)
        return cls(
            mean=torch.from_numpy(mean.astype(np.float32)),
            scale=torch.from_numpy(np.where(usable, scale, np.float32(1))),
        )


@dataclass(frozen=True)
class Examples:
    """Sequences end to end and their classes; sequence i is the steps from `offsets[i]` on."""

    values: Tensor
    """(total steps, features), float32, standardised."""
    offsets: Tensor
    """(sequences,), int64, where each sequence starts."""
    lengths: Tensor
    """(sequences,), int64, steps of each."""
    targets: Tensor
    """(sequences,), int64, index of each one's class."""

    @classmethod
    def of(
        cls, dataset: Dataset, classes: Sequence[str], standardisation: Standardisation
    ) -> Examples:
        """The data set's sequences and labels.

        Args:
            dataset: Labelled, by labels that are all among the classes.
            classes: In the order of the logits' columns.
            standardisation: As fitted on the training set.
        """
        index = {label: number for number, label in enumerate(classes)}
        values = torch.tensor(dataset.sequences.values)
        return cls(
            values=values.sub_(standardisation.mean).div_(standardisation.scale),
            offsets=torch.tensor(dataset.sequences.offsets[:-1]),
            lengths=torch.tensor(dataset.sequences.lengths, dtype=torch.int64),
            targets=torch.tensor([index[label] for label in dataset.labels or ()]),
        )

    def __len__(self) -> int:
        """Sequences in the set."""
        return len(self.lengths)

    @property
    def features(self) -> int:
        """Features a step."""
        return self.values.shape[1]

    @property
    def steps(self) -> int:
        """Steps of all sequences together."""
        return int(self.lengths.sum())

    def take(self, rows: NDArray[np.int64]) -> Examples:
        """The examples at `rows`, sharing their steps with these."""
        index = torch.from_numpy(rows)
        return Examples(self.values, self.offsets[index], self.lengths[index], self.targets[index])

    def __add__(self, more: Examples) -> Examples:
        """These examples and then those, which share the same steps."""
        assert self.values is more.values
        return Examples(
            self.values,
            torch.cat((self.offsets, more.offsets)),
            torch.cat((self.lengths, more.lengths)),
            torch.cat((self.targets, more.targets)),
        )
