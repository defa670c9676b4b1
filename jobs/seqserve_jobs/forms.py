"""Tables as files: a part for itself, and parts made into one.

What is written depends on the table alone, so that equal answers are equal files: no time, no name,
a row group (Arrow: a record batch) for each part. Parts of a Parquet file are Arrow: what is read
again soon is not worth encoding twice.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq


@dataclass(frozen=True)
class PartForm:
    """A form of parts."""

    suffix: str
    encode: Callable[[pa.Table, bool], bytes]
    """Makes one of a table; the flag says whether it is the first."""


@dataclass(frozen=True)
class Form:
    """A form of output that is one file."""

    suffix: str
    parts: PartForm
    """What it is made of."""
    join: Callable[[Iterable[bytes], BinaryIO], None]
    """Makes the file of the parts, holding one at a time."""


def _to_parquet(table: pa.Table, first: bool) -> bytes:
    sink = pa.BufferOutputStream()
    with _parquet_writer(sink, table.schema) as writer:
        writer.write_table(table, row_group_size=max(1, len(table)))
    return sink.getvalue().to_pybytes()


def _join_parquet(parts: Iterable[bytes], into: BinaryIO) -> None:
    with ExitStack() as opened:
        writer = None
        for table in map(_from_arrow, parts):
            if writer is None:
                writer = opened.enter_context(_parquet_writer(into, table.schema))
            writer.write_table(table, row_group_size=max(1, len(table)))


def _parquet_writer(sink: BinaryIO | pa.NativeFile, schema: pa.Schema) -> pq.ParquetWriter:
    # Floats of answers hardly recur: a dictionary of them is built for nothing.
    recurring = [field.name for field in schema if not pa.types.is_floating(field.type)]
    return pq.ParquetWriter(
        sink,
        schema,
        compression="zstd",
        use_dictionary=recurring,  # type: ignore[arg-type]  # the stubs do not know of names
    )


def _to_arrow(table: pa.Table, first: bool) -> bytes:
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="lz4")  # model and version recur in every row
    with pa.ipc.new_file(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def _to_arrow_for_parquet(table: pa.Table, first: bool) -> bytes:
    """What Parquet has no form for is told by the first part, not when all are there."""
    with _parquet_writer(pa.BufferOutputStream(), table.schema):
        return _to_arrow(table, first)


def _from_arrow(part: bytes) -> pa.Table:
    return pa.ipc.open_file(pa.BufferReader(part)).read_all()


def _join_arrow(parts: Iterable[bytes], into: BinaryIO) -> None:
    with ExitStack() as opened:
        writer = None
        for table in map(_from_arrow, parts):
            if writer is None:
                new = pa.ipc.new_file(into, table.schema)  # type: ignore[arg-type]
                writer = opened.enter_context(new)
            writer.write_table(table)


def _to_csv(table: pa.Table, first: bool) -> bytes:
    sink = pa.BufferOutputStream()
    columns = [_as_csv(_shortest(column)) for column in table.columns]
    options = pyarrow.csv.WriteOptions(include_header=first)
    pyarrow.csv.write_csv(pa.table(columns, table.column_names), sink, options)
    return sink.getvalue().to_pybytes()


def _as_csv(column: pa.ChunkedArray[Any]) -> pa.ChunkedArray[Any] | pa.Array[Any]:
    """What CSV has no form for: lists and records as JSON, bytes as base64."""
    if pa.types.is_nested(column.type):
        return pa.array(map(_json, column.to_pylist()), pa.string())
    if pa.types.is_binary(column.type):
        return pa.array((each and _plain(each) for each in column.to_pylist()), pa.string())
    return column


def _to_jsonl(table: pa.Table, first: bool) -> bytes:
    columns = [column.to_pylist() for column in map(_shortest, table.columns)]
    names = table.column_names
    rows = (_json(dict(zip(names, row, strict=True))) for row in zip(*columns, strict=True))
    return "".join(f"{row}\n" for row in rows).encode()


def _join_text(parts: Iterable[bytes], into: BinaryIO) -> None:
    for part in parts:
        into.write(part)


def _shortest(column: pa.ChunkedArray[Any]) -> pa.ChunkedArray[Any]:
    """float32 as the float64 whose digits are the fewest that mean it: 0.1, not 0.10000000149."""
    if column.type == pa.float32():
        return pc.cast(pc.cast(column, pa.string()), pa.float64())
    if column.type == pa.list_(pa.float32()):
        return pc.cast(pc.cast(column, pa.list_(pa.string())), pa.list_(pa.float64()))
    return column


def _json(value: object) -> str | None:
    if value is None:
        return None
    try:
        return _ENCODER.encode(value)
    except ValueError:
        return _ENCODER.encode(_finite(value))


def _plain(value: object) -> str:
    """What JSON has no form for: times as ISO 8601, bytes as base64."""
    if isinstance(value, bytes):
        return b64encode(value).decode()
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _finite(value: object) -> object:
    """The same with null for what JSON has no number for."""
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list) else value


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=_plain)

PARQUET_PARTS = PartForm(".parquet", _to_parquet)
"""Those that are a folder, and are not made into one."""
FORMS = (
    Form(".parquet", PartForm(".arrow", _to_arrow_for_parquet), _join_parquet),
    Form(".csv", PartForm(".csv", _to_csv), _join_text),
    Form(".jsonl", PartForm(".jsonl", _to_jsonl), _join_text),
    Form(".arrow", PartForm(".arrow", _to_arrow), _join_arrow),
)
