"""The golden set finds a model that is wrong, and no other.

A running sum with whole numbers stands in for the network: its answers are exact, so that each
fault is the one that the test puts in.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from seqserve.errors import GoldenMismatch, InvalidArtifact
from seqserve.golden import Case, GoldenSet, prove, require
from seqserve.graph import GraphRunner
from seqserve.ragged import RaggedBatch
from seqserve.v1.manifest_pb2 import Graph, StateTensor

Array = NDArray[np.float32]
Fault = Callable[[Array, Mapping[str, NDArray[Any]]], Array]
"""What a faulty model makes of its logits, given what it was fed."""

GRAPH = Graph(minimum_rows=1, state=[StateTensor(name="sum", dims=[-1, 2], initial=0)])
TOLERANCE = 1e-5


def sound(logits: Array, feed: Mapping[str, NDArray[Any]]) -> Array:
    """No fault."""
    return logits


def runner(fault: Fault = sound) -> GraphRunner:
    """A model whose logits are the sums of a row's features so far."""

    def session_run(
        output_names: Sequence[str], input_feed: Mapping[str, NDArray[Any]]
    ) -> Sequence[Any]:
        values, lengths = input_feed["values"], input_feed["lengths"]
        assert lengths.min() >= 1, "a row of no steps must not be run"
        real = np.arange(values.shape[1]) < lengths[:, None]
        total = input_feed["sum_in"] + np.where(real[:, :, None], values, 0).sum(axis=1)
        logits = fault(total.copy(), input_feed)
        outputs = {"logits": logits, "probabilities": logits / 128, "sum_out": total}
        return [outputs[name] for name in output_names]

    return GraphRunner(GRAPH, session_run)


def golden_set(lengths: Sequence[int] = (1, 4, 2, 3)) -> GoldenSet:
    """Whole numbers in sequences of these lengths, and a case of every kind."""
    values = np.arange(1.0, 2 * sum(lengths) + 1, dtype=np.float32).reshape(-1, 2)
    pool = RaggedBatch(values, np.array(lengths, np.int64))
    logits = np.stack([sequence.sum(axis=0) for sequence in pool]).astype(np.float32)
    everyone = np.arange(len(pool))
    cases = [Case(f"sequence {row} alone", np.array([row])) for row in everyone]
    cases += [
        Case("all", everyone),
        Case("all, backwards", everyone[::-1]),
        Case("twice the first", np.array([0, 0])),
        Case("padded with garbage", everyone, padding_steps=3, garbage=100.0),
        Case("in chunks of 2", everyone, chunk_steps=2),
        Case("in chunks of 1, garbage", everyone, padding_steps=1, garbage=1.0, chunk_steps=1),
    ]
    return GoldenSet(pool, logits, logits / np.float32(128), cases)


def test_a_sound_model_is_proved() -> None:
    golden = golden_set()
    proof = prove(golden, runner())
    assert (proof.max_difference, proof.bit_equal, proof.unequal_case) == (0.0, True, "")
    assert (proof.sequences, proof.cases) == (4, 10)
    require(proof, TOLERANCE, bit_equal=True)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_a_sound_model_is_proved_whatever_the_lengths(lengths: list[int]) -> None:
    require(prove(golden_set(lengths), runner()), TOLERANCE, bit_equal=True)


def off_by_little(logits: Array, feed: Mapping[str, NDArray[Any]]) -> Array:
    return logits + np.float32(1 / 1024)


def wrong_for_one_sequence(logits: Array, feed: Mapping[str, NDArray[Any]]) -> Array:
    logits[feed["values"][:, 0, 0] == 11, 1] += 1  # sequence 2 of golden_set begins with 11
    return logits


def blind_to_lengths(logits: Array, feed: Mapping[str, NDArray[Any]]) -> Array:
    return np.asarray(feed["sum_in"] + feed["values"].sum(axis=1), np.float32)


def forgetful(logits: Array, feed: Mapping[str, NDArray[Any]]) -> Array:
    return np.asarray(logits - feed["sum_in"], np.float32)


def leaking_between_rows(logits: Array, feed: Mapping[str, NDArray[Any]]) -> Array:
    return np.asarray(logits + (logits.sum(axis=0) - logits), np.float32)


@pytest.mark.parametrize(
    ("fault", "difference", "worst"),
    [
        (off_by_little, 1 / 1024, "case 'sequence 0 alone', sequence 0 of 1 steps"),
        (wrong_for_one_sequence, 1.0, "case 'sequence 2 alone', sequence 2 of 2 steps"),
        (blind_to_lengths, None, "case 'padded with garbage', sequence "),
        (forgetful, None, "case 'in chunks of 2', sequence 3 of 3 steps"),
        (leaking_between_rows, None, "case 'all', sequence 0 of 1 steps"),
    ],
)
def test_a_wrong_answer_is_found_with_its_case_and_sequence(
    fault: Fault, difference: float | None, worst: str
) -> None:
    proof = prove(golden_set(), runner(fault))
    assert proof.worst_case.startswith(worst)
    if difference is not None:
        assert proof.max_difference == difference
    with pytest.raises(GoldenMismatch, match=r"differs from torch by .* in case '") as caught:
        require(proof, TOLERANCE, bit_equal=False)
    assert worst in str(caught.value)


def test_wrong_probabilities_are_found_though_the_logits_are_right() -> None:
    golden = golden_set()
    wrong = golden.probabilities.copy()
    wrong[3, 0] += 1
    proof = prove(replace(golden, probabilities=wrong), runner())
    assert proof.max_difference == pytest.approx(1.0)
    assert proof.worst_case == "case 'sequence 3 alone', sequence 3 of 3 steps"


@pytest.mark.parametrize("nan_in", ["logits", "golden set"])
def test_nan_is_no_answer(nan_in: str) -> None:
    golden, run = golden_set(), runner()
    if nan_in == "logits":
        run = runner(lambda logits, feed: np.where(logits == logits.max(), np.nan, logits))
    else:
        golden = replace(golden, logits=np.full_like(golden.logits, np.nan))
    proof = prove(golden, run)
    assert proof.max_difference == np.inf
    with pytest.raises(GoldenMismatch):
        require(proof, 1e30, bit_equal=False)


def last_bit_by_company(logits: Array, feed: Mapping[str, NDArray[Any]]) -> Array:
    return np.nextafter(logits, np.inf) if len(logits) > 2 else logits


def last_bit_by_order(logits: Array, feed: Mapping[str, NDArray[Any]]) -> Array:
    logits[0] = np.nextafter(logits[0], np.inf)
    return logits


def last_bit_by_padding(logits: Array, feed: Mapping[str, NDArray[Any]]) -> Array:
    padded = feed["values"].shape[1] > 4
    return np.nextafter(logits, np.inf) if padded else logits


def last_bit_by_chunks(logits: Array, feed: Mapping[str, NDArray[Any]]) -> Array:
    return np.nextafter(logits, np.inf) if feed["sum_in"].any() else logits


@pytest.mark.parametrize(
    ("fault", "unequal"),
    [
        (last_bit_by_company, "case 'all', sequence 0 of 1 steps"),
        (last_bit_by_order, "case 'all', sequence 1 of 4 steps"),
        (last_bit_by_padding, "case 'padded with garbage', sequence 0 of 1 steps"),
        (last_bit_by_chunks, "case 'in chunks of 2', sequence 1 of 4 steps"),
    ],
)
def test_a_last_bit_that_depends_on_company_is_found(fault: Fault, unequal: str) -> None:
    proof = prove(golden_set(), runner(fault))
    assert proof.max_difference < TOLERANCE
    assert (proof.bit_equal, proof.unequal_case) == (False, unequal)
    require(proof, TOLERANCE, bit_equal=False)
    with pytest.raises(GoldenMismatch, match="depend on its company") as caught:
        require(proof, TOLERANCE, bit_equal=True)
    assert unequal in str(caught.value)


def test_a_last_bit_that_is_always_the_same_is_no_matter_of_company() -> None:
    proof = prove(golden_set(), runner(lambda logits, feed: np.nextafter(logits, np.inf)))
    assert 0 < proof.max_difference < TOLERANCE
    require(proof, TOLERANCE, bit_equal=True)


def test_a_case_fills_the_padding_as_it_says() -> None:
    seen: list[NDArray[Any]] = []

    def watch(logits: Array, feed: Mapping[str, NDArray[Any]]) -> Array:
        seen.append(feed["values"])
        return logits

    golden = golden_set((1, 3))
    both = np.array([0, 1])
    for garbage in (0.0, 100.0):
        prove(replace(golden, cases=[Case("padded", both, 2, garbage)]), runner(watch))
    plain, filled = seen
    assert plain.shape == filled.shape == (2, 5, 2)
    padding = np.arange(5) >= np.array([[1], [3]])
    assert not plain[padding].any()
    assert (filled[padding] != 0).all()
    assert np.abs(filled[padding]).max() > 20
    np.testing.assert_array_equal(filled[~padding], plain[~padding])


def test_a_golden_set_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    golden = golden_set()
    golden.save(tmp_path / "golden.npz")
    loaded = GoldenSet.load(tmp_path / "golden.npz")
    assert loaded.pool.values.tobytes() == golden.pool.values.tobytes()
    assert loaded.pool.lengths.tolist() == golden.pool.lengths.tolist()
    assert loaded.logits.tobytes() == golden.logits.tobytes()
    assert loaded.probabilities.tobytes() == golden.probabilities.tobytes()
    for case, again in zip(golden.cases, loaded.cases, strict=True):
        assert again.rows.tolist() == case.rows.tolist()
        assert replace(again, rows=case.rows) == case
    require(prove(loaded, runner()), TOLERANCE, bit_equal=True)


def test_a_missing_golden_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArtifact, match=r"golden.npz: not a golden set: "):
        GoldenSet.load(tmp_path / "golden.npz")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"case_rows": np.arange(18)}, "a case names a sequence that the pool does not have"),
        ({"case_rows": -np.ones(25, np.int64)}, "a case names a sequence"),
        ({"case_sizes": np.zeros(10, np.int64)}, "a case names a sequence"),
        ({"logits": np.ones((3, 2), np.float32)}, "the answers are not one for each sequence"),
        ({"probabilities": np.ones((5, 2), np.float32)}, "the answers are not one for each"),
        ({"lengths": np.array([1, 4, 2, 4])}, "the lengths add up to 11 steps"),
        ({"lengths": np.array([1, 4, 2, 0])}, "sequence 3 has 0 steps"),
        ({"case_garbage": np.ones(3)}, "zip"),
        ({"case_names": np.array([None] * 10)}, "case_names.npy holds objects"),
        ({"values": None}, "values"),
    ],
)
def test_a_golden_set_that_contradicts_itself_is_refused(
    tmp_path: Path, wrong: dict[str, Any], message: str
) -> None:
    path = tmp_path / "golden.npz"
    golden_set().save(path)
    with np.load(path) as loaded:
        arrays: dict[str, Any] = dict(loaded) | wrong
    np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
    with pytest.raises(InvalidArtifact, match=message):
        GoldenSet.load(path)


def test_a_golden_set_that_cannot_be_unpacked_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "golden.npz"
    golden_set().save(path)
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        begin = archive.getinfo("values.npy").header_offset
    name_bytes, extra_bytes = struct.unpack_from("<HH", content, begin + 26)
    content[begin + 30 + name_bytes + extra_bytes] = 0b111  # a deflate block of no known type
    path.write_bytes(content)
    with pytest.raises(InvalidArtifact, match=r"not a golden set: .* invalid block type"):
        GoldenSet.load(path)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_damaged_golden_set_is_refused_or_still_whole(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "golden.npz"
    golden_set().save(path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        begin = data.draw(st.integers(0, len(content) - 1))
        content[begin : begin + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    path.write_bytes(content[: data.draw(st.integers(len(content) // 2, len(content)))])
    try:
        loaded = GoldenSet.load(path)
    except InvalidArtifact:
        return
    assert len(loaded.logits) == len(loaded.pool)
