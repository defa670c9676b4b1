"""This process as an engine: one version, loaded as servers do, the same bits in any company."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from seqserve import artifact
from seqserve.graph import GraphRunner, Outputs
from seqserve.ragged import RaggedBatch
from seqserve_jobs.engines.embedded import EmbeddedEngine
from seqserve_jobs.errors import EngineError
from seqserve_server import cores

if TYPE_CHECKING:
    from tests.conftest import ModelRepository, PublishedOptions

FEATURES = 3
TIMEOUT_S = 60.0

NETWORKS: dict[str, PublishedOptions] = {
    "lstm": {"cell": "lstm", "num_layers": 2, "head": "mean"},
    "gru": {"cell": "gru", "seed": 1},
    "rnn": {"cell": "rnn-tanh", "head": "max", "seed": 2},
    "rnn-relu": {"cell": "rnn-relu", "num_layers": 2, "seed": 3},
    "both-ways": {"cell": "lstm", "bidirectional": True, "head": "max", "seed": 4},
    "rnn-both-ways": {"cell": "rnn-tanh", "bidirectional": True, "head": "mean", "seed": 5},
    "anything": {"cell": "gru", "head": "max", "seed": 6, "admit_non_finite": True},
}

Array = NDArray[np.float32]
Alone = Callable[[str, Array], Outputs]

lengths = st.lists(st.integers(1, 29), min_size=1, max_size=80) | st.builds(
    lambda length, count: [length] * count, st.integers(1, 29), st.integers(1, 200)
)


@pytest.fixture(scope="module")
def networks(repository: ModelRepository) -> Path:
    return repository(**NETWORKS)


@pytest.fixture(scope="module")
def engines(networks: Path) -> Iterator[Callable[[str, int], EmbeddedEngine]]:
    """One of a model, with so many lanes."""
    opened: list[EmbeddedEngine] = []

    @cache
    def engine(model: str, lanes: int) -> EmbeddedEngine:
        opened.append(EmbeddedEngine(networks, model, lanes=lanes))
        return opened[-1]

    yield engine
    for each in opened:
        each.close()


@pytest.fixture(scope="module")
def alone(networks: Path) -> Alone:
    """A model's outputs for one sequence, a batch of one, from onnxruntime."""

    @cache
    def graph(name: str) -> GraphRunner:
        folder = artifact.version_path(networks, name, 1)
        session = onnxruntime.InferenceSession(
            folder / artifact.MODEL_FILE, providers=["CPUExecutionProvider"]
        )
        return GraphRunner(artifact.read_manifest(folder).graph, session.run)

    return lambda name, sequence: graph(name)(sequence[None], np.array([len(sequence)], np.int32))


@pytest.fixture
def versions(repository: ModelRepository, tmp_path: Path) -> Path:
    """A repository of `gru` with versions 1, 2 and 3, which the test may change."""
    root = tmp_path / "models"
    for version in (1, 2, 3):
        published = repository(gru={"cell": "gru", "seed": version}) / "gru" / "1"
        manifest = artifact.read_manifest(published)
        manifest.version = version
        folder = shutil.copytree(published, root / "gru" / str(version))
        artifact.write_manifest(manifest, folder)
    return root


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("lanes", [1, 3])
@given(shards=st.lists(lengths, min_size=1, max_size=3), seed=st.integers(0, 1 << 20))
@settings(max_examples=12)
def test_every_answer_is_that_of_a_batch_of_one_bit_for_bit(
    name: str,
    lanes: int,
    shards: list[list[int]],
    seed: int,
    engines: Callable[[str, int], EmbeddedEngine],
    alone: Alone,
) -> None:
    engine = engines(name, lanes)
    batches = [_batch(shard, seed + number) for number, shard in enumerate(shards)]
    if engine.model.admits_non_finite:
        for batch in batches:
            batch.values[:: 1 + seed % 7, seed % FEATURES] = (np.nan, np.inf)[seed % 2]
    futures = [engine.submit(batch) for batch in batches]

    for batch, future in zip(batches, futures, strict=True):
        scores = future.result(TIMEOUT_S)
        expected = [alone(name, sequence) for sequence in batch]
        _same(scores.logits, np.concatenate([each.logits for each in expected]))
        _same(scores.probabilities, np.concatenate([each.probabilities for each in expected]))
        assert scores.computed_steps is not None
        assert scores.computed_steps >= batch.steps


def test_a_model_says_what_its_manifest_says(networks: Path) -> None:
    with EmbeddedEngine(networks, "anything") as engine:
        model = engine.model

    folder = artifact.version_path(networks, "anything", 1)
    assert (model.name, model.version, model.digest) == ("anything", 1, artifact.digest(folder))
    assert model.labels == ("class 0", "class 1", "class 2", "class 3")
    assert model.feature_names == ("feature 0", "feature 1", "feature 2")
    assert (model.features, model.admits_non_finite) == (3, True)


def test_there_are_as_many_lanes_as_cores_are_granted(
    networks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores, "granted", lambda: 3)
    with EmbeddedEngine(networks, "gru") as engine:
        assert engine.lanes == 3


def test_version_0_is_the_newest_that_is_sound(
    versions: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damaged = versions / "gru" / "3" / artifact.MODEL_FILE
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\0")
    with EmbeddedEngine(versions, "gru") as engine:
        assert engine.model.version == 2
    assert "gru version 3 is not sound" in caplog.text


def test_a_version_that_is_asked_for_and_is_not_sound_is_refused(versions: Path) -> None:
    damaged = versions / "gru" / "3" / artifact.GOLDEN_FILE
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(EngineError, match=r"no version of gru can be served: .*golden\.npz"):
        EmbeddedEngine(versions, "gru", 3)


def test_a_model_whose_answers_are_not_those_it_was_published_with_is_refused(
    versions: Path,
) -> None:
    # Weights of another version, with the right sha256: only its golden set can tell.
    one, two = versions / "gru" / "1", versions / "gru" / "2"
    shutil.copy(two / artifact.MODEL_FILE, one)
    manifest = artifact.read_manifest(one)
    [model] = [file for file in manifest.files if file.path == artifact.MODEL_FILE]
    model.sha256 = artifact.sha256(one / artifact.MODEL_FILE)
    model.bytes = (one / artifact.MODEL_FILE).stat().st_size
    artifact.write_manifest(manifest, one)
    with pytest.raises(EngineError, match="from torch"):
        EmbeddedEngine(versions, "gru", 1)


def test_what_happens_in_the_repository_afterwards_changes_no_answer(versions: Path) -> None:
    batch = _batch([5, 9, 1], seed=0)
    with EmbeddedEngine(versions, "gru", 1) as engine:
        before = engine.submit(batch).result(TIMEOUT_S)
        shutil.rmtree(versions)
        after = engine.submit(batch).result(TIMEOUT_S)
        assert engine.model.version == 1

    _same(after.logits, before.logits)


@pytest.mark.parametrize(
    ("model", "version", "message"),
    [
        ("lstm", 0, r"has no version of a model 'lstm'; models: gru$"),
        ("../gru", 0, r"has no version of a model '\.\./gru'; models: gru$"),
        ("gru", 7, r"has no version 7 of gru; it has 1, 2, 3$"),
    ],
)
def test_what_is_not_there_is_named_with_what_is(
    model: str, version: int, message: str, versions: Path
) -> None:
    with pytest.raises(EngineError, match=message):
        EmbeddedEngine(versions, model, version)


def test_a_repository_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"nowhere: is no model repository that can be read"):
        EmbeddedEngine(tmp_path / "nowhere", "gru")


def test_a_run_that_fails_is_told_to_its_batch_and_no_other(networks: Path) -> None:
    good, bad = _batch([5, 9], seed=0), _batch([4, 4], seed=1)
    wrong = RaggedBatch(np.zeros((8, FEATURES + 1), np.float32), bad.lengths)
    with EmbeddedEngine(networks, "gru", lanes=1) as engine:
        futures = [engine.submit(batch) for batch in (good, wrong, good)]
        with pytest.raises(EngineError, match="a run failed: "):
            futures[1].result(TIMEOUT_S)
        first, last = (futures[index].result(TIMEOUT_S) for index in (0, 2))

    _same(first.logits, last.logits)


def test_closing_gives_up_what_is_under_way(networks: Path) -> None:
    engine = EmbeddedEngine(networks, "both-ways", lanes=2)
    shard = _batch([29] * 16_384, seed=0)
    futures = [engine.submit(shard) for _ in range(4)]
    engine.close()

    with pytest.raises(EngineError, match="closed before it answered"):
        futures[-1].result(0)
    assert all(future.done() for future in futures)
    with pytest.raises(EngineError, match="closed before it answered"):
        engine.submit(shard).result(0)


def _batch(lengths: list[int], seed: int) -> RaggedBatch:
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((sum(lengths), FEATURES), np.float32)
    return RaggedBatch(values, np.array(lengths))


def _same(given: Array, expected: Array) -> None:
    """Bit for bit, but for what a NaN looks like inside."""
    assert np.array_equal(given, expected, equal_nan=True)
    assert given.dtype == expected.dtype == np.float32
