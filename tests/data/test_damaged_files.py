"""Whatever a file holds, it is read or refused: nothing else is raised."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqserve_data import DataError, read


def written(write: Callable[[io.BytesIO], Any]) -> bytes:
    """What `write` writes."""
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


ARRAYS: dict[str, Any] = {
    "values": np.arange(8, dtype=np.float32).reshape(4, 2),
    "lengths": np.array([3, 1]),
    "labels": np.array(["u", "v"]),
}
LONG = pa.table(
    {"id": ["a", "a", "b"], "label": ["u", "u", "v"], "step": [0, 1, 0], "x": [1, 2, 3]}
)
NESTED = pa.table({"id": ["a", "b"], "values": [[[1.0, 2.0]], [[3.0, 4.0], [5.0, 6.0]]]})
SOUND = {
    "csv": (".csv", b'id,step,x,label\na,1,0.5,"u"\na,0,-2e3,u\nb,0,7,v\n'),
    "jsonl": (".jsonl", b'{"id": "a", "label": "u", "values": [[1, 2.5], [3, 4]]}\n'),
    "npz": (".npz", written(lambda file: np.savez(file, **ARRAYS))),
    "packed npz": (
        ".npz",
        written(lambda file: np.savez_compressed(file, **ARRAYS)),
    ),
    "long parquet": (".parquet", written(lambda file: pq.write_table(LONG, file))),
    "nested parquet": (".parquet", written(lambda file: pq.write_table(NESTED, file))),
    "ts": (".ts", b"@problemName P\n@timeStamps false\n@classLabel true u v\n@data\n1,2:3,4:u\n"),
}


def read_or_refuse(suffix: str, content: bytes) -> bool:
    """Whether the file is read; fails on any error but a refusal that names the file."""
    with TemporaryDirectory() as folder:
        path = Path(folder, f"d{suffix}")
        path.write_bytes(content)
        try:
            dataset = read(path)
        except DataError as error:
            assert str(error).startswith(f"{path}")  # noqa: PT017
            return False
    assert np.isfinite(dataset.sequences.values).all()
    return True


@pytest.mark.parametrize("form", SOUND)
def test_the_files_are_sound_before_they_are_damaged(form: str) -> None:
    assert read_or_refuse(*SOUND[form])


@pytest.mark.parametrize("form", SOUND)
@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_file_is_read_or_refused(form: str, data: st.DataObject) -> None:
    suffix, sound = SOUND[form]
    content = bytearray(sound)
    for _ in range(data.draw(st.integers(0, 3))):
        begin = data.draw(st.integers(0, len(content)))
        end = begin + data.draw(st.integers(0, 4))
        content[begin:end] = data.draw(st.binary(max_size=4))
    read_or_refuse(suffix, bytes(content[: data.draw(st.integers(0, len(content)))]))


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".npz", ".parquet", ".ts"])
@settings(max_examples=100, deadline=None)
@given(st.binary() | st.text().map(str.encode))
def test_a_file_of_anything_is_read_or_refused(suffix: str, content: bytes) -> None:
    read_or_refuse(suffix, content)
