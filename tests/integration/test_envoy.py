"""deploy/envoy in front of the native transport: TLS, and what it keeps from the server."""

from __future__ import annotations

import queue
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from seqserve_client import Client, InvalidRequest, Unavailable
from tests.deploy.envoys import TIMEOUT_S, RunningEnvoy, needs_envoy, running, until
from tests.integration.conftest import in_process, serving

MOST_BYTES = 200_000
LIMITS = {"max_request_bytes: 67108864": f"max_request_bytes: {MOST_BYTES}"}
MODEL = "lstm-last"

pytestmark = needs_envoy


@dataclass(frozen=True)
class Envoy(RunningEnvoy):
    """Envoy in front of a server, and the files of those who may call it."""

    folder: Path
    authority: trustme.CA

    def client(self, name: str = "ana", **options: float) -> Client:
        """A client that shows the certificate of this name."""
        return Client(
            self.address,
            ca_file=self.folder / "tls/ca.crt",
            certificate_file=self.folder / f"{name}.crt",
            key_file=self.folder / f"{name}.key",
            **options,  # type: ignore[arg-type]
        )

    def issue(self, name: str, authority: trustme.CA) -> None:
        issued = authority.issue_cert(name)
        issued.cert_chain_pems[0].write_to_path(self.folder / f"{name}.crt")
        issued.private_key_pem.write_to_path(self.folder / f"{name}.key")


def _put_certificate(folder: Path, authority: trustme.CA) -> int:
    """Moves a new one into place, the key first; gives its serial number."""
    from cryptography import x509

    issued = authority.issue_cert("localhost")
    new = folder / "new"
    for name, blob in [("tls.key", issued.private_key_pem), ("tls.crt", issued.cert_chain_pems[0])]:
        blob.write_to_path(new)
        new.rename(folder / "tls" / name)
    return x509.load_pem_x509_certificate(issued.cert_chain_pems[0].bytes()).serial_number


@contextmanager
def _secured(folder: Path, server: str, authority: trustme.CA) -> Iterator[Envoy]:
    """Envoy in front of the server, that lets in whom the authority has signed for."""
    (folder / "tls").mkdir()
    authority.cert_pem.write_to_path(folder / "tls/ca.crt")
    _put_certificate(folder, authority)
    with running("envoy.yaml", folder, [server], LIMITS) as envoy:
        secured = Envoy(envoy.address, envoy.admin, envoy.process, folder, authority)
        secured.issue("ana", authority)
        secured.issue("stranger", trustme.CA())
        secured.wait_for_replicas(1)
        yield secured


@pytest.fixture(scope="module")
def envoy(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Envoy]:
    folder = tmp_path_factory.mktemp("envoy")
    with (
        serving(models, "--transport", "native") as server,
        _secured(folder, server, trustme.CA()) as envoy,
    ):
        yield envoy


def test_a_call_by_mutual_tls_gets_the_models_own_answer(envoy: Envoy, models: Path) -> None:
    sequence = np.random.default_rng(1).standard_normal((9, 3)).astype(np.float32)
    with envoy.client() as client:
        answer = client.classify([sequence], model=MODEL)
        assert client.models()
        assert client.ready(MODEL)

    expected = in_process(models, MODEL)(sequence[None], np.array([9], np.int32))
    np.testing.assert_array_equal(answer.logits, expected.logits)


def test_a_caller_without_a_certificate_of_the_right_authority_gets_nowhere(envoy: Envoy) -> None:
    with envoy.client("stranger") as client, pytest.raises(Unavailable):
        client.models()
    with (
        Client(envoy.address, ca_file=envoy.folder / "tls/ca.crt") as client,
        pytest.raises(Unavailable),
    ):
        client.models()
    with Client(envoy.address) as client, pytest.raises(Unavailable):
        client.models()


def test_an_oversize_request_is_refused_before_the_server_sees_it(envoy: Envoy) -> None:
    fits = np.zeros((1000, 3), np.float32)
    too_large = np.zeros((MOST_BYTES // 12 + 100, 3), np.float32)
    with envoy.client(max_request_steps=100_000) as client:
        assert client.classify([fits], model=MODEL).labels
        asked = envoy.stat("cluster.seqserve.upstream_rq_total")
        with pytest.raises(InvalidRequest, match="over the server's message limit"):
            client.classify([too_large], model=MODEL)
        assert envoy.stat("cluster.seqserve.upstream_rq_total") == asked
        assert client.classify([fits], model=MODEL).labels
        assert envoy.stat("cluster.seqserve.upstream_rq_total") == asked + 1


def test_reflection_is_a_conversation_through_it_too(envoy: Envoy) -> None:
    with _channel(envoy) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked: queue.Queue[reflection_pb2.ServerReflectionRequest | None] = queue.Queue()
        answers = stub.ServerReflectionInfo(iter(asked.get, None), timeout=TIMEOUT_S)
        for _ in range(2):  # each is answered before the next is asked
            asked.put(reflection_pb2.ServerReflectionRequest(list_services=""))
            assert next(answers).list_services_response.service
        asked.put(None)


def test_a_renewed_certificate_is_shown_and_old_connections_live_on(envoy: Envoy) -> None:
    def shown() -> int:
        context = ssl.create_default_context()
        envoy.authority.configure_trust(context)
        context.load_cert_chain(envoy.folder / "ana.crt", envoy.folder / "ana.key")
        context.set_alpn_protocols(["h2"])
        host, port = envoy.address.split(":")
        with (
            socket.create_connection((host, int(port)), TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=host) as connection,
        ):
            certificate = connection.getpeercert()
        assert certificate
        return int(str(certificate["serialNumber"]), 16)

    with envoy.client() as client:
        assert client.models()
        connections = envoy.stat("http.seqserve.downstream_cx_total")
        assert client.models()
        assert envoy.stat("http.seqserve.downstream_cx_total") == connections
        serial = _put_certificate(envoy.folder, envoy.authority)
        until(lambda: shown() == serial)
        seen = envoy.stat("http.seqserve.downstream_cx_total")
        assert client.models()
        assert envoy.stat("http.seqserve.downstream_cx_total") == seen


def test_nothing_is_asked_of_a_server_that_is_gone(models: Path, tmp_path: Path) -> None:
    with ExitStack() as stack:
        with serving(models, "--transport", "native") as server:
            envoy = stack.enter_context(_secured(tmp_path, server, trustme.CA()))
        envoy.wait_for_replicas(0)
        with envoy.client() as client:
            assert not client.ready()


def _channel(envoy: Envoy) -> grpc.Channel:
    names = ("tls/ca.crt", "ana.key", "ana.crt")
    pems = [(envoy.folder / name).read_bytes() for name in names]
    return grpc.secure_channel(envoy.address, grpc.ssl_channel_credentials(*pems))


def test_a_call_with_too_much_metadata_is_not_passed_on(envoy: Envoy) -> None:
    asked = envoy.stat("cluster.seqserve.upstream_rq_total")
    with _channel(envoy) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        with pytest.raises(grpc.RpcError) as raised:
            stub.Check(
                health_pb2.HealthCheckRequest(),
                metadata=[("filler", 20_000 * "x")],
                timeout=TIMEOUT_S,
            )

    assert raised.value.code() is not grpc.StatusCode.OK
    assert envoy.stat("cluster.seqserve.upstream_rq_total") == asked
