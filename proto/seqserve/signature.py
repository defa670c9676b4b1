"""Signatures of artifacts: Ed25519 over the bytes of the manifest, which vouches for all else.

`manifest.json.sig` holds the 64 bytes of each signature in base64, a line each, so that several may
sign. A manifest names its model and version: a signature is good for no other. Keys are in PEM, as
openssl writes them.

Needs cryptography, which `seqserve[signing]` brings; it is imported where it is used.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from seqserve import artifact
from seqserve.errors import InvalidArtifact, InvalidKey, InvalidSignature

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )

SIGNATURE_FILE = "manifest.json.sig"
MAX_BYTES = 1 << 16
"""Of a file of signatures: more than anybody needs."""

_PUBLIC = re.compile(rb"-----BEGIN PUBLIC KEY-----.+?-----END PUBLIC KEY-----", re.DOTALL)


@dataclass(frozen=True)
class TrustedKeys:
    """Public keys, one of which must have signed a manifest."""

    keys: Sequence[Ed25519PublicKey]

    @classmethod
    def parse(cls, content: bytes, path: Path) -> TrustedKeys:
        """The keys of a file with one public key after the other, in PEM.

        Raises:
            InvalidKey: it holds none, or one of another kind.
        """
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        keys = []
        for number, block in enumerate(_PUBLIC.findall(content), 1):
            try:
                key = load_pem_public_key(block)
            except ValueError as error:
                raise InvalidKey(f"{path}: key {number} cannot be read: {error}") from error
            if not isinstance(key, Ed25519PublicKey):
                raise InvalidKey(f"{path}: key {number} is not an Ed25519 key")
            keys.append(key)
        if not keys:
            raise InvalidKey(f"{path}: holds no public key in PEM")
        return cls(keys)

    def check(self, manifest: bytes, folder: Path) -> None:
        """Returns if one of the keys signed the manifest.

        Args:
            manifest: Its bytes as they were read; what is checked must be what is used.
            folder: Where the signature lies.

        Raises:
            InvalidSignature: none did.
        """
        from cryptography.exceptions import InvalidSignature as Wrong

        for signature in _signatures(folder):
            for key in self.keys:
                try:
                    key.verify(signature, manifest)
                except Wrong:
                    continue
                return
        raise InvalidSignature(f"{folder / SIGNATURE_FILE}: is not of a key that is trusted here")


def sign(folder: Path, key_file: Path) -> Path:
    """Adds a signature to an artifact, and gives the file that it is in.

    Args:
        folder: `<repository>/<model>/<version>`; its files are checked first.
        key_file: The private key, in PEM without a password.

    Raises:
        InvalidArtifact: the folder is no sound artifact.
        InvalidKey: the file is no such key.
    """
    key = _private_key(key_file)
    manifest = artifact.manifest_bytes(folder)
    artifact.check_files(artifact.parse_manifest(manifest, folder), folder)
    path = folder / SIGNATURE_FILE
    signatures = _signatures(folder) if path.exists() else []
    signature = key.sign(manifest)  # the same each time
    if signature not in signatures:
        lines = [base64.b64encode(each) for each in (*signatures, signature)]
        new = path.with_suffix(".new")
        new.write_bytes(b"\n".join(lines) + b"\n")
        new.rename(path)  # at once: a server may look at this moment
    return path


def new_key(private: Path) -> bytes:
    """Makes a key, and gives its public half in PEM.

    Args:
        private: The file to make for the private half, which nobody else may read.

    Raises:
        InvalidKey: there is such a file, or it cannot be written.
    """
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    content = key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption())
    try:
        with open(os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
    except OSError as error:
        raise InvalidKey(f"{private}: {error.strerror}") from error
    return key.public_key().public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo)


def _private_key(path: Path) -> Ed25519PrivateKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except OSError as error:
        raise InvalidKey(f"{path}: {error.strerror}") from error
    except (TypeError, ValueError) as error:  # TypeError: it has a password
        raise InvalidKey(f"{path}: no private key in PEM without a password") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise InvalidKey(f"{path}: not an Ed25519 key")
    return key


def _signatures(folder: Path) -> list[bytes]:
    path = folder / SIGNATURE_FILE
    if not path.exists() and not path.is_symlink():
        raise InvalidSignature(f"{path}: is missing; sign it with: seqserve sign {folder}")
    try:
        lines = artifact.read_file(path, MAX_BYTES).split()
        return [base64.b64decode(line, validate=True) for line in lines]
    except (InvalidArtifact, binascii.Error) as error:
        raise InvalidSignature(f"{path}: holds no signatures: {error}") from error
