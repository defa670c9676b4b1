"""What a client shows to servers and by what it knows them: TLS, and the token of its calls."""

from __future__ import annotations

import ipaddress
import logging
import os
import time
from pathlib import Path

import grpc

from seqserve_client.errors import InvalidOptions

_log = logging.getLogger(__name__)

File = str | os.PathLike[str]

_LOOK_S = 1.0
"""How old what is known of a token's file may be."""


def channel_credentials(
    made: grpc.ChannelCredentials | None = None,
    *,
    tls: bool = False,
    ca_file: File | None = None,
    certificate_file: File | None = None,
    key_file: File | None = None,
) -> grpc.ChannelCredentials | None:
    """For TLS where any of these is given; None for plaintext.

    Args:
        made: By `grpc`, instead of all others.
        tls: TLS by itself: the authorities that gRPC knows are trusted.
        ca_file: Certificates in PEM, one of which signed the server's.
        certificate_file: The client's own certificate chain in PEM, for mutual TLS.
        key_file: The private key of that, in PEM.

    Raises:
        InvalidOptions: a file is not what it should be, or one of a pair is missing.
    """
    if (certificate_file is None) != (key_file is None):
        raise InvalidOptions("certificate_file and key_file: mutual TLS needs both")
    if not (tls or ca_file or certificate_file):
        return made
    if made is not None:
        raise InvalidOptions("credentials say all about TLS: leave out tls and the files")
    roots = None if ca_file is None else _authorities(Path(ca_file))
    if certificate_file is None or key_file is None:
        return grpc.ssl_channel_credentials(roots)
    chain, key = _pair(Path(certificate_file), Path(key_file))
    return grpc.ssl_channel_credentials(roots, key, chain)


class Token:
    """What calls show to be let in.

    Args:
        value: The token itself.
        file: Or the file that holds it, read again when it changes: a token may be replaced
            while the client lives.

    Raises:
        InvalidOptions: it is no token, or the file cannot be read.
    """

    def __init__(self, value: str | None = None, file: File | None = None) -> None:
        self._file = None if file is None else Path(file)
        self._metadatum = self._read(value)
        self._look_again = time.monotonic() + _LOOK_S

    def metadatum(self) -> tuple[str, str]:
        """The header that shows it."""
        if self._file is not None and time.monotonic() >= self._look_again:
            self._look_again = time.monotonic() + _LOOK_S
            try:
                self._metadatum = self._read()
            except InvalidOptions as error:
                _log.warning("%s; the token that was there before is shown", error)
        return self._metadatum

    def _read(self, value: str | None = None) -> tuple[str, str]:
        source = "token"
        if self._file is not None:
            source = f"token_file {self._file}"
            value = _read("token_file", self._file).decode("ascii", errors="replace").strip()
        if not value or not all("!" <= character <= "~" for character in value):
            raise InvalidOptions(f"{source}: is no token, which is a word of printable ASCII")
        return "authorization", f"Bearer {value}"


def token(value: str | None, file: File | None) -> Token | None:
    """What calls are to show, if anything.

    Raises:
        InvalidOptions: both are given, or as `Token`.
    """
    if value is not None and file is not None:
        raise InvalidOptions("token and token_file: give one of them")
    return None if value is None and file is None else Token(value, file)


def stays_here(address: str) -> bool:
    """Whether calls to an address leave no trace on a network, for they do not leave this host.

    Only what says so by itself counts: what a name stands for may change at any time.
    """
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    for scheme in ("dns:///", "dns:", "ipv4:", "ipv6:"):
        address = address.removeprefix(scheme)
    return all(_is_loopback(server.strip()) for server in address.split(","))


def _is_loopback(server: str) -> bool:
    if server.startswith("["):
        host = server[1:].partition("]")[0]
    else:
        host = server.partition(":")[0] if server.count(":") == 1 else server
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _authorities(file: Path) -> bytes:
    import ssl

    content = _read("ca_file", file)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(
            cadata=content.decode("ascii", errors="replace")
        )
    except (ssl.SSLError, ValueError) as error:
        raise InvalidOptions(f"ca_file {file}: holds no certificates in PEM") from error
    return content


def _pair(certificate: Path, key: Path) -> tuple[bytes, bytes]:
    import ssl

    def no_password() -> str:
        raise InvalidOptions(f"key_file {key}: is encrypted; a key without a password is needed")

    contents = _read("certificate_file", certificate), _read("key_file", key)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key, no_password)
    except ssl.SSLError as error:
        raise InvalidOptions(
            f"certificate_file {certificate} and key_file {key}: not a certificate in PEM and "
            f"its private key ({error.reason or error})"
        ) from error
    return contents


def _read(option: str, file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InvalidOptions(f"{option} {file}: {error.strerror}") from error
