from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqserve_data import DataError, stratified_split

LABELS = st.lists(st.sampled_from("abcde"), min_size=2).filter(
    lambda labels: max(Counter(labels).values()) > 1
)
FRACTIONS = st.floats(0, 1, exclude_min=True, exclude_max=True)
SEEDS = st.integers(0, 2**32)


@given(LABELS, FRACTIONS, SEEDS)
def test_every_sequence_is_trained_on_or_held_out(
    labels: list[str], fraction: float, seed: int
) -> None:
    train, held_out = stratified_split(labels, fraction, seed)
    assert sorted([*train, *held_out]) == list(range(len(labels)))
    assert list(train) == sorted(train)
    assert list(held_out) == sorted(held_out)


@given(LABELS, FRACTIONS, SEEDS)
def test_every_class_is_trained_on_and_those_of_two_or_more_held_out(
    labels: list[str], fraction: float, seed: int
) -> None:
    train, held_out = stratified_split(labels, fraction, seed)
    trained = Counter(labels[index] for index in train)
    held = Counter(labels[index] for index in held_out)
    for label, count in Counter(labels).items():
        assert trained[label] >= 1
        assert held[label] >= (count > 1)
        # As near to the fraction as the two bounds above allow.
        assert abs(held[label] - fraction * count) <= max(0.5, 1 - fraction, fraction) + 1e-9


@given(LABELS, FRACTIONS, SEEDS)
def test_a_split_depends_on_the_seed_alone(labels: list[str], fraction: float, seed: int) -> None:
    once, again = (stratified_split(list(labels), fraction, seed) for _ in range(2))
    np.testing.assert_array_equal(once[0], again[0])
    np.testing.assert_array_equal(once[1], again[1])


def test_seeds_give_different_splits_that_reach_every_sequence() -> None:
    labels = ["a"] * 30 + ["b"] * 10
    held = [frozenset(stratified_split(labels, 0.2, seed)[1].tolist()) for seed in range(100)]
    assert len(set(held)) > 90
    assert frozenset.union(*held) == set(range(40))
    assert {len(indices) for indices in held} == {8}


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 2.0, math.nan])
def test_a_fraction_that_leaves_nothing_is_refused(fraction: float) -> None:
    with pytest.raises(DataError, match="lies above 0 and below 1"):
        stratified_split(["a", "a"], fraction, 0)


@pytest.mark.parametrize("labels", [[], ["a"], ["a", "b"]], ids=["none", "one", "two classes"])
def test_nothing_is_held_out_of_classes_of_one(labels: list[str]) -> None:
    with pytest.raises(DataError, match="no class has two examples"):
        stratified_split(labels, 0.5, 0)
