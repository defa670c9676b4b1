"""Makes the golden set: synthetic sequences, torch's answers, and the companies to run them in.

The sequences are drawn around the standardisation; nothing of the training data is in them.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from seqserve.golden import Case, GoldenSet
from seqserve.ragged import RaggedBatch
from seqserve_export.device import undisturbed
from seqserve_export.network import SequenceClassifier

Numbers = NDArray[np.floating[Any]]

POOL = 64
"""Sequences, as many as the largest batch has rows."""
SHORT_STEPS = 24
"""Most sequences are no longer than this, so that a server proves them quickly at its start."""
LONGEST_STEPS = 8192
"""The longest sequence is as long as the longest of the training set, up to this."""
GARBAGE = 1e3
"""Scale of what fills the padding where a case fills it, in standard deviations."""


def make_golden(
    network: SequenceClassifier, longest_steps: int, *, admit_non_finite: bool = False
) -> GoldenSet:
    """Draws the pool, asks torch about each sequence on its own, and lays out the cases.

    Args:
        network: In eval mode, on the CPU.
        longest_steps: Steps of the longest training sequence.
        admit_non_finite: Whether some sequences have a NaN or an infinity.
    """
    rng = np.random.default_rng(0)
    pool = _pool(network, min(longest_steps, LONGEST_STEPS), rng)
    if admit_non_finite:
        pool = _with_non_finite(pool)
    logits, probabilities = _answers(network, pool)
    scale = GARBAGE * float(network.scale.max())
    return GoldenSet(pool, logits, probabilities, _cases(network, pool, scale, rng))


def rounding(network: SequenceClassifier, golden_set: GoldenSet) -> float:
    """How far torch's own logits in float32 are from those in float64, at the most.

    Says whether a difference is the graph's fault, or in the nature of the weights.
    """
    exact, _ = _answers(copy.deepcopy(network).double(), golden_set.pool)
    return float(np.nanmax(np.abs(exact - golden_set.logits)))


def _pool(network: SequenceClassifier, longest_steps: int, rng: np.random.Generator) -> RaggedBatch:
    """The first three have 1, 2 and the most steps, the rest anything up to SHORT_STEPS."""
    lengths = rng.integers(1, min(longest_steps, SHORT_STEPS), POOL, endpoint=True)
    lengths[:3] = [1, min(2, longest_steps), longest_steps]
    # Some sequences lie far out, where the gates saturate.
    spread = rng.choice([0.5, 1.0, 3.0], POOL).repeat(lengths)[:, None]
    standard = spread * rng.standard_normal((int(lengths.sum()), network.config.features))
    values = network.mean.numpy() + network.scale.numpy() * standard
    return RaggedBatch(values.astype(np.float32), lengths)


def _with_non_finite(pool: RaggedBatch) -> RaggedBatch:
    """The same, every fourth sequence with one number that is not finite."""
    rng = np.random.default_rng(1)  # of its own, so that all other numbers stay
    values = pool.values.copy()
    for sequence in range(3, len(pool), 4):
        step = rng.integers(pool.offsets[sequence], pool.offsets[sequence + 1])
        values[step, rng.integers(pool.features)] = rng.choice([np.nan, np.inf, -np.inf])
    return RaggedBatch(values, pool.lengths)


def _answers(network: SequenceClassifier, pool: RaggedBatch) -> tuple[Numbers, Numbers]:
    """Logits and probabilities of torch for each sequence on its own."""
    # Steps of one sequence are too small to share: on busy cores that takes 50 times as long.
    with torch.inference_mode(), undisturbed(torch.device("cpu"), threads=1):
        logits = torch.cat(
            [
                network(
                    torch.tensor(sequence, dtype=network.mean.dtype)[None],
                    torch.tensor([len(sequence)]),
                )
                for sequence in pool
            ]
        )
        return logits.numpy(), network.probabilities(logits).numpy()


def _cases(
    network: SequenceClassifier, pool: RaggedBatch, garbage: float, rng: np.random.Generator
) -> tuple[Case, ...]:
    """Batches of 64, 7, 2 and 1; the longest sequence only in small ones."""
    everyone = np.arange(len(pool))
    shortest, two_steps, longest = everyone[:3]
    # All but the longest, and one of them twice, to make 64.
    short = np.append(np.delete(everyone, longest), shortest)
    seven, other_seven = rng.choice(short, (2, 7), replace=False)
    cases = [
        Case("64 rows", short),
        Case("64 rows, shuffled, padded", rng.permutation(short), 3, garbage),
        Case("7 rows", seven),
        Case("7 rows, reversed, padded", seven[::-1], 5, garbage),
        Case("7 rows, others", other_seven, 0, garbage),
        Case("2 rows, longest and shortest", np.array([longest, shortest]), 0, garbage),
        Case("2 rows, two steps and one", np.array([two_steps, shortest]), 1, garbage),
        Case("1 row, one step", np.array([shortest])),
        Case("1 row, one step, padded", np.array([shortest]), 4, garbage),
        Case("1 row, two steps", np.array([two_steps])),
        Case("1 row, longest", np.array([longest])),
        Case("1 row", seven[:1], 1, garbage),
    ]
    if not network.config.bidirectional:
        third = max(1, int(pool.lengths[longest]) // 3)
        cases += [
            Case("64 rows, pieces of 5 steps", short, 0, garbage, 5),
            Case("7 rows, pieces of 3 steps", seven, 0, garbage, 3),
            Case("7 rows, pieces of 1 step", other_seven, 0, garbage, 1),
            Case("2 rows, longest in three", np.array([shortest, longest]), 0, garbage, third),
            Case("1 row, pieces of 1 step", other_seven[:1], 0, 0.0, 1),
        ]
    return tuple(cases)
