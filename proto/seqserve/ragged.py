"""Sequences of unequal lengths, end to end in one array, and their form on the wire."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from seqserve.errors import InvalidRagged
from seqserve.v1 import sequences_pb2

WIRE_DTYPE = np.dtype("<f4")


@dataclass(frozen=True, eq=False)
class RaggedBatch:
    """Sequences end to end: sequence i is the `lengths[i]` steps from `offsets[i]` on.

    Raises:
        InvalidRagged: the lengths are not all at least 1, or do not add up to the steps.
    """

    values: NDArray[np.float32]
    """(total steps, features), float32, C-contiguous."""
    lengths: NDArray[np.int64]
    """(sequences,), steps of each, at least 1."""

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.dtype != np.float32:
            raise InvalidRagged(
                f"values must be float32 of shape (steps, features), "
                f"not {self.values.dtype} of shape {self.values.shape}",
                field="values",
            )
        _check_lengths(self.lengths)
        # Before the sum, which would wrap around where a length is nonsense.
        too_long = np.flatnonzero(self.lengths > len(self.values))
        if len(too_long):
            raise InvalidRagged(
                f"sequence {too_long[0]} has {self.lengths[too_long[0]]} steps, "
                f"but values holds {len(self.values)}",
                field="lengths",
                sequence=int(too_long[0]),
            )
        steps = int(self.lengths.sum())
        if steps != len(self.values):
            raise InvalidRagged(
                f"the lengths add up to {steps} steps, but values holds {len(self.values)}",
                field="lengths",
            )

    @classmethod
    def trusted(cls, values: NDArray[np.float32], lengths: NDArray[np.int64]) -> RaggedBatch:
        """A batch of arrays that were checked already: nothing is, here."""
        batch = object.__new__(cls)
        # As dataclasses do it for frozen ones.
        object.__setattr__(batch, "values", values)
        object.__setattr__(batch, "lengths", lengths)
        return batch

    @classmethod
    def from_sequences(
        cls, sequences: Sequence[ArrayLike], *, admit_empty: bool = False
    ) -> RaggedBatch:
        """Joins sequences of shape (steps, features) or, with one feature, (steps,).

        Args:
            sequences: In order.
            admit_empty: Whether sequences of no steps pass, as in `decode`.

        Raises:
            InvalidRagged: no sequences, an empty one, unequal feature counts, or numbers that
                float32 cannot be made of.
        """
        arrays = [_as_steps(sequence, index) for index, sequence in enumerate(sequences)]
        if not arrays:
            raise InvalidRagged("at least one sequence is needed, none given", field="lengths")
        if admit_empty:  # and so may say nothing of its features, as [] does
            features = next((array.shape[1] for array in arrays if array.size), 1)
            none = np.empty((0, features), np.float32)
            arrays = [array if array.size else none for array in arrays]
        features = arrays[0].shape[1]
        for index, array in enumerate(arrays):
            if array.shape[1] != features:
                raise InvalidRagged(
                    f"sequence {index} has {array.shape[1]} features a step, "
                    f"but sequence 0 has {features}",
                    field="values",
                    sequence=index,
                )
        lengths = np.fromiter((len(array) for array in arrays), np.int64, len(arrays))
        if admit_empty:
            return cls.trusted(np.concatenate(arrays), lengths)
        _check_lengths(lengths)
        return cls(np.concatenate(arrays), lengths)

    @property
    def features(self) -> int:
        """Features a step."""
        return int(self.values.shape[1])

    @property
    def steps(self) -> int:
        """Steps of all sequences together."""
        return len(self.values)

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """(sequences + 1,), where each sequence starts in `values`, and the end of the last."""
        offsets = np.zeros(len(self.lengths) + 1, np.int64)
        np.cumsum(self.lengths, out=offsets[1:])
        return offsets

    def __len__(self) -> int:
        """Sequences in the batch."""
        return len(self.lengths)

    def __getitem__(self, index: int) -> NDArray[np.float32]:
        """Sequence `index`, a view of shape (steps, features)."""
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        """Every sequence in order, as views of shape (steps, features)."""
        return (self[index] for index in range(len(self)))

    def slice(self, start: int, stop: int) -> RaggedBatch:
        """Sequences `start` to `stop`, `stop` left out, without a copy."""
        return RaggedBatch.trusted(
            self.values[self.offsets[start] : self.offsets[stop]], self.lengths[start:stop]
        )

    def take(self, indices: Sequence[int] | NDArray[np.integer]) -> RaggedBatch:
        """The sequences at `indices`, in that order; an index may recur."""
        chosen = np.asarray(indices, np.int64)
        if not chosen.size:
            return RaggedBatch.from_sequences([])  # which says that there are none
        starts, stops = self.offsets[:-1][chosen].tolist(), self.offsets[1:][chosen].tolist()
        parts = [self.values[start:stop] for start, stop in zip(starts, stops, strict=True)]
        return RaggedBatch.trusted(np.concatenate(parts), self.lengths[chosen])

    def padded(self, steps: int | None = None, fill: float = 0.0) -> NDArray[np.float32]:
        """The batch as (sequences, time, features), `fill` beyond each sequence's end.

        Args:
            steps: The size of the time axis; the longest sequence by default.
            fill: What padding holds.
        """
        time = int(self.lengths.max()) if steps is None else steps
        padded = np.full((len(self), time, self.features), fill, np.float32)
        padded[np.arange(time) < self.lengths[:, None]] = self.values
        return padded


def encode(batch: RaggedBatch) -> sequences_pb2.RaggedBatch:
    """The batch as a message: its numbers little-endian, its lengths as they are."""
    return sequences_pb2.RaggedBatch(
        values=batch.values.astype(WIRE_DTYPE, copy=False).tobytes(),
        lengths=batch.lengths.tolist(),
    )


def decode(
    message: sequences_pb2.RaggedBatch, features: int, *, admit_empty: bool = False
) -> RaggedBatch:
    """The message as a batch of `features` features a step, its numbers a read-only view.

    Nothing is allocated in proportion to what the message claims, only to what it holds.

    Args:
        message: As it came from the wire; nothing about it is trusted.
        features: Features a step, at least 1, as the model's manifest has it.
        admit_empty: Whether lengths of 0 pass, for a caller that tells of each sequence by itself
            what is wrong with it.

    Raises:
        InvalidRagged: no sequences, a length of 0, or values that are not
            4 * features * sum(lengths) bytes.
    """
    numbers = list(message.lengths)  # for a few of them, quicker than numpy
    if not numbers:
        raise InvalidRagged("at least one sequence is needed, none given", field="lengths")
    lengths = np.array(numbers, np.int64)
    if not (admit_empty or all(numbers)):
        _check_lengths(lengths)
    steps = sum(numbers)
    expected = WIRE_DTYPE.itemsize * features * steps
    data = message.values  # once: protobuf copies the bytes each time it is asked
    if len(data) != expected:
        raise InvalidRagged(_wrong_size(len(data), steps, features), field="values")
    values = np.frombuffer(data, WIRE_DTYPE).reshape(steps, features)
    return RaggedBatch.trusted(values.astype(np.float32, copy=False), lengths)


def encode_matrix(matrix: NDArray[np.float32]) -> bytes:
    """A (rows, columns) matrix as the wire has it: row-major little-endian float32."""
    return matrix.astype(WIRE_DTYPE, copy=False).tobytes()


def decode_matrix(data: bytes, rows: int) -> NDArray[np.float32]:
    """What `encode_matrix` wrote, as a read-only view of shape (rows, columns).

    Raises:
        InvalidRagged: the bytes do not make `rows` equal rows of float32.
    """
    if rows < 1 or len(data) % (WIRE_DTYPE.itemsize * rows):
        raise InvalidRagged(
            f"{len(data)} bytes do not make {rows} equal rows of float32", field="values"
        )
    return np.frombuffer(data, WIRE_DTYPE).astype(np.float32, copy=False).reshape(rows, -1)


def _wrong_size(size: int, steps: int, features: int) -> str:
    given, rest = divmod(size, WIRE_DTYPE.itemsize * max(1, steps))
    if steps and given and not rest:
        return f"the sequences have {given} features a step; {features} are needed"
    return (
        f"values holds {size} bytes, but {steps} steps of {features} float32 features take "
        f"{WIRE_DTYPE.itemsize * features * steps}"
    )


def _check_lengths(lengths: NDArray[np.int64]) -> None:
    if lengths.ndim != 1 or not np.issubdtype(lengths.dtype, np.integer):
        raise InvalidRagged(
            f"lengths must be integers of shape (sequences,), "
            f"not {lengths.dtype} of shape {lengths.shape}",
            field="lengths",
        )
    empty = np.flatnonzero(lengths < 1)
    if len(empty):
        raise InvalidRagged(
            f"sequence {empty[0]} has {lengths[empty[0]]} steps; at least 1 is needed",
            field="lengths",
            sequence=int(empty[0]),
        )


def _as_steps(sequence: ArrayLike, index: int) -> NDArray[np.float32]:
    try:
        array = np.asarray(sequence, np.float32)
    except (TypeError, ValueError) as error:
        raise InvalidRagged(
            f"sequence {index} is not numbers of shape (steps, features): {error}",
            field="values",
            sequence=index,
        ) from error
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2:
        raise InvalidRagged(
            f"sequence {index} has shape {array.shape}; (steps, features) is needed",
            field="values",
            sequence=index,
        )
    return array
