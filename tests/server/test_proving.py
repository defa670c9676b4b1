"""Graphs with the right sha256 that would take the server with them."""

from __future__ import annotations

import asyncio
import logging
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from seqserve import artifact
from seqserve.errors import InvalidArtifact
from seqserve.golden import Proof
from seqserve.v1.catalog_pb2 import ModelState
from seqserve.v1.repository_pb2 import ReloadRepositoryRequest
from seqserve_server.errors import Draining
from seqserve_server.models import loading
from seqserve_server.models.proving import Limits, Prover
from seqserve_server.models.repository import Repository
from seqserve_server.models.served_model import ServedModel
from seqserve_server.models.sessions import Session, opener
from seqserve_server.models.version_policy import VersionPolicy
from seqserve_server.options import ExecutionProvider

if TYPE_CHECKING:
    from tests.server.conftest import RunServer

MakeSequences = Callable[..., list[NDArray[np.float32]]]
PublishAs = Callable[[Path, Path, int], None]
Nodes = Sequence[onnx.NodeProto]

TIMEOUT_S = 60.0
BEGUN_CPU_S = 3.0
"""More than it takes to import and open: then it runs."""


def crash() -> Nodes:
    """Max of an input that is left out: onnxruntime 1.32 reads what is not there."""
    return [helper.make_node("Max", ["before", ""], ["probabilities"])]


def never_end() -> Nodes:
    """A loop that goes on as long as true is true."""
    scalar = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_on"], ["go_on_again"]),
            helper.make_node("Identity", ["carried"], ["carried_on"]),
        ],
        "body",
        [
            scalar("turn", TensorProto.INT64, []),
            scalar("go_on", TensorProto.BOOL, []),
            scalar("carried", TensorProto.FLOAT, None),
        ],
        [
            scalar("go_on_again", TensorProto.BOOL, []),
            scalar("carried_on", TensorProto.FLOAT, None),
        ],
    )
    true = helper.make_tensor("true", TensorProto.BOOL, [], [True])
    return [
        helper.make_node("Constant", [], ["go"], value=true),
        helper.make_node("Loop", ["", "go", "before"], ["probabilities"], body=body),
    ]


def take_all_memory() -> Nodes:
    """The greatest of 2^32 numbers."""
    shape = helper.make_tensor("shape", TensorProto.INT64, [1], [1 << 32])
    return [
        helper.make_node("Constant", [], ["shape"], value=shape),
        helper.make_node("ConstantOfShape", ["shape"], ["numbers"]),
        helper.make_node("ReduceMax", ["numbers"], ["greatest"], keepdims=0),
        helper.make_node("Add", ["before", "greatest"], ["probabilities"]),
    ]


def append(folder: Path, nodes: Nodes) -> None:
    """Puts nodes before the output `probabilities`, as if it had been published so."""
    path = folder / artifact.MODEL_FILE
    model = onnx.load(path)
    for node in model.graph.node:
        names = ["before" if name == "probabilities" else name for name in node.output]
        node.output[:] = names
    model.graph.node.extend(nodes)
    onnx.save(model, path)
    manifest = artifact.read_manifest(folder)
    for file in manifest.files:
        if file.path == artifact.MODEL_FILE:
            file.bytes, file.sha256 = path.stat().st_size, artifact.sha256(path)
    artifact.write_manifest(manifest, folder)


@pytest.fixture
def gru(versions: Path) -> Path:
    """A version that the test may change."""
    return versions / "gru" / "3"


@pytest.fixture
def prover() -> Iterator[Prover]:
    prover = Prover(ExecutionProvider.CPU, limits=Limits(cpu_s=1, memory_bytes=2 << 30))
    yield prover
    prover.close()


def test_what_is_proved_in_the_other_process_is_what_would_be_proved_here(
    prover: Prover, gru: Path
) -> None:
    here = loading.attempt(gru, opener(ExecutionProvider.CPU))
    there = prover.attempt(gru)

    assert (there.digest, there.proof) == (here.digest, here.proof)
    assert [each.row_steps for each in there.observed] == [each.row_steps for each in here.observed]


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        pytest.param(crash, "was ended by SIGSEGV", id="crash"),
        pytest.param(never_end, "took more processor time than a version may", id="never-end"),
        pytest.param(take_all_memory, "gru/3: .*(alloc|memory)", id="take-all-memory"),
    ],
)
def test_a_graph_that_would_end_the_server_is_refused_and_the_next_version_is_proved(
    prover: Prover, gru: Path, nodes: Callable[[], Nodes], words: str
) -> None:
    append(gru, nodes())

    with pytest.raises(InvalidArtifact, match=words):
        prover.attempt(gru)
    assert prover.attempt(gru.parent / "2").proof.bit_equal


def test_a_new_version_that_crashes_is_refused_while_the_old_one_is_served(
    run_server: RunServer,
    versions: Path,
    tmp_path: Path,
    make_sequences: MakeSequences,
    caplog: pytest.LogCaptureFixture,
) -> None:
    shutil.move(versions / "gru" / "3", tmp_path / "3")
    with caplog.at_level(logging.ERROR), run_server(versions, operator=True) as server:
        before = server.classify("gru", make_sequences(3))
        shutil.move(tmp_path / "3", versions / "gru" / "3")
        append(versions / "gru" / "3", crash())
        server.operations.ReloadRepository(ReloadRepositoryRequest())
        newest, old = server.listed("gru")[::-1]
        after = server.classify("gru", make_sequences(3))

        assert newest.state == ModelState.MODEL_STATE_FAILED
        assert "was ended by SIGSEGV" in newest.message
        assert (old.version, old.state) == (2, ModelState.MODEL_STATE_READY)
        assert after == before
        assert server.health("gru") == "SERVING"
    assert "refused gru version 3" in caplog.text


def test_a_version_that_waits_for_itself_is_refused(
    gru: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asleep = [sys.executable, "-c", "import threading; threading.Event().wait()"]
    _start_instead(monkeypatch, asleep)
    prover = Prover(ExecutionProvider.CPU, limits=Limits(clock_s=0.1))
    with pytest.raises(InvalidArtifact, match="takes longer than a version may"):
        prover.attempt(gru)
    prover.close()


def test_the_process_ends_with_a_server_that_is_killed(gru: Path) -> None:
    append(gru, never_end())
    script = (
        "import sys, threading; from pathlib import Path\n"
        "from seqserve_server.models import proving\n"
        "start = proving._start\n"
        "def told(*a):\n p = start(*a); print(p.pid, flush=True); return p\n"
        "proving._start = told\n"
        "provider = proving.ExecutionProvider.CPU\n"
        "proving.Prover(provider).attempt(Path(sys.argv[1]))\n"
    )
    command = [sys.executable, "-c", script, str(gru)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        pid = int(server.stdout.readline())
        _until(lambda: _cpu_s(pid) > BEGUN_CPU_S)
        watched = os.pidfd_open(pid)
        server.kill()
    try:
        assert select.select([watched], [], [], TIMEOUT_S)[0]
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.close(watched)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=str)
def test_a_process_that_others_end_is_no_fault_of_the_version(
    prover: Prover, gru: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    _start_instead(
        monkeypatch, [sys.executable, "-c", f"import os; os.kill(os.getpid(), {number})"]
    )
    with pytest.raises(loading.NotTriedError, match=f"was ended by {number.name}"):
        prover.attempt(gru)
    monkeypatch.undo()
    assert prover.attempt(gru).proof.bit_equal


def test_a_version_that_could_not_be_tried_is_tried_again_at_the_next_poll(
    run_server: RunServer,
    versions: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    _start_instead(monkeypatch, ["/nowhere/python"])
    with run_server(versions, poll_interval_s=0.01) as server:
        assert not server.ready()
        # Unless it is being looked at again just now.
        _until(lambda: "no process to try it in" in server.listed("gru")[-1].message)
        monkeypatch.undo()
        _until(lambda: {"gru 3", "lstm 1"} <= set(server.ready()))
    assert "refused" not in caplog.text


def _start_instead(monkeypatch: pytest.MonkeyPatch, command: Sequence[str]) -> None:
    popen = subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen", lambda _, *args, **options: popen(command, *args, **options)
    )


def _cpu_s(pid: int) -> float:
    used = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, used)) / os.sysconf("SC_CLK_TCK")


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("overwritten", [False, True], ids=["as it was", "overwritten"])
def test_a_failing_version_is_opened_unproved_only_where_it_is_what_was_proved(
    versions: Path, *, overwritten: bool
) -> None:
    opened: list[str] = []
    open_session = opener(ExecutionProvider.CPU)

    def load(folder: Path) -> tuple[ServedModel, Proof]:
        opened.append("proved elsewhere")
        return loading.load(folder, open_session)

    def load_again(folder: Path, digest: str) -> tuple[ServedModel, Proof]:
        opened.append("here")
        return loading.load(folder, open_session, digest=digest)

    async def heal() -> None:
        repository = Repository(
            versions, VersionPolicy(), load, lambda: None, load_again=load_again
        )
        await repository.reload()
        opened.clear()
        if overwritten:
            manifest = versions / "gru" / "3" / artifact.MANIFEST_FILE
            manifest.write_bytes(manifest.read_bytes() + b"\n")
        await repository.heal(repository.find("gru", 3))
        await repository.close()

    asyncio.run(heal())
    assert opened == ["proved elsewhere" if overwritten else "here"]


def test_a_version_of_another_digest_than_was_served_is_not_opened(gru: Path) -> None:
    def never(_: bytes) -> Session:
        raise AssertionError

    with pytest.raises(InvalidArtifact, match="is no more what was served"):
        loading.load(gru, never, digest=artifact.digest(gru.parent / "2"))


def test_closing_gives_up_what_is_being_tried(gru: Path) -> None:
    append(gru, never_end())
    asked = threading.Event()

    def behind() -> bool:
        asked.set()
        return False

    prover = Prover(ExecutionProvider.CPU, behind)
    with ThreadPoolExecutor(1) as thread:
        trying = thread.submit(prover.attempt, gru)
        assert asked.wait(60)
        prover.close()
        with pytest.raises(Draining):
            trying.result(60)
