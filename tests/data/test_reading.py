"""How a source finds its reader, and what is said where it finds none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from seqserve_data import Columns, DataError, read

if TYPE_CHECKING:
    from tests.data.conftest import Refuse, Write


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("train.csv", "train.csv: no such file"),
        (
            "vowels",
            "vowels: no such file, nor bundled set: those are japanese-vowels, "
            "japanese-vowels/test, random",
        ),
        ("x" * 5000 + ".csv", "not readable: File name too long"),
    ],
)
def test_a_missing_file_is_refused(
    source: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as caught:
        read(source)
    assert message in str(caught.value)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is a folder; a file is needed"):
        read(tmp_path)


@pytest.mark.parametrize("name", ["d.txt", "d", "d.csv.gz"])
def test_a_form_that_is_not_read_is_refused_with_those_that_are(name: str, refusal: Refuse) -> None:
    message = refusal(name, "id,x\na,1\n")
    assert message.startswith(f"{name}: a file with suffix {Path(name).suffix!r} is not read")
    assert message.endswith("; .csv, .jsonl, .npz, .parquet, .ts are")


def test_the_case_of_a_suffix_does_not_matter(write: Write) -> None:
    assert read(write("D.CSV", "id,x\na,1\n")).ids == ("a",)


def test_a_source_may_be_a_path_or_text(write: Write) -> None:
    path = write("d.csv", "id,x\na,1\n")
    assert read(path).name == read(str(path)).name == "d.csv"


@pytest.mark.parametrize("source", ["random", "d.npz", "d.ts"])
def test_columns_are_not_told_where_there_are_none(source: str) -> None:
    with pytest.raises(DataError, match="has no columns to name"):
        read(source, Columns(label="x"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".npz", ".parquet", ".ts"])
def test_a_file_that_may_not_be_read_is_refused(suffix: str, write: Write) -> None:
    path = write(f"d{suffix}", "id,x\na,1\n")
    path.chmod(0)
    with pytest.raises(DataError, match="Permission denied"):
        read(path)


def run(code: str) -> str:
    """What a fresh interpreter prints."""
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout


def test_pyarrow_is_loaded_by_the_readers_that_need_it_alone(write: Write) -> None:
    csv = write("d.csv", "id,x\na,1\n")
    ts = write("d.ts", "@data\n1,2\n")
    jsonl = write("d.jsonl", '{"values": [1]}')
    light = f"'japanese-vowels', 'random', {str(ts)!r}, {str(jsonl)!r}"
    code = f"""
import sys
from seqserve_data import read
for source in ({light}):
    read(source)
    print("pyarrow" in sys.modules, "torch" in sys.modules, "pandas" in sys.modules)
read({str(csv)!r})
print("pyarrow" in sys.modules)
"""
    assert run(code).splitlines() == ["False False False"] * 4 + ["True"]


@pytest.mark.parametrize("name", ["d.csv", "d.parquet"])
def test_without_pyarrow_its_readers_say_what_to_install(name: str, write: Write) -> None:
    path = write(name, "id,x\na,1\n")
    code = f"""
import sys
sys.modules["pyarrow"] = None  # as if it were not installed
from seqserve_data import DataError, read
try:
    read({str(path)!r})
except DataError as error:
    print(error)
"""
    assert "are read with pyarrow: pip install 'seqserve[data]'" in run(code)
