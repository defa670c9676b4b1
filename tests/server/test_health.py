from __future__ import annotations

import socket
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from benchmarks.http2 import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PREFACE,
    SETTINGS,
    frame,
    header_block,
    prefixed,
)
from seqserve.v1.repository_pb2 import UnloadModelRequest
from seqserve_server.health import MOST_CHARACTERS

if TYPE_CHECKING:
    from tests.server.conftest import Running, RunServer

TIMEOUT_S = 60.0
WATCH = "/grpc.health.v1.Health/Watch"
INITIAL_WINDOW_SIZE = 4


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


def test_a_watcher_that_reads_nothing_keeps_nobody_from_hearing_and_the_server_from_nothing(
    run_server: RunServer, models: Path
) -> None:
    with run_server(models, operator=True) as server, ThreadPoolExecutor() as pool:
        # Windows of no bytes, so that not even the first status can be sent.
        no_window = struct.pack(">HI", INITIAL_WINDOW_SIZE, 0)
        host, _, port = server.server.address.rpartition(":")
        body = prefixed(health_pb2.HealthCheckRequest(service="").SerializeToString())
        with socket.create_connection((host, int(port)), timeout=TIMEOUT_S) as deaf:
            deaf.sendall(
                PREFACE
                + frame(SETTINGS, 0, 0, no_window)
                + frame(HEADERS, END_HEADERS, 1, header_block("test", WATCH, ()))
                + frame(DATA, END_STREAM, 1, body)
            )
            read = b""
            while HEADERS not in _kinds(read):  # its watch has begun
                read += deaf.recv(1 << 16)
            watch = health_pb2_grpc.HealthStub(server.channel).Watch(
                health_pb2.HealthCheckRequest(service="")
            )
            assert next(watch).status == health_pb2.HealthCheckResponse.SERVING

            unloading = UnloadModelRequest(model_name="gru")
            pool.submit(server.operations.UnloadModel, unloading).result(TIMEOUT_S)
            pool.submit(server.stop).result(TIMEOUT_S)
            assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING


def test_what_can_be_no_name_is_not_kept_for_as_long_as_it_is_watched(server: Running) -> None:
    asked = health_pb2.HealthCheckRequest(service="x" * (MOST_CHARACTERS + 1))
    with pytest.raises(grpc.RpcError) as raised:
        next(health_pb2_grpc.HealthStub(server.channel).Watch(asked, timeout=TIMEOUT_S))
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


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


def _kinds(read: bytes) -> list[int]:
    """Of the frames that have come."""
    kinds, at = [], 0
    while len(read) >= at + 9:
        kinds.append(read[at + 3])
        at += 9 + int.from_bytes(read[at : at + 3])
    return kinds
