"""The bundled data sets by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from seqserve.ragged import RaggedBatch
from seqserve_data import npz
from seqserve_data.dataset import Dataset

_FOLDER = Path(__file__).parent


def read(name: str) -> Dataset:
    """The bundled data set of that name, one of `NAMES`."""
    return _READERS[name](name)


def bundled_test(source: str) -> str | None:
    """Name of the test set that belongs to a bundled training set; None where there is none."""
    test = f"{source}/test"
    return test if test in _READERS else None


def _vendored(file: str, name: str) -> Dataset:
    return replace(npz.read(_FOLDER / file), name=name)


def _random(name: str) -> Dataset:
    """1,000 sequences of 10 steps of 5 standard normal features, in 2 classes drawn at random.

    There is nothing to find in it: a network that fits it has learnt it by heart.
    """
    rng = np.random.default_rng(0)
    values = rng.standard_normal((10_000, 5), np.float32)
    classes = rng.integers(0, 2, 1_000).tolist()
    return Dataset(
        name=name,
        sequences=RaggedBatch(values, np.full(1_000, 10, np.int64)),
        labels=tuple(map(str, classes)),
        ids=tuple(map(str, range(1_000))),
    )


_READERS: Mapping[str, Callable[[str], Dataset]] = {
    "japanese-vowels": partial(_vendored, "japanese_vowels_train.npz"),
    "japanese-vowels/test": partial(_vendored, "japanese_vowels_test.npz"),
    "random": _random,
}
NAMES = tuple(_READERS)
"""Every bundled name."""
