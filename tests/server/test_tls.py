"""TLS and mutual TLS on the grpcio transport, and certificates that are renewed on disk."""

from __future__ import annotations

import logging
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
import trustme

from seqserve.v1.catalog_pb2 import ListModelsRequest
from seqserve.v1.catalog_pb2_grpc import ModelCatalogStub
from seqserve_server import serving
from seqserve_server.errors import InvalidSetting
from seqserve_server.options import Transport
from seqserve_server.security import tls
from seqserve_server.settings import Settings
from tests.server.conftest import TIMEOUT_S, Running, run_told

NAME = "localhost"


@dataclass
class Files:
    """An authority, and a server's certificate and key on disk."""

    folder: Path
    authority: trustme.CA = field(default_factory=trustme.CA)

    @property
    def certificate(self) -> Path:
        return self.folder / "server.pem"

    @property
    def key(self) -> Path:
        return self.folder / "server.key"

    @property
    def client_ca(self) -> Path:
        return self.folder / "clients.pem"

    def issue(self) -> int:
        """Puts a new certificate in place; gives its serial number."""
        issued = self.authority.issue_cert(NAME)
        issued.cert_chain_pems[0].write_to_path(self.certificate)
        issued.private_key_pem.write_to_path(self.key)
        return _serial(issued)

    def settings(self, repository: Path, *, mutual: bool = False) -> Settings:
        if mutual:
            self.authority.cert_pem.write_to_path(self.client_ca)
        return Settings(
            repository,
            address="127.0.0.1:0",
            lanes=1,
            tls_certificate=self.certificate,
            tls_key=self.key,
            tls_client_ca=self.client_ca if mutual else None,
        )

    def credentials(self, client: trustme.LeafCert | None = None) -> grpc.ChannelCredentials:
        """Trusts the authority, and shows a client's certificate if there is one."""
        roots = self.authority.cert_pem.bytes()
        if client is None:
            return grpc.ssl_channel_credentials(roots)
        return grpc.ssl_channel_credentials(
            roots, client.private_key_pem.bytes(), client.cert_chain_pems[0].bytes()
        )

    def shown(self, address: str) -> int:
        """The serial number of the certificate that a new connection is shown."""
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        context.set_alpn_protocols(["h2"])
        host, port = address.split(":")
        with (
            socket.create_connection((host, int(port)), TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=NAME) as connection,
        ):
            certificate = connection.getpeercert()
        assert certificate
        return int(str(certificate["serialNumber"]), 16)


def _serial(issued: trustme.LeafCert) -> int:
    from cryptography import x509

    return x509.load_pem_x509_certificate(issued.cert_chain_pems[0].bytes()).serial_number


def _until(holds: Callable[[], bool]) -> None:
    """Until it holds; a test that waits so long has failed."""
    end = time.monotonic() + TIMEOUT_S
    while not holds():
        assert time.monotonic() < end


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@contextmanager
def _channel(server: Running, credentials: grpc.ChannelCredentials) -> Iterator[ModelCatalogStub]:
    address = server.server.address.replace("127.0.0.1", NAME)
    options = [("grpc.use_local_subchannel_pool", 1)]  # a connection of its own
    with grpc.secure_channel(address, credentials, options) as channel:
        yield ModelCatalogStub(channel)


def _lists(catalog: ModelCatalogStub) -> bool:
    return bool(catalog.ListModels(ListModelsRequest(), timeout=TIMEOUT_S).models)


def _unavailable(catalog: ModelCatalogStub) -> bool:
    with pytest.raises(grpc.RpcError) as raised:
        catalog.ListModels(ListModelsRequest(), timeout=TIMEOUT_S)
    return raised.value.code() is grpc.StatusCode.UNAVAILABLE


def test_tls_takes_the_grpcio_transport_and_nobody_is_served_without_it(
    models: Path, files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    files.issue()
    with caplog.at_level(logging.INFO), run_told(files.settings(models)) as server:
        with _channel(server, files.credentials()) as catalog:
            assert _lists(catalog)
        assert _unavailable(server.catalog)  # by plaintext
        with _channel(server, Files(files.folder).credentials()) as catalog:
            assert _unavailable(catalog)  # another authority is trusted

    assert "(grpcio transport, TLS, 1 lane)" in caplog.text


def test_with_mutual_tls_a_caller_needs_a_certificate_of_the_right_authority(
    models: Path, files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    files.issue()
    settings = files.settings(models, mutual=True)
    with caplog.at_level(logging.INFO), run_told(settings) as server:
        with _channel(server, files.credentials(files.authority.issue_cert("ana"))) as catalog:
            assert _lists(catalog)
        with _channel(server, files.credentials()) as catalog:
            assert _unavailable(catalog)
        with _channel(server, files.credentials(trustme.CA().issue_cert("ana"))) as catalog:
            assert _unavailable(catalog)

    assert "(grpcio transport, mutual TLS, 1 lane)" in caplog.text


def _in_place(files: Files) -> int:
    return files.issue()


def _by_rename(files: Files) -> int:
    """Each file is written elsewhere and renamed, as acme clients do."""
    new = files.folder / "new"
    new.mkdir(exist_ok=True)
    serial = Files(new, files.authority).issue()
    for path in new.iterdir():
        path.rename(files.folder / path.name)
    return serial


def _by_link(files: Files) -> int:
    """The folder behind a link is switched, as Kubernetes does with a secret."""
    new = files.folder / "..data" / str(time.monotonic_ns())
    new.mkdir(parents=True)
    serial = Files(new, files.authority).issue()
    for path in (files.certificate, files.key):
        link = files.folder / f"{path.name}.link"
        link.symlink_to(new / path.name)
        link.rename(path)
    return serial


@pytest.mark.parametrize("renew", [_in_place, _by_rename, _by_link])
def test_a_renewed_certificate_is_shown_to_new_connections_and_old_ones_live_on(
    models: Path,
    files: Files,
    monkeypatch: pytest.MonkeyPatch,
    renew: Callable[[Files], int],
) -> None:
    monkeypatch.setattr(serving, "LOOK_INTERVAL_S", 0.01)
    first = files.issue()
    with (
        run_told(files.settings(models)) as server,
        _channel(server, files.credentials()) as old,
    ):
        assert _lists(old)
        assert files.shown(server.server.address) == first

        for _ in range(2):
            renewed = renew(files)
            assert renewed != first
            _until(lambda: files.shown(server.server.address) == renewed)  # noqa: B023
            with _channel(server, files.credentials()) as new:
                assert _lists(new)

        # Nobody trusts the authority of its connection any more: it was not opened again.
        files.authority = trustme.CA()
        files.issue()
        _until(lambda: _shown_by_other(files, server))
        assert _lists(old)


def _shown_by_other(files: Files, server: Running) -> bool:
    try:
        return bool(files.shown(server.server.address))
    except ssl.SSLCertVerificationError:  # still the certificate of the former
        return False


def test_a_renewed_client_authority_holds_for_new_connections(
    models: Path, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "LOOK_INTERVAL_S", 0.01)
    files.issue()
    ana = files.authority.issue_cert("ana")
    with run_told(files.settings(models, mutual=True)) as server:
        with _channel(server, files.credentials(ana)) as catalog:
            assert _lists(catalog)
        trustme.CA().cert_pem.write_to_path(files.client_ca)

        def refused() -> bool:
            with _channel(server, files.credentials(ana)) as catalog:
                try:
                    return not _lists(catalog)
                except grpc.RpcError as error:
                    return bool(error.code() is grpc.StatusCode.UNAVAILABLE)

        _until(refused)


def _put(path: Path, content: bytes) -> None:
    """At once, so that nobody sees the half of it."""
    new = path.with_suffix(".new")
    new.write_bytes(content)
    new.rename(path)


def _no_certificate(files: Files) -> None:
    _put(files.certificate, b"no certificate")


def _half_a_certificate(files: Files) -> None:
    content = files.certificate.read_bytes()
    _put(files.certificate, content[: len(content) // 2])


def _anothers_key(files: Files) -> None:
    _put(files.key, files.authority.issue_cert(NAME).private_key_pem.bytes())


def _encrypted_key(files: Files) -> None:
    from cryptography.hazmat.primitives import serialization as s

    key = s.load_pem_private_key(files.key.read_bytes(), None)
    encryption = s.BestAvailableEncryption(b"password")
    _put(files.key, key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, encryption))


def _no_key(files: Files) -> None:
    files.key.unlink()


BROKEN = {
    "no certificate": (_no_certificate, "not a certificate in PEM and its private key"),
    "half a certificate": (_half_a_certificate, "not a certificate in PEM and its private key"),
    "another's key": (_anothers_key, "(KEY_VALUES_MISMATCH)"),
    "an encrypted key": (_encrypted_key, "is encrypted; a key without a password is needed"),
    "no key": (_no_key, "No such file or directory"),
}


@pytest.mark.parametrize(("spoil", "words"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_renewal_keeps_what_there_was_and_is_logged_once(
    models: Path,
    files: Files,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    spoil: Callable[[Files], None],
    words: str,
) -> None:
    monkeypatch.setattr(serving, "LOOK_INTERVAL_S", 0.01)
    first = files.issue()
    with caplog.at_level(logging.ERROR), run_told(files.settings(models)) as server:
        spoil(files)
        _until(lambda: "what was there before stays in force" in caplog.text)
        assert files.shown(server.server.address) == first
        assert words in caplog.text
        assert caplog.text.count("stays in force") == 1

        renewed = files.issue()
        _until(lambda: files.shown(server.server.address) == renewed)


@pytest.mark.parametrize(("spoil", "words"), BROKEN.values(), ids=BROKEN.keys())
def test_a_server_does_not_start_with_broken_certificates(
    files: Files, spoil: Callable[[Files], None], words: str
) -> None:
    files.issue()
    spoil(files)

    with pytest.raises(InvalidSetting, match=re.escape(words)):
        tls.watched(files.certificate, files.key, None)


def test_a_client_authority_has_to_be_certificates(files: Files) -> None:
    files.issue()
    files.client_ca.write_text("none")

    with pytest.raises(InvalidSetting, match=r"--tls-client-ca .*: no certificates in PEM"):
        tls.watched(files.certificate, files.key, files.client_ca)


def test_the_native_transport_with_tls_is_refused_and_envoy_named(files: Files) -> None:
    with pytest.raises(InvalidSetting, match=r"--transport native has no TLS.*Envoy"):
        Settings(
            files.folder,
            transport=Transport.NATIVE,
            tls_certificate=files.certificate,
            tls_key=files.key,
        )


@pytest.mark.parametrize("given", ["tls_certificate", "tls_key", "tls_client_ca"])
def test_half_of_what_tls_needs_is_refused(files: Files, given: str) -> None:
    with pytest.raises(InvalidSetting, match="--tls-certificate and --tls-key"):
        Settings(files.folder, **{given: files.certificate})  # type: ignore[arg-type]
