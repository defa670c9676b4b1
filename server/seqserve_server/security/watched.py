"""Files that may change while the server runs, and what was last made of them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from seqserve_server.errors import InvalidSetting

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class Watched(Generic[_T]):
    """What is made of some files; where they turn bad, what was made of them before.

    Their contents are compared, not their times: a renewal by rename, by a switched link or in
    place is seen alike, and the files are small.

    Args:
        paths: The files, by the option that names each.
        make: Makes something of their contents, or raises InvalidSetting.

    Raises:
        InvalidSetting: they cannot be read now, or nothing can be made of them.
    """

    def __init__(self, paths: Mapping[str, Path], make: Callable[[Sequence[bytes]], _T]) -> None:
        self._paths = paths
        self._make = make
        self._lock = threading.Lock()
        self._seen = self._read()
        self.current = self._made(self._seen)
        """What was last made of them."""

    def look(self) -> bool:
        """Whether they have changed for something else that is good: it is `current` then.

        Something that is bad is logged, once for each change.
        """
        with self._lock:
            seen = self._read()
            if seen == self._seen:
                return False
            self._seen = seen
            try:
                self.current = self._made(seen)
            except InvalidSetting as error:
                _log.error("%s; what was there before stays in force", error)
                return False
            except Exception:  # a file must not end what looks at it
                _log.exception("%s: cannot be taken; what was there before stays", self)
                return False
            _log.info("%s: taken anew", self)
            return True

    def __str__(self) -> str:
        """For messages: `--tls-certificate a.pem, --tls-key b.pem`."""
        return ", ".join(f"{option} {path}" for option, path in self._paths.items())

    def _read(self) -> list[bytes] | str:
        """The contents, or why there are none."""
        contents = []
        for option, path in self._paths.items():
            try:
                contents.append(path.read_bytes())
            except OSError as error:
                return f"{option} {path}: {error.strerror}"
        return contents

    def _made(self, seen: list[bytes] | str) -> _T:
        if isinstance(seen, str):
            raise InvalidSetting(seen)
        return self._make(seen)
