"""Sequences of unequal lengths, in memory and on the wire."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from seqserve.errors import InvalidRagged
from seqserve.ragged import RaggedBatch, decode, decode_matrix, encode, encode_matrix
from seqserve.v1 import sequences_pb2

BITS = st.integers(0, 2**32 - 1)
"""Any float32 by its bits: every NaN payload, infinities, -0.0 and denormals among them."""


@st.composite
def batches(draw: st.DrawFn, any_bits: bool = True) -> RaggedBatch:
    """Batches of up to 6 sequences of up to 5 steps of up to 4 features."""
    lengths = draw(st.lists(st.integers(1, 5), min_size=1, max_size=6))
    features = draw(st.integers(1, 4))
    count = sum(lengths) * features
    if any_bits:
        bits = draw(st.lists(BITS, min_size=count, max_size=count))
        values = np.array(bits, np.uint32).view(np.float32)
    else:
        values = np.arange(count, dtype=np.float32)
    return RaggedBatch(values.reshape(-1, features), np.array(lengths, np.int64))


def bits(values: NDArray[np.float32]) -> object:
    """The numbers by their bits, in nested lists."""
    return np.ascontiguousarray(values).view(np.uint32).tolist()


def sequences(batch: RaggedBatch) -> list[list[Any]]:
    """The batch's sequences one by one, cut out in plain Python."""
    rows, cut, start = batch.values.view(np.uint32).tolist(), [], 0
    for length in batch.lengths.tolist():
        cut.append(rows[start : start + length])
        start += length
    return cut


@given(batches())
def test_a_batch_comes_back_from_the_wire_bit_for_bit(batch: RaggedBatch) -> None:
    message = sequences_pb2.RaggedBatch.FromString(encode(batch).SerializeToString())
    decoded = decode(message, batch.features)
    assert sequences(decoded) == sequences(batch)
    assert decoded.lengths.tolist() == batch.lengths.tolist()


def test_the_wire_is_little_endian_and_row_major() -> None:
    batch = RaggedBatch.from_sequences([[[1, 2], [3, 4]], [[5, 6]]])
    message = encode(batch)
    assert message.lengths == [2, 1]
    assert message.values == b"".join(
        bytes.fromhex(number)
        for number in ("0000803f", "00000040", "00004040", "00008040", "0000a040", "0000c040")
    )


def test_decoded_numbers_are_a_read_only_view_of_bytes() -> None:
    decoded = decode(encode(RaggedBatch.from_sequences([np.ones((3, 2))])), 2)
    assert not decoded.values.flags.owndata
    assert not decoded.values.flags.writeable


@given(
    st.binary(max_size=200),
    st.lists(st.integers(0, 3) | st.integers(0, 2**32 - 1), max_size=6),
    st.integers(1, 40),
)
def test_any_message_is_decoded_exactly_or_refused(
    values: bytes, lengths: list[int], features: int
) -> None:
    sound = bool(lengths) and min(lengths) > 0 and len(values) == 4 * features * sum(lengths)
    message = sequences_pb2.RaggedBatch(values=values, lengths=lengths)
    if sound:
        assert decode(message, features).values.tobytes() == values
    else:
        with pytest.raises(InvalidRagged):
            decode(message, features)


@pytest.mark.parametrize(
    ("lengths", "features"),
    [
        ([2**32 - 1], 1),
        ([2**32 - 1] * 1000, 2**20),
        ([1, 2**31], 4096),
        ([2**32 - 1, 1], 1),
    ],
    ids=["one long", "many long", "one of two", "a sum of 2**32"],
)
def test_a_small_message_that_claims_much_allocates_little(
    lengths: list[int], features: int
) -> None:
    message = sequences_pb2.RaggedBatch(values=b"\0" * 16, lengths=lengths)
    tracemalloc.start()
    try:
        with pytest.raises(InvalidRagged, match="values holds 16 bytes, but"):
            decode(message, features)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000


@pytest.mark.parametrize(
    ("values", "lengths", "field", "sequence", "message"),
    [
        (b"", [], "lengths", None, "at least one sequence is needed"),
        (b"\0" * 8, [1, 0, 0], "lengths", 1, "sequence 1 has 0 steps; at least 1 is needed"),
        (b"\0" * 9, [1], "values", None, "9 bytes, but 1 steps of 2 float32 features take 8"),
        (b"\0" * 16, [3], "values", None, "16 bytes, but 3 steps of 2 float32 features take 24"),
        (b"\0" * 24, [2], "values", None, "the sequences have 3 features a step; 2 are needed"),
    ],
    ids=["none", "empty sequence", "a byte too many", "a step too few", "a feature too many"],
)
def test_a_refusal_names_the_field_and_the_sequence(
    values: bytes, lengths: list[int], field: str, sequence: int | None, message: str
) -> None:
    with pytest.raises(InvalidRagged, match=message) as caught:
        decode(sequences_pb2.RaggedBatch(values=values, lengths=lengths), 2)
    assert (caught.value.field, caught.value.sequence) == (field, sequence)


@given(batches())
def test_a_batch_is_a_sequence_of_its_sequences(batch: RaggedBatch) -> None:
    plain = sequences(batch)
    assert len(batch) == len(plain)
    assert [bits(sequence) for sequence in batch] == plain
    assert bits(batch[-1]) == plain[-1]
    assert batch.steps == sum(map(len, plain))
    for index in (len(plain), -len(plain) - 1):
        with pytest.raises(IndexError):
            batch[index]


@given(batches(), st.data())
def test_a_slice_holds_its_sequences_without_a_copy(
    batch: RaggedBatch, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(batch) - 1))
    stop = data.draw(st.integers(start + 1, len(batch)))
    part = batch.slice(start, stop)
    assert sequences(part) == sequences(batch)[start:stop]
    assert np.shares_memory(part.values, batch.values)


@given(batches(), st.data())
def test_take_holds_the_sequences_asked_for_in_that_order(
    batch: RaggedBatch, data: st.DataObject
) -> None:
    indices = data.draw(st.lists(st.integers(-len(batch), len(batch) - 1), min_size=1))
    plain = sequences(batch)
    assert sequences(batch.take(indices)) == [plain[index] for index in indices]
    assert sequences(batch.take(np.array(indices))) == [plain[index] for index in indices]


@given(batches(any_bits=False), st.integers(0, 3), st.floats(width=32, allow_nan=False))
def test_padded_holds_each_sequence_and_then_the_fill(
    batch: RaggedBatch, more: int, fill: float
) -> None:
    longest = int(batch.lengths.max())
    padded = batch.padded(longest + more, fill)
    assert padded.dtype == np.float32
    filler = [fill] * batch.features
    for row, sequence in zip(padded.tolist(), batch, strict=True):
        assert row == sequence.tolist() + [filler] * (longest + more - len(sequence))
    assert batch.padded().shape == (len(batch), longest, batch.features)


@given(batches())
def test_a_batch_can_be_made_of_its_sequences(batch: RaggedBatch) -> None:
    again = RaggedBatch.from_sequences(list(batch))
    assert sequences(again) == sequences(batch)


def test_sequences_of_one_feature_may_be_flat() -> None:
    batch = RaggedBatch.from_sequences([[1, 2, 3], np.array([4.0])])
    assert batch.values.tolist() == [[1], [2], [3], [4]]
    assert batch.lengths.tolist() == [3, 1]


@pytest.mark.parametrize(
    ("given_sequences", "sequence", "message"),
    [
        ([], None, "at least one sequence is needed"),
        ([[[1]], []], 1, "sequence 1 has 0 steps"),
        ([[[1, 2]], [[1]]], 1, "sequence 1 has 1 features a step, but sequence 0 has 2"),
        ([[1], [[[1]]]], 1, r"sequence 1 has shape \(1, 1, 1\)"),
        ([[1], ["a"]], 1, "sequence 1 is not numbers"),
        ([[[1, 2], [3]]], 0, "sequence 0 is not numbers"),
        ([3.0], 0, r"sequence 0 has shape \(\)"),
    ],
    ids=["none", "empty", "unequal features", "an axis too many", "text", "uneven", "a number"],
)
def test_what_makes_no_batch_is_refused(
    given_sequences: list[Any], sequence: int | None, message: str
) -> None:
    with pytest.raises(InvalidRagged, match=message) as caught:
        RaggedBatch.from_sequences(given_sequences)
    assert caught.value.sequence == sequence


@given(
    st.integers(0, 8),
    st.lists(st.integers(-3, 8) | st.integers(-(2**63), 2**63 - 1), max_size=6),
)
def test_lengths_that_do_not_add_up_to_the_steps_are_refused(
    steps: int, lengths: list[int]
) -> None:
    values = np.zeros((steps, 2), np.float32)
    if all(length > 0 for length in lengths) and sum(lengths) == steps:
        batch = RaggedBatch(values, np.array(lengths, np.int64))
        assert [len(sequence) for sequence in batch] == lengths
    else:
        with pytest.raises(InvalidRagged):
            RaggedBatch(values, np.array(lengths, np.int64))


def test_lengths_whose_sum_wraps_around_are_refused() -> None:
    with pytest.raises(InvalidRagged, match="sequence 0 has 4611686018427387904 steps, but"):
        RaggedBatch(np.zeros((1, 2), np.float32), np.array([2**62] * 4 + [1]))


@pytest.mark.parametrize(
    ("values", "lengths"),
    [
        (np.zeros((2, 1)), np.array([2])),
        (np.zeros(2, np.float32), np.array([2])),
        (np.zeros((2, 1), np.float32), np.array([2.0])),
        (np.zeros((2, 1), np.float32), np.array([[2]])),
    ],
    ids=["float64", "flat values", "float lengths", "lengths of two axes"],
)
def test_arrays_of_another_type_or_shape_are_refused(
    values: NDArray[Any], lengths: NDArray[Any]
) -> None:
    with pytest.raises(InvalidRagged):
        RaggedBatch(values, lengths)


@given(st.integers(1, 5), st.integers(1, 5), st.data())
def test_a_matrix_comes_back_bit_for_bit(rows: int, columns: int, data: st.DataObject) -> None:
    numbers = data.draw(st.lists(BITS, min_size=rows * columns, max_size=rows * columns))
    matrix = np.array(numbers, np.uint32).view(np.float32).reshape(rows, columns)
    decoded = decode_matrix(encode_matrix(matrix), rows)
    assert bits(decoded) == bits(matrix)


@given(st.binary(max_size=100), st.integers(0, 12))
def test_any_bytes_are_a_matrix_or_refused(data: bytes, rows: int) -> None:
    if rows and len(data) % (4 * rows) == 0:
        decoded = decode_matrix(data, rows)
        assert decoded.shape == (rows, len(data) // (4 * rows))
        assert decoded.tobytes() == data
    else:
        with pytest.raises(InvalidRagged):
            decode_matrix(data, rows)
