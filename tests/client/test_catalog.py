"""What a client can ask of a server's models, and whether they are ready."""

from __future__ import annotations

from collections.abc import Callable

import grpc
import pytest

from seqserve.v1 import catalog_pb2
from seqserve_client import (
    Client,
    ModelNotFound,
    ModelState,
    ModelStatus,
    PermissionDenied,
)
from seqserve_client.testing import FakeServer


def test_every_version_is_listed(client: Client, server: FakeServer) -> None:
    server.publish(3)
    first, third = client.models()
    assert (first.name, first.version, third.version) == ("model", 1, 3)
    assert third.state is ModelState.READY
    assert third.execution_provider == "FakeExecutionProvider"
    assert third.digest == client.classify([[0.0]], model="model").model_digest


def test_the_newest_version_is_described_unless_another_is_asked_for(
    client: Client, server: FakeServer
) -> None:
    server.publish(3)
    assert client.describe("model").status.version == 3
    described = client.describe("model", 1)
    assert described.status.version == described.manifest.version == 1
    assert list(described.manifest.labels) == ["low", "middle", "high"]


def test_what_is_unknown_is_not_described(client: Client) -> None:
    with pytest.raises(ModelNotFound):
        client.describe("other")


@pytest.mark.parametrize("state", [*catalog_pb2.ModelState.values(), 99])
def test_every_state_of_the_contract_has_a_name(state: int) -> None:
    status = ModelStatus.of(catalog_pb2.ModelStatus(name="m", state=state))  # type: ignore[arg-type]
    known = catalog_pb2.ModelState.keys()[1:]
    expected = f"MODEL_STATE_{status.state.upper()}"
    assert (expected in known) == (0 < state < 99)


def test_a_server_and_its_models_say_whether_they_are_ready(
    client: Client, server: FakeServer
) -> None:
    assert client.ready()
    assert client.ready("model")
    assert not client.ready("other")
    server.set_ready(False)
    assert not client.ready()
    assert not client.ready("model")
    server.set_ready(True)
    assert client.ready("model")


def test_a_server_that_is_not_there_is_not_ready(
    connect: Callable[..., Client], server: FakeServer
) -> None:
    client = connect(server.address)
    server.stop()
    assert client.ready() is False


def test_a_question_that_is_refused_is_no_answer(
    connect: Callable[..., Client], refusing: Callable[..., str]
) -> None:
    address = refusing(grpc.StatusCode.PERMISSION_DENIED, "not you")
    with pytest.raises(PermissionDenied, match="not you"):
        connect(address).ready()
