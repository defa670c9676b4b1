"""Whose signature a version needs, where the server is told to ask for one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from seqserve.errors import InvalidKey
from seqserve.signature import TrustedKeys
from seqserve_server.errors import InvalidSetting
from seqserve_server.security.watched import Watched

OPTION = "--trusted-keys"


class Trust:
    """Keys in a file, which is read again when it changes: what is served stays.

    Args:
        path: Ed25519 public keys in PEM, one after the other.

    Raises:
        InvalidSetting: it is no such file, or cryptography is missing.
    """

    def __init__(self, path: Path) -> None:
        def make(contents: Sequence[bytes]) -> TrustedKeys:
            try:
                return TrustedKeys.parse(contents[0], path)
            except InvalidKey as error:
                raise InvalidSetting(f"{OPTION} {error}") from error
            except ModuleNotFoundError as error:
                raise InvalidSetting(
                    f"{OPTION}: {error.name} is not installed. It comes with: "
                    "pip install 'seqserve[signing]'"
                ) from error

        self._keys = Watched({OPTION: path}, make)

    def check(self, manifest: bytes, folder: Path) -> None:
        """Returns if one of the keys signed the manifest.

        Args:
            manifest: As it was read.
            folder: Where the signature lies.

        Raises:
            InvalidSignature: none did.
        """
        self._keys.look()
        self._keys.current.check(manifest, folder)
