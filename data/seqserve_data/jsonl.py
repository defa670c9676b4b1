"""The .jsonl form: one JSON object a line, one sequence an object.

    {"id": "a", "label": "walk", "values": [[0.1, 0.2], [0.3, 0.4]]}

Its steps are under `values` or `sequence`, as lists of numbers or, with one feature, as numbers;
other keys are left aside. Lines are parsed by the standard library and not by Arrow, which does
not say on which line a file is wrong.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqserve.ragged import RaggedBatch
from seqserve_data.columns import ID_NAMES, LABEL_NAMES, Columns, check_names, find, listed
from seqserve_data.dataset import Dataset
from seqserve_data.errors import InvalidLayout, InvalidValue, UnreadableData
from seqserve_data.numbers import BadNumber, as_float32
from seqserve_data.places import Origin, Place, Source
from seqserve_data.text import as_text

STEPS_NAMES = ("values", "sequence")

Record = tuple[int, dict[str, Any]]
"""A line's number, counted from 1, and its object."""


def read(path: Path, columns: Columns) -> Dataset:
    """The data set in a .jsonl file.

    Raises:
        DataError: says which line and key, and where in the list, is wrong.
    """
    source = Source(str(path), line_of=int)  # a record is known by its line
    if columns.order is not None or len(columns.features) > 1:
        raise InvalidLayout(
            "one key holds whole sequences here: no others hold features or their order",
            source.place(),
        )
    records: list[Record] = []
    sequences: list[NDArray[np.float32]] = []
    for line, record in _records(path, source):
        key = _steps_key(columns, list(record), source.place(line))
        sequences.append(_sequence(record.pop(key), source.place(line, key)))
        records.append((line, record))
        if sequences[-1].shape[1] != sequences[0].shape[1]:
            raise InvalidValue(
                f"has {sequences[-1].shape[1]} features a step, but line {records[0][0]} has "
                f"{sequences[0].shape[1]}",
                source.place(line, key),
            )
    if not records:
        raise InvalidLayout("has no lines", source.place())
    names = list(dict.fromkeys(name for _, record in records for name in record))
    check_names(replace(columns, features=()), names, source)
    label_key = find(columns.label, LABEL_NAMES, names, columns)
    ids = _texts(records, find(columns.id, ID_NAMES, names, columns), source)
    return Dataset(
        name=path.name,
        sequences=RaggedBatch.from_sequences(sequences),
        labels=_texts(records, label_key, source),
        ids=ids or tuple(map(str, range(len(records)))),
        origin=Origin(source, [line for line, _ in records], label_key),
    )


def _records(path: Path, source: Source) -> Iterator[Record]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UnreadableData(f"is not JSON: {error}", source.place(number)) from error
            if not isinstance(record, dict):
                raise InvalidLayout("is not a JSON object", source.place(number))
            yield number, record


def _steps_key(columns: Columns, names: list[str], place: Place) -> str:
    """The key of a line's steps."""
    told = columns.features[0] if columns.features else None
    key = find(told, STEPS_NAMES, names, columns)
    if key not in names:
        wanted = " or ".join([told] if told else STEPS_NAMES)
        raise InvalidLayout(f"has no key {wanted}; it has {listed(names)}", place)
    return key


def _texts(records: list[Record], key: str | None, source: Source) -> tuple[str, ...] | None:
    if key is None:
        return None
    texts = []
    for line, record in records:
        try:
            texts.append(as_text(record.get(key)))
        except ValueError as error:
            raise InvalidValue(str(error), source.place(line, key)) from error
    return tuple(texts)


def _sequence(steps: object, place: Place) -> NDArray[np.float32]:
    """The (steps, features) of a line."""
    if not isinstance(steps, list) or not steps:
        raise InvalidValue("has no steps; a list of at least 1 is needed", place)
    rows = steps if isinstance(steps[0], list) else [[step] for step in steps]
    fault = _fault(rows)
    if fault is not None:
        raise InvalidValue(fault, place)
    try:
        return as_float32(np.array(rows, np.float64))
    except BadNumber as error:
        step, feature = divmod(error.index, len(rows[0]))
        raise InvalidValue(f"step {step}, feature {feature} {error.reason}", place) from error
    except OverflowError as error:
        raise InvalidValue("holds a whole number beyond the range of float32", place) from error


def _fault(rows: list[Any]) -> str | None:
    """What keeps the rows from being numbers of shape (steps, features); None where nothing."""
    for step, row in enumerate(rows):
        if not isinstance(row, list):
            return f"step {step} is {reprlib.repr(row)}, but step 0 is a list"
        if not row:
            return f"step {step} has no features; at least 1 is needed"
        if len(row) != len(rows[0]):
            return f"step {step} has {len(row)} features, but step 0 has {len(rows[0])}"
        if not set(map(type, row)) <= {int, float}:
            feature = next(i for i, number in enumerate(row) if type(number) not in (int, float))
            what = "is missing" if row[feature] is None else "is not a number"
            return f"step {step}, feature {feature} {what}: {json.dumps(row[feature])[:40]}"
    return None
