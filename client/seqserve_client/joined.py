"""Calls of a single sequence each that share a request: its message, and each caller's own fate."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from seqserve.ragged import WIRE_DTYPE
from seqserve.v1.classifier_pb2 import ON_INVALID_ANSWER_REST, ClassifyRequest
from seqserve.v1.sequences_pb2 import RaggedBatch as RaggedMessage
from seqserve_client.batching import LENGTH_BYTES, WIRE_CLASS, room
from seqserve_client.deadline import Deadline
from seqserve_client.errors import (
    InvalidRequest,
    InvalidSequences,
    ProtocolError,
    SeqserveError,
    ServerFault,
)
from seqserve_client.gathering import Kind, Limits
from seqserve_client.options import Options
from seqserve_client.status import invalid_sequences, of_sequence

CLOSED = "the client was closed"


class Call:
    """One caller's sequence. Its numbers are copied here: the caller may change its own."""

    __slots__ = ("deadline", "size", "steps", "values")

    def __init__(self, sequence: NDArray[np.float32], deadline: Deadline) -> None:
        self.values = sequence.astype(WIRE_DTYPE, copy=False).tobytes()
        self.steps = len(sequence)
        self.size = len(self.values) + LENGTH_BYTES
        self.deadline = deadline.at


Member = TypeVar("Member")


def limits(options: Options, kind: Kind) -> Limits:
    """What a request of this kind may hold."""
    return Limits(
        sequences=min(options.coalesce_sequences, options.max_request_sequences),
        steps=options.max_request_steps,
        size=room(options, kind.model),
        delay_s=options.coalesce_delay_s,
    )


def message(kind: Kind, calls: Sequence[Call]) -> ClassifyRequest:
    """The calls as one request, in their order; a bad one leaves the others their answers."""
    return ClassifyRequest(
        model_name=kind.model,
        model_version=kind.version,
        sequences=RaggedMessage(
            values=b"".join([call.values for call in calls]),
            lengths=[call.steps for call in calls],
        ),
        top_k=kind.top_k,
        service_class=WIRE_CLASS[kind.service_class],
        on_invalid=ON_INVALID_ANSWER_REST,
    )


@dataclass(frozen=True)
class Parting(Generic[Member]):
    """What becomes of calls whose common request failed; each of them is in one of the four."""

    refused: list[tuple[Member, SeqserveError]] = field(default_factory=list)
    """Those with an error of their own."""
    again: list[Member] = field(default_factory=list)
    """Those to ask for again, together."""
    alone: list[Member] = field(default_factory=list)
    """Those to ask for again, each in a request of its own."""


def parted(calls: Sequence[Member], error: BaseException, *, again: bool) -> Parting[Member]:
    """Who a failure concerns.

    A server that knows no ON_INVALID_ANSWER_REST refuses all of them for one bad sequence; the one
    that it names fails its own caller alone. What may be the fault of the company, such as a
    request over the server's own limits, is nobody's before it is shown for each call alone. All
    else, such as a full queue, would have met every one of them.

    Args:
        calls: Those that shared the request, in its order.
        error: How it failed.
        again: Whether the rest may be asked for together once more.
    """
    if isinstance(error, InvalidSequences):
        named = {violation.sequence for violation in error.violations}
        refused = [(call, _own(error, index)) for index, call in enumerate(calls) if index in named]
        rest = [call for index, call in enumerate(calls) if index not in named]
        if refused and again:
            return Parting(refused, again=rest)
        return Parting(refused, alone=rest)
    if isinstance(error, SeqserveError) and not isinstance(
        error, InvalidRequest | ProtocolError | ServerFault
    ):
        return Parting([(call, same(error)) for call in calls])
    return Parting(alone=list(calls))


def same(error: SeqserveError) -> SeqserveError:
    """The same failure for one more caller, as an exception object of its own."""
    again = copy.copy(error)
    again.__cause__ = error.__cause__
    return again


def _own(error: InvalidSequences, index: int) -> SeqserveError:
    """The part of the failure that is about one sequence, as told to a caller who has no other."""
    own = invalid_sequences(
        tuple(
            of_sequence(violation, 0)
            for violation in error.violations
            if violation.sequence == index
        )
    )
    own.__cause__ = error.__cause__
    return own
