"""A version is in the repository whole or not at all, and never twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import TYPE_CHECKING

import pytest

from seqserve import artifact
from seqserve.v1.manifest_pb2 import ModelManifest
from seqserve_export.errors import VersionExists
from seqserve_export.placement import ABANDONED_AFTER_S, UNFINISHED, place, unfinished_folder
from seqserve_export.publish import publish
from seqserve_export.verify import verify

if TYPE_CHECKING:
    from tests.conftest import RandomModel


def test_an_unfinished_folder_is_seen_as_neither_model_nor_version(tmp_path: Path) -> None:
    with unfinished_folder(tmp_path) as folder:
        (folder / "model.onnx").write_bytes(b"half")
        assert artifact.models(tmp_path) == []
        assert artifact.versions(tmp_path, folder.name) == []
    assert list(tmp_path.iterdir()) == []


def test_versions_count_on_from_the_newest(tmp_path: Path) -> None:
    assert [_place(tmp_path).name for _ in range(2)] == ["1", "2"]
    assert _place(tmp_path, 7).name == "7"
    assert _place(tmp_path).name == "8"
    assert _place(tmp_path, 3).name == "3"
    assert artifact.versions(tmp_path, "speakers") == [1, 2, 3, 7, 8]


def test_a_version_that_is_there_is_left_alone(tmp_path: Path) -> None:
    digest = artifact.digest(_place(tmp_path, 3))
    with pytest.raises(VersionExists, match="speakers/3 is published already"):
        _place(tmp_path, 3)
    assert artifact.digest(tmp_path / "speakers" / "3") == digest
    assert [entry.name for entry in tmp_path.iterdir()] == ["speakers"]


def test_files_are_readable_by_whoever_the_umask_allows(tmp_path: Path) -> None:
    expected = tmp_path / "expected"
    expected.mkdir()
    assert _place(tmp_path).stat().st_mode == expected.stat().st_mode


def test_of_racing_publishers_of_one_version_exactly_one_wins(tmp_path: Path) -> None:
    results = _race(tmp_path, version=1)
    assert sorted(map(str, results)) == ["1", *["None"] * 7]
    assert artifact.versions(tmp_path, "speakers") == [1]
    assert [entry.name for entry in tmp_path.iterdir()] == ["speakers"]


def test_racing_publishers_without_a_wish_get_a_version_each(tmp_path: Path) -> None:
    assert sorted(str(version) for version in _race(tmp_path)) == list("12345678")


def test_what_a_dead_publisher_left_is_removed_a_day_later_and_not_before(tmp_path: Path) -> None:
    old, young = tmp_path / f"{UNFINISHED}old", tmp_path / f"{UNFINISHED}young"
    for folder in (old, young):
        folder.mkdir()
        (folder / "model.onnx").write_bytes(b"half")
    then = old.stat().st_mtime - ABANDONED_AFTER_S - 60
    os.utime(old, (then, then))
    _place(tmp_path)
    assert not old.exists()
    assert young.exists()


@pytest.mark.slow
def test_a_publisher_killed_at_any_point_leaves_a_whole_version_or_none(
    tmp_path: Path, random_model: RandomModel
) -> None:
    """`os.fsync` is called for each file, the folder, and after the rename for its parent."""
    visible = _publish_and_die_at_fsync(tmp_path, range(1, 7))
    # Three files and the folder before the rename, the parent after it; a sixth never comes.
    assert visible == [[], [], [], [], [1], [1]]
    for attempt, versions in enumerate(visible, start=1):
        repository = tmp_path / str(attempt)
        assert artifact.models(repository) == (["speakers"] if versions else [])
        published = publish(random_model(), repository, "speakers")
        assert published.manifest.version == len(versions) + 1
        for version in artifact.versions(repository, "speakers"):
            verify(repository / "speakers" / str(version))


_DYING_PUBLISHERS = """
import os, runpy, signal, sys
from pathlib import Path
import torch
from seqserve_export.publish import publish

torch.set_num_threads(1)
random_model = runpy.run_path(sys.argv[1])["_random_model"]
for attempt in map(int, sys.argv[3:]):
    child = os.fork()
    if child == 0:
        calls = 0
        def fsync(descriptor):
            global calls
            calls += 1
            if calls == attempt:
                os.kill(os.getpid(), signal.SIGKILL)
        os.fsync = fsync
        publish(random_model(), Path(sys.argv[2]) / str(attempt), "speakers")
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def _publish_and_die_at_fsync(folder: Path, attempts: range) -> list[list[int]]:
    """Versions that are visible after publishers killed at the given calls of `os.fsync`."""
    conftest = Path(__file__).parents[1] / "conftest.py"
    arguments = map(str, (conftest, folder, *attempts))
    exits = subprocess.run(
        [sys.executable, "-c", _DYING_PUBLISHERS, *arguments], check=True, stdout=subprocess.PIPE
    ).stdout.split()
    assert exits == [b"%d" % -signal.SIGKILL] * (len(attempts) - 1) + [b"0"]
    return [artifact.versions(folder / str(attempt), "speakers") for attempt in attempts]


def _place(repository: Path, version: int | None = None) -> Path:
    with unfinished_folder(repository) as folder:
        (folder / "model.onnx").write_bytes(os.urandom(8))
        return place(folder, ModelManifest(name="speakers"), repository, version)


def _race(repository: Path, version: int | None = None) -> list[str | None]:
    """What eight publishers at once got: the version, or None where it was there already."""
    start = Barrier(8)

    def compete(_: int) -> str | None:
        with unfinished_folder(repository) as folder:
            (folder / "model.onnx").write_bytes(os.urandom(8))
            start.wait()
            try:
                return place(folder, ModelManifest(name="speakers"), repository, version).name
            except VersionExists:
                return None

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(compete, range(8)))
