from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from seqserve.ragged import RaggedBatch
from seqserve_server.scheduling.work import MAX_ROWS, parts


@given(st.lists(st.integers(1, 4), min_size=1, max_size=3 * MAX_ROWS + 1))
def test_parts_are_the_request_in_order_and_each_fits(lengths: list[int]) -> None:
    values = np.arange(sum(lengths), dtype=np.float32)[:, None]
    batch = RaggedBatch(values, np.array(lengths))

    cut = parts(batch)

    assert np.array_equal(np.concatenate([part.values for part in cut]), values)
    assert [length for part in cut for length in part.lengths.tolist()] == lengths
    assert all(len(part) == MAX_ROWS for part in cut[:-1])
    assert len(cut[-1]) <= MAX_ROWS


def test_a_request_that_fits_is_not_copied() -> None:
    batch = RaggedBatch(np.zeros((2 * MAX_ROWS, 1), np.float32), np.full(MAX_ROWS, 2))

    assert parts(batch) == [batch]


def test_one_row_more_than_fits_is_a_part_of_its_own() -> None:
    batch = RaggedBatch(np.zeros((MAX_ROWS + 1, 1), np.float32), np.ones(MAX_ROWS + 1, np.int64))

    assert [len(part) for part in parts(batch)] == [MAX_ROWS, 1]
