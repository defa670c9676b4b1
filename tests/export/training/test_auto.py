"""Choosing: one change at a time, kept on clear evidence alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from seqserve_export import auto
from seqserve_export.auto import FOLDS, Outcome
from seqserve_export.config import TrainingConfig
from seqserve_export.examples import Examples
from seqserve_export.recipe import Recipe, settle

BASE = settle(TrainingConfig(), 270)


def _outcome(losses: Tensor, recipe: Recipe = BASE) -> Outcome:
    """An outcome with these losses: two classes, the first one right."""
    zeros = torch.zeros(len(losses), dtype=torch.int64)
    logits = torch.stack([torch.zeros(len(losses)), torch.log(torch.expm1(losses))], dim=1)
    return Outcome(recipe, logits, Examples(torch.zeros(1, 1), zeros, zeros + 1, zeros))


def test_every_head_is_tried_and_the_best_without_noise_and_slower() -> None:
    tried = auto.changes(TrainingConfig())
    outcomes: list[Outcome] = []
    for loss in (0.5, 0.3, 0.9, 0.4, 0.1):
        recipe = auto.candidate(BASE, tried, outcomes)
        outcomes.append(_outcome(torch.full((50,), loss), recipe))

    assert [outcome.recipe.head for outcome in outcomes] == ["max", "mean", "last", "mean", "mean"]
    assert [outcome.recipe.input_noise for outcome in outcomes] == [0.6, 0.6, 0.6, 0, 0.6]
    assert [outcome.recipe.learning_rate for outcome in outcomes] == [*[0.01] * 4, 0.003]
    assert len(tried) == 5
    assert auto.choose(outcomes) is outcomes[4]


def test_what_the_user_gave_is_not_tried_otherwise() -> None:
    config = TrainingConfig(head="last", input_noise=0.2, learning_rate=0.1)

    assert auto.changes(config) == [{}]
    assert auto.candidate(settle(config, 270), [{}], []).head == "last"


def test_an_earlier_candidate_gives_way_to_clear_evidence() -> None:
    before = torch.rand(100, generator=torch.Generator().manual_seed(0)) + 0.5

    assert auto.choose([_outcome(before), better := _outcome(before - 0.1)]) is better


@pytest.mark.parametrize("gain", ["too small", "of a few sequences alone"])
def test_an_earlier_candidate_stays_without_clear_evidence(gain: str) -> None:
    before = torch.rand(100, generator=torch.Generator().manual_seed(0)) + 0.5
    after = before.clone()
    if gain == "too small":
        after -= 0.01
    else:
        after[:3] = 0.01
        after[3:] += 0.002

    assert float(after.mean()) < float(before.mean())
    assert auto.choose([first := _outcome(before), _outcome(after)]) is first


@given(st.lists(st.integers(0, 4), min_size=2, max_size=300), st.integers(0, 9))
def test_folds_spread_every_class_evenly(targets: list[int], seed: int) -> None:
    classes = torch.tensor(targets)

    folds = auto.stratified_folds(classes, seed)

    for members in (folds, *(folds[classes.numpy() == c] for c in set(targets))):
        sizes = np.bincount(members, minlength=FOLDS)
        assert sizes.max() - sizes.min() <= 1


@given(st.integers(2, 5000))
def test_about_a_hundred_sequences_are_judged_by_where_there_are_as_many(sequences: int) -> None:
    rounds = auto.rounds(sequences)

    assert 1 <= rounds <= 3
    assert rounds == 3 or rounds * sequences / FOLDS >= 100


@pytest.mark.parametrize(("rounds", "updates"), [(1, 500), (2, 333), (3, 250)])
def test_a_trial_is_a_short_run(rounds: int, updates: int) -> None:
    assert auto.trial(BASE, 270, rounds).total_updates(216) == updates


def test_a_trial_of_a_run_by_epochs_is_short_too() -> None:
    recipe = settle(TrainingConfig(epochs=50, auto=True), 270)

    assert auto.trial(recipe, 270, 1).total_updates(270) == math.ceil(270 / recipe.batch_size) * 25
