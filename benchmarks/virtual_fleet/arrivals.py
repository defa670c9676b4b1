"""When calls come: at random moments, at a rate that changes with time."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Rate = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""Calls a second at these moments."""


def steady(rate: float) -> Rate:
    """Always the same."""
    return lambda times_s: np.full(len(times_s), rate)


def diurnal(mean: float, peak: float, day_s: float) -> Rate:
    """A day from night to night: a sine about its mean, `peak` times that at noon."""
    return lambda times_s: mean * (1 - (peak - 1) * np.cos(2 * math.pi * times_s / day_s))


def burst(rate: float, times: float, begin_s: float, end_s: float) -> Rate:
    """So many times the rate for a while."""
    return lambda times_s: np.where(
        (times_s >= begin_s) & (times_s < end_s), times * rate, rate
    ).astype(np.float64)


def arrivals(rate: Rate, highest: float, seconds: float, seed: int) -> NDArray[np.float64]:
    """The moments of a Poisson process of this rate, ascending.

    By thinning (Lewis and Shedler, 1979).

    Args:
        rate: At each moment.
        highest: Which it never exceeds.
        seconds: From 0 on.
        seed: Of the draw.

    Raises:
        ValueError: the rate exceeds the highest.
    """
    rng = np.random.default_rng(seed)
    count = rng.poisson(highest * seconds)
    times_s = np.sort(rng.uniform(0, seconds, count))
    kept = rate(times_s) / highest
    if kept.max(initial=0) > 1 + 1e-9:
        raise ValueError(f"the rate reaches {kept.max() * highest:g}, and not {highest:g} at most")
    taken: NDArray[np.float64] = times_s[rng.uniform(size=count) < kept]
    return taken
