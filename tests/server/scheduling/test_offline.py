"""Which rows of a set that is known beforehand run together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqserve_server.models.runner import Runner
from seqserve_server.scheduling.cost import DEFAULT, Coefficients
from seqserve_server.scheduling.offline import Plan, plan
from tests.server.scheduling.checksum_model import Lengths, make_runner

WIDE = Coefficients(turn=150e-6, run=35e-6, step=5e-6, row=1e-6, row_step=6e-6, carry=2e-6)
UNBOUND = 1 << 30

seconds = st.floats(1e-8, 1e-3)
costs = st.sampled_from([DEFAULT, WIDE]) | st.builds(
    Coefficients, seconds, seconds, seconds, seconds, seconds, seconds
)
lengths = st.lists(st.integers(1, 3000), min_size=1, max_size=60) | st.builds(
    lambda length, count: [length] * count, st.integers(1, 300), st.integers(1, 200)
)
long_tailed = np.random.default_rng(0).lognormal(np.log(25), 0.8, 4096).clip(1, 300).astype(int)


@given(lengths, costs, st.sampled_from([1, 100, 5000]), st.sampled_from([0, 50, 2000]))
def test_every_row_runs_once_and_to_its_end_within_the_limits_of_a_run(
    lengths: list[int], cost: Coefficients, max_row_steps: int, cached_row_steps: int
) -> None:
    runner = make_runner(cost=cost, max_row_steps=max_row_steps, cached_row_steps=cached_row_steps)
    planned = plan(np.array(lengths), runner)

    assert sorted(planned.order.tolist()) == list(range(len(lengths)))
    stops = [batch.stop for batch in planned.batches]
    assert [batch.first for batch in planned.batches] == [0, *stops[:-1]]
    assert stops[-1] == len(lengths)
    turns = planned.turns(max_row_steps)
    assert [batch for turn in turns for batch in turn] == planned.batches
    for turn in turns:
        row_steps = sum((stop - first) * steps for first, stop, steps in turn)
        assert len(turn) == 1 or row_steps <= max_row_steps
    for first, stop, steps in planned.batches:
        rows = [lengths[row] for row in planned.order[first:stop]]
        assert max(rows) == steps
        assert len(rows) == 1 or len(rows) * steps <= max_row_steps


def test_the_longest_rows_run_first() -> None:
    steps = [batch.steps for batch in plan(long_tailed, make_runner()).batches]

    assert steps == sorted(steps, reverse=True)


@pytest.mark.parametrize("cost", [DEFAULT, WIDE], ids=["narrow", "wide"])
def test_the_runs_cost_less_than_batches_of_any_one_size_of_the_same_order(
    cost: Coefficients,
) -> None:
    runner = make_runner(cost=cost, max_row_steps=UNBOUND, cached_row_steps=UNBOUND)
    planned = plan(long_tailed, runner)
    ours_s = sum(runner.cost.run_s(stop - first, steps) for first, stop, steps in planned.batches)

    for size in (4, 8, 16, 32, 64, 128, 256):
        assert ours_s < _seconds_in_batches_of(size, long_tailed, runner)


def test_rows_of_like_length_run_in_as_many_as_a_core_has_caches_for() -> None:
    planned = plan(np.full(1000, 10), make_runner(cached_row_steps=400))

    assert {stop - first for first, stop, _ in planned.batches} == {40}


def test_rows_of_a_wide_model_share_what_a_step_costs_even_where_caches_are_too_small() -> None:
    alike = np.full(1000, 100)

    assert _rows_a_run(plan(alike, make_runner(cost=WIDE, cached_row_steps=100))) > 32
    assert _rows_a_run(plan(alike, make_runner(cost=DEFAULT, cached_row_steps=100))) < 32


def _rows_a_run(planned: Plan) -> float:
    return len(planned.order) / len(planned.batches)


def _seconds_in_batches_of(size: int, lengths: Lengths, runner: Runner) -> float:
    in_order = np.sort(lengths)
    return sum(
        runner.cost.run_s(len(in_order[first : first + size]), in_order[first : first + size][-1])
        for first in range(0, len(in_order), size)
    )
