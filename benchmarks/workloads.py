"""How long sequences are: seeded, so that every run and every policy gets the same ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seqserve.ragged import RaggedBatch

FEATURES = 12
LONGEST_STEPS = 300

_Draw = Callable[[np.random.Generator, int], NDArray[np.int64]]


@dataclass(frozen=True)
class Workload:
    """A distribution of sequence lengths."""

    name: str
    """For tables."""
    about: str
    """Its parameters."""
    draw: _Draw
    """So many lengths."""

    def sequences(self, count: int, seed: int = 0) -> RaggedBatch:
        """That many sequences of FEATURES features, for a seed always the same."""
        rng = np.random.default_rng(seed)
        lengths = self.draw(rng, count)
        return RaggedBatch(rng.standard_normal((int(lengths.sum()), FEATURES), np.float32), lengths)


def _long_tailed(rng: np.random.Generator, count: int) -> NDArray[np.int64]:
    steps = np.rint(rng.lognormal(np.log(25), 0.8, count))
    return steps.clip(1, LONGEST_STEPS).astype(np.int64)


def _bimodal(rng: np.random.Generator, count: int) -> NDArray[np.int64]:
    short, long = rng.integers(8, 17, count), rng.integers(160, 241, count)
    return np.where(rng.random(count) < 0.8, short, long)


VOWELS = Workload(
    "vowels-like", "uniform, 7 to 29 steps", lambda rng, count: rng.integers(7, 30, count)
)
LONG_TAILED = Workload(
    "long-tailed", "lognormal, log-mean ln 25, sigma 0.8, clipped to 1–300 steps", _long_tailed
)
CONSTANT = Workload("constant", "32 steps", lambda _, count: np.full(count, 32, np.int64))
BIMODAL = Workload("bimodal", "4 of 5 uniform, 8 to 16 steps; 1 of 5 uniform, 160 to 240", _bimodal)

WORKLOADS = (LONG_TAILED, VOWELS, CONSTANT, BIMODAL)
