"""Mutations of messages that leave most of them messages.

Bytes changed at random are seldom a message again, and still more seldom one whose lengths and
values agree; what lies behind those checks would hardly be reached.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, MutableSequence
from math import inf, nan
from random import Random

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from seqserve.v1.sequences_pb2 import RaggedBatch

MutateBytes = Callable[[bytes, int], bytes]
"""The fuzzer's own: these bytes, changed, at most so many of them."""

_MOST_STEPS = 512
"""Of a batch whose values are made to agree with its lengths."""
_NUMBER_BYTES = 4
_NUMBERS = [struct.pack("<f", number) for number in (0.0, -0.0, 1.5, 3e38, 1e-45, nan, inf, -inf)]
_INTEGERS: tuple[int, ...] = (
    *range(6),
    64,
    65,
    255,
    256,
    4096,
    2**16,
    2**31 - 1,
    2**32 - 1,
    2**63,
    2**64 - 1,
)
_LARGEST: dict[int, int] = {
    FieldDescriptor.CPPTYPE_UINT32: 2**32 - 1,
    FieldDescriptor.CPPTYPE_UINT64: 2**64 - 1,
    FieldDescriptor.CPPTYPE_ENUM: 2**31 - 1,
}


class MessageMutator:
    """Mutates messages of one kind, field by field, as libFuzzer calls it.

    Args:
        kind: Of the messages.
        features: Numbers a step, of their batches.
        mutate_bytes: For what is no message, and for some that are.
    """

    def __init__(self, kind: type[Message], features: int, mutate_bytes: MutateBytes) -> None:
        self._kind = kind
        self._features = features
        self._mutate_bytes = mutate_bytes

    def __call__(self, data: bytes, max_size: int, seed: int) -> bytes:
        """Another input, of at most `max_size` bytes."""
        random = Random(seed)
        try:
            message = self._kind.FromString(data)
        except DecodeError:
            return self._mutate_bytes(data, max_size)
        if random.random() < 0.2:
            return self._mutate_bytes(data, max_size)
        for _ in range(random.choice((1, 1, 2, 4))):
            self._change(message, random)
        changed = message.SerializeToString()
        return changed if len(changed) <= max_size else self._mutate_bytes(data, max_size)

    def _change(self, message: Message, random: Random) -> None:
        """One field of it, or of a message within."""
        if isinstance(message, RaggedBatch) and random.random() < 0.5:
            self._agree(message, random)
            return
        field = random.choice([*message.DESCRIPTOR.fields])
        value = getattr(message, field.name)
        if field.message_type is not None:
            self._change(value, random)
        elif field.is_repeated:
            self._change_some(value, _LARGEST[field.cpp_type], random)
        elif isinstance(value, int):
            setattr(message, field.name, _integer(_LARGEST[field.cpp_type], random))
        elif isinstance(value, str):
            changed = self._mutate_bytes(value.encode(), 2 * len(value) + 8)
            setattr(message, field.name, changed.decode(errors="ignore"))
        else:
            setattr(message, field.name, self._changed(value, random))

    def _change_some(self, values: MutableSequence[int], largest: int, random: Random) -> None:
        place = random.randrange(len(values) + 1)
        match random.randrange(4):
            case 0 if place < len(values):
                del values[place]
            case 1:
                values.extend(values[place : place + 64])
            case 2 if place < len(values):
                values[place] = _integer(largest, random)
            case _:
                values.insert(place, _integer(largest, random))

    def _changed(self, numbers: bytes, random: Random) -> bytes:
        if not numbers or random.random() < 0.5:
            return self._mutate_bytes(numbers, 2 * len(numbers) + 8)
        place = random.randrange(len(numbers)) // _NUMBER_BYTES * _NUMBER_BYTES
        return numbers[:place] + random.choice(_NUMBERS) + numbers[place + _NUMBER_BYTES :]

    def _agree(self, batch: RaggedBatch, random: Random) -> None:
        """Makes lengths and values agree, as they do in what clients send."""
        lengths = [min(length, random.choice((1, 4, 65))) for length in batch.lengths] or [1]
        del batch.lengths[:]
        steps = 0
        for length in lengths:
            if steps + length > _MOST_STEPS:
                break
            batch.lengths.append(length)
            steps += length
        size = _NUMBER_BYTES * self._features * steps
        batch.values = batch.values[:size].ljust(size, b"\0")


def _integer(largest: int, random: Random) -> int:
    return min(random.choice(_INTEGERS), largest)
