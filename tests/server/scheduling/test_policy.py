"""Which rows run together: a function of values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from seqserve_server.scheduling.cost import DEFAULT, Coefficients, CostModel
from seqserve_server.scheduling.policy import RUN_LIMIT_S, Run, group

WIDE = Coefficients(turn=150e-6, run=35e-6, step=5e-6, row=1e-6, row_step=40e-6, carry=2e-6)
TINY = Coefficients(turn=150e-6, run=50e-6, step=1e-8, row=1e-8, row_step=1e-8, carry=1e-8)

seconds = st.floats(1e-8, 1e-3)
costs = st.sampled_from([DEFAULT, WIDE, TINY]) | st.builds(
    Coefficients, seconds, seconds, seconds, seconds, seconds, seconds
)
lengths = (
    st.lists(st.integers(1, 400), min_size=1, max_size=80)
    | st.lists(st.integers(1, 100_000), min_size=1, max_size=10)
    | st.builds(lambda length, count: [length] * count, st.integers(1, 300), st.integers(1, 80))
)


@st.composite
def situations(draw: st.DrawFn, whole: st.SearchStrategy[bool] = st.booleans()) -> dict[str, Any]:
    """What `group` may be asked."""
    remaining = draw(lengths)
    due = draw(st.permutations(range(len(remaining))))
    return {
        "remaining": np.array(remaining),
        "due": np.array(due, np.float64) / 100,
        "cost": CostModel(draw(costs)),
        "whole": draw(whole),
        "budget_s": draw(st.sampled_from([0.0, 1e-4, 3e-3, 10.0])),
        "max_row_steps": draw(st.sampled_from([1, 100, 5000, 1 << 30])),
    }


def _group(**changed: Any) -> list[Run]:
    """`group` with a model and limits that do not bind, where nothing else is said."""
    usual: dict[str, Any] = {
        "cost": CostModel(),
        "whole": False,
        "budget_s": 10.0,
        "max_row_steps": 1 << 30,
    }
    remaining = np.array(changed.pop("remaining"))
    due = np.array(changed.pop("due", np.arange(len(remaining))), np.float64)
    return group(remaining, due, **(usual | changed))


def _leader(run: Run, situation: dict[str, Any]) -> int:
    return int(run.rows[situation["due"][run.rows].argmin()])


def _advance(run: Run, situation: dict[str, Any]) -> NDArray[np.int64]:
    return np.minimum(situation["remaining"][run.rows], run.steps)


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


@given(situations(whole=st.just(True)))
def test_where_rows_must_be_whole_none_is_cut(situation: dict[str, Any]) -> None:
    for run in group(**situation):
        assert run.steps == situation["remaining"][run.rows].max()


@given(situations(whole=st.just(False)))
def test_rows_that_are_cut_are_all_of_one_length(situation: dict[str, Any]) -> None:
    remaining = situation["remaining"]
    chunks = {
        int(advance)
        for run in group(**situation)
        for row, advance in zip(run.rows, _advance(run, situation), strict=True)
        if advance < remaining[row]
    }
    assert len(chunks) <= 1


@given(situations())
def test_a_run_of_several_rows_holds_no_more_than_may_be(situation: dict[str, Any]) -> None:
    for run in group(**situation):
        assert len(run.rows) == 1 or len(run.rows) * run.steps <= situation["max_row_steps"]


@given(situations())
def test_a_run_of_several_rows_takes_no_longer_than_its_limit(situation: dict[str, Any]) -> None:
    for run in group(**situation):
        leader = int(_advance(run, situation)[situation["due"][run.rows].argmin()])
        # Whoever is longer than the leader may stretch it by what the leader's limit admitted.
        limit = max(RUN_LIMIT_S * run.steps / leader, RUN_LIMIT_S)
        cost = situation["cost"]
        assert len(run.rows) == 1 or cost.run_s(len(run.rows), run.steps) <= limit * (1 + 1e-9)


@given(situations())
def test_a_turn_keeps_to_its_budget_but_for_its_first_run(situation: dict[str, Any]) -> None:
    cost = situation["cost"]
    spent = [cost.run_s(len(run.rows), run.steps) for run in group(**situation)]

    assert len(spent) == 1 or sum(spent) <= situation["budget_s"] * (1 + 1e-9)


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


def test_a_long_row_goes_by_chunks_where_others_fill_the_runs() -> None:
    runs = _group(remaining=[5000] * 64)

    assert all(run.steps < 5000 for run in runs)


def test_a_budget_of_nothing_still_gives_a_run() -> None:
    assert len(_group(remaining=[9, 300, 40], budget_s=0.0)) == 1


def test_a_row_over_the_limit_of_a_run_runs_alone() -> None:
    runs = _group(remaining=[50] * 3, max_row_steps=10, whole=True)

    assert [len(run.rows) for run in runs] == [1, 1, 1]


@pytest.mark.parametrize("shape", [lambda n: n, lambda n: n[::-1]], ids=["as given", "reversed"])
def test_the_order_in_which_rows_stand_does_not_matter(
    shape: Callable[[NDArray[np.int64]], NDArray[np.int64]],
) -> None:
    remaining = np.array([4, 80, 5, 7, 81, 300, 6, 2])
    order = shape(np.arange(8))
    runs = _group(remaining=remaining[order], due=np.arange(8.0)[order])

    grouped = [sorted(remaining[order][run.rows].tolist()) for run in runs]
    assert grouped == [
        sorted(remaining[run.rows].tolist()) for run in _group(remaining=remaining)
    ]
