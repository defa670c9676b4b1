"""The figures of a set, as the manifest has them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from seqserve_export.evaluation import figures, predict
from seqserve_export.examples import Examples
from seqserve_export.network import NetworkConfig, SequenceClassifier


def _examples(targets: Tensor, lengths: Tensor) -> Examples:
    offsets = torch.cumsum(lengths, 0) - lengths
    return Examples(torch.randn(int(lengths.sum()), 3), offsets, lengths, targets)


def test_confusion_counts_true_labels_by_row_and_predicted_ones_by_column() -> None:
    predicted = torch.tensor([0, 2, 2, 1, 2])
    examples = _examples(torch.tensor([0, 0, 2, 1, 1]), torch.tensor([2, 1, 4, 1, 3]))

    result = figures(torch.eye(3)[predicted], examples, temperature=1.0)

    assert list(result.confusion) == [1, 0, 1, 0, 1, 1, 0, 0, 1]
    assert result.accuracy == pytest.approx(3 / 5)
    assert (result.sequences, result.steps) == (5, 11)


def test_the_loss_is_that_of_the_calibrated_probabilities() -> None:
    examples = _examples(torch.tensor([0]), torch.tensor([1]))

    result = figures(torch.tensor([[3.0, 0.0]]), examples, temperature=2.0)

    assert result.loss == pytest.approx(math.log1p(math.exp(-1.5)))


def test_predictions_keep_the_order_of_the_sequences() -> None:
    torch.manual_seed(0)
    network = SequenceClassifier(NetworkConfig(features=3, classes=2, dropout=0.5)).train()
    lengths = torch.randint(1, 40, (600,))
    examples = _examples(torch.zeros(600, dtype=torch.int64), lengths)

    logits = predict(network, examples)

    for row in (0, 300, 599):
        start, steps = int(examples.offsets[row]), int(lengths[row])
        alone = network(examples.values[start : start + steps][None], lengths[row : row + 1])
        torch.testing.assert_close(logits[row], alone[0], rtol=1e-5, atol=1e-6)
