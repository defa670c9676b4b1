"""Where the servers are, and how calls are spread over them."""

from __future__ import annotations

import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from seqserve_client import Client, InvalidOptions, Unauthenticated, Unavailable
from seqserve_client.channel import Target
from seqserve_client.testing import FakeServer


@pytest.mark.parametrize(
    ("text", "uri", "authority"),
    [
        ("10.0.0.1:9", "ipv4:10.0.0.1:9", "10.0.0.1:9"),
        ("10.0.0.1", "ipv4:10.0.0.1:8001", "10.0.0.1:8001"),
        ("10.0.0.1:9, 10.0.0.2", "ipv4:10.0.0.1:9,10.0.0.2:8001", "10.0.0.1:9"),
        ("[::1]:9", "ipv6:[::1]:9", "[::1]:9"),
        ("::1", "ipv6:[::1]:8001", "[::1]:8001"),
        ("[::1],[::2]:9", "ipv6:[::1]:8001,[::2]:9", "[::1]:8001"),
        ("models.example:9", "dns:///models.example:9", None),
        ("models", "dns:///models:8001", None),
        ("unix:/run/seqserve", "unix:/run/seqserve", None),
        ("dns:///models:9", "dns:///models:9", None),
    ],
    ids=lambda value: str(value),
)
def test_an_address_is_read(text: str, uri: str, authority: str | None) -> None:
    assert Target.parse(text) == Target(uri, authority)


@pytest.mark.parametrize(
    "text",
    ["", "a b:9", "host:port", "host:0", "host:65536", "host:", ":9", "http://host:9", "a:9,,b:9"],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidOptions, match="no server address"):
        Client(text)


def test_families_are_not_mixed_in_a_list() -> None:
    with pytest.raises(InvalidOptions, match="cannot be mixed"):
        Target.parse("10.0.0.1:9,[::1]:9")


def test_names_in_a_list_are_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"one": ["10.0.0.1", "fe80::1"], "two": ["10.0.0.2", "10.0.0.3", "10.0.0.2"]}

    def look_up(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        return [(0, 0, 0, "", (address, port)) for address in known[host]]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    assert Target.parse("one:1,two:2") == Target("ipv4:10.0.0.1:1,10.0.0.2:2,10.0.0.3:2", "one:1")


def test_a_name_without_an_address_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with pytest.raises(Unavailable, match="no address is known for nowhere: Name or service"):
        Target.parse("nowhere:1,10.0.0.1:1")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"], ids=["literal", "name"])
def test_calls_go_round_the_replicas(connect: Callable[..., Client], host: str) -> None:
    with FakeServer() as one, FakeServer() as two:
        ports = [server.address.partition(":")[2] for server in (one, two)]
        client = connect(",".join(f"{host}:{port}" for port in ports))
        for _ in range(20):
            client.classify([[0.0]], model="model")
        # The first few may all go to the one whose connection stood first.
        assert min(len(one.calls), len(two.calls)) >= 5
        assert len(one.calls) + len(two.calls) == 20


def test_a_replica_that_is_gone_is_passed_over(connect: Callable[..., Client]) -> None:
    with FakeServer() as one, FakeServer() as two:
        client = connect(f"{one.address},{two.address}")
        client.classify([[0.0]], model="model")
        two.stop()
        for _ in range(10):
            client.classify([[0.0]], model="model")
        assert len(one.calls) >= 10


def test_a_replica_that_does_not_serve_is_passed_over(connect: Callable[..., Client]) -> None:
    with FakeServer() as one, FakeServer() as two:
        client = connect(f"{one.address},{two.address}")
        client.classify([[0.0]], model="model")
        two.set_ready(False)
        two.fail(grpc.StatusCode.UNAVAILABLE, "the server is stopping", times=1000)
        for _ in range(50):
            client.classify([[0.0]], model="model")
        # One or two before the client has heard of it, and none after.
        assert len(two.calls) < 10


def test_where_nobody_serves_the_models_can_still_be_asked_for(
    connect: Callable[..., Client], server: FakeServer
) -> None:
    client = connect(server.address)
    server.set_ready(False)
    with pytest.raises(Unavailable, match="has no model ready"):
        client.classify([[0.0]], model="model")
    assert not client.ready()
    assert [status.name for status in client.models()] == ["model"]
    server.set_ready(True)
    assert client.classify([[0.0]], model="model").labels


def test_metadata_goes_with_every_call(connect: Callable[..., Client], server: FakeServer) -> None:
    client = connect(
        server.address,
        metadata=[("authorization", "Bearer x"), ("trace-bin", b"\x00\xff")],
        max_request_sequences=1,
    )
    client.classify([[0.0], [1.0]], model="model")
    client.advance([[0.0]], model="model")
    client.models()
    client.describe("model")
    assert len(server.calls) == 5
    for call in server.calls:
        assert call.metadata["authorization"] == "Bearer x"
        assert call.metadata["trace-bin"] == b"\x00\xff"
        assert str(call.metadata["user-agent"]).startswith("seqserve-client/")


def test_credentials_secure_the_channel(connect: Callable[..., Client], tmp_path: Path) -> None:
    def tell(_: object, context: grpc.ServicerContext) -> None:
        told = dict(context.invocation_metadata()).get("authorization")
        context.abort(grpc.StatusCode.UNAUTHENTICATED, f"was told {told!r}")

    class Telling(grpc.GenericRpcHandler):  # type: ignore[type-arg]
        def service(self, _: object) -> grpc.RpcMethodHandler[Any, Any]:
            return grpc.unary_unary_rpc_method_handler(tell)

    server = grpc.server(ThreadPoolExecutor(1), handlers=[Telling()])
    address = f"unix:{tmp_path}/socket"
    local = grpc.LocalConnectionType.UDS
    server.add_secure_port(address, grpc.local_server_credentials(local))
    server.start()
    # gRPC sends a token over a secure channel alone.
    credentials = grpc.composite_channel_credentials(
        grpc.local_channel_credentials(local), grpc.access_token_call_credentials("secret")
    )
    try:
        with pytest.raises(Unauthenticated, match="'Bearer secret'"):
            connect(address, credentials=credentials).models()
        with pytest.raises(Unauthenticated, match="None"):
            connect(address).models()
    finally:
        server.stop(None).wait()


def test_one_client_serves_many_threads(server: FakeServer) -> None:
    with Client(server.address) as client, ThreadPoolExecutor(8) as pool:
        answers = pool.map(
            lambda index: client.classify([[float(index % 3)]], model="model").labels[0],
            range(60),
        )
        assert list(answers) == ["low", "middle", "high"] * 20
