"""The .ts form of the UCR and UEA archives: a header of @tags, then a sequence a line.

A line has the sequence's dimensions (here: features) with colons between them, commas between
their steps, and the class label last. The readers of aeon and sktime do not fit: they lower-case
the labels, turn `?` into NaN in silence and bring numba, scikit-learn and a pin on pandas.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seqserve.ragged import RaggedBatch
from seqserve_data.columns import listed
from seqserve_data.dataset import Dataset
from seqserve_data.errors import InvalidLayout, InvalidValue, UnreadableData
from seqserve_data.numbers import BadNumber, as_float32, is_number
from seqserve_data.places import Origin, Place, Source

Line = tuple[int, str]
"""A line's number, counted from 1, and its text."""


def read(path: Path) -> Dataset:
    """The data set in a .ts file.

    Raises:
        DataError: says which line, and which dimension of it, is wrong.
    """
    source = Source(str(path), line_of=int)  # a record is known by its line
    lines = _lines(path, source)
    classes = _read_header(lines, source)
    sequences, labels, numbers = [], [], []
    for number, text in lines:
        dimensions, place = text.split(":"), source.place(number)
        if classes is not None:
            labels.append(_label(dimensions.pop(), classes, place))
        sequences.append(_sequence(dimensions, place))
        numbers.append(number)
        if sequences[-1].shape[1] != sequences[0].shape[1]:
            raise InvalidLayout(
                f"has {sequences[-1].shape[1]} dimensions, but line {numbers[0]} has "
                f"{sequences[0].shape[1]}",
                place,
            )
    if not sequences:
        raise InvalidLayout("there are no sequences after @data", source.place())
    return Dataset(
        name=path.name,
        sequences=RaggedBatch.from_sequences(sequences),
        labels=None if classes is None else tuple(labels),
        ids=tuple(map(str, range(len(sequences)))),
        origin=Origin(source, numbers),
    )


def _lines(path: Path, source: Source) -> Iterator[Line]:
    """The lines that say something: neither blank nor a comment."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                text = line.decode("utf-8-sig").strip()
            except UnicodeDecodeError as error:
                raise UnreadableData(f"is not UTF-8: {error}", source.place(number)) from error
            if text and not text.startswith(("#", "%")):
                yield number, text


def _read_header(lines: Iterator[Line], source: Source) -> set[str] | None:
    """Reads up to @data; the classes that labels may name, None where lines have no label."""
    classes = None
    for number, text in lines:
        tag, said, *rest = (*text.split(), "", "")
        tag, said, place = tag.lower(), said.lower(), source.place(number)
        if tag == "@data":
            return classes
        if not tag.startswith("@"):
            raise InvalidLayout("a header line begins with @, and @data ends the header", place)
        if tag == "@timestamps" and said == "true":
            raise InvalidLayout(
                "steps with time stamps are not read; leave the times out, or write the file in "
                "long form as .csv or .parquet with a time column",
                place,
            )
        if tag == "@targetlabel" and said == "true":
            raise InvalidLayout(
                "the targets are numbers to predict; class labels (@classLabel true) are needed",
                place,
            )
        if tag == "@classlabel":
            classes = set(rest) - {""} if said == "true" else None
    raise InvalidLayout("has no line @data", source.place())


def _label(text: str, classes: set[str], place: Place) -> str:
    label = text.strip()
    if label not in classes:
        raise InvalidValue(
            f"ends with {reprlib.repr(label)}, which is none of the classes that the header "
            f"lists: {listed(sorted(classes))}",
            place,
        )
    return label


def _sequence(dimensions: list[str], place: Place) -> NDArray[np.float32]:
    """The (steps, features) of a line."""
    if not dimensions:
        raise InvalidLayout("has no dimensions; at least 1 is needed", place)
    columns = [_numbers(text, index, place) for index, text in enumerate(dimensions, 1)]
    for index, column in enumerate(columns, 1):
        if len(column) != len(columns[0]):
            raise InvalidLayout(
                f"dimension {index} has {len(column)} steps, but dimension 1 has {len(columns[0])}",
                place,
            )
    return np.stack(columns, axis=1)


def _numbers(text: str, dimension: int, place: Place) -> NDArray[np.float32]:
    cells = text.split(",")
    if cells == [""]:
        raise InvalidValue(f"dimension {dimension} has no steps; at least 1 is needed", place)
    if "_" in text:  # which Python reads as part of a number
        raise _not_a_number(cells, dimension, place)
    try:
        return as_float32(np.array(cells, np.float64))
    except BadNumber as error:
        raise InvalidValue(
            f"dimension {dimension}, step {error.index + 1} {error.reason}", place
        ) from error
    except ValueError:
        raise _not_a_number(cells, dimension, place) from None


def _not_a_number(cells: list[str], dimension: int, place: Place) -> InvalidValue:
    step, cell = next((s, cell) for s, cell in enumerate(cells, 1) if not is_number(cell))
    what = "is missing" if cell.strip() in ("", "?") else "is not a number"
    return InvalidValue(f"dimension {dimension}, step {step} {what}: {cell.strip()!r}", place)
