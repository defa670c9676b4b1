"""How much memory this process was granted: by cgroup, not by the host."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from seqserve_server import cores

_UNLIMITED_V1 = 1 << 60
"""Version 1 has no word for it, but a number near the largest."""


def host() -> int:
    """Bytes of this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def granted(cgroups: Path = cores.CGROUPS, own_cgroup: Path = cores.OWN_CGROUP) -> int:
    """Bytes that this process may have, its tightest cgroup's or else the machine's.

    Args:
        cgroups: Where the cgroup file systems are mounted.
        own_cgroup: The file that says which cgroups this process is in, as cgroups(7) has it.
    """
    return min(_limits(cgroups, own_cgroup))


def _limits(cgroups: Path, own_cgroup: Path) -> Iterator[int]:
    yield host()
    for controllers, path in cores.own_cgroups(own_cgroup):
        if not controllers:
            yield from _read(cgroups, path, "memory.max")
        elif "memory" in controllers:
            for limit in _read(cgroups / "memory", path, "memory.limit_in_bytes"):
                if limit < _UNLIMITED_V1:
                    yield limit


def _read(mount: Path, path: str, name: str) -> Iterator[int]:
    for folder in cores.with_parents(mount, path):
        try:
            yield int((folder / name).read_text())
        except (OSError, ValueError):  # there is none: "max"
            continue
