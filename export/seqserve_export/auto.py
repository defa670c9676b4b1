"""Chooses head and schedule by validation: one change at a time, kept on clear evidence.

Every candidate is a whole recipe, tried in a short run on the same held-out sequences.
What to try next is a function of the candidates' outcomes so far, so a resumed run goes on
where it stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from seqserve_export.config import TrainingConfig
from seqserve_export.examples import Examples
from seqserve_export.recipe import Recipe

FOLDS = 5
_HELD_OUT, _MOST_ROUNDS = 100, 3
_MOST_UPDATES = 2000
_FAST, _SLOW = 0.01, 0.003
_LEAST_GAIN, _STANDARD_ERRORS = 0.02, 2.0


@dataclass(frozen=True)
class Outcome:
    """How a candidate did on the sequences held out from it."""

    recipe: Recipe
    """The candidate, as it would train the model."""
    logits: Tensor
    """(held-out sequences, classes), each from a network that had not seen the sequence."""
    held_out: Examples
    """The sequences, the same for every candidate."""

    @property
    def losses(self) -> Tensor:
        """(held-out sequences,), the cross-entropy of each, in nats."""
        return functional.cross_entropy(
            self.logits.double(), self.held_out.targets, reduction="none"
        )


def changes(config: TrainingConfig) -> list[dict[str, Any]]:
    """Where to start and what to try in turn, as settings to change, but none that were given."""
    start: dict[str, Any] = {}
    more: list[dict[str, Any]] = []
    if config.head is None:
        start |= {"head": "max"}
        more += [{"head": "mean"}, {"head": "last"}]
    if config.input_noise is None and config.input_dropout is None:
        more += [{"input_noise": 0.0, "input_dropout": 0.0}]
    if config.learning_rate is None and config.optimizer != "adam":
        start |= {"learning_rate": _FAST}
        more += [{"learning_rate": _SLOW}]
    return [start, *more]


def candidate(base: Recipe, tried: Sequence[dict[str, Any]], outcomes: Sequence[Outcome]) -> Recipe:
    """The candidate whose outcome is the next to be known: the best so far, and one change."""
    best = choose(outcomes).recipe if outcomes else base
    return replace(best, **tried[len(outcomes)])


def choose(outcomes: Sequence[Outcome]) -> Outcome:
    """The best of the outcomes; an earlier one gives way to clear evidence alone."""
    best = outcomes[0]
    for outcome in outcomes[1:]:
        if _clearly_better(outcome.losses, best.losses):
            best = outcome
    return best


def trial(recipe: Recipe, sequences: int, rounds: int) -> Recipe:
    """The candidate's recipe cut short, the more so the more often it is run.

    Args:
        recipe: The candidate.
        sequences: In the whole training set.
        rounds: Folds that are held out in turn.
    """
    updates = min(recipe.total_updates(sequences), _MOST_UPDATES)
    return replace(recipe, epochs=None, updates=max(updates // (rounds + 1), 1))


def rounds(sequences: int) -> int:
    """Folds to hold out in turn, so that about a hundred sequences are judged by."""
    return min(-(-_HELD_OUT * FOLDS // sequences), _MOST_ROUNDS)


def stratified_folds(targets: Tensor, seed: int) -> NDArray[np.int64]:
    """(sequences,), the fold of each: every class spread evenly, every fold alike in size."""
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(targets))
    by_class = shuffled[np.argsort(targets.numpy()[shuffled], kind="stable")]
    folds = np.empty(len(targets), np.int64)
    # Dealt out like cards, class after class.
    folds[by_class] = np.arange(len(targets)) % FOLDS
    return folds


def _clearly_better(losses: Tensor, best: Tensor) -> bool:
    """Whether the mean falls by two standard errors of the paired differences, and visibly."""
    gain = best - losses
    error = float(gain.std() / len(gain) ** 0.5) if len(gain) > 1 else float("inf")
    return float(gain.mean()) > max(_STANDARD_ERRORS * error, _LEAST_GAIN)
