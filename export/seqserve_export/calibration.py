"""The temperature that makes probabilities mean what they say."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_LEAST, _MOST = 0.05, 20.0
_HALVINGS = 60
_MORE = 2.0


def fit_temperature(logits: Tensor, targets: Tensor) -> float:
    """The temperature at which held-out logits have the lowest cross-entropy.

    Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2. But where none of a
    small held-out set is mistaken, that temperature would be 0. So two more examples count, spread
    evenly over the classes; with two classes these are the targets of Platt 1999, "Probabilistic
    Outputs for Support Vector Machines", section 2.2.

    Args:
        logits: (sequences, classes), of sequences that the network was not trained on.
        targets: (sequences,), the class of each.
    """
    z = logits.double()
    count, classes = z.shape
    wanted = torch.full_like(z, _MORE / classes)
    wanted[torch.arange(count), targets] += count
    wanted /= count + _MORE

    def slope(inverse: float) -> Tensor:
        """Derivative of the cross-entropy by 1 / temperature; it never falls."""
        excess = torch.softmax(z * inverse, dim=1) - wanted
        return (excess * z).sum()

    low, high = 1 / _MOST, 1 / _LEAST
    for _ in range(_HALVINGS):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return 1 / math.sqrt(low * high)
