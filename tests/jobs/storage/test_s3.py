"""Jobs whose input and output are in an object store that speaks S3's protocol over HTTP.

Its server and client are in `.venv-s3`: `make test-s3`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from seqserve_jobs.engines.engine import Engine
from seqserve_jobs.errors import JobChanged, OutputInUse
from seqserve_jobs.job import JobOptions, score_files
from seqserve_jobs.storage.files import files_at
from tests.jobs.conftest import engine, models, write_steps  # noqa: F401  # fixtures
from tests.jobs.test_going_on import stopped_early
from tests.jobs.watched import Watched

moto = pytest.importorskip("moto.server", reason="make test-s3 has the server")
pytest.importorskip("s3fs", reason="make test-s3 has the client")

SEQUENCES, SHARDS = 40, 8
BUCKET = "scoring"


@pytest.fixture(scope="module")
def store() -> Iterator[dict[str, Any]]:
    """What fsspec is to know of a server, which has an empty bucket."""
    server = moto.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    options = {
        "key": "nobody",
        "secret": "nothing",
        "client_kwargs": {"endpoint_url": f"http://{host}:{port}", "region_name": "eu-central-1"},
    }
    fsspec.filesystem("s3", **options).mkdir(BUCKET)
    yield options
    server.stop()


@pytest.fixture
def source(store: dict[str, Any], tmp_path: Path) -> str:
    """Two files there; the same lie in `tmp_path / "in"`."""
    (tmp_path / "in").mkdir()
    files = fsspec.filesystem("s3", **store)
    folder = f"{BUCKET}/{tmp_path.name}/in"
    for index in range(2):
        first = index * SEQUENCES // 2
        local = write_steps(
            tmp_path / "in" / f"{index}.parquet", SEQUENCES // 2, seed=index, first_id=first
        )
        files.put_file(str(local), f"{folder}/{local.name}")
    return f"s3://{folder}"


def options(store: dict[str, Any], source: str, output: str, **more: Any) -> JobOptions:  # noqa: ANN401
    return JobOptions(
        source, output, max_sequences=SEQUENCES // SHARDS, storage_options=store, **more
    )


@pytest.mark.parametrize("name", ["out.parquet", "out.csv", "out"])
def test_a_job_that_was_stopped_goes_on_there_and_writes_what_it_writes_here(
    store: dict[str, Any],
    source: str,
    tmp_path: Path,
    engine: Engine,  # noqa: F811
    name: str,
) -> None:
    output = f"s3://{BUCKET}/{tmp_path.name}/{name}"
    stopped = stopped_early(options(store, source, output), engine)
    watched = Watched(engine)
    done = score_files(options(store, source, output), watched)

    assert len(watched.batches) == SHARDS - stopped.shards
    here = tmp_path / name
    score_files(options({}, str(tmp_path / "in"), str(here)), engine)
    files = fsspec.filesystem("s3", **store)
    for written in done.files:
        local = here if here.is_file() else here / os.path.basename(written)
        assert files.cat_file(written) == local.read_bytes()
    assert score_files(options(store, source, output), engine).nothing_to_do
    left = files.find(f"{BUCKET}/{tmp_path.name}")
    assert not [found for found in left if found.endswith((".lock", ".unfinished", ".arrow"))]


def test_another_content_of_equal_size_is_refused_there(
    store: dict[str, Any],
    source: str,
    tmp_path: Path,
    engine: Engine,  # noqa: F811
) -> None:
    output = f"s3://{BUCKET}/{tmp_path.name}/out.parquet"
    stopped_early(options(store, source, output), engine)
    files = fsspec.filesystem("s3", **store)
    there = f"{source}/0.parquet"
    content = bytearray(files.cat_file(there))
    content[20] ^= 1  # within a page, which nobody reads again before that is noticed
    files.pipe_file(there, bytes(content))

    with pytest.raises(JobChanged, match="other contents, of the same size"):
        score_files(options(store, source, output), engine)


def test_of_two_jobs_on_one_output_there_the_second_is_refused(
    store: dict[str, Any], tmp_path: Path
) -> None:
    """Two that begin at once: the store creates the lock for one of them."""
    files, path = files_at(f"s3://{BUCKET}/{tmp_path.name}/job.lock", store)
    held, end = threading.Event(), threading.Event()

    def hold() -> None:
        with files.lock(path):
            held.set()
            end.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        assert held.wait(60)
        with pytest.raises(OutputInUse, match=f"process {os.getpid()} on "), files.lock(path):
            pass
    finally:
        end.set()
        holder.join()
    assert files.size(path) is None
