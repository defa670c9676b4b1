"""Records of a file, each column in its role and of the type it has in every file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from seqserve_data.stream.layout import Layout
from seqserve_data.stream.records import Records
from seqserve_data.stream.values import chunks


@dataclass(frozen=True, eq=False)
class Rows:
    """n consecutive records of a file."""

    file: int
    """Index among the input's files."""
    row: int
    """Records of the file that lie before them."""
    ids: pa.Array[Any]
    """(n,), null where there is none."""
    order: pa.Array[Any] | None
    """(n,)."""
    features: list[Any]
    """One a column, each (n,)."""
    kept: pa.Table
    """n rows."""
    faults: Mapping[int, str]
    """What a reader found wrong, by index."""

    def __len__(self) -> int:
        """Records."""
        return len(self.ids)

    def slice(self, begin: int, end: int) -> Rows:
        """Those from `begin` to `end`, `end` left out, without a copy."""
        return replace(
            self._each(lambda column: column.slice(begin, end - begin)),
            row=self.row + begin,
            kept=self.kept.slice(begin, end - begin),
            faults={row - begin: self.faults[row] for row in self.faults if begin <= row < end},
        )

    def take(self, indices: NDArray[np.int64]) -> Rows:
        """Those at `indices`, in that order: no more consecutive."""
        chosen: Any = pa.array(indices)
        faults = {
            index: self.faults[row]
            for index, row in enumerate(indices.tolist() if self.faults else ())
            if row in self.faults
        }
        return replace(
            self._each(lambda column: column.take(chosen)),
            kept=self.kept.take(chosen),
            faults=faults,
        )

    def _each(self, change: Callable[[pa.Array[Any]], pa.Array[Any]]) -> Rows:
        return replace(
            self,
            ids=change(self.ids),
            order=None if self.order is None else change(self.order),
            features=[change(column) for column in self.features],
        )


def joined(pieces: Sequence[Rows]) -> Rows:
    """The rows of all pieces, as if they were of one file."""
    first = pieces[0]
    if len(pieces) == 1:
        return first
    orders = [piece.order for piece in pieces if piece.order is not None]
    before = np.cumsum([0, *map(len, pieces)]).tolist()
    return Rows(
        file=first.file,
        row=first.row,
        ids=pa.concat_arrays([piece.ids for piece in pieces]),
        order=pa.concat_arrays(orders) if orders else None,
        features=[
            pa.chunked_array([c for column in columns for c in chunks(column)])
            for columns in zip(*(piece.features for piece in pieces), strict=True)
        ],
        kept=pa.concat_tables([piece.kept for piece in pieces]),
        faults={
            row + start: why
            for piece, start in zip(pieces, before, strict=False)
            for row, why in piece.faults.items()
        },
    )


@dataclass(frozen=True, eq=False)
class Shape:
    """How the records of one file become rows."""

    file: int
    layout: Layout
    types: Mapping[str, pa.DataType]
    """Of the columns that are handed on as they are, or joined from batch to batch."""
    constants: Mapping[str, str | None]
    """What the file's path says of all its records, by column."""
    id_prefix: str
    """What precedes the row's number where the layout has no ids."""

    def rows(self, records: Records) -> Rows:
        """The records' columns, by role."""
        layout = self.layout
        return Rows(
            file=self.file,
            row=records.row,
            ids=self._ids(records),
            order=self._plain(layout.order, records.batch) if layout.order else None,
            features=[self._feature(name, records.batch) for name in layout.features],
            kept=table(
                {name: self._plain(name, records.batch) for name in layout.kept},
                records.batch.num_rows,
            ),
            faults=records.faults,
        )

    def _ids(self, records: Records) -> pa.Array[Any]:
        if self.layout.id is None:
            numbers = pa.array(range(records.row, records.row + records.batch.num_rows))
            text = numbers.cast(pa.string())
            if not self.id_prefix:
                return text
            join = cast("Callable[..., pa.Array[Any]]", pc.binary_join_element_wise)
            return join(self.id_prefix, text, "")
        ids = self._plain(self.layout.id, records.batch)
        if pa.types.is_floating(ids.type):
            return cast("pa.Array[Any]", pc.if_else(pc.is_nan(ids), None, ids))
        return ids

    def _feature(self, name: str, batch: pa.RecordBatch) -> pa.Array[Any]:
        return self._plain(name, batch) if name in self.types else batch.column(name)

    def _plain(self, name: str, batch: pa.RecordBatch) -> pa.Array[Any]:
        if name in self.constants:
            return pa.repeat(pa.scalar(self.constants[name], pa.string()), batch.num_rows)
        column = batch.column(name)
        return column if column.type == self.types[name] else column.cast(self.types[name])


def plain(kind: pa.DataType) -> pa.DataType:
    """The type as it is handed on: a dictionary's values, and one type of text."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    return kind


def table(columns: Mapping[str, pa.Array[Any]], rows: int) -> pa.Table:
    """A table of so many rows, which it has even without columns."""
    return pa.table(dict(columns)) if columns else pa.table({"": pa.nulls(rows)}).select([])
