"""A ragged batch as numpy arrays."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from tests.data.conftest import Read, Refuse

GOOD: dict[str, Any] = {
    "values": np.arange(6.0).reshape(3, 2),
    "lengths": np.array([2, 1]),
    "labels": np.array(["u", "v"]),
}


def npz(arrays: dict[str, Any]) -> bytes:
    """A .npz file of these arrays."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def test_a_file_is_read(read_text: Read) -> None:
    more = {"ids": np.array([10, 20]), "feature_names": np.array(["x", "y"]), "other": np.ones(9)}
    dataset = read_text("d.npz", npz(GOOD | more))
    assert [sequence.tolist() for sequence in dataset.sequences] == [[[0, 1], [2, 3]], [[4, 5]]]
    assert dataset.labels == ("u", "v")
    assert dataset.ids == ("10", "20")
    assert dataset.feature_names == ("x", "y")


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (np.array([b"u", b"v"]), ("u", "v")),
        (np.array([1, -2], np.int8), ("1", "-2")),
        (np.array([1.0, 2.0]), ("1", "2")),
        (np.array([True, False]), ("true", "false")),
    ],
    ids=["bytes", "integers", "whole floats", "booleans"],
)
def test_labels_become_text(read_text: Read, labels: Any, expected: tuple[str, str]) -> None:  # noqa: ANN401
    assert read_text("d.npz", npz(GOOD | {"labels": labels})).labels == expected


def test_labels_and_ids_may_be_absent(read_text: Read) -> None:
    dataset = read_text("d.npz", npz({name: GOOD[name] for name in ("values", "lengths")}))
    assert dataset.labels is None
    assert dataset.ids == ("0", "1")
    assert dataset.feature_names == ()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"values": np.ones(3)}, "column 'values': must be numbers of shape (steps, features)"),
        ({"values": np.ones((3, 0))}, "with at least one feature, not float64 of shape (3, 0)"),
        ({"values": np.array([["a"]] * 3)}, "must be numbers"),
        ({"values": np.ones((4, 2))}, "holds 4 steps, but the lengths add up to 3"),
        (
            {"values": np.array([[1, 2], [3, 4], [5, np.nan]])},
            "row 2 (counted from 0), column 'values': feature 1 is NaN; every number must be "
            "finite (sequence 1)",
        ),
        ({"lengths": np.array([2.0, 1.0])}, "column 'lengths': must be integers of shape"),
        (
            {"lengths": np.array([3, 0])},
            "row 1 (counted from 0), column 'lengths': the sequence has 0",
        ),
        ({"lengths": np.zeros(0, int)}, "column 'lengths': there are no sequences"),
        ({"lengths": np.array([2**62] * 4 + [3])}, "the lengths add up to 18446744073709551619"),
        ({"labels": np.array(["u"])}, "column 'labels': has shape (1,); (2,) is needed"),
        ({"labels": np.array(["u", ""])}, "row 1 (counted from 0), column 'labels': is empty"),
        ({"labels": np.array([1.5, 2])}, "row 0 (counted from 0), column 'labels': is 1.5; text"),
        ({"labels": np.array([1, np.nan])}, "row 1 (counted from 0), column 'labels': is missing"),
        ({"feature_names": np.array(["x"])}, "column 'feature_names': has shape (1,)"),
        ({"labels": np.array(["u", None])}, "not a readable .npz file: Object arrays cannot be"),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, dict) else "",
)
def test_a_bad_array_is_refused_with_its_place(
    refusal: Refuse, arrays: dict[str, Any], message: str
) -> None:
    assert message in refusal("d.npz", npz(GOOD | arrays))


def test_a_missing_array_is_named(refusal: Refuse) -> None:
    message = refusal("d.npz", npz({"values": GOOD["values"], "X": np.ones(2)}))
    assert message.startswith("d.npz: has no array named lengths; it has values, and")


def test_a_single_array_is_no_set_of_arrays(refusal: Refuse) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.ones(3))
    assert "not a readable .npz file" in refusal("d.npz", buffer.getvalue())
