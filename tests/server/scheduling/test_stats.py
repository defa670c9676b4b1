from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqserve_server.scheduling.pool import Batch
from seqserve_server.scheduling.stats import Stats

PADDED = [Batch(0, 4, 10), Batch(4, 5, 60)]  # 4 rows × 10 steps, 1 row × 60 steps


def test_turns_add_up() -> None:
    stats = Stats()
    stats.ran(PADDED, useful_steps=80, run_s=[0.125, 0.125])
    stats.ran([Batch(0, 2, 10)], useful_steps=20, run_s=[0.5])

    assert (stats.turns, stats.runs, stats.run_rows, stats.run_steps) == (2, 3, 7, 80)
    assert (stats.steps, stats.computed_steps, stats.run_s) == (100, 120, 0.75)
    assert stats.useful_fraction == pytest.approx(100 / 120)


def test_who_was_answered_is_counted_by_request_and_by_sequence() -> None:
    stats = Stats()
    stats.answered([3, 1])
    stats.answered([])
    stats.answered([32])

    assert (stats.requests, stats.sequences) == (3, 36)


@given(
    st.lists(st.floats(2e-5, 90.0), min_size=1, max_size=300),
    st.floats(0.01, 1.0),
)
def test_a_quantile_of_the_waits_is_off_by_a_bins_width_at_most(
    waits: list[float], quantile: float
) -> None:
    stats = Stats()
    for part in np.array_split(np.array(waits), 3):
        stats.waited(part)

    exact = float(np.quantile(waits, quantile, method="inverted_cdf"))
    width = 1.125  # of the widest of the bins
    assert exact / width * 0.999 <= stats.wait_s(quantile) <= exact * width * 1.001


def test_waits_beyond_the_bins_are_counted_at_their_ends() -> None:
    stats = Stats()
    stats.waited(np.array([-1e-9, 0.0, 5e3]))

    assert stats.wait_s(0.5) == pytest.approx(1e-5)
    assert stats.wait_s(1.0) == pytest.approx(100.0)


def test_where_nobody_waited_the_wait_is_nothing() -> None:
    assert Stats().wait_s(0.99) == 0.0


def test_what_was_added_since_is_told_apart_from_what_was_before() -> None:
    stats = Stats()
    stats.ran(PADDED, useful_steps=80, run_s=[0.125, 0.125])
    stats.waited(np.array([1.0] * 10))
    before = stats.copy()
    stats.ran(PADDED[:1], useful_steps=40, run_s=[0.5])
    stats.waited(np.array([0.001]))
    since = stats.since(before)

    assert (since.turns, since.steps, since.run_s, since.useful_fraction) == (1, 40, 0.5, 1.0)
    assert since.wait_s(1.0) == pytest.approx(0.001, rel=0.13)
    assert before.turns == 1, "a copy does not go on counting"


def test_the_line_is_made_of_names_and_numbers() -> None:
    stats = Stats()
    stats.ran(PADDED, useful_steps=80, run_s=[0.125, 0.125])
    stats.answered([5])
    stats.waited(np.array([0.01] * 5))
    kind, _, rest = stats.line(seconds=10.0).partition(": ")
    numbers = {name: float(number) for name, number in (p.split("=") for p in rest.split(" "))}

    assert kind == "stats"
    assert numbers["seconds"] == 10
    assert numbers["requests"] == 1
    assert numbers["sequences"] == 5
    assert numbers["useful_fraction"] == 0.8
    assert numbers["rows_per_run"] == 2.5
    assert numbers["steps_per_run"] == 35
    assert numbers["runs_per_turn"] == 2
    assert numbers["queue_wait_p50_ms"] == pytest.approx(10, rel=0.13)
    assert numbers["run_s"] == 0.25


def test_the_line_of_a_server_that_did_nothing_holds_numbers_too() -> None:
    line = Stats().line(seconds=0.0)

    assert "nan" not in line
    assert "inf" not in line
    assert "useful_fraction=1.000" in line
