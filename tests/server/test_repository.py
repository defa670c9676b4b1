"""Which versions are served, over a repository that changes."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from seqserve import artifact
from seqserve.v1.catalog_pb2 import (
    DescribeModelRequest,
    ModelState,
    ModelStatus,
)
from seqserve.v1.classifier_pb2 import ClassifyRequest
from seqserve.v1.repository_pb2 import (
    LoadModelRequest,
    ReloadRepositoryRequest,
    UnloadModelRequest,
)
from seqserve_server.models.sessions import Session, opener
from seqserve_server.models.version_policy import parse
from seqserve_server.options import ExecutionProvider

if TYPE_CHECKING:
    from tests.conftest import ModelRepository
    from tests.server.conftest import Gate, RunServer

Array = NDArray[np.float32]
MakeSequences = Callable[..., list[Array]]
MakeRequest = Callable[..., ClassifyRequest]
PublishAs = Callable[[Path, Path, int], None]

TIMEOUT_S = 60.0


@pytest.mark.parametrize(
    ("policy", "served"),
    [
        pytest.param(["latest"], ["gru 3", "lstm 1"], id="latest"),
        pytest.param(["all"], ["gru 1", "gru 2", "gru 3", "lstm 1"], id="all"),
        pytest.param(["1"], ["gru 1", "lstm 1"], id="specific"),
        pytest.param(["gru=1,2"], ["gru 1", "gru 2", "lstm 1"], id="specific of one"),
        pytest.param(["1", "gru=latest"], ["gru 3", "lstm 1"], id="latest of one"),
    ],
)
def test_the_version_policy_says_what_is_served(
    run_server: RunServer, versions: Path, policy: list[str], served: list[str]
) -> None:
    with run_server(versions, version_policy=parse(policy)) as server:
        assert server.ready() == served


class HeldOpener:
    """Opens sessions; once told to hold, each waits until it may go on."""

    def __init__(self) -> None:
        self.reached, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()

    def __call__(self, model: bytes) -> Session:
        self.reached.set()
        assert self.go_on.wait(TIMEOUT_S)
        return opener(ExecutionProvider.CPU)(model)

    def hold(self) -> None:
        """From the next one on."""
        self.reached.clear()
        self.go_on.clear()


def test_a_version_is_answered_by_itself_and_the_newest_by_default(
    run_server: RunServer, versions: Path, make_sequences: MakeSequences
) -> None:
    sequences = make_sequences(4, 7)

    with run_server(versions, version_policy=parse(["all"])) as server:
        answers = {v: server.classify("gru", sequences, version=v) for v in (0, 1, 2, 3)}

    assert [answers[v].model_version for v in (0, 1, 2, 3)] == [3, 1, 2, 3]
    assert answers[0] == answers[3]
    assert len({answers[v].answers.logits for v in (1, 2, 3)}) == 3


def test_a_specific_version_that_is_not_there_is_said_to_be_missing(
    run_server: RunServer, versions: Path, make_sequences: MakeSequences
) -> None:
    with run_server(versions, version_policy=parse(["gru=7", "nobody=1"])) as server:
        listed = {f"{s.name} {s.version}": s for s in server.listed()}
        assert server.ready() == ["lstm 1"]
        assert server.health("gru") == "NOT_SERVING"

    assert listed["gru 7"].state == ModelState.MODEL_STATE_FAILED
    assert "there is no such folder" in listed["gru 7"].message
    assert listed["nobody 1"].state == ModelState.MODEL_STATE_FAILED


def test_a_version_being_written_is_not_seen(run_server: RunServer, versions: Path) -> None:
    shutil.copytree(versions / "gru" / "3", versions / "gru" / ".4-unfinished")

    with run_server(versions, version_policy=parse(["all"])) as server:
        assert server.ready() == ["gru 1", "gru 2", "gru 3", "lstm 1"]


def test_describe_gives_the_manifest_as_published(run_server: RunServer, versions: Path) -> None:
    with run_server(versions) as server:
        described = server.catalog.DescribeModel(DescribeModelRequest(model_name="gru"))

    assert described.manifest == artifact.read_manifest(versions / "gru" / "3")
    assert described.status == ModelStatus(
        name="gru",
        version=3,
        state=ModelState.MODEL_STATE_READY,
        digest=artifact.digest(versions / "gru" / "3"),
        execution_provider="CPUExecutionProvider",
    )


def test_a_reload_serves_what_has_come_and_lets_go_of_what_has_gone(
    run_server: RunServer, repository: ModelRepository, publish_as: PublishAs, versions: Path
) -> None:
    with run_server(versions, operator=True) as server:
        publish_as(repository(gru={"cell": "gru", "seed": 4}) / "gru", versions, 4)
        publish_as(repository(new={"seed": 5}) / "new", versions, 1)
        shutil.rmtree(versions / "lstm")
        reloaded = server.operations.ReloadRepository(ReloadRepositoryRequest()).models

        assert server.ready() == ["gru 4", "new 1"]
        assert list(reloaded) == server.listed()
        assert [(s.name, s.version, s.state) for s in reloaded] == [
            ("gru", 3, ModelState.MODEL_STATE_UNLOADED),
            ("gru", 4, ModelState.MODEL_STATE_READY),
            ("new", 1, ModelState.MODEL_STATE_READY),
        ]
        with pytest.raises(grpc.RpcError) as raised:
            server.health("lstm")
        assert raised.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_damaged_new_version_leaves_the_old_one_in_service(
    run_server: RunServer, repository: ModelRepository, publish_as: PublishAs, versions: Path
) -> None:
    with run_server(versions, operator=True) as server:
        publish_as(repository(gru={"cell": "gru", "seed": 4}) / "gru", versions, 4)
        (versions / "gru/4" / artifact.GOLDEN_FILE).write_bytes(b"")
        server.operations.ReloadRepository(ReloadRepositoryRequest())

        assert server.ready() == ["gru 3", "lstm 1"]


def test_who_loads_what_has_taken_the_place_of_a_version_hears_why_it_is_refused(
    run_server: RunServer, repository: ModelRepository, versions: Path
) -> None:
    with run_server(versions, operator=True) as server:
        shutil.rmtree(versions / "gru/3")
        shutil.copytree(repository(gru={"cell": "gru", "seed": 9}) / "gru/1", versions / "gru/3")
        (versions / "gru/3" / artifact.GOLDEN_FILE).write_bytes(b"")
        load = LoadModelRequest(model_name="gru", model_version=3)
        refusal = server.failure(lambda: server.operations.LoadModel(load, timeout=TIMEOUT_S))

        assert refusal.code is grpc.StatusCode.FAILED_PRECONDITION
        assert refusal.message.endswith("what was served before stays")
        assert server.ready() == ["gru 3", "lstm 1"]


def test_the_old_version_answers_until_the_new_one_is_ready(
    run_server: RunServer,
    repository: ModelRepository,
    publish_as: PublishAs,
    versions: Path,
    make_sequences: MakeSequences,
) -> None:
    opens = HeldOpener()
    with run_server(versions, operator=True, open_session=opens) as server:
        publish_as(repository(gru={"cell": "gru", "seed": 4}) / "gru", versions, 4)
        opens.hold()
        reload = server.operations.ReloadRepository.future(ReloadRepositoryRequest())
        assert opens.reached.wait(TIMEOUT_S)
        meanwhile = server.classify("gru", make_sequences(3))
        with pytest.raises(grpc.RpcError) as raised:
            server.classify("gru", make_sequences(3), version=4)
        opens.go_on.set()
        reload.result(TIMEOUT_S)
        afterwards = server.classify("gru", make_sequences(3))

    assert meanwhile.model_version == 3
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    assert afterwards.model_version == 4


def test_a_version_is_unloaded_while_another_one_is_being_proved(
    run_server: RunServer, repository: ModelRepository, publish_as: PublishAs, versions: Path
) -> None:
    opens = HeldOpener()
    with run_server(versions, operator=True, open_session=opens) as server:
        publish_as(repository(gru={"cell": "gru", "seed": 4}) / "gru", versions, 4)
        opens.hold()
        reload = server.operations.ReloadRepository.future(ReloadRepositoryRequest())
        assert opens.reached.wait(TIMEOUT_S)
        for name in ("gru", "lstm"):
            unload = UnloadModelRequest(model_name=name)
            server.operations.UnloadModel(unload, timeout=TIMEOUT_S)
        assert server.ready() == []
        opens.go_on.set()
        reload.result(TIMEOUT_S)
        assert "gru 4" in server.ready()


def test_work_that_runs_on_a_version_outlives_its_unloading(
    run_server: RunServer,
    versions: Path,
    gate: Gate,
    make_request: MakeRequest,
    make_sequences: MakeSequences,
) -> None:
    with run_server(versions, operator=True, open_session=gate.open_session) as server:
        expected = server.classify("gru", make_sequences(5))
        gate.shut()
        running = server.classifier.Classify.future(
            make_request("gru", make_sequences(5)), timeout=TIMEOUT_S
        )
        gate.wait_for_a_run()
        unloaded = server.operations.UnloadModel(UnloadModelRequest(model_name="gru")).status
        gate.open()

        assert running.result() == expected
        assert (unloaded.version, unloaded.state) == (3, ModelState.MODEL_STATE_UNLOADED)
        assert server.health("gru") == "NOT_SERVING"
        assert server.ready() == ["lstm 1"]


def test_an_operator_may_load_a_version_that_the_policy_leaves_out(
    run_server: RunServer, versions: Path, make_sequences: MakeSequences
) -> None:
    with run_server(versions, operator=True) as server:
        loaded = server.operations.LoadModel(LoadModelRequest(model_name="gru", model_version=1))
        old = server.classify("gru", make_sequences(3), version=1)
        newest = server.classify("gru", make_sequences(3))

    assert loaded.status.state == ModelState.MODEL_STATE_READY
    assert (old.model_version, newest.model_version) == (1, 3)


@pytest.mark.parametrize(
    ("name", "version", "code", "words"),
    [
        pytest.param(
            "gru", 9, grpc.StatusCode.NOT_FOUND, "no gru version 9; it has [1, 2, 3]", id="version"
        ),
        pytest.param("nobody", 0, grpc.StatusCode.NOT_FOUND, "no model nobody", id="model"),
        pytest.param("../x", 0, grpc.StatusCode.INVALID_ARGUMENT, "cannot name a model", id="path"),
        pytest.param(
            "gru",
            1,
            grpc.StatusCode.FAILED_PRECONDITION,
            "gru/1/model.onnx: differs from what was published",
            id="damaged",
        ),
    ],
)
def test_a_version_that_cannot_be_loaded_is_refused_with_the_reason(
    run_server: RunServer, versions: Path, name: str, version: int, code: object, words: str
) -> None:
    (versions / "gru/1" / artifact.MODEL_FILE).write_bytes(b"")
    request = LoadModelRequest(model_name=name, model_version=version)

    with (
        run_server(versions, operator=True) as server,
        pytest.raises(grpc.RpcError) as raised,
    ):
        server.operations.LoadModel(request)

    assert raised.value.code() is code
    assert words in str(raised.value.details())


def test_an_empty_repository_is_served_as_not_serving(
    run_server: RunServer, tmp_path: Path
) -> None:
    with run_server(tmp_path) as server:
        assert server.listed() == []
        assert server.health() == "NOT_SERVING"
