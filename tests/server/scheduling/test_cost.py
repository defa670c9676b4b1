"""Costs that are known, and what the model makes of turns that took them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import astuple, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqserve_server.scheduling.cost import Coefficients, CostModel, Spent

TRUE = Coefficients(
    turn=200e-6, run=60e-6, step=1e-6, row=2e-6, row_step=3e-6, carry=1.5e-6
)  # wider than the default


def _seconds(of: Coefficients, spent: Spent) -> float:
    return (
        of.turn
        + of.run * spent.runs
        + of.step * spent.steps
        + of.row * spent.rows
        + of.row_step * spent.row_steps
        + of.carry * spent.carried
    )


def _turns(of: Coefficients, count: int, *, noise: float = 0.0, seed: int = 0) -> Iterator[Spent]:
    """Turns of one to eight runs, of one to 60 rows and steps each, and what they took."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        rows, steps = rng.integers(1, 61, (2, rng.integers(1, 9)))
        carried = int(rows[rng.random(len(rows)) < 0.5].sum())
        spent = Spent(
            len(rows), int(steps.sum()), int(rows.sum()), int(rows @ steps), carried, seconds=0.0
        )
        yield _taking(spent, _seconds(of, spent) * math.exp(noise * rng.standard_normal()))


def _taking(spent: Spent, seconds: float) -> Spent:
    return replace(spent, seconds=seconds)


def _worst_error(of: CostModel, true: Coefficients) -> float:
    """Of turns like those it has seen: how far the prediction is off, relative, at most."""
    errors = [abs(_seconds(of.now, turn) / turn.seconds - 1) for turn in _turns(true, 300, seed=99)]
    return max(errors)


def test_turns_of_known_costs_are_predicted_after_calibration() -> None:
    cost = CostModel()
    cost.calibrate(list(_turns(TRUE, 200)))

    assert _worst_error(cost, TRUE) < 0.1
    assert cost.now.row_step == pytest.approx(TRUE.row_step, rel=0.1)


def test_noise_hardly_matters() -> None:
    cost = CostModel()
    cost.calibrate(list(_turns(TRUE, 500, noise=0.2)))

    assert _worst_error(cost, TRUE) < 0.2
    assert cost.now.row_step == pytest.approx(TRUE.row_step, rel=0.2)


def test_a_run_and_a_row_alone_cost_what_their_coefficients_say() -> None:
    cost = CostModel(TRUE)

    assert cost.run_s(4, 10) == pytest.approx(60e-6 + 10e-6 + 4 * 2e-6 + 40 * 3e-6)
    assert cost.alone_s(10) == pytest.approx(200e-6 + cost.run_s(1, 10))


@pytest.mark.parametrize("factor", [0.5, 2.0], ids=["faster", "slower"])
def test_a_machine_that_changes_its_pace_is_followed(factor: float) -> None:
    cost = CostModel()
    cost.calibrate(list(_turns(TRUE, 60)))
    changed = Coefficients(*(factor * each for each in astuple(TRUE)))
    for turn in _turns(changed, 3000, seed=1):
        cost.observe(turn)

    assert _worst_error(cost, changed) < 0.4


def test_what_the_traffic_says_nothing_about_stays_as_it_was() -> None:
    cost = CostModel()
    cost.calibrate(list(_turns(TRUE, 200)))
    before = cost.now
    alone = Spent(runs=1, steps=20, rows=1, row_steps=20, carried=0, seconds=0.0)
    for _ in range(1000):  # single callers only, for long
        cost.observe(_taking(alone, _seconds(TRUE, alone)))

    assert _worst_error(cost, TRUE) < 0.1
    assert cost.now.row_step == pytest.approx(before.row_step, rel=0.05)


counts = st.integers(0, 10**6)
odd = st.builds(
    Spent, counts, counts, counts, counts, counts, st.floats(1e-9, 1e5, allow_nan=False)
)


@given(st.lists(odd, max_size=20), st.integers(1, 30))
def test_no_traffic_makes_a_cost_negative_infinite_or_no_number(
    turns: list[Spent], times: int
) -> None:
    cost = CostModel()
    for turn in turns * times:
        cost.observe(turn)

    assert all(0 < each < math.inf for each in astuple(cost.now))
    assert 0 < cost.run_s(1, 1) <= cost.run_s(2, 1) <= cost.run_s(2, 2) < math.inf


def test_the_pace_follows_what_turns_take() -> None:
    cost = CostModel(TRUE)
    for _ in range(1000):
        cost.keep_pace(predicted_s=0.01, elapsed_s=0.02)

    assert cost.pace == pytest.approx(2.0, rel=0.01)


def test_a_short_turn_weighs_little_in_the_pace() -> None:
    cost = CostModel(TRUE)
    cost.keep_pace(predicted_s=1e-5, elapsed_s=1e-3)

    assert cost.pace < 1.3


def test_calls_of_one_step_do_not_make_long_rows_look_dear() -> None:
    cost = CostModel(TRUE)
    before = cost.company_s(256, 256 * 50)
    for _ in range(6000):
        elapsed = cost.alone_s(1)
        cost.keep_pace(cost.alone_s(1), elapsed)

    assert cost.pace * cost.company_s(256, 256 * 50) == pytest.approx(before)
