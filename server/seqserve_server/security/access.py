"""Who may do what: bearer tokens, each good for some of the services.

The file that says so knows tokens by their sha256 alone. A token has 256 random bits, so that no
slow hash is needed to keep it from being guessed:

    [[token]]
    name = "ana"
    sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
    rights = ["classify", "describe"]
    expires = 2027-01-31T00:00:00Z    # or without

A name may have several, so that a new token can be handed out before the old one is withdrawn.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from seqserve_server.errors import InvalidSetting, PermissionDenied, Unauthenticated
from seqserve_server.security.watched import Watched

OPTION = "--access-file"

_PREFIX = "seqserve_"
"""Lets scanners of files and logs tell that it is a secret."""
_SCHEME = re.compile(r"[Bb]earer ")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PLACE = re.compile(r"\(at [a-z0-9 ,]+\)$")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,127}")
_KEYS = {"name", "sha256", "rights", "expires"}

Metadata = Iterable[tuple[str, str | bytes]]
"""As both transports give it: names in lower case."""


class Right(StrEnum):
    """What a token may be good for."""

    CLASSIFY = "classify"
    """SequenceClassifier."""
    DESCRIBE = "describe"
    """ModelCatalog and reflection."""
    OPERATE = "operate"
    """ModelRepository."""


@dataclass(frozen=True)
class Grant:
    """What the holder of one token may do."""

    name: str
    """Whose it is."""
    sha256: bytes
    """Of the token."""
    rights: frozenset[Right]
    """What it is good for."""
    expires: datetime | None = None
    """When it ends, with its time zone; None for never."""


class Access:
    """Checks calls against some grants. Of any thread.

    Args:
        grants: Those that hold.
    """

    def __init__(self, grants: Sequence[Grant]) -> None:
        self._grants = grants
        # By the whole header, of good tokens alone: so it cannot grow with what callers send, and
        # a lookup compares secrets only where their keyed 64-bit hashes are equal.
        self._known: dict[str | bytes, tuple[Grant, float]] = {}

    def check(self, metadata: Metadata, right: Right) -> Grant:
        """The grant that a call comes with.

        Args:
            metadata: Of the call.
            right: What the call needs.

        Raises:
            Unauthenticated: it has no token, or none that holds.
            PermissionDenied: its token is not good for this.
        """
        for key, value in metadata:
            if key == "authorization":
                grant, end = self._known.get(value) or self._find(value)
                break
        else:
            raise Unauthenticated("this call needs a token: authorization: Bearer TOKEN")
        if time.time() >= end:
            raise Unauthenticated(f"the token of {grant.name} ended at {grant.expires}")
        if right not in grant.rights:
            raise PermissionDenied(
                f"the token of {grant.name} is good for {', '.join(sorted(grant.rights))}; "
                f"this call needs {right}"
            )
        return grant

    def _find(self, header: str | bytes) -> tuple[Grant, float]:
        scheme = _SCHEME.match(header) if isinstance(header, str) else None
        if scheme is None or not isinstance(header, str):
            raise Unauthenticated("authorization has to be: Bearer TOKEN")
        digest = sha256(header[scheme.end() :])
        found = None
        for grant in self._grants:  # to the end, wherever it is found
            if hmac.compare_digest(grant.sha256, digest):
                found = grant
        if found is None:
            raise Unauthenticated("the token is not one that this server knows")
        end = float("inf") if found.expires is None else found.expires.timestamp()
        self._known[header] = found, end
        return found, end


def watched(path: Path) -> Watched[Access]:
    """The access that a file gives, and will give when it changes.

    Raises:
        InvalidSetting: it is no such file.
    """
    return Watched({OPTION: path}, lambda contents: Access(parse(contents[0], path)))


def parse(content: bytes, path: Path) -> list[Grant]:
    """The grants in an access file.

    Args:
        content: Its content.
        path: Its path, for messages.

    Raises:
        InvalidSetting: it is no such file; the message says where and never what was hashed.
    """
    try:
        table = tomllib.loads(content.decode())
    except UnicodeDecodeError:
        raise InvalidSetting(f"{OPTION} {path}: not TOML: no UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        place = _PLACE.search(str(error))  # the rest might show what stands there
        raise InvalidSetting(f"{OPTION} {path}: not TOML {place[0] if place else ''}") from None
    entries = table.pop("token", [])
    if table or not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
        raise InvalidSetting(f"{OPTION} {path}: holds [[token]] tables and nothing else")
    if not entries:  # rather a file that is just being written
        raise InvalidSetting(f"{OPTION} {path}: holds no token: seqserve token new makes one")
    grants = []
    for number, entry in enumerate(entries, 1):
        try:
            grants.append(_grant(entry))
        except ValueError as error:
            raise InvalidSetting(f"{OPTION} {path}: token {number}: {error}") from error
    if len({grant.sha256 for grant in grants}) < len(grants):
        raise InvalidSetting(f"{OPTION} {path}: two entries are of the same token")
    return grants


def entry(grant: Grant) -> str:
    """The lines of an access file that say so."""
    rights = ", ".join(f'"{right}"' for right in sorted(grant.rights))
    lines = [
        "[[token]]",
        f'name = "{checked_name(grant.name)}"',
        f'sha256 = "{grant.sha256.hex()}"',
        f"rights = [{rights}]",
    ]
    if grant.expires is not None:
        lines.append(f"expires = {grant.expires.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}")
    return "\n".join(lines)


def new_token() -> str:
    """A token that nobody can guess."""
    return _PREFIX + secrets.token_urlsafe(32)


def sha256(token: str) -> bytes:
    """What an access file knows a token by."""
    return hashlib.sha256(token.encode(errors="replace")).digest()


def checked_name(name: str) -> str:
    """A name that a token may have.

    Raises:
        ValueError: it is none.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(
            "name has to be 1 to 128 of A-Z a-z 0-9 . _ @ -, the first a letter or digit"
        )
    return name


def checked_rights(names: Iterable[str]) -> frozenset[Right]:
    """The rights of these names, at least one.

    Raises:
        ValueError: one of them is none.
    """
    rights = frozenset(names)
    if not rights or not rights <= set(Right):
        raise ValueError(f"rights have to be some of {', '.join(Right)}")
    return frozenset(map(Right, rights))


def _grant(entry: dict[str, Any]) -> Grant:
    # What is wrong is not shown, for it might be a token that somebody put in the wrong place.
    if not entry.keys() <= _KEYS:
        raise ValueError(f"has other keys than {', '.join(sorted(_KEYS))}")
    digest, rights = entry.get("sha256"), entry.get("rights")
    if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
        raise ValueError("sha256 has to be 64 lower-case hexadecimal digits, not the token")
    if not isinstance(rights, list):
        raise ValueError("rights has to be a list of names")
    return Grant(
        checked_name(str(entry.get("name", ""))),
        bytes.fromhex(digest),
        checked_rights(map(str, rights)),
        _expiry(entry.get("expires")),
    )


def _expiry(value: object) -> datetime | None:
    if value is None or (isinstance(value, datetime) and value.tzinfo):
        return value
    if isinstance(value, date) and not isinstance(value, datetime):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    raise ValueError("expires has to be a date, or a time with its zone: 2027-01-31T00:00:00Z")
