"""deploy/envoy in front of several servers: who is asked, who is left out, what is lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest
import yaml
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub
from numpy.typing import NDArray

from benchmarks.server_process import Server
from seqserve.ragged import RaggedBatch, encode
from seqserve.v1.classifier_pb2 import ClassifyRequest
from seqserve.v1.classifier_pb2_grpc import SequenceClassifierStub
from seqserve.v1.repository_pb2 import ReloadRepositoryRequest
from seqserve.v1.repository_pb2_grpc import ModelRepositoryStub
from seqserve_client import Client, Unavailable
from seqserve_client.testing import FakeServer
from tests.deploy.envoys import FILES, RunningEnvoy, needs_envoy, running, until
from tests.integration.load import MODEL, PATIENT_S, loaded
from tests.name_server import NameServer

if TYPE_CHECKING:
    from tests.conftest import ModelRepository, PublishedOptions

CALLS_BETWEEN = 200
TIMEOUT_S = 60.0
EJECTIONS = "cluster.seqserve.outlier_detection.ejections_enforced_total"

pytestmark = needs_envoy


@pytest.fixture(scope="module")
def models(repository: ModelRepository) -> Path:
    options: PublishedOptions = {"cell": "lstm", "num_layers": 2}
    return repository(**{MODEL: options})


@dataclass
class Fleet:
    """Real servers behind Envoy, which knows them by a name."""

    models: Path
    names: NameServer
    envoy: RunningEnvoy
    servers: list[Server]

    @property
    def port(self) -> str:
        return self.servers[0].address.rpartition(":")[2]

    def start(self, host: str) -> Server:
        """One more, at this address."""
        server = Server(self.models, core=None, address=f"{host}:{self.port}")
        self.servers.append(server)
        return server


@contextmanager
def fleet(models: Path, folder: Path) -> Iterator[Fleet]:
    """Two replicas at addresses of their own, as containers have."""
    first = Server(models, core=None, address="127.0.0.2:0")
    port = first.address.rpartition(":")[2]
    servers = [first]
    try:
        servers.append(Server(models, core=None, address=f"127.0.0.3:{port}"))
        with (
            NameServer("127.0.0.2", "127.0.0.3") as names,
            running(
                "replicas.yaml", folder, [f"{names.name}:{port}"], overlay=_asking(names)
            ) as envoy,
        ):
            envoy.wait_for_replicas(2)
            yield Fleet(models, names, envoy, servers)
    finally:
        for server in servers:
            server.__exit__()


def _asking(names: NameServer) -> object:
    """For the host's own resolver."""
    kind = (
        "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig"
    )
    address = {"address": "127.0.0.1", "port_value": names.port}
    resolver = {"@type": kind, "resolvers": [{"socket_address": address}]}
    return {"typed_dns_resolver_config": {"name": "cares", "typed_config": resolver}}


def test_no_call_fails_where_a_replica_is_killed_and_comes_back(
    models: Path, tmp_path: Path
) -> None:
    with fleet(models, tmp_path) as behind, loaded(behind.envoy.address, models) as load:
        load.wait_for_calls(CALLS_BETWEEN)
        assert min(behind.envoy.calls().values()) > 0
        behind.servers[0].kill()
        behind.envoy.wait_for(EJECTIONS, lambda ejected: ejected > 0)
        behind.envoy.wait_for_replicas(1)
        load.wait_for_calls(CALLS_BETWEEN)
        behind.start("127.0.0.2")
        behind.envoy.wait_for_replicas(2)
        before = behind.envoy.calls()
        until(lambda: all(behind.envoy.calls()[each] > before[each] for each in before))


def test_no_call_fails_where_a_replica_is_drained(models: Path, tmp_path: Path) -> None:
    with fleet(models, tmp_path) as behind, loaded(behind.envoy.address, models) as load:
        load.wait_for_calls(CALLS_BETWEEN)
        assert behind.servers[1].stop() == 0
        behind.envoy.wait_for_replicas(1)
        load.wait_for_calls(CALLS_BETWEEN)


def test_calls_of_a_replica_that_hangs_are_answered_by_the_other(
    models: Path, tmp_path: Path
) -> None:
    with fleet(models, tmp_path) as behind:
        # The last of its calls end before it goes on.
        with loaded(behind.envoy.address, models) as load:
            load.wait_for_calls(CALLS_BETWEEN)
            behind.servers[0].signal(signal.SIGSTOP)
            behind.envoy.wait_for_replicas(1)
            load.wait_for_calls(CALLS_BETWEEN)
        behind.servers[0].signal(signal.SIGCONT)
        behind.envoy.wait_for_replicas(2)


def test_a_replica_at_another_address_is_found_by_its_name(models: Path, tmp_path: Path) -> None:
    with fleet(models, tmp_path) as behind, loaded(behind.envoy.address, models) as load:
        load.wait_for_calls(CALLS_BETWEEN)
        behind.servers[0].kill()
        behind.start("127.0.0.4")
        behind.names.point_to("127.0.0.3", "127.0.0.4")
        new, gone = f"127.0.0.4:{behind.port}", f"127.0.0.2:{behind.port}"
        until(lambda: behind.envoy.calls().get(new, 0) > 0)
        until(lambda: gone not in behind.envoy.hosts())


@contextmanager
def front(
    folder: Path, *servers: FakeServer, changes: dict[str, str] | None = None
) -> Iterator[tuple[RunningEnvoy, grpc.Channel]]:
    """Envoy in front of servers that do as they are told, and a caller that never tries again."""
    addresses = [server.address for server in servers]
    with running("replicas.yaml", folder, addresses, changes) as envoy:
        envoy.wait_for_replicas(len(servers))
        options = [("grpc.enable_retries", 0), ("grpc.max_send_message_length", -1)]
        with grpc.insecure_channel(envoy.address, options) as channel:
            yield envoy, channel


def question(steps: int = 1) -> ClassifyRequest:
    sequences = RaggedBatch.from_sequences([np.zeros((steps, 1), np.float32)])
    return ClassifyRequest(model_name="model", sequences=encode(sequences))


@pytest.mark.parametrize("steps", [1, 1 << 20], ids=["small", "4 MiB"])
def test_a_question_is_tried_again_at_another_replica(tmp_path: Path, steps: int) -> None:
    with FakeServer() as broken, FakeServer() as well:
        broken.fail(grpc.StatusCode.UNAVAILABLE, times=1000)
        with front(tmp_path, broken, well) as (_, channel):
            stub = SequenceClassifierStub(channel)
            for _ in range(20):
                stub.Classify(question(steps), timeout=TIMEOUT_S)
        assert len(broken.calls) > 0
        assert len(well.calls) == 20


def test_what_changes_a_replica_is_not_tried_again(tmp_path: Path) -> None:
    with FakeServer() as server, front(tmp_path, server) as (_, channel):
        server.fail(grpc.StatusCode.UNAVAILABLE)
        with pytest.raises(grpc.RpcError):
            ModelRepositoryStub(channel).ReloadRepository(
                ReloadRepositoryRequest(), timeout=TIMEOUT_S
            )
        assert len(server.calls) == 1


def test_a_full_replica_is_not_tried_again(tmp_path: Path) -> None:
    with FakeServer() as server, front(tmp_path, server) as (_, channel):
        server.fail(grpc.StatusCode.RESOURCE_EXHAUSTED)
        with pytest.raises(grpc.RpcError) as raised:
            SequenceClassifierStub(channel).Classify(question(), timeout=TIMEOUT_S)
        assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert len(server.calls) == 1


class Held:
    """A rule of a server that holds calls until it is told to let them go.

    Args:
        most: How many at a time; others are answered at once.
    """

    def __init__(self, most: int = 6) -> None:
        self.waiting = 0
        self._most = most
        self._held = True
        self._changed = threading.Condition()

    def __call__(self, _: NDArray[np.float32]) -> str:
        """The answer, in the end."""
        with self._changed:
            if self.waiting < self._most:
                self.waiting += 1
                self._changed.notify_all()
                assert self._changed.wait_for(lambda: not self._held, PATIENT_S)
        return "0"

    def wait_for(self, count: int) -> None:
        """Until so many calls are held."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.waiting >= count, PATIENT_S)

    def ask(self, stub: SequenceClassifierStub) -> None:
        """One call, until it is held or answered by another server."""
        before = self.waiting  # the call may be held as soon as it is sent
        call = stub.Classify.future(question(), timeout=PATIENT_S)
        call.add_done_callback(lambda _: self._tell())
        with self._changed:
            assert self._changed.wait_for(lambda: call.done() or self.waiting > before, PATIENT_S)

    def release(self) -> None:
        """Holds no call any more."""
        with self._changed:
            self._held = False
            self._changed.notify_all()

    def _tell(self) -> None:
        with self._changed:
            self._changed.notify_all()


def test_a_slow_replica_gets_fewer_calls(tmp_path: Path) -> None:
    held, calls = Held(most=2), 200
    with (
        FakeServer(answer=held) as slow,
        FakeServer() as quick,
        front(tmp_path, slow, quick) as (_, channel),
    ):
        stub = SequenceClassifierStub(channel)
        while held.waiting < 2:
            held.ask(stub)
        before = len(slow.calls)
        for _ in range(calls):
            stub.Classify(question(), timeout=TIMEOUT_S)
        # It is asked where both draws are it: a quarter, give or take 4 standard deviations.
        assert len(slow.calls) - before < 0.25 * calls + 4 * (calls * 0.25 * 0.75) ** 0.5
        held.release()


@pytest.mark.parametrize("code", ["DEADLINE_EXCEEDED", "INTERNAL", "UNAVAILABLE"])
def test_what_a_replica_answers_does_not_put_it_out(tmp_path: Path, code: str) -> None:
    held = Held()
    with (
        FakeServer(answer=held) as one,
        FakeServer(answer=held) as two,
        front(tmp_path, one, two) as (envoy, channel),
    ):
        passing = code == "DEADLINE_EXCEEDED"
        # Those whose deadline has passed are held on, and there is room for so many.
        calls = 6 if passing else 20
        if not passing:
            for server in (one, two):
                server.fail(grpc.StatusCode[code], times=1000)
        for _ in range(calls):
            with pytest.raises(grpc.RpcError) as raised:
                SequenceClassifierStub(channel).Classify(
                    question(), timeout=0.1 if passing else TIMEOUT_S
                )
            assert raised.value.code().name == code
        assert envoy.stat(EJECTIONS) == 0
        held.release()


def test_calls_beyond_the_circuit_breaker_are_refused_at_once(tmp_path: Path) -> None:
    held = Held()
    with (
        FakeServer(answer=held) as server,
        front(tmp_path, server, changes={"max_requests: 4096": "max_requests: 2"}) as (_, channel),
    ):
        stub = SequenceClassifierStub(channel)
        under_way = [stub.Classify.future(question(), timeout=TIMEOUT_S) for _ in range(2)]
        held.wait_for(2)
        with pytest.raises(grpc.RpcError) as raised:
            stub.Classify(question(), timeout=TIMEOUT_S)
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        held.release()
        assert all(call.result() for call in under_way)


def test_a_client_is_not_stopped_by_the_health_of_one_replica(tmp_path: Path) -> None:
    with (
        FakeServer() as one,
        FakeServer() as two,
        front(tmp_path, one, two) as (envoy, channel),
        Client(envoy.address) as client,
    ):

        def rests_on(server: FakeServer) -> bool:
            asked = len(server.calls)
            for _ in range(20):
                client.classify([[0.0]], model="model")
            return len(server.calls) == asked + 20

        assert client.ready()
        with pytest.raises(grpc.RpcError) as raised:
            next(HealthStub(channel).Watch(HealthCheckRequest(), timeout=TIMEOUT_S))
        assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED
        for ill, well in ((one, two), (two, one)):
            ill.set_ready(False)
            envoy.wait_for_replicas(1)
            until(partial(rests_on, well))
            ill.set_ready(True)
            envoy.wait_for_replicas(2)
        for each in (one, two):
            each.set_ready(False)
        envoy.wait_for_replicas(0)
        assert not client.ready()

        def refused() -> bool:
            try:
                client.classify([[0.0]], model="model")
            except Unavailable:
                return True
            return False

        until(refused)


def test_callers_are_limited_alike_with_tls_and_without() -> None:
    def limits(file: str) -> dict[str, Any]:
        [listener] = yaml.safe_load((FILES / file).read_text())["static_resources"]["listeners"]
        [chain] = listener["filter_chains"]
        [manager] = chain["filters"]
        config: dict[str, Any] = manager["typed_config"]
        filters = [each for each in config["http_filters"] if each["name"] != "fault"]
        return {**config, "http_filters": filters}

    assert limits("envoy.yaml") == limits("replicas.yaml")
