"""Sequences of an input as they come, the bad ones named and not hidden."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from seqserve.ragged import RaggedBatch


@dataclass(frozen=True)
class Wanted:
    """What a model takes: all else is a fault of the sequence that has it."""

    features: int
    """A step."""
    names: tuple[str, ...] = ()
    """The features' names, in order; empty where the model has none."""
    max_steps: int = 1 << 62
    """Of a sequence."""
    admits_non_finite: bool = False
    """Whether NaN and infinities are taken."""


@dataclass(frozen=True, order=True)
class Position:
    """A place between two records of an input."""

    file: int = 0
    """Index among the input's files."""
    row: int = 0
    """Records of that file that lie before it."""


START = Position()
"""Where an input begins."""


@dataclass(frozen=True, eq=False)
class Block:
    """Some sequences of an input, one after the other."""

    begin: Position
    """Where the first begins."""
    end: Position
    """Where the sequence after the last begins, or the input ends: the next block's `begin`."""
    ids: pa.Array[Any]
    """(n,), as the input types them; text where it is a file of text."""
    good: NDArray[np.int64]
    """(m,), which of the n the model takes, ascending."""
    sequences: RaggedBatch | None
    """Those, m of them; None where there are none."""
    faults: Mapping[int, str]
    """What is wrong with each of the others, by its index: what was found, what is allowed."""
    kept: pa.Table
    """n rows: the columns that were asked to be handed through."""

    def __len__(self) -> int:
        """Sequences in the block, good and bad."""
        return len(self.ids)
