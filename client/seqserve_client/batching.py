"""A batch cut into requests that suit the message limit, and what the pieces must agree on.

All pieces of a call are answered by one version of the model. A call that leaves the version
open sends its pieces at once, and asks those again that an older version answered than the
newest that answered any: a version may be replaced while a long call runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from seqserve.errors import InvalidRagged
from seqserve.ragged import RaggedBatch, encode
from seqserve.v1.classifier_pb2 import (
    ON_INVALID_ANSWER_REST,
    ON_INVALID_REJECT,
    SERVICE_CLASS_BULK,
    SERVICE_CLASS_INTERACTIVE,
    ClassifyRequest,
    ClassifyResponse,
)
from seqserve_client.errors import InvalidOptions, Violation
from seqserve_client.on_invalid import OnInvalid
from seqserve_client.options import Options
from seqserve_client.service_class import ServiceClass
from seqserve_client.status import invalid_sequences

Sequences = Sequence[ArrayLike] | RaggedBatch
"""What a caller may give: arrays of shape (steps, features), or one ragged batch."""

# A length is a varint of up to 5 bytes. Around the sequences come the model's name and the tags,
# lengths and numbers of eight fields, 42 bytes at most.
LENGTH_BYTES = 5
_FRAME_BYTES = 42

WIRE_CLASS = {
    ServiceClass.INTERACTIVE: SERVICE_CLASS_INTERACTIVE,
    ServiceClass.BULK: SERVICE_CLASS_BULK,
}

_WIRE_ON_INVALID = {
    OnInvalid.REJECT: ON_INVALID_REJECT,
    OnInvalid.ANSWER_REST: ON_INVALID_ANSWER_REST,
}

Choice = TypeVar("Choice", ServiceClass, OnInvalid)


@dataclass(frozen=True)
class Piece:
    """Consecutive sequences of a batch that travel in one request."""

    batch: RaggedBatch
    first: int
    """Index, among the caller's sequences, of the piece's first."""
    model: str
    version: int
    top_k: int
    service_class: ServiceClass
    on_invalid: OnInvalid

    def request(self) -> ClassifyRequest:
        """The piece as a message; its numbers are copied here, not before."""
        return ClassifyRequest(
            model_name=self.model,
            model_version=self.version,
            sequences=encode(self.batch),
            top_k=self.top_k,
            service_class=WIRE_CLASS[self.service_class],
            on_invalid=_WIRE_ON_INVALID[self.on_invalid],
        )


Answered = dict[int, ClassifyResponse]
"""The response to each piece, by the piece's `first`."""


def as_batch(sequences: Sequences, on_invalid: OnInvalid = OnInvalid.REJECT) -> RaggedBatch:
    """The caller's sequences as one batch, without a copy where they are one already.

    Args:
        sequences: As the caller gave them.
        on_invalid: With ANSWER_REST it is left to the server to refuse sequences of no steps.

    Raises:
        InvalidSequences: they do not make a batch; names the offending one.
    """
    try:
        if isinstance(sequences, RaggedBatch):
            return sequences if len(sequences) else RaggedBatch.from_sequences([])
        return RaggedBatch.from_sequences(
            sequences, admit_empty=on_invalid is OnInvalid.ANSWER_REST
        )
    except InvalidRagged as error:
        violation = Violation(str(error), f"sequences.{error.field}", error.sequence)
        raise invalid_sequences((violation,)) from error


def single(sequences: Sequences) -> NDArray[np.float32] | None:
    """The sequence, (steps, features), where there is one alone and nothing is wrong with it.

    Costs a tenth of what `as_batch` does, which says what is wrong with the others.
    """
    try:
        if len(sequences) != 1:
            return None
        sequence = np.asarray(next(iter(sequences)), np.float32)
    except (TypeError, ValueError):
        return None
    if sequence.ndim == 1:
        sequence = sequence[:, None]
    return sequence if sequence.ndim == 2 and sequence.size else None


def checked_choice(name: str, kind: type[Choice], chosen: Choice | str) -> Choice:
    """The choice of that name.

    Args:
        name: What is chosen, for the message.
        kind: The choices.
        chosen: One of them, or its name.

    Raises:
        InvalidOptions: there is none.
    """
    if isinstance(chosen, kind):  # which the enumeration takes its time to find out
        return chosen
    try:
        return kind(chosen)
    except ValueError as error:
        known = " or ".join(kind)
        raise InvalidOptions(f"{name} is {chosen!r}; {known} is needed") from error


def checked_number(name: str, value: int) -> int:
    """A version or `top_k`, where it can be one.

    Raises:
        InvalidOptions: it is negative.
    """
    if value < 0:
        raise InvalidOptions(f"{name} is {value}; at least 0 is needed")
    return value


def room(options: Options, model: str) -> int:
    """Bytes of a request that its sequences may take."""
    return options.max_message_bytes - _FRAME_BYTES - len(model.encode())


def cut(
    batch: RaggedBatch,
    options: Options,
    *,
    model: str,
    version: int,
    top_k: int,
    service_class: ServiceClass = ServiceClass.INTERACTIVE,
    on_invalid: OnInvalid = OnInvalid.REJECT,
) -> list[Piece]:
    """The batch in pieces, in order, each as long as the options admit.

    Raises:
        InvalidOptions: the version or `top_k` is negative.
    """
    checked_number("version", version)
    checked_number("top_k", top_k)
    return [
        Piece(batch.slice(first, stop), first, model, version, top_k, service_class, on_invalid)
        for first, stop in bounds(batch.lengths, batch.features, options, model)
    ]


def bounds(
    lengths: NDArray[np.int64], features: int, options: Options, model: str
) -> Iterator[tuple[int, int]]:
    """First and last-plus-one sequence of each request, of sequences in their order.

    Args:
        lengths: (sequences,), steps of each.
        features: Features a step.
        options: How long a request may be; a sequence that is longer travels alone.
        model: The model's name, which travels along.
    """
    count, most = len(lengths), options.max_request_sequences
    limits = (
        (lengths, options.max_request_steps),
        (4 * features * lengths + LENGTH_BYTES, room(options, model)),
    )
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
