from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from seqserve.ragged import RaggedBatch
from seqserve_server.scheduling.work import parts


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), st.integers(1, 200))
def test_parts_are_the_request_in_order_and_each_fits(
    lengths: list[int], max_row_steps: int
) -> None:
    values = np.arange(sum(lengths), dtype=np.float32)[:, None]
    batch = RaggedBatch(values, np.array(lengths))

    cut = parts(batch, max_row_steps)

    assert np.array_equal(np.concatenate([part.values for part in cut]), values)
    assert [length for part in cut for length in part.lengths.tolist()] == lengths
    for part in cut:
        assert len(part) == 1 or len(part) * part.lengths.max() <= max_row_steps


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), st.integers(1, 200))
def test_no_part_could_have_taken_the_row_that_follows_it(
    lengths: list[int], max_row_steps: int
) -> None:
    batch = RaggedBatch(np.zeros((sum(lengths), 1), np.float32), np.array(lengths))

    cut = parts(batch, max_row_steps)

    for part, following in pairwise(cut):
        longest = max(part.lengths.max(), following.lengths[0])
        assert (len(part) + 1) * longest > max_row_steps


def test_a_request_that_fits_is_not_copied() -> None:
    batch = RaggedBatch(np.zeros((6, 1), np.float32), np.array([2, 4]))

    assert parts(batch, 8) == [batch]
