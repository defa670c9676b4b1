from __future__ import annotations

import os
import pickle
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from seqserve_jobs.errors import OutputError, OutputInUse
from seqserve_jobs.storage.files import files_at, is_unfinished
from seqserve_jobs.storage.local import LocalFiles

HOLD = """
import sys
from seqserve_jobs.storage.local import LocalFiles
with LocalFiles().lock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_file_is_there_whole_after_a_put(tmp_path: Path) -> None:
    path = str(tmp_path / "new" / "folder" / "file")

    LocalFiles().put(path, b"first")
    LocalFiles().put(path, b"second")

    assert LocalFiles().read(path) == b"second"
    assert LocalFiles().sizes(str(tmp_path / "new" / "folder")) == {"file": 6}


def test_a_writer_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    LocalFiles().put(path, b"before")

    with pytest.raises(ZeroDivisionError):
        _write_half(LocalFiles(), path)

    assert LocalFiles().read(path) == b"before"
    assert os.listdir(tmp_path) == ["file"]


def test_what_is_being_written_is_seen_under_a_hidden_name_alone(tmp_path: Path) -> None:
    with LocalFiles().writing(str(tmp_path / "file")):
        (name,) = os.listdir(tmp_path)

    assert name.startswith(".")
    assert is_unfinished(name)
    assert not is_unfinished("file")


def test_a_disk_that_is_full_is_named_and_nothing_of_the_file_is_left(tmp_path: Path) -> None:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    # As a full disk does, the kernel writes what fits and then says no.
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limit[1]))
    try:
        with pytest.raises(OutputError, match=r"file: cannot be written: File too large"):
            LocalFiles().put(str(tmp_path / "file"), bytes(1 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)

    assert os.listdir(tmp_path) == []


def test_files_are_nowhere_and_empty_where_there_is_no_folder(tmp_path: Path) -> None:
    nowhere = str(tmp_path / "nowhere")

    assert LocalFiles().read(nowhere) is None
    assert LocalFiles().size(nowhere) is None
    assert LocalFiles().sizes(nowhere) == {}
    LocalFiles().remove(nowhere)
    LocalFiles().remove_folder(nowhere)


def test_a_lock_names_its_holder_to_whoever_comes_second(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")

    with (
        LocalFiles().lock(path),
        pytest.raises(OutputInUse, match=f"process {os.getpid()} on .* writes there"),
        LocalFiles().lock(path),
    ):
        pass

    with LocalFiles().lock(path):
        pass
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no folder here takes no files of root")
def test_a_place_that_takes_no_files_is_told_and_not_tried_for_ever() -> None:
    with (
        pytest.raises(OutputError, match="cannot be written"),
        LocalFiles().lock("/proc/scores.lock"),
    ):
        pass


def test_a_killed_holder_leaves_no_lock(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with (
            pytest.raises(OutputInUse, match=f"process {holder.pid} on "),
            LocalFiles().lock(path),
        ):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()

        with LocalFiles().lock(path):
            pass


@pytest.mark.parametrize("url", ["{}", "file://{}", "local://{}"])
def test_paths_and_local_urls_mean_this_machine(tmp_path: Path, url: str) -> None:
    files, path = files_at(url.format(tmp_path / "a" / ".." / "file"), {})

    assert isinstance(pickle.loads(pickle.dumps(files)), LocalFiles)
    assert path == str(tmp_path / "file")


def test_a_url_that_nobody_knows_is_named() -> None:
    with pytest.raises(OutputError, match="nowhere://bucket: "):
        files_at("nowhere://bucket", {})


def _write_half(files: LocalFiles, path: str) -> None:
    with files.writing(path) as file:
        file.write(b"half of it")
        raise ZeroDivisionError
