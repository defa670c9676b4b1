"""Calls that share a request get, bit for bit, what the sequence alone gives in onnxruntime."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from seqserve.v1.classifier_pb2 import ClassifyRequest
from seqserve_client import (
    AsyncClient,
    Classification,
    Client,
    async_coalescing,
    coalescing,
)
from seqserve_client.errors import InvalidSequences
from seqserve_client.gathering import Kind
from seqserve_client.joined import Call, message
from tests.integration.conftest import MODELS, in_process

Array = NDArray[np.float32]
CALLERS = 48
CALLS = 5
"""Of each caller, one after the other."""


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many sequences each request has had; more than one for some, or nothing was shown."""
    sizes: list[int] = []

    def noted(kind: Kind, calls: Sequence[Call]) -> ClassifyRequest:
        sizes.append(len(calls))
        return message(kind, calls)

    for module in (coalescing, async_coalescing):
        monkeypatch.setattr(module, "message", noted)
    yield sizes
    assert max(sizes) > 1


@pytest.fixture(params=MODELS)
def name(request: pytest.FixtureRequest) -> str:
    """Each model in turn."""
    return str(request.param)


@pytest.fixture
def sequences() -> list[Array]:
    """One for each call, of 1 to 60 steps."""
    rng = np.random.default_rng(11)
    lengths = rng.integers(1, 61, CALLERS * CALLS)
    return [rng.standard_normal((length, 3), np.float32) * 4 for length in lengths]


def by_threads(address: str, calls: Callable[[Client, int], list[Classification]]) -> list[Array]:
    """The logits that each of the threads got, in the threads' order."""
    with Client(address) as client, ThreadPoolExecutor(CALLERS) as pool:
        answers = pool.map(lambda caller: calls(client, caller), range(CALLERS))
        return [answer.logits for of_one in answers for answer in of_one]


def expected(models: Path, name: str, batch: list[Array]) -> list[Array]:
    """Each sequence by itself, in this process."""
    run = in_process(models, name)
    return [run(each[None], np.array([len(each)], np.int32)).logits for each in batch]


def same(answers: list[Array], others: list[Array]) -> bool:
    return [one.tobytes() for one in answers] == [one.tobytes() for one in others]


@pytest.mark.usefixtures("joined")
def test_many_threads_get_what_each_sequence_gives_alone(
    server: str, models: Path, name: str, sequences: list[Array]
) -> None:
    def calls(client: Client, caller: int) -> list[Classification]:
        mine = sequences[caller * CALLS : (caller + 1) * CALLS]
        return [client.classify([each], model=name) for each in mine]

    assert same(by_threads(server, calls), expected(models, name, sequences))


@pytest.mark.usefixtures("joined")
async def test_many_tasks_get_what_each_sequence_gives_alone(
    server: str, models: Path, name: str, sequences: list[Array]
) -> None:
    async with AsyncClient(server) as client:

        async def calls(caller: int) -> list[Array]:
            mine = sequences[caller * CALLS : (caller + 1) * CALLS]
            return [(await client.classify([each], model=name)).logits for each in mine]

        answers = await asyncio.gather(*(calls(caller) for caller in range(CALLERS)))
    assert same([one for of_one in answers for one in of_one], expected(models, name, sequences))


@pytest.mark.usefixtures("joined")
def test_bad_sequences_among_them_fail_as_if_alone_and_change_nobodys_answer(
    server: str, models: Path, sequences: list[Array]
) -> None:
    bad = set(range(7, CALLERS * CALLS, 23))
    for index in bad:
        sequences[index][-1, 1] = np.nan
    told: dict[int, str] = {}

    def calls(client: Client, caller: int) -> list[Classification]:
        answers = []
        for index in range(caller * CALLS, (caller + 1) * CALLS):
            try:
                answers.append(client.classify([sequences[index]], model="lstm-last"))
            except InvalidSequences as error:
                told[index] = str(error)
        return answers

    answers = by_threads(server, calls)
    good = [each for index, each in enumerate(sequences) if index not in bad]
    assert same(answers, expected(models, "lstm-last", good))
    with Client(server) as client:
        for index in bad:
            with pytest.raises(InvalidSequences) as alone:
                client.classify([sequences[index]], model="lstm-last")
            assert told.pop(index) == str(alone.value)
    assert not told
