"""A line a call, at debug alone; and the id by which its caller finds it in the log."""

from __future__ import annotations

import logging
import secrets
from functools import partial

from seqserve_server.security.access import Metadata

_log = logging.getLogger(__name__)

KEY = "x-request-id"
"""Where callers name their calls, in the metadata."""
MAX_ID = 128

wanted = partial(_log.isEnabledFor, logging.DEBUG)
"""Whether anybody would see the line: to be asked first, for every call passes here."""


def request_id(metadata: Metadata) -> str:
    """The caller's own, where it is 1 to 128 printable ASCII characters; else a new one."""
    for key, value in metadata:
        if key == KEY and isinstance(value, str) and _is_fit(value):
            return value
    return secrets.token_hex(8)


def write(method: str, model: str, code: str, reason: str, seconds: float, request_id: str) -> None:
    """Logs how a call ended.

    Args:
        method: Its name, with or without the service's before it.
        model: The model's name as the caller gave it; empty where there is none.
        code: The status' name.
        reason: The error's name; empty where it was answered.
        seconds: From its start to its end.
        request_id: See `request_id`.
    """
    told = {
        "method": method.rpartition("/")[2],
        "model": model,
        "code": code,
        "reason": reason,
        "ms": round(1e3 * seconds, 3),
        "request_id": request_id,
    }
    _log.debug("call", extra={name: value for name, value in told.items() if value != ""})


def _is_fit(text: str) -> bool:
    return 0 < len(text) <= MAX_ID and text.isascii() and text.isprintable()
