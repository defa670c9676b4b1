"""How a network does on labelled sequences."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from seqserve.v1.manifest_pb2 import SplitFigures
from seqserve_export.batches import by_length, pack
from seqserve_export.examples import Examples
from seqserve_export.network import SequenceClassifier

_ROWS, _STEPS = 256, 1 << 16


@torch.no_grad()
def predict(network: SequenceClassifier, examples: Examples) -> Tensor:
    """The network's logits, (sequences, classes), on the CPU; leaves it in eval mode."""
    network.eval()
    device = network.mean.device
    logits = torch.empty(len(examples), network.config.classes)
    for rows in by_length(examples.lengths, _ROWS, _STEPS):
        logits[rows] = network.logits(pack(examples, rows).to(device).steps).cpu()
    return logits


def accuracy(logits: Tensor, targets: Tensor) -> float:
    """Share of sequences whose most probable class is their own, 0 to 1."""
    return float((logits.argmax(dim=1) == targets).double().mean())


def figures(logits: Tensor, examples: Examples, temperature: float) -> SplitFigures:
    """The figures of a set, as the manifest has them.

    Args:
        logits: (sequences, classes), before temperature scaling.
        examples: The set.
        temperature: What the logits are divided by.
    """
    classes = logits.shape[1]
    targets = examples.targets
    cells = targets * classes + logits.argmax(dim=1)
    return SplitFigures(
        sequences=len(examples),
        steps=examples.steps,
        accuracy=accuracy(logits, targets),
        loss=float(functional.cross_entropy(logits.double() / temperature, targets)),
        confusion=torch.bincount(cells, minlength=classes * classes).tolist(),
    )
