from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from seqserve.ragged import RaggedBatch
from seqserve_server.scheduling.work import MAX_ROWS, parts


def _batch(lengths: list[int]) -> RaggedBatch:
    return RaggedBatch(np.arange(sum(lengths), dtype=np.float32)[:, None], np.array(lengths))


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=2 * MAX_ROWS + 1),
    st.sampled_from([5, 60, 900]),
)
def test_parts_are_the_request_in_order_and_each_fits(lengths: list[int], max_steps: int) -> None:
    batch = _batch(lengths)

    cut = parts(batch, max_steps)

    assert np.array_equal(np.concatenate([part.values for part in cut]), batch.values)
    assert [length for part in cut for length in part.lengths.tolist()] == lengths
    for part, after in zip(cut, [*cut[1:], None], strict=True):
        assert len(part) <= MAX_ROWS
        assert part.steps <= max_steps or len(part) == 1
        if after is not None:  # no part is smaller than it must be
            assert len(part) == MAX_ROWS or part.steps + after.lengths[0] > max_steps


def test_a_request_that_fits_is_not_copied() -> None:
    batch = _batch([2] * MAX_ROWS)

    assert parts(batch, 2 * MAX_ROWS) == [batch]


def test_one_row_more_than_fits_is_a_part_of_its_own() -> None:
    assert [len(part) for part in parts(_batch([1] * (MAX_ROWS + 1)), 10_000)] == [MAX_ROWS, 1]


def test_a_row_longer_than_a_part_is_one_of_its_own() -> None:
    assert [part.steps for part in parts(_batch([3, 50, 4, 2]), 10)] == [3, 50, 6]
