"""What training computes is what the packed definition says, for every cell and head."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from seqserve_export.network import Cell, Head, NetworkConfig, SequenceClassifier

LENGTHS = torch.tensor([3, 9, 1, 7])


@pytest.mark.parametrize("bidirectional", [False, True], ids=["forwards", "both ways"])
@pytest.mark.parametrize("head", get_args(Head))
@pytest.mark.parametrize(
    ("cell", "proj_size"), [*((cell, 0) for cell in get_args(Cell)), ("lstm", 2)]
)
def test_logits_and_gradients_are_those_of_packed_sequences(
    cell: Cell, head: Head, bidirectional: bool, proj_size: int
) -> None:
    torch.manual_seed(0)
    network = SequenceClassifier(
        NetworkConfig(
            features=3,
            classes=4,
            cell=cell,
            hidden_size=5,
            num_layers=2,
            bidirectional=bidirectional,
            proj_size=proj_size,
            head=head,
        )
    )
    network.mean += 0.5
    network.scale *= 2
    values = torch.randn(len(LENGTHS), 9, 3)

    logits = network(values, LENGTHS)
    gradients = torch.autograd.grad(logits.square().sum(), list(network.parameters()))
    expected = _reference(network, values)
    wanted = torch.autograd.grad(expected.square().sum(), list(network.parameters()))

    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-6)
    for gradient, reference in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("head", get_args(Head))
def test_padding_may_hold_anything(head: Head) -> None:
    torch.manual_seed(0)
    network = SequenceClassifier(NetworkConfig(features=3, classes=4, head=head))
    values = torch.randn(len(LENGTHS), 12, 3)
    garbage = values.clone()
    garbage[torch.arange(12) >= LENGTHS[:, None]] = 1e30

    assert torch.equal(network(values, LENGTHS), network(garbage, LENGTHS))


def _reference(network: SequenceClassifier, values: Tensor) -> Tensor:
    """The network from torch's own packed layers, row by row where the head pools."""
    config = network.config
    standard = (values - network.mean) / network.scale
    packed = pack_padded_sequence(standard, LENGTHS, batch_first=True, enforce_sorted=False)
    outputs, state = network.recurrent(packed)
    padded, _ = pad_packed_sequence(outputs, batch_first=True)
    hidden = state[0] if config.cell == "lstm" else state
    if config.head == "last":
        pooled = torch.cat((hidden[-2], hidden[-1]), -1) if config.bidirectional else hidden[-1]
    else:
        rows = [row[:length] for row, length in zip(padded, LENGTHS.tolist(), strict=True)]
        reduce = torch.amax if config.head == "max" else torch.mean
        pooled = torch.stack([reduce(row, dim=0) for row in rows])
    logits: Tensor = network.linear(pooled)
    return logits
