"""The token that a live sequence's caller keeps for the server: sealed, and never stored.

    format (1 byte) | version (u64) | expiry (u64, Unix seconds) | steps (u64) |
    model digest (32 bytes) | state (float32, little-endian) | HMAC-SHA256 of all before

Integers are little-endian. The seal keeps the content from being altered, not from being
read: it is the caller's own sequence. Every replica that has the key accepts the token.
"""

from __future__ import annotations

import hmac
import secrets
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from seqserve_server.errors import InvalidSetting

MIN_KEY_BYTES = 32

_FORMAT = 1
_HEADER = struct.Struct("<BQQQ32s")
_SEAL_BYTES = 32


class InvalidToken(Exception):
    """A token that this server did not seal, or that has expired; the message says which."""


@dataclass(frozen=True)
class Token:
    """What the next piece of a sequence needs to be told of those before it."""

    digest: str
    """sha256 of the model's manifest, 64 hexadecimal digits."""
    version: int
    """The model's version."""
    steps: int
    """Steps of the sequence so far."""
    state: bytes
    """The model's state after them."""


@dataclass(frozen=True)
class TokenSealer:
    """Seals tokens and opens them again."""

    key: bytes
    """Secret; replicas that share it accept each other's tokens."""
    lifetime_s: float
    """How long a token is good for."""
    now: Callable[[], float] = time.time
    """The wall clock, in Unix seconds: replicas share no other."""

    def seal(self, token: Token) -> bytes:
        """The token as bytes to hand out."""
        expiry = int(self.now() + self.lifetime_s)
        digest = bytes.fromhex(token.digest)
        header = _HEADER.pack(_FORMAT, token.version, expiry, token.steps, digest)
        content = header + token.state
        return content + self._mac(content)

    def open(self, data: bytes) -> Token:
        """What `seal` was given.

        Raises:
            InvalidToken: the bytes are not as they were sealed, or have expired.
        """
        content, mac = data[:-_SEAL_BYTES], data[-_SEAL_BYTES:]
        if len(content) < _HEADER.size or not hmac.compare_digest(mac, self._mac(content)):
            raise InvalidToken(
                "is not one that this server gave: it was altered, or sealed with another key"
            )
        form, version, expiry, steps, digest = _HEADER.unpack_from(content)
        if form != _FORMAT:
            raise InvalidToken(f"has format {form}; this server reads {_FORMAT}")
        if expiry <= self.now():
            raise InvalidToken("has expired; begin the sequence again")
        return Token(digest.hex(), version, steps, content[_HEADER.size :])

    def _mac(self, content: bytes) -> bytes:
        return hmac.digest(self.key, content, "sha256")


def random_key() -> bytes:
    """A key of this process alone."""
    return secrets.token_bytes(MIN_KEY_BYTES)


def read_key(path: Path) -> bytes:
    """The key in a file, without the white space around it.

    Raises:
        InvalidSetting: the file cannot be read, or is too short to be a key.
    """
    try:
        key = path.read_bytes().strip()
    except OSError as error:
        raise InvalidSetting(f"--token-key-file {path}: {error.strerror}") from error
    if len(key) < MIN_KEY_BYTES:
        raise InvalidSetting(
            f"--token-key-file {path}: holds {len(key)} bytes; at least {MIN_KEY_BYTES} are "
            "needed, as from: openssl rand -hex 32"
        )
    return key
