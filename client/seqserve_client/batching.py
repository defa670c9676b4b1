"""A batch cut into requests that suit the message limit, and what the pieces must agree on.

All pieces of a call are answered by one version of the model. A call that leaves the version
open sends its pieces at once, and asks those again that an older version answered than the
newest that answered any: a version may be replaced while a long call runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from seqserve.errors import InvalidRagged
from seqserve.ragged import RaggedBatch, encode
from seqserve.v1.classifier_pb2 import ClassifyRequest, ClassifyResponse
from seqserve_client.errors import InvalidOptions, Violation
from seqserve_client.options import Options
from seqserve_client.status import invalid_sequences

Sequences = Sequence[ArrayLike] | RaggedBatch
"""What a caller may give: arrays of shape (steps, features), or one ragged batch."""

# A length is a varint of up to 5 bytes. Around the sequences come the model's name and the tags,
# lengths and numbers of six fields, 38 bytes at most.
_LENGTH_BYTES = 5
_FRAME_BYTES = 38


@dataclass(frozen=True)
class Piece:
    """Consecutive sequences of a batch that travel in one request."""

    batch: RaggedBatch
    first: int
    """Index, among the caller's sequences, of the piece's first."""
    model: str
    version: int
    top_k: int

    def request(self) -> ClassifyRequest:
        """The piece as a message; its numbers are copied here, not before."""
        return ClassifyRequest(
            model_name=self.model,
            model_version=self.version,
            sequences=encode(self.batch),
            top_k=self.top_k,
        )


Answered = dict[int, ClassifyResponse]
"""The response to each piece, by the piece's `first`."""


def as_batch(sequences: Sequences) -> RaggedBatch:
    """The caller's sequences as one batch, without a copy where they are one already.

    Raises:
        InvalidSequences: they do not make a batch; names the offending one.
    """
    try:
        if isinstance(sequences, RaggedBatch):
            return sequences if len(sequences) else RaggedBatch.from_sequences([])
        return RaggedBatch.from_sequences(sequences)
    except InvalidRagged as error:
        violation = Violation(str(error), f"sequences.{error.field}", error.sequence)
        raise invalid_sequences((violation,)) from error


def checked_number(name: str, value: int) -> int:
    """A version or `top_k`, where it can be one.

    Raises:
        InvalidOptions: it is negative.
    """
    if value < 0:
        raise InvalidOptions(f"{name} is {value}; at least 0 is needed")
    return value


def cut(
    batch: RaggedBatch, options: Options, *, model: str, version: int, top_k: int
) -> list[Piece]:
    """The batch in pieces, in order, each as long as the options admit.

    Raises:
        InvalidOptions: the version or `top_k` is negative.
    """
    checked_number("version", version)
    checked_number("top_k", top_k)
    room = options.max_message_bytes - _FRAME_BYTES - len(model.encode())
    bounds = _bounds(
        len(batch),
        options.max_request_sequences,
        (batch.lengths, options.max_request_steps),
        (4 * batch.features * batch.lengths + _LENGTH_BYTES, room),
    )
    return [Piece(batch.slice(first, stop), first, model, version, top_k) for first, stop in bounds]


def _bounds(
    count: int, most: int, *limits: tuple[NDArray[np.int64], int]
) -> Iterator[tuple[int, int]]:
    """First and last-plus-one sequence of each piece.

    Args:
        count: How many sequences there are.
        most: How many a piece may hold.
        limits: What each sequence takes, (count,), and how much of it a piece may hold.
    """
    totals = [(np.concatenate([[0], np.cumsum(sizes)]), limit) for sizes, limit in limits]
    first = 0
    while first < count:
        stops = [np.searchsorted(total, total[first] + limit, "right") for total, limit in totals]
        stop = max(first + 1, min(first + most, count, int(min(stops)) - 1))
        yield first, stop
        first = stop


def outdated(pieces: Sequence[Piece], answered: Mapping[int, ClassifyResponse]) -> list[Piece]:
    """The pieces to ask again, of the newest version that answered any of them."""
    newest = max(response.model_version for response in answered.values())
    return [
        replace(piece, version=newest)
        for piece in pieces
        if answered[piece.first].model_version != newest
    ]
