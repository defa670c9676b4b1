"""What a request may hold, checked before anything is queued or allocated for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

from seqserve.artifact import is_model_name
from seqserve.ragged import RaggedBatch
from seqserve_server.errors import InvalidRequest
from seqserve_server.models.served_model import ServedModel

MOST_NAMED = 16
"""Sequences that one refusal names: it travels as metadata, of which clients take 8 KiB."""


@dataclass(frozen=True)
class InvalidSequence:
    """A sequence that the model cannot take."""

    index: int
    """Its place in the request."""
    field: str
    """As `sequences.values`."""
    description: str
    """What was given, what is allowed."""


@dataclass(frozen=True)
class RequestLimits:
    """What one request may hold, whichever the model."""

    max_sequences: int
    """Sequences of a request."""
    max_steps: int
    """Steps of all its sequences together."""
    max_bytes: int
    """Bytes of its message."""


def check_model_name(name: str) -> None:
    """Refuses what cannot name a model.

    Raises:
        InvalidRequest: it is empty, too long, or has other characters than are allowed.
    """
    if not is_model_name(name):
        raise InvalidRequest(
            f"{name[:128]!a} cannot name a model: 1 to 128 of A-Z a-z 0-9 . _ - are allowed, "
            "beginning with a letter or digit",
            field="model_name",
        )


def check_size(size: int, limits: RequestLimits, field: str) -> None:
    """Refuses a message of more bytes than a request may have.

    Raises:
        InvalidRequest: it has more.
    """
    if size > limits.max_bytes:
        raise InvalidRequest(
            f"a message of {size} bytes; at most {limits.max_bytes} are accepted "
            "(--max-message-bytes)",
            field=field,
        )


def check_sequence_count(sequences: int, limits: RequestLimits, field: str) -> None:
    """Refuses more sequences than a request may hold, before each of them is looked at.

    Args:
        sequences: How many there are.
        limits: What one request may hold.
        field: What there is one of for each sequence.

    Raises:
        InvalidRequest: there are more.
    """
    if sequences > limits.max_sequences:
        raise InvalidRequest(
            f"{sequences} sequences; at most {limits.max_sequences} are accepted in a request "
            "(--max-request-sequences)",
            field=field,
        )


def check_steps(steps: int, limits: RequestLimits, field: str) -> None:
    """Refuses more steps than a request may hold.

    Args:
        steps: Those of all its sequences together.
        limits: What one request may hold.
        field: The name of the sequences in the request.

    Raises:
        InvalidRequest: there are more.
    """
    if steps > limits.max_steps:
        raise InvalidRequest(
            f"{steps} steps in all; at most {limits.max_steps} are accepted in a request "
            "(--max-request-steps)",
            field=f"{field}.lengths",
        )


def invalid_sequences(
    batch: RaggedBatch, model: ServedModel, field: str
) -> Sequence[InvalidSequence]:
    """The sequences that the model cannot take: of no steps, too long, or not finite.

    Args:
        batch: The sequences, some of no steps perhaps.
        model: Who is to answer.
        field: The name of the sequences in the request.

    Returns:
        By index, each once, described when it is asked for; none where all can be answered.
    """
    lengths = batch.lengths
    if (
        np.count_nonzero(lengths) == len(lengths)
        and (batch.steps <= model.max_steps or lengths.max() <= model.max_steps)
        and (model.admits_non_finite or np.isfinite(batch.values).all())
    ):
        return ()
    return _Invalid(batch, model, field)


def refusal(invalid: Sequence[InvalidSequence]) -> InvalidRequest:
    """The error that names sequences, the first of them at least; there must be one."""
    others = len(invalid) - 1
    named = [(f"{each.field}[{each.index}]", each.description) for each in invalid[:MOST_NAMED]]
    field, description = named[0]
    more = f" (and {others} more {'sequence' if others == 1 else 'sequences'})" if others else ""
    return InvalidRequest(description + more, field=field, violations=named)


def check_top_k(top_k: int, model: ServedModel) -> None:
    """Refuses to name more classes than the model has.

    Raises:
        InvalidRequest: it asks for more.
    """
    if top_k > len(model.labels):
        raise InvalidRequest(
            f"top_k is {top_k}; {model} has {len(model.labels)} classes", field="top_k"
        )


class _Invalid(Sequence[InvalidSequence]):
    """Of many, few are named by a refusal: none is described before it is."""

    def __init__(self, batch: RaggedBatch, model: ServedModel, field: str) -> None:
        self._batch = batch
        self._model = model
        self._field = field
        invalid = (batch.lengths == 0) | (batch.lengths > model.max_steps)
        self._not_finite = np.empty(0, np.intp)
        """Steps, in order."""
        if not model.admits_non_finite:
            self._not_finite = np.flatnonzero(~np.isfinite(batch.values).all(axis=1))
            invalid[np.searchsorted(batch.offsets, self._not_finite, side="right") - 1] = True
        self._indices = np.flatnonzero(invalid)

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, place: int) -> InvalidSequence: ...
    @overload
    def __getitem__(self, place: slice) -> list[InvalidSequence]: ...
    def __getitem__(self, place: int | slice) -> InvalidSequence | list[InvalidSequence]:
        if isinstance(place, slice):
            return [self._described(index) for index in self._indices[place].tolist()]
        return self._described(int(self._indices[place]))

    def _described(self, index: int) -> InvalidSequence:
        steps = int(self._batch.lengths[index])
        if not steps:
            return _empty(index, self._field)
        if steps > self._model.max_steps:
            return _too_long(index, steps, self._model, self._field)
        first = np.searchsorted(self._not_finite, self._batch.offsets[index])
        return _not_finite(self._batch, index, int(self._not_finite[first]), self._field)


def _empty(index: int, field: str) -> InvalidSequence:
    return InvalidSequence(
        index, f"{field}.lengths", f"sequence {index} has 0 steps; at least 1 is needed"
    )


def _too_long(index: int, steps: int, model: ServedModel, field: str) -> InvalidSequence:
    return InvalidSequence(
        index,
        f"{field}.lengths",
        f"sequence {index} has {steps} steps; {model} accepts at most {model.max_steps}",
    )


def _not_finite(batch: RaggedBatch, index: int, step: int, field: str) -> InvalidSequence:
    feature = int(np.argmin(np.isfinite(batch.values[step])))
    return InvalidSequence(
        index,
        f"{field}.values",
        f"sequence {index} has {batch.values[step, feature]} at step "
        f"{step - batch.offsets[index]}, feature {feature}; every number must be finite",
    )
