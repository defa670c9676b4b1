"""Batches hold every sequence once, among others of like length, and no padding."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor
from torch.nn.utils.rnn import pack_sequence

from seqserve_export.batches import by_length, draw, pack
from seqserve_export.examples import Examples

LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=200)


def _examples(lengths: list[int], features: int = 2) -> Examples:
    sizes = torch.tensor(lengths)
    return Examples(
        values=torch.randn(int(sizes.sum()), features, generator=Generator().manual_seed(0)),
        offsets=torch.cumsum(sizes, 0) - sizes,
        lengths=sizes,
        targets=torch.arange(len(lengths)),
    )


@given(LENGTHS, st.integers(1, 40), st.integers(0, 5))
def test_an_epoch_has_every_sequence_once(lengths: list[int], batch_size: int, seed: int) -> None:
    batches = draw(torch.tensor(lengths), batch_size, Generator().manual_seed(seed))

    assert sorted(torch.cat(batches).tolist()) == list(range(len(lengths)))
    assert len(batches) == -(-len(lengths) // batch_size)
    assert max(len(batch) for batch in batches) <= batch_size
    assert max(map(len, batches)) - min(map(len, batches)) <= 1 or len(lengths) > 8 * batch_size


@given(LENGTHS, st.integers(1, 40))
def test_packed_batches_are_those_of_torch(lengths: list[int], batch_size: int) -> None:
    examples = _examples(lengths)

    for rows in by_length(examples.lengths, batch_size, steps=10_000):
        batch = pack(examples, rows)
        reference = pack_sequence([_sequence(examples, int(row)) for row in rows])
        assert torch.equal(batch.steps.data, reference.data)
        assert torch.equal(batch.steps.batch_sizes, reference.batch_sizes)
        assert torch.equal(batch.targets, rows)


@given(LENGTHS, st.integers(1, 40), st.integers(1, 100))
def test_batches_by_length_have_every_sequence_once_and_keep_their_bounds(
    lengths: list[int], rows: int, steps: int
) -> None:
    batches = [batch.tolist() for batch in by_length(torch.tensor(lengths), rows, steps)]

    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[index] for index in batch)
        assert len(batch) <= rows
        assert len(batch) * longest <= steps or len(batch) == 1


def test_a_batch_is_drawn_from_like_lengths() -> None:
    lengths = torch.from_numpy(np.random.default_rng(0).integers(1, 300, 1024))

    batches = draw(lengths, 32, Generator().manual_seed(0))

    spreads = [int(lengths[rows].max() - lengths[rows].min()) for rows in batches]
    # One in eight of what a batch at random has, give or take.
    assert np.mean(spreads) < 300 / 6


def test_epochs_differ_in_order_and_company() -> None:
    lengths = torch.full((100,), 7)

    def epoch(seed: int) -> list[frozenset[int]]:
        generator = Generator().manual_seed(seed)
        return [frozenset(rows.tolist()) for rows in draw(lengths, 10, generator)]

    assert epoch(1) == epoch(1)
    assert set(epoch(1)).isdisjoint(epoch(2))


def _sequence(examples: Examples, row: int) -> Tensor:
    start = int(examples.offsets[row])
    return examples.values[start : start + int(examples.lengths[row])]
