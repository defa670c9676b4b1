from __future__ import annotations

import pickle
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import fsspec
import pytest

from seqserve_jobs.errors import OutputError, OutputInUse
from seqserve_jobs.storage import remote
from seqserve_jobs.storage.files import Files, files_at
from seqserve_jobs.storage.holder import Holder
from seqserve_jobs.storage.lease import GIVEN_UP_AFTER, Lease, leased

INTERVAL_S = 0.02


@pytest.fixture
def url() -> str:
    return f"memory://{uuid.uuid4().hex}"


def test_a_file_is_there_whole_after_a_put(url: str) -> None:
    files, path = files_at(f"{url}/folder/file", {})

    files.put(path, b"first")
    files.put(path, b"second")

    assert files.read(path) == b"second"
    assert files.size(path) == 6
    assert files.sizes(path.rpartition("/")[0]) == {"file": 6}
    assert pickle.loads(pickle.dumps(files)).read(path) == b"second"


def test_folders_are_told_from_files(url: str) -> None:
    files, path = files_at(url, {})
    files.put(f"{path}/folder/file", b"")

    assert files.sizes(path) == {"folder": None}


def test_a_writer_that_fails_leaves_what_was_there(url: str) -> None:
    files, path = files_at(f"{url}/file", {})
    files.put(path, b"before")

    with pytest.raises(OutputError, match="the reason"):
        _write_half(files, path)

    assert files.read(path) == b"before"
    assert files.sizes(path.rpartition("/")[0]) == {"file": 6}


def test_what_was_written_is_moved_to_its_name(url: str) -> None:
    files, path = files_at(f"{url}/file", {})

    with files.writing(path) as file:
        file.write(b"all of it")

    assert files.read(path) == b"all of it"
    assert files.sizes(path.rpartition("/")[0]) == {"file": 9}


def test_files_are_nowhere_and_empty_where_there_is_no_folder(url: str) -> None:
    files, path = files_at(url, {})

    assert files.read(path) is None
    assert files.size(path) is None
    assert files.sizes(path) == {}
    files.remove(path)
    files.remove_folder(path)


def test_folders_are_made_where_a_file_system_has_them(tmp_path: Path) -> None:
    """`dir://` is the local file system without our knowing: it wants its folders made."""
    files, path = _on_disk(tmp_path)

    files.put(f"{path}/some/folder/file", b"content")

    assert (tmp_path / "some" / "folder" / "file").read_bytes() == b"content"
    files.remove(f"{path}/some/folder/file")
    files.remove_folder(f"{path}/some/folder")
    assert list((tmp_path / "some").iterdir()) == []


def test_a_lease_names_its_holder_as_long_as_that_renews_it(url: str) -> None:
    system, path = fsspec.url_to_fs(f"{url}/lock")

    with (
        leased(system, path, INTERVAL_S),
        pytest.raises(OutputInUse, match=r"process .* on .* writes there"),
        # As patient as the holder is quick: it is seen to live.
        leased(system, path, INTERVAL_S),
    ):
        pass

    assert not system.exists(path)


def test_a_lease_that_nobody_renews_is_taken_over(url: str) -> None:
    system, path = fsspec.url_to_fs(f"{url}/lock")
    system.pipe_file(path, Holder(1, "a machine that is no more", "token").to_bytes())

    with leased(system, path, INTERVAL_S):
        holder = Holder.from_bytes(system.cat_file(path))

    assert GIVEN_UP_AFTER > 1
    assert holder is not None
    assert holder.host != "a machine that is no more"
    assert not system.exists(path)


def test_a_lease_that_was_taken_over_is_left_to_its_new_holder(url: str) -> None:
    system, path = fsspec.url_to_fs(f"{url}/lock")
    new = Holder(2, "another machine", "its token").to_bytes()

    with leased(system, path, INTERVAL_S):
        system.pipe_file(path, new)
        seen = threading.Event()
        while any(thread.name == "lease" for thread in threading.enumerate()):
            seen.wait(INTERVAL_S)

    assert system.cat_file(path) == new


def _write(files: Files, path: str) -> None:
    with files.writing(path) as file:
        file.write(b"too late")


@pytest.mark.parametrize(
    "change",
    [
        lambda files, path: files.put(path, b"too late"),
        lambda files, path: files.remove(path),
        _write,
    ],
    ids=["put", "remove", "write"],
)
def test_who_was_taken_over_while_it_was_halted_writes_no_more(
    url: str, monkeypatch: pytest.MonkeyPatch, change: Callable[[Files, str], None]
) -> None:
    # So seldom renewed that it is never by itself, and overdue at once: as if it had been halted.
    monkeypatch.setattr(Lease, "renew", lambda *_: None)
    monkeypatch.setattr(remote, "leased", partial(leased, interval_s=0.0))
    files, path = files_at(f"{url}/part", {})
    system, lock = fsspec.url_to_fs(f"{url}/lock")
    with files.lock(lock):
        files.put(path, b"its own")
        new = Holder(2, "another machine", "its token").to_bytes()
        system.pipe_file(lock, new)
        system.pipe_file(path, b"the other's")
        with pytest.raises(OutputInUse, match="process 2 on another machine writes there"):
            change(files, path)

    assert system.cat_file(path) == b"the other's"
    assert system.cat_file(lock) == new
    assert {Path(name).name for name in system.ls(url.removeprefix("memory:/"), detail=False)} == {
        "part",
        "lock",
    }


def test_a_holder_that_was_halted_and_is_not_taken_over_goes_on(url: str) -> None:
    system, path = fsspec.url_to_fs(f"{url}/lock")
    lease = Lease(system, path, 0.0)
    lease.take()
    watched = system.cat_file(path)

    lease.check()

    assert system.cat_file(path) != watched  # whoever watches sees that it lives


def test_of_those_who_wait_for_a_dead_holder_one_takes_over(url: str) -> None:
    system, path = fsspec.url_to_fs(f"{url}/lock")
    system.pipe_file(path, Holder(1, "a machine that is no more", "token").to_bytes())
    leases = [Lease(system, path, 10 * INTERVAL_S) for _ in range(4)]
    together = threading.Barrier(len(leases))

    def taken(lease: Lease) -> bool:
        together.wait()
        try:
            lease.take()
        except OutputInUse:
            return False
        return True

    with ThreadPoolExecutor(len(leases)) as pool:
        assert sum(pool.map(taken, leases)) == 1


def _on_disk(folder: Path) -> tuple[Files, str]:
    return files_at("dir://", {"path": str(folder), "target_protocol": "file", "auto_mkdir": False})


def _write_half(files: Files, path: str) -> None:
    with files.writing(path) as file:
        file.write(b"half of it")
        raise OSError("the reason")


def test_a_file_that_is_written_anew_at_equal_size_has_another_mark(url: str) -> None:
    files, path = files_at(f"{url}/a", {})
    folder = path.rpartition("/")[0]
    files.put(path, b"one")
    before = files.marks(folder)
    assert files.marks(folder) == before
    files.put(path, b"two")
    assert files.marks(folder)["a"] != before["a"]
