"""Several clients at once, of every kind, more than the server can take: who is answered is right.

What the load looks like is drawn; what may be answered is not: the bits of the sequence alone, or
the status that says why there is no answer.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc.error_details_pb2 import RetryInfo  # type: ignore[import-untyped]
from grpc_status import rpc_status
from numpy.typing import NDArray

from seqserve import artifact, ragged
from seqserve.ragged import RaggedBatch
from seqserve.v1.classifier_pb2 import (
    SERVICE_CLASS_BULK,
    SERVICE_CLASS_INTERACTIVE,
    AdvanceRequest,
    ClassifyRequest,
)
from seqserve.v1.classifier_pb2_grpc import SequenceClassifierStub
from tests.integration.conftest import MODELS, in_process, serving

Array = NDArray[np.float32]
Code = grpc.StatusCode

CLIENTS, CALLS = 6, 300
PATIENT_S = 60.0
QUEUE_STEPS = 16_000
LONGEST = 2  # of each model's sequences, as long as it takes
QUEUE_FULL = Code.RESOURCE_EXHAUSTED

MAY_END = {
    "patient": {Code.OK, QUEUE_FULL},
    "bulk": {Code.OK, QUEUE_FULL},
    "pieces": {Code.OK, QUEUE_FULL},
    "hurried": {Code.OK, QUEUE_FULL, Code.DEADLINE_EXCEEDED},
    "leaving": {Code.OK, QUEUE_FULL, Code.CANCELLED},
}
"""Kinds of calls, and the statuses that each may end with."""


@dataclass(frozen=True)
class Known:
    """Sequences of a model, and what each gives alone."""

    sequences: list[Array]
    logits: Array


@pytest.fixture(scope="module")
def known(models: Path) -> dict[str, Known]:
    """Of every model; mostly short sequences, some of the longest it takes."""
    rng = np.random.default_rng(11)
    every = {}
    for name in MODELS:
        manifest = artifact.read_manifest(artifact.version_path(models, name, 1))
        lengths = [*rng.integers(1, 120, 60), *[int(manifest.limits.max_steps)] * LONGEST]
        sequences = [rng.standard_normal((length, 3), np.float32) * 4 for length in lengths]
        run = in_process(models, name)
        alone = [run(each[None], np.array([len(each)], np.int32)).logits for each in sequences]
        every[name] = Known(sequences, np.concatenate(alone))
    return every


@pytest.fixture(scope="module", params=["native", "grpcio"])
def busy_server(request: pytest.FixtureRequest, models: Path) -> Iterator[str]:
    """Has two lanes, and a queue that fills up."""
    with serving(
        models,
        *("--transport", request.param),
        *("--lanes", "2"),
        *("--max-queue-steps", str(QUEUE_STEPS)),
        *("--max-request-steps", str(QUEUE_STEPS)),
    ) as address:
        yield address


def test_every_answer_that_comes_is_that_of_the_sequence_alone(
    busy_server: str, known: dict[str, Known]
) -> None:
    with ThreadPoolExecutor(CLIENTS) as clients:
        each = clients.map(partial(_ends, busy_server, known), range(CLIENTS))
        ends = sum(each, Counter[tuple[str, Code]]())

    assert ends.total() == CLIENTS * CALLS
    # Each kind was answered and, where that is what it tries, was not: or the load proves nothing.
    for kind in MAY_END.keys() - {"leaving"}:
        assert ends[kind, Code.OK] > 0, ends
    assert ends["leaving", Code.CANCELLED] > 0, ends
    assert ends["hurried", Code.DEADLINE_EXCEEDED] + ends["hurried", QUEUE_FULL] > 0, ends
    with grpc.insecure_channel(busy_server) as channel:
        stub = SequenceClassifierStub(channel)
        # Not the first, perhaps: the server learns of the last cancellations by and by.
        after = (_classify(stub, known, random.Random(0), "patient") for _ in range(100))
        assert any(call.end() is Code.OK for call in after), "something stayed in the queue"


def _ends(address: str, known: dict[str, Known], seed: int) -> Counter[tuple[str, Code]]:
    """How a client's calls ended, and how often."""
    draw, ends = random.Random(seed), Counter[tuple[str, Code]]()
    with grpc.insecure_channel(address) as channel:
        stub = SequenceClassifierStub(channel)
        while (left := CALLS - ends.total()) > 0:
            together = [_call(stub, known, draw) for _ in range(min(left, draw.randint(1, 24)))]
            for call in together:
                if call.kind == "leaving":
                    call.future.cancel()
            for call in together:
                ends[call.kind, call.end()] += 1
    return ends


@dataclass(frozen=True)
class Call:
    """A call on its way."""

    kind: str
    future: Any
    expected: Array
    """(sequences, classes), logits of each sequence alone."""

    def end(self) -> Code:
        """How it ends; with the right answer, or one of the statuses of its kind."""
        code: Code = self.future.code()
        assert code in MAY_END[self.kind], (self.kind, self.future)
        if code is Code.OK:
            answers = self.future.result().answers
            logits = np.frombuffer(answers.logits, "<f4").reshape(self.expected.shape)
            assert np.array_equal(logits, self.expected), "other company, other bits"
        if code is QUEUE_FULL:
            retry = RetryInfo()
            [detail] = rpc_status.from_call(self.future).details
            assert detail.Unpack(retry)
            assert 0 < retry.retry_delay.ToTimedelta().total_seconds() <= 30
        return code


def _call(stub: SequenceClassifierStub, known: dict[str, Known], draw: random.Random) -> Call:
    kind = draw.choice(list(MAY_END))
    if kind == "pieces":
        return _in_pieces(stub, known, draw)
    return _classify(stub, known, draw, kind)


def _classify(
    stub: SequenceClassifierStub, known: dict[str, Known], draw: random.Random, kind: str
) -> Call:
    name = draw.choice(list(known))
    of = known[name]
    chosen = draw.choices(range(len(of.sequences)), k=draw.choice((1, 1, 2, 8, 40)))
    request = ClassifyRequest(
        model_name=name,
        sequences=ragged.encode(RaggedBatch.from_sequences([of.sequences[i] for i in chosen])),
        service_class=SERVICE_CLASS_BULK if kind == "bulk" else SERVICE_CLASS_INTERACTIVE,
    )
    timeout_s = draw.choice((0.002, 0.02, 1.0)) if kind == "hurried" else PATIENT_S
    return Call(kind, stub.Classify.future(request, timeout=timeout_s), of.logits[chosen])


def _in_pieces(stub: SequenceClassifierStub, known: dict[str, Known], draw: random.Random) -> Call:
    """Live sequences together, each in as many pieces; the call on its way is that of the last."""
    name = draw.choice([name for name in known if not MODELS[name].get("bidirectional")])
    of = known[name]
    pieces = draw.randint(1, 4)
    long_enough = [i for i, each in enumerate(of.sequences) if len(each) >= pieces]
    chosen = draw.choices(long_enough, k=draw.randint(1, 4))
    cut = [_cut(of.sequences[i], pieces, draw) for i in chosen]
    tokens: Sequence[bytes] = []
    for steps in zip(*cut, strict=True):
        request = AdvanceRequest(
            model_name=name,
            steps=ragged.encode(RaggedBatch.from_sequences(steps)),
            tokens=tokens,
        )
        future = stub.Advance.future(request, timeout=PATIENT_S)
        if future.code() is not Code.OK:  # and `end` says whether it may
            break
        tokens = future.result().tokens
    return Call("pieces", future, of.logits[chosen])


def _cut(sequence: Array, pieces: int, draw: random.Random) -> list[Array]:
    return np.split(sequence, sorted(draw.sample(range(1, len(sequence)), pieces - 1)))
