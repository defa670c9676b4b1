"""Small labelled sets that a network can learn, and what to learn them with."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from seqserve.ragged import RaggedBatch
from seqserve_data import Dataset

MakeRamps = Callable[..., Dataset]


@pytest.fixture(scope="session")
def ramps() -> MakeRamps:
    """Makes sequences of 5 to 15 steps that rise or fall, under noise; two classes in turn."""
    return _ramps


def _ramps(count: int = 40, seed: int = 0, *, noise: float = 0.4, rising: float = 0.5) -> Dataset:
    """Ramps.

    Args:
        count: Sequences.
        seed: Of lengths and noise.
        noise: Standard deviation of what is added to ramps from -1 to 1.
        rising: Share of the sequences that rise.
    """
    rng = np.random.default_rng(seed)
    rises = np.floor(np.arange(1, count + 1) * rising) > np.floor(np.arange(count) * rising)
    sequences = []
    for up in rises:
        steps = int(rng.integers(5, 15, endpoint=True))
        ramp = np.linspace(-1, 1, steps) * (1 if up else -1)
        sequences.append((ramp + noise * rng.standard_normal(steps))[:, None])
    return Dataset(
        name="ramps",
        sequences=RaggedBatch.from_sequences([s.astype(np.float32) for s in sequences]),
        labels=tuple("rising" if up else "falling" for up in rises),
        ids=tuple(str(index) for index in range(count)),
    )
