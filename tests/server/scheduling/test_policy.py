"""Which rows run together: a function of values."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from seqserve_server.scheduling.cost import DEFAULT, Coefficients, CostModel
from seqserve_server.scheduling.policy import RUN_LIMIT_S, Run, group, run_limit_s

WIDE = Coefficients(turn=150e-6, run=35e-6, step=5e-6, row=1e-6, row_step=40e-6, carry=2e-6)
TINY = Coefficients(turn=150e-6, run=50e-6, step=1e-8, row=1e-8, row_step=1e-8, carry=1e-8)

seconds = st.floats(1e-8, 1e-3)
costs = st.sampled_from([DEFAULT, DEFAULT, WIDE, TINY]) | st.builds(
    Coefficients, seconds, seconds, seconds, seconds, seconds, seconds
)
lengths = (
    st.lists(st.integers(1, 120), min_size=1, max_size=40)
    | st.lists(st.integers(1, 3000), min_size=1, max_size=40)
    | st.builds(lambda length, count: [length] * count, st.integers(1, 300), st.integers(1, 80))
)


@st.composite
def situations(draw: st.DrawFn, whole: bool | None = None) -> dict[str, Any]:
    """What `group` may be asked."""
    remaining = draw(lengths)
    due = draw(st.permutations(range(len(remaining))))
    return {
        "remaining": np.array(remaining),
        "due": np.array(due, np.float64) / 100,
        "cost": CostModel(draw(costs)),
        "whole": draw(st.booleans()) if whole is None else whole,
        "budget_s": draw(st.sampled_from([0.0, 1e-4, 3e-3, 10.0])),
        "max_row_steps": draw(st.sampled_from([1, 100, 5000, 1 << 30])),
    }


def _group(
    remaining: list[int],
    due: NDArray[np.float64] | None = None,
    *,
    cost: CostModel | None = None,
    whole: bool = False,
    budget_s: float = 10.0,
    max_row_steps: int = 1 << 30,
) -> list[Run]:
    """`group` with rows due in their order, and limits that do not bind."""
    if due is None:
        due = np.arange(float(len(remaining)))
    return group(
        np.array(remaining),
        due,
        cost or CostModel(),
        whole=whole,
        budget_s=budget_s,
        max_row_steps=max_row_steps,
    )


def _leader(run: Run, situation: dict[str, Any]) -> int:
    return int(run.rows[situation["due"][run.rows].argmin()])


def _advance(run: Run, situation: dict[str, Any]) -> NDArray[np.int64]:
    remaining: NDArray[np.int64] = situation["remaining"][run.rows]
    return np.minimum(remaining, run.steps)


@given(situations())
def test_the_row_due_first_is_in_the_first_run(situation: dict[str, Any]) -> None:
    due = situation["due"].copy()
    runs = group(**situation)

    assert int(due.argmin()) in runs[0].rows
    assert np.array_equal(situation["due"], due), "the caller's dates were changed"


@given(situations())
def test_runs_begin_with_whoever_is_due_first_of_those_left(situation: dict[str, Any]) -> None:
    left = set(range(len(situation["due"])))
    for run in group(**situation):
        assert min(left, key=lambda row: situation["due"][row]) == _leader(run, situation)
        left -= set(run.rows.tolist())


@given(situations())
def test_no_row_is_in_two_runs_and_every_row_of_a_run_advances(situation: dict[str, Any]) -> None:
    runs = group(**situation)
    rows = np.concatenate([run.rows for run in runs]).tolist()

    assert len(set(rows)) == len(rows)
    for run in runs:
        advance = _advance(run, situation)
        assert advance.min() >= 1
        assert advance.max() == run.steps, "computed for nobody"


@settings(max_examples=500)
@given(situations())
def test_what_a_runs_rows_waste_is_no_more_than_another_run_would_cost(
    situation: dict[str, Any],
) -> None:
    now = situation["cost"].now
    for run in group(**situation):
        advance = _advance(run, situation)
        leader = int(advance[situation["due"][run.rows].argmin()])
        wasted = int((run.steps - advance).sum())

        assert wasted * now.row_step <= (now.run + now.step * leader) * (1 + 1e-9)


@given(situations())
def test_a_run_takes_neighbours_by_length_and_leaves_nobody_out(situation: dict[str, Any]) -> None:
    remaining = situation["remaining"]
    taken: set[int] = set()
    for run in group(**situation):
        advance = _advance(run, situation)
        mine = set(run.rows.tolist())
        others = [row for row in range(len(remaining)) if row not in taken | mine]
        between = [row for row in others if advance.min() < remaining[row] < advance.max()]
        assert not between
        taken |= mine


@given(situations(whole=True))
def test_where_rows_must_be_whole_none_is_cut(situation: dict[str, Any]) -> None:
    for run in group(**situation):
        assert run.steps == situation["remaining"][run.rows].max()


@given(situations(whole=False))
def test_rows_that_are_cut_go_as_far_as_the_chunk_or_a_row_that_ends_soon_after_it(
    situation: dict[str, Any],
) -> None:
    remaining = situation["remaining"]
    chunks = {
        int(advance)
        for run in group(**situation)
        for row, advance in zip(run.rows, _advance(run, situation), strict=True)
        if advance < remaining[row]
    }
    assert max(chunks, default=0) <= 1.5 * min(chunks, default=0)


@given(situations())
def test_a_run_of_several_rows_holds_no_more_than_may_be(situation: dict[str, Any]) -> None:
    for run in group(**situation):
        assert len(run.rows) == 1 or len(run.rows) * run.steps <= situation["max_row_steps"]


@given(situations())
def test_a_run_of_several_rows_takes_no_longer_than_its_limit(situation: dict[str, Any]) -> None:
    for run in group(**situation):
        cost = situation["cost"]
        cost_s, fixed_s = cost.run_s(len(run.rows), run.steps), cost.run_s(0, run.steps)
        assert len(run.rows) == 1 or cost_s <= max(RUN_LIMIT_S, 2 * fixed_s) * (1 + 1e-9)


@given(situations())
def test_a_turn_keeps_to_its_budget_but_for_its_first_run(situation: dict[str, Any]) -> None:
    cost = situation["cost"]
    spent = [cost.run_s(len(run.rows), run.steps) for run in group(**situation)]

    assert len(spent) == 1 or sum(spent) <= situation["budget_s"] * (1 + 1e-9)


@given(situations(), st.floats(0, 100))
def test_where_rows_are_late_runs_keep_to_the_longer_limit(
    situation: dict[str, Any], late_s: float
) -> None:
    limit_s = run_limit_s(late_s, situation["budget_s"])
    for run in group(**situation, run_limit_s=limit_s):
        cost = situation["cost"]
        cost_s, fixed_s = cost.run_s(len(run.rows), run.steps), cost.run_s(0, run.steps)
        assert len(run.rows) == 1 or cost_s <= max(limit_s, 2 * fixed_s) * (1 + 1e-9)


def test_runs_take_longer_the_later_rows_are_and_no_longer_than_half_a_turn() -> None:
    limits = [run_limit_s(late_s, budget_s=20e-3) for late_s in (-math.inf, 0.0, 0.3, 0.4, 60.0)]

    assert limits == pytest.approx([RUN_LIMIT_S, RUN_LIMIT_S, 6e-3, 8e-3, 10e-3])
    assert run_limit_s(60.0, budget_s=1e-3) == RUN_LIMIT_S


def test_rows_of_one_length_run_together() -> None:
    [run] = _group(remaining=[32] * 8)

    assert sorted(run.rows) == list(range(8))
    assert run.steps == 32


def test_rows_of_like_length_run_together_and_others_apart() -> None:
    runs = _group(remaining=[5, 90, 6, 91, 5, 90], whole=True)

    assert sorted(sorted(run.rows.tolist()) for run in runs) == [[0, 2, 4], [1, 3, 5]]


def test_where_a_run_costs_much_unlike_rows_share_one() -> None:
    dear = Coefficients(**(vars(DEFAULT) | {"run": 3e-3}))
    [run] = _group(remaining=[5, 90, 6, 91, 5, 90], whole=True, cost=CostModel(dear))

    assert len(run.rows) == 6


def test_rows_share_what_is_dearer_than_the_limit_of_a_run() -> None:
    dear = Coefficients(**(vars(DEFAULT) | {"step": 60e-6, "row_step": 15e-6}))
    runs = _group(remaining=[200] * 12, whole=True, cost=CostModel(dear))

    assert [len(run.rows) for run in runs] == [4, 4, 4]


def test_a_long_row_goes_by_chunks_where_others_fill_the_runs() -> None:
    runs = _group(remaining=[5000] * 64)

    assert all(run.steps < 5000 for run in runs)


def test_a_row_little_longer_than_the_chunk_runs_to_its_end() -> None:
    long = [5000] * 64
    chunk = _group(long)[0].steps
    end = chunk + chunk // 4
    [run] = [run for run in _group([*long, end]) if 64 in run.rows]

    assert run.steps == end


def test_a_longer_neighbour_is_left_out_where_the_run_would_hold_too_much() -> None:
    runs = _group([30, 30, 34], whole=True, max_row_steps=100)

    assert [sorted(run.rows) for run in runs] == [[0, 1], [2]]


def test_a_budget_of_nothing_still_gives_a_run() -> None:
    assert len(_group(remaining=[9, 300, 40], budget_s=0.0)) == 1


def test_a_row_over_the_limit_of_a_run_runs_alone() -> None:
    runs = _group(remaining=[50] * 3, max_row_steps=10, whole=True)

    assert [len(run.rows) for run in runs] == [1, 1, 1]


def test_the_order_in_which_rows_stand_does_not_matter() -> None:
    lengths = np.array([4, 80, 5, 7, 81, 300, 6, 2])
    back = np.arange(8)[::-1]
    forwards = _group(lengths.tolist())
    backwards = _group(lengths[back].tolist(), due=back.astype(np.float64))

    assert [sorted(lengths[run.rows]) for run in forwards] == [
        sorted(lengths[back][run.rows]) for run in backwards
    ]
