"""What comes over the wire is what onnxruntime gives for the sequence alone, bit for bit."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from seqserve_client import AsyncClient, Client
from seqserve_client.errors import InvalidSequences
from tests.integration.conftest import MODELS, ROOT, in_process

Array = NDArray[np.float32]
FORWARD = [name for name, options in MODELS.items() if not options.get("bidirectional")]


def sequences(seed: int, lengths: Sequence[int]) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((length, 3), np.float32) * 4 for length in lengths]


def alone(models: Path, name: str, batch: list[Array]) -> Array:
    run = in_process(models, name)
    return np.concatenate(
        [run(each[None], np.array([len(each)], np.int32)).logits for each in batch]
    )


@pytest.mark.parametrize("name", MODELS)
def test_a_batch_over_the_wire_equals_every_sequence_alone(
    server: str, models: Path, name: str
) -> None:
    batch = sequences(0, [1, 29, 2, 7, 200, 1, 13, *range(1, 60)])
    with Client(server) as client:
        answer = client.classify(batch, model=name)
    assert np.array_equal(answer.logits, alone(models, name, batch))


@pytest.mark.parametrize("name", MODELS)
async def test_the_asynchronous_client_gets_the_same(server: str, models: Path, name: str) -> None:
    batch = sequences(1, [5, 1, 40])
    async with AsyncClient(server) as client:
        answer = await client.classify(batch, model=name)
    assert np.array_equal(answer.logits, alone(models, name, batch))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=40),
    per_request=st.integers(1, 40),
    name=st.sampled_from(sorted(MODELS)),
)
def test_however_a_batch_is_cut_and_ordered(
    server: str, models: Path, seed: int, lengths: list[int], per_request: int, name: str
) -> None:
    batch = sequences(seed, lengths)
    order = np.random.default_rng(seed).permutation(len(batch))
    with Client(server, max_request_sequences=per_request) as client:
        answer = client.classify([batch[index] for index in order], model=name)
    assert np.array_equal(answer.logits, alone(models, name, batch)[order])


def test_several_addresses_may_be_given(server: str, models: Path) -> None:
    batch = sequences(5, [3, 9])
    with Client(f"{server},{server}") as client:
        answer = client.classify(batch, model="gru-max")
    assert np.array_equal(answer.logits, alone(models, "gru-max", batch))


@pytest.mark.parametrize("name", FORWARD)
def test_a_live_sequence_in_pieces_equals_the_whole(server: str, models: Path, name: str) -> None:
    (whole,) = sequences(2, [50])
    with Client(server) as client:
        live = client.live(model=name)
        for piece in np.split(whole, [1, 2, 9, 30]):
            answer = live.advance(piece)
    assert np.array_equal(np.ravel(answer.logits), alone(models, name, [whole])[0])


def test_a_client_written_from_the_proto_alone_gets_the_same(server: str, models: Path) -> None:
    batch = sequences(3, [4, 1, 29])
    python = ROOT / ".venv-proto" / "bin" / "python"
    assert python.exists(), "make test sets .venv-proto up"
    script = Path(__file__).with_name("from_the_proto_alone.py")
    done = subprocess.run(
        [python, script, ROOT / "proto", server, "lstm-last"],
        input=json.dumps({"sequences": [each.tolist() for each in batch]}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    expected = alone(models, "lstm-last", batch)
    assert bytes.fromhex(answers["logits"]) == expected.astype("<f4").tobytes()
    assert answers["labels"] == [f"class {index}" for index in expected.argmax(axis=1)]


def test_a_bad_sequence_is_named_by_its_place_in_the_callers_batch(server: str) -> None:
    batch = sequences(4, [3] * 10)
    batch[7][1, 2] = np.nan
    with (
        Client(server, max_request_sequences=4) as client,
        pytest.raises(InvalidSequences, match="sequence 7"),
    ):
        client.classify(batch, model="lstm-last")
