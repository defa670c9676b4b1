"""What running costs: a linear model, fitted where it runs and kept current.

A lane's *turn* prepares several runs at once. Its time is taken as

    turn + run · runs + step · Σ steps + row · Σ rows + row_step · Σ rows × steps + carry · carried

with all coefficients at least 0: `turn` and `run` hold what Python and onnxruntime spend however
small the work, `step` what a step costs beside its rows, `carry` the saving of the state of a row
that goes on in a later turn. Fitted by least squares of the relative error.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

_MEMORY_TURNS = 500.0
"""Turns after which an observation counts for 1 / e."""
_REFIT_TURNS = 100
_PRIOR_MEMORY_TURNS = 5_000.0
"""The same for those of the warm-up."""
_PULL = 1e-2
"""How strongly a fit is drawn to the one before, as a part of what was observed."""
_PACE_S = 0.5
"""How long a lane's pace is remembered, about."""
_MOST_PACE = 100.0
COMPANY_ROWS = 16
"""Rows that a run is taken to have, where it is not known and may have as many."""


@dataclass(frozen=True)
class Spent:
    """What a turn did, and how long it took."""

    runs: int
    steps: int
    """Steps, summed over runs."""
    rows: int
    """Rows, summed over runs."""
    row_steps: int
    """Rows × steps, summed over runs: padding included."""
    carried: int
    """Rows of runs that began with a state or kept one."""
    seconds: float


@dataclass(frozen=True)
class Coefficients:
    """Seconds each; see the module."""

    turn: float
    run: float
    step: float
    row: float
    row_step: float
    carry: float


DEFAULT = Coefficients(150e-6, 35e-6, 0.5e-6, 0.3e-6, 1.5e-6, 0.5e-6)
"""Before anything was measured: an LSTM of 2 layers and 64 units on a core of 2025."""

_FLOOR = np.array([20e-6, 10e-6, 1e-9, 10e-9, 10e-9, 10e-9])
"""What can be believed: policies divide by these."""


class CostModel:
    """Predicts how long runs take, from the turns that were observed."""

    def __init__(self, coefficients: Coefficients = DEFAULT) -> None:
        self.now = coefficients
        self._prior = _Normal()
        self._recent = _Normal()
        self._observed: list[Spent] = []  # since the last fit
        self.pace = 1.0
        """How many times its prediction a turn has taken of late, all interruptions included."""

    def run_s(self, rows: int, steps: int) -> float:
        """Seconds of one run, the turn around it left out."""
        now = self.now
        return now.run + now.step * steps + (now.row + now.row_step * steps) * rows

    def alone_s(self, steps: int) -> float:
        """Seconds of one row that has a lane for itself."""
        return self.now.turn + self.run_s(1, steps)

    def company_s(self, rows: int, steps: int, company: int = COMPANY_ROWS) -> float:
        """Seconds of a lane for rows with so many steps together, of runs of so many rows."""
        now = self.now
        a_row = now.row + now.run / company
        a_step = now.row_step + now.step / company
        return a_row * rows + a_step * steps

    def calibrate(self, observed: Sequence[Spent]) -> None:
        """Fits to the turns of a warm-up, at least one; they fade slowly."""
        self._prior = _Normal()
        self._prior.add(observed, np.ones(len(observed)))
        # Where few shapes were run, what they do not tell is as it is elsewhere, but slower.
        times = statistics.median(
            spent.seconds / float(_features(spent) @ _vector(DEFAULT)) for spent in observed
        )
        self.now = Coefficients(*(times * _vector(DEFAULT)).tolist())
        self._fit()

    def observe(self, spent: Spent) -> None:
        """Takes a turn into account."""
        self._observed.append(spent)
        if len(self._observed) == _REFIT_TURNS:
            self._prior.fade(_REFIT_TURNS / _PRIOR_MEMORY_TURNS)
            self._recent.fade(_REFIT_TURNS / _MEMORY_TURNS)
            ages = np.arange(_REFIT_TURNS)[::-1]
            self._recent.add(self._observed, np.exp(-ages / _MEMORY_TURNS))
            self._observed.clear()
            self._fit()

    def keep_pace(self, predicted_s: float, elapsed_s: float) -> None:
        """Notes how long a turn took, whatever the lane did in between.

        Args:
            predicted_s: By `turn` and `run_s`.
            elapsed_s: From its beginning to its end.
        """
        weight = min(1.0, elapsed_s / _PACE_S)
        ratio = min(max(elapsed_s / predicted_s, 1 / _MOST_PACE), _MOST_PACE)
        self.pace += weight * (ratio - self.pace)

    def _fit(self) -> None:
        start = _vector(self.now)
        fitted = _non_negative(
            self._prior.gram + self._recent.gram, self._prior.moment + self._recent.moment, start
        )
        self.now = Coefficients(*np.maximum(fitted, _FLOOR).tolist())


def _features(spent: Spent) -> Vector:
    """What each coefficient is multiplied with."""
    return np.array(
        [1, spent.runs, spent.steps, spent.rows, spent.row_steps, spent.carried], np.float64
    )


def _vector(coefficients: Coefficients) -> Vector:
    return np.array(list(vars(coefficients).values()))


class _Normal:
    """The normal equations of the turns seen: relative errors, so that short turns count."""

    def __init__(self) -> None:
        self.gram = np.zeros((6, 6))
        self.moment = np.zeros(6)

    def add(self, observed: Sequence[Spent], weights: Vector) -> None:
        """Takes turns in, each with a weight."""
        features = np.array([_features(spent) / spent.seconds for spent in observed])
        self.gram += (weights * features.T) @ features
        self.moment += weights @ features

    def fade(self, memories: float) -> None:
        """Lets what is there count for less: for 1 / e after one memory."""
        self.gram *= math.exp(-memories)
        self.moment *= math.exp(-memories)


def _non_negative(gram: Vector, moment: Vector, start: Vector) -> Vector:
    """Minimises x·gram·x / 2 − moment·x over x ≥ 0, what would be below 0 held at 0.

    Drawn a little towards where the last fit stood: a direction that the traffic says nothing
    about stays put.
    """
    pull = _PULL * gram.diagonal() + 1e-12
    gram = gram + np.diag(pull)
    moment = moment + pull * start
    free = np.ones(len(start), np.bool_)
    while True:
        x = np.zeros(len(start))
        x[free] = np.linalg.solve(gram[np.ix_(free, free)], moment[free])
        if (x >= 0).all():
            return x
        free &= x > 0
