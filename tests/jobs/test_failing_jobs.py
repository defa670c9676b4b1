"""A job whose input or output gives way: a clear error, nothing half-written; then it goes on."""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from seqserve_data import DataError
from seqserve_jobs.engines.engine import Engine
from seqserve_jobs.errors import OutputError
from seqserve_jobs.job import JobOptions, score_files
from tests.jobs.conftest import write_steps
from tests.jobs.test_going_on import content
from tests.jobs.watched import Watched

PER_FILE = 100
PER_SHARD = 10
DONE = PER_FILE // PER_SHARD - 1
"""Where the second file cannot be read: whether the last sequence goes on is told there."""
NOBODY = 65534


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two files."""
    folder = tmp_path / "in"
    folder.mkdir()
    write_steps(folder / "1.parquet", PER_FILE)
    write_steps(folder / "2.parquet", PER_FILE, first_id=PER_FILE)
    return folder


@pytest.fixture(params=["out.parquet", "out"], ids=["file", "folder"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / str(request.param)


@pytest.fixture
def whole(tmp_path: Path, source: Path, output: Path, engine: Engine) -> dict[str, bytes]:
    """What an uninterrupted job writes."""
    score_files(options(source, tmp_path / "whole" / output.name), engine)
    return content(tmp_path / "whole" / output.name)


def options(source: Path, output: Path) -> JobOptions:
    return JobOptions(source, str(output), max_sequences=PER_SHARD)


def test_a_file_that_vanishes_ends_the_job_which_goes_on_once_it_is_back(
    tmp_path: Path, source: Path, output: Path, whole: dict[str, bytes], engine: Engine
) -> None:
    away = tmp_path / "away.parquet"

    def vanish(batch: int) -> None:
        if batch == 0:
            (source / "2.parquet").rename(away)

    watched = Watched(engine, vanish)
    with pytest.raises(DataError, match=r"2\.parquet"):
        score_files(options(source, output), watched)
    assert len(watched.batches) == DONE
    _assert_nothing_half_written(output, whole)
    away.rename(source / "2.parquet")
    summary = score_files(options(source, output), engine)

    assert summary.shards_done_before == DONE
    assert content(output) == whole


def test_a_truncated_file_is_named_before_anything_is_written(
    source: Path, output: Path, engine: Engine
) -> None:
    file = source / "2.parquet"
    file.write_bytes(file.read_bytes()[:-100])

    with pytest.raises(DataError, match=r"2\.parquet"):
        score_files(options(source, output), engine)

    assert not list(output.parent.glob("out*"))


def test_a_file_damaged_in_the_middle_is_named_and_what_came_before_it_is_done(
    source: Path, output: Path, engine: Engine
) -> None:
    file = source / "2.parquet"
    damaged = bytearray(file.read_bytes())
    offset = pq.ParquetFile(file).metadata.row_group(0).column(0).data_page_offset
    damaged[offset : offset + 40] = bytes(40)
    file.write_bytes(damaged)
    watched = Watched(engine)

    with pytest.raises(DataError, match=r"2\.parquet"):
        score_files(options(source, output), watched)

    assert len(watched.batches) == DONE


def test_a_disk_too_full_for_a_part_ends_the_job_which_goes_on_once_there_is_room(
    source: Path, output: Path, whole: dict[str, bytes], engine: Engine
) -> None:
    with _room_for(1500), pytest.raises(OutputError, match="cannot be written: File too large"):
        score_files(options(source, output), engine)
    _assert_nothing_half_written(output, whole)
    score_files(options(source, output), engine)

    assert content(output) == whole


@pytest.mark.parametrize("form", ["parquet", "csv", "jsonl", "arrow"])
def test_a_disk_too_full_for_the_file_ends_the_job_which_has_only_that_left_then(
    tmp_path: Path, source: Path, engine: Engine, form: str
) -> None:
    output = tmp_path / f"out.{form}"
    score_files(options(source, tmp_path / "whole" / output.name), engine)
    whole = (tmp_path / "whole" / output.name).read_bytes()

    with (
        _room_for(len(whole) - 1),
        pytest.raises(OutputError, match=rf"out\.{form}: cannot be written: File too large"),
    ):
        score_files(options(source, output), engine)
    assert not output.exists()
    watched = Watched(engine)
    score_files(options(source, output), watched)

    assert not watched.batches
    assert output.read_bytes() == whole


def test_an_output_that_cannot_be_written_is_named(source: Path, engine: Engine) -> None:
    with _read_only_folder() as folder:
        files = [shutil.copy(file, folder.parent) for file in sorted(source.iterdir())]
        for name in ("out.parquet", "out"):
            told = JobOptions(tuple(map(str, files)), str(folder / name))
            with (
                _unprivileged(),
                pytest.raises(OutputError, match="cannot be written: Permission denied"),
            ):
                score_files(told, engine)
        assert os.listdir(folder) == []


def test_an_output_below_a_file_is_named(source: Path, engine: Engine) -> None:
    with pytest.raises(
        OutputError, match=r"1\.parquet.*: cannot be (written|read): Not a directory"
    ):
        score_files(options(source / "2.parquet", source / "1.parquet" / "out"), engine)


def _assert_nothing_half_written(output: Path, whole: dict[str, bytes]) -> None:
    """Parts that are there are whole, and the file is not."""
    if output.suffix:
        assert not output.exists()
    else:
        assert content(output).items() <= whole.items()


@contextmanager
def _room_for(size: int) -> Iterator[None]:
    """A file can have so many bytes; as on a full disk, what is more is not written."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@contextmanager
def _read_only_folder() -> Iterator[Path]:
    """One in which only root can write, in one that everybody can read."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "read-only"
        folder.mkdir()
        os.chmod(parent, 0o755)
        folder.chmod(0o555)
        yield folder
        folder.chmod(0o755)


@contextmanager
def _unprivileged() -> Iterator[None]:
    """As somebody to whom permissions apply."""
    if os.geteuid():
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
