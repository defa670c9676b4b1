from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seqserve_data import Columns, DataError, Dataset, read
from seqserve_data.columns import BY_CONVENTION

Write = Callable[[str, "str | bytes"], Path]
Read = Callable[..., Dataset]
Refuse = Callable[..., str]
Parquet = Callable[[dict[str, Any]], bytes]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a file of that name and content."""

    def write(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


@pytest.fixture
def read_text(write: Write) -> Read:
    """Writes a file and reads it."""

    def read_text(name: str, content: str | bytes, columns: Columns = BY_CONVENTION) -> Dataset:
        return read(write(name, content), columns)

    return read_text


@pytest.fixture
def refusal(read_text: Read, tmp_path: Path) -> Refuse:
    """What the reader of a bad file says, the folder left out."""

    def refusal(name: str, content: str | bytes, columns: Columns = BY_CONVENTION) -> str:
        with pytest.raises(DataError) as caught:
            read_text(name, content, columns)
        return str(caught.value).replace(f"{tmp_path}/", "")

    return refusal


@pytest.fixture
def parquet() -> Parquet:
    """A .parquet file of the columns given, of more than one row group."""

    def parquet(columns: dict[str, Any]) -> bytes:
        buffer = io.BytesIO()
        pq.write_table(pa.table(columns), buffer, row_group_size=2)
        return buffer.getvalue()

    return parquet
