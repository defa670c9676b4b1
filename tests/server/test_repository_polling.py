"""A repository that is looked at again and again."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray

from seqserve import artifact
from seqserve.v1.catalog_pb2 import MODEL_STATE_READY
from seqserve.v1.repository_pb2 import LoadModelRequest, UnloadModelRequest
from seqserve_server.models.repository import Repository

if TYPE_CHECKING:
    from tests.conftest import ModelRepository
    from tests.server.conftest import Running, RunServer

# New versions are tried behind all other work.
pytestmark = pytest.mark.alone

Array = NDArray[np.float32]
MakeSequences = Callable[..., list[Array]]
PublishAs = Callable[[Path, Path, int], None]

TIMEOUT_S = 60.0
OFTEN_S = 0.01


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Waits until the repository has been looked at so many times more, each look to its end."""
    ended: list[None] = []
    look = Repository._look

    async def counted(self: Repository) -> None:
        try:
            await look(self)
        finally:
            ended.append(None)

    monkeypatch.setattr(Repository, "_look", counted)

    def wait(more: int) -> None:
        until = len(ended) + more + 1  # one may have begun before
        _until(lambda: len(ended) >= until)

    return wait


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(OFTEN_S)


@pytest.fixture
def aside(versions: Path, tmp_path: Path) -> Path:
    """`gru` version 3, published as no version yet, on the repository's file system."""
    return Path(shutil.move(versions / "gru" / "3", versions / "gru" / ".3-unfinished"))


def _served(server: Running, model: str) -> list[int]:
    ready = [each for each in server.listed(model) if each.state == MODEL_STATE_READY]
    return [each.version for each in ready]


def test_a_version_that_appears_is_served_without_being_asked_for(
    run_server: RunServer, versions: Path, aside: Path, make_sequences: MakeSequences
) -> None:
    with run_server(versions, poll_interval_s=OFTEN_S) as server:
        assert _served(server, "gru") == [2]
        aside.rename(versions / "gru" / "3")
        _until(lambda: _served(server, "gru") == [3])

        assert server.classify("gru", make_sequences(3)).model_version == 3


def test_without_polling_nothing_changes_by_itself(
    run_server: RunServer, versions: Path, aside: Path, looks: Callable[[int], None]
) -> None:
    with (
        run_server(versions, operator=True) as quiet,
        run_server(versions, poll_interval_s=OFTEN_S),
    ):
        aside.rename(versions / "gru" / "3")
        looks(2)
        assert _served(quiet, "gru") == [2]


def test_a_version_being_written_aside_is_never_tried(
    run_server: RunServer,
    versions: Path,
    aside: Path,
    looks: Callable[[int], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = shutil.move(aside, versions.parent / "source")
    with caplog.at_level(logging.INFO), run_server(versions, poll_interval_s=OFTEN_S) as server:
        aside.mkdir()
        for file in sorted(Path(source).iterdir()):
            shutil.copy(file, aside)
            looks(1)
        aside.rename(versions / "gru" / "3")
        _until(lambda: _served(server, "gru") == [3])

    assert "refused" not in caplog.text


def test_a_refused_version_is_tried_again_when_its_files_change_and_not_before(
    run_server: RunServer,
    versions: Path,
    aside: Path,
    looks: Callable[[int], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    golden = aside / artifact.GOLDEN_FILE
    sound = golden.read_bytes()
    golden.write_bytes(sound[:-1])
    with run_server(versions, poll_interval_s=OFTEN_S) as server:
        aside.rename(versions / "gru" / "3")
        _until(lambda: "refused gru version 3" in caplog.text)
        looks(3)
        (versions / "lstm" / "7").mkdir()  # other models come and go meanwhile
        _until(lambda: "refused lstm version 7" in caplog.text)
        assert caplog.text.count("refused gru version 3") == 1
        assert _served(server, "gru") == [2]

        (versions / "gru" / "3" / artifact.GOLDEN_FILE).write_bytes(sound)
        _until(lambda: _served(server, "gru") == [3])


def test_the_version_before_is_served_again_when_the_newest_is_taken_away(
    run_server: RunServer, versions: Path, make_sequences: MakeSequences
) -> None:
    with run_server(versions, poll_interval_s=OFTEN_S) as server:
        shutil.rmtree(versions / "gru" / "3")
        _until(lambda: _served(server, "gru") == [2])

        assert server.classify("gru", make_sequences(3)).model_version == 2


def test_a_version_that_is_published_anew_under_its_number_takes_the_place_of_what_it_was(
    run_server: RunServer,
    repository: ModelRepository,
    publish_as: PublishAs,
    versions: Path,
    make_sequences: MakeSequences,
) -> None:
    with run_server(versions, poll_interval_s=OFTEN_S) as server:
        before = server.classify("gru", make_sequences(3))
        shutil.rmtree(versions / "gru" / "3")
        publish_as(repository(gru={"cell": "gru", "seed": 33}) / "gru", versions, 3)

        def takes_its_place() -> bool:
            answer = server.classify("gru", make_sequences(3))  # of version 2, for a while
            return answer.model_version == 3 and answer != before

        _until(takes_its_place)
        assert server.listed("gru")[-1].digest == artifact.digest(versions / "gru" / "3")


def test_damage_to_the_files_of_a_version_in_service_does_not_take_it_out(
    run_server: RunServer,
    versions: Path,
    make_sequences: MakeSequences,
    looks: Callable[[int], None],
) -> None:
    with run_server(versions, poll_interval_s=OFTEN_S) as server:
        before = server.classify("gru", make_sequences(3))
        for name in (artifact.MODEL_FILE, artifact.MANIFEST_FILE):
            (versions / "gru" / "3" / name).write_bytes(b"")
            looks(2)

        assert server.classify("gru", make_sequences(3)) == before
        assert _served(server, "gru") == [3]


@pytest.mark.parametrize("leaves", ["nothing", "an empty folder"])
def test_a_repository_that_is_away_for_a_while_leaves_what_is_served_and_says_so_once(
    run_server: RunServer,
    versions: Path,
    make_sequences: MakeSequences,
    looks: Callable[[int], None],
    caplog: pytest.LogCaptureFixture,
    leaves: str,
) -> None:
    """An unmounted volume leaves its mount point."""
    with caplog.at_level(logging.INFO), run_server(versions, poll_interval_s=OFTEN_S) as server:
        before = server.classify("gru", make_sequences(3))
        elsewhere = versions.rename(versions.parent / "elsewhere")
        if leaves != "nothing":
            versions.mkdir()
        looks(3)
        assert server.classify("gru", make_sequences(3)) == before
        assert caplog.text.count("cannot be read") == 1

        if leaves != "nothing":
            versions.rmdir()
        shutil.rmtree(elsewhere / "gru" / "3")
        elsewhere.rename(versions)
        _until(lambda: _served(server, "gru") == [2])
        assert caplog.text.count("can be read again") == 1


def test_a_link_that_goes_round_costs_its_version_alone(
    run_server: RunServer, versions: Path
) -> None:
    with run_server(versions, poll_interval_s=OFTEN_S) as server:
        shutil.copytree(versions / "gru" / "3", versions / "gru" / "aside")
        manifest = versions / "gru" / "aside" / artifact.MANIFEST_FILE
        manifest.unlink()
        manifest.symlink_to(manifest.name)
        (versions / "gru" / "aside").rename(versions / "gru" / "4")
        _until(lambda: len(server.listed("gru")) == 2 and "gru 3" in server.ready())
        _until(lambda: "is a link" in server.listed("gru")[-1].message)
        shutil.copytree(versions / "lstm" / "1", versions / "lstm" / "aside")
        (versions / "lstm" / "aside").rename(versions / "lstm" / "2")
        _until(lambda: len(server.listed("lstm")) == 2)
        assert _served(server, "gru") == [3]


def test_the_process_ends_while_a_version_is_being_read(tmp_path: Path) -> None:
    (tmp_path / "gru" / "1").mkdir(parents=True)
    script = """
import asyncio, sys, threading
from pathlib import Path
from seqserve_server.models.repository import Repository
from seqserve_server.models.version_policy import VersionPolicy

async def main():
    reading = asyncio.Event()
    loop = asyncio.get_running_loop()
    def load(folder):
        loop.call_soon_threadsafe(reading.set)
        threading.Event().wait()
    repository = Repository(Path(sys.argv[1]), VersionPolicy(), load, lambda: None)
    loading = asyncio.create_task(repository.reload())
    await reading.wait()
    await repository.close()

asyncio.run(main())
"""
    command = [sys.executable, "-c", script, str(tmp_path)]
    assert subprocess.run(command, timeout=TIMEOUT_S, check=True).returncode == 0


def test_a_poll_leaves_alone_what_an_operator_did_to_models_whose_files_are_the_same(
    run_server: RunServer,
    versions: Path,
    make_sequences: MakeSequences,
) -> None:
    """Rolled back by hand: version 2 is loaded, version 3 unloaded, whatever comes of others."""
    with run_server(versions, operator=True, poll_interval_s=OFTEN_S) as server:
        server.operations.LoadModel(LoadModelRequest(model_name="gru", model_version=2))
        server.operations.UnloadModel(UnloadModelRequest(model_name="gru", model_version=3))
        shutil.copytree(versions / "lstm" / "1", versions / "lstm" / "aside")
        (versions / "lstm" / "aside").rename(versions / "lstm" / "2")
        _until(lambda: len(server.listed("lstm")) == 2)

        assert _served(server, "gru") == [2]
        assert server.classify("gru", make_sequences(3)).model_version == 2


def test_no_call_fails_while_versions_come_and_go(
    run_server: RunServer,
    versions: Path,
    aside: Path,
    make_sequences: MakeSequences,
) -> None:
    """Each answer is that of one version whole."""
    newest = versions / "gru" / "3"
    sequences = make_sequences(4, 9)
    with run_server(versions, poll_interval_s=OFTEN_S) as server:
        answers = {2: server.classify("gru", sequences)}
        aside.rename(newest)
        _until(lambda: _served(server, "gru") == [3])
        answers[3] = server.classify("gru", sequences)
        for turn in range(6):
            here, there = (newest, aside) if turn % 2 == 0 else (aside, newest)
            here.rename(there)
            wanted = 2 if turn % 2 == 0 else 3
            while True:
                answer = server.classify("gru", sequences)
                assert answer == answers[answer.model_version]
                if answer.model_version == wanted:
                    break
