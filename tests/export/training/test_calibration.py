"""The temperature is that of the lowest cross-entropy, and stays sane where there is no such."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from seqserve_export.calibration import fit_temperature


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_finds_the_temperature_that_the_labels_were_drawn_with(temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(20_000, 5, generator=generator)
    probabilities = torch.softmax(logits / temperature, dim=1)
    targets = torch.multinomial(probabilities, 1, generator=generator)[:, 0]

    assert fit_temperature(logits, targets) == pytest.approx(temperature, rel=0.05)


def test_no_temperature_near_it_has_a_lower_cross_entropy() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = 5 * torch.randn(5_000, 3, generator=generator)
    targets = torch.where(torch.arange(5_000) % 2 == 0, logits.argmax(dim=1), 0)
    best = fit_temperature(logits, targets)

    losses = [float(cross_entropy(logits / t, targets)) for t in (best * 0.8, best, best * 1.25)]

    assert losses[1] == min(losses)


def test_a_small_set_without_a_mistake_does_not_make_the_model_certain() -> None:
    logits = 4 * torch.eye(2)[[0, 1, 0, 1, 0]]
    targets = torch.tensor([0, 1, 0, 1, 0])

    probability = torch.softmax(logits / fit_temperature(logits, targets), dim=1).amax()

    assert float(probability) == pytest.approx(6 / 7, abs=1e-3)


@given(st.integers(1, 20), st.integers(2, 5), st.floats(0, 1e4), st.integers(0, 9))
def test_the_temperature_is_always_a_usable_number(
    count: int, classes: int, scale: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(count, classes, generator=generator)
    targets = torch.randint(classes, (count,), generator=generator)

    assert 0.05 <= fit_temperature(logits, targets) <= 20
