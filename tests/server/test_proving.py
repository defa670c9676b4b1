"""Graphs with the right sha256 that would take the server with them."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from seqserve import artifact
from seqserve.errors import InvalidArtifact
from seqserve.v1.catalog_pb2 import ModelState
from seqserve.v1.repository_pb2 import ReloadRepositoryRequest
from seqserve_server.errors import Draining
from seqserve_server.models import loading
from seqserve_server.models.proving import Limits, Prover
from seqserve_server.models.sessions import opener
from seqserve_server.options import ExecutionProvider

if TYPE_CHECKING:
    from tests.server.conftest import RunServer

MakeSequences = Callable[..., list[NDArray[np.float32]]]
PublishAs = Callable[[Path, Path, int], None]
Nodes = Sequence[onnx.NodeProto]


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
