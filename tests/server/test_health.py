from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

if TYPE_CHECKING:
    from tests.server.conftest import Running, RunServer

TIMEOUT_S = 60.0


def test_the_server_and_its_models_and_versions_are_serving(server: Running) -> None:
    for service in ("", "gru", "gru/1", "both-ways"):
        assert server.health(service) == "SERVING"


def test_the_health_of_what_is_unknown_is_not_found(server: Running) -> None:
    for service in ("gru/2", "nobody"):
        with pytest.raises(grpc.RpcError) as raised:
            server.health(service)
        assert raised.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_watcher_hears_of_the_drain_and_is_then_let_go(
    run_server: RunServer, models: Path
) -> None:
    heard: list[int] = []
    with run_server(models) as server:
        watch = health_pb2_grpc.HealthStub(server.channel).Watch(
            health_pb2.HealthCheckRequest(service="gru")
        )
        heard.append(next(watch).status)
        server.stop()
        heard.append(next(watch).status)
        with pytest.raises(grpc.RpcError) as raised:
            next(watch)

    assert heard == [
        health_pb2.HealthCheckResponse.SERVING,
        health_pb2.HealthCheckResponse.NOT_SERVING,
    ]
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE


def test_reflection_tells_a_client_without_stubs_how_to_call(server: Running) -> None:
    database = ProtoReflectionDescriptorDatabase(server.channel)

    services = set(database.get_services())
    classifier = DescriptorPool(database).FindServiceByName("seqserve.v1.SequenceClassifier")
    classify = classifier.methods_by_name["Classify"]

    assert services == {
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
        "seqserve.v1.ModelCatalog",
        "seqserve.v1.ModelRepository",
        "seqserve.v1.SequenceClassifier",
    }
    assert [field.name for field in classify.input_type.fields] == [
        "model_name",
        "model_version",
        "sequences",
        "top_k",
        "service_class",
        "on_invalid",
    ]
