"""The .npz form: a ragged batch as numpy arrays.

    values         (steps, features), numbers, all sequences end to end
    lengths        (sequences,), integers, steps of each
    labels         (sequences,), text or whole numbers; may be absent
    ids            (sequences,), text or whole numbers; may be absent
    feature_names  (features,), text; may be absent

Nothing is unpickled.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqserve.ragged import RaggedBatch
from seqserve_data.dataset import Dataset
from seqserve_data.errors import InvalidLayout, InvalidValue, UnreadableData
from seqserve_data.numbers import BadNumber, as_float32
from seqserve_data.places import Origin, Source
from seqserve_data.text import as_text

Arrays = dict[str, NDArray[np.generic]]

_NAMES = ("values", "lengths", "labels", "ids", "feature_names")


def read(path: Path) -> Dataset:
    """The data set in an .npz file.

    Raises:
        DataError: says which array and which entry of it is wrong.
    """
    source = Source(str(path))
    arrays = _load(path, source)
    for name in ("values", "lengths"):
        if name not in arrays:
            raise InvalidLayout(
                f"has no array named {name}; it has {', '.join(arrays) or 'none'}, and "
                f"{', '.join(_NAMES)} are read",
                source.place(),
            )
    lengths = _lengths(arrays["lengths"], source)
    sequences = RaggedBatch(_values(arrays["values"], lengths, source), lengths)
    count = len(sequences)
    return Dataset(
        name=path.name,
        sequences=sequences,
        labels=_names(arrays, "labels", count, source),
        ids=_names(arrays, "ids", count, source) or tuple(map(str, range(count))),
        feature_names=_names(arrays, "feature_names", sequences.features, source) or (),
        origin=Origin(source, range(count), "labels"),
    )


def write(dataset: Dataset, path: Path) -> None:
    """Writes the data set as an .npz file, compressed."""
    arrays: dict[str, Any] = {
        "values": dataset.sequences.values,
        "lengths": dataset.sequences.lengths,
        "ids": np.array(dataset.ids),
    }
    if dataset.labels is not None:
        arrays["labels"] = np.array(dataset.labels)
    if dataset.feature_names:
        arrays["feature_names"] = np.array(dataset.feature_names)
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)


def _load(path: Path, source: Source) -> Arrays:
    if not zipfile.is_zipfile(path):  # numpy would take it for a pickle, and advise to trust it
        raise UnreadableData("not a readable .npz file: no zip archive", source.place())
    try:
        with np.load(path, allow_pickle=False) as loaded:
            return {name: loaded[name] for name in loaded.files if name in _NAMES}
    # A damaged zip raises whatever its reader stumbles over, zlib.error and
    # NotImplementedError among it.
    except Exception as error:
        raise UnreadableData(f"not a readable .npz file: {error}", source.place()) from error


def _lengths(array: NDArray[np.generic], source: Source) -> NDArray[np.int64]:
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise InvalidLayout(
            f"must be integers of shape (sequences,), not {array.dtype} of shape {array.shape}",
            source.place(column="lengths"),
        )
    if not len(array):
        raise InvalidLayout("there are no sequences", source.place(column="lengths"))
    lengths = array.astype(np.int64)
    empty = np.flatnonzero(lengths < 1)
    if len(empty):
        raise InvalidValue(
            f"the sequence has {array[empty[0]]} steps; at least 1 is needed",
            source.place(int(empty[0]), "lengths"),
        )
    return lengths


def _values(
    array: NDArray[np.generic], lengths: NDArray[np.int64], source: Source
) -> NDArray[np.float32]:
    place = source.place(column="values")
    if array.ndim != 2 or array.dtype.kind not in "iuf" or not array.shape[1]:
        raise InvalidLayout(
            "must be numbers of shape (steps, features), with at least one feature, "
            f"not {array.dtype} of shape {array.shape}",
            place,
        )
    # Python's integers: a sum of int64 would wrap where the lengths are nonsense.
    steps = sum(lengths.tolist())
    if steps != len(array):
        raise InvalidLayout(f"holds {len(array)} steps, but the lengths add up to {steps}", place)
    try:
        return as_float32(array)
    except BadNumber as error:
        step, feature = divmod(error.index, array.shape[1])
        sequence = int(np.searchsorted(np.cumsum(lengths), step, side="right"))
        raise InvalidValue(
            f"feature {feature} {error.reason} (sequence {sequence})", source.place(step, "values")
        ) from error


def _names(arrays: Arrays, name: str, count: int, source: Source) -> tuple[str, ...] | None:
    if name not in arrays:
        return None
    array = arrays[name]
    if array.shape != (count,):
        raise InvalidLayout(
            f"has shape {array.shape}; ({count},) is needed", source.place(column=name)
        )
    texts = []
    for row, value in enumerate(array.tolist()):
        try:
            texts.append(as_text(value))
        except ValueError as error:
            raise InvalidValue(str(error), source.place(row, name)) from error
    return tuple(texts)
