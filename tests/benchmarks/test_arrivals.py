"""Arrivals against the rates they are drawn for."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.virtual_fleet.arrivals import arrivals, burst, diurnal, steady


def test_as_many_come_as_the_rate_says_at_random_moments() -> None:
    times_s = arrivals(steady(1_000), 1_000, seconds=100, seed=0)

    assert len(times_s) == pytest.approx(100_000, rel=0.02)
    between_s = np.diff(times_s)
    assert (between_s >= 0).all()
    assert between_s.std() == pytest.approx(between_s.mean(), rel=0.02)  # as of a Poisson process


def test_a_burst_is_as_many_times_the_rate_while_it_lasts() -> None:
    times_s = arrivals(burst(1_000, 3.0, 20, 40), 3_000, seconds=60, seed=0)

    counts, _ = np.histogram(times_s, [0, 20, 40, 60])
    assert counts == pytest.approx([20_000, 60_000, 20_000], rel=0.03)


def test_a_day_has_its_peak_at_noon_and_its_mean_over_all() -> None:
    times_s = arrivals(diurnal(1_000, 1.8, 100), 1_800, seconds=100, seed=0)

    assert len(times_s) == pytest.approx(100_000, rel=0.02)
    counts, _ = np.histogram(times_s, [0, 2, 49, 51, 100])
    assert counts[0] == pytest.approx(400, rel=0.2)  # 0.2 of the mean
    assert counts[2] == pytest.approx(3_600, rel=0.05)


def test_a_rate_beyond_the_highest_is_refused() -> None:
    with pytest.raises(ValueError, match="the rate reaches 3000, and not 1000 at most"):
        arrivals(burst(1_000, 3.0, 0, 1), 1_000, seconds=1, seed=0)
