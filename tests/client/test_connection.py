"""TLS, mutual TLS and tokens, as a client is told of them."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import trustme

from seqserve.v1.catalog_pb2 import ListModelsResponse
from seqserve_client import Client, InvalidOptions, Unavailable, connection
from seqserve_client.connection import Token, stays_here
from seqserve_client.options import Options
from seqserve_client.testing import FakeServer

if TYPE_CHECKING:
    from tests.client.conftest import Run

Connect = Callable[..., Client]


class Shown(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """Answers ListModels, and keeps what each call shows."""

    def __init__(self) -> None:
        self.tokens: list[Any] = []

    def service(self, _: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        def answer(_: bytes, context: grpc.ServicerContext) -> bytes:
            self.tokens.append(dict(context.invocation_metadata()).get("authorization"))
            return ListModelsResponse().SerializeToString()

        return grpc.unary_unary_rpc_method_handler(answer)


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> Path:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return tmp_path / "ca.pem"


@contextmanager
def _secured(
    authority: trustme.CA, *names: str, clients: trustme.CA | None = None
) -> Iterator[tuple[str, Shown]]:
    """The port of a server with a certificate for these names."""
    issued, shown = authority.issue_cert(*names), Shown()
    server = grpc.server(ThreadPoolExecutor(1), handlers=[shown])
    port = server.add_secure_port(
        "127.0.0.1:0",
        grpc.ssl_server_credentials(
            [(issued.private_key_pem.bytes(), issued.cert_chain_pems[0].bytes())],
            clients.cert_pem.bytes() if clients else None,
            clients is not None,
        ),
    )
    server.start()
    try:
        yield str(port), shown
    finally:
        server.stop(None).wait()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"], ids=["name", "literal"])
def test_a_file_of_authorities_makes_calls_go_by_tls(
    connect: Connect, authority: trustme.CA, ca_file: Path, host: str
) -> None:
    with _secured(authority, host) as (port, _):
        assert connect(f"{host}:{port}", ca_file=ca_file).models() == []
        assert connect(f"{host}:{port},{host}:{port}", ca_file=str(ca_file)).models() == []


def test_a_server_of_another_authority_or_name_is_not_called(
    authority: trustme.CA, ca_file: Path
) -> None:
    for issuer, name in [(trustme.CA(), "localhost"), (authority, "elsewhere")]:
        with (
            _secured(issuer, name) as (port, shown),
            Client(f"localhost:{port}", ca_file=ca_file, token="t") as client,
            pytest.raises(Unavailable),
        ):
            client.models()
        assert shown.tokens == []


def test_tls_alone_trusts_the_authorities_that_grpc_knows(authority: trustme.CA) -> None:
    with (
        _secured(authority, "localhost") as (port, _),
        Client(f"localhost:{port}", tls=True) as client,
        pytest.raises(Unavailable),
    ):
        client.models()


def test_tls_does_not_fall_back_to_plaintext() -> None:
    with (
        FakeServer() as plaintext,
        Client(plaintext.address, tls=True) as client,
        pytest.raises(Unavailable),
    ):
        client.models()


def test_where_one_end_alone_goes_by_tls_the_error_says_so(
    connect: Connect, run: Run, server: FakeServer, authority: trustme.CA, ca_file: Path
) -> None:
    with _secured(authority, "127.0.0.1") as (port, _):
        address = f"127.0.0.1:{port}"
        with pytest.raises(Unavailable, match="does it ask for --tls or --ca-file"):
            connect(address).models()
        with pytest.raises(Unavailable, match="does it ask for --tls or --ca-file"):
            connect(address).classify([[[1.0]]], model="any")
        assert "does it ask for --tls or --ca-file" in run("models", server=address).stderr
    with pytest.raises(Unavailable, match="does not speak TLS: leave out --tls and --ca-file"):
        connect(server.address, ca_file=ca_file).models()
    assert "does not speak TLS" in run("models", "--tls").stderr


def test_what_is_wrong_with_a_certificate_is_asked_for_by_the_flag_that_mends_it(
    connect: Connect, authority: trustme.CA, ca_file: Path
) -> None:
    with (
        _secured(trustme.CA(), "127.0.0.1") as (port, _),
        pytest.raises(Unavailable, match="in --ca-file signed the server's certificate"),
    ):
        connect(f"127.0.0.1:{port}", ca_file=ca_file).models()
    with (
        _secured(authority, "127.0.0.1", clients=authority) as (port, _),
        pytest.raises(Unavailable, match="of the client's, --certificate-file"),
    ):
        connect(f"127.0.0.1:{port}", ca_file=ca_file).models()


def test_where_nobody_listens_nothing_is_said_of_tls(connect: Connect) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and never listens
        with pytest.raises(Unavailable) as raised:
            connect(f"127.0.0.1:{taken.getsockname()[1]}").models()
    assert "--" not in str(raised.value)


def test_a_certificate_of_its_own_lets_a_client_in(
    connect: Connect, authority: trustme.CA, ca_file: Path, tmp_path: Path
) -> None:
    ana, other = authority.issue_cert("ana"), trustme.CA().issue_cert("ana")
    for name, issued in [("ana", ana), ("other", other)]:
        issued.cert_chain_pems[0].write_to_path(tmp_path / f"{name}.pem")
        issued.private_key_pem.write_to_path(tmp_path / f"{name}.key")

    def connected(name: str) -> Client:
        return connect(
            f"localhost:{port}",
            ca_file=ca_file,
            certificate_file=tmp_path / f"{name}.pem",
            key_file=tmp_path / f"{name}.key",
        )

    with _secured(authority, "localhost", clients=authority) as (port, _):
        assert connected("ana").models() == []
        with pytest.raises(Unavailable):
            connected("other").models()
        with pytest.raises(Unavailable):
            connect(f"localhost:{port}", ca_file=ca_file).models()


def test_a_token_is_shown_with_every_call(connect: Connect, server: FakeServer) -> None:
    client = connect(server.address, token="secret", metadata=[("other", "x")])
    client.classify([[0.0]], model="model")
    client.classify([[0.0], [1.0]], model="model")
    client.models()

    assert len(server.calls) == 3
    for call in server.calls:
        assert call.metadata["authorization"] == "Bearer secret"
        assert call.metadata["other"] == "x"


def test_a_token_in_a_file_is_read_again_when_it_changes(
    connect: Connect,
    server: FakeServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(connection, "_LOOK_S", 0.0)
    file = tmp_path / "token"
    file.write_text("one\n")
    client = connect(server.address, token_file=file)
    client.models()
    file.write_text("two\n")
    client.models()
    file.unlink()
    client.models()

    assert [call.metadata["authorization"] for call in server.calls] == [
        "Bearer one",
        "Bearer two",
        "Bearer two",
    ]
    assert f"token_file {file}: No such file or directory" in caplog.text
    assert "two" not in caplog.text.replace(str(file), "")


BEYOND = ["example.com:8001", "10.0.0.1:1,127.0.0.1:1", "ipv4:10.0.0.1:1", "dns:///elsewhere:1"]


@pytest.mark.parametrize("address", BEYOND)
def test_a_token_does_not_leave_the_host_in_plaintext_unless_told(
    connect: Connect, address: str, ca_file: Path
) -> None:
    with pytest.raises(InvalidOptions, match="would leave this host in plaintext") as raised:
        connect(address, token="secret")

    assert "secret" not in str(raised.value)
    connect(address, token="secret", token_in_plaintext=True)
    connect(address, token="secret", ca_file=ca_file)
    connect(address, token="secret", tls=True)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1:8001",
        "localhost",
        "[::1]:8001",
        "::1",
        "127.0.0.1:1,localhost:2",
        "unix:/tmp/socket",
        "unix-abstract:name",
        "ipv4:127.0.0.1:1,127.0.0.2:1",
        "ipv6:[::1]:1",
        "dns:///localhost:1",
    ],
)
def test_a_token_may_go_about_on_its_own_host(address: str) -> None:
    assert stays_here(address)


@pytest.mark.parametrize(
    "address",
    [*BEYOND, "dns://127.0.0.1/elsewhere:1", "xds:///localhost", "vsock:1:1", "", "[::]:1"],
)
def test_what_does_not_say_that_it_stays_here_does_not(address: str) -> None:
    assert not stays_here(address)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"token": "a", "token_file": "f"}, "token and token_file: give one of them"),
        ({"token": ""}, "token: is no token"),
        ({"token": "a b"}, "token: is no token"),
        ({"token_file": "/nowhere/token"}, "token_file /nowhere/token: No such file"),
        ({"token_file": "/dev/null"}, "token_file /dev/null: is no token"),
        ({"ca_file": "/dev/null"}, "ca_file /dev/null: holds no certificates in PEM"),
        ({"ca_file": "/nowhere/ca"}, "ca_file /nowhere/ca: No such file"),
        ({"key_file": "f"}, "certificate_file and key_file: mutual TLS needs both"),
        (
            {"certificate_file": "/dev/null", "key_file": "/dev/null"},
            "not a certificate in PEM and its private key",
        ),
        (
            {"tls": True, "credentials": grpc.ssl_channel_credentials()},
            "credentials say all about TLS",
        ),
    ],
    ids=lambda each: each if isinstance(each, str) else ", ".join(each),
)
def test_what_cannot_be_is_refused_before_anything_is_sent(
    connect: Connect, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidOptions, match=words):
        connect("127.0.0.1:1", **options)


def test_options_do_not_show_their_secrets() -> None:
    options = Options(token=Token("secret"), metadata=(("authorization", "Bearer secret"),))

    assert "secret" not in repr(options)
    assert "secret" not in repr(options.token)
