"""Standardisation is fitted on the training set, feature by feature."""

from __future__ import annotations

import numpy as np
import torch

from seqserve.ragged import RaggedBatch
from seqserve_data import Dataset
from seqserve_export.examples import Examples, Standardisation


def _batch(values: np.ndarray, lengths: list[int]) -> RaggedBatch:
    return RaggedBatch(values.astype(np.float32), np.array(lengths, np.int64))


def test_every_feature_has_mean_zero_and_deviation_one() -> None:
    rng = np.random.default_rng(0)
    # More rows than are summed at a time, far from zero.
    values = rng.standard_normal((200_000, 2)) * [1e-3, 50] + [1000, -7]
    batch = _batch(values, [200_000])
    dataset = Dataset("set", batch, ("a",), ("0",))

    examples = Examples.of(dataset, ["a"], Standardisation.of(batch))

    assert torch.allclose(examples.values.mean(dim=0), torch.zeros(2), atol=2e-2)
    torch.testing.assert_close(
        Standardisation.of(batch).scale.numpy(),
        batch.values.std(axis=0, dtype=np.float64),
        check_dtype=False,
        rtol=1e-5,
        atol=0,
    )


def test_a_constant_feature_is_divided_by_one() -> None:
    # 0.1 is not a float32, nor is the mean of many of them.
    values = np.column_stack(
        [np.full(999, 0.1), np.zeros(999), np.arange(999), np.eye(1, 999)[0] * 1e-44]
    )

    standardisation = Standardisation.of(_batch(values, [999]))

    assert standardisation.scale[[0, 1, 3]].tolist() == [1, 1, 1]
    assert standardisation.scale[2] > 1
    assert standardisation.mean[0] == np.float32(0.1)


def test_targets_are_the_places_of_the_labels() -> None:
    batch = _batch(np.zeros((3, 1)), [1, 1, 1])
    dataset = Dataset("set", batch, ("b", "a", "b"), ("0", "1", "2"))

    examples = Examples.of(dataset, ["a", "b"], Standardisation.of(batch))

    assert examples.targets.tolist() == [1, 0, 1]
