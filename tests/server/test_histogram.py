from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqserve_server.observability.histogram import POWERS_OF_TWO, SECONDS, Histogram

VALUES = st.lists(st.one_of(st.floats(-1.0, 200.0), st.sampled_from(SECONDS)), max_size=100)


@given(VALUES)
def test_a_value_is_counted_at_the_first_bound_that_it_is_not_above(values: list[float]) -> None:
    together, alone = Histogram(), Histogram()
    together.observe_all(np.array(values))
    for value in values:
        alone.observe(value)

    bounds = SECONDS[::7]
    expected = [sum(value <= bound for value in values) for bound in bounds]
    assert together.counts == alone.counts
    assert together.not_above(bounds) == expected
    assert together.count == len(values)
    assert together.total == pytest.approx(sum(values), abs=1e-6)


@given(VALUES, VALUES)
def test_what_was_added_since_and_what_was_before_make_the_whole(
    first: list[float], then: list[float]
) -> None:
    whole = Histogram()
    whole.observe_all(np.array(first))
    before = whole.copy()
    whole.observe_all(np.array(then))
    since = whole - before

    assert since.count == len(then)
    assert before.count == len(first), "a copy does not go on counting"
    assert (before + since).counts == whole.counts
    assert (before + since).total == pytest.approx(whole.total)


@pytest.mark.parametrize("bounds", [SECONDS, POWERS_OF_TWO], ids=["seconds", "powers of two"])
def test_bounds_rise(bounds: tuple[float, ...]) -> None:
    assert list(bounds) == sorted(set(bounds))


def test_a_label_of_a_bound_is_a_short_number() -> None:
    assert {len(repr(bound)) for bound in SECONDS} <= set(range(3, 9))
    assert {0.00025, 0.5, 1.0, 2.5, 100.0} <= set(SECONDS)
