"""TLS on the port of the grpcio transport, with certificates that are renewed while it serves."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from pathlib import Path

import grpc

from seqserve_server.errors import InvalidSetting
from seqserve_server.security.watched import Watched

CERTIFICATE = "--tls-certificate"
KEY = "--tls-key"
CLIENT_CA = "--tls-client-ca"

Certificates = Watched[grpc.ServerCertificateConfiguration]


def watched(certificate: Path, key: Path, client_ca: Path | None) -> Certificates:
    """What the port shows and asks for, now and when the files change.

    Args:
        certificate: The server's chain, in PEM.
        key: Its private key, in PEM, not encrypted.
        client_ca: Certificates, in PEM, of those who sign callers' own.

    Raises:
        InvalidSetting: they are not that, or the key is of another certificate.
    """
    paths = {CERTIFICATE: certificate, KEY: key}
    if client_ca is not None:
        paths[CLIENT_CA] = client_ca

    def make(contents: Sequence[bytes]) -> grpc.ServerCertificateConfiguration:
        # By path, as ssl has no other way. Files that changed in between are looked at again:
        # their contents are not those that were read.
        _check_pair(certificate, key)
        chain, private, *authorities = contents
        if client_ca is not None:
            _check_authorities(client_ca, authorities[0])
        return grpc.ssl_server_certificate_configuration([(private, chain)], *authorities)

    return Watched(paths, make)


def credentials(certificates: Certificates, *, mutual: bool) -> grpc.ServerCredentials:
    """For a port: connections that are opened after a renewal see it, others go on as they are.

    Args:
        certificates: What to show and ask for.
        mutual: Whether callers have to show a certificate.
    """
    shown = certificates.current

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        """Asked by grpc before every handshake, one at a time; None where nothing has changed."""
        nonlocal shown
        if certificates.current is shown:
            return None
        shown = certificates.current
        return shown

    return grpc.dynamic_ssl_server_credentials(shown, renewed, mutual)  # type: ignore[arg-type]


def _check_pair(certificate: Path, key: Path) -> None:
    def no_password() -> str:
        raise InvalidSetting(f"{KEY} {key}: is encrypted; a key without a password is needed")

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, no_password)
    except ssl.SSLError as error:
        raise InvalidSetting(
            f"{CERTIFICATE} {certificate} and {KEY} {key}: not a certificate in PEM and its "
            f"private key ({error.reason or error})"
        ) from error
    except OSError as error:
        raise InvalidSetting(
            f"{CERTIFICATE} {certificate}, {KEY} {key}: {error.strerror}"
        ) from error


def _check_authorities(path: Path, content: bytes) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(
            cadata=content.decode("ascii", errors="replace")
        )
    except (ssl.SSLError, ValueError) as error:
        raise InvalidSetting(f"{CLIENT_CA} {path}: no certificates in PEM ({error})") from error
