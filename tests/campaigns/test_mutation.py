from __future__ import annotations

from collections import Counter

import pytest
from google.protobuf.message import DecodeError

from seqserve.errors import InvalidRagged
from seqserve.ragged import decode
from seqserve.v1.classifier_pb2 import ClassifyRequest
from seqserve.v1.sequences_pb2 import RaggedBatch
from tests.campaigns.mutation import MessageMutator

FEATURES = 3
INPUTS = 2_000


def _truncated(data: bytes, most: int) -> bytes:
    return (data[:-1] or b"\x01")[:most]


@pytest.mark.parametrize("size", [64, 4096])
def test_many_mutated_batches_are_sound_and_many_are_not(size: int) -> None:
    mutate = MessageMutator(RaggedBatch, FEATURES, _truncated)
    good = RaggedBatch(values=bytes(4 * FEATURES * 3), lengths=[1, 2]).SerializeToString()
    outcomes: Counter[str] = Counter()
    data = good
    for seed in range(INPUTS):
        data = mutate(data, size, seed)
        assert len(data) <= size
        try:
            decode(RaggedBatch.FromString(data), FEATURES)
        except (DecodeError, InvalidRagged) as error:
            outcomes[type(error).__name__] += 1
            data = good if isinstance(error, DecodeError) else data
        else:
            outcomes["decoded"] += 1
    assert min(outcomes["decoded"], outcomes["InvalidRagged"]) > INPUTS // 10, outcomes


def test_every_field_of_a_request_is_mutated() -> None:
    mutate = MessageMutator(ClassifyRequest, FEATURES, _truncated)
    batch = RaggedBatch(values=bytes(4 * FEATURES), lengths=[1])
    good = ClassifyRequest(model_name="gru", sequences=batch)
    changed: Counter[str] = Counter()
    for seed in range(INPUTS):
        try:
            message = ClassifyRequest.FromString(mutate(good.SerializeToString(), 4096, seed))
        except DecodeError:
            continue
        for field in ClassifyRequest.DESCRIPTOR.fields:
            if getattr(message, field.name) != getattr(good, field.name):
                changed[field.name] += 1
    assert changed.keys() == {field.name for field in ClassifyRequest.DESCRIPTOR.fields}
