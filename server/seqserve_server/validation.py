"""What a request may hold, checked before anything is queued or allocated for it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from seqserve.artifact import is_model_name
from seqserve.ragged import RaggedBatch
from seqserve_server.errors import InvalidRequest
from seqserve_server.served_model import ServedModel


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


def check_batch(batch: RaggedBatch, model: ServedModel, limits: RequestLimits, field: str) -> None:
    """Refuses sequences that are too long for the model, for a request, or not finite.

    Args:
        batch: The sequences.
        model: Who is to answer.
        limits: What one request may hold.
        field: The name of the sequences in the request.

    Raises:
        InvalidRequest: one of them is.
    """
    if batch.steps > limits.max_steps:
        raise InvalidRequest(
            f"{batch.steps} steps in all; at most {limits.max_steps} are accepted in a request "
            "(--max-request-steps)",
            field=f"{field}.lengths",
        )
    if batch.steps > model.max_steps and batch.lengths.max() > model.max_steps:
        index = int(np.argmax(batch.lengths > model.max_steps))
        raise InvalidRequest(
            f"sequence {index} has {batch.lengths[index]} steps; {model} accepts at most "
            f"{model.max_steps}",
            field=f"{field}.lengths[{index}]",
        )
    if not np.isfinite(batch.values).all():
        raise _not_finite(batch, field)


def check_top_k(top_k: int, model: ServedModel) -> None:
    """Refuses to name more classes than the model has.

    Raises:
        InvalidRequest: it asks for more.
    """
    if top_k > len(model.labels):
        raise InvalidRequest(
            f"top_k is {top_k}; {model} has {len(model.labels)} classes", field="top_k"
        )


def _not_finite(batch: RaggedBatch, field: str) -> InvalidRequest:
    place = int(np.argmin(np.isfinite(batch.values)))
    step, feature = divmod(place, batch.features)
    index = int(np.searchsorted(batch.offsets, step, side="right")) - 1
    return InvalidRequest(
        f"sequence {index} has {batch.values[step, feature]} at step "
        f"{step - batch.offsets[index]}, feature {feature}; every number must be finite",
        field=f"{field}.values[{index}]",
    )
