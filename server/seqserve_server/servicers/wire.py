"""What the servicers share: the sequences of a request, its deadline, the answers to it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable

from seqserve import ragged
from seqserve.errors import InvalidRagged
from seqserve.v1 import classifier_pb2, sequences_pb2
from seqserve.v1.classifier_pb2 import OnInvalid
from seqserve_server.answers import Answers
from seqserve_server.errors import InvalidRequest
from seqserve_server.models.served_model import ServedModel
from seqserve_server.scheduling.work import ServiceClass
from seqserve_server.validation import InvalidSequence, RequestLimits, check_sequence_count


def decode(
    message: sequences_pb2.RaggedBatch, model: ServedModel, limits: RequestLimits, field: str
) -> ragged.RaggedBatch:
    """The sequences of a request, their numbers a view of the message; some may have no steps.

    Args:
        message: As it came.
        model: Says how many features a step has.
        limits: Checked before the lengths are read.
        field: The name of the sequences in the request.

    Raises:
        InvalidRequest: they make no ragged batch.
    """
    check_sequence_count(len(message.lengths), limits, f"{field}.lengths")
    try:
        return ragged.decode(message, model.features, admit_empty=True)
    except InvalidRagged as error:
        raise InvalidRequest(str(error), field=f"{field}.{error.field}") from error


def fill(message: sequences_pb2.Answers, answers: Answers) -> None:
    """Makes an empty message the answers; of a response's own, which would be copied into it."""
    message.labels.extend(answers.labels)
    message.classes.extend(answers.classes)
    message.probabilities = ragged.encode_matrix(answers.probabilities)
    message.logits = ragged.encode_matrix(answers.logits)


_SERVICE_CLASSES: dict[int, ServiceClass] = {
    classifier_pb2.SERVICE_CLASS_UNSPECIFIED: ServiceClass.INTERACTIVE,
    classifier_pb2.SERVICE_CLASS_INTERACTIVE: ServiceClass.INTERACTIVE,
    classifier_pb2.SERVICE_CLASS_BULK: ServiceClass.BULK,
}


def service_class(number: int) -> ServiceClass:
    """How urgent a request is.

    Raises:
        InvalidRequest: this server knows no such class.
    """
    known = _SERVICE_CLASSES.get(number)
    if known is None:
        raise InvalidRequest(
            f"service_class is {number}; this server knows "
            f"{', '.join(f'{each} for {name.name}' for each, name in _SERVICE_CLASSES.items())}",
            field="service_class",
        )
    return known


_ANSWERS_REST: dict[int, bool] = {
    classifier_pb2.ON_INVALID_UNSPECIFIED: False,
    classifier_pb2.ON_INVALID_REJECT: False,
    classifier_pb2.ON_INVALID_ANSWER_REST: True,
}


def answers_rest(on_invalid: int) -> bool:
    """Whether sequences that the model cannot take leave the others their answers.

    Raises:
        InvalidRequest: this server knows no such choice.
    """
    rest = _ANSWERS_REST.get(on_invalid)
    if rest is None:
        known = ", ".join(f"{each} for {OnInvalid.Name(each)}" for each in OnInvalid.values())
        raise InvalidRequest(
            f"on_invalid is {on_invalid}; this server knows {known}", field="on_invalid"
        )
    return rest


def invalid_sequences(
    invalid: Iterable[InvalidSequence],
) -> list[classifier_pb2.InvalidSequence]:
    """The sequences without an answer as messages."""
    return [
        classifier_pb2.InvalidSequence(
            index=each.index, field=each.field, description=each.description
        )
        for each in invalid
    ]


def deadline(remaining_s: float | None) -> float:
    """When the caller stops waiting, on the monotonic clock.

    Args:
        remaining_s: As the transport has it; None, or a very large number, without a deadline.
    """
    return math.inf if remaining_s is None else time.monotonic() + remaining_s
